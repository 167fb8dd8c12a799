"""The sizes of a model without attention, and how they are written in its config.json. No torch here."""

from dataclasses import dataclass, field

from pocketbert.errors import UserError
from pocketbert.models.config_values import (
    label_names,
    naming,
    optional_whole,
    probability,
    short,
    text,
    text_map,
    whole,
)

RECURRENT_KINDS = ("lstm", "gru", "xlstm", "rwkv", "cnn", "bag")

SIZE_KEYS = ("vocab_size", "embedding_size", "hidden_size", "num_layers", "num_heads", "ngrams", "buckets",
             "pad_token_id", "max_length", "width")

LATER_SIZES = {"width": 3}  # sizes that older folders do not have, and what they mean there


@dataclass
class RecurrentConfig:
    """Everything that decides the shapes of the tensors, as EncoderConfig does for the encoder."""

    kind: str = "lstm"
    vocab_size: int = 8000
    embedding_size: int = 128
    hidden_size: int = 128  # LSTM, GRU: of each direction
    num_layers: int = 1  # bag: dense layers, 0: the head alone
    num_heads: int = 1  # xLSTM
    ngrams: int = 1  # bag: 1 is words only, 3 adds pairs and triples
    buckets: int = 0  # bag: rows that all n-grams of two and more tokens share
    width: int = 3  # CNN: tokens that a layer sees at once, an odd number
    pad_token_id: int = 0
    max_length: int = 512  # texts are cut there; the models themselves take any length
    text_length: int | None = None  # tokens kept of a text in training; None: not known, see predict.text_length
    hidden_dropout: float = 0.3
    label_names: list[str] = field(default_factory=list)
    stored_formats: dict[str, str] = field(default_factory=dict)  # module name -> format, see models/stored.py
    int8_engine: str | None = None
    hf: dict = field(default_factory=dict)  # config.json as it was read; unknown keys are kept

    @property
    def text_size(self):
        """The width of a text's vector: mean and maximum, for LSTM and GRU in two directions."""
        if self.kind in ("lstm", "gru"):
            return 4 * self.hidden_size
        if self.kind != "bag":
            return 2 * self.hidden_size
        return self.hidden_size if self.num_layers else 2 * self.embedding_size  # dense layers follow the pooling

    def check(self):
        """The config; a UserError names the first number that makes no model."""
        sizes = {name: getattr(self, name) for name in SIZE_KEYS}
        for name in SIZE_KEYS:
            if name == "num_layers" and self.kind == "bag" and self.num_layers == 0:
                continue
            whole(sizes, name)
        if self.pad_token_id >= self.vocab_size:
            raise UserError(f"pad_token_id {self.pad_token_id} is not below vocab_size {self.vocab_size}")
        if self.ngrams > 1 and not self.buckets:
            raise UserError(f"ngrams {self.ngrams} need buckets")
        if self.kind == "xlstm" and self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.width % 2 == 0:
            raise UserError(f"width {self.width} is not odd: a token has as many neighbours on either side")
        if not self.label_names:
            raise UserError("there are no labels")
        return self

    @classmethod
    def from_hf(cls, hf, source="config.json"):
        """Read a config.json that `to_hf` made. source: what error messages name."""
        with naming(source):
            return read_recurrent_config(hf)

    def to_hf(self):
        """The config.json to save. `transformers` does not know the model_type, and so refuses it."""
        config = {key: value for key, value in self.hf.items() if key not in ("stored_forms", "int8_engine")}
        config |= {"model_type": f"pocketbert-{self.kind}", "architectures": ["PocketBertRecurrent"],
                   **{name: getattr(self, name) for name in SIZE_KEYS}, "hidden_dropout": self.hidden_dropout,
                   "id2label": {str(i): name for i, name in enumerate(self.label_names)},
                   "label2id": {name: i for i, name in enumerate(self.label_names)}}
        if self.text_length:
            config["text_length"] = self.text_length
        if self.stored_formats:
            config |= {"stored_forms": self.stored_formats, "int8_engine": self.int8_engine}
        return config


def read_recurrent_config(hf):
    """RecurrentConfig of the values in a config.json, each checked."""
    model_type = text(hf, "base_model_type") or text(hf, "model_type", "")  # the first: of an exported graph
    kind = model_type.removeprefix("pocketbert-")
    if model_type != f"pocketbert-{kind}" or kind not in RECURRENT_KINDS:
        known = ", ".join(f"pocketbert-{kind}" for kind in RECURRENT_KINDS)
        raise UserError(f"model_type {short(hf.get('model_type'))} is not one of {known}")
    sizes = LATER_SIZES | {name: hf[name] for name in SIZE_KEYS if hf.get(name) is not None}
    if missing := [name for name in SIZE_KEYS if name not in sizes]:
        raise UserError(f"{', '.join(missing)} missing; is this the config.json of a {kind} of ours?")
    config = RecurrentConfig(
        kind=kind, **sizes,
        hidden_dropout=probability(hf, "hidden_dropout", RecurrentConfig.hidden_dropout),
        text_length=optional_whole(hf, "text_length"), label_names=label_names(hf) or [],
        stored_formats=text_map(hf, "stored_forms"),
        int8_engine=text(hf, "int8_engine"), hf=dict(hf))
    return config.check()
