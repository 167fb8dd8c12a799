"""What heads and neurons cost: multiplications, milliseconds or bytes."""

import tempfile
from dataclasses import dataclass

import numpy as np
import torch

from pocketbert.hardware import time_interleaved
from pocketbert.models.encoder import Attention, FeedForward
from pocketbert.models.folder import save_model
from pocketbert.models.size import file_bytes


@dataclass
class Cost:
    """The cost of an encoder as a function of the number of heads and neurons in each layer.

        total = fixed + sum over layers i of  head_curve[i](heads_i) + neuron_curve[i](neurons_i)

    A curve is a pair of vectors (counts, costs) and is read by linear interpolation. A table of measured milliseconds
    and a count of multiplications thus have the same form.
    """

    head_curves: list
    neuron_curves: list
    fixed: float
    unit: str  # "MACs", "ms", "bytes"

    def total(self, heads, neurons):
        """heads, neurons: how many each layer has"""
        curves = self.head_curves + self.neuron_curves
        return self.fixed + sum(float(np.interp(number, *curve))
                                for number, curve in zip([*heads, *neurons], curves, strict=True))

    def slopes(self):
        """The mean cost of one unit: for the heads of each layer, then for the neurons of each layer."""
        return [max(1e-12, (costs[-1] - costs[0]) / max(1, counts[-1] - counts[0]))
                for counts, costs in self.head_curves + self.neuron_curves]


@dataclass
class Budget:
    """How much a model may cost: `asked` at the end, `full` as it is now, both in the cost's unit."""

    cost: Cost
    asked: float
    full: float


def budget_of(kind, amount, model, tokenizer, batch_size, length):
    """The Budget of a flag.

    kind: "flops" or "latency", of which the share `amount` stays, or "size_mb", which are `amount` * 10^6 bytes
    batch_size, length: of the texts in use, in tokens
    """
    if kind == "flops":
        cost = mac_cost(model.config, length)
    elif kind == "latency":
        cost = latency_cost(model, batch_size, round(length))
    else:
        with tempfile.TemporaryDirectory() as folder:  # the file that the model would have, header included
            save_model(model, tokenizer, f"{folder}/model", run={})
            cost = byte_cost(model.config, file_bytes(f"{folder}/model")["model"])
    full = cost.total(model.config.num_heads, model.config.intermediate_sizes)
    return Budget(cost, amount * 1e6 if kind == "size_mb" else amount * full, full)


def linear_curves(numbers, costs):
    """Curves of layers whose units all cost the same: numbers of units and cost of one unit, for each layer."""
    return [(np.array([0, n]), np.array([0, n]) * cost) for n, cost in zip(numbers, costs, strict=True)]


def mac_cost(config, length):
    """Multiply-accumulates of the encoder for one text of T tokens, head size s, hidden size d.

        head:    2 T d s for key and value,  2 Q d s for query and output,  2 Q T s for scores and weighted sum
        neuron:  Q d into it,  Q d out of it

    Q = config.num_queries: how many tokens the layer computes an output for. Embeddings and classification head are
    not counted.    length: T; the mean length of some texts need not be a whole number
    """
    T, d, s = length, config.hidden_size, config.head_size
    per_head, per_neuron = [], []
    for i in range(len(config.num_heads)):
        Q = config.num_queries(i, T)
        per_head.append(2 * T * d * s + 2 * Q * d * s + 2 * Q * T * s)
        per_neuron.append(2 * Q * d)
    return Cost(linear_curves(config.num_heads, per_head), linear_curves(config.intermediate_sizes, per_neuron),
                fixed=0.0, unit="MACs")


def byte_cost(config, file_bytes):
    """Bytes of model.safetensors: 4 for each number of a head (4 d s weights, 3 s biases) or neuron (2 d + 1)."""
    d, s = config.hidden_size, config.head_size
    depth = len(config.num_heads)
    heads = linear_curves(config.num_heads, [4 * (4 * d * s + 3 * s)] * depth)
    neurons = linear_curves(config.intermediate_sizes, [4 * (2 * d + 1)] * depth)
    units = sum(float(costs[-1]) for _, costs in heads + neurons)
    return Cost(heads, neurons, fixed=file_bytes - units, unit="bytes")


@torch.inference_mode()
def latency_cost(model, batch_size, length, repeats=15, clock=time_interleaved):
    """Milliseconds on this machine, from a table: each kind of block is timed with 1/8, 2/8 ... 8/8 of its units.

    Blocks of all sizes are timed in turn, so that a slow moment of the machine hits all of them alike. The rest of
    the model (embeddings, LayerNorms, head) is the measured time of the whole model minus its blocks, and fixed.
    clock(calls, repeats): as hardware.time_interleaved
    """
    config, depth = model.config, len(model.layers)
    num_queries = [config.num_queries(i, length) for i in range(depth)]
    x = torch.randn(batch_size, length, config.hidden_size, device=model.device)
    ids = torch.ones(batch_size, length, dtype=torch.int64, device=model.device)
    most = {"heads": max(config.num_heads), "neurons": max(config.intermediate_sizes)}
    counts = {kind: sorted({max(1, round(n * i / 8)) for i in range(1, 9)}) for kind, n in most.items()}
    calls = {"whole": lambda: model(ids)}
    for Q in sorted(set(num_queries), reverse=True):
        for kind in counts:
            for n in counts[kind]:
                calls[kind, Q, n] = block_call(kind, n, config, x, Q)
    times = {name: float(np.median(values)) for name, values in clock(calls, repeats).items()}

    def curve(kind, Q):  # more units never take less time: what else is measured is noise
        return np.array(counts[kind]), np.maximum.accumulate([times[kind, Q, n] for n in counts[kind]])

    cost = Cost([curve("heads", Q) for Q in num_queries], [curve("neurons", Q) for Q in num_queries],
                fixed=0.0, unit="ms")
    cost.fixed = times["whole"] - cost.total(config.num_heads, config.intermediate_sizes)
    return cost


def block_call(kind, count, config, x, num_queries):
    """A function without arguments that runs a random attention or FFN block with `count` units, to be timed.

    x: (B, T, hidden)    num_queries: how many of the T tokens the block computes an output for
    """
    queries = x[:, :num_queries]
    if kind == "heads":
        attention = Attention(config.hidden_size, count, config.head_size, dropout=0.0).to(x.device).eval()
        return lambda: attention(x, queries)
    ffn = FeedForward(config.hidden_size, count, config.hidden_act).to(x.device).eval()
    return lambda: ffn(queries)
