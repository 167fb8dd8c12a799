"""hardware.py: a clock that we move, and devices that we pretend to have."""

import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from pocketbert.hardware import hardware, hardware_line, synchronize, time_interleaved


def test_timed_functions_take_turns_and_each_gets_its_own_milliseconds(monkeypatch):
    clock, log = [0.0], []
    monkeypatch.setattr("pocketbert.hardware.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def call(name, seconds):
        log.append(name)
        clock[0] += seconds
    times = time_interleaved({"a": lambda: call("a", 0.002), "b": lambda: call("b", 0.005)}, repeats=3, warmup=2)
    rounds = ["".join(log[i:i + 2]) for i in range(0, len(log), 2)]
    assert len(rounds) == 5 and all(sorted(names) == ["a", "b"] for names in rounds)
    np.testing.assert_allclose(times["a"], [2, 2, 2])
    np.testing.assert_allclose(times["b"], [5, 5, 5])


def test_order_of_the_calls_changes_from_round_to_round_also_over_several_calls_with_one_rng():
    rng, orders = random.Random(0), set()
    for _ in range(12):
        log = []
        calls = {name: partial(log.append, name) for name in "abc"}
        time_interleaved(calls, repeats=1, warmup=0, rng=rng)
        orders.add("".join(log))
    assert len(orders) > 3


@pytest.mark.parametrize("device", ["cuda", "mps", None])
def test_a_gpu_is_waited_for_inside_the_timed_part_and_named_in_the_report(device, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("pocketbert.hardware.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr("torch.cuda.is_available", lambda: device == "cuda")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: device == "mps")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")

    def wait():
        clock[0] += 0.003
    for name in ("cuda", "mps"):
        waits = wait if name == device else lambda: pytest.fail("waits for a GPU that is not there")
        monkeypatch.setattr(f"torch.{name}.synchronize", waits)
    expected = 0 if device is None else 3
    np.testing.assert_allclose(time_interleaved({"a": lambda: None}, repeats=2)["a"], [expected] * 2)
    assert hardware().get("gpu") == {"cuda": "a GPU", "mps": "Apple GPU (MPS)", None: None}[device]
    assert ("GPU" in hardware_line()) == (device is not None)
    synchronize()
