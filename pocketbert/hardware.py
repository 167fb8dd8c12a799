"""Milliseconds of calls that take turns, and the hardware on which they were measured.

- Models that are compared run in one process, in turn, after a warm-up, and medians are compared.
- A time means nothing without the processor, the number of threads and the versions it was measured with.
"""

import os
import platform
import random
import time
from pathlib import Path

import numpy as np
import torch

INSTRUCTIONS = {  # flag in /proc/cpuinfo -> its name in a report
    "avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "vnni", "avx_vnni": "vnni", "avx512_bf16": "bf16",
    "amx_int8": "amx",
}


def synchronize():
    """Wait for the GPU, if there is one: its calls return before the work is done.

    The branch for Apple's GPU (MPS) is tested with a stub only: no Mac was at hand.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def time_interleaved(calls, repeats=20, warmup=3, rng=None):
    """Time several functions in turn, in a new order each round, so that a slow minute affects all of them alike.

    calls: {name: function without arguments}    warmup: rounds that are not timed
    rng: a random.Random that shuffles the order of the calls in each round. Pass one and the same when you call this
    function often with few repeats; None: a new one with seed 0.
    Returns {name: milliseconds (repeats,)}.

    The order is random because a call that follows a model with idle threads or a full cache is slower: in a fixed
    order the same fp32 matrices were 8 % faster in one place of fifteen than in another.
    """
    rng = rng or random.Random(0)
    for _ in range(warmup):
        for call in calls.values():
            call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name in rng.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            synchronize()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def processor():
    """(name of the processor, set of its instruction flags); the flags are empty where there is no /proc/cpuinfo."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = set(value.split())
            break
    return name, flags


def hardware():
    """What belongs beside every time: processor, its int8 and bf16 instructions, threads, torch, GPU."""
    name, flags = processor()
    found = {
        "processor": name,
        "instructions": sorted({INSTRUCTIONS[flag] for flag in flags & set(INSTRUCTIONS)}),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "int8_engine": torch.backends.quantized.engine,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        found["gpu"] = "Apple GPU (MPS)"
    return found


def products_overflow():
    """Does this processor add pairs of int8 products in 16 bits, where two large ones overflow? (x86 without VNNI)

    Weights of 7 bits avoid that. The exported file keeps the choice, so export on the kind of processor that will run
    the graph: the error of 7 bits is a little larger, that of overflows is much larger.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and "vnni" not in hardware()["instructions"]


def hardware_line(found=None):
    """`hardware()` in one line."""
    found = found or hardware()
    instructions = " ".join(found["instructions"]) or "no vector extensions known"
    gpu = f", {found['gpu']}" if "gpu" in found else ""
    return f"{found['processor']} ({instructions}), {found['threads']} threads, torch {found['torch']}{gpu}"
