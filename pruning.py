"""The arithmetic of structured pruning: which heads and FFN neurons to keep, and how to live without the others.

Put a gate xi = 1 in front of every head and every neuron (the encoder's `head_mask` and `ffn_mask`). Then

1. importance   one number a unit, mostly from the gradients of the loss with respect to the gates;
2. cost         what a unit costs: multiplications, milliseconds or bytes;
3. choice       the units with the most importance for their cost, as many as the budget holds;
4. rearrange    swap some within each layer, because of two units that do the same only one may go;
5. cut          make the tensors smaller; no logit changes;
6. refit        solve for the output matrices with which what stays comes closest to what was.

A few thousand texts and no training: Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers",
arXiv:2204.09656. Lists hold one vector a layer, because layers differ. Pure functions, no flags.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from encoder import with_layers
from measure_utils import time_interleaved

# ---------------------------------------------------------------------------------------------------------
# 1. How important is each head, each neuron?
# ---------------------------------------------------------------------------------------------------------

def mask_gradients(model, texts, own_predictions=False):
    """dL(x)/dmask of every text x on its own: ([(N, heads) a layer], [(N, neurons) a layer]).

    Each text gets its own copy of the masks, so one backward pass gives the gradients text by text; summed over
    a batch they would cancel. own_predictions: take the model's own answers for labels, so that none are needed.
    """
    heads, neurons = [], []
    model.eval()  # the gradients of the model that will be used: no dropout
    for batch in texts:
        B = len(batch.input_ids)
        head_mask = [torch.ones(B, layer.attention.num_heads, device=model.device, requires_grad=True)
                     for layer in model.layers]
        ffn_mask = [torch.ones(B, layer.ffn.up.out_features, device=model.device, requires_grad=True)
                    for layer in model.layers]
        logits = model(batch.input_ids, batch.attention_mask, head_mask, ffn_mask)
        labels = logits.argmax(-1) if own_predictions else batch.labels
        # The sum, not the mean, so that every text's gradient is its own and not 1/B of it.
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, head_mask + ffn_mask)
        heads.append(gradients[:len(model.layers)])
        neurons.append(gradients[len(model.layers):])
    return ([torch.cat(layer).cpu() for layer in zip(*heads, strict=True)],
            [torch.cat(layer).cpu() for layer in zip(*neurons, strict=True)])


def gradient_importance(model, gradients):
    """E_x |dL(x)/dmask| (Michel et al. 2019, arXiv:1905.10650, section 4.1).

    The absolute value comes before the mean: a head that helps one text and harms the next is not unimportant.
    The paper then scales each layer to norm 1. Left out: a norm over 12 heads and one over 1,536 neurons make numbers
    that no budget can compare; as they are, all are in nats.
    """
    return [[g.abs().mean(dim=0) for g in part] for part in gradients]


def fisher_importance(model, gradients):
    """E_x (dL(x)/dmask)^2, the diagonal of the Fisher information (Kwon et al. 2022, section 4.1).

    Near a minimum the loss rises by about 1/2 (1 - mask)^T F (1 - mask), so heads and neurons of all layers are
    measured in the same unit: nats.
    """
    return [[g.square().mean(dim=0) for g in part] for part in gradients]


def taylor_importance(model, gradients):
    """|E_x dL(x)/dmask|: how much the mean loss would change, to first order (Molchanov et al. 2017, arXiv:1611.06440).

    At a minimum it is small for all units, and mostly noise: compare it with the two above.
    """
    return [[g.mean(dim=0).abs() for g in part] for part in gradients]


def magnitude_importance(model, gradients):
    """The norm of the weights that a cut would remove: cheap, and blind to what the texts need."""
    heads, neurons = [], []
    for layer in model.layers:
        a, size = layer.attention, layer.attention.head_size
        rows = sum(part.weight.detach().unflatten(0, (-1, size)).square().sum(dim=(1, 2))
                   for part in (a.query, a.key, a.value))
        columns = a.output.weight.detach().unflatten(1, (-1, size)).square().sum(dim=(0, 2))
        heads.append((rows + columns).sqrt().cpu())
        up, down = layer.ffn.up.weight.detach(), layer.ffn.down.weight.detach()
        neurons.append((up.square().sum(dim=1) + down.square().sum(dim=0)).sqrt().cpu())
    return heads, neurons


def random_importance(model, gradients):
    """Dice: the control. A method that does not beat this one has learnt nothing about the model."""
    return ([torch.rand(layer.attention.num_heads) for layer in model.layers],
            [torch.rand(layer.ffn.up.out_features) for layer in model.layers])


IMPORTANCE = {"fisher": fisher_importance, "gradient": gradient_importance, "taylor": taylor_importance,
              "magnitude": magnitude_importance, "random": random_importance}


# ---------------------------------------------------------------------------------------------------------
# 2. What does it cost?
# ---------------------------------------------------------------------------------------------------------

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
    last = len(config.heads_per_layer) - 1
    heads = [np.array([0, n]) for n in config.heads_per_layer]
    neurons = [np.array([0, n]) for n in config.neurons_per_layer]
    per_head = [2 * T * d * s + 2 * d * s + 2 * T * s if i == last else 4 * T * d * s + 2 * T * T * s
                for i in range(last + 1)]
    per_neuron = [2 * d if i == last else 2 * T * d for i in range(last + 1)]
    return Cost([(n, n * c) for n, c in zip(heads, per_head, strict=True)],
                [(n, n * c) for n, c in zip(neurons, per_neuron, strict=True)], 0.0, "MACs")


def byte_cost(config, file_bytes):
    """Bytes of model.safetensors: 4 for each number of a head (4 d s weights, 3 s biases) or neuron (2 d + 1)."""
    d, s = config.hidden_size, config.head_size
    heads = [(np.array([0, n]), np.array([0, n]) * 4 * (4 * d * s + 3 * s)) for n in config.heads_per_layer]
    neurons = [(np.array([0, n]), np.array([0, n]) * 4 * (2 * d + 1)) for n in config.neurons_per_layer]
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
        for kind, most in (("heads", max(config.heads_per_layer)), ("neurons", max(config.neurons_per_layer))):
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
    cost.fixed = times["whole"] - cost.total(config.heads_per_layer, config.neurons_per_layer)
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


# ---------------------------------------------------------------------------------------------------------
# 3. Which ones stay?  importance, cost, budget -> masks
# ---------------------------------------------------------------------------------------------------------

def keep_most_important(importance, keep):
    """Masks that keep the `keep` most important units of all layers together, at least one in each layer.

    importance: a vector a layer, of any lengths.    Returns as many vectors of 1 (stays) and 0 (goes).
    Layers come out uneven: where all units matter, all stay.
    """
    if keep < len(importance):
        raise ValueError(f"cannot keep {keep} of {sum(map(len, importance))} units in {len(importance)} layers: "
                         "each layer needs at least one")
    scores = [vector.detach().cpu().float().clone() for vector in importance]
    for vector in scores:
        vector[vector.argmax()] = math.inf  # the best of each layer stays, whatever the others have
    best = torch.cat(scores).topk(keep).indices
    mask = torch.zeros(sum(map(len, scores)))
    mask[best] = 1
    return list(mask.split([len(vector) for vector in scores]))


def keep_evenly(importance, share):
    """Masks that keep the same share of every layer: per-layer even, for comparison."""
    return [keep_most_important([vector], max(1, round(share * len(vector))))[0] for vector in importance]


def keep_within(importance, cost, budget, round_to=1):
    """(head masks, neuron masks) with the most importance that costs no more than `budget`.

    The knapsack problem, with items so small that the greedy answer is as good as exact: take units in the order
    of importance per cost until the budget is full. (Kwon et al. try every number of heads instead; here units of
    different layers may cost differently.) The number of neurons of each layer is rounded to a multiple of
    `round_to`, because the processor's vectors are that wide.
    """
    head_importance, neuron_importance = importance
    vectors = [v.detach().cpu().double() / slope for v, slope
               in zip([*head_importance, *neuron_importance], cost.slopes(), strict=True)]
    depth = len(head_importance)
    for vector in vectors:
        vector[vector.argmax()] = math.inf  # every layer keeps at least one head and one neuron
    order = torch.cat(vectors).argsort(descending=True, stable=True)
    group = torch.cat([torch.full((len(v),), i) for i, v in enumerate(vectors)])[order]

    def counts(taken):
        """How many units each layer has when the first `taken` of the order are taken."""
        n = torch.bincount(group[:taken], minlength=2 * depth).tolist()
        neurons = [min(len(v), max(round_to, round_to * round(k / round_to)))
                   for k, v in zip(n[depth:], vectors[depth:], strict=True)]
        return n[:depth], neurons

    low, high = 2 * depth, len(order)  # the largest prefix that fits, by bisection
    least, full = cost.total(*counts(low)), cost.total(*counts(high))
    if least > budget:
        raise ValueError(f"a budget of {budget:,.4g} {cost.unit} ({budget / full:.1%}) is impossible: one head and "
                         f"{round_to} neuron{'s' * (round_to > 1)} a layer already cost {least:,.4g} {cost.unit}, "
                         f"{least / full:.1%} of what the model costs; ask for more, or drop --layers too")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost.total(*counts(middle)) <= budget else (low, middle - 1)
    heads, neurons = counts(low)
    return ([keep_most_important([v], n)[0] for v, n in zip(head_importance, heads, strict=True)],
            [keep_most_important([v], n)[0] for v, n in zip(neuron_importance, neurons, strict=True)])


def least_harmful_layers(model, texts, keep):
    """The numbers of the `keep` layers to keep: drop one at a time, always the one whose loss rises least.

    Measured, not guessed: each candidate model answers the texts once, 1/2 L^2 forward passes in all.
    """
    @torch.inference_mode()
    def loss(kept):
        smaller = with_layers(model, kept)
        return sum(F.cross_entropy(smaller(b.input_ids, b.attention_mask), b.labels, reduction="sum").item()
                   for b in texts)

    kept = list(range(len(model.layers)))
    while len(kept) > keep:
        kept = min(([i for i in kept if i != gone] for gone in kept), key=loss)
    return kept


# ---------------------------------------------------------------------------------------------------------
# 4. Rearrange: two units that do the same must not both go
# ---------------------------------------------------------------------------------------------------------

def rearrange(mask, gradients):
    """Swap units within one layer until the loss rises least, by the whole Fisher matrix and not its diagonal.

        rise ~ 1/2 (1 - m)^T F (1 - m) = 1/2 E_x ( sum of the gradients of the pruned units )^2,   F = E_x g g^T

    Units whose gradients cancel may go together; twins may not (Kwon et al. 2022, section 4.2). Greedy: offer every
    kept unit for pruning, and take back the pruned unit whose return lowers the sum most.
    mask: (units,)    gradients: (N, units)    Returns a mask with as many ones.
    """
    fisher = (gradients.T @ gradients / len(gradients)).double()
    pruned = mask == 0
    if not pruned.any() or pruned.all():
        return mask.clone()
    diagonal, toward = fisher.diagonal(), fisher[:, pruned].sum(dim=1)  # toward[i] = sum of F[i, pruned]
    for offered in (~pruned).nonzero().flatten()[diagonal[~pruned].argsort()].tolist():
        pruned[offered] = True
        toward = toward + fisher[:, offered]
        relief = torch.where(pruned, 2 * toward - diagonal, -math.inf)  # by how much the sum falls if i comes back
        back = int(relief.argmax())
        pruned[back] = False
        toward = toward - fisher[:, back]
    return (~pruned).to(mask.dtype)


# ---------------------------------------------------------------------------------------------------------
# 5. Cut: masks -> smaller tensors
# ---------------------------------------------------------------------------------------------------------

def cut_linear(linear, rows=None, columns=None):
    """A smaller nn.Linear with the chosen output rows and input columns (index vectors; None: all of them)."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    smaller = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    smaller.weight.data, smaller.bias.data = weight.clone(), bias.clone()
    return smaller.requires_grad_(linear.weight.requires_grad)  # a frozen layer stays frozen


