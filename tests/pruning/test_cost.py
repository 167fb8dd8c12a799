"""Costs: equal to what torch really multiplies, what the file really loses, what a clock says."""

import pytest
import torch

from pocketbert.models.surgery import slice_model
from pocketbert.pruning.cost import block_call, byte_cost, latency_cost, mac_cost
from small_models import random_model


def test_macs_equal_a_count_of_the_multiplications_that_torch_really_does():
    """FlopCounterMode counts 2 flops a multiply-add, over all matrix products of one text of 7 tokens."""
    from torch.utils.flop_counter import FlopCounterMode
    model = random_model(num_heads=[4, 2, 3], intermediate_sizes=[24, 8, 16])
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(torch.randint(5, 60, (1, 7)))
    head = 32 * 32 + 32 * 3
    encoder = mac_cost(model.config, 7).total(model.config.num_heads, model.config.intermediate_sizes)
    assert encoder + head == counter.get_total_flops() / 2


def test_byte_cost_is_what_the_file_loses(uneven_masks):
    model = random_model()
    before = sum(4 * p.numel() for p in model.parameters())
    cost = byte_cost(model.config, before)
    heads, neurons = uneven_masks(model)
    smaller = slice_model(model, heads, neurons)
    after = sum(4 * p.numel() for p in smaller.parameters())
    assert cost.total(smaller.config.num_heads, smaller.config.intermediate_sizes) == after < before


def test_latency_table_predicts_the_sum_of_its_measured_parts():
    """A clock that says 0.5 ms a head and 0.01 ms a neuron, a tenth of it in the last layer, and 10 ms in all."""
    def clock(calls, repeats):
        def ms(name):
            if name == "whole":
                return 10.0
            kind, num_queries, count = name
            return (0.1 if num_queries == 1 else 1.0) * {"heads": 0.5, "neurons": 0.01}[kind] * count
        for call in calls.values():
            call()
        return {name: [ms(name)] for name in calls}
    model = random_model(layers=3, heads=4, neurons=32)
    cost = latency_cost(model, batch_size=2, length=5, clock=clock)
    assert cost.total([4, 4, 4], [32, 32, 32]) == pytest.approx(10)
    assert cost.total([2, 4, 4], [32, 16, 32]) == pytest.approx(10 - 2 * 0.5 - 16 * 0.01)
    assert cost.total([4, 4, 2], [32, 32, 32]) == pytest.approx(10 - 0.1 * 2 * 0.5)


@pytest.mark.parametrize("kind, count, num_queries", [("heads", 3, 5), ("heads", 1, 1), ("neurons", 7, 5)])
def test_a_timed_block_is_a_block_of_the_model_with_so_many_units(kind, count, num_queries):
    """Its multiplications, counted by torch, are those that mac_cost gives to so many units."""
    from torch.utils.flop_counter import FlopCounterMode
    config = random_model(layers=2, hidden_act="relu").config
    call = block_call(kind, count, config, torch.randn(1, 5, config.hidden_size), num_queries)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert call().shape == (1, num_queries, config.hidden_size)
    layer = 1 if num_queries == 1 else 0  # the last one computes an output for one token
    cost = mac_cost(config, 5)
    curves = cost.head_curves if kind == "heads" else cost.neuron_curves
    assert counter.get_total_flops() / 2 == curves[layer][1][-1] / curves[layer][0][-1] * count
