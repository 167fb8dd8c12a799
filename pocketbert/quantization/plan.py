"""Which matrix gets which format.

    formats = parse_plan("embeddings=int4,encoder=int8,head=fp32", model)      # {name of a matrix: format}
    stored = store_all(model, formats)                                         # {name of a matrix: stored module}
    small = with_stored(model, stored)                                         # the model with these in their places
"""

import copy

from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.sparse import SparseLinear
from pocketbert.models.stored import replace_module, to_float
from pocketbert.quantization.clusters import store_clusters
from pocketbert.quantization.float16 import BFloat16Matrix, Float16Matrix
from pocketbert.quantization.gptq import store_groups
from pocketbert.quantization.int8 import Int8Embedding, Int8Linear
from pocketbert.quantization.nf4 import NF4Matrix

# To add a format:
#   1. a class like Float16Matrix in a file of its own, and its kind in FORMATS (models/stored.py), so that it loads;
#   2. its name in PLAN_FORMATS, and in GROUPED_FORMATS if it takes --group-size;
#   3. a branch of store_matrix, which makes it from a float matrix;
#   4. a line in METHODS, if `quantize.py --method` shall know it.
# int4 and int8-weights are one kind ("groups:4:64", "groups:8:64"): a name for 3 bits needs steps 2 to 4 only.
METHODS = {  # a shortcut for a common plan
    "dynamic": "embeddings=int8,encoder=int8",
    "int8-weights": "embeddings=int8-weights,encoder=int8-weights",
    "int4": "embeddings=int4,encoder=int4",
    "gptq": "embeddings=int4,encoder=gptq",
    "nf4": "embeddings=nf4,encoder=nf4",
    "clusters": "embeddings=clusters,encoder=clusters",
    "fp16": "embeddings=fp16,encoder=fp16,head=fp16",
    "bf16": "embeddings=bf16,encoder=bf16,head=bf16"}
PLAN_FORMATS = ("fp32", "fp16", "bf16", "int8", "int8-weights", "int4", "gptq", "nf4", "clusters")
GROUPED_FORMATS = {"int4", "int8-weights", "gptq", "nf4"}  # those with a scale for each group of --group-size weights


def matrices(model):
    """{name: module} of everything that can have another format.

    LayerNorms, biases and BERT's embedding of two token types are small and stay fp32. All tokens share one row of
    that embedding, so its error adds to every token: in int4 it changed MiniLM's logits more than all 30,522 word
    vectors in int4 did.
    """
    return {name: module for name, module in model.named_modules() if name != "embeddings.token_type"
            and isinstance(module, (nn.Linear, nn.Embedding, SparseLinear))}


def part_of(name):
    """The part of a plan that a module or tensor belongs to: embeddings, encoder or head."""
    return name.split(".")[0] if name.startswith(("embeddings.", "head.")) else "encoder"


def parse_plan(plan, model):
    """'embeddings=int4,encoder=int8,head=fp32' -> {name of a matrix: format}; a matrix without a format stays as it is.

    A part is `embeddings`, `encoder` (all that is neither embeddings nor head), `head`, or the beginning of a module's
    name, such as layers.3 or layers.3.ffn.down. Later parts override earlier ones.
    """
    found = matrices(model)
    formats = {}
    for piece in plan.split(","):
        part, _, format_name = piece.strip().partition("=")
        if format_name not in PLAN_FORMATS:
            raise UserError(f"--plan {plan}: {piece!r} is not PART=FORMAT with a format of {', '.join(PLAN_FORMATS)}")
        names = [name for name in found if part in (part_of(name), name) or name.startswith(f"{part}.")]
        if not names and part == "encoder":
            print("encoder: no matrices that can have another format (those inside torch's LSTM and GRU stay fp32)")
        elif not names:
            raise UserError(f"--plan {plan}: {part!r} names no matrix of this model; parts are embeddings, encoder, "
                            f"head, or names like {', '.join(list(found)[-3:-1])}")
        for name in names:
            if format_name == "gptq" and isinstance(found[name], nn.Embedding):
                raise UserError(f"--plan {plan}: gptq needs a matrix product, and {name} is an embedding: use int4")
            formats[name] = format_name
    return {name: format_name for name, format_name in formats.items() if format_name != "fp32"}


def sparse_to_float(model, names):
    """A copy of the model in which the named matrices are float, and {name: SparseLinear} of those that were sparse."""
    model = copy.deepcopy(model)
    sparse = {name: model.get_submodule(name) for name in names if isinstance(model.get_submodule(name), SparseLinear)}
    for name, module in sparse.items():
        replace_module(model, name, to_float(module))
        del model.config.stored_formats[name]
    return model, sparse


def store_matrix(module, format_name, group_size=64, num_clusters=16, engine=None, hessian=None):
    """One float matrix, an nn.Linear or nn.Embedding, in a format of a plan.

    group_size: for int4, int8-weights, gptq and nf4    num_clusters: for clusters
    engine: for int8, see pick_engine    hessian: for gptq, from input_hessians
    """
    if format_name == "fp16":
        return Float16Matrix.from_float(module)
    if format_name == "bf16":
        return BFloat16Matrix.from_float(module)
    if format_name == "int8":
        if isinstance(module, nn.Embedding):
            return Int8Embedding.from_float(module)
        return Int8Linear.from_float(module, engine)
    if format_name == "int8-weights":
        return store_groups(module, 8, group_size)
    if format_name == "int4":
        return store_groups(module, 4, group_size)
    if format_name == "gptq":
        return store_groups(module, 4, group_size, hessian)
    if format_name == "nf4":
        return NF4Matrix.from_float(module, group_size)
    if format_name == "clusters":
        return store_clusters(module, num_clusters)
    raise ValueError(f"{format_name!r} is not one of {', '.join(PLAN_FORMATS)}")


def store_all(model, formats, group_size=64, num_clusters=16, engine=None, hessians=None):
    """{name: stored module} for {name: format}; hessians: {name: H} of the matrices in gptq."""
    hessians = hessians or {}
    return {name: store_matrix(model.get_submodule(name), format_name, group_size, num_clusters, engine,
                               hessians.get(name))
            for name, format_name in formats.items()}


def with_stored(model, stored):
    """A copy of the model with {name: stored module} in place; its config lists the formats for load_model."""
    smaller = copy.deepcopy(model).eval()
    for name, module in stored.items():
        replace_module(smaller, name, module)
        smaller.config.stored_formats[name] = module.format
        if isinstance(module, Int8Linear):
            smaller.config.int8_engine = module.engine
    return smaller
