"""A bag of words and n-grams: no state, no order beyond the n-grams.

    vector of a token = the word's vector + those of the n-grams of 2 ... N tokens that end with it
    vector of a text  = [mean over its tokens, maximum over its tokens]
    logits            = head(relu(W vector + b)),    with as many dense layers as asked for

The bag is fastText's (Joulin et al. 2016, arXiv:1607.01759), with the pooling of SWEM (Shen et al. 2018,
arXiv:1805.09843). As a student it is Ye et al. 2022 (arXiv:2110.08536).
"""

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.masks import full_mask
from pocketbert.models.sequence import LinearHead, WordEmbeddings, device_of, mean_and_max


def hash_ngrams(input_ids, n, buckets):
    """The row of each n-gram: a polynomial in its token ids modulo a prime, modulo `buckets`.

    input_ids: (B, T) -> (B, T - n + 1), the same on every machine. The prime is below 2^31 and the factor below
    2^32, so int64 does not overflow. n is the first digit, so that n-grams of two lengths do not collide by
    construction.
    """
    count = max(0, input_ids.shape[1] - n + 1)
    rows = torch.full_like(input_ids[:, :count], n, dtype=torch.int64)
    for j in range(n):
        rows = (rows * 2_654_435_761 + input_ids[:, j:j + count] + 1) % 2_147_483_647
    return rows % buckets


class BagEmbeddings(WordEmbeddings):
    """A word's vector + those of the n-grams that end with it: (B, T) -> (B, T, embedding).

    Every row of the n-gram table has a gradient and Adam's two averages, so a step of training costs what the table
    weighs: 131,072 n-grams of width 64 make it some 30 times as slow as words alone.
    """

    def __init__(self, config):
        super().__init__(config)
        self.orders = range(2, config.ngrams + 1)
        self.buckets = config.buckets
        if self.orders:
            self.ngram = nn.Embedding(self.buckets, config.embedding_size)
            nn.init.zeros_(self.ngram.weight)  # an n-gram that training never shows adds nothing later

    def forward(self, input_ids):
        x = self.word(input_ids)
        for n in self.orders:
            ngrams = self.ngram(hash_ngrams(input_ids, n, self.buckets))  # (B, T - n + 1, embedding)
            x = x + F.pad(ngrams, (0, 0, n - 1, 0))[:, :x.shape[1]]
        return x

    def drop(self, mask):
        """Leave out whole words in training (Iyyer et al. 2015, section 2.3), but never all of a text.

        mask: (B, T) bool -> (B, T) bool
        """
        if not self.training:
            return mask
        kept = mask & (torch.rand(mask.shape, device=mask.device) >= self.dropout)
        return torch.where(kept.any(dim=1, keepdim=True), kept, mask)


class Dense(nn.Module):
    """relu(W x + b), on the vector of a text."""

    def __init__(self, config, i):
        super().__init__()
        in_size = 2 * config.embedding_size if i == 0 else config.hidden_size
        self.linear = nn.Linear(in_size, config.hidden_size)

    def forward(self, x):
        return F.relu(self.linear(x))


class BagClassifier(nn.Module):
    """embeddings -> mean and maximum -> dense layers -> head. Called like the Encoder."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = BagEmbeddings(config)
        self.layers = nn.ModuleList(Dense(config, i) for i in range(config.num_layers))
        self.head = LinearHead(config)

    @property
    def device(self):
        return device_of(self)

    def forward(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels). attention_mask: (B, T), 1 for text, then 0 for padding."""
        mask = full_mask(input_ids, attention_mask).bool()
        x = mean_and_max(self.embeddings(input_ids), self.embeddings.drop(mask))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
