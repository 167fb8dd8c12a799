"""What the models without attention share: word vectors, reading order, pooling."""

import math

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
    """Reverse the real tokens of x (B, T, C); twice is the identity."""
    return x.gather(1, order[..., None].expand_as(x))


def masked_mean(x, mask):
    """(B, T, C), (B, T) bool -> (B, C)"""
    weights = mask.to(x.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights[:, None] @ x)[:, 0]


def mean_and_max(x, mask):
    """Mean and maximum over the real tokens: (B, T, C), (B, T) bool -> (B, 2 C)"""
    highest = x.masked_fill(~mask[..., None], -math.inf).amax(dim=1)
    return torch.cat([masked_mean(x, mask), highest], dim=-1)


class WordEmbeddings(nn.Module):
    """Token ids (B, T) -> vectors (B, T, embedding)."""

    def __init__(self, config):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        nn.init.normal_(self.word.weight, std=0.1)  # small, so that rare words, hardly trained, do not shout

    def forward(self, input_ids, mask):
        return F.dropout(self.word(input_ids), self.dropout, self.training)
