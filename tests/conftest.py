"""Small models and tokenizers that every test can afford. Nothing here reaches for the network."""

import argparse
import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants the Hub protocol talks to tests/hub_server.py

import layers
import quantize
from encoder import Encoder, EncoderConfig, init_weights
from text_utils import train_wordpiece

LABELS = ["negative", "neutral", "positive"]
TEXTS = ["the train is late again", "what a lovely day for a long walk", "anyone know when the shop opens?",
         "not a good phone :(", "I love this film so much", "the bus leaves at nine"]


def small_config(family="bert", layers=3, heads=4, neurons=24, **changes):
    """A model of a few thousand numbers, with heads of size 8."""
    return EncoderConfig(**{
        "family": family, "vocab_size": 60, "hidden_size": 8 * heads, "head_size": 8,
        "heads_per_layer": [heads] * layers, "neurons_per_layer": [neurons] * layers,
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
    """The model with its matrices in the forms of a plan, as quantize.py makes it."""
    engine = layers.pick_engine()
    layers.use_engine(engine)
    args = argparse.Namespace(**{"group_size": 8, "clusters": 16, "init": "linear"} | options)
    return quantize.assemble(model, quantize.store_all(model, quantize.parse_plan(plan, model), args, texts), engine)


@pytest.fixture(scope="session")
def tokenizer():
    return train_wordpiece(TEXTS, vocab_size=60)


@pytest.fixture(scope="session")
def padded_batch():
    """(input_ids, attention_mask): four texts of 9, 7, 4 and 2 tokens, padded to 9. No token is a pad token."""
    torch.manual_seed(1)
    lengths = torch.tensor([9, 7, 4, 2])
    attention_mask = (torch.arange(9)[None] < lengths[:, None]).long()
    return torch.randint(5, 60, (4, 9)) * attention_mask, attention_mask
