"""AdamW by rows: the same weights as torch.optim.AdamW, with a gradient of the rows that were read."""

import copy

import pytest
import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.training import row_adamw
from pocketbert.training.optim import clip_grad_norm_, parameter_groups, warmup_then_decay
from pocketbert.training.row_adamw import RowAdamW

ROWS, WIDTH = 40, 6


@pytest.fixture(autouse=True)
def small_tables_count(monkeypatch):
    monkeypatch.setattr(row_adamw, "SMALLEST_TABLE", ROWS * WIDTH)
    monkeypatch.setattr(row_adamw, "CHUNK", 7)


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Flatten(), nn.Linear(3 * WIDTH, 2))


def texts(step):
    """(4, 3) ids; the high ones are read every 30 steps or never."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 30 if step % 30 == 7 else 8, (4, 3), generator=generator)


def train(net, optimizer, steps, scheduler=None, first=0):
    """The loop of train.py; the loss grows from step to step, so that some gradients are clipped."""
    for step in range(first, steps):
        for part in texts(step).split(2):  # two batches a step
            (net(part).square().mean() * (1 + step % 5)).backward()
        clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        if scheduler:
            scheduler.step()
        optimizer.zero_grad()
    return net


def both(steps, decay=0.1, lr=0.01):
    """The table that AdamW makes, and the net that RowAdamW has trained, with its optimizer."""
    dense = small_net()
    rows = copy.deepcopy(dense)
    for net, kind in ((dense, torch.optim.AdamW), (rows, RowAdamW)):
        optimizer = kind(parameter_groups(net, decay), lr=lr)
        if kind is RowAdamW:
            optimizer.watch(net)
        train(net, optimizer, steps, warmup_then_decay(optimizer, steps, 0.2))
    return dense, rows, optimizer


def test_the_weights_are_those_of_adamw_for_rows_read_often_seldom_and_never():
    """With the same gradients; in a real training the rounding of one step feeds the next."""
    dense = nn.Embedding(ROWS, WIDTH, dtype=torch.float64)
    rows = copy.deepcopy(dense)
    pairs = [(dense, torch.optim.AdamW(dense.parameters(), lr=0.01, weight_decay=0.1)),
             (rows, RowAdamW(rows.parameters(), lr=0.01, weight_decay=0.1))]
    pairs[1][1].watch(rows)
    schedules = [warmup_then_decay(optimizer, 100, 0.2) for _, optimizer in pairs]
    for step in range(100):
        slopes = torch.randn(4, 3, WIDTH, dtype=torch.float64) * 10.0 ** -(step % 4)
        for (table, optimizer), schedule in zip(pairs, schedules, strict=True):
            (table(texts(step)) * slopes).sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert (dense.weight[8:30] - rows.weight[8:30]).abs().max() > 1e-3  # rows that are behind
    rows.eval()(texts(0))
    torch.testing.assert_close(rows.weight, dense.weight, atol=1e-7, rtol=0)


def test_a_training_ends_where_adamws_does():
    dense, rows, _ = both(steps=100)
    rows.eval()(texts(0))
    torch.testing.assert_close(rows.state_dict(), dense.state_dict(), atol=1e-4, rtol=0)


def test_rows_that_are_read_again_after_a_while_start_where_adamw_has_them():
    dense, rows, _ = both(steps=37)
    with torch.no_grad():
        torch.testing.assert_close(rows.train()(torch.arange(30).view(10, 3)),
                                   dense(torch.arange(30).view(10, 3)), atol=1e-5, rtol=0)


def test_the_gradient_has_the_rows_of_the_batch_alone_and_clipping_counts_them_as_the_dense_one():
    dense, rows = small_net(), small_net()
    RowAdamW(parameter_groups(rows, 0.0), lr=0.1).watch(rows)
    ids = torch.tensor([[3, 3, 5], [3, 7, 5]])  # a row of a gradient that occurs more than once
    norms = []
    for net in (dense, rows):
        net(ids).square().sum().backward()
        norms.append((clip_grad_norm_(net.parameters(), 1e-3), net[0].weight.grad.to_dense()))
    assert rows[0].weight.grad.indices().tolist() == [[3, 5, 7]]
    torch.testing.assert_close(norms[1], norms[0])
    assert norms[0][1].norm() < 1e-3 < norms[0][0]


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_clipping_is_torchs(max_norm):
    ours, theirs = small_net(), small_net()
    results = []
    for net, clip in ((ours, clip_grad_norm_), (theirs, torch.nn.utils.clip_grad_norm_)):
        net(texts(0)).square().sum().backward()
        results.append([clip(net.parameters(), max_norm), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*results, atol=0, rtol=0)


def test_a_gradient_that_is_not_finite_reaches_the_weights():
    """As with torch: the loss of the next batch is NaN then, and the log ends the training."""
    net = small_net()
    (net(texts(0)).sum() * torch.nan).backward()
    assert clip_grad_norm_(net.parameters(), 1.0).isnan()


def test_a_run_that_is_resumed_from_its_state_dicts_is_bit_identical():
    whole = small_net()
    optimizer = RowAdamW(parameter_groups(whole, 0.1), lr=0.01)
    optimizer.watch(whole)
    train(whole, optimizer, 33)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    train(whole, optimizer, 60, first=33)

    resumed = small_net()
    again = RowAdamW(parameter_groups(resumed, 0.1), lr=0.01)
    again.watch(resumed)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    train(resumed, again, 60, first=33)
    for net in (whole, resumed):
        net.eval()(texts(0))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), atol=0, rtol=0)


def test_frozen_tables_and_small_ones_are_left_to_adamw(monkeypatch):
    net = small_net()
    net[0].weight.requires_grad_(False)
    with pytest.raises(UserError, match="take --optimizer adamw"):
        RowAdamW(parameter_groups(net, 0.0), lr=0.1).watch(net)
    assert not net[0].sparse
    monkeypatch.setattr(row_adamw, "SMALLEST_TABLE", ROWS * WIDTH + 1)
    net = small_net()
    with pytest.raises(UserError, match="a million numbers"):
        RowAdamW(parameter_groups(net, 0.0), lr=0.1).watch(net)
    assert not net[0].sparse
