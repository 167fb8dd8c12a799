"""The sizes of an encoder, and how they are written in Hugging Face's config.json.

No torch here, so that an exported graph can be run where torch is not installed.
"""

from dataclasses import dataclass, field

from pocketbert.errors import UserError
from pocketbert.models.config_values import (
    label_names,
    naming,
    number,
    optional_whole,
    probability,
    text,
    text_map,
    whole,
    whole_per_layer,
)

FAMILIES = {  # model_type -> the network that it is in encoder.py
    "bert": "bert", "distilbert": "distilbert",
    "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}

HEAD_CLASSES = {  # model_type -> what its classes in `transformers` begin with
    "bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert"}

ACTIVATIONS = ("gelu", "relu", "silu", "gelu_new")  # the functions are in encoder.py

DISTILBERT_KEYS = {  # DistilBERT has other names for the same things
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout", "classifier_dropout": "seq_classif_dropout"}

STALE_KEYS = (  # what a parent's config.json says of its own file, its own head or its own code
    "problem_type", "num_labels", "_num_labels", "dtype", "torch_dtype", "quantization_config", "pruned_heads",
    "auto_map")

OUR_KEYS = ("base_model_type", "heads_per_layer", "neurons_per_layer", "head_size", "stored_forms", "int8_engine",
            "runtime", "num_parameters")  # not in Hugging Face's config.json


@dataclass
class EncoderConfig:
    """Everything that decides the shapes of an encoder's tensors.

    Layers may differ: layer i has `num_heads[i]` attention heads and `intermediate_sizes[i]` neurons in its FFN.
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
    text_length: int | None = None  # tokens kept of a text in training; None: not known, see predict.text_length
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
        """The number of tokens that the model has positions for."""
        return self.max_position_embeddings - self.position_offset

    def num_queries(self, i, length):
        """How many of a text's `length` tokens layer i computes an output for.

        The classification head reads the first token alone, so the last layer computes that one: the same logits
        for 1 / num_layers less work. Nothing else in the project knows this; ask here.
        """
        return 1 if i == len(self.num_heads) - 1 else length

    @classmethod
    def from_hf(cls, hf, source="config.json"):
        """Read a Hugging Face config.json. source: what error messages name.

        A config without model_type (prajjwal1/bert-tiny) is a BERT. One that save_model wrote for a compressed model
        has model_type "pocketbert", and its family in base_model_type.
        """
        with naming(source):
            return read_encoder_config(hf)

    def to_hf(self):
        """The config.json to save: what was read, plus what compression changed.

        A dense model whose layers are alike is a valid Hugging Face folder. Any other has model_type "pocketbert", so
        that `transformers` refuses it instead of filling the gaps with random numbers.
        """
        config = {key: value for key, value in self.hf.items() if key not in (*OUR_KEYS, *STALE_KEYS)}
        config |= self.shared_keys()
        config |= {"dtype": "float32"} if self.is_plain() else self.compressed_keys()
        if self.text_length:
            config["text_length"] = self.text_length
        return config

    @property
    def model_type(self):
        """Hugging Face's name of the architecture: "xlm-roberta" where the family is "roberta"."""
        return self.hf.get("base_model_type") or self.hf.get("model_type") or self.family

    def is_plain(self):
        """Does Hugging Face have a config.json for this model: float matrices, layers that are alike?"""
        heads = self.hidden_size // self.head_size
        return (not self.stored_formats and len(set(self.intermediate_sizes)) == 1
                and heads * self.head_size == self.hidden_size and set(self.num_heads) == {heads})

    def shared_keys(self):
        """The keys that every encoder's config.json has."""
        sizes = {
            "vocab_size": self.vocab_size, "hidden_size": self.hidden_size, "num_hidden_layers": len(self.num_heads),
            "num_attention_heads": self.hidden_size // self.head_size,
            "intermediate_size": max(self.intermediate_sizes), "hidden_act": self.hidden_act,
            "hidden_dropout_prob": self.hidden_dropout, "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.classifier_dropout}
        if self.family == "distilbert":
            sizes = {DISTILBERT_KEYS.get(key, key): value for key, value in sizes.items()}
        if self.type_vocab_size:
            sizes["type_vocab_size"] = self.type_vocab_size
        return sizes | {
            "architectures": [f"{HEAD_CLASSES[self.model_type]}ForSequenceClassification"],
            "model_type": self.model_type, "max_position_embeddings": self.max_position_embeddings,
            "pad_token_id": self.pad_token_id, "layer_norm_eps": self.layer_norm_eps,
            "problem_type": "single_label_classification",
            "id2label": {str(i): name for i, name in enumerate(self.label_names)},
            "label2id": {name: i for i, name in enumerate(self.label_names)}}

    def compressed_keys(self):
        """The keys of a model that Hugging Face has no config.json for."""
        return {"architectures": ["PocketBertEncoder"], "model_type": "pocketbert",
                "base_model_type": self.model_type, "head_size": self.head_size,
                "heads_per_layer": self.num_heads, "neurons_per_layer": self.intermediate_sizes,
                "stored_forms": self.stored_formats, "int8_engine": self.int8_engine}


def read_encoder_config(hf):
    """EncoderConfig of the values in a config.json, each checked."""
    model_type = text(hf, "base_model_type") or text(hf, "model_type") or "bert"
    if model_type not in FAMILIES:
        raise UserError(f"model_type {model_type!r} is not supported; use a model of {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    values = hf
    if family == "distilbert":
        values = hf | {bert: hf.get(distilbert) for bert, distilbert in DISTILBERT_KEYS.items()}
    refuse_other_models(values)
    config = EncoderConfig(
        family=family, hidden_size=whole(values, "hidden_size"), vocab_size=whole(values, "vocab_size"),
        max_position_embeddings=whole(values, "max_position_embeddings", 512),
        type_vocab_size=0 if family == "distilbert" else whole(values, "type_vocab_size", 2),
        pad_token_id=whole(values, "pad_token_id", 1 if family == "roberta" else 0),
        hidden_act=text(values, "hidden_act", "gelu", choices=ACTIVATIONS),
        layer_norm_eps=number(values, "layer_norm_eps", 1e-12, 0, 1),
        text_length=optional_whole(values, "text_length"),
        label_names=label_names(values) or [f"LABEL_{i}" for i in range(whole(values, "num_labels", 2))],
        stored_formats=text_map(values, "stored_forms"), int8_engine=text(values, "int8_engine"), hf=dict(hf))
    read_layer_sizes(config, values)
    read_dropout(config, values)
    if config.pad_token_id >= config.vocab_size:
        raise UserError(f"pad_token_id {config.pad_token_id} is not below vocab_size {config.vocab_size}")
    if config.max_length < 1:
        raise UserError(f"max_position_embeddings {config.max_position_embeddings} leaves no position for a token")
    return config


def refuse_other_models(values):
    """Raise a UserError for what changes the answers and is not supported here."""
    text(values, "position_embedding_type", "absolute", choices=["absolute"])
    if values.get("is_decoder"):
        raise UserError("is_decoder: this model reads from left to right only; use an encoder")
    if values.get("pruned_heads"):
        raise UserError("pruned_heads is not supported; save the model after pruning, or load the unpruned one")
    if quantization := values.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise UserError(f"the weights are quantized by {method!s:.40}, which only transformers reads; load the model "
                        "that they were made from, and use quantize.py")


def read_layer_sizes(config, values):
    """Heads and neurons of each layer: the same everywhere, or lists that pruning has left."""
    depth = whole(values, "num_hidden_layers")
    heads = whole(values, "num_attention_heads")
    config.head_size = whole(values, "head_size", config.hidden_size // max(1, heads))
    config.num_heads = whole_per_layer(values, "heads_per_layer", depth, heads)
    listed = values.get("neurons_per_layer") is not None
    config.intermediate_sizes = whole_per_layer(values, "neurons_per_layer", depth,
                                                None if listed else whole(values, "intermediate_size"))


def read_dropout(config, values):
    """The head's dropout is the hidden one's where the file has none, except in DistilBERT."""
    config.hidden_dropout = probability(values, "hidden_dropout_prob", 0.1)
    config.attention_dropout = probability(values, "attention_probs_dropout_prob", 0.1)
    default = 0.2 if config.family == "distilbert" else config.hidden_dropout
    config.classifier_dropout = probability(values, "classifier_dropout", default)
