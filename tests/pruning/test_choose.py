"""Choosing what stays: counts, budgets, layers."""

import re

import numpy as np
import pytest
import torch

from pocketbert.data.batching import batches
from pocketbert.errors import UserError
from pocketbert.pruning.choose import (
    keep_most_important,
    keep_shares,
    keep_within,
    layers_to_keep,
    least_harmful_layers,
)
from pocketbert.pruning.cost import Cost, mac_cost
from small_models import random_model


def test_budget_keeps_the_globally_best_but_one_in_every_layer():
    importance = [torch.tensor([9., 8., 7.]), torch.tensor([6., 5.]), torch.tensor([0.1, 0.2, 0.3, 0.05])]
    masks = keep_most_important(importance, 5)
    assert [mask.tolist() for mask in masks] == [[1, 1, 1], [1, 0], [0, 0, 1, 0]]
    for keep in range(3, 10):
        masks = keep_most_important(importance, keep)
        assert sum(int(mask.sum()) for mask in masks) == keep and all(mask.sum() >= 1 for mask in masks)


def test_shares_are_of_the_whole_model_and_even_per_layer_if_asked():
    importance = ([torch.rand(4) for _ in range(3)], [torch.rand(24) for _ in range(3)])
    heads, neurons = keep_shares(importance, (0.5, 0.25), (12, 72))
    assert (sum(m.sum() for m in heads), sum(m.sum() for m in neurons)) == (6, 18)
    heads, neurons = keep_shares(importance, (0.5, 0.25), (12, 72), scope="layer")
    assert [int(m.sum()) for m in heads] == [2] * 3 and [int(m.sum()) for m in neurons] == [6] * 3
    half = ([vector[:2] for vector in importance[0]], importance[1])  # half of the heads are gone already
    heads, _ = keep_shares(half, (0.5, 1.0), (12, 72), scope="layer")
    assert [int(m.sum()) for m in heads] == [2] * 3


def test_budget_below_one_unit_a_layer_is_an_error():
    with pytest.raises(ValueError, match="each layer needs at least one"):
        keep_most_important([torch.ones(3), torch.ones(3)], 1)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 1.0])
def test_choice_fills_the_budget_and_never_exceeds_it(share):
    model = random_model(layers=4, heads=4, neurons=64)
    torch.manual_seed(0)
    importance = ([torch.rand(4) for _ in range(4)], [torch.rand(64) for _ in range(4)])
    cost = mac_cost(model.config, 10)
    full = cost.total([4] * 4, [64] * 4)
    heads, neurons = keep_within(importance, cost, share * full)
    spent = cost.total([int(h.sum()) for h in heads], [int(n.sum()) for n in neurons])
    one_head = cost.slopes()[0]
    assert share * full - one_head <= spent <= share * full
    assert all(h.sum() >= 1 for h in heads) and all(n.sum() >= 1 for n in neurons)
    kept, gone = neurons[0].bool(), ~neurons[0].bool()
    assert not gone.any() or importance[1][0][kept].min() > importance[1][0][gone].max()


def test_of_two_units_of_equal_importance_the_cheaper_one_stays():
    def curves(*costs):
        return [(np.array([0, 2]), np.array([0, 2 * cost])) for cost in costs]
    importance = ([torch.ones(2), torch.ones(2)], [torch.ones(2), torch.ones(2)])
    cost = Cost(curves(10, 1), curves(1e-3, 1e-3), fixed=0.0, unit="MACs")  # the heads of layer 0 are expensive
    heads, _ = keep_within(importance, cost, budget=10 + 2 + 0.1)  # one of them, and both of layer 1
    assert [int(mask.sum()) for mask in heads] == [1, 2]
    cost = Cost(curves(1, 10), curves(1e-3, 1e-3), fixed=0.0, unit="MACs")  # the order of the layers has no part in it
    heads, _ = keep_within(importance, cost, budget=10 + 2 + 0.1)
    assert [int(mask.sum()) for mask in heads] == [2, 1]


def test_neurons_under_a_budget_are_multiples_of_round_to():
    model = random_model(layers=3, heads=4, neurons=64)
    importance = ([torch.rand(4) for _ in range(3)], [torch.rand(64) for _ in range(3)])
    cost = mac_cost(model.config, 10)
    _, neurons = keep_within(importance, cost, 0.5 * cost.total([4] * 3, [64] * 3), round_to=16)
    assert all(int(n.sum()) % 16 == 0 for n in neurons)


def test_impossible_budget_is_an_error_that_states_the_nearest_possible_one():
    model = random_model()
    importance = ([torch.rand(4) for _ in range(3)], [torch.rand(24) for _ in range(3)])
    cost = mac_cost(model.config, 10)
    least = cost.total([1] * 3, [1] * 3)
    with pytest.raises(UserError, match=re.escape(f"already cost {least:,.4g} MACs")):
        keep_within(importance, cost, 0.9 * least)
    keep_within(importance, cost, least)


def test_least_harmful_layers_drops_the_one_that_does_nothing():
    model = random_model()
    for linear in (model.layers[1].attention.output, model.layers[1].ffn.down):
        linear.weight.data.zero_()
        linear.bias.data.zero_()
    ids = [[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]]
    with torch.no_grad():
        labels = [int(model(torch.tensor([row])).argmax()) for row in ids]
    assert least_harmful_layers(model, list(batches(ids, labels, 3, 0)), 2) == [0, 2]


@pytest.mark.parametrize("layers", [0, 4, [0, 0], [1, 0], [0, 3], [3]])
def test_impossible_layers_are_a_users_error(layers):
    with pytest.raises(UserError, match="the model has 3 layers"):
        layers_to_keep(random_model(), [], layers)


def test_named_layers_stay():
    assert layers_to_keep(random_model(), [], [0, 2]) == [0, 2]
