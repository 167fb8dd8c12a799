"""The encoder, and the folder in which every model of this project travels.

One `Encoder` stands for the BERT, RoBERTa (also XLM-RoBERTa, BERTweet) and DistilBERT families. They share
one block (Vaswani et al. 2017, arXiv:1706.03762, with the normalisation after each sum, as in BERT):

    x = norm(x + attention(x))
    x = norm(x + ffn(x)),        ffn(x) = W2 gelu(W1 x + b1) + b2

and differ in tensor names, in the number at which positions start and in the classification head, so that a
table of names and three small `if`s are all there is to a family. Two explicit masks make the pruning of
`prune.py` plain: `head_mask` (layers, heads) multiplies each head's output, `ffn_mask` (layers, neurons) each
hidden neuron of the FFN; 1 keeps, 0 silences, and gradients flow through both.

A model folder is config.json, model.safetensors, tokenizer.json and, written last, run.json:

    model, tokenizer = load_model("runs/demo/teacher")     # or a Hugging Face folder, or a Hub id
    logits = model(input_ids, attention_mask)
    save_model(model, tokenizer, "runs/copy", run={"script": "copy.py"})
"""

import copy
import os
import pickle
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import layers
from file_utils import fsync, read_json, swap_in, write_json
from hub_utils import repository
from text_utils import load_tokenizer, train_wordpiece

