"""Text classifiers without attention: LSTM, GRU, xLSTM, RWKV and a bag of n-grams.

All but the bag read a text token by token and carry a state. Every cell below is causal, so padding on the right
never reaches a real token; to read from right to left, a text's real tokens are reversed in place (`flip`). LSTM and
GRU read both ways in every layer, xLSTM and RWKV take turns: layer 0 to the right, layer 1 to the left, and so on
(Alkin et al. 2024, arXiv:2406.04303). Mean and maximum over a text's tokens, side by side, go to the head: words that
decide can stand anywhere (Howard and Ruder 2018, arXiv:1801.06146, section 3.3).

    LSTM    c_t = f_t * c_{t-1} + i_t * z_t,    h_t = o_t * tanh(c_t),    gates f, i, o = sigmoid(W x_t + R h_{t-1} + b)
    GRU     h_t = (1 - u_t) * n_t + u_t * h_{t-1}                         (both are torch.nn's)
    sLSTM   c_t = f_t * c_{t-1} + i_t * z_t,    n_t = f_t * n_{t-1} + i_t,      h_t = o_t * c_t / n_t,    i_t = exp(...)
    mLSTM   C_t = f_t C_{t-1} + i_t v_t k_t^T,  n_t = f_t n_{t-1} + i_t k_t,    h_t = C_t q_t / max(|n_t . q_t|, 1)
    RWKV    the average of v_1 ... v_t with weights exp(k_s - (t-1-s) w) for the past and exp(k_t + u) for the present
    bag     no state: a word's vector + those of the n-grams that end there, then dense layers behind mean and maximum

xLSTM (sLSTM and mLSTM): Beck et al. 2024, arXiv:2405.04517. RWKV-4: Peng et al. 2023, arXiv:2305.13048. The bag is
fastText's (Joulin et al. 2016, arXiv:1607.01759), with the pooling of SWEM (Shen et al. 2018, arXiv:1805.09843); as a
student it is Ye et al. 2022 (arXiv:2110.08536).

Exponents are kept small with a running maximum m: where a paper has a sum S, we hold S / exp(m). m cancels in every
output, so no gradient needs to flow through it.

mLSTM and RWKV come in two forms, with equal results: parallel over the tokens, which the models use, and recurrent,
which takes a text in pieces and carries a state from piece to piece.

    model = build("gru:hidden=256,layers=2", vocab_size=8000, pad_id=0, label_names=["bad", "good"])
    logits = model(input_ids, attention_mask)
"""

import math
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn

from distillation import svd_table

KINDS = ("lstm", "gru", "xlstm", "rwkv", "bag")

# The formulas ------------------------------------------------------------------------------------------


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


def wkv_add(older, newer):
    """The sum of two weighted sums of values. Each is (num, den, p) and stands for num * exp(p), den * exp(p)."""
    (num_a, den_a, p_a), (num_b, den_b, p_b) = older, newer
    p = torch.maximum(p_a, p_b).detach()
    a, b = torch.exp(p_a - p), torch.exp(p_b - p)
    return a * num_a + b * num_b, a * den_a + b * den_b, p


def wkv_parallel(k, v, decay, bonus):
    """RWKV's weighted average of values, all tokens at once, in ceil(log2 T) rounds.

        wkv_t = (sum_{s<t} e^{k_s - (t-1-s) w} v_s + e^{k_t + u} v_t) / (the same without v),     w = exp(decay) > 0

    k, v: (B, T, C)    decay, bonus u: (C,)    -> (B, T, C)
    After a round, token t holds the sum over its last 1, 2, 4, ... tokens: its own window plus the one that ends
    where its own begins, so much older and so much decayed. No (T, T) table, and no sum that could overflow.
    """
    def earlier(sums, steps):  # what the token `steps` before holds; before the text: nothing, which is exp(-inf)
        return [F.pad(x[:, :-steps], (0, 0, steps, 0), value=fill)
                for x, fill in zip(sums, (0.0, 0.0, -math.inf), strict=True)]

    sums, width = (v, torch.ones_like(v), k), 1
    while width < k.shape[1]:
        num, den, p = earlier(sums, width)
        sums = wkv_add((num, den, p - width * torch.exp(decay)), sums)
        width *= 2
    num, den, _ = wkv_add(earlier(sums, 1), (v, torch.ones_like(v), k + bonus))
    return num / den


