"""What heads and neurons cost: multiplications, milliseconds or bytes."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pocketbert.hardware import time_interleaved


@dataclass
class Cost:
    """What an encoder costs as a function of how many heads and neurons each layer has.

        total = fixed + sum over layers i of  head_curve[i](heads_i) + neuron_curve[i](neurons_i)

    A curve is a pair of vectors (counts, costs), read by linear interpolation, so that a table of measured
    milliseconds and a count of multiplications are the same kind of thing.
    """

    head_curves: list
    neuron_curves: list
    fixed: float
    unit: str  # "MACs", "ms", "bytes"

    def total(self, heads, neurons):
        return self.fixed + sum(float(np.interp(n, *curve)) for n, curve
                                in zip([*heads, *neurons], self.head_curves + self.neuron_curves, strict=True))

    def slopes(self):
        """The mean cost of one unit, for each layer's heads and then each layer's neurons."""
        return [max(1e-12, (costs[-1] - costs[0]) / max(1, counts[-1] - counts[0]))
                for counts, costs in self.head_curves + self.neuron_curves]


def mac_cost(config, length):
    """Multiply-accumulates of the encoder for one text of `length` tokens (T), head size s, hidden size d.

        head:   T d s for each of query, key, value and output,  T^2 s for the scores,  T^2 s for the mixing
        neuron: T d into it,  T d out of it

    The last layer answers for the first token only (see Encoder.forward), so there a head costs
    2 T d s + 2 d s + 2 T s, and a neuron just 2 d. Embeddings and classification head are not counted.
    """
    T, d, s = length, config.hidden_size, config.head_size
    last = len(config.num_heads) - 1
    heads = [np.array([0, n]) for n in config.num_heads]
    neurons = [np.array([0, n]) for n in config.intermediate_sizes]
    per_head = [2 * T * d * s + 2 * d * s + 2 * T * s if i == last else 4 * T * d * s + 2 * T * T * s
                for i in range(last + 1)]
    per_neuron = [2 * d if i == last else 2 * T * d for i in range(last + 1)]
    return Cost([(n, n * c) for n, c in zip(heads, per_head, strict=True)],
                [(n, n * c) for n, c in zip(neurons, per_neuron, strict=True)], 0.0, "MACs")


def byte_cost(config, file_bytes):
    """Bytes of model.safetensors: 4 for each number of a head (4 d s weights, 3 s biases) or neuron (2 d + 1)."""
    d, s = config.hidden_size, config.head_size
    heads = [(np.array([0, n]), np.array([0, n]) * 4 * (4 * d * s + 3 * s)) for n in config.num_heads]
    neurons = [(np.array([0, n]), np.array([0, n]) * 4 * (2 * d + 1)) for n in config.intermediate_sizes]
    units = sum(float(costs[-1]) for _, costs in heads + neurons)
    return Cost(heads, neurons, file_bytes - units, "bytes")


@torch.inference_mode()
def latency_cost(model, batch_size, length, repeats=15):
    """Milliseconds on this machine, from a table: each block is timed with 1/8, 2/8 ... 8/8 of its units.

    Blocks of all sizes take turns, so that the curve does not bend with the machine's mood. What is not in the
    blocks (embeddings, LayerNorms, head) is the measured rest of the whole model, and fixed.
    """
    config = model.config
    x = torch.randn(batch_size, length, config.hidden_size, device=model.device)
    ids = torch.ones(batch_size, length, dtype=torch.int64, device=model.device)
    calls, curves = {"whole": lambda: model(ids)}, {}
    for last in (False, True):  # the last layer works for the first token only
        queries = x[:, :1] if last else x
        layer = model.layers[-1 if last else 0]
        for kind, most in (("heads", max(config.num_heads)), ("neurons", max(config.intermediate_sizes))):
            counts = sorted({max(1, round(most * i / 8)) for i in range(1, 9)})
            curves[kind, last] = counts
            for n in counts:
                block = random_block(kind, n, layer, model.device)
                calls[kind, last, n] = ((lambda block=block, queries=queries: block(x, queries)) if kind == "heads" else
                                        (lambda block=block, queries=queries: block(queries)))
    times = {name: float(np.median(values)) for name, values in time_interleaved(calls, repeats).items()}

    def curve(kind, last):
        counts = curves[kind, last]
        return np.array(counts), np.maximum.accumulate([times[kind, last, n] for n in counts])

    depth = len(model.layers)
    cost = Cost(*([curve(kind, i == depth - 1) for i in range(depth)] for kind in ("heads", "neurons")),
                fixed=0.0, unit="ms")
    cost.fixed = times["whole"] - cost.total(config.num_heads, config.intermediate_sizes)
    return cost


def random_block(kind, count, layer, device):
    """An attention or FFN block of the layer's kind with `count` units, to be timed."""
    hidden = layer.attention.query.in_features
    if kind == "heads":
        block = type(layer.attention)(hidden, count, layer.attention.head_size, 0.0)
    else:
        block = copy.copy(layer.ffn)
        block._modules = {"up": nn.Linear(hidden, count), "down": nn.Linear(count, hidden)}
    return block.to(device).eval()