# ---------------------------------------------------------------------------------------------------------
# The shape of a model
# ---------------------------------------------------------------------------------------------------------

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

    Layers may differ: `heads_per_layer[i]` heads and `neurons_per_layer[i]` FFN neurons are left in layer i.
    """

    family: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    head_size: int = 64
    heads_per_layer: list[int] = field(default_factory=lambda: [12] * 12)
    neurons_per_layer: list[int] = field(default_factory=lambda: [3072] * 12)
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # 0: the family has no such table
    pad_token_id: int = 0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1
    label_names: list[str] = field(default_factory=list)
    stored_forms: dict[str, str] = field(default_factory=dict)  # module name -> a form of layers.py
    int8_engine: str | None = None
    hf: dict = field(default_factory=dict)  # config.json as it was read; unknown keys are kept

    @property
    def position_offset(self):
        """RoBERTa counts positions from pad_token_id + 1 on, so 514 rows hold 512 tokens."""
        return self.pad_token_id + 1 if self.family == "roberta" else 0

    @property
    def max_length(self):
        return self.max_position_embeddings - self.position_offset

    @classmethod
    def from_hf(cls, hf, source="config.json"):
        """Read a Hugging Face config.json. `source` is named in errors.

        A config without model_type (prajjwal1/bert-tiny) is BERT; one that our save_model wrote for a
        compressed model says model_type "pocketbert" and names its family in base_model_type.
        """
        model_type = hf.get("base_model_type") or hf.get("model_type") or "bert"
        if model_type not in FAMILIES:
            raise ValueError(f"{source}: model_type {model_type!r} is not supported; use a model of "
                             f"{', '.join(FAMILIES)}")
        family = FAMILIES[model_type]

        def get(key, default=None):
            value = hf.get(DISTILBERT_KEYS.get(key, key) if family == "distilbert" else key)
            value = default if value is None else value
            if value is None:
                raise ValueError(f"{source}: {key} is missing; is this the config.json of a {model_type} model?")
            return value

        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(f"{source}: position_embedding_type {hf['position_embedding_type']!r} is not "
                             "supported; use a model with absolute positions")
        if get("hidden_act", "gelu") not in ACTIVATIONS:
            raise ValueError(f"{source}: hidden_act {get('hidden_act')!r} is not one of {', '.join(ACTIVATIONS)}")
        try:
            hidden_size, depth = int(get("hidden_size")), int(get("num_hidden_layers"))
            heads = int(get("num_attention_heads"))
            heads_per_layer = [int(n) for n in hf.get("heads_per_layer") or [heads] * depth]
            neurons_per_layer = [int(n) for n in hf.get("neurons_per_layer")
                                 or [int(get("intermediate_size"))] * depth]
            head_size = int(hf.get("head_size") or hidden_size // heads)
            id2label = {int(k): str(v) for k, v in (hf.get("id2label") or {}).items()}
            if len(heads_per_layer) != depth or len(neurons_per_layer) != depth:
                raise ValueError("heads_per_layer and neurons_per_layer must have one entry per layer")
            if sorted(id2label) != list(range(len(id2label))):
                raise ValueError("the keys of id2label are not 0, 1, 2, ...")
            num_labels = len(id2label) or int(hf.get("num_labels") or 2)
            config = cls(
                family=family, vocab_size=int(get("vocab_size")), hidden_size=hidden_size,
                head_size=head_size, heads_per_layer=heads_per_layer, neurons_per_layer=neurons_per_layer,
                max_position_embeddings=int(get("max_position_embeddings", 512)),
                type_vocab_size=0 if family == "distilbert" else int(get("type_vocab_size", 2)),
                pad_token_id=int(get("pad_token_id", 1 if family == "roberta" else 0)),
                hidden_act=get("hidden_act", "gelu"),
                layer_norm_eps=float(get("layer_norm_eps", 1e-12)),
                hidden_dropout=float(get("hidden_dropout_prob", 0.1)),
                attention_dropout=float(get("attention_probs_dropout_prob", 0.1)),
                label_names=[id2label.get(i, f"LABEL_{i}") for i in range(num_labels)],
                stored_forms=dict(hf.get("stored_forms") or {}), int8_engine=hf.get("int8_engine"), hf=dict(hf))
            config.classifier_dropout = float(get(
                "classifier_dropout", 0.2 if family == "distilbert" else config.hidden_dropout))
        except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"{source}: broken config: {error}") from None
        return config

    def to_hf(self):
        """The config.json to save: what was read, plus what compression changed.

        A dense, even model is a valid Hugging Face folder. Any other says model_type "pocketbert", so that
        `transformers` refuses it instead of filling the gaps with random numbers.
        """
        depth, even_neurons = len(self.heads_per_layer), len(set(self.neurons_per_layer)) == 1
        heads = self.hidden_size // self.head_size
        dense = (not self.stored_forms and even_neurons and heads * self.head_size == self.hidden_size
                 and set(self.heads_per_layer) == {heads})
        base = self.hf.get("base_model_type") or self.hf.get("model_type") or self.family
        head_class = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta",
                      "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}[base]
        shared = {
            "vocab_size": self.vocab_size, "hidden_size": self.hidden_size, "num_hidden_layers": depth,
            "num_attention_heads": heads, "intermediate_size": max(self.neurons_per_layer),
            "hidden_act": self.hidden_act, "hidden_dropout_prob": self.hidden_dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.classifier_dropout}
        names = DISTILBERT_KEYS if self.family == "distilbert" else {}
        ours = ("base_model_type", "heads_per_layer", "neurons_per_layer", "head_size", "stored_forms", "int8_engine")
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
                       "heads_per_layer": self.heads_per_layer, "neurons_per_layer": self.neurons_per_layer,
                       "stored_forms": self.stored_forms, "int8_engine": self.int8_engine}
        return config


# ---------------------------------------------------------------------------------------------------------
# The network
# ---------------------------------------------------------------------------------------------------------

class Embeddings(nn.Module):
    """norm(word + position + token type): token ids (B, T) -> vectors (B, T, hidden)."""

    def __init__(self, config):
        super().__init__()
        self.position_offset, self.dropout = config.position_offset, config.hidden_dropout
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids):
        T = input_ids.shape[1]
        # Padding is always on the right, so position i belongs to token i; the pads' own rows are masked out.
        positions = torch.arange(self.position_offset, self.position_offset + T, device=input_ids.device)
        x = self.word(input_ids) + self.position(positions)
        if hasattr(self, "token_type"):  # a single sentence: every token is of type 0
            x = x + self.token_type(torch.zeros_like(positions))
        return F.dropout(self.norm(x), self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(head_size)) V for each head, then one output matrix."""

    def __init__(self, hidden_size, num_heads, head_size, dropout):
        super().__init__()
        self.num_heads, self.head_size, self.dropout = num_heads, head_size, dropout
        self.query = nn.Linear(hidden_size, num_heads * head_size)
        self.key = nn.Linear(hidden_size, num_heads * head_size)
        self.value = nn.Linear(hidden_size, num_heads * head_size)
        self.output = nn.Linear(num_heads * head_size, hidden_size)

    def split_heads(self, x):
        return x.view(*x.shape[:2], self.num_heads, self.head_size).transpose(1, 2)  # (B, heads, T, head_size)

    def context(self, x, queries, key_mask=None, head_mask=None):
        """What the heads have gathered, side by side, before the output matrix: (B, Q, heads * head_size)."""
        q, k, v = self.split_heads(self.query(queries)), self.split_heads(self.key(x)), self.split_heads(self.value(x))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask,
                                                 dropout_p=self.dropout if self.training else 0.0)
        if head_mask is not None:
            context = context * head_mask.view(-1, self.num_heads, 1, 1)  # 1 keeps a head, 0 silences it
        return context.transpose(1, 2).flatten(2)

    def forward(self, x, queries, key_mask=None, head_mask=None):
        """x: (B, T, hidden)    queries: the rows of x that want an answer (B, Q, hidden)    -> (B, Q, hidden)"""
        return self.output(self.context(x, queries, key_mask, head_mask))


