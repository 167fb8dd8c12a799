"""The encoder: BERT, RoBERTa (also XLM-RoBERTa, BERTweet) and DistilBERT in one readable network.

The families share one block (Vaswani et al. 2017, arXiv:1706.03762, with the normalisation after each sum, as in
BERT):

    x = norm(x + attention(x))
    x = norm(x + ffn(x)),        ffn(x) = W2 gelu(W1 x + b1) + b2

They differ in the names of their tensors (hf_names.py), in the number of the first position and in the classification
head. Two masks make the pruning of prune.py visible: `head_mask` (layers, heads) multiplies each head's output and
`ffn_mask` (layers, neurons) each hidden neuron of the FFN; 1 keeps, 0 prunes, and gradients flow through both.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pocketbert.errors import UserError

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu,
               "gelu_new": partial(F.gelu, approximate="tanh")}


class Embeddings(nn.Module):
    """norm(word + position + token type): token ids (B, T) -> vectors (B, T, hidden)."""

    def __init__(self, config):
        super().__init__()
        self.position_offset = config.position_offset
        self.dropout = config.hidden_dropout
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids):
        T = input_ids.shape[1]
        # Padding is always on the right, so position i belongs to token i; the attention mask hides the padding.
        positions = torch.arange(self.position_offset, self.position_offset + T, device=input_ids.device)
        x = self.word(input_ids) + self.position(positions)
        if hasattr(self, "token_type"):  # a single sentence: every token is of type 0
            x = x + self.token_type(torch.zeros_like(positions))
        return F.dropout(self.norm(x), self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(head_size)) V for each head, then one output matrix."""

    def __init__(self, hidden_size, num_heads, head_size, dropout):
        super().__init__()
        self.num_heads = num_heads
        self.head_size = head_size
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, num_heads * head_size)
        self.key = nn.Linear(hidden_size, num_heads * head_size)
        self.value = nn.Linear(hidden_size, num_heads * head_size)
        self.output = nn.Linear(num_heads * head_size, hidden_size)

    def split_heads(self, x):
        return x.view(*x.shape[:2], self.num_heads, self.head_size).transpose(1, 2)  # (B, heads, T, head_size)

    def context(self, x, queries, key_mask=None, head_mask=None):
        """The heads' outputs side by side, before the output matrix: (B, Q, heads * head_size)."""
        q = self.split_heads(self.query(queries))
        k = self.split_heads(self.key(x))
        v = self.split_heads(self.value(x))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask,
                                                 dropout_p=self.dropout if self.training else 0.0)
        if head_mask is not None:
            context = context * head_mask.view(-1, self.num_heads, 1, 1)  # 1 keeps a head, 0 prunes it
        return context.transpose(1, 2).flatten(2)

    def forward(self, x, queries, key_mask=None, head_mask=None):
        """x: (B, T, hidden)    queries: the rows of x to compute an output for, (B, Q, hidden)    -> (B, Q, hidden)"""
        return self.output(self.context(x, queries, key_mask, head_mask))


class FeedForward(nn.Module):
    """down(activation(up(x))): neuron i is row i of `up` and column i of `down`."""

    def __init__(self, hidden_size, intermediate_size, activation):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)

    def intermediate(self, x, ffn_mask=None):
        """(B, T, hidden) -> (B, T, neurons)"""
        neurons = self.activation(self.up(x))
        if ffn_mask is not None:
            neurons = neurons * ffn_mask.view(-1, 1, neurons.shape[-1])  # 1 keeps a neuron, 0 prunes it
        return neurons

    def forward(self, x, ffn_mask=None):
        return self.down(self.intermediate(x, ffn_mask))


class Layer(nn.Module):
    """norm(x + attention(x)), then norm(x + ffn(x))."""

    def __init__(self, config, num_heads, intermediate_size):
        super().__init__()
        self.dropout = config.hidden_dropout
        self.attention = Attention(config.hidden_size, num_heads, config.head_size, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = FeedForward(config.hidden_size, intermediate_size, config.hidden_act)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x, queries, key_mask=None, head_mask=None, ffn_mask=None):
        """x: (B, T, hidden)    queries: the rows of x to compute an output for, (B, Q, hidden)    -> (B, Q, hidden)"""
        attended = self.attention(x, queries, key_mask, head_mask)
        x = self.attention_norm(queries + F.dropout(attended, self.dropout, self.training))
        return self.ffn_norm(x + F.dropout(self.ffn(x, ffn_mask), self.dropout, self.training))


class Head(nn.Module):
    """The first token's vector -> logits, as each family does it in `transformers`."""

    def __init__(self, config):
        super().__init__()
        self.family = config.family
        self.dropout = config.classifier_dropout
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, len(config.label_names))

    def forward(self, x):
        if self.family == "roberta":
            x = F.dropout(x, self.dropout, self.training)
        x = F.relu(self.dense(x)) if self.family == "distilbert" else torch.tanh(self.dense(x))
        return self.out(F.dropout(x, self.dropout, self.training))


class Encoder(nn.Module):
    """embeddings -> layers -> head on the first token.

    checkpointing: while training, keep nothing of a layer but its inputs, and compute it again in the backward pass
    with the same random numbers (Chen et al. 2016, arXiv:1604.06174): the same gradients, less memory, more time.
    """

    checkpointing = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, heads, neurons) for heads, neurons
                                    in zip(config.num_heads, config.intermediate_sizes, strict=True))
        self.head = Head(config)

    @property
    def device(self):
        return self.embeddings.norm.weight.device

    def layer_queries(self, i, x):
        """The rows of x (B, T, hidden) that layer i computes an output for: (B, Q, hidden), see config.num_queries."""
        num_queries = self.config.num_queries(i, x.shape[1])
        # A slice of everything would be a node of the exported graph, and ONNX Runtime would not fuse the attention.
        return x if num_queries == x.shape[1] else x[:, :num_queries]

    def forward(self, input_ids, attention_mask=None, head_mask=None, ffn_mask=None, all_tokens=False):
        """Token ids (B, T) -> logits (B, num_labels).

        attention_mask: (B, T), 1 for text and 0 for padding; None says that nothing is padded.
        head_mask, ffn_mask: (layers, heads) and (layers, neurons); a list of one vector a layer where layers
        differ; with (B, heads) and (B, neurons) in the place of a vector, every text has a mask of its own.
        all_tokens: the last layer computes every token, for hooks that read its output; the logits are the same.
        """
        if input_ids.shape[1] > self.config.max_length:
            raise UserError(f"{input_ids.shape[1]} tokens are more than the {self.config.max_length} that this "
                             f"model has positions for: set --max-length {self.config.max_length}")
        key_mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T)
        x = self.embeddings(input_ids)
        for i, layer in enumerate(self.layers):
            queries = x if all_tokens else self.layer_queries(i, x)
            run = partial(checkpoint, layer, use_reentrant=False) if self.checkpointing and self.training else layer
            x = run(x, queries, key_mask, None if head_mask is None else head_mask[i],
                    None if ffn_mask is None else ffn_mask[i])
        return self.head(x[:, 0])


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
