"""Write an encoder as a graph file."""

import copy
import tempfile
from functools import partial
from pathlib import Path

import torch

from pocketbert.errors import UserError
from pocketbert.quantization.graph import INPUTS, graph_files, require, silenced
from pocketbert.quantization.onnx import fuse_onnx, quantize_onnx
from pocketbert.quantization.openvino import to_openvino

LARGEST = 2**31 - 2**20  # bytes; an ONNX file with its weights inside is one protobuf message, which ends at 2 GB


def exporters(form):
    """The packages that writing a form takes."""
    if form.startswith("openvino"):
        return ["onnx", "openvino", "nncf"] if form == "openvino-int8" else ["onnx", "openvino"]
    return ["onnx", "onnxruntime"]


def export_graph(model, form, folder, batches=None):
    """Write the graph files of an fp32 Encoder into an existing folder.

    form: one of GRAPH_FILES    batches: sample inputs [(input_ids, attention_mask), ...], for openvino-int8 alone:
    a few hundred texts (with 32 the noise in the logits of a small model was twice that with 240).
    The graph takes input_ids and attention_mask (B, T) int64, for any B and T, and gives logits (B, num_labels).
    """
    target = Path(folder) / graph_files(form)[0]
    tensors = model.state_dict().values()
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        raise UserError(f"--method {form} wants an fp32 model; start from its fp32 parent")
    if sum(4 * tensor.numel() for tensor in tensors) > LARGEST:
        raise UserError(f"--method {form}: the weights do not fit into the 2 GB that an ONNX file may have")
    batches = list(batches or []) if form == "openvino-int8" else None
    if batches == []:
        raise UserError("--method openvino-int8 reads the ranges of the activations off sample texts: "
                         "--data is needed")
    with silenced(), tempfile.TemporaryDirectory(dir=folder) as scratch:
        require(form, exporters(form))
        plain = Path(scratch) / "plain.onnx"
        trace(model, plain)
        if form == "onnx":
            plain.rename(target)
        elif form == "onnx-int8":
            quantize_onnx(plain, target)
        elif form == "onnx-optimized":
            fuse_onnx(plain, target)
        else:
            to_openvino(plain, target, batches)


def plain_context(attention, x, queries, key_mask, head_mask=None):
    """Attention.context in the words that graph optimisers look for, the same numbers:

        softmax(Q K^T / sqrt(head_size) + (1 - mask) * -10000) V          (B, Q, heads * head_size)

    The exporters write scaled_dot_product_attention with guards against NaN, which no fusion recognises.
    A masked key gets exp(-10000) = 0, as with BERT's own mask.
    """
    q, k, v = (attention.split_heads(tensor)
               for tensor in (attention.query(queries), attention.key(x), attention.value(x)))
    scores = q @ k.transpose(-1, -2) / attention.head_size ** 0.5
    scores = scores + (1.0 - key_mask.float()) * -10000.0
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def trace(model, target):
    """Run the model once and write down its graph as plain ONNX.

    dynamo=False: the older exporter names every node after its module (/layers.0/ffn/up/MatMul), needs no
    onnxscript and takes a tenth of the time. Opset 17 is the first with LayerNormalization.
    """
    model = copy.deepcopy(model).cpu().eval()
    for layer in model.layers:
        layer.attention.context = partial(plain_context, layer.attention)
    example = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)  # B and T are left open below
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(model, example, str(target), dynamo=False, opset_version=17, input_names=INPUTS,
                      output_names=["logits"],
                      dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}})
