"""RWKV-4 (Peng et al. 2023, arXiv:2305.13048): a weighted average of the past in the place of attention.

    wkv_t = (sum_{s<t} e^{k_s - (t-1-s) w} v_s + e^{k_t + u} v_t) / (the same sum without v)

Every token has a key k and a value v. The weight of a token decays with its distance, in each channel at a speed w > 0
of its own; the present token has a bonus u in the place of the decay. A gate, sigmoid(receptance), lets the average
through.

All tokens are computed at once, in a number of rounds that grows with log2 of their number. The paper's other form,
token by token with a state, has the same results: tests/models/test_rwkv.py has it.

Sums of exponentials overflow. So each sum S is kept as S / exp(p) and p, with a running maximum p. p cancels in every
output, so no gradient needs to flow through it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.sequence import ResidualBlock, start_at


def wkv_add(older, newer):
    """The sum of two weighted sums of values. Each is (num, den, p) and stands for num * exp(p), den * exp(p)."""
    num_a, den_a, p_a = older
    num_b, den_b, p_b = newer
    p = torch.maximum(p_a, p_b).detach()
    a = torch.exp(p_a - p)
    b = torch.exp(p_b - p)
    return a * num_a + b * num_b, a * den_a + b * den_b, p


def earlier(sums, steps):
    """The sums of the token that is `steps` before each; before the text they are empty, which is exp(-inf)."""
    return [F.pad(x[:, :-steps], (0, 0, steps, 0), value=fill)
            for x, fill in zip(sums, (0.0, 0.0, -math.inf), strict=True)]


def wkv_parallel(k, v, decay, bonus):
    """RWKV's weighted average of values, all tokens at once, in ceil(log2 T) rounds.

        wkv_t = (sum_{s<t} e^{k_s - (t-1-s) w} v_s + e^{k_t + u} v_t) / (the same without v),     w = exp(decay) > 0

    k, v: (B, T, C)    decay, bonus u: (C,)    -> (B, T, C)
    After a round, token t has the sum over its last 1, 2, 4, ... tokens: its own window plus the one that ends
    where its own begins, which is as much older and as much decayed. No (T, T) table, and no sum that could overflow.
    """
    sums = (v, torch.ones_like(v), k)
    width = 1
    while width < k.shape[1]:
        num, den, p = earlier(sums, width)
        sums = wkv_add((num, den, p - width * torch.exp(decay)), sums)
        width *= 2
    present = (v, torch.ones_like(v), k + bonus)
    num, den, _ = wkv_add(earlier(sums, 1), present)
    return num / den


def token_shift(x, mix):
    """Each channel's own blend of a token (mix 1) and the one before it (mix 0): (B, T, C), (C,) -> (B, T, C)"""
    before = F.pad(x[:, :-1], (0, 0, 1, 0))
    return before + (x - before) * mix


def channels(C, values):
    """A parameter with one number a channel. values: a function of the channels' numbers 0 ... C - 1"""
    return start_at(nn.Parameter(torch.empty(C)), lambda: values(torch.arange(C)))


def start_mix(n, depth):
    """The first channels read the token before, the last ones the token itself; deep layers more of the latter.

    depth: l / L for layer l of L. As in the authors' code: (n / C)^(1 - l / L) for channel n.
    """
    return (n / len(n)) ** (1 - depth)


class TimeMix(nn.Module):
    """RWKV's place of attention: sigmoid(receptance) * wkv, then one output matrix. (B, T, C) -> (B, T, C)

    The starting points follow the authors' code (RWKV-LM, RWKV-v4): slow and fast channels, exp(decay) = 0.007 ... 20 a
    token. There the exponent of the decay and the shift of mix_value depend on l / (L - 1); here all depend on
    depth = l / L, so that a model of one layer has them too.
    """

    def __init__(self, config, depth):
        super().__init__()
        C = config.hidden_size
        self.receptance = nn.Linear(C, C)
        self.key = nn.Linear(C, C)
        self.value = nn.Linear(C, C)
        self.output = nn.Linear(C, C)
        self.decay = channels(C, lambda n: -5 + 8 * (n / max(1, C - 1)) ** (0.7 + 1.3 * depth))
        self.bonus = channels(C, lambda n: 0.5 * ((n + 1) % 3 - 1) + math.log(0.3))
        self.mix_key = channels(C, lambda n: start_mix(n, depth))
        self.mix_value = channels(C, lambda n: start_mix(n, depth) + 0.3 * depth)
        self.mix_receptance = channels(C, lambda n: start_mix(n, depth) ** 0.5)

    def forward(self, x):
        k = self.key(token_shift(x, self.mix_key))
        v = self.value(token_shift(x, self.mix_value))
        wkv = wkv_parallel(k.float(), v.float(), self.decay, self.bonus)
        gate = torch.sigmoid(self.receptance(token_shift(x, self.mix_receptance)))
        return self.output(gate * wkv)


class ChannelMix(nn.Module):
    """RWKV's feed-forward: sigmoid(receptance) * W2 relu(W1 x)^2, with the token shift. (B, T, C) -> (B, T, C)"""

    def __init__(self, config, depth):
        super().__init__()
        C = config.hidden_size
        self.receptance = nn.Linear(C, C)
        self.up = nn.Linear(C, 4 * C)
        self.down = nn.Linear(4 * C, C)
        self.mix_receptance = channels(C, lambda n: start_mix(n, depth))
        self.mix_key = channels(C, lambda n: start_mix(n, depth))

    def forward(self, x):
        neurons = F.relu(self.up(token_shift(x, self.mix_key))).square()
        return torch.sigmoid(self.receptance(token_shift(x, self.mix_receptance))) * self.down(neurons)


def rwkv_layer(config, i):
    """Layer i: time mix and channel mix."""
    depth = i / config.num_layers
    return ResidualBlock(config, i, TimeMix(config, depth), ChannelMix(config, depth))
