"""Padded batches of texts of similar length.

A batch is a rectangle, so every text in it costs as much time as the longest one. Sorting by length saves most of the
padding: for texts of 1 to 59 tokens, random batches of 8 have 1.8 times as many positions as tokens, the batches below
less than 1.05 times (tests/data/test_batching.py).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from pocketbert.data.padding import by_length, pad

POOL_BATCHES = 50           # training: this many batches are sorted by length together


@dataclass
class Batch:
    input_ids: torch.Tensor                     # (B, T) int64, padded to the longest row of this batch
    attention_mask: torch.Tensor | None         # (B, T) int64, 1 = token, 0 = padding; None if nothing is padded
    labels: torch.Tensor | None                 # (B,) int64
    index: list[int]                            # which row of the split each line is
    share: float = 1.0                          # of the batch's weight, if several processes have a part of it

    def to(self, device):
        return Batch(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in vars(self).values()))


def make_batch(ids, labels, rows, pad_id, share=1.0):
    """Pad the rows to the longest of them; no tensor is made per row."""
    padded, mask = pad(ids, rows, pad_id)
    return Batch(torch.from_numpy(padded), None if mask.all() else torch.from_numpy(mask.astype(np.int64)),
                 None if labels is None else torch.tensor([labels[r] for r in rows]), rows, share)


def batches(ids, labels, batch_size, pad_id, shuffle_seed=None, rank=0, world_size=1, balanced=False,
            class_weights=None):
    """Yields a Batch for every batch_size rows; every row occurs exactly once.

    ids: a list of token ids per row    labels: a list of ints, or None
    shuffle_seed: None for scoring, else anything that seeds numpy's generator, such as (seed, epoch)
    balanced: each class equally often, in place of every row once (balanced_order)
    rank, world_size: each of several processes gets its share of every batch, the rows rank, rank + world_size, ...
    class_weights: how much a row of each label counts in Batch.share; None: all count alike

    For scoring all rows are sorted, the longest first: if a batch is too big for memory, it is the first one.
    Batch.index undoes the order. For training, pools of POOL_BATCHES random batches are sorted and cut into batches,
    and the batches are shuffled: nearly as little padding, and no two epochs have the same batches.
    """
    if batch_size < 1 or labels is not None and len(labels) != len(ids):
        raise ValueError(f"batch size {batch_size}, {len(ids)} texts, {len(labels or ids)} labels: "
                         "expected at least 1, and a label for every text")
    if shuffle_seed is None:
        cuts = by_length(ids, batch_size)
    else:
        lengths = np.array([len(row) for row in ids])
        rng = np.random.default_rng(shuffle_seed)
        order = balanced_order(labels, rng) if balanced else rng.permutation(len(ids))
        cuts = []
        for start in range(0, len(ids), POOL_BATCHES * batch_size):
            pool = order[start:start + POOL_BATCHES * batch_size]
            pool = pool[np.argsort(-lengths[pool], kind="stable")].tolist()
            cuts += [pool[i:i + batch_size] for i in range(0, len(pool), batch_size)]
        cuts = [cuts[i] for i in rng.permutation(len(cuts))]
    for rows in cuts:
        own = rows[rank::world_size]
        share = weight(own, labels, class_weights) / weight(rows, labels, class_weights)
        # A process without a row gets one that counts nothing, so that all make the same number of steps.
        yield make_batch(ids, labels, own or rows[:1], pad_id, share)


def weight(rows, labels, class_weights):
    """How much the rows count together."""
    return len(rows) if class_weights is None else sum(class_weights[labels[r]] for r in rows)


def balanced_order(labels, rng):
    """As many row numbers as there are rows, in random order, in which each class occurs equally often, give or take 1.

    A class with more rows than its share has a part of them drawn, each at most once; of a class with fewer, every row
    is drawn floor(share / rows) times, and some of them once more. labels: a list of ints    rng: of numpy
    """
    labels = np.asarray(labels)
    classes = rng.permutation(np.unique(labels))  # the first ones get the draws that are left over
    draws = []
    for i, label in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        share = len(labels) // len(classes) + (i < len(labels) % len(classes))
        passes = [rng.permutation(rows) for _ in range(math.ceil(share / len(rows)))]
        draws.append(np.concatenate(passes)[:share])
    return rng.permutation(np.concatenate(draws))


def grouped(items, size):
    """Lists of `size` consecutive items; the last list may be shorter. For batches whose gradients make one step."""
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group
