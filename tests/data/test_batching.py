"""Batches: every row once, little padding, and shares of several processes that add up to the batch."""

import pytest
import torch

from pocketbert.data.batching import batches, grouped


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
    ids = random_ids(101)
    labels = list(range(len(ids)))
    whole = [batch.index for batch in batches(ids, labels, 8, pad_id=0, shuffle_seed=shuffle_seed)]
    shares = [list(batches(ids, labels, 8, 0, shuffle_seed, rank, world_size)) for rank in range(world_size)]
    seen = []
    for number, rows in enumerate(whole):
        parts = [share[number].index for share in shares if number < len(share)]    # the last batch may be too small
        assert sorted(row for part in parts for row in part) == sorted(rows)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        seen += rows
    assert sorted(seen) == labels
    assert all(batch.labels.tolist() == batch.index for share in shares for batch in share)


def test_groups_are_consecutive_and_the_last_one_may_be_shorter():
    assert list(grouped(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(grouped([], 3)) == []
