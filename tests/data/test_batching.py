"""Batches: every row once, little padding, and shares of several processes that add up to the batch."""

from collections import Counter

import numpy as np
import pytest
import torch

from pocketbert.data.batching import balanced_order, batches, grouped


def random_ids(n=1003):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 99, (int(length),), generator=generator).tolist()
            for length in torch.randint(1, 60, (n,), generator=generator)]


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_every_row_occurs_once_unchanged_and_padded_to_the_longest(shuffle_seed):
    ids, seen = random_ids(), []
    for batch in batches(ids, list(range(len(ids))), 8, pad_id=1, shuffle_seed=shuffle_seed):
        assert batch.input_ids.shape[1] == max(len(ids[row]) for row in batch.index)
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        assert mask.dtype == batch.input_ids.dtype == batch.labels.dtype == torch.int64
        for line, row in enumerate(batch.index):
            length = len(ids[row])
            assert batch.input_ids[line].tolist() == ids[row] + [1] * (batch.input_ids.shape[1] - length)
            assert mask[line].tolist() == [1] * length + [0] * (mask.shape[1] - length)
        assert batch.labels.tolist() == batch.index
        seen += batch.index
    assert sorted(seen) == list(range(len(ids)))


def test_scoring_goes_from_long_to_short_and_needs_no_mask_where_nothing_is_padded():
    ids = random_ids()
    widths = [batch.input_ids.shape[1] for batch in batches(ids, None, 8, pad_id=0)]
    assert widths == sorted(widths, reverse=True) and widths[0] == max(map(len, ids))
    [batch] = batches([[1, 2], [3, 4]], None, 8, pad_id=0)
    assert batch.attention_mask is None and batch.labels is None and batch.to("cpu").index == [0, 1]


def test_training_batches_differ_by_seed_pad_little_and_are_not_sorted():
    ids = random_ids()

    def epoch(seed):
        return list(batches(ids, None, 8, pad_id=0, shuffle_seed=seed))
    first = [batch.index for batch in epoch(0)]
    assert first == [batch.index for batch in epoch(0)] != [batch.index for batch in epoch(1)]
    assert {frozenset(rows) for rows in first} != {frozenset(batch.index) for batch in epoch(1)}
    widths = [batch.input_ids.shape[1] for batch in epoch(0)]
    assert widths != sorted(widths, reverse=True) and len(first) == 126
    padded = sum(batch.input_ids.numel() for batch in epoch(0))
    assert padded < 1.05 * sum(map(len, ids))                     # in random batches it would be 1.8 times


@pytest.mark.parametrize("shuffle_seed", [None, (3, 1)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_of_all_processes_are_together_the_batches_of_one(shuffle_seed, world_size):
    ids = random_ids(97)  # twelve batches of 8, and a row
    labels = list(range(len(ids)))
    whole = [batch.index for batch in batches(ids, labels, 8, pad_id=0, shuffle_seed=shuffle_seed)]
    shares = [list(batches(ids, labels, 8, 0, shuffle_seed, rank, world_size)) for rank in range(world_size)]
    seen = []
    for number, rows in enumerate(whole):
        parts = [share[number].index if share[number].share else [] for share in shares]
        assert [share[number].share for share in shares] == [len(part) / len(rows) for part in parts]
        assert sorted(row for part in parts for row in part) == sorted(rows)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        seen += rows
    assert sorted(seen) == labels
    assert all(batch.labels.tolist() == batch.index for share in shares for batch in share)


def test_share_is_that_of_the_class_weights():
    [first], [second] = (list(batches([[1, 2], [3], [4]], [0, 1, 1], 3, 0, None, rank, 2, class_weights=[1, 3]))
                         for rank in range(2))
    assert (first.index, first.share, second.index, second.share) == ([0, 2], 4 / 7, [1], 3 / 7)
    assert first.to("cpu").share == 4 / 7


def test_groups_are_consecutive_and_the_last_one_may_be_shorter():
    assert list(grouped(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(grouped([], 3)) == []


def test_balanced_draws_are_those_of_a_hand_computation():
    labels = [0] * 8 + [1] * 3 + [2]  # 12 rows: four draws of each class
    seen = set()
    for seed in range(200):
        order = balanced_order(labels, np.random.default_rng(seed)).tolist()
        drawn = Counter(order)
        assert len(order) == 12 and drawn[11] == 4
        assert sorted(drawn[row] for row in (8, 9, 10)) == [1, 1, 2]
        assert sorted(drawn[row] for row in range(8)) == [0, 0, 0, 0, 1, 1, 1, 1]
        seen |= set(order[:1])
    assert seen == set(range(12))  # any row may be the first one


def test_draws_that_are_left_over_go_to_random_classes():
    labels = [0, 0, 0, 0, 0, 1, 4]  # labels need not be without gaps; 7 draws: 3 + 2 + 2
    counts = [Counter(labels[row] for row in balanced_order(labels, np.random.default_rng(seed))) for seed in range(30)]
    assert {frozenset(count.items()) for count in counts} == {
        frozenset(({0: 2, 1: 2, 4: 2} | {label: 3}).items()) for label in (0, 1, 4)}


def test_balanced_batches_are_a_function_of_the_seed_and_their_shares_add_up():
    ids = random_ids(101)
    labels = [int(row % 10 == 0) for row in range(101)]

    def drawn(seed, rank=0, world_size=1):
        return [batch.index for batch in batches(ids, labels, 8, 0, seed, rank, world_size, balanced=True)]
    whole = drawn((0, 1))
    assert whole == drawn((0, 1)) != drawn((0, 2)) and sum(map(len, whole)) == 101
    counts = Counter(labels[row] for rows in whole for row in rows)
    assert abs(counts[0] - counts[1]) == 1
    shares = [drawn((0, 1), rank, 2) for rank in range(2)]
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == list(map(sorted, whole))
