"""Quantize a trained model: fewer bits for each weight, and fewer milliseconds where the processor helps.

In int8 each row of a weight matrix is whole numbers and one scale, as in `quantize_int8` below:

    W[o, :] ~ scale[o] * W_int8[o, :],    scale[o] = max|W[o, :]| / 127.5

torch.ao does the same, and multiplies int8 by int8: a quarter of the bytes, and about half of the time. "Dynamic" means
that activations are quantized in every call, so no calibration texts are needed. The other formats (fp16, int4, gptq,
nf4, clusters, ...) save bytes only: their matrices become floats when the model is opened. See docs/guide/quantize.md.

    python quantize.py --model runs/demo/pruned --data demo --out runs/demo/int8
    python quantize.py --model runs/demo/pruned --data demo --out runs/demo/mixed --plan embeddings=int4,encoder=int8
    python quantize.py cluster --model runs/demo/pruned --data demo --out runs/demo/clusters --epochs 1 --teacher self
    python quantize.py export --model runs/demo/pruned --data demo --out runs/demo/onnx --format onnx-int8
    python quantize.py export --model runs/demo/cnn --data demo --out runs/demo/web --format web
"""

import copy
import inspect
import math
import shlex
import sys
import tempfile

import torch
import torch.nn.functional as F

import pocketbert.cli as cli
from data_utils import align_labels, batches, grouped, open_data, take
from model_utils import check_out, load_model, predict, save_model, text_length
from pocketbert.errors import UserError
from pocketbert.evaluation.metrics import scores
from pocketbert.evaluation.timing import time_ratio
from pocketbert.hardware import hardware_line
from pocketbert.models.device import autocast, pick_device, seed_everything
from pocketbert.models.folder import parent_of
from pocketbert.models.size import file_bytes
from pocketbert.models.sparse import to_dense
from pocketbert.provenance import provenance
from pocketbert.quantization.clusters import share_weights
from pocketbert.quantization.export import export_graph
from pocketbert.quantization.gptq import gptq_gain, input_hessians
from pocketbert.quantization.graph import GRAPH_FILES
from pocketbert.quantization.int8 import Int8Linear, overflows, pick_engine
from pocketbert.quantization.plan import (
    GROUPED_FORMATS,
    METHODS,
    PLAN_FORMATS,
    parse_plan,
    sparse_to_float,
    store_all,
    with_stored,
)
from pocketbert.quantization.runtime import open_runtime
from pocketbert.quantization.sensitivity import divergence, keep_sensitive, sensitivity
from pocketbert.quantization.sizes import bytes_table, fp32_bytes
from pocketbert.quantization.web import HARD_TEXTS, different_ids, page_bytes, page_files
from pocketbert.training.log import TrainingLog
from pocketbert.training.optim import (
    OPTIMIZERS,
    check_optimizer,
    freeze_layers,
    parameter_groups,
    set_dropout,
    steps_per_epoch,
    warmup_then_decay,
)
from pocketbert.training.tracking import start_tracking
from pocketbert.training.unfinished import Unfinished


def quantize_int8(weight):
    """Round a matrix (out, in) to int8, one scale a row: (W_int8 (out, in), scale (out,)), |error| <= scale / 2."""
    scale = weight.abs().amax(dim=1) / 127.5
    scale = scale.clamp(min=torch.finfo(torch.float32).eps)  # a row of zeros
    # times 1 / scale, not / scale: equal to torch.ao's last bit
    return (weight * (1 / scale)[:, None]).round().clamp(-128, 127).to(torch.int8), scale


def check_int8(model, small):
    """Print in how many matrices of `small` torch.ao's numbers are those that quantize_int8 gives for `model`."""
    equal = []
    for name, module in small.named_modules():
        if isinstance(module, Int8Linear):
            weight_int8, scale = quantize_int8(model.get_submodule(name).weight.detach())
            equal.append(torch.equal(module.weight, weight_int8) and torch.equal(module.scale, scale))
    if equal:
        print(f"int8: torch.ao's numbers are those of quantize_int8 in {sum(equal)} of {len(equal)} matrices")


# What was lost ---------------------------------------------------------------------------------------------