class FeedForward(nn.Module):
    """Two matrices with a non-linearity between them; a column of `down` belongs to a row of `up`."""

    def __init__(self, hidden_size, num_neurons, activation):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(hidden_size, num_neurons)
        self.down = nn.Linear(num_neurons, hidden_size)

    def neurons(self, x, ffn_mask=None):
        """(B, T, hidden) -> (B, T, neurons)"""
        neurons = self.activation(self.up(x))
        if ffn_mask is not None:
            neurons = neurons * ffn_mask.view(-1, 1, neurons.shape[-1])  # 1 keeps a neuron, 0 silences it
        return neurons

    def forward(self, x, ffn_mask=None):
        return self.down(self.neurons(x, ffn_mask))


class Layer(nn.Module):
    def __init__(self, config, num_heads, num_neurons):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.attention = Attention(config.hidden_size, num_heads, config.head_size, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = FeedForward(config.hidden_size, num_neurons, config.hidden_act)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x, key_mask=None, head_mask=None, ffn_mask=None, first_only=False):
        """(B, T, hidden) -> (B, T, hidden), or (B, 1, hidden) when only the first token is wanted."""
        queries = x[:, :1] if first_only else x
        attended = self.attention(x, queries, key_mask, head_mask)
        x = self.attention_norm(queries + F.dropout(attended, self.dropout, self.training))
        return self.ffn_norm(x + F.dropout(self.ffn(x, ffn_mask), self.dropout, self.training))


class Head(nn.Module):
    """The first token's vector -> logits, as each family does it in `transformers`."""

    def __init__(self, config):
        super().__init__()
        self.family, self.dropout = config.family, config.classifier_dropout
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, len(config.label_names))

    def forward(self, x):
        if self.family == "roberta":
            x = F.dropout(x, self.dropout, self.training)
        x = F.relu(self.dense(x)) if self.family == "distilbert" else torch.tanh(self.dense(x))
        return self.out(F.dropout(x, self.dropout, self.training))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, heads, neurons) for heads, neurons
                                    in zip(config.heads_per_layer, config.neurons_per_layer, strict=True))
        self.head = Head(config)

    @property
    def device(self):
        return self.embeddings.norm.weight.device

    def forward(self, input_ids, attention_mask=None, head_mask=None, ffn_mask=None):
        """Token ids (B, T) -> logits (B, num_labels).

        attention_mask: (B, T), 1 for text and 0 for padding; None says that nothing is padded.
        head_mask, ffn_mask: (layers, heads) and (layers, neurons); a list of one vector a layer where layers
        differ; with a batch dimension in each vector's front (B, heads), every text has a mask of its own.
        """
        if input_ids.shape[1] > self.config.max_length:
            raise ValueError(f"{input_ids.shape[1]} tokens are more than the {self.config.max_length} that this "
                             f"model has positions for: set --max-length {self.config.max_length}")
        key_mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T)
        x = self.embeddings(input_ids)
        for i, layer in enumerate(self.layers):
            # The head reads the first token alone, so the last layer need not answer for the others:
            # the same logits for 1/L less work.
            x = layer(x, key_mask, None if head_mask is None else head_mask[i],
                      None if ffn_mask is None else ffn_mask[i], first_only=i == len(self.layers) - 1)
        return self.head(x[:, 0])


