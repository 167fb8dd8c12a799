"""Quantize a trained model: fewer bits for each weight, and fewer milliseconds where the processor helps.

In int8, each row of a weight matrix is stored as whole numbers from -128 to 127 and one scale:

    W[o, :] ~ scale[o] * W_int8[o, :],        scale[o] = max|W[o, :]| / 127.5

"Dynamic" means that activations are quantized on the fly, at every call, so no calibration data are needed.
torch.ao chooses the scales and multiplies int8 by int8: a quarter of the bytes, and about half of the time on a
processor with VNNI. All other forms save bytes only: their matrices are turned back into floats when the model is
opened. A plan says which form each part has; a method is a plan with a name. From many bits to few:

    fp16, bf16          half of the bytes, and hardly a change
    int8-weights        whole numbers for the weights, floats for the activations: near-lossless
    int4, gptq          16 levels, a scale and a lowest value for each group of a row; gptq lets the weights that
                        are still to be rounded make up for those that were (Frantar et al. 2022, arXiv:2210.17323)
    nf4                 the 16 quantiles of a normal distribution as levels (Dettmers et al. 2023, arXiv:2305.14314)
    clusters            16 levels of the matrix's own, found by k-means, fine-tuned with --epochs, and zipped
                        (Han et al. 2016, arXiv:1510.00149)

    python quantize.py --model runs/demo/pruned --out runs/demo/int8 --data demo
    python quantize.py --model runs/tweets/teacher --out runs/tweets/nf4 --data tweet_sentiment_extraction --method nf4
    ... --plan embeddings=int4,encoder=int8,head=fp32     ... --keep-layers auto --max-drop 0.005
    ... --method onnx | onnx-int8 | onnx-optimized | openvino | openvino-int8

With --data it measures what was lost: score, milliseconds, and how often a text's label depends on its batch mates.
The arithmetic is in quantization.py, the stored forms are in layers.py.
"""

import copy
import math
import tempfile
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from data_utils import encode, open_data
from pocketbert.cli import (
    add_common_flags,
    add_training_flags,
    data_flags,
    parser_for,
    positive_int,
    refuse_idle_flags,
    run_script,
    unit_interval,
)
from pocketbert.data.batching import batches
from pocketbert.data.splits import take
from pocketbert.evaluation.metrics import scores
from pocketbert.evaluation.timing import time_ratio
from pocketbert.hardware import hardware_line
from pocketbert.models.device import autocast, seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import check_out, load_model, parent_of, save_model
from pocketbert.models.predict import predict
from pocketbert.models.size import file_bytes
from pocketbert.models.sparse import SparseLinear, to_dense
from pocketbert.models.stored import replace_module, to_float
from pocketbert.provenance import provenance
from pocketbert.quantization.clusters import ClusteredMatrix, ClusteredWeights, kmeans
from pocketbert.quantization.export import export_graph
from pocketbert.quantization.graph import GRAPH_FILES, open_runtime
from pocketbert.quantization.int8 import Int8Linear, overflows, pick_engine, use_engine
from pocketbert.quantization.plan import (
    METHODS,
    PLAN_FORMATS,
    divergence,
    keep_worst,
    parse_plan,
    part_of,
    sensitivity,
    store_all,
    with_stored,
)
from pocketbert.training.log import TrainingLog
from pocketbert.training.optim import Optimizer, prepare_for_training


def train_centroids(model, names, train_ids, targets, validate, args, pad_id):
    """The usual loop, but each clustered matrix has only as many free numbers as clusters: W = codebook[indices].

    dL/dcodebook[k] is the sum of dL/dW over the weights of cluster k. Biases, LayerNorms and the head learn too.
    targets: labels (N,), or probabilities (N, num_labels) of the fp32 model (--teacher self).
    Returns ({name: stored module}, history); `model` is changed.
    """
    for name in names:
        module = model.get_submodule(name)
        replace_module(model, name, ClusteredWeights(module, *kmeans(module.weight, args.clusters, args.init)))
    batches_per_epoch = math.ceil(len(train_ids) / args.batch_size)
    optimizer, log = Optimizer(model, args, num_batches=args.epochs * batches_per_epoch), TrainingLog(model, args)
    before = validate(model)
    print(f"clustered, before training: macro-F1 {before['macro_f1']:.4f}")
    log.start_over(model, before)
    for epoch in log.epochs():
        model.train()
        shuffled = batches(train_ids, None, args.batch_size, pad_id, shuffle_seed=args.seed + epoch)
        for batch in log.progress(shuffled, total=batches_per_epoch):
            with autocast(model.device, args.bf16):
                loss = F.cross_entropy(model(batch.input_ids, batch.attention_mask), targets[batch.index])
            loss.backward()
            optimizer.step(loss)
            log.batch(loss)
        log.add(epoch, validate(model))
    log.restore_best()
    log.finish()
    return {name: model.get_submodule(name).to_stored() for name in names}, log.history


