"""Small models that every test can afford."""

import argparse

import torch

from pocketbert.models.config import EncoderConfig
from pocketbert.models.encoder import Encoder, init_weights
from pocketbert.quantization.int8 import pick_engine, use_engine
from pocketbert.quantization.plan import parse_plan, store_all, with_stored

LABELS = ["negative", "neutral", "positive"]
TEXTS = ["the train is late again", "what a lovely day for a long walk", "anyone know when the shop opens?",
         "not a good phone :(", "I love this film so much", "the bus leaves at nine"]


def small_config(family="bert", layers=3, heads=4, neurons=24, **changes):
    """A model of a few thousand numbers, with heads of size 8."""
    return EncoderConfig(**{
        "family": family, "vocab_size": 60, "hidden_size": 8 * heads, "head_size": 8,
        "num_heads": [heads] * layers, "intermediate_sizes": [neurons] * layers,
        "max_position_embeddings": 40, "type_vocab_size": {"bert": 2, "roberta": 1, "distilbert": 0}[family],
        "pad_token_id": 1 if family == "roberta" else 0, "label_names": LABELS} | changes)


def random_model(seed=0, std=0.3, **options):
    """Random weights far from zero, so that a wrong mask or a lost tensor shows in the logits."""
    torch.manual_seed(seed)
    model = init_weights(Encoder(small_config(**options)), std=std)
    for tensor in model.parameters():  # biases and norms too: their initial 0 and 1 would hide mistakes
        if tensor.dim() == 1:
            tensor.data += 0.3 * torch.randn_like(tensor)
    return model.eval()


def quantized(model, plan="embeddings=int8,encoder=int8", texts=(), **options):
    """The model with its matrices in the formats of a plan, as quantize.py makes it."""
    engine = pick_engine()
    use_engine(engine)
    args = argparse.Namespace(**{"group_size": 8, "clusters": 16, "init": "linear"} | options)
    return with_stored(model, store_all(model, parse_plan(plan, model), args, texts), engine)