def with_layers(model, kept):
    """A copy of the model that has only the layers with the numbers in `kept`.

    Every block adds to its input, so an encoder still works, roughly, with blocks left out (Sajjad et al. 2020,
    arXiv:2004.03844).
    """
    smaller = copy.deepcopy(model)
    smaller.layers = nn.ModuleList(smaller.layers[i] for i in kept)
    smaller.config.heads_per_layer = [layer.attention.num_heads for layer in smaller.layers]
    smaller.config.neurons_per_layer = [layer.ffn.up.out_features for layer in smaller.layers]
    return smaller


def init_weights(module, std=0.02):
    """BERT's initialisation: normal(0, 0.02) matrices, zero biases."""
    for name, tensor in module.named_parameters():
        if "norm" in name:
            nn.init.constant_(tensor, 1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            nn.init.zeros_(tensor)
        else:
            nn.init.normal_(tensor, std=std)
    return module


# ---------------------------------------------------------------------------------------------------------
# Names: ours <-> Hugging Face's
# ---------------------------------------------------------------------------------------------------------

BERT_NAMES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.*.attention.query": "encoder.layer.*.attention.self.query",
    "layers.*.attention.key": "encoder.layer.*.attention.self.key",
    "layers.*.attention.value": "encoder.layer.*.attention.self.value",
    "layers.*.attention.output": "encoder.layer.*.attention.output.dense",
    "layers.*.attention_norm": "encoder.layer.*.attention.output.LayerNorm",
    "layers.*.ffn.up": "encoder.layer.*.intermediate.dense",
    "layers.*.ffn.down": "encoder.layer.*.output.dense",
    "layers.*.ffn_norm": "encoder.layer.*.output.LayerNorm",
}
DISTILBERT_NAMES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.*.attention.query": "transformer.layer.*.attention.q_lin",
    "layers.*.attention.key": "transformer.layer.*.attention.k_lin",
    "layers.*.attention.value": "transformer.layer.*.attention.v_lin",
    "layers.*.attention.output": "transformer.layer.*.attention.out_lin",
    "layers.*.attention_norm": "transformer.layer.*.sa_layer_norm",
    "layers.*.ffn.up": "transformer.layer.*.ffn.lin1",
    "layers.*.ffn.down": "transformer.layer.*.ffn.lin2",
    "layers.*.ffn_norm": "transformer.layer.*.output_layer_norm",
}
BODY_NAMES = {"bert": BERT_NAMES | {"head.dense": "pooler.dense"}, "roberta": BERT_NAMES,
              "distilbert": DISTILBERT_NAMES}
HEAD_NAMES = {"bert": {"head.out": "classifier"},
              "roberta": {"head.dense": "classifier.dense", "head.out": "classifier.out_proj"},
              "distilbert": {"head.dense": "pre_classifier", "head.out": "classifier"}}
# Left-overs that a classifier does not use: heads of pre-training, RoBERTa's pooler, tables of positions, and
# the matrices of TinyBERT's distillation loss.
NOT_OURS = re.compile(r"^(cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|fit_denses?)\."
                      r"|position_ids$|token_type_ids$|^pooler\.")


def to_hf_name(name, family):
    """layers.3.ffn.up.weight -> bert.encoder.layer.3.intermediate.dense.weight"""
    module, _, leaf = name.rpartition(".")
    star, number = re.sub(r"\.\d+\.", ".*.", module), re.search(r"\.(\d+)\.", module)
    if star in HEAD_NAMES[family]:
        return f"{HEAD_NAMES[family][star]}.{leaf}"
    body = BODY_NAMES[family][star].replace("*", number.group(1) if number else "")
    return f"{family}.{body}.{leaf}"


