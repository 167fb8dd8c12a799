"""A bag of words and n-grams."""

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.sequence import WordEmbeddings


def hash_ngrams(input_ids, n, buckets):
    """The row of each n-gram: a polynomial in its token ids modulo a prime, modulo `buckets`.

    input_ids: (B, T) -> (B, T - n + 1), the same on every machine. The prime is below 2^31 and the factor below
    2^32, so int64 does not overflow; n is the first digit, so orders do not share rows by construction.
    """
    count = max(0, input_ids.shape[1] - n + 1)
    rows = torch.full_like(input_ids[:, :count], n, dtype=torch.int64)
    for j in range(n):
        rows = (rows * 2_654_435_761 + input_ids[:, j:j + count] + 1) % 2_147_483_647
    return rows % buckets


class Dense(nn.Module):
    """A layer of the bag."""

    def __init__(self, config, i):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size if i else 2 * config.embedding_size, config.hidden_size)

    def forward(self, x, order):
        return F.relu(self.linear(x))


class BagEmbeddings(WordEmbeddings):
    """A word's vector + those of the n-grams that end with it: (B, T) -> (B, T, embedding).

    A step of training costs what the table weighs, since each row has a gradient and Adam's two averages: 131,072
    n-grams of width 64 make it some 30 times as slow as words alone.
    """

    def __init__(self, config):
        super().__init__(config)
        self.orders, self.buckets = range(2, config.ngrams + 1), config.buckets
        if self.orders:
            self.ngram = nn.Embedding(self.buckets, config.embedding_size)
            nn.init.zeros_(self.ngram.weight)  # one that training never shows adds nothing later

    def forward(self, input_ids, mask):
        x = self.word(input_ids)
        for n in self.orders:
            x = x + F.pad(self.ngram(hash_ngrams(input_ids, n, self.buckets)), (0, 0, n - 1, 0))[:, :x.shape[1]]
        return x

    def drop(self, mask):
        """Training forgets whole words (Iyyer et al. 2015, section 2.3), but never all of a text."""
        kept = mask & (torch.rand(mask.shape, device=mask.device) >= self.dropout) if self.training else mask
        return torch.where(kept.any(dim=1, keepdim=True), kept, mask)