def wkv_recurrent(k, v, decay, bonus, state=None):
    """The same, token by token. state: (num, den, p) of each text, (B, C) each, None at the start of a text.

    Returns (wkv, state).
    """
    if state is None:
        zeros = torch.zeros_like(k[:, 0])
        state = zeros, zeros, zeros - math.inf
    outputs = []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        num, den, _ = wkv_add(state, (v_t, torch.ones_like(v_t), k_t + bonus))
        outputs.append(num / den)
        num, den, p = state
        state = wkv_add((num, den, p - torch.exp(decay)), (v_t, torch.ones_like(v_t), k_t))
    return torch.stack(outputs, dim=1), state


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


# The shape of a model ----------------------------------------------------------------------------------

LEAST = {"vocab_size": 1, "embedding_size": 1, "hidden_size": 1, "num_layers": 1, "num_heads": 1, "ngrams": 1,
         "buckets": 0, "pad_token_id": 0, "max_length": 1}


@dataclass
class RecurrentConfig:
    """Everything that decides the shape of the tensors, as EncoderConfig does for the encoder."""

    kind: str = "lstm"
    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 128  # LSTM, GRU: of each direction
    num_layers: int = 1  # bag: dense layers, 0: the head alone
    num_heads: int = 1  # xLSTM
    ngrams: int = 1  # bag: 1 is words only, 3 adds pairs and triples
    buckets: int = 0  # bag: rows that all n-grams of two and more tokens share
    pad_token_id: int = 0
    max_length: int = 512  # texts are cut there; the models themselves take any length
    hidden_dropout: float = 0.3
    label_names: list[str] = field(default_factory=list)
    stored_forms: dict[str, str] = field(default_factory=dict)  # module name -> a form of layers.py
    int8_engine: str | None = None
    hf: dict = field(default_factory=dict)  # config.json as it was read; unknown keys are kept

    def check(self):
        """Raise a ValueError that names the first number that makes no model; else return the config."""
        for name, low in LEAST.items():
            if getattr(self, name) < (0 if (self.kind, name) == ("bag", "num_layers") else low):
                raise ValueError(f"{name} {getattr(self, name)} is too small")
        if self.ngrams > 1 and not self.buckets:
            raise ValueError(f"ngrams {self.ngrams} need buckets")
        if self.kind == "xlstm" and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if not 0 <= self.hidden_dropout < 1:
            raise ValueError(f"hidden_dropout {self.hidden_dropout} is not in [0, 1)")
        if not self.label_names:
            raise ValueError("there are no labels")
        return self

    @classmethod
    def from_hf(cls, hf, source="config.json"):
        """Read a config.json that `to_hf` made. `source` is named in errors."""
        kind = str(hf.get("model_type")).removeprefix("pocketbert-")
        if hf.get("model_type") != f"pocketbert-{kind}" or kind not in KINDS:
            raise ValueError(f"{source}: model_type {hf.get('model_type')!r} is not one of "
                             f"{', '.join(f'pocketbert-{kind}' for kind in KINDS)}")
        if missing := [name for name in LEAST if hf.get(name) is None]:
            raise ValueError(f"{source}: {', '.join(missing)} missing; is this the config.json of a {kind} of ours?")
        try:
            id2label = {int(k): str(v) for k, v in (hf.get("id2label") or {}).items()}
            if sorted(id2label) != list(range(len(id2label))):
                raise ValueError("the keys of id2label are not 0, 1, 2, ...")
            return cls(kind=kind, **{name: int(hf[name]) for name in LEAST},
                       hidden_dropout=float(hf.get("hidden_dropout", cls.hidden_dropout)),
                       label_names=[id2label[i] for i in range(len(id2label))],
                       stored_forms=dict(hf.get("stored_forms") or {}), int8_engine=hf.get("int8_engine"),
                       hf=dict(hf)).check()
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{source}: broken config: {error}") from None

    def to_hf(self):
        """The config.json to save. `transformers` does not know the model_type, and so refuses it."""
        config = {key: value for key, value in self.hf.items() if key not in ("stored_forms", "int8_engine")}
        config |= {"model_type": f"pocketbert-{self.kind}", "architectures": ["PocketBertRecurrent"],
                   **{name: getattr(self, name) for name in LEAST}, "hidden_dropout": self.hidden_dropout,
                   "id2label": {str(i): name for i, name in enumerate(self.label_names)},
                   "label2id": {name: i for i, name in enumerate(self.label_names)}}
        if self.stored_forms:
            config |= {"stored_forms": self.stored_forms, "int8_engine": self.int8_engine}
        return config


# The layers --------------------------------------------------------------------------------------------

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


def token_shift(x, mix):
    """Each channel's own blend of a token (mix 1) and the one before it (mix 0): (B, T, C), (C,) -> (B, T, C)"""
    before = F.pad(x[:, :-1], (0, 0, 1, 0))
    return before + (x - before) * mix


