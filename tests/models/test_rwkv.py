"""RWKV: the parallel form equals the recurrent one and the paper's sums, and no key overflows."""

import math

import pytest
import torch

from pocketbert.models.rwkv import wkv_add, wkv_parallel
from small_models import assert_finite, assert_same_values_and_gradients, doubles


def wkv_recurrent(k, v, decay, bonus, state=None):
    """The same, token by token. state: (num, den, p) of each text, (B, C) each, None at the start of a text.

    Returns (wkv, state).
    """
    if state is None:
        zeros = torch.zeros_like(k[:, 0])
        state = zeros, zeros, zeros - math.inf
    outputs = []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        num, den, _ = wkv_add(state, (v_t, torch.ones_like(v_t), k_t + bonus))
        outputs.append(num / den)
        num, den, p = state
        state = wkv_add((num, den, p - torch.exp(decay)), (v_t, torch.ones_like(v_t), k_t))
    return torch.stack(outputs, dim=1), state


def wkv_inputs(scale=1.0, T=13):
    torch.manual_seed(1)
    return [doubles(2, T, 5, scale=scale), doubles(2, T, 5), doubles(5), doubles(5, scale=scale)]


@pytest.mark.parametrize("T", [1, 2, 8, 13])
@pytest.mark.parametrize("scale", [1, 50])
def test_rwkv_parallel_equals_recurrent(T, scale):
    inputs = wkv_inputs(scale, T)
    if T <= 2:  # one token is its own average: keys, decay and bonus have no say
        torch.testing.assert_close(wkv_parallel(*inputs), wkv_recurrent(*inputs)[0])
    else:
        assert_same_values_and_gradients(wkv_parallel, lambda *x: wkv_recurrent(*x)[0], inputs)


def test_rwkv_equals_the_sums_of_the_paper():
    k, v, decay, bonus = wkv_inputs()
    for t in range(k.shape[1]):
        lags = torch.arange(t - 1, -1, -1)[:, None]  # t-1-s
        weights = torch.cat([k[:, :t] - lags * decay.exp(), (k[:, t] + bonus)[:, None]], dim=1).exp()
        torch.testing.assert_close(wkv_parallel(k, v, decay, bonus)[:, t],
                                   (weights * v[:, :t + 1]).sum(dim=1) / weights.sum(dim=1))


def test_wkv_of_a_text_in_pieces_equals_the_text_at_once():
    k, v, decay, bonus = wkv_inputs()
    state = None
    pieces = []
    for start, end in ((0, 4), (4, 5), (5, 13)):
        piece, state = wkv_recurrent(k[:, start:end], v[:, start:end], decay, bonus, state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), wkv_parallel(k, v, decay, bonus))


@pytest.mark.parametrize("size", [50, 500])
def test_extreme_keys_give_finite_values_and_gradients_in_float32(size):
    torch.manual_seed(0)
    assert_finite(wkv_parallel, [size * torch.randint(-1, 2, (2, 9, 5)), torch.randn(2, 9, 5), torch.randn(5),
                                 torch.full((5,), size)])
