"""RWKV-4."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def wkv_add(older, newer):
    """The sum of two weighted sums of values. Each is (num, den, p) and stands for num * exp(p), den * exp(p)."""
    (num_a, den_a, p_a), (num_b, den_b, p_b) = older, newer
    p = torch.maximum(p_a, p_b).detach()
    a, b = torch.exp(p_a - p), torch.exp(p_b - p)
    return a * num_a + b * num_b, a * den_a + b * den_b, p


def wkv_parallel(k, v, decay, bonus):
    """RWKV's weighted average of values, all tokens at once, in ceil(log2 T) rounds.

        wkv_t = (sum_{s<t} e^{k_s - (t-1-s) w} v_s + e^{k_t + u} v_t) / (the same without v),     w = exp(decay) > 0

    k, v: (B, T, C)    decay, bonus u: (C,)    -> (B, T, C)
    After a round, token t holds the sum over its last 1, 2, 4, ... tokens: its own window plus the one that ends
    where its own begins, so much older and so much decayed. No (T, T) table, and no sum that could overflow.
    """
    def earlier(sums, steps):  # what the token `steps` before holds; before the text: nothing, which is exp(-inf)
        return [F.pad(x[:, :-steps], (0, 0, steps, 0), value=fill)
                for x, fill in zip(sums, (0.0, 0.0, -math.inf), strict=True)]

    sums, width = (v, torch.ones_like(v), k), 1
    while width < k.shape[1]:
        num, den, p = earlier(sums, width)
        sums = wkv_add((num, den, p - width * torch.exp(decay)), sums)
        width *= 2
    num, den, _ = wkv_add(earlier(sums, 1), (v, torch.ones_like(v), k + bonus))
    return num / den


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


def token_shift(x, mix):
    """Each channel's own blend of a token (mix 1) and the one before it (mix 0): (B, T, C), (C,) -> (B, T, C)"""
    before = F.pad(x[:, :-1], (0, 0, 1, 0))
    return before + (x - before) * mix


class TimeMix(nn.Module):
    """RWKV's stand-in for attention: sigmoid(receptance) * wkv, then one output matrix."""

    def __init__(self, config, depth):
        super().__init__()
        C = config.hidden_size
        self.receptance, self.key, self.value, self.output = (nn.Linear(C, C) for _ in range(4))
        # The starting points of the paper's appendix: slow channels and fast ones, exp(decay) = 0.007 ... 20 a token.
        n = torch.arange(C)
        self.decay = nn.Parameter(-5 + 8 * (n / max(1, C - 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(0.5 * ((n + 1) % 3 - 1) + math.log(0.3))
        self.mix_key = nn.Parameter(start_mix(C, depth))
        self.mix_value = nn.Parameter(start_mix(C, depth) + 0.3 * depth)
        self.mix_receptance = nn.Parameter(start_mix(C, depth) ** 0.5)

    def forward(self, x):
        k, v = self.key(token_shift(x, self.mix_key)), self.value(token_shift(x, self.mix_value))
        wkv = wkv_parallel(k.float(), v.float(), self.decay, self.bonus)
        return self.output(torch.sigmoid(self.receptance(token_shift(x, self.mix_receptance))) * wkv)


class ChannelMix(nn.Module):
    """RWKV's feed-forward: sigmoid(receptance) * W2 relu(W1 x)^2, with the token shift."""

    def __init__(self, config, depth):
        super().__init__()
        C = config.hidden_size
        self.receptance, self.up, self.down = nn.Linear(C, C), nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.mix_receptance, self.mix_key = (nn.Parameter(start_mix(C, depth)) for _ in range(2))

    def forward(self, x):
        neurons = F.relu(self.up(token_shift(x, self.mix_key))).square()
        return torch.sigmoid(self.receptance(token_shift(x, self.mix_receptance))) * self.down(neurons)


def start_mix(C, depth):
    """The first channels look at the token before, the last at the token itself; deeper layers at the token more."""
    return (torch.arange(C) / C) ** (1 - depth)
