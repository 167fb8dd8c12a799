"""The ratio that decides whether int8 is refused."""

from types import SimpleNamespace

import pytest
import torch

from pocketbert.evaluation.timing import time_ratio


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_model_that_takes_twice_as_long_as_the_baseline_has_ratio_one_half(batch_size, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("pocketbert.hardware.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Sleeper:
        device = torch.device("cpu")

        def __init__(self, seconds):
            self.seconds = seconds

        def __call__(self, input_ids, attention_mask):
            clock[0] += self.seconds
    ids = [[1] * length for length in range(1, 60)]
    assert time_ratio(Sleeper(0.002), Sleeper(0.001), ids, batch_size, pad_id=0) == pytest.approx(0.5)
    assert time_ratio(Sleeper(0.001), Sleeper(0.003), ids, batch_size, pad_id=0) == pytest.approx(3)
