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
