"""Where the bytes of a quantized model are, against those of its fp32 parent."""

import tempfile
from collections import Counter

from pocketbert.models.folder import save_model
from pocketbert.models.size import file_bytes
from pocketbert.models.sparse import to_dense
from pocketbert.quantization.clusters import ClusteredMatrix
from pocketbert.quantization.plan import part_of


def tensor_bytes(model, part):
    """Bytes of the tensors in one part of a model: embeddings, encoder or head."""
    return sum(tensor.numel() * tensor.element_size() for name, tensor in model.state_dict().items()
               if part_of(name) == part)


def bytes_table(small, model):
    """Lines that say what each part cost in `model`, what it costs in `small`, and in which formats.

    The bytes are those of the tensors; the file has a header of some kilobytes more.
    """
    lines = []
    for part in ("embeddings", "encoder", "head"):
        kinds = Counter(format_name.split(":")[0] for name, format_name in small.config.stored_formats.items()
                        if part_of(name) == part)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "as it was"
        lines.append(f"{part:<11}{tensor_bytes(model, part) / 1e6:>8.2f} MB ->"
                     f"{tensor_bytes(small, part) / 1e6:>7.2f} MB   {listed}")
    clustered = [module for module in small.modules() if isinstance(module, ClusteredMatrix)]
    if clustered:
        lines.append("clusters: {:.2f} bits a weight entropy coded, as in the file; {:.2f} without entropy coding"
                     .format(*cluster_bits(clustered)))
    return lines


def cluster_bits(clustered):
    """Bits a weight over all ClusteredMatrix modules: in the file, and if each index took ceil(log2 K) bits."""
    weights = sum(module.num_weights for module in clustered)
    coded = sum(module.bits_per_weight * module.num_weights for module in clustered)
    plain = 0
    for module in clustered:
        num_clusters = len(module.codebook)
        plain += (num_clusters - 1).bit_length() * module.num_weights + 32 * num_clusters
    return coded / weights, plain / weights


def fp32_bytes(model, tokenizer):
    """Bytes of the fp32 model's file. It is written for this purpose: the parent may be a .bin or on the Hub."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(to_dense(model, quiet=True), tokenizer, f"{folder}/fp32", run={})
        return file_bytes(f"{folder}/fp32")["model"]