def print_bytes(small, model):
    """Where the bytes are: those of the tensors, part by part; the file has a header of some kilobytes more."""
    def megabytes(candidate, part):
        return sum(tensor.numel() * tensor.element_size() for name, tensor in candidate.state_dict().items()
                   if part_of(name) == part) / 1e6
    for part in ("embeddings", "encoder", "head"):
        forms = Counter(form.split(":")[0] for name, form in small.config.stored_formats.items()
                        if part_of(name) == part)
        print(f"{part:<11}{megabytes(model, part):>8.2f} MB ->{megabytes(small, part):>7.2f} MB   "
              + (", ".join(f"{count} {form}" for form, count in forms.items()) or "as it was"))
    if clustered := [module for module in small.modules() if isinstance(module, ClusteredMatrix)]:
        weights = sum(module.num_weights for module in clustered)
        zipped = sum(module.bits_per_weight * module.num_weights for module in clustered) / weights
        packed = sum((k - 1).bit_length() * module.num_weights + 32 * k for module in clustered
                     for k in module.numbers[:1]) / weights
        print(f"clusters: {zipped:.2f} bits a weight zipped, as they are in the file; only packed: {packed:.2f}")


def batch_mate_flips(model, ids, batch_size, pad_id):
    """How many texts get another label in a batch than alone (dynamic int8 shares one scale a batch).

    Returns (flips, largest |logit difference|).
    """
    together, alone = predict(model, ids, batch_size, pad_id), predict(model, ids, 1, pad_id)
    return int((together.argmax(-1) != alone.argmax(-1)).sum()), (together - alone).abs().max().item()


