"""The shape of an encoder: Hugging Face's config.json, read once and checked."""

from dataclasses import dataclass, field

import torch.nn.functional as F

from pocketbert.errors import UserError

FAMILIES = {"bert": "bert", "distilbert": "distilbert",
            "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu,
               "gelu_new": lambda x: F.gelu(x, approximate="tanh")}

DISTILBERT_KEYS = {  # DistilBERT calls the same things by other names
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout", "classifier_dropout": "seq_classif_dropout"}


@dataclass
class EncoderConfig:
    """Everything that decides the shape of the tensors; Hugging Face's config.json, read once and checked.

    Layers may differ: `num_heads[i]` heads and `intermediate_sizes[i]` FFN neurons are left in layer i.
    """

    family: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    head_size: int = 64
    num_heads: list[int] = field(default_factory=lambda: [12] * 12)
    intermediate_sizes: list[int] = field(default_factory=lambda: [3072] * 12)
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # 0: the family has no such table
    pad_token_id: int = 0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1
    label_names: list[str] = field(default_factory=list)
    stored_formats: dict[str, str] = field(default_factory=dict)  # module name -> format, see models/stored.py
    int8_engine: str | None = None
    hf: dict = field(default_factory=dict)  # config.json as it was read; unknown keys are kept

    @property
    def position_offset(self):
        """RoBERTa counts positions from pad_token_id + 1 on, so 514 rows hold 512 tokens."""
        return self.pad_token_id + 1 if self.family == "roberta" else 0

    @property
    def max_length(self):
        return self.max_position_embeddings - self.position_offset

    def num_queries(self, i, length):
        """How many of a text's `length` tokens layer i computes an output for.

        The classification head reads the first token alone, so the last layer answers for that one: the same logits
        for 1 / num_layers less work. Nothing else in the project knows this; ask here.
        """
        return 1 if i == len(self.num_heads) - 1 else length

    @classmethod
    def from_hf(cls, hf, source="config.json"):
        """Read a Hugging Face config.json. `source` is named in errors.

        A config without model_type (prajjwal1/bert-tiny) is BERT; one that our save_model wrote for a
        compressed model says model_type "pocketbert" and names its family in base_model_type.
        """
        model_type = hf.get("base_model_type") or hf.get("model_type") or "bert"
        if model_type not in FAMILIES:
            raise UserError(f"{source}: model_type {model_type!r} is not supported; use a model of "
                             f"{', '.join(FAMILIES)}")
        family = FAMILIES[model_type]

        def get(key, default=None):
            value = hf.get(DISTILBERT_KEYS.get(key, key) if family == "distilbert" else key)
            value = default if value is None else value
            if value is None:
                raise UserError(f"{source}: {key} is missing; is this the config.json of a {model_type} model?")
            return value

        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise UserError(f"{source}: position_embedding_type {hf['position_embedding_type']!r} is not "
                             "supported; use a model with absolute positions")
        if get("hidden_act", "gelu") not in ACTIVATIONS:
            raise UserError(f"{source}: hidden_act {get('hidden_act')!r} is not one of {', '.join(ACTIVATIONS)}")
        try:
            hidden_size, depth = int(get("hidden_size")), int(get("num_hidden_layers"))
            heads = int(get("num_attention_heads"))
            heads_per_layer = [int(n) for n in hf.get("heads_per_layer") or [heads] * depth]
            neurons_per_layer = [int(n) for n in hf.get("neurons_per_layer")
                                 or [int(get("intermediate_size"))] * depth]
            head_size = int(hf.get("head_size") or hidden_size // heads)
            id2label = {int(k): str(v) for k, v in (hf.get("id2label") or {}).items()}
            if len(heads_per_layer) != depth or len(neurons_per_layer) != depth:
                raise UserError("heads_per_layer and neurons_per_layer must have one entry per layer")
            if sorted(id2label) != list(range(len(id2label))):
                raise UserError("the keys of id2label are not 0, 1, 2, ...")
            num_labels = len(id2label) or int(hf.get("num_labels") or 2)
            config = cls(
                family=family, vocab_size=int(get("vocab_size")), hidden_size=hidden_size,
                head_size=head_size, num_heads=heads_per_layer, intermediate_sizes=neurons_per_layer,
                max_position_embeddings=int(get("max_position_embeddings", 512)),
                type_vocab_size=0 if family == "distilbert" else int(get("type_vocab_size", 2)),
                pad_token_id=int(get("pad_token_id", 1 if family == "roberta" else 0)),
                hidden_act=get("hidden_act", "gelu"),
                layer_norm_eps=float(get("layer_norm_eps", 1e-12)),
                hidden_dropout=float(get("hidden_dropout_prob", 0.1)),
                attention_dropout=float(get("attention_probs_dropout_prob", 0.1)),
                label_names=[id2label.get(i, f"LABEL_{i}") for i in range(num_labels)],
                stored_formats=dict(hf.get("stored_forms") or {}), int8_engine=hf.get("int8_engine"), hf=dict(hf))
            config.classifier_dropout = float(get(
                "classifier_dropout", 0.2 if family == "distilbert" else config.hidden_dropout))
        except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise UserError(f"{source}: broken config: {error}") from None
        return config

    def to_hf(self):
        """The config.json to save: what was read, plus what compression changed.

        A dense, even model is a valid Hugging Face folder. Any other says model_type "pocketbert", so that
        `transformers` refuses it instead of filling the gaps with random numbers.
        """
        depth, even_neurons = len(self.num_heads), len(set(self.intermediate_sizes)) == 1
        heads = self.hidden_size // self.head_size
        dense = (not self.stored_formats and even_neurons and heads * self.head_size == self.hidden_size
                 and set(self.num_heads) == {heads})
        base = self.hf.get("base_model_type") or self.hf.get("model_type") or self.family
        head_class = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta",
                      "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}[base]
        shared = {
            "vocab_size": self.vocab_size, "hidden_size": self.hidden_size, "num_hidden_layers": depth,
            "num_attention_heads": heads, "intermediate_size": max(self.intermediate_sizes),
            "hidden_act": self.hidden_act, "hidden_dropout_prob": self.hidden_dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.classifier_dropout}
        names = DISTILBERT_KEYS if self.family == "distilbert" else {}
        ours = ("base_model_type", "heads_per_layer", "neurons_per_layer", "head_size", "stored_forms", "int8_engine",
                "runtime", "num_parameters")
        config = {key: value for key, value in self.hf.items() if key not in ours}
        config |= {names.get(key, key): value for key, value in shared.items()}
        config |= {"architectures": [f"{head_class}ForSequenceClassification"], "model_type": base,
                   "max_position_embeddings": self.max_position_embeddings,
                   "pad_token_id": self.pad_token_id, "layer_norm_eps": self.layer_norm_eps,
                   "id2label": {str(i): name for i, name in enumerate(self.label_names)},
                   "label2id": {name: i for i, name in enumerate(self.label_names)}}
        if self.type_vocab_size:
            config["type_vocab_size"] = self.type_vocab_size
        if not dense:
            config |= {"architectures": ["PocketBertEncoder"], "model_type": "pocketbert",
                       "base_model_type": base, "head_size": self.head_size,
                       "heads_per_layer": self.num_heads, "neurons_per_layer": self.intermediate_sizes,
                       "stored_forms": self.stored_formats, "int8_engine": self.int8_engine}
        return config
