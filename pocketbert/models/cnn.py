"""A convolutional network: each layer sees the neighbours of a token, all tokens at once.

    h_t  = LayerNorm(x_t),    0 outside of the text
    a, b = W [h_{t-1}, h_t, h_{t+1}] + bias                     width 3; width 5 sees two tokens on either side
    x_t  <- x_t + a * sigmoid(b)                                the gate b says how much of a passes

Two layers of width 3 see five tokens: phrases such as "not a good phone". The mean and the maximum over the tokens tell
the head what occurs anywhere in the text. Nothing waits for the token before, as it does in an LSTM or GRU.

The convolution is one nn.Linear on the neighbours side by side, which calculates what nn.Conv1d does: so each stored
format, the pruning of weights, and the int8 matrix products of graph runtimes work on it as on any other matrix.

Convolutions for sentences: Kim 2014, arXiv:1408.5882. The gate (gated linear unit): Dauphin et al. 2017,
arXiv:1612.08083.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.masks import full_mask
from pocketbert.models.sequence import LinearHead, WordEmbeddings, device_of, mean_and_max


def neighbours(h, width):
    """The vectors of `width` tokens around each token side by side, zeros outside: (B, T, C) -> (B, T, width C)

        width 3:    0 h_0 h_1,    h_0 h_1 h_2,    h_1 h_2 0
    """
    padded = F.pad(h, (0, 0, width // 2, width // 2))
    return torch.cat([padded[:, j:j - width + 1 or None] for j in range(width)], dim=-1)


class GatedConvolution(nn.Module):
    """x + a * sigmoid(b), where a and b are convolutions of LayerNorm(x): (B, T, hidden) -> the same"""

    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        self.width = config.width
        self.dropout = config.hidden_dropout
        self.norm = nn.LayerNorm(H)
        self.linear = nn.Linear(config.width * H, 2 * H)

    def forward(self, x, mask):
        """mask: (B, T, 1), 1 for text and 0 for padding, which must look like the zeros beyond the last token."""
        h = neighbours(self.norm(x) * mask, self.width)
        return x + F.dropout(F.glu(self.linear(h)), self.dropout, self.training)


class ConvolutionalClassifier(nn.Module):
    """embeddings -> projection, if widths differ -> layers -> mean and maximum -> head. Called like the Encoder."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = WordEmbeddings(config)
        self.projection = nn.Identity()
        if config.embedding_size != config.hidden_size:
            self.projection = nn.Linear(config.embedding_size, config.hidden_size)
        self.layers = nn.ModuleList(GatedConvolution(config) for _ in range(config.num_layers))
        self.head = LinearHead(config)

    @property
    def device(self):
        return device_of(self)

    def forward(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels). attention_mask: (B, T), 1 for text, then 0 for padding."""
        mask = full_mask(input_ids, attention_mask).bool()
        x = self.projection(self.embeddings(input_ids))
        for layer in self.layers:
            x = layer(x, mask[..., None])
        return self.head(mean_and_max(x, mask))