def batch_mate_flips(model, ids, batch_size, pad_id):
    """How many texts get another label in a batch than alone: dynamic int8 has one activation scale for a whole batch.

    Returns (flips, largest |logit difference|).
    """
    together = predict(model, ids, batch_size, pad_id)
    alone = predict(model, ids, 1, pad_id)
    flips = int((together.argmax(-1) != alone.argmax(-1)).sum())
    return flips, (together - alone).abs().max().item()


def measure_loss(small, model, ids, labels, batch_size, pad_id):
    """Print and return what quantization cost on validation texts: scores, changed labels, divergence in nats.

    small, model: the quantized model and its fp32 parent    ids, labels: N lists of token ids, and N label ids
    """
    logits = predict(small, ids, batch_size, pad_id)
    fp32_logits = predict(model, ids, batch_size, pad_id)
    validation = scores(logits, labels)
    fp32 = scores(fp32_logits, labels)
    changed = int((logits.argmax(-1) != fp32_logits.argmax(-1)).sum())
    few = ids[:500]
    flips, difference = batch_mate_flips(small, few, batch_size, pad_id)

    print(f"{'':<6}{'macro-F1':>10}{'accuracy':>10}")
    for name, row in (("fp32", fp32), ("new", validation)):
        print(f"{name:<6}{row['macro_f1']:>10.4f}{row['accuracy']:>10.4f}")
    print(f"{changed} of {len(ids):,} labels differ from fp32; {flips} of {len(few)} labels depend on the batch "
          f"(logits by up to {difference:.2g})")
    if len(logits.argmax(-1).unique()) == 1 < len(fp32_logits.argmax(-1).unique()):
        print("WARNING: the quantized model answers one class for every text: it is broken; keep fp32")
    return {"validation": validation, "fp32": fp32, "labels_changed": changed,
            "divergence": divergence(fp32_logits, logits), "batch_mate_flips": flips, "batch_mate_texts": len(few)}


def measure_time(small, model, ids, batch_size, pad_id):
    """Print and return {batch size: time / fp32's time} for single texts and for batches; below 1 is faster."""
    ratios = {}
    for size in sorted({1, batch_size}):
        ratios[size] = 1 / time_ratio(small, model, ids, size, pad_id)
    print("time / fp32: " + ", ".join(f"{ratio:.2f} at batch {size}" for size, ratio in ratios.items()))
    return ratios


def refuse_slow_int8(ratios, force):
    """An error if int8 takes more time than fp32 at every batch size; with `force` a printed warning."""
    fastest = min(ratios.values())
    if fastest <= 1:
        return
    message = f"int8 is slower than fp32 here, {fastest:.2f} x the time at best ({hardware_line()})"
    if not force:
        raise UserError(f"{message}; nothing was written. --method int8-weights has the same bytes at the time of "
                        "fp32; --force writes int8 all the same")
    print(f"WARNING: {message}; it saves bytes only")


def random_ids(config):
    """64 texts of random tokens, for measuring time where no data are given."""
    return torch.randint(config.vocab_size, (64, min(24, config.max_length))).tolist()


def print_end(model, tokenizer, parent, out, data):
    """Print the bytes of the file in `out` against those of its fp32 model, and the next command.

    parent: the folder of the fp32 model    data: the flags that name the data, or ""
    """
    before = fp32_bytes(model, tokenizer)
    after = file_bytes(out)["model"]
    print(f"{out}: {after / 1e6:.2f} MB, fp32 {before / 1e6:.2f} MB, {after / before:.1%}")
    print(f"next: {shlex.join(['python', 'evaluate.py', parent, out])} {data or '--data DATA'} --out runs/report")


# quantize.py -----------------------------------------------------------------------------------------------

