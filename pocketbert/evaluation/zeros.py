"""Work that is done for nothing: zeros that are multiplied, heads and neurons that add nothing.

Setting weights to 0 makes no model faster; cutting them out does. A report says where the cutting is still to be done.
"""

import torch

from pocketbert.models.encoder import Attention, FeedForward
from pocketbert.models.lora import LoraLinear
from pocketbert.models.stored import StoredMatrix


def matrix(module):
    """The dense weights (out, in) of a linear layer, whatever format they are stored in."""
    if isinstance(module, LoraLinear):
        return matrix(module.base) + module.delta()
    return module.dequantize() if isinstance(module, StoredMatrix) else module.weight


@torch.inference_mode()
def zero_weights(model):
    """Share of the weights of all linear layers that are 0; an exported graph has none that we could count."""
    zeros = 0
    total = 0
    for module in linear_layers(model):
        weight = matrix(module)
        zeros += int((weight == 0).sum())
        total += weight.numel()
    return zeros / max(1, total)


def linear_layers(model):
    if not isinstance(model, torch.nn.Module):
        return []
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)
            or isinstance(module, StoredMatrix) and not module.is_embedding]


@torch.inference_mode()
def idle_units(model):
    """(heads, neurons) of an encoder that are computed and multiplied by zeros: masks that were not cut out.

    A head is idle if its columns of the output matrix are 0, or its rows of the value matrix and their biases; a neuron
    if its column of `down` is 0, or its row of `up` and its bias.
    """
    heads = 0
    neurons = 0
    for module in model.modules() if isinstance(model, torch.nn.Module) else []:
        if isinstance(module, Attention):
            size = module.head_size
            out = columns_are_zero(module.output).view(-1, size).all(dim=1)
            value = rows_are_zero(module.value).view(-1, size).all(dim=1)
            heads += int((out | value).sum())
        elif isinstance(module, FeedForward):
            # An activation of 0 is 0 for all of ACTIVATIONS, so a neuron without input adds nothing.
            neurons += int((columns_are_zero(module.down) | rows_are_zero(module.up)).sum())
    return heads, neurons


def columns_are_zero(layer):
    return (matrix(layer) == 0).all(dim=0)


def rows_are_zero(layer):
    zero = (matrix(layer) == 0).all(dim=1)
    bias = layer.base.bias if isinstance(layer, LoraLinear) else layer.bias
    return zero if bias is None else zero & (bias == 0)
