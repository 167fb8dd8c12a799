"""What a model weighs: bytes of its files, by part and zipped, and how many parameters."""

import json
import os
import zlib
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
    """Bytes on disk: {"model": of the weight files, or of an exported graph, "tokenizer": of the tokenizer's files}."""
    model, tokenizer = counted_files(folder)
    return {"model": sum(map(os.path.getsize, model)), "tokenizer": sum(map(os.path.getsize, tokenizer))}


def counted_files(folder):
    """(paths of the weight files, paths of the tokenizer's files) of a model folder.

    A LoRA adapter computes nothing without its base: its files are those of both.
    """
    folder = Path(folder)
    find = Folder(str(folder), folder)
    if is_adapter(find):
        *base_paths, adapter = weight_paths(find)
        base_files, base_tokenizer = counted_files(base_paths[0].parent)
        own_tokenizer = folder / "tokenizer.json"
        return [*base_files, adapter], [own_tokenizer] if own_tokenizer.exists() else base_tokenizer
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
    return files, [folder / name for name in tokenizer]


def bytes_by_part(folder):
    """{"embeddings", "encoder", "head", "header"}: bytes of model.safetensors; they add up to the file.

    An encoder's pooler belongs to its head. None for a folder without this one file (a graph, shards, a pickle).
    """
    [path, *others], _ = counted_files(folder)
    if path.name != "model.safetensors" or others:
        return None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(length))
    parts = {"embeddings": 0, "encoder": 0, "head": 0, "header": 8 + length}
    for name, tensor in tensors.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            parts[part_of(name)] += end - start
    return parts


def part_of(name):
    """The part of the model that a tensor of model.safetensors belongs to."""
    if "embeddings" in name:
        return "embeddings"
    is_head = name.startswith(("classifier", "pre_classifier", "head.")) or "pooler" in name
    return "head" if is_head else "encoder"


def zipped_bytes(folder):
    """Bytes of the weight and tokenizer files after deflate (zlib's level 6), as a download of a .zip would have."""
    total = 0
    for path in sum(counted_files(folder), []):
        packer = zlib.compressobj(6)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total += len(packer.compress(block))
        total += len(packer.flush())
    return total


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
