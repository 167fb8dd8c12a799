"""The encoder: BERT, RoBERTa (also XLM-RoBERTa, BERTweet) and DistilBERT in one readable network.

The families share one block (Vaswani et al. 2017, arXiv:1706.03762, with the normalisation after each sum, as in
BERT):

    x = norm(x + attention(x))
    x = norm(x + ffn(x)),        ffn(x) = W2 gelu(W1 x + b1) + b2

and differ in tensor names, in the number at which positions start and in the classification head, so that a
table of names and three small `if`s are all there is to a family. Two explicit masks make the pruning of
`prune.py` plain: `head_mask` (layers, heads) multiplies each head's output, `ffn_mask` (layers, neurons) each
hidden neuron of the FFN; 1 keeps, 0 silences, and gradients flow through both.
"""

import copy
import re
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

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


@torch.no_grad()
def listen(model, texts, modules, hear):
    """Run the texts, and call hear(name, x) with what reaches each of the modules: x (tokens, in), padding left out.

    texts: batches with .input_ids and .attention_mask    modules: {name: one of the model's nn.Linear}
    """
    attention_mask = None

    def hook(name, module, inputs):
        x = inputs[0]
        # (B, T, in) holds padding; the last layer's (B, 1, in) and the head's (B, in) are first tokens alone.
        if attention_mask is not None and x.dim() == 3 and x.shape[1] == attention_mask.shape[1]:
            x = x[attention_mask.bool()]
        hear(name, x.flatten(0, -2))

    hooks = [module.register_forward_pre_hook(partial(hook, name)) for name, module in modules.items()]
    model.eval()
    for batch in texts:
        attention_mask = batch.attention_mask
        model(batch.input_ids, attention_mask)
    for handle in hooks:
        handle.remove()


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


@torch.no_grad()
def with_width(model, projection):
    """A copy whose hidden vectors x (d,) are x P (w,): every matrix that reads them and every one that writes them.

        reads: W (out, d) -> W P        writes: W (d, in) -> P^T W,  b -> P^T b

    projection P: (d, w) with orthonormal columns, w <= d. Exact where P permutes the numbers; else LayerNorm, which
    knows one direction from another, makes it a start for training (its gains are mixed by P^2) and no more.
    Heads and neurons stay as many as they were.
    """
    smaller, P = copy.deepcopy(model), projection.to(model.device)
    smaller.config.hidden_size = P.shape[1]
    for name, module in smaller.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight = nn.Parameter(module.weight @ P)
            module.embedding_dim = P.shape[1]
        elif isinstance(module, nn.LayerNorm):
            module.weight, module.bias = nn.Parameter(P.square().T @ module.weight), nn.Parameter(module.bias @ P)
            module.normalized_shape = (P.shape[1],)
        elif isinstance(module, nn.Linear):
            if name.endswith((".query", ".key", ".value", ".up", "head.dense", "head.out")):
                module.weight, module.in_features = nn.Parameter(module.weight @ P), P.shape[1]
            if name.endswith((".attention.output", ".down", "head.dense")):
                module.weight, module.bias = nn.Parameter(P.T @ module.weight), nn.Parameter(module.bias @ P)
                module.out_features = P.shape[1]
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
