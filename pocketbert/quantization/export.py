"""Write a model as a graph file (graph.py lists the formats)."""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from pathlib import Path

import torch

from pocketbert.errors import UserError
from pocketbert.models.encoder import Attention, Encoder
from pocketbert.quantization.graph import INPUTS, graph_files, require
from pocketbert.quantization.onnx import fuse_onnx, quantize_onnx
from pocketbert.quantization.openvino import to_openvino

LARGEST = 2**31 - 2**20  # bytes; an ONNX file with its weights inside is one protobuf message, of at most 2 GB

EXPORTERS = {  # format -> the packages that write it
    "onnx": ["onnx", "onnxruntime"],
    "onnx-int8": ["onnx", "onnxruntime"],
    "onnx-optimized": ["onnx", "onnxruntime"],
    "openvino": ["onnx", "openvino"],
    "openvino-int8": ["onnx", "openvino", "nncf"]}


def export_graph(model, format_name, folder, samples=()):
    """Write the graph files of an fp32 model into an existing folder: an encoder, cnn, bag, gru or lstm.

    samples: [(input_ids, attention_mask), ...] of a few hundred texts, for openvino-int8 alone (with 32 texts the
    noise in the logits of a small model was twice that with 240)
    The graph takes input_ids and attention_mask (B, T) int64, for any B and T, and gives logits (B, num_labels).
    """
    target = Path(folder) / graph_files(format_name)[0]
    check_exportable(model, format_name)
    if format_name == "openvino-int8" and not samples:
        raise UserError("openvino-int8 reads the ranges of the activations from sample texts: --data is needed")
    with silenced(), tempfile.TemporaryDirectory(dir=folder) as scratch:
        require(format_name, EXPORTERS[format_name])
        plain = Path(scratch) / "plain.onnx"
        trace(model, plain)
        if format_name == "onnx":
            plain.rename(target)
        elif format_name == "onnx-int8":
            quantize_onnx(plain, target)
        elif format_name == "onnx-optimized":
            fuse_onnx(plain, target)
        elif format_name == "openvino":
            to_openvino(plain, target)
        else:
            to_openvino(plain, target, samples)


@contextlib.contextmanager
def silenced():
    """Suppress what the export tools print: deprecations, traced constants, progress bars, advice."""
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(before)


def check_exportable(model, format_name):
    """An error if the model has no graph, is not fp32, or does not fit into an ONNX file."""
    kind = getattr(model.config, "kind", "encoder")
    if kind in ("xlstm", "rwkv"):
        raise UserError(f"{kind} cannot be exported: its loop over the tokens has a length of its own for each text, "
                        "which a graph does not have; encoders, cnn, bag, gru and lstm can")
    if kind == "bag" and model.config.ngrams > 1 and format_name.startswith("openvino"):
        raise UserError(f"{format_name} cannot run a bag of n-grams: a text shorter than the n-grams has no answer "
                        "there; take onnx or onnx-int8")
    if format_name == "onnx-optimized" and kind != "encoder":
        raise UserError(f"onnx-optimized fuses the attention of encoders; {kind} has none: take onnx or onnx-int8")
    tensors = model.state_dict().values()
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        raise UserError(f"{format_name} needs an fp32 model; start from its fp32 parent")
    if sum(4 * tensor.numel() for tensor in tensors) > LARGEST:
        raise UserError(f"{format_name}: the weights do not fit into the 2 GB that an ONNX file may have")


class PlainAttention(Attention):
    """Attention written as the matrix products and the softmax that graph optimizers recognise, with the same result:

        softmax(Q K^T / sqrt(head_size) + (1 - mask) * -10000) V          (B, Q, heads * head_size)

    The exporter writes scaled_dot_product_attention with guards against NaN, which no fusion recognises.
    A masked key gets exp(-10000) = 0, as in BERT's original code.
    """

    def __init__(self, attention):
        super().__init__(attention.query.in_features, attention.num_heads, attention.head_size, attention.dropout)
        self.load_state_dict(attention.state_dict())

    def context(self, x, queries, key_mask=None, head_mask=None):
        projected = self.query(queries), self.key(x), self.value(x)
        q, k, v = (self.split_heads(tensor) for tensor in projected)
        scores = q @ k.transpose(-1, -2) / self.head_size ** 0.5
        scores = scores + (1.0 - key_mask.float()) * -10000.0
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def trace(model, target):
    """Run the model once and write its graph as plain ONNX.

    dynamo=False: the older exporter names every node after its module (/layers.0/ffn/up/MatMul), needs no
    onnxscript and takes a tenth of the time. Opset 17 is the first with LayerNormalization.
    """
    model = copy.deepcopy(model).cpu()
    if isinstance(model, Encoder):
        for layer in model.layers:
            layer.attention = PlainAttention(layer.attention)
    model.eval()
    example = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)  # B and T stay variable, below
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(model, example, str(target), dynamo=False, opset_version=17, input_names=INPUTS,
                      output_names=["logits"],
                      dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}})
