"""Which units stay: importance, cost, budget -> masks."""

import math

import torch
import torch.nn.functional as F

from pocketbert.errors import UserError
from pocketbert.models.surgery import keep_layers


def keep_most_important(importance, keep):
    """Masks that keep the `keep` most important units of all layers together, at least one in each layer.

    importance: a vector a layer, of any lengths.    Returns as many vectors of 1 (stays) and 0 (goes).
    Layers come out uneven: where all units matter, all stay.
    """
    if keep < len(importance):
        raise UserError(f"cannot keep {keep} of {sum(map(len, importance))} units in {len(importance)} layers: "
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
        raise UserError(f"a budget of {budget:,.4g} {cost.unit} ({budget / full:.1%}) is impossible: one head and "
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
        smaller = keep_layers(model, kept)
        return sum(F.cross_entropy(smaller(b.input_ids, b.attention_mask), b.labels, reduction="sum").item()
                   for b in texts)

    kept = list(range(len(model.layers)))
    while len(kept) > keep:
        kept = min(([i for i in kept if i != gone] for gone in kept), key=loss)
    return kept


def keep_shares(importance, shares, units, scope):
    """The masks of the most important: these shares of so many heads and neurons, of all layers or of each layer."""
    if scope == "layer":
        return tuple(keep_evenly(part, share * total / sum(map(len, part)))
                     for part, share, total in zip(importance, shares, units, strict=True))
    depth = len(importance[0])
    return tuple(keep_most_important(part, max(depth, round(share * total)))
                 for part, share, total in zip(importance, shares, units, strict=True))
