"""Which matrix gets which format."""

import copy

import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.sparse import SparseLinear
from pocketbert.models.stored import replace_module
from pocketbert.quantization.clusters import store_clusters
from pocketbert.quantization.float16 import BFloat16Matrix, Float16Matrix
from pocketbert.quantization.gptq import input_hessians, layer_error, store_groups
from pocketbert.quantization.int8 import Int8Embedding, Int8Linear
from pocketbert.quantization.nf4 import NF4Matrix

METHODS = {name: f"embeddings={name},encoder={name}" for name in ("int8-weights", "int4", "nf4", "clusters")} | {
    "dynamic": "embeddings=int8,encoder=int8",
    "gptq": "embeddings=int4,encoder=gptq",
    "fp16": "embeddings=fp16,encoder=fp16,head=fp16",
    "bf16": "embeddings=bf16,encoder=bf16,head=bf16"}

PLAN_FORMATS = ("fp32", "fp16", "bf16", "int8", "int8-weights", "int4", "gptq", "nf4", "clusters")


def matrices(model):
    """{name: module} of everything that can take another form.

    LayerNorms, biases and BERT's table of two token types are small and stay fp32. Every token gets the same row of
    that table, so an error there is in all of them: in int4 it moved MiniLM's answers more than the 30,522 words did.
    """
    return {name: module for name, module in model.named_modules() if name != "embeddings.token_type"
            and isinstance(module, (nn.Linear, nn.Embedding, SparseLinear))}


def part_of(name):
    """The part of a plan that a module or tensor belongs to."""
    return name.split(".")[0] if name.startswith(("embeddings.", "head.")) else "encoder"


def parse_plan(plan, model):
    """'embeddings=int4,encoder=int8,head=fp32' -> {name of a matrix: form}; what is not named stays as it is.

    A part is `embeddings`, `encoder` (all that is neither embeddings nor head), `head`, or the beginning of a
    module's name, such as layers.3 or layers.3.ffn.down. A later part overrules an earlier one.
    """
    found, forms = matrices(model), {}
    for piece in plan.split(","):
        part, _, form = piece.strip().partition("=")
        if form not in PLAN_FORMATS:
            raise UserError(f"--plan {plan}: {piece!r} is not PART=FORM with a form of {', '.join(PLAN_FORMATS)}")
        names = [name for name in found if part in (part_of(name), name) or name.startswith(f"{part}.")]
        if not names and part == "encoder":
            print("encoder: no matrices that can take another form (those inside of torch's LSTM and GRU stay fp32)")
        elif not names:
            raise UserError(f"--plan {plan}: {part!r} names no matrix of this model; parts are embeddings, encoder, "
                             f"head, or names like {', '.join(list(found)[-3:-1])}")
        for name in names:
            if form == "gptq" and isinstance(found[name], nn.Embedding):
                raise UserError(f"--plan {plan}: gptq is for matrices that are multiplied; {name} is looked up (int4)")
        forms |= dict.fromkeys(names, form)
    return {name: form for name, form in forms.items() if form != "fp32"}


def store_matrix(module, form, args, hessian=None):
    """One float matrix in its form: a module of layers.py."""
    if form == "int8":
        return (Int8Linear if isinstance(module, nn.Linear) else Int8Embedding).from_float(module)
    if form == "clusters":
        return store_clusters(module, args.clusters, args.init)
    if form in ("int8-weights", "int4", "gptq"):
        return store_groups(module, 8 if form == "int8-weights" else 4, args.group_size, hessian)
    direct = {"fp16": Float16Matrix, "bf16": BFloat16Matrix, "nf4": NF4Matrix}
    return direct[form].from_float(module, *([args.group_size] if form == "nf4" else []))


def store_all(model, forms, args, texts=()):
    """{name: stored module} for a plan. GPTQ's Hessians are those of the float model: one pass over the texts."""
    found = matrices(model)
    names = [name for name, form in forms.items() if form == "gptq"]
    hessians = input_hessians(model, texts, names) if names else {}
    stored = {name: store_matrix(found[name], form, args, hessians.get(name)) for name, form in forms.items()}
    if names:
        errors = [[layer_error(found[name].weight, layer.dequantize(), hessians[name]) for layer in
                   (stored[name], store_matrix(found[name], "int4", args))] for name in names]
        better = sum(ours < rounded for ours, rounded in errors)
        print("gptq: mean relative error of the outputs {:.5f}, rounded to nearest {:.5f}; ".format(
            *(sum(column) / len(names) for column in zip(*errors, strict=True)))
            + f"smaller in {better} of {len(names)} matrices")
    return stored


def with_stored(model, stored, engine):
    """A copy of the model with the stored matrices in their places; its config says so, for load_model."""
    smaller = copy.deepcopy(model).eval()
    for name, module in stored.items():
        replace_module(smaller, name, module)
        smaller.config.stored_formats[name] = module.format
    if any(isinstance(module, (Int8Linear, Int8Embedding)) for module in stored.values()):
        smaller.config.int8_engine = engine
    return smaller


def divergence(reference, logits):
    """Mean KL(fp32 || quantized) in nats: how far the answers have moved. Sees more than labels that flip."""
    return (reference.softmax(-1) * (reference.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean().item()


def sensitivity(model, stored, answer, labels):
    """[(name, divergence, rise of the cross-entropy)] with one matrix stored at a time, the worst first.

    answer: a function from a model to its logits on some validation texts.
    """
    probe = copy.deepcopy(model).eval()
    reference, found = answer(model), []
    for name, module in stored.items():
        original = probe.get_submodule(name)
        replace_module(probe, name, module)
        logits = answer(probe)
        replace_module(probe, name, original)
        found.append((name, divergence(reference, logits),
                      (F.cross_entropy(logits, labels) - F.cross_entropy(reference, labels)).item()))
    return sorted(found, key=lambda row: -row[1])


def keep_worst(model, stored, args, ranking, validate, engine):
    """(stored, names) after as many of the worst matrices as needed have got --keep-as in place of their form."""
    target, stored, kept = validate(model)["macro_f1"] - args.max_drop, dict(stored), []
    while True:
        score = validate(with_stored(model, stored, engine))["macro_f1"]
        print(f"  {len(kept)} of {len(ranking)} matrices kept in {args.keep_as}: macro-F1 {score:.4f} "
              f"(wanted: {target:.4f})")
        if score >= target or len(kept) == len(ranking):
            return stored, kept
        kept.append(name := ranking[len(kept)][0])
        stored.pop(name)
        if args.keep_as != "fp32":
            stored[name] = store_matrix(model.get_submodule(name), args.keep_as, args)