def parse_args(argv):
    parser = cli.parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the fp32 model folder to quantize")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--method", choices=METHODS, default="dynamic",
                        help="a shortcut for a common plan; dynamic is torch.ao's int8 for all but the head")
    parser.add_argument("--plan", metavar="PART=FORMAT,...", help="a format for each part, in place of --method: parts "
                        "are embeddings, encoder, head, or names like layers.3.ffn; formats are "
                        f"{', '.join(PLAN_FORMATS)}")
    parser.add_argument("--group-size", type=cli.positive_int, default=64,
                        help="weights that share a scale (int4, int8-weights, gptq, nf4)")
    parser.add_argument("--clusters", type=int, default=16, help="values that a matrix in clusters has, 2 to 256")
    parser.add_argument("--engine", default="auto",
                        help="of int8: x86, onednn, fbgemm or qnnpack; auto: torch's choice")
    parser.add_argument("--keep-layers", metavar="NAMES|auto", help="matrices that stay in fp32: names like "
                        "layers.5.ffn.down,layers.0, or auto: the most sensitive ones, until --max-drop holds")
    parser.add_argument("--max-drop", type=cli.unit_interval, default=0.005,
                        help="with --keep-layers auto: the macro-F1 that may be lost")
    parser.add_argument("--samples", type=cli.positive_int, default=512,
                        help="texts for gptq's Hessians and for the sensitivity of each matrix")
    parser.add_argument("--force", action="store_true", help="write int8 even where it is slower than fp32")
    cli.add_common_flags(parser, data_required=False)
    args = parser.parse_args(argv)
    if args.plan is not None and args.method != "dynamic":
        parser.error("--plan and --method say the same thing in two ways: give one")
    if args.plan is None:
        args.plan = METHODS[args.method]
    if args.keep_layers and args.keep_layers != "auto":
        args.plan += "".join(f",{name}=fp32" for name in args.keep_layers.split(","))
    formats = {piece.rpartition("=")[2] for piece in args.plan.split(",")}
    cli.refuse_idle_flags(parser, vars(args), (
        ("group_size", formats & GROUPED_FORMATS, "no format with groups is asked for"),
        ("clusters", "clusters" in formats, "it needs --method clusters"),
        ("engine", "int8" in formats, "it is for int8"),
        ("max_drop", args.keep_layers == "auto", "it needs --keep-layers auto")))
    if not 2 <= args.clusters <= 256:
        parser.error(f"--clusters {args.clusters} is not between 2 and 256")
    if not args.data and (args.keep_layers == "auto" or "gptq" in formats):
        parser.error("gptq and --keep-layers auto need texts: give --data")
    return args


def check_cpu(device):
    if device not in ("auto", "cpu"):
        raise UserError(f"--device {device}: int8 kernels and exported graphs run on the CPU only")


def open_float(name):
    """(model, tokenizer) of a folder that is not quantized; its matrices may be sparse."""
    model, tokenizer = load_model(name)
    to_dense(model, quiet=True)  # refuses a graph that was exported before
    if any(not format_name.startswith("sparse_linear") for format_name in model.config.stored_formats.values()):
        raise UserError(f"{name} is quantized already; start from its fp32 parent")
    return model, tokenizer


