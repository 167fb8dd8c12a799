"""The memory table counts what it says it counts."""

import torch
from torch import nn

from benchmarks.memory import WAYS, LiveTensors, row_of, table_of, tensor_bytes


def test_live_tensors_are_those_that_the_backward_pass_keeps_and_no_weights():
    model = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 5))
    x = torch.randn(7, 10)
    with LiveTensors([*model.parameters(), x]) as live:
        out = model(x)  # the first sum is gone; ReLU keeps its output, which the second matrix reads
    assert live.bytes() == 4 * (7 * 100 + 7 * 5) and out.shape == (7, 5)
    with LiveTensors([*model.parameters(), x]) as live, torch.no_grad():
        out = model(x)
    assert live.bytes() == 4 * 7 * 5


def test_a_storage_with_two_views_counts_once():
    x = torch.zeros(1000)
    assert tensor_bytes([x[:10], x[500:], torch.zeros(2, dtype=torch.uint8)]) == 4002


def test_each_row_says_by_how_much_it_should_fall_and_by_how_much_it_fell():
    def row(way, weights, peak):
        run = {"history": [{"seconds": 5.0}, {"seconds": 10.0}], "validation": {"macro_f1": 0.5},
               "peak_memory_mb": {"process": peak}}
        return row_of(way, {"start": 0, "weights": weights, "gradients": 4e6, "states": 0, "activations": 0}, run, 100)
    full, lora = WAYS[0], WAYS[3]
    found = {full.name: row(full, 90e6, 500.0), lora.name: row(lora, 30e6, 450.0)}
    cells = [cell.strip() for cell in table_of(found).splitlines()[-1].split("|")]
    assert found["full"]["texts_per_s"] == 20 and cells[6:10] == ["450", "full", "60", "50"]


def test_every_way_is_compared_with_one_above_it():
    names = [way.name for way in WAYS]
    assert all(way.beside in names[:i] for i, way in enumerate(WAYS) if i)
