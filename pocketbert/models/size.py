"""What a model weighs: bytes of its files, and how many parameters."""

import os
from pathlib import Path

MODEL_FILES = ("model.safetensors", "model.onnx", "openvino_model.xml", "openvino_model.bin")


def file_bytes(folder):
    """Bytes on disk: {"model": of model.safetensors, or of an exported graph, "tokenizer": of tokenizer.json}."""
    files = [path for path in (Path(folder) / name for name in MODEL_FILES) if path.exists()]
    if not files:
        raise FileNotFoundError(f"{folder} has none of {', '.join(MODEL_FILES)}: it is not a model folder")
    return {"model": sum(map(os.path.getsize, files)), "tokenizer": os.path.getsize(Path(folder) / "tokenizer.json")}


def count_parameters(model):
    """How many numbers the model multiplies or adds with, whatever format they are stored in.

    Scales, code books and bitmaps are the cost of a format, not parameters, so a quantized matrix counts what its float
    parent counts (`num_weights`), and a sparse one its non-zeros. This number says nothing about bytes: sizes are read
    from files.
    """
    if hasattr(model, "num_parameters"):  # an exported graph
        return model.num_parameters
    total = 0
    for module in model.modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if hasattr(module, "num_weights"):
            own = [(name, tensor) for name, tensor in own if name == "bias"]
            total += module.num_weights
        total += sum(tensor.numel() for _, tensor in own)
    return total