def main(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["cluster"]:
        return main_cluster(argv)
    if argv[:1] == ["export"]:
        return main_export(argv)
    args = parse_args(argv)
    check_out(args.out, sources=[args.model])
    check_cpu(args.device)
    seed_everything(args.seed)

    # 1. The fp32 model, and texts to look at
    model, tokenizer = open_float(args.model)
    pad_id = tokenizer.pad_id
    data = None
    ids = random_ids(model.config)
    if args.data:
        max_length = text_length(model, args.max_length)
        data = open_data(args.data, args.data_dir, args.text, args.label)
        data = align_labels(data, model.config.label_names)
        ids = tokenizer(data.validation.texts, max_length)

    # 2. The plan: which matrix gets which format
    formats = parse_plan(args.plan, model)
    engine = None
    if "int8" in formats.values():
        engine = pick_engine(args.engine)
        print(f"int8 engine: {engine}, activations in {7 if overflows(engine) else 8} bits")

    # 3. Store the matrices; sparse ones become dense first, because their zeros may become other numbers
    floats, sparse = sparse_to_float(model, formats)
    in_gptq = [name for name, format_name in formats.items() if format_name == "gptq"]
    hessians = {}
    if in_gptq:
        sample = tokenizer(take(data.train, args.samples, seed=args.seed).texts, max_length)
        hessians = input_hessians(floats, batches(sample, None, args.batch_size, pad_id), in_gptq)
    stored = store_all(floats, formats, args.group_size, args.clusters, engine, hessians)
    if in_gptq:
        print(gptq_gain(floats, stored, hessians, args.group_size))

    # 4. --keep-layers auto: leave the most sensitive matrices as they were
    report = {}
    if args.keep_layers == "auto":
        sample = take(data.validation, args.samples, seed=args.seed)
        sample_ids = tokenizer(sample.texts, max_length)
        ranking = sensitivity(floats, stored, lambda m: predict(m, sample_ids, args.batch_size, pad_id),
                              torch.tensor(sample.labels))
        print_sensitivity(ranking, len(sample_ids))
        stored, kept = keep_sensitive(
            floats, stored, ranking, args.max_drop,
            lambda m: scores(predict(m, ids, args.batch_size, pad_id), data.validation.labels))
        stored |= {name: sparse[name] for name in kept if name in sparse}
        report |= {"sensitivity": ranking, "kept": kept}
    small = with_stored(floats, stored)
    check_int8(floats, small)

    # 5. Measure what was gained and lost; time comes first, because int8 that is slower is not written
    is_int8 = any(isinstance(module, Int8Linear) for module in small.modules())
    if not is_int8:
        print("this saves bytes, not time: the matrices become floats when the model is opened")
    report["latency_ratio"] = measure_time(small, model, ids, args.batch_size, pad_id)
    if is_int8:
        refuse_slow_int8(report["latency_ratio"], args.force)
    if data is not None:
        report |= measure_loss(small, model, ids, data.validation.labels, args.batch_size, pad_id)

    # 6. The folder
    run = provenance("quantize.py", vars(args), argv, parent=parent_of(args.model), data=data, quantization=report,
                     validation=report.get("validation"))
    save_model(small, tokenizer, args.out, run)
    print(*bytes_table(small, model), sep="\n")
    data_flags = cli.data_flags(args.data, args.data_dir, args.text, args.label)
    print_end(model, tokenizer, args.model, args.out, data_flags)
    return run


def print_sensitivity(ranking, num_texts):
    """The five most sensitive matrices."""
    print(f"one matrix at a time, on {num_texts} validation texts{'':<8}KL to fp32    rise of the loss")
    for name, nats, rise in ranking[:5]:
        print(f"  {name:<46}{nats:>10.5f}{rise:>+20.5f}")


# quantize.py cluster ---------------------------------------------------------------------------------------

def parse_args_cluster(argv):
    parser = cli.parser_for(inspect.getdoc(main_cluster), prog="quantize.py cluster")
    parser.add_argument("--model", required=True, help="the fp32 model folder to quantize")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--clusters", type=int, default=16, help="values that a matrix has, 2 to 256")
    parser.add_argument("--teacher", choices=["self"],
                        help="learn the fp32 model's probabilities instead of the labels")
    cli.add_training_flags(parser, epochs=1, lr=1e-4)
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)
    if not 2 <= args.clusters <= 256:
        parser.error(f"--clusters {args.clusters} is not between 2 and 256")
    if args.epochs == 0:
        parser.error("--epochs 0 trains nothing: `quantize.py --method clusters` stores clusters without training")
    cli.refuse_idle_flags(parser, vars(args), cli.tracking_rules(vars(args)))
    return args


