"""Small models that every test can afford."""

import json

import torch

from pocketbert.models.config import EncoderConfig
from pocketbert.models.encoder import Encoder, init_weights
from pocketbert.models.recipes import build_recurrent
from pocketbert.quantization.gptq import input_hessians
from pocketbert.quantization.int8 import pick_engine
from pocketbert.quantization.plan import parse_plan, store_all, with_stored

FAMILIES = ["bert", "roberta", "distilbert"]
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


def quantized(model, plan="embeddings=int8,encoder=int8", batches=(), group_size=8, clusters=16, engine=None):
    """The model with its matrices in the formats of a plan, as quantize.py makes it."""
    formats = parse_plan(plan, model)
    hessians = input_hessians(model, batches, [name for name, value in formats.items() if value == "gptq"])
    return with_stored(model, store_all(model, formats, group_size, clusters, engine or pick_engine(), hessians))


def edit_config(folder, **changes):
    """Change keys of a saved folder's config.json, as a user does by hand: its hashes are removed from run.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    run = json.loads((folder / "run.json").read_text())
    run.pop("files", None)
    (folder / "run.json").write_text(json.dumps(run))


# ---- models without attention ----------------------------------------------------------------------------

RECURRENT = {"lstm": "lstm:layers=2,embedding=6,hidden=8", "gru": "gru:layers=2,embedding=6,hidden=8",
             "xlstm": "xlstm:layers=2,embedding=6,hidden=8,heads=2", "rwkv": "rwkv:layers=2,embedding=6,hidden=8",
             "cnn": "cnn:layers=2,embedding=6,hidden=8,width=5",
             "bag": "bag:ngrams=3,buckets=50,embedding=6,hidden=8,layers=2"}


def random_recurrent(recipe, vocab_size=60, seed=0):
    """All numbers far from their starting points, whose zeros and ones would hide mistakes."""
    torch.manual_seed(seed)
    model = build_recurrent(recipe, vocab_size, 0, LABELS)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


# ---- two forms of one formula ----------------------------------------------------------------------------

def doubles(*shape, scale=1.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def assert_same_values_and_gradients(one, other, inputs):
    a, b = one(*inputs), other(*inputs)
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    weights = torch.randn_like(a)  # a plain sum could hide errors that cancel
    for g, h in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (a, b)), strict=True):
        torch.testing.assert_close(g, h, atol=1e-8, rtol=1e-7)
        assert g.abs().max() > 0


def assert_finite(function, inputs):
    inputs = [x.detach().float().requires_grad_() for x in inputs]
    y = function(*inputs)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), inputs))
