"""Milliseconds of models that take turns."""

import numpy as np
import torch

from pocketbert.data.batching import batches
from pocketbert.hardware import time_interleaved


@torch.inference_mode()
def time_ratio(model, baseline, ids, batch_size, pad_id, repeats=20):
    """Median of (baseline's time / model's time), the two taking turns on one batch of texts of median length."""
    ids = sorted(ids, key=len)
    start = max(0, len(ids) // 2 - batch_size // 2)
    batch = next(iter(batches(ids[start:start + batch_size], None, batch_size, pad_id))).to(model.device)
    times = time_interleaved({"model": lambda: model(batch.input_ids, batch.attention_mask),
                              "baseline": lambda: baseline(batch.input_ids, batch.attention_mask)}, repeats)
    return float(np.median(times["baseline"] / times["model"]))


def latencies(models, ids, pad_ids, batch_size, count, device):
    """Milliseconds per batch, the models taking turns on the same texts.

    models, ids, pad_ids: {name: ...}; ids[name] are the token ids of all texts, in the same order for each.
    count batches of `batch_size` texts of like length, spread over all lengths, are timed three times each after a
    warm-up. Returns {name: (3 * count,)}.
    """
    order = np.argsort([len(row) for row in next(iter(ids.values()))], kind="stable")
    starts = np.linspace(0, max(0, len(order) - batch_size), count).astype(int)
    times = {name: [] for name in models}
    for warm_up, start in [(True, starts[count // 2])] * 3 + [(False, start) for start in starts]:
        rows = order[start:start + batch_size]
        calls = {}
        for name, model in models.items():
            batch = next(iter(batches([ids[name][i] for i in rows], None, batch_size, pad_ids[name]))).to(device)
            calls[name] = lambda model=model, batch=batch: model(batch.input_ids, batch.attention_mask)
        with torch.inference_mode():
            for name, values in time_interleaved(calls, repeats=3, warmup=1).items():
                if not warm_up:
                    times[name].extend(values)
    return {name: np.array(values) for name, values in times.items()}
