"""What the models without attention share: word vectors, the direction of reading, pooling, the residual block.

LSTM, GRU, xLSTM and RWKV read a text token by token and carry a state. They are causal, so padding on the right never
reaches a token of the text. To read from right to left, the tokens of each text are reversed in place (`flip`) and the
padding stays where it is.

The head reads the mean and the maximum over a text's tokens, side by side, because the words that decide can stand
anywhere in it (Howard and Ruder 2018, arXiv:1801.06146, section 3.3).
"""

import math
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn


def reversed_order(mask):
    """For each text, where its tokens go when it is read from the right; padding stays: (B, T) bool -> (B, T) int64.

        lengths 4, 2:    3 2 1 0,    1 0 2 3
    """
    positions = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    last = mask.sum(dim=1, keepdim=True) - 1
    return torch.where(positions <= last, last - positions, positions)


def flip(x, order):
    """Reverse the real tokens of x (B, T, C); twice is the identity. order: of reversed_order."""
    return x.gather(1, order[..., None].expand_as(x))


def masked_mean(x, mask):
    """The mean over the real tokens: (B, T, C), (B, T) bool -> (B, C)"""
    weights = mask.to(x.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights[:, None] @ x)[:, 0]


def mean_and_max(x, mask):
    """Mean and maximum over the real tokens: (B, T, C), (B, T) bool -> (B, 2 C)"""
    highest = x.masked_fill(~mask[..., None], -math.inf).amax(dim=1)
    return torch.cat([masked_mean(x, mask), highest], dim=-1)


def start_at(parameter, values):
    """Give a parameter its initial numbers. values: a function that computes them

    Not on the meta device, where the numbers will come from a file: its arithmetic imports all of torch's compiler.
    """
    if not parameter.is_meta:
        with torch.no_grad():
            parameter.copy_(values())
    return parameter


class WordEmbeddings(nn.Module):
    """Token ids (B, T) -> vectors (B, T, embedding)."""

    def __init__(self, config):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        nn.init.normal_(self.word.weight, std=0.1)  # small: the vector of a rare word, hardly trained, adds little

    def forward(self, input_ids):
        return F.dropout(self.word(input_ids), self.dropout, self.training)


class ResidualBlock(nn.Module):
    """x + mix(norm(x)), then x + feed(norm(x)): (B, T, hidden) -> the same. The block of xLSTM and RWKV.

    mix: mixes the tokens    feed: works on each token alone; None: the block ends after `mix`
    Odd blocks read from right to left (Alkin et al. 2024, arXiv:2406.04303): number 0 to the right, 1 to the left ...
    """

    def __init__(self, config, i, mix, feed):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.leftwards = i % 2 == 1
        self.mix = mix
        self.feed = feed
        self.mix_norm = nn.LayerNorm(config.hidden_size)
        self.feed_norm = nn.LayerNorm(config.hidden_size) if feed else None

    def forward(self, x, order):
        x = flip(x, order) if self.leftwards else x
        x = x + F.dropout(self.mix(self.mix_norm(x)), self.dropout, self.training)
        if self.feed:
            x = x + F.dropout(self.feed(self.feed_norm(x)), self.dropout, self.training)
        return flip(x, order) if self.leftwards else x


class LinearHead(nn.Module):
    """The vector of a text -> logits: one matrix behind dropout."""

    def __init__(self, config):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.out = nn.Linear(config.text_size, len(config.label_names))

    def forward(self, x):
        return self.out(F.dropout(x, self.dropout, self.training))


def device_of(model):
    """Where a model is. A quantized one may have buffers and no parameter."""
    return next(chain(model.parameters(), model.buffers())).device