def from_hf_name(name, family):
    """The other way round, with or without the family's prefix, old gamma/beta too; None: not a name of ours."""
    name = name.removeprefix(f"{family}.")
    if "LayerNorm." in name:
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    module, _, leaf = name.rpartition(".")
    star, number = re.sub(r"\.\d+\.", ".*.", module), re.search(r"\.(\d+)\.", module)
    theirs = {hf: ours for ours, hf in (BODY_NAMES[family] | HEAD_NAMES[family]).items()}
    if star not in theirs:
        return None
    return f"{theirs[star].replace('*', number.group(1) if number else '')}.{leaf}"


# ---------------------------------------------------------------------------------------------------------
# Reading a folder or a Hub repository
# ---------------------------------------------------------------------------------------------------------

def read_weight_file(path):
    """One weight file -> {name: tensor}. Pickles are read with weights_only=True: no code in them is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} is damaged, or a pickle that holds more than tensors and could run code: "
                         "not loaded; get model.safetensors instead") from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is cut off or damaged ({reason}); fetch it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path} is not a state dict of tensors; get the weights as model.safetensors")
    return tensors


def read_tensors(find):
    """All tensors of a repository: model.safetensors or pytorch_model.bin, in one file or in shards."""
    for weights in ("model.safetensors", "pytorch_model.bin"):
        if path := find(weights):
            return read_weight_file(path)
        if index := find(f"{weights}.index.json"):
            tensors = {}
            for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
                path = find(shard)
                if path is None:
                    raise FileNotFoundError(f"{find.name} lacks {shard}, which {index.name} names; fetch it again")
                tensors |= read_weight_file(path)
            return tensors
    raise FileNotFoundError(f"{find.name} has neither model.safetensors nor pytorch_model.bin: no weights to load")


def list_names(names, most=6):
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_model(name, label_names=None, new_head=False, tokenizer_name=None, cleaning=None):
    """Open a model folder, a local Hugging Face folder or a Hub id (`org/name` or `org/name@revision`).

    Returns (model in eval mode on the CPU, tokenizer). A checkpoint without a classification head gets a
    new one for `label_names`, and a printed line says so; `new_head=True` replaces the head that is there.
    tokenizer_name: another folder or Hub id to take the tokenizer from; cleaning: see text_utils.CLEANERS.
    """
    find = repository(name)
    config_path = find("config.json")
    if config_path is None:
        raise FileNotFoundError(f"{name} has no config.json: it is not a model folder")
    config = EncoderConfig.from_hf(read_json(config_path), source=f"{name}/config.json")
    tensors, fresh, leftover = {}, {}, []
    for hf_name, tensor in read_tensors(find).items():
        ours = from_hf_name(hf_name, config.family)
        if ours is not None:
            # A copy: tensors lie at odd addresses in the file, where some kernels round the last bit differently.
            tensors[ours] = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        elif not NOT_OURS.search(hf_name.removeprefix(f"{config.family}.")):
            leftover.append(hf_name)
    if new_head or "head.out.weight" not in tensors and "head.out" not in config.stored_forms:
        if not label_names:
            raise ValueError(f"{name} has no classification head; fine-tune it first: "
                             f"python train.py --model {name} --data DATA --out runs/teacher")
        config.label_names = list(label_names)
        fresh = {f"head.{k}": v for k, v in init_weights(Head(config)).state_dict().items()}
        fresh = {k: v for k, v in fresh.items() if k not in tensors or k.startswith("head.out.")}
        tensors |= fresh

    if config.int8_engine:
        layers.use_engine(config.int8_engine)
    with torch.device("meta"):  # shapes only: the numbers come from the file
        model = Encoder(config)
        layers.replace_stored_modules(model, config.stored_forms, f"{name}/config.json")
    check_tensors(model.state_dict(), tensors, leftover, name)
    if fresh:
        print(f"new classification head ({list_names(fresh)}) for {len(label_names)} labels: "
              f"{list_names(label_names)}")
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except ValueError as error:  # a stored form that checks its own numbers
        raise ValueError(f"{name}: {error}") from None
    tokenizer = load_tokenizer(repository(tokenizer_name) if tokenizer_name else find, config.hf,
                               cleaning=cleaning, name=name)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{name}: the tokenizer knows {tokenizer.vocab_size} tokens, the embedding only "
                         f"{config.vocab_size}; tokenizer and weights are of different models")
    return model.eval(), tokenizer


def check_tensors(expected, found, leftover, name):
    """Every tensor of the encoder must be there, none may be left over, all must fit; else one line names them."""
    missing = set(expected) - set(found)
    leftover = leftover + [key for key in found if key not in expected]
    if missing or leftover:
        raise ValueError(f"{name}: the weights do not fit config.json: "
                         + "; ".join(([f"missing: {list_names(missing)}"] if missing else [])
                                     + ([f"left over: {list_names(leftover)}"] if leftover else [])))
    for key, tensor in found.items():
        want = expected[key]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise ValueError(f"{name}: {key} is {tuple(tensor.shape)} {tensor.dtype} in the file, but config.json "
                             f"asks for {tuple(want.shape)} {want.dtype}")


SCRATCH_DEFAULTS = {"layers": 4, "hidden": 128, "heads": 4, "ffn": 0, "vocab": 8000, "positions": 512}


def parse_recipe(recipe, defaults):
    """'scratch:layers=4,hidden=256' -> the defaults with these two changed."""
    values = dict(defaults)
    for part in filter(None, recipe.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in defaults or not value.isdigit():
            raise ValueError(f"{recipe!r}: {part!r} is not one of "
                             f"{', '.join(f'{k}=NUMBER' for k in defaults)}")
        values[key] = int(value)
    return values


def model_from_scratch(recipe, texts, label_names):
    """A new BERT with random weights and a WordPiece vocabulary trained on the texts: 'scratch:layers=4,hidden=256'."""
    size = parse_recipe(recipe, SCRATCH_DEFAULTS)
    if size["hidden"] % size["heads"] or not min(size["layers"], size["hidden"], size["heads"], size["vocab"]):
        raise ValueError(f"{recipe!r}: layers, hidden, heads and vocab must be above 0 and hidden "
                         f"({size['hidden']}) a multiple of heads ({size['heads']})")
    tokenizer = train_wordpiece(texts, vocab_size=size["vocab"])
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=size["hidden"], head_size=size["hidden"] // size["heads"],
        heads_per_layer=[size["heads"]] * size["layers"],
        neurons_per_layer=[size["ffn"] or 4 * size["hidden"]] * size["layers"],
        max_position_embeddings=size["positions"], pad_token_id=tokenizer.pad_id,
        label_names=list(label_names))
    # 1 / sqrt(3 hidden) is BERT's 0.02 at BERT's width of 768; a narrow model needs larger numbers to learn.
    return init_weights(Encoder(config), std=(3 * size["hidden"]) ** -0.5).eval(), tokenizer


# ---------------------------------------------------------------------------------------------------------
# Writing a folder
# ---------------------------------------------------------------------------------------------------------

FOLDER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "run.json", "metrics.json")


def check_out(folder):
    """Raise before the work, not after it, when `folder` could not be written or holds somebody's other files."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "run.json").exists():
        raise FileExistsError(f"--out {folder} holds files but no run.json, so it is no model folder of ours "
                              "and is left alone; name another folder")
    ancestor = next(path for path in folder.absolute().parents if path.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise PermissionError(f"--out {folder}: {ancestor} is no folder that can be written to")


def save_model(model, tokenizer, folder, run):
    """Write a model folder: everything into a temporary neighbour first, then one rename.

    A process killed at any moment leaves the old folder or the new one, never a mixture.
    run: the dictionary for run.json (see train_utils.provenance).
    """
    folder = Path(folder)
    check_out(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):  # left by a killed run
        shutil.rmtree(stale, ignore_errors=True)
    staging = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    staging.mkdir()
    config = model.config.to_hf() | {"text_cleaning": tokenizer.cleaning}
    write_json(config, staging / "config.json")
    tensors = {to_hf_name(name, model.config.family): tensor.detach().cpu().contiguous()
               for name, tensor in model.state_dict().items()}
    save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
    fsync(staging / "model.safetensors")
    tokenizer.save(staging)
    write_json(run, staging / "run.json")
    swap_in(staging, folder, FOLDER_FILES)
