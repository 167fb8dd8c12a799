"""LSTM and GRU, read in both directions."""

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.sequence import flip


class BothWays(nn.Module):
    """An LSTM or GRU that reads to the right and one that reads to the left: (B, T, in) -> (B, T, 2 hidden).

    The same numbers as one bidirectional module on packed sequences, without a loop over lengths on the CPU.
    """

    def __init__(self, config, i):
        super().__init__()
        cell, H = {"lstm": nn.LSTM, "gru": nn.GRU}[config.kind], config.hidden_size
        self.deep, self.dropout = i > 0, config.hidden_dropout
        in_size = 2 * H if self.deep else config.embedding_size
        self.forwards, self.backwards = (cell(in_size, H, batch_first=True) for _ in range(2))
        for rnn in (self.forwards, self.backwards):
            for gate in rnn.weight_hh_l0.data.split(H):  # a rotation neither swells nor shrinks the state
                nn.init.orthogonal_(gate)
            if config.kind == "lstm":  # input, forget, z, output: remember at first (Gers et al. 2000)
                rnn.bias_ih_l0.data[H:2 * H] = 1.0

    def forward(self, x, order):
        if self.deep:  # the embeddings have dropped already
            x = F.dropout(x, self.dropout, self.training)
        return torch.cat([self.forwards(x)[0], flip(self.backwards(flip(x, order))[0], order)], dim=-1)
