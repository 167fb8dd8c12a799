"""LSTM and GRU, read in both directions in every layer. The cells are torch.nn's.

    LSTM    c_t = f_t * c_{t-1} + i_t * z_t,    h_t = o_t * tanh(c_t)
            gates f, i, o = sigmoid(W x_t + R h_{t-1} + b),    z_t = tanh(W x_t + R h_{t-1} + b)
    GRU     h_t = (1 - u_t) * n_t + u_t * h_{t-1},    the update gate u_t = sigmoid(W x_t + R h_{t-1} + b)

LSTM: Hochreiter and Schmidhuber 1997, with the forget gate f of Gers, Schmidhuber and Cummins 2000.
GRU: Cho et al. 2014, arXiv:1406.1078.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.sequence import flip

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


def outputs(rnn, x):
    """The output h_t of every token: (B, T, in) -> (B, T, hidden). On a CPU in float32, also under autocast: torch has
    no bfloat16 LSTM for processors without bfloat16 instructions."""
    if x.device.type != "cpu":
        return rnn(x)[0]
    with torch.autocast("cpu", enabled=False):
        return rnn(x.float())[0]


class BothWays(nn.Module):
    """A cell that reads to the right and one that reads to the left: (B, T, in) -> (B, T, 2 hidden).

    The same numbers as one bidirectional module on packed sequences, without a loop over lengths on the CPU.
    """

    def __init__(self, config, i):
        super().__init__()
        cell = CELLS[config.kind]
        H = config.hidden_size
        in_size = config.embedding_size if i == 0 else 2 * H
        self.is_first = i == 0
        self.dropout = config.hidden_dropout
        self.forwards = cell(in_size, H, batch_first=True)
        self.backwards = cell(in_size, H, batch_first=True)
        for rnn in (self.forwards, self.backwards):
            for gate in rnn.weight_hh_l0.data.split(H):  # a rotation keeps the length of the state
                nn.init.orthogonal_(gate)
            if config.kind == "lstm":  # of input, forget, z and output gate: remember at first (Gers et al. 2000)
                rnn.bias_ih_l0.data[H:2 * H] = 1.0

    def forward(self, x, order):
        if not self.is_first:  # the embeddings have a dropout of their own
            x = F.dropout(x, self.dropout, self.training)
        to_the_right = outputs(self.forwards, x)
        to_the_left = flip(outputs(self.backwards, flip(x, order)), order)
        return torch.cat([to_the_right, to_the_left], dim=-1)