class TimeMix(nn.Module):
    """RWKV's stand-in for attention: sigmoid(receptance) * wkv, then one output matrix."""

    def __init__(self, config, depth):
        super().__init__()
        C = config.hidden_size
        self.receptance, self.key, self.value, self.output = (nn.Linear(C, C) for _ in range(4))
        # The starting points of the paper's appendix: slow channels and fast ones, exp(decay) = 0.007 ... 20 a token.
        n = torch.arange(C)
        self.decay = nn.Parameter(-5 + 8 * (n / max(1, C - 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(0.5 * ((n + 1) % 3 - 1) + math.log(0.3))
        self.mix_key = nn.Parameter(start_mix(C, depth))
        self.mix_value = nn.Parameter(start_mix(C, depth) + 0.3 * depth)
        self.mix_receptance = nn.Parameter(start_mix(C, depth) ** 0.5)

    def forward(self, x):
        k, v = self.key(token_shift(x, self.mix_key)), self.value(token_shift(x, self.mix_value))
        wkv = wkv_parallel(k.float(), v.float(), self.decay, self.bonus)
        return self.output(torch.sigmoid(self.receptance(token_shift(x, self.mix_receptance))) * wkv)


class ChannelMix(nn.Module):
    """RWKV's feed-forward: sigmoid(receptance) * W2 relu(W1 x)^2, with the token shift."""

    def __init__(self, config, depth):
        super().__init__()
        C = config.hidden_size
        self.receptance, self.up, self.down = nn.Linear(C, C), nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.mix_receptance, self.mix_key = (nn.Parameter(start_mix(C, depth)) for _ in range(2))

    def forward(self, x):
        neurons = F.relu(self.up(token_shift(x, self.mix_key))).square()
        return torch.sigmoid(self.receptance(token_shift(x, self.mix_receptance))) * self.down(neurons)


def start_mix(C, depth):
    """The first channels look at the token before, the last at the token itself; deeper layers at the token more."""
    return (torch.arange(C) / C) ** (1 - depth)


class Block(nn.Module):
    """x + mix(norm(x)), then x + feed(norm(x)); odd layers read to the left: (B, T, hidden) -> the same.

    xLSTM alternates mLSTM, which is wide itself and has no feed-forward, and sLSTM.
    """

    def __init__(self, config, i):
        super().__init__()
        self.dropout, self.leftwards, H = config.hidden_dropout, i % 2 == 1, config.hidden_size
        depth = i / config.num_layers
        self.mix = (TimeMix(config, depth) if config.kind == "rwkv" else
                    SLSTM(config) if self.leftwards else MLSTM(config))
        self.feed = (ChannelMix(config, depth) if config.kind == "rwkv" else
                     GatedFeedForward(config) if self.leftwards else None)
        self.mix_norm, self.feed_norm = nn.LayerNorm(H), nn.LayerNorm(H) if self.feed else None

    def forward(self, x, order):
        x = flip(x, order) if self.leftwards else x
        x = x + F.dropout(self.mix(self.mix_norm(x)), self.dropout, self.training)
        if self.feed:
            x = x + F.dropout(self.feed(self.feed_norm(x)), self.dropout, self.training)
        return flip(x, order) if self.leftwards else x


class Dense(nn.Module):
    """A layer of the bag."""

    def __init__(self, config, i):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size if i else 2 * config.embedding_size, config.hidden_size)

    def forward(self, x, order):
        return F.relu(self.linear(x))


class Embeddings(nn.Module):
    """Token ids (B, T) -> vectors (B, T, embedding)."""

    def __init__(self, config):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        nn.init.normal_(self.word.weight, std=0.1)  # small, so that rare words, hardly trained, do not shout

    def forward(self, input_ids, mask):
        return F.dropout(self.word(input_ids), self.dropout, self.training)


class BagEmbeddings(Embeddings):
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


class Head(nn.Module):
    """The vector of a text -> logits."""

    def __init__(self, config):
        super().__init__()
        H, self.dropout = config.hidden_size, config.hidden_dropout
        width = {"lstm": 4 * H, "gru": 4 * H, "bag": H if config.num_layers else 2 * config.embedding_size}
        self.out = nn.Linear(width.get(config.kind, 2 * H), len(config.label_names))

    def forward(self, x):
        return self.out(F.dropout(x, self.dropout, self.training))


class RecurrentClassifier(nn.Module):
    """embeddings -> projection -> layers -> norm -> mean and maximum -> head. Called like the Encoder.

    The bag takes mean and maximum before its layers. Projection and norm are xLSTM's and RWKV's.
    """

    def __init__(self, config):
        super().__init__()
        self.config, is_bag = config, config.kind == "bag"
        layer = Dense if is_bag else BothWays if config.kind in ("lstm", "gru") else Block
        self.embeddings = BagEmbeddings(config) if is_bag else Embeddings(config)
        self.projection = self.norm = nn.Identity()
        if layer is Block:  # its layers add to one vector, of one width throughout
            self.norm = nn.LayerNorm(config.hidden_size)
            if config.embedding_size != config.hidden_size:
                self.projection = nn.Linear(config.embedding_size, config.hidden_size)
        self.layers = nn.ModuleList(layer(config, i) for i in range(config.num_layers))
        self.head = Head(config)

    @property
    def device(self):
        return next(chain(self.parameters(), self.buffers())).device

    def forward(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels). attention_mask: (B, T), 1 for text, then 0 for padding."""
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        order = reversed_order(mask)
        x = self.projection(self.embeddings(input_ids, mask))
        if self.config.kind == "bag":
            x = mean_and_max(x, self.embeddings.drop(mask))
        for layer in self.layers:
            x = layer(x, order)
        return self.head(x if self.config.kind == "bag" else mean_and_max(self.norm(x), mask))


# Fresh models ------------------------------------------------------------------------------------------

DEFAULTS = {  # what a recipe may change; vocab is for whoever makes the tokenizer
    "lstm": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 1},
    "gru": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 1},
    "xlstm": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2, "heads": 4},
    "rwkv": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2},
    # Words alone: on 24,000 tweets n-grams gained nothing. Ye et al.'s student, with a teacher and many more texts,
    # is bag:ngrams=3.
    "bag": {"vocab": 8000, "embedding": 64, "hidden": 64, "layers": 1, "ngrams": 1, "buckets": 131072},
}


def parse_recipe(recipe):
    """'gru:hidden=256,layers=2' -> ("gru", the defaults with these two changed)"""
    kind, _, changes = recipe.partition(":")
    if kind not in DEFAULTS:
        raise ValueError(f"{recipe!r}: {kind!r} is not one of {', '.join(DEFAULTS)}")
    sizes = dict(DEFAULTS[kind])
    for part in filter(None, changes.split(",")):
        key, _, value = part.partition("=")
        if key not in sizes or not value.isdecimal():
            raise ValueError(f"{recipe!r}: {part!r} is not one of {', '.join(f'{k}=NUMBER' for k in sizes)}")
        sizes[key] = int(value)
    return kind, sizes


def build(recipe, vocab_size, pad_id, label_names):
    """A new model with random weights from a recipe: 'lstm', 'xlstm:layers=4,heads=2', 'bag:ngrams=1,hidden=16'."""
    kind, sizes = parse_recipe(recipe)
    config = RecurrentConfig(
        kind=kind, vocab_size=vocab_size, embedding_size=sizes["embedding"], hidden_size=sizes["hidden"],
        num_layers=sizes["layers"], num_heads=sizes.get("heads", 1), ngrams=sizes.get("ngrams", 1),
        buckets=sizes.get("buckets", 0), pad_token_id=pad_id, label_names=list(label_names),
        hidden_dropout=0.1 if kind == "bag" else 0.3)  # on tweets, 0.3 of the words cost a bag 2 points
    try:
        return RecurrentClassifier(config.check()).eval()
    except ValueError as error:
        raise ValueError(f"{recipe!r}: {error}") from None


@torch.no_grad()
def start_from(model, table, rows=None):
    """Let the words' vectors start from a pretrained model's table (V, d), in place.

    Of equal width: a copy. Narrower: the first components of the table's singular value decomposition,

        table - mean = U S V^T,      words = (U S)[:, :embedding_size], scaled to the spread of fresh vectors,

    which keep the distances between words as well as so few numbers can.
    rows: (vocab_size,) which row of the table each word takes; None: the two vocabularies are the same.
    """
    word, table = model.embeddings.word.weight, table.detach().float().to(model.device)
    if rows is not None:
        table = table[torch.as_tensor(rows, device=table.device)]
    if len(table) != len(word) or table.shape[1] < word.shape[1]:
        raise ValueError(f"a table of {tuple(table.shape)} cannot start word vectors of {tuple(word.shape)}: rows "
                         "must agree and it must be as wide at least; build the model with a smaller embedding")
    if table.shape[1] > word.shape[1]:
        table = table - table.mean(dim=0)  # the mean tells no words apart, but would be the first component
        table, _ = svd_table(table, word.shape[1])
        table = table * (0.1 / table.std())
    word.copy_(table)
    return model