def main_cluster(argv):
    """Train the values that the weights of a matrix share (Deep Compression, Han et al. 2016, arXiv:1510.00149).

    k-means gives each matrix K values; every weight becomes the nearest of them and stays with it:

        W = codebook[indices],    dL/dcodebook[k] = sum of dL/dW over the weights of cluster k

    So a matrix has K free numbers. Biases, LayerNorms and the head are trained too. The indices are entropy coded.

        python quantize.py cluster --model runs/demo/pruned --data demo --out runs/demo/clusters --epochs 1
    """
    args = parse_args_cluster(argv[1:])
    check_out(args.out, sources=[args.model])
    device = pick_device(args.device)
    check_optimizer(args.optimizer, device)
    seed_everything(args.seed)

    # 1. The fp32 model and the data
    fp32, tokenizer = open_float(args.model)
    fp32 = to_dense(fp32)
    data = open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed)
    data = align_labels(data, fp32.config.label_names)
    max_length = fp32.config.text_length = text_length(fp32, args.max_length)
    train_ids = tokenizer(data.train.texts, max_length)
    val_ids = tokenizer(data.validation.texts, max_length)

    # 2. What to learn: label ids (N,), or probabilities (N, num_labels)
    targets = torch.tensor(data.train.labels)
    if args.teacher == "self":
        targets = predict(fp32.to(device), train_ids, args.batch_size, tokenizer.pad_id).softmax(-1)

    # 3. k-means: each matrix becomes a code book and indices
    model = copy.deepcopy(fp32).cpu()
    set_dropout(model, args.dropout)
    freeze_layers(model, args.freeze)
    names = list(parse_plan(METHODS["clusters"], model))
    share_weights(model, names, args.clusters)
    model.to(device)

    # 4. Train the code books
    num_steps = steps_per_epoch(len(train_ids), args.batch_size, args.accumulate)
    optimizer = OPTIMIZERS[args.optimizer](parameter_groups(model, args.weight_decay), lr=args.lr)
    scheduler = warmup_then_decay(optimizer, args.epochs * num_steps, args.warmup)
    unfinished = Unfinished(args.out, vars(args), data, model, tokenizer)
    tracker = start_tracking(args.wandb, args.out, vars(args))
    log = TrainingLog(args.epochs, args.patience, args.minutes, tracker)
    before = scores(predict(model, val_ids, args.batch_size, tokenizer.pad_id), data.validation.labels)
    print(f"clustered, before training: macro-F1 {before['macro_f1']:.4f}")
    log.start_over(model, before)
    log.resume(unfinished, model, optimizer, scheduler)
    for epoch in log.epochs():
        model.train()
        shuffled = batches(train_ids, None, args.batch_size, tokenizer.pad_id, shuffle_seed=(args.seed, epoch))
        for group in log.progress(grouped(shuffled, args.accumulate), num_steps):
            for batch in group:
                batch_targets = targets[batch.index].to(device)
                batch = batch.to(device)
                with autocast(device, args.bf16):
                    logits = model(batch.input_ids, batch.attention_mask)
                    loss = F.cross_entropy(logits, batch_targets)
                (loss / len(group)).backward()
                log.batch(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        logits = predict(model, val_ids, args.batch_size, tokenizer.pad_id)
        log.end_epoch(model, scores(logits, data.validation.labels))
    log.restore_best(model)

    # 5. Store, measure, save
    model.cpu()
    fp32.cpu()
    small = with_stored(model, {name: model.get_submodule(name).to_stored() for name in names})
    report = {"history": log.history}
    report["latency_ratio"] = measure_time(small, fp32, val_ids, args.batch_size, tokenizer.pad_id)
    report |= measure_loss(small, fp32, val_ids, data.validation.labels, args.batch_size, tokenizer.pad_id)
    run = provenance("quantize.py", vars(args), argv, parent=parent_of(args.model), data=data, quantization=report,
                     history=log.history, validation=report["validation"])
    save_model(small, tokenizer, args.out, run)
    unfinished.remove()
    tracker.finish(args.out)
    print(*bytes_table(small, fp32), sep="\n")
    data_flags = cli.data_flags(args.data, args.data_dir, args.text, args.label)
    print_end(fp32, tokenizer, args.model, args.out, data_flags)
    return run


# quantize.py export ----------------------------------------------------------------------------------------

def parse_args_export(argv):
    parser = cli.parser_for(inspect.getdoc(main_export), prog="quantize.py export")
    parser.add_argument("--model", required=True, help="the fp32 model folder to export: an encoder, cnn, bag, "
                        "gru or lstm")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--format", choices=[*GRAPH_FILES, "web"], required=True,
                        help="onnx: the graph; onnx-optimized: fused beforehand; onnx-int8: dynamic int8; openvino; "
                        "openvino-int8: int8 with activation ranges from sample texts; web: onnx-int8 and a page that "
                        "runs it in the browser")
    parser.add_argument("--samples", type=cli.positive_int, default=512,
                        help="texts from which openvino-int8 reads the ranges of the activations")
    cli.add_common_flags(parser, data_required=False)
    args = parser.parse_args(argv)
    cli.refuse_idle_flags(parser, vars(args), (("samples", args.format == "openvino-int8", "it is for openvino-int8"),))
    if args.format == "openvino-int8" and not args.data:
        parser.error("openvino-int8 reads the ranges of the activations from texts: give --data")
    return args