def cut_attention(attention, head_mask):
    """Remove the heads with mask 0: their rows of query, key and value, their columns of the output matrix."""
    kept = head_mask.bool().repeat_interleave(attention.head_size).nonzero().flatten()
    for name in ("query", "key", "value"):
        setattr(attention, name, cut_linear(getattr(attention, name), rows=kept))
    attention.output = cut_linear(attention.output, columns=kept)
    attention.num_heads = int(head_mask.sum())


def cut_ffn(ffn, ffn_mask):
    """Remove the neurons with mask 0: rows of the first matrix, columns of the second."""
    kept = ffn_mask.bool().nonzero().flatten()
    ffn.up, ffn.down = cut_linear(ffn.up, rows=kept), cut_linear(ffn.down, columns=kept)


def cut(model, head_mask, ffn_mask):
    """A copy of the model without the masked heads and neurons. Same logits, fewer bytes, fewer milliseconds."""
    model = copy.deepcopy(model)
    for layer, heads, neurons in zip(model.layers, head_mask, ffn_mask, strict=True):
        cut_attention(layer.attention, heads.to(model.device))
        cut_ffn(layer.ffn, neurons.to(model.device))
    model.config.heads_per_layer = [layer.attention.num_heads for layer in model.layers]
    model.config.neurons_per_layer = [layer.ffn.up.out_features for layer in model.layers]
    return model


