"""Smaller copies of an encoder: fewer layers, fewer heads and neurons, narrower vectors."""

import copy

import torch
from torch import nn


def keep_layers(model, kept):
    """A copy of the model that has only the layers with the numbers in `kept`.

    Every block adds to its input, so an encoder still works, roughly, with blocks left out (Sajjad et al. 2020,
    arXiv:2004.03844).
    """
    smaller = copy.deepcopy(model)
    smaller.layers = nn.ModuleList(smaller.layers[i] for i in kept)
    smaller.config.num_heads = [layer.attention.num_heads for layer in smaller.layers]
    smaller.config.intermediate_sizes = [layer.ffn.up.out_features for layer in smaller.layers]
    return smaller


@torch.no_grad()
def narrow(model, projection):
    """A copy whose hidden vectors x (d,) are x P (w,): every matrix that reads them and every one that writes them.

        reads: W (out, d) -> W P        writes: W (d, in) -> P^T W,  b -> P^T b

    projection P: (d, w) with orthonormal columns, w <= d. The number of heads and of neurons does not change. The copy
    is exact if P is a permutation. Otherwise it is a starting point for training only, because LayerNorm has a gain
    for each number, and P mixes the numbers; the new gains are the old ones averaged with weights P^2.
    """
    smaller = copy.deepcopy(model)
    P = projection.to(model.device)
    smaller.config.hidden_size = P.shape[1]
    for name, module in smaller.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight = nn.Parameter(module.weight @ P)
            module.embedding_dim = P.shape[1]
        elif isinstance(module, nn.LayerNorm):
            module.weight = nn.Parameter(P.square().T @ module.weight)
            module.bias = nn.Parameter(module.bias @ P)
            module.normalized_shape = (P.shape[1],)
        elif isinstance(module, nn.Linear):
            if name.endswith((".query", ".key", ".value", ".up", "head.dense", "head.out")):
                module.weight = nn.Parameter(module.weight @ P)
                module.in_features = P.shape[1]
            if name.endswith((".attention.output", ".down", "head.dense")):
                module.weight = nn.Parameter(P.T @ module.weight)
                module.bias = nn.Parameter(module.bias @ P)
                module.out_features = P.shape[1]
    return smaller


def slice_linear(linear, rows=None, columns=None):
    """A smaller nn.Linear with the chosen output rows and input columns (index vectors; None: all of them)."""
    weight = linear.weight.detach()
    bias = linear.bias.detach()
    if rows is not None:
        weight = weight[rows]
        bias = bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    smaller = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    smaller.weight.data = weight.clone()
    smaller.bias.data = bias.clone()
    return smaller.requires_grad_(linear.weight.requires_grad)  # a frozen layer stays frozen


def slice_heads(attention, head_mask):
    """Remove the heads with mask 0: their rows of query, key and value, their columns of the output matrix."""
    kept = head_mask.bool().repeat_interleave(attention.head_size).nonzero().flatten()
    for name in ("query", "key", "value"):
        setattr(attention, name, slice_linear(getattr(attention, name), rows=kept))
    attention.output = slice_linear(attention.output, columns=kept)
    attention.num_heads = int(head_mask.sum())


def slice_intermediate(ffn, ffn_mask):
    """Remove the neurons with mask 0: rows of the first matrix, columns of the second."""
    kept = ffn_mask.bool().nonzero().flatten()
    ffn.up = slice_linear(ffn.up, rows=kept)
    ffn.down = slice_linear(ffn.down, columns=kept)


def slice_model(model, head_mask, ffn_mask):
    """A copy of the model without the masked heads and neurons. Same logits, fewer bytes, fewer milliseconds."""
    model = copy.deepcopy(model)
    for layer, heads, neurons in zip(model.layers, head_mask, ffn_mask, strict=True):
        slice_heads(layer.attention, heads.to(model.device))
        slice_intermediate(layer.ffn, neurons.to(model.device))
    model.config.num_heads = [layer.attention.num_heads for layer in model.layers]
    model.config.intermediate_sizes = [layer.ffn.up.out_features for layer in model.layers]
    return model


def smaller_model(model, num_heads, num_neurons):
    """A copy with so many heads and neurons in each layer (two lists), for weights that come from elsewhere."""
    def first(counts, sizes):
        return [torch.arange(size) < count for count, size in zip(counts, sizes, strict=True)]
    return slice_model(model, first(num_heads, model.config.num_heads),
                       first(num_neurons, model.config.intermediate_sizes))


@torch.no_grad()
def check_sliced_equals_masked(sliced, model, head_mask, ffn_mask, batch, tolerance=1e-9):
    """The proof that slicing removed nothing but zeros: the largest |logit difference|, an error above the tolerance.

    Computed in float64 on the CPU, on a few texts of the batch. In float32 (or TF32) the rounding errors of a deep
    model may be as large as the effect of a wrong slice.
    """
    model, sliced = (copy.deepcopy(m).cpu().double().eval() for m in (model, sliced))
    input_ids = batch.input_ids[:8].cpu()
    attention_mask = None if batch.attention_mask is None else batch.attention_mask[:8].cpu()
    masks = [[mask.cpu().double() for mask in part] for part in (head_mask, ffn_mask)]
    masked_logits = model(input_ids, attention_mask, *masks)
    difference = (sliced(input_ids, attention_mask) - masked_logits).abs().max().item()
    assert difference <= tolerance * max(1.0, masked_logits.abs().max().item()), \
        f"the sliced model's logits differ from the masked model's by {difference:.2g}"
    return difference
