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

from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.bag import BagEmbeddings, Dense
from pocketbert.models.lstm_gru import BothWays
from pocketbert.models.rwkv import ChannelMix, TimeMix
from pocketbert.models.sequence import WordEmbeddings, flip, mean_and_max, reversed_order
from pocketbert.models.xlstm import MLSTM, SLSTM, GatedFeedForward

RECURRENT_KINDS = ("lstm", "gru", "xlstm", "rwkv", "bag")

SMALLEST = {"vocab_size": 1, "embedding_size": 1, "hidden_size": 1, "num_layers": 1, "num_heads": 1, "ngrams": 1,
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
    stored_formats: dict[str, str] = field(default_factory=dict)  # module name -> format, see models/stored.py
    int8_engine: str | None = None
    hf: dict = field(default_factory=dict)  # config.json as it was read; unknown keys are kept

    def check(self):
        """Raise a ValueError that names the first number that makes no model; else return the config."""
        for name, low in SMALLEST.items():
            if getattr(self, name) < (0 if (self.kind, name) == ("bag", "num_layers") else low):
                raise UserError(f"{name} {getattr(self, name)} is too small")
        if self.ngrams > 1 and not self.buckets:
            raise UserError(f"ngrams {self.ngrams} need buckets")
        if self.kind == "xlstm" and self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if not 0 <= self.hidden_dropout < 1:
            raise UserError(f"hidden_dropout {self.hidden_dropout} is not in [0, 1)")
        if not self.label_names:
            raise UserError("there are no labels")
        return self

    @classmethod
    def from_hf(cls, hf, source="config.json"):
        """Read a config.json that `to_hf` made. `source` is named in errors."""
        kind = str(hf.get("model_type")).removeprefix("pocketbert-")
        if hf.get("model_type") != f"pocketbert-{kind}" or kind not in RECURRENT_KINDS:
            raise UserError(f"{source}: model_type {hf.get('model_type')!r} is not one of "
                             f"{', '.join(f'pocketbert-{kind}' for kind in RECURRENT_KINDS)}")
        if missing := [name for name in SMALLEST if hf.get(name) is None]:
            raise UserError(f"{source}: {', '.join(missing)} missing; is this the config.json of a {kind} of ours?")
        try:
            id2label = {int(k): str(v) for k, v in (hf.get("id2label") or {}).items()}
            if sorted(id2label) != list(range(len(id2label))):
                raise UserError("the keys of id2label are not 0, 1, 2, ...")
            return cls(kind=kind, **{name: int(hf[name]) for name in SMALLEST},
                       hidden_dropout=float(hf.get("hidden_dropout", cls.hidden_dropout)),
                       label_names=[id2label[i] for i in range(len(id2label))],
                       stored_formats=dict(hf.get("stored_forms") or {}), int8_engine=hf.get("int8_engine"),
                       hf=dict(hf)).check()
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{source}: broken config: {error}") from None

    def to_hf(self):
        """The config.json to save. `transformers` does not know the model_type, and so refuses it."""
        config = {key: value for key, value in self.hf.items() if key not in ("stored_forms", "int8_engine")}
        config |= {"model_type": f"pocketbert-{self.kind}", "architectures": ["PocketBertRecurrent"],
                   **{name: getattr(self, name) for name in SMALLEST}, "hidden_dropout": self.hidden_dropout,
                   "id2label": {str(i): name for i, name in enumerate(self.label_names)},
                   "label2id": {name: i for i, name in enumerate(self.label_names)}}
        if self.stored_formats:
            config |= {"stored_forms": self.stored_formats, "int8_engine": self.int8_engine}
        return config


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


class RecurrentHead(nn.Module):
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
        self.embeddings = BagEmbeddings(config) if is_bag else WordEmbeddings(config)
        self.projection = self.norm = nn.Identity()
        if layer is Block:  # its layers add to one vector, of one width throughout
            self.norm = nn.LayerNorm(config.hidden_size)
            if config.embedding_size != config.hidden_size:
                self.projection = nn.Linear(config.embedding_size, config.hidden_size)
        self.layers = nn.ModuleList(layer(config, i) for i in range(config.num_layers))
        self.head = RecurrentHead(config)

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
