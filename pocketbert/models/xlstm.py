"""xLSTM (Beck et al. 2024, arXiv:2405.04517): LSTMs with exponential gates. mLSTM and sLSTM layers take turns.

    sLSTM   c_t = f_t c_{t-1} + i_t z_t,        n_t = f_t n_{t-1} + i_t,        h_t = o_t c_t / n_t
    mLSTM   C_t = f_t C_{t-1} + i_t v_t k_t^T,  n_t = f_t n_{t-1} + i_t k_t,    h_t = C_t q_t / max(|n_t . q_t|, 1)
            i_t = exp(...),    f_t = sigmoid(...)

c, n: numbers. C: a matrix that maps keys to values, with one head for each pair of gates. An mLSTM's gates do not
depend on h_{t-1}, so all tokens are computed at once; the token by token form, with the same results, is in
tests/models/test_xlstm.py.

Exponentials overflow. So where the paper has a sum S, here is S / exp(m), with a running maximum m:

    m_t = max(log f_t + m_{t-1}, i_t),    f' = exp(log f_t + m_{t-1} - m_t),    i' = exp(i_t - m_t)

with i_t before its exp. m cancels in every output, so no gradient needs to flow through it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.sequence import ResidualBlock, start_at


def mlstm_parallel(q, k, v, i, f):
    """All tokens of an mLSTM at once: attention without softmax, each pair of tokens weighted by the gates.

        log D[t, s] = i_s + log f_{s+1} + ... + log f_t,  s <= t;     m_t = max over s of log D[t, s]
        A = (q k^T / sqrt(d)) * exp(log D - m),     h_t = sum_s A[t, s] v_s / max(|sum_s A[t, s]|, exp(-m_t))

    q, k, v: (B, heads, T, d)    i, f: (B, heads, T), before exp and sigmoid    -> (B, heads, T, d)
    """
    T = q.shape[2]
    log_f = F.logsigmoid(f).cumsum(dim=-1)  # a difference of two entries is the sum between them
    log_d = log_f[..., :, None] - log_f[..., None, :] + i[..., None, :]  # (B, heads, T, T)
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    log_d = log_d.masked_fill(future, -math.inf)
    m = log_d.detach().amax(dim=-1, keepdim=True)
    a = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) * torch.exp(log_d - m)
    return a @ v / torch.maximum(a.sum(dim=-1, keepdim=True).abs(), torch.exp(-m))


def slstm(x, recurrent):
    """An LSTM with exponential input gates; the previous output comes back through a matrix of each head's own.

        z, i, f, o = x_t + h_{t-1} R,      m_t, f', i' as above
        c_t = f' c_{t-1} + i' tanh(z),     n_t = f' n_{t-1} + i',      h_t = sigmoid(o) c_t / n_t

    x: W x_t + b, (B, T, 4, heads, d)    recurrent R: (heads, d, 4 d)    -> (B, T, heads, d)
    There is no parallel form, because the gates depend on h_{t-1}. n_t is never below 1, since f' or i' is 1.
    """
    x = x.permute(1, 3, 0, 2, 4)  # (T, heads, B, 4, d): a head is one matrix product
    c = n = h = torch.zeros_like(x[0, :, :, 0])
    m = torch.full_like(c, -math.inf)
    outputs = []
    for x_t in x:
        z, i, f, o = (x_t + (h @ recurrent).view(x_t.shape)).unbind(dim=2)  # (heads, B, d)
        log_f = F.logsigmoid(f)
        m_before = m
        m = torch.maximum(log_f + m, i).detach()
        keep = torch.exp(log_f + m_before - m)
        write = torch.exp(i - m)
        c = keep * c + write * torch.tanh(z)
        n = keep * n + write
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs).permute(2, 0, 1, 3)


def forget_gates(num_heads):
    """The authors' starting points, sigmoid(3) ... sigmoid(6): memories of 20 to 400 tokens. -> (num_heads,)"""
    return torch.linspace(3, 6, num_heads)


class MLSTM(nn.Module):
    """mLSTM cells twice as wide as the model, behind an output gate: (B, T, hidden) -> (B, T, hidden).

    The paper's block also has a causal convolution, which is left out here.
    """

    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        width = 2 * H
        self.num_heads = config.num_heads
        self.query = nn.Linear(H, width)
        self.key = nn.Linear(H, width)
        self.value = nn.Linear(H, width)
        self.output_gate = nn.Linear(H, width)
        self.gates = nn.Linear(H, 2 * self.num_heads)  # one input and one forget gate a head
        start_at(self.gates.bias, lambda: torch.cat([torch.zeros(self.num_heads), forget_gates(self.num_heads)]))
        self.head_norm = nn.LayerNorm(width // self.num_heads)
        self.output = nn.Linear(width, H)

    def split_heads(self, x):
        return x.float().view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, heads, T, d)

    def forward(self, x):
        B, T, _ = x.shape
        q = self.split_heads(self.query(x))
        k = self.split_heads(self.key(x))
        v = self.split_heads(self.value(x))
        i, f = self.gates(x).float().view(B, T, 2, self.num_heads).permute(2, 0, 3, 1)  # (B, heads, T)
        h = self.head_norm(mlstm_parallel(q, k, v, i, f)).transpose(1, 2).flatten(2)
        return self.output(h * F.silu(self.output_gate(x)))


class SLSTM(nn.Module):
    """sLSTM cells: (B, T, hidden) -> (B, T, hidden)."""

    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        d = H // config.num_heads
        self.num_heads = config.num_heads
        self.gates = nn.Linear(H, 4 * H)  # z, input, forget, output
        start_at(self.gates.bias[2 * H:3 * H], lambda: forget_gates(self.num_heads).repeat_interleave(d))
        self.recurrent = nn.Parameter(torch.zeros(self.num_heads, d, 4 * d))
        self.head_norm = nn.LayerNorm(d)

    def forward(self, x):
        x = self.gates(x).float().view(*x.shape[:2], 4, self.num_heads, -1)
        return self.head_norm(slstm(x, self.recurrent)).flatten(2)


class GatedFeedForward(nn.Module):
    """down(gelu(a) * b), 4/3 as wide as the model: it follows an sLSTM. (B, T, hidden) -> (B, T, hidden)"""

    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        width = 4 * H // 3
        self.up = nn.Linear(H, 2 * width)
        self.down = nn.Linear(width, H)

    def forward(self, x):
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(F.gelu(a) * b)


def xlstm_layer(config, i):
    """Layer i: an mLSTM, which is wide itself and has no feed-forward, or an sLSTM with one, in turn."""
    if i % 2 == 0:
        return ResidualBlock(config, i, MLSTM(config), feed=None)
    return ResidualBlock(config, i, SLSTM(config), GatedFeedForward(config))