@torch.no_grad()
def check_cut_equals_masked(cut_model, model, head_mask, ffn_mask, batch, tolerance=1e-5):
    """The proof that nothing but zeros was removed: largest |logit difference|, an error above the tolerance."""
    masked = model(batch.input_ids, batch.attention_mask, head_mask, ffn_mask)
    difference = (cut_model(batch.input_ids, batch.attention_mask) - masked).abs().max().item()
    assert difference <= tolerance * max(1.0, masked.abs().max().item()), \
        f"the cut model's logits differ from the masked model's by {difference:.2g}"
    return difference


# ---------------------------------------------------------------------------------------------------------
# 6. Refit: let what stays do the work of what went
# ---------------------------------------------------------------------------------------------------------

def least_squares(linear, inputs, targets, damping):
    """Move a linear layer's weights to where it maps `inputs` (rows, in) closest to `targets` (rows, out).

        min over W, b of  || X W^T + b - Y ||^2 + damping * mean(diag X^T X) * || W - W_old ||^2

    The damping holds on to the old weights where the inputs say nothing. Solved exactly, by normal equations.
    Kwon et al. (section 4.3) solve for one factor a unit; with all of the matrix free, the same equations fit better.
    Returns the relative error before and after.
    """
    if inputs.device.type == "mps":  # has no float64
        inputs, targets = inputs.cpu(), targets.cpu()
    X = torch.cat([inputs, torch.ones(len(inputs), 1, device=inputs.device)], dim=1).double()  # the bias is a weight
    old = torch.cat([linear.weight.detach(), linear.bias.detach()[:, None]], dim=1).to(X).T   # (in + 1, out)
    residual = targets.double() - X @ old
    gram = X.T @ X
    gram.diagonal().add_(damping * gram.diagonal()[:-1].mean())
    change = torch.linalg.solve(gram, X.T @ residual)
    scale = targets.double().square().sum()
    new = (old + change).T.to(linear.weight)
    linear.weight.data, linear.bias.data = new[:, :-1].contiguous(), new[:, -1].contiguous()
    return (residual.square().sum() / scale).item(), ((residual - X @ change).square().sum() / scale).item()


