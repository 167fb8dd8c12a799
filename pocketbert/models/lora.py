"""LoRA: train two thin matrices beside each frozen one (Hu et al. 2021, arXiv:2106.09685).

    y = W x + b + (alpha / r) B A dropout(x),      A (r, in) random, B (out, r) zero at the start

r is the rank. W (out, in) does not change, so it has no gradient and no optimizer state, and r (in + out) numbers are
trained in the place of in * out. The classification head is small and new to the task: it is trained whole. After the
training, W + (alpha / r) B A is one matrix again, and the model costs what it cost before.

    add_lora(model, "query,value", rank=8, alpha=16, dropout=0.05)
    ...                                                                 # any training loop
    merge_lora(model)

QLoRA (Dettmers et al. 2023, arXiv:2305.14314) stores each W in four bits while A and B are trained: `store_base` first.
adapter.py reads and writes A, B and the head as a folder.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.encoder import Encoder
from pocketbert.models.recipes import RECIPES
from pocketbert.models.stored import StoredMatrix, format_class, replace_module, to_float

TARGETS = {"query": "attention.query", "key": "attention.key", "value": "attention.value",
           "output": "attention.output", "up": "ffn.up", "down": "ffn.down"}  # the names are cli.LORA_TARGETS


class LoraLinear(nn.Module):
    """base(x) + (alpha / r) B A dropout(x)

    base: the frozen nn.Linear, or a StoredMatrix that takes its place    rank r: at least 1
    alpha: a larger one lets B A count more; the ratio alpha / r is what matters
    """

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha = alpha
        self.lora_dropout = dropout  # not `dropout`: --dropout replaces those of the model
        self.out_features, self.in_features = base.weight.shape if isinstance(base, nn.Linear) else base.shape
        device = next(iter(base.state_dict().values())).device
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear does

    @property
    def scaling(self):
        return self.alpha / len(self.lora_A)

    def forward(self, x):
        low = F.linear(F.dropout(x, self.lora_dropout, self.training), self.lora_A)  # (..., r)
        return self.base(x) + F.linear(low, self.lora_B) * self.scaling

    def delta(self):
        """(out, in): what the adapter adds to W."""
        return self.lora_B @ self.lora_A * self.scaling


def check_adaptable(model, name):
    """Raise a UserError unless adapters can be trained beside this model's matrices. name: of its folder or recipe"""
    if name.split(":")[0] in RECIPES:
        raise UserError(f"--lora-rank trains beside weights that stay as they are, and those of {name} are new and "
                        "random: name a pretrained model, or drop --lora-rank")
    if not isinstance(model, Encoder):
        raise UserError(f"--lora-rank is for encoders; {name} is a {model.config.kind}: drop --lora-rank")


def add_lora(model, targets, rank, alpha, dropout, first_layer=0):
    """Put a LoraLinear in the place of the target matrices of an encoder, in place; freeze all but these and the head.

    targets: names of TARGETS, "query,value", or "all"    first_layer: the layers before it get none (--freeze)
    """
    names = TARGETS if targets == "all" else targets.split(",")
    model.requires_grad_(False)
    for i, layer in enumerate(model.layers[first_layer:], start=first_layer):
        for target in names:
            base = layer.get_submodule(TARGETS[target])
            replace_module(model, f"layers.{i}.{TARGETS[target]}", LoraLinear(base, rank, alpha, dropout))
    model.head.requires_grad_(True)


def store_base(model):
    """QLoRA's base: all matrices of the layers in NF4, in place. The same weights give the same codes each time.

    Embeddings and the head stay as they are.
    """
    for name, module in list(model.layers.named_modules()):
        if isinstance(module, nn.Linear):
            stored = format_class("nf4").from_float(module)
            replace_module(model.layers, name, stored)
            model.config.stored_formats[f"layers.{name}"] = stored.format


def decode_base(model):
    """The inverse of store_base, in place: float matrices, with the numbers that NF4 stands for."""
    for name, module in list(model.named_modules()):
        if isinstance(module, StoredMatrix):
            replace_module(model, name, to_float(module))
    model.config.stored_formats = {}


@torch.no_grad()
def merge_lora(model):
    """Add each adapter to its matrix, in place; nothing is frozen afterwards.

    Beside a stored matrix it stays as it is, because W + B A is not in NF4; decode_base makes such a matrix float.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear) and isinstance(module.base, nn.Linear):
            module.base.weight += module.delta()
            replace_module(model, name, module.base)
    model.requires_grad_(True)


def is_adapted(model):
    """Does the model hold adapters that are not merged?"""
    return any(isinstance(module, LoraLinear) for module in model.modules())


def count_trained(model):
    """How many numbers a training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
