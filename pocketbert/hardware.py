"""What a model weighs and how long it takes: bytes of files, milliseconds of interleaved calls, the hardware.

The rules (they are what makes a table believable):
- size is the size of the file on disk, never a count of parameters();
- models that are compared run in one process, in turn, after a warm-up, and medians are compared;
- a time is worth nothing without the processor, the threads and the versions it was measured with.
"""

import os
import platform
import random
import time
from pathlib import Path

import numpy as np
import torch

ORDER = random.Random(0)  # of whose turn it is


def time_interleaved(calls, repeats=20, warmup=3):
    """Time several functions in turn, in a new order each round, so that a slow minute hits all of them alike.

    A new order, because whoever runs after a model with idle threads or a full cache pays for it: with a fixed one, the
    same fp32 matrices were 8 % faster in one place of fifteen than in another.

    calls: {name: function without arguments}.  Returns {name: milliseconds (repeats,)}.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in ORDER.sample(list(calls.items()), len(calls)):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():  # a GPU answers before it has done the work
                torch.cuda.synchronize()
            elif torch.backends.mps.is_available():
                torch.mps.synchronize()
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: np.array(values) for name, values in times.items()}


def hardware():
    """The card that belongs beside every absolute time: processor, its int8 and bf16 instructions, threads, torch."""
    model, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    except OSError:
        pass  # not Linux: the name must do
    names = {"avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "vnni", "avx_vnni": "vnni",
             "avx512_bf16": "bf16", "amx_int8": "amx"}
    card = {"processor": model, "instructions": sorted({names[f] for f in flags & set(names)}),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "int8_engine": torch.backends.quantized.engine}
    if torch.cuda.is_available():
        card["gpu"] = torch.cuda.get_device_name()
    return card


def hardware_line(card=None):
    card = card or hardware()
    return (f"{card['processor']} ({' '.join(card['instructions']) or 'no vector extensions known'}), "
            f"{card['threads']} threads, torch {card['torch']}" + (f", {card['gpu']}" if "gpu" in card else ""))
