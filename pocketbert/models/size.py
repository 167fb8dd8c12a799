"""What a model weighs: bytes of its files, and how many parameters."""

import os
from pathlib import Path

from pocketbert.hub import Folder
from pocketbert.models.weight_paths import is_adapter, weight_paths

MODEL_FILES = ("model.safetensors", "model.onnx", "openvino_model.xml", "openvino_model.bin")


# The first of these that is there holds the weights of a folder from elsewhere; * is the number of a shard.
OTHER_WEIGHTS = ("model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
# The same for the tokenizer, in the order in which tokenizer_files.load_tokenizer looks.
TOKENIZER_FILES = (("tokenizer.json",), ("bpe.codes", "vocab.txt"), ("vocab.json", "merges.txt"), ("vocab.txt",),
                   ("sentencepiece.bpe.model",))


def file_bytes(folder):
    """Bytes on disk: {"model": of the weight files, or of an exported graph, "tokenizer": of the tokenizer's files}.

    A LoRA adapter computes nothing without its base: its bytes are those of both.
    """
    folder = Path(folder)
    find = Folder(str(folder), folder)
    if is_adapter(find):
        *base_paths, adapter = weight_paths(find)
        base = file_bytes(base_paths[0].parent)
        has_tokenizer = (folder / "tokenizer.json").exists()
        return {"model": base["model"] + os.path.getsize(adapter),
                "tokenizer": os.path.getsize(folder / "tokenizer.json") if has_tokenizer else base["tokenizer"]}
    files = [folder / name for name in MODEL_FILES if (folder / name).exists()]
    if files and files[0].name == "model.safetensors":
        files = files[:1]  # what load_model reads; a graph that lies beside it is another model
    for pattern in OTHER_WEIGHTS:
        files = files or list(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} has no weights ({', '.join(MODEL_FILES + OTHER_WEIGHTS)}): it is not a "
                                "model folder")
    tokenizer = next((names for names in TOKENIZER_FILES if all((folder / name).exists() for name in names)), None)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder} has no tokenizer (tokenizer.json, vocab.txt ...): it is not a model folder")
    return {"model": sum(map(os.path.getsize, files)),
            "tokenizer": sum(os.path.getsize(folder / name) for name in tokenizer)}


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
