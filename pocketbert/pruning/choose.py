"""Choose what stays: importance, cost and budget -> masks; which layers do the least harm when they go."""

import math

import torch
import torch.nn.functional as F

from pocketbert.errors import UserError
from pocketbert.models.surgery import keep_layers


def keep_most_important(importance, keep):
    """Masks of the `keep` most important units of all layers together, with at least one unit in each layer.

    importance: a vector per layer, of any lengths    Returns as many vectors of 1 (stays) and 0 (goes).
    Layers may end with different numbers of units.
    """
    if keep < len(importance):
        raise ValueError(f"cannot keep {keep} of {sum(map(len, importance))} units in {len(importance)} layers: "
                         "each layer needs at least one")
    scores = [vector.detach().cpu().float().clone() for vector in importance]
    for vector in scores:
        vector[vector.argmax()] = math.inf  # the best unit of each layer always stays
    best = torch.cat(scores).topk(keep).indices
    mask = torch.zeros(sum(map(len, scores)))
    mask[best] = 1
    return list(mask.split([len(vector) for vector in scores]))


def keep_evenly(importance, share):
    """Masks that keep the same share of every layer, at least one unit each."""
    return [keep_most_important([vector], max(1, round(share * len(vector))))[0] for vector in importance]


def keep_shares(importance, shares, totals, scope="global"):
    """(head masks, neuron masks) that keep these shares of the unpruned model's heads and neurons.

    shares: (of the heads, of the neurons), 0 to 1    totals: how many heads and neurons the unpruned model has
    scope: "global" ranks the units of all layers together, "layer" keeps the same share of each layer
    """
    masks = []
    for vectors, share, total in zip(importance, shares, totals, strict=True):
        if scope == "layer":
            present = sum(map(len, vectors))
            masks.append(keep_evenly(vectors, share * total / present))
        else:
            masks.append(keep_most_important(vectors, max(len(vectors), round(share * total))))
    return tuple(masks)


def keep_within(importance, cost, budget, round_to=1):
    """(head masks, neuron masks) with the most importance that costs no more than `budget`.

    This is the knapsack problem. Its items are so small that the greedy solution is as good as the exact one: take
    units in the order of importance per cost until the budget is full. (Kwon et al. try every number of heads; here
    units of different layers may have different costs.)
    cost: a Cost    budget: in the cost's unit
    round_to: the number of neurons of a layer is a multiple of this, the width of the processor's vectors
    """
    head_importance, neuron_importance = importance
    slopes = cost.slopes()
    per_cost = [vector.detach().cpu().double() / slope
                for vector, slope in zip([*head_importance, *neuron_importance], slopes, strict=True)]
    depth = len(head_importance)
    for vector in per_cost:
        vector[vector.argmax()] = math.inf  # every layer keeps at least one head and one neuron
    order = torch.cat(per_cost).argsort(descending=True, stable=True)
    part_of_unit = torch.cat([torch.full((len(vector),), part) for part, vector in enumerate(per_cost)])[order]

    def counts(taken):
        """(heads per layer, neurons per layer) when the first `taken` units of the order stay."""
        present = torch.bincount(part_of_unit[:taken], minlength=2 * depth).tolist()
        neurons = [min(len(vector), max(round_to, round_to * round(number / round_to)))
                   for number, vector in zip(present[depth:], per_cost[depth:], strict=True)]
        return present[:depth], neurons

    least, full = cost.total(*counts(2 * depth)), cost.total(*counts(len(order)))
    if least > budget:
        raise UserError(f"a budget of {budget:,.4g} {cost.unit} ({budget / full:.1%}) is impossible: one head and "
                        f"{round_to} neuron{'s' * (round_to > 1)} a layer already cost {least:,.4g} {cost.unit}, "
                        f"{least / full:.1%} of what the model costs; ask for more, or drop --layers too")
    heads, neurons = counts(largest_within(budget, lambda taken: cost.total(*counts(taken)), 2 * depth, len(order)))
    return ([keep_most_important([v], n)[0] for v, n in zip(head_importance, heads, strict=True)],
            [keep_most_important([v], n)[0] for v, n in zip(neuron_importance, neurons, strict=True)])


def largest_within(budget, cost_of, low, high):
    """The largest number from low to high whose cost is within the budget, by bisection; cost_of(low) is."""
    while low < high:
        middle = (low + high + 1) // 2
        if cost_of(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def layers_to_keep(model, batches, layers):
    """The numbers of the layers that stay.

    layers: how many stay (the least harmful ones go), or the list of those that stay
    """
    depth = len(model.layers)
    if isinstance(layers, int) and 1 <= layers <= depth:
        return least_harmful_layers(model, batches, layers)
    if isinstance(layers, list) and layers == sorted(set(layers)) and layers[-1] < depth:
        return layers
    raise UserError(f"--layers {layers}: the model has {depth} layers; give how many stay, or which of 0 to "
                    f"{depth - 1} in rising order")


def least_harmful_layers(model, batches, keep):
    """The numbers of the `keep` layers that stay, when the layer whose loss rises least is dropped again and again.

    The loss is measured: every candidate scores the batches once, some 1/2 L^2 forward passes in all.
    """
    @torch.inference_mode()
    def loss(kept):
        smaller = keep_layers(model, kept)
        return sum(F.cross_entropy(smaller(b.input_ids, b.attention_mask), b.labels, reduction="sum").item()
                   for b in batches)

    kept = list(range(len(model.layers)))
    while len(kept) > keep:
        candidates = [[i for i in kept if i != dropped] for dropped in kept]
        kept = min(candidates, key=loss)
    return kept