def fp32_bytes(model, tokenizer):
    """The bytes of the float model's file, written for the purpose: the parent may be a .bin or on the Hub."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(to_dense(model, quiet=True), tokenizer, f"{folder}/fp32", run={})
        return file_bytes(f"{folder}/fp32")["model"]


def speed(model, fp32, ids, args, pad_id):
    """{batch size: time of the model / time of fp32}; an error where int8 is slower and nobody insists."""
    int8 = isinstance(model, nn.Module) and any(isinstance(module, Int8Linear) for module in model.modules())
    ratios = {size: 1 / time_ratio(model, fp32, ids, size, pad_id) for size in sorted({1, args.batch_size})}
    if not int8 and isinstance(model, nn.Module):
        print("this saves bytes, not time: the matrices become floats when the model is opened")
    print("time / fp32: " + ", ".join(f"{ratio:.2f} at batch {size}" for size, ratio in ratios.items()))
    if int8 and min(ratios.values()) > 1:
        message = (f"int8 is slower than fp32 here, {min(ratios.values()):.2f} x the time at best ({hardware_line()})")
        if not args.force:
            raise ValueError(f"{message}; nothing was written. --method int8-weights has the same bytes at the time "
                             "of fp32; --force writes int8 all the same")
        print(f"WARNING: {message}; it saves bytes only")
    return ratios


def measure(model, fp32, ids, labels, args, pad_id):
    """What quantization cost, on validation texts; prints a table and every warning that applies."""
    logits = {"fp32": predict(fp32, ids, args.batch_size, pad_id), "new": predict(model, ids, args.batch_size, pad_id)}
    result = {name: scores(value, labels) for name, value in logits.items()}
    changed = int((logits["fp32"].argmax(-1) != logits["new"].argmax(-1)).sum())
    flips, difference = batch_mate_flips(model, ids[:500], args.batch_size, pad_id)
    print(f"{'':<6}{'macro-F1':>10}{'accuracy':>10}\n"
          + "\n".join(f"{name:<6}{s['macro_f1']:>10.4f}{s['accuracy']:>10.4f}" for name, s in result.items()))
    print(f"{changed} of {len(ids):,} labels differ from fp32; {flips} of {len(ids[:500])} labels depend on the batch "
          f"(logits by up to {difference:.2g})")
    classes = {name: len(set(value.argmax(-1).tolist())) for name, value in logits.items()}
    if classes["new"] == 1 < classes["fp32"]:
        print("WARNING: the quantized model answers one class for every text: it is broken; keep fp32")
    return {"validation": result["new"], "fp32": result["fp32"], "labels_changed": changed,
            "divergence": divergence(*logits.values()), "batch_mate_flips": flips, "batch_mate_texts": len(ids[:500])}


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the fp32 model folder to quantize")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--method", choices=[*METHODS, *GRAPH_FILES], default="dynamic",
                        help="one form for all; dynamic is torch.ao's int8; onnx* and openvino* export the graph")
    parser.add_argument("--plan", metavar="PART=FORM,...", help="a form for each part, in place of --method: parts "
                        f"are embeddings, encoder, head, layers.3.ffn ...; forms are {', '.join(PLAN_FORMATS)}")
    parser.add_argument("--group-size", type=positive_int, default=64,
                        help="weights that share a scale (int4, int8-weights, gptq, nf4)")
    parser.add_argument("--clusters", type=positive_int, default=16, help="levels of a clustered matrix, 2 to 256")
    parser.add_argument("--init", choices=["linear", "density", "kmeans++"], default="linear",
                        help="where the centroids start")
    parser.add_argument("--engine", default="auto", help="x86, onednn, fbgemm or qnnpack; auto: this machine's best")
    parser.add_argument("--keep-layers", metavar="NAMES|auto", help="matrices that do not get the form: names like "
                        "layers.5.ffn.down,layers.0, or auto: the worst ones, until --max-drop is kept")
    parser.add_argument("--keep-as", choices=["fp32", "fp16", "int8-weights"], default="fp32",
                        help="the form of kept matrices")
    parser.add_argument("--max-drop", type=unit_interval, default=0.005,
                        help="with --keep-layers auto: the macro-F1 that may be lost")
    parser.add_argument("--samples", type=positive_int, default=512,
                        help="texts for gptq's moments, openvino-int8's ranges and the sensitivity of each matrix")
    parser.add_argument("--force", action="store_true", help="write int8 also where it is slower than fp32")
    parser.add_argument("--teacher", choices=["self"], help="with --epochs: learn the fp32 model's probabilities")
    add_training_flags(parser, epochs=0, lr=1e-4)
    add_common_flags(parser, data_required=False)
    args = parser.parse_args(argv)
    if args.plan is not None and args.method != "dynamic":
        parser.error("--plan and --method are two ways to say one thing: give one")
    if args.plan is None:
        args.plan = METHODS.get(args.method, "")
    if args.keep_layers and args.method in GRAPH_FILES:
        parser.error(f"--keep-layers is not for --method {args.method}")
    if args.keep_layers and args.keep_layers != "auto":  # which is but a longer plan
        args.plan += "".join(f",{name}={args.keep_as}" for name in args.keep_layers.split(","))
    forms = {piece.rpartition("=")[2] for piece in args.plan.split(",")}
    refuse_idle_flags(parser, args, (
            ("group_size", forms & {"int4", "int8-weights", "gptq", "nf4"}, "no form with groups is asked for"),
            ("clusters", "clusters" in forms, "it wants --method clusters"),
            ("init", "clusters" in forms, "it wants --method clusters"),
            ("engine", "int8" in forms, "it is for int8"),
            ("keep_as", args.keep_layers, "it wants --keep-layers"),
            ("max_drop", args.keep_layers == "auto", "it wants --keep-layers auto"),
            *((flag, args.epochs, "it is for training: give --epochs") for flag in ("lr", "freeze", "dropout"))))
    if args.epochs and "=clusters" not in args.plan:
        parser.error("--epochs trains the centroids of clusters: give it --method clusters")
    if args.epochs and args.keep_layers == "auto":
        parser.error("--keep-layers auto measures before any training: name the matrices, or drop --epochs")
    if args.epochs and not args.data or args.teacher and not args.epochs:
        parser.error("--epochs wants --data, and --teacher self wants --epochs")
    if not args.data and (args.keep_layers == "auto" or "=gptq" in args.plan or args.method == "openvino-int8"):
        parser.error("gptq, openvino-int8 and --keep-layers auto look at texts: give --data")
    if not 2 <= args.clusters <= 256:
        parser.error(f"--clusters {args.clusters} is not between 2 and 256")
    return args


def compress(model, args, data, encoded, pad_id):
    """The model with its matrices in the forms of the plan, and what there is to report.

    encoded: a function from a split of the data to its token ids.
    """
    forms, report, stored, engine = parse_plan(args.plan, model), {}, {}, None
    if "int8" in forms.values():
        engine = pick_engine(args.engine)
        use_engine(engine)
        print(f"int8 engine: {engine}, activations in {7 if overflows(engine) else 8} bits")
    model, sparse = copy.deepcopy(model), {}
    for name in forms:
        if isinstance(module := model.get_submodule(name), SparseLinear):  # its zeros may become other numbers
            sparse[name] = module
            replace_module(model, name, to_float(module))
            del model.config.stored_formats[name]
    texts = []
    if data is not None:
        sample, val_ids = take(data.train, args.samples, seed=args.seed), encoded(data.validation)
        texts = list(batches(encoded(sample), None, args.batch_size, pad_id))

    def validate(candidate):
        return scores(predict(candidate, val_ids, args.batch_size, pad_id), data.validation.labels)

    if args.epochs:
        train_ids, targets = encoded(data.train), torch.tensor(data.train.labels)
        if args.teacher:
            targets = predict(model, train_ids, args.batch_size, pad_id).softmax(-1)
        prepare_for_training(model, args)
        clustered = [name for name, form in forms.items() if form == "clusters"]
        stored, report["history"] = train_centroids(model, clustered, train_ids, targets, validate, args, pad_id)
    stored |= store_all(model, {name: form for name, form in forms.items() if name not in stored}, args, texts)
    if args.keep_layers == "auto":
        some = take(data.validation, args.samples, seed=args.seed)
        ids = encoded(some)
        ranking = sensitivity(model, stored, lambda candidate: predict(candidate, ids, args.batch_size, pad_id),
                              torch.tensor(some.labels))
        print(f"one matrix at a time, on {len(ids)} validation texts{'':<8}KL to fp32    rise of the loss")
        for name, moved, rise in ranking[:5]:
            print(f"  {name:<46}{moved:>10.5f}{rise:>+20.5f}")
        report["sensitivity"] = ranking
        stored, report["kept"] = keep_worst(model, stored, args, ranking, validate, engine)
        stored = {name: sparse[name] for name in report["kept"] if name in sparse} | stored
    return with_stored(model, stored, engine), report


def main(argv=None):
    args = parse_args(argv)
    check_out(args.out, [args.model])
    if args.device not in ("auto", "cpu"):
        raise ValueError(f"--device {args.device}: torch.ao's int8 kernels run on the CPU only")
    seed_everything(args.seed)
    model, tokenizer = load_model(args.model)
    exported = args.method in GRAPH_FILES
    if exported or not isinstance(model, nn.Module):  # to_dense refuses a graph that was exported before
        model = to_dense(model)
    if exported and not isinstance(model, Encoder):
        raise ValueError(f"--method {args.method} exports encoders; {args.model} is a {model.config.kind}, and fast as "
                         "it is")
    if not all(form.startswith(SparseLinear.kind) for form in model.config.stored_formats.values()):
        raise ValueError(f"{args.model} is quantized already; start from its fp32 parent")
    data, pad_id = (open_data(args, model.config.label_names) if args.data else None), tokenizer.pad_id

    def encoded(split):
        return encode(tokenizer, split, args, model)

    with tempfile.TemporaryDirectory() as folder:
        if exported:
            texts = batches(encoded(take(data.train, args.samples, seed=args.seed)), None, args.batch_size,
                            pad_id) if data else ()
            export_graph(model, args.method, folder, [
                (b.input_ids, torch.ones_like(b.input_ids) if b.attention_mask is None else b.attention_mask)
                for b in texts])
            small, report = open_runtime(folder, args.method, model.config), {}
        else:
            small, report = compress(model, args, data, encoded, pad_id)
        # Milliseconds first, because int8 that is slower is not written; made-up texts will do for the clock.
        ids = encoded(data.validation) if data else torch.randint(
            model.config.vocab_size, (64, min(24, model.config.max_length))).tolist()
        report["latency_ratio"] = speed(small, model, ids, args, pad_id)
        if data is not None:
            report |= measure(small, model, ids, data.validation.labels, args, pad_id)
        save_model(model if exported else small, tokenizer, args.out, provenance(
            "quantize.py", args, argv, parent=parent_of(args.model), data=data, quantization=report,
            validation=report.get("validation")), graph=(args.method, folder) if exported else None)
    if not exported:
        print_bytes(small, model)
    before, after = fp32_bytes(model, tokenizer), file_bytes(args.out)["model"]
    print(f"{args.out}: {after / 1e6:.2f} MB, fp32 {before / 1e6:.2f} MB, {after / before:.1%}\n"
          f"next: python evaluate.py {args.model} {args.out} {data_flags(args) or '--data DATA'} --out runs/report")


if __name__ == "__main__":
    run_script(main)
