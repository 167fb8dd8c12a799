"""xLSTM: mLSTM and sLSTM."""

import math

import torch
import torch.nn.functional as F
from torch import nn


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


def mlstm_recurrent(q, k, v, i, f, state=None):
    """The same, token by token: a matrix C that maps keys to values is read and written once a token.

        m_t = max(log f_t + m_{t-1}, i_t),    f' = exp(log f_t + m_{t-1} - m_t),    i' = exp(i_t - m_t)
        C_t = f' C_{t-1} + i' k_t v_t^T,      n_t = f' n_{t-1} + i' k_t
        h_t = q_t C_t / max(|q_t . n_t|, exp(-m_t))

    Shapes as in mlstm_parallel. Returns (h, state). state: (C, n, m) of each text, (B, heads, d, d), (B, heads, d)
    and (B, heads), to go on from with the text's next piece; None at its start.
    """
    log_f, k = F.logsigmoid(f), k / math.sqrt(q.shape[-1])
    if state is None:
        n = torch.zeros_like(q[:, :, 0])
        state = n[..., None] * v[:, :, 0, None, :], n, torch.full_like(i[:, :, 0], -math.inf)
    memory, n, m = state
    outputs = []
    for t in range(q.shape[2]):
        m_before, m = m, torch.maximum(log_f[..., t] + m, i[..., t]).detach()
        keep, write = torch.exp(log_f[..., t] + m_before - m)[..., None], torch.exp(i[..., t] - m)[..., None]
        memory = keep[..., None] * memory + (write * k[:, :, t])[..., None] * v[:, :, t, None, :]
        n = keep * n + write * k[:, :, t]
        total = (q[:, :, t] * n).sum(dim=-1, keepdim=True).abs()
        outputs.append((q[:, :, t, None, :] @ memory)[:, :, 0] / torch.maximum(total, torch.exp(-m[..., None])))
    return torch.stack(outputs, dim=2), (memory, n, m)


def slstm(x, recurrent):
    """An LSTM with exponential input gates; the previous output comes back through a matrix of each head's own.

        z, i, f, o = x_t + h_{t-1} R,      m_t, f', i' as in mlstm_recurrent
        c_t = f' c_{t-1} + i' tanh(z),     n_t = f' n_{t-1} + i',      h_t = sigmoid(o) c_t / n_t

    x: what the tokens say, (B, T, 4, heads, d)    recurrent R: (heads, d, 4 d)    -> (B, T, heads, d)
    There is no parallel form: the gates look at h_{t-1}. n_t is never below 1, since f' or i' is 1.
    """
    x = x.permute(1, 3, 0, 2, 4)  # (T, heads, B, 4, d): a head is one matrix product
    c = n = h = torch.zeros_like(x[0, :, :, 0])
    m = torch.full_like(c, -math.inf)
    outputs = []
    for x_t in x:
        z, i, f, o = (x_t + (h @ recurrent).view(x_t.shape)).unbind(dim=2)  # (heads, B, d)
        log_f = F.logsigmoid(f)
        m_before, m = m, torch.maximum(log_f + m, i).detach()
        keep, write = torch.exp(log_f + m_before - m), torch.exp(i - m)
        c, n = keep * c + write * torch.tanh(z), keep * n + write
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs).permute(2, 0, 1, 3)


class MLSTM(nn.Module):
    """mLSTM cells twice as wide as the model, behind a gate. The paper's block has a causal convolution, too."""

    def __init__(self, config):
        super().__init__()
        self.num_heads, H, width = config.num_heads, config.hidden_size, 2 * config.hidden_size
        self.query, self.key, self.value, self.output_gate = (nn.Linear(H, width) for _ in range(4))
        self.gates = nn.Linear(H, 2 * self.num_heads)  # one input and one forget gate a head
        # Forget gates of sigmoid(3) ... sigmoid(6), as the authors start: memories of 20 tokens, of 400.
        self.gates.bias.data = torch.cat([torch.zeros(self.num_heads), torch.linspace(3, 6, self.num_heads)])
        self.head_norm, self.output = nn.LayerNorm(width // self.num_heads), nn.Linear(width, H)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (linear(x).float().view(B, T, self.num_heads, -1).transpose(1, 2)  # (B, heads, T, d)
                   for linear in (self.query, self.key, self.value))
        i, f = self.gates(x).float().view(B, T, 2, self.num_heads).permute(2, 0, 3, 1)  # (B, heads, T)
        h = self.head_norm(mlstm_parallel(q, k, v, i, f)).transpose(1, 2).flatten(2)
        return self.output(h * F.silu(self.output_gate(x)))


class SLSTM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_heads, H, d = config.num_heads, config.hidden_size, config.hidden_size // config.num_heads
        self.gates = nn.Linear(H, 4 * H)  # z, input, forget, output
        self.gates.bias.data[2 * H:3 * H] = torch.linspace(3, 6, self.num_heads).repeat_interleave(d)
        self.recurrent = nn.Parameter(torch.zeros(self.num_heads, d, 4 * d))
        self.head_norm = nn.LayerNorm(d)

    def forward(self, x):
        x = self.gates(x).float().view(*x.shape[:2], 4, self.num_heads, -1)
        return self.head_norm(slstm(x, self.recurrent)).flatten(2)


class GatedFeedForward(nn.Module):
    """down(gelu(a) * b), 4/3 as wide as the model: what follows an sLSTM."""

    def __init__(self, config):
        super().__init__()
        H, width = config.hidden_size, 4 * config.hidden_size // 3
        self.up, self.down = nn.Linear(H, 2 * width), nn.Linear(width, H)

    def forward(self, x):
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(F.gelu(a) * b)