def main_export(argv):
    """Write a model as a graph for ONNX Runtime or OpenVINO, which run it without Python between two operators.

    The folder is a model folder like any other: evaluate.py measures it, `evaluate.py predict` answers with it.
    Needs the packages of requirements-deploy.txt; --format web needs `make web` too.

        python quantize.py export --model runs/demo/pruned --out runs/demo/onnx --format onnx-int8
        python quantize.py export --model runs/demo/cnn --out runs/demo/web --format web
    """
    args = parse_args_export(argv[1:])
    check_out(args.out, sources=[args.model])
    check_cpu(args.device)
    seed_everything(args.seed)

    # 1. The fp32 model, and texts to look at
    model, tokenizer = open_float(args.model)
    model = to_dense(model)
    graph_format = args.format
    page = {}
    if args.format == "web":
        graph_format = "onnx-int8"
        page = page_files(tokenizer)
        model.config.text_length = text_length(model, args.max_length)  # the page reads it in config.json
    pad_id = tokenizer.pad_id
    data = None
    ids = random_ids(model.config)
    samples = []
    if args.data:
        max_length = text_length(model, args.max_length)
        data = open_data(args.data, args.data_dir, args.text, args.label)
        data = align_labels(data, model.config.label_names)
        ids = tokenizer(data.validation.texts, max_length)
        sample_ids = tokenizer(take(data.train, args.samples, seed=args.seed).texts, max_length)
        samples = [(batch.input_ids, batch.attention_mask)
                   for batch in batches(sample_ids, None, args.batch_size, pad_id)]
    if page:
        compare_ids(tokenizer, HARD_TEXTS + (data.validation.texts if data else []), model.config.text_length)

    with tempfile.TemporaryDirectory() as folder:
        # 2. Export
        export_graph(model, graph_format, folder, samples)
        graph = open_runtime(folder, graph_format, model.config)
        # 3. Measure what was gained and lost
        report = {"latency_ratio": measure_time(graph, model, ids, args.batch_size, pad_id)}
        if data is not None:
            report |= measure_loss(graph, model, ids, data.validation.labels, args.batch_size, pad_id)
        # 4. The folder
        run = provenance("quantize.py", vars(args), argv, parent=parent_of(args.model), data=data, quantization=report,
                         validation=report.get("validation"))
        save_model(model, tokenizer, args.out, run, graph=(graph_format, folder), beside=page)
    data_flags = cli.data_flags(args.data, args.data_dir, args.text, args.label)
    print_end(model, tokenizer, args.model, args.out, data_flags)
    if page:
        print_page(args.out)
    return run


def compare_ids(tokenizer, texts, max_length):
    """Print how many texts get other token ids in the browser than in Python: other ids are another sentence."""
    different = different_ids(tokenizer, texts, max_length)
    if different is None:
        print("token ids in JavaScript: not compared, because node is not installed")
    elif different:
        print(f"WARNING: {len(different)} of {len(texts):,} texts get other token ids in JavaScript than in Python, "
              f"the first of them {different[0]!r:.100}")
    else:
        print(f"token ids in JavaScript: those of Python, for each of {len(texts):,} texts")


def print_page(folder):
    """Print what a page weighs, and how to look at it."""
    own, runtime = page_bytes(folder)
    print(f"page: {own / 1e6:.2f} MB for the model and the page, {runtime / 1e6:.1f} MB for the runtime")
    print(f"next: {shlex.join(['python', '-m', 'http.server', '--directory', folder])}, and open http://localhost:8000")


if __name__ == "__main__":
    cli.run_script(main)
