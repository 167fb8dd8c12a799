"""Rectangles of token ids, in numpy: which texts go together, and the padding."""

import itertools

import numpy as np


def by_length(ids, batch_size):
    """Lists of row numbers, batch_size each, the longest rows first: [[7, 0], [3, 5], ...]."""
    order = np.argsort([-len(row) for row in ids], kind="stable")
    return [order[i:i + batch_size].tolist() for i in range(0, len(ids), batch_size)]


def pad(ids, rows, pad_id):
    """The rows padded to the longest of them: (input_ids (B, T) int64, mask (B, T) bool, True for a token).

    One numpy assignment fills the rectangle.
    """
    lengths = np.array([len(ids[r]) for r in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, pad_id, dtype=np.int64)
    padded[mask] = np.fromiter(itertools.chain.from_iterable(ids[r] for r in rows), np.int64, lengths.sum())
    return padded, mask