@torch.no_grad()
def refit(model, original, texts, damping=0.01):
    """Refit the output matrix of every block of a cut model, from below, in place, so that the sums
    x + attention(x) and x + ffn(x) come closest to the original model's on the same texts.

    Each block sees what the refitted blocks below it really deliver, so it also makes up for their errors. Labels
    are not needed. Returns [(relative error before, after)] for attention and FFN of each layer.
    """
    depth, errors = len(model.layers), []
    states = [(model.embeddings(b.input_ids), original.embeddings(b.input_ids),
               torch.ones_like(b.input_ids) if b.attention_mask is None else b.attention_mask) for b in texts]
    for i, (small, full) in enumerate(zip(model.layers, original.layers, strict=True)):
        for block in ("attention", "ffn"):
            inputs, sums, residuals, rows = [], [], [], []
            for x, x_full, mask in states:
                key_mask = mask.bool()[:, None, None, :]
                width = 1 if i == depth - 1 else x.shape[1]  # the last layer: the first token only
                if block == "attention":
                    inputs.append(small.attention.context(x, x[:, :width], key_mask))
                    sums.append(x_full[:, :width] + full.attention(x_full, x_full[:, :width], key_mask))
                else:
                    inputs.append(small.ffn.neurons(x[:, :width]))
                    sums.append(x_full[:, :width] + full.ffn(x_full[:, :width]))
                residuals.append(x[:, :width])
                rows.append(mask[:, :width].bool())  # no equations for padding
            output = small.attention.output if block == "attention" else small.ffn.down
            targets = [s - r for s, r in zip(sums, residuals, strict=True)]
            errors.append(least_squares(output, torch.cat([x[r] for x, r in zip(inputs, rows, strict=True)]),
                                        torch.cat([y[r] for y, r in zip(targets, rows, strict=True)]), damping))
            norm, full_norm = getattr(small, f"{block}_norm"), getattr(full, f"{block}_norm")
            states = [(norm(r + output(x)), full_norm(s), mask) for x, r, s, (_, _, mask)
                      in zip(inputs, residuals, sums, states, strict=True)]
    return errors
