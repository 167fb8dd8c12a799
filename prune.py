"""Prune a classifier: find the attention heads and FFN neurons that matter least, and remove them.

How much would the loss L of a text x rise without a head? Multiply the head's output by a mask m = 1, and ask for the
gradient (Michel et al. 2019, arXiv:1905.10650, section 4.1; Kwon et al. 2022, arXiv:2204.09656, section 4.1):

    gradient importance = E_x | dL(x) / dm |          Fisher importance = E_x ( dL(x) / dm )^2

The masks are the arguments `head_mask` (layers, heads) and `ffn_mask` (layers, neurons) of the encoder: 1 keeps a unit,
0 prunes it. One backward pass over a sample of the training texts gives the importance of every unit. Then:

    choose         the units that stay: the most important ones for their cost, within the budget
    slice          remove the rows and columns of the others from the matrices
    prove          the sliced model has the logits of the masked model
    reconstruct    --refit: solve for the matrices that read the units that stay; no training, no labels
    recover        --epochs: train what is left, on the labels or on the unpruned model's probabilities (--teacher self)

    python prune.py --model runs/demo/teacher --data demo --out runs/demo/pruned --heads 0.5 --ffn 0.5 --epochs 2
    python prune.py --model runs/demo/teacher --data demo --out runs/demo/half --flops 0.5 --refit
    ... --latency 0.5 | --size-mb 40 | --layers 3 | --layers 0,2,5 | --vocab 1

`python prune.py weights` sets single weights to zero instead: see `python prune.py weights --help`. For an importance
of your own, write a function like `fisher_importance` and name it in IMPORTANCE.
"""

import argparse
import inspect
import math
import re
import shlex
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from data_utils import align_labels, batches, grouped, open_data, take, unlabelled_texts
from model_utils import check_out, load_model, predict, save_model, text_length
from pocketbert.cli import (
    add_common_flags,
    add_lora_flags,
    add_training_flags,
    data_flags,
    lora_rules,
    nonnegative_float,
    parser_for,
    positive_int,
    refuse_idle_flags,
    run_script,
    tracking_rules,
    unit_interval,
)
from pocketbert.errors import UserError
from pocketbert.evaluation.metrics import scores
from pocketbert.evaluation.timing import time_ratio
from pocketbert.models.device import autocast, pick_device, seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import is_pretrained_only, parent_of
from pocketbert.models.lora import add_lora, check_adaptable, merge_lora
from pocketbert.models.size import count_parameters
from pocketbert.models.sparse import to_dense
from pocketbert.models.surgery import check_sliced_equals_masked, keep_layers, slice_model, smaller_model
from pocketbert.provenance import provenance
from pocketbert.pruning.choose import keep_shares, keep_within, layers_to_keep
from pocketbert.pruning.cost import budget_of
from pocketbert.pruning.importance import magnitude_importance, mask_gradients, random_importance, taylor_importance
from pocketbert.pruning.reconstruct import rearrange_masks, reconstruct
from pocketbert.pruning.sparse_training import TRAINED, FixedMasks
from pocketbert.pruning.summary import count_units, describe, print_summary, report_budget, report_vocabulary
from pocketbert.pruning.vocabulary import shrink_vocabulary
from pocketbert.pruning.weights import ONE_SHOT, PARTS, apply_masks, one_shot_masks, prunable, sparsity_of, store_sparse
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

BUDGETS = ["flops", "latency", "size_mb"]  # flags that bound what the model costs
NEURONS_ROUND_TO = 16  # under a budget, the neurons of a layer are a multiple of the width of the processor's vectors
NEEDS_EPOCHS = ["lr", "optimizer", "weight_decay", "warmup", "accumulate", "max_grad_norm", "dropout", "freeze",
                "patience", "minutes", "bf16", "checkpoint_steps", "wandb", "teacher"]  # idle without --epochs


# ---- heads and neurons -------------------------------------------------------------------------------------

def gradient_importance(model, gradients):
    """E_x |dL(x)/dm| (Michel et al. 2019, section 4.1), in nats.

    gradients: dL(x)/dm of N texts, from mask_gradients: ([(N, heads) per layer], [(N, neurons) per layer])
    Returns ([(heads,) per layer], [(neurons,) per layer]).
    The absolute value comes before the mean: a head that helps one text and harms another matters to both. The paper
    then scales each layer to norm 1; that is left out, because it would make heads and neurons incomparable.
    """
    heads, neurons = gradients
    return [g.abs().mean(dim=0) for g in heads], [g.abs().mean(dim=0) for g in neurons]


def fisher_importance(model, gradients):
    """E_x (dL(x)/dm)^2, the diagonal of the Fisher information F (Kwon et al. 2022, section 4.1).

    Near a minimum the loss rises by about 1/2 (1 - m)^T F (1 - m), so the heads and neurons of all layers are measured
    in the same unit. Arguments and result as in gradient_importance.
    """
    heads, neurons = gradients
    return [g.square().mean(dim=0) for g in heads], [g.square().mean(dim=0) for g in neurons]


IMPORTANCE = {
    "fisher": fisher_importance,
    "gradient": gradient_importance,
    "taylor": taylor_importance,
    "magnitude": magnitude_importance,
    "random": random_importance,
}


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["weights"]:
        return parse_args_weights(argv[1:])
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the model folder to prune")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--heads", type=unit_interval, help="share of the attention heads that stays")
    parser.add_argument("--ffn", type=unit_interval, help="share of the FFN neurons that stays")
    parser.add_argument("--flops", type=unit_interval, help="share of the encoder's multiplications that stays")
    parser.add_argument("--latency", type=unit_interval, help="share of the milliseconds that stays, measured here")
    parser.add_argument("--size-mb", type=float, help="the size that model.safetensors may have, in 10^6 bytes")
    parser.add_argument("--layers", type=layer_choice,
                        help="how many layers stay (the least harmful ones go), or which ones: 0,2,5")
    parser.add_argument("--vocab", type=positive_int, metavar="MIN_COUNT",
                        help="keep the tokens that occur at least so often in the training texts; alone, it also "
                        "takes a checkpoint that is not fine-tuned yet")
    parser.add_argument("--vocab-texts", nargs="+", default=[], metavar="TEXTS", help="with --vocab: count the tokens "
                        "of these too: files (or FILE:COLUMN), registered datasets (default: none)")
    parser.add_argument("--keep-characters", choices=["all", "seen"], default="all",
                        help="with --vocab: keep the single characters of all scripts, or those that the texts use")
    parser.add_argument("--importance", choices=list(IMPORTANCE), default="fisher", help="how units are ranked")
    parser.add_argument("--scope", choices=["global", "layer"], default="global",
                        help="rank the units of all layers together, or keep the same share of each layer")
    parser.add_argument("--label-free", action="store_true", help="use the model's own predictions as labels")
    parser.add_argument("--refit", action="store_true",
                        help="exchange units, and solve for the matrices that read those that stay, without training")
    parser.add_argument("--samples", type=positive_int, default=2048,
                        help="training texts for importance and --refit")
    parser.add_argument("--steps", type=positive_int, default=1,
                        help="prune in so many equal steps, with recovery after each")
    parser.add_argument("--teacher", choices=["self"], help="recover on the unpruned model's probabilities")
    add_training_flags(parser, epochs=0, lr=5e-5)
    add_lora_flags(parser, merged=True)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    budgets = [flag for flag in BUDGETS if vars(args)[flag] is not None]
    shares = args.heads is not None or args.ffn is not None
    if len(budgets) > 1 or budgets and shares:
        parser.error("--flops, --latency, --size-mb and --heads/--ffn exclude each other: give one")
    units = budgets or shares
    if not (units or args.layers or args.vocab):
        parser.error("say what stays: --heads 0.5 --ffn 0.5, --flops 0.5, --latency 0.5, --size-mb 40, --layers 3 "
                     "or --vocab 1 (for single weights: prune.py weights --sparsity 0.9)")
    heads_or_neurons = "it is about heads and neurons: give --heads, --ffn, --flops, --latency or --size-mb"
    refuse_idle_flags(parser, vars(args), [
        *lora_rules(vars(args)),
        *tracking_rules(vars(args)),
        ("lora_rank", args.epochs, "nothing is trained without --epochs"),
        *[(flag, units, heads_or_neurons) for flag in ("importance", "label_free", "refit", "steps")],
        ("scope", shares, "it is about --heads and --ffn; a budget ranks the units of all layers together"),
        ("samples", units or args.layers, "they are for heads, neurons and layers"),
        ("keep_characters", args.vocab, "it goes with --vocab"),
        ("vocab_texts", args.vocab, "it goes with --vocab")])
    refuse_without_epochs(parser, vars(args))
    return args


def layer_choice(text):
    """--layers: "3" -> 3, how many stay; "0,2,5" -> [0, 2, 5], which ones stay."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text} is neither a number of layers nor a list like 0,2,5")
    numbers = [int(number) for number in text.split(",")]
    return numbers if "," in text else numbers[0]


def refuse_without_epochs(parser, given):
    """Training flags do nothing without --epochs: an error that names all that were given. given: {flag: value}"""
    idle = [f"--{flag.replace('_', '-')}" for flag in NEEDS_EPOCHS if given[flag] != parser.get_default(flag)]
    if idle and not given["epochs"]:
        parser.error(f"nothing is trained without --epochs, so these flags would do nothing: {', '.join(idle)}")


def main(argv=None, after_epoch=None):
    """Prunes heads, neurons, layers and tokens; or single weights, if the first argument is "weights".

    after_epoch(epoch, scores), if given, is called after each epoch and may raise to stop (search.py).
    Returns what run.json says.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["weights"]:
        return main_weights(argv, after_epoch)
    args = parse_args(argv)
    check_out(args.out, [args.model])
    device = pick_device(args.device)
    check_optimizer(args.optimizer, device)
    seed_everything(args.seed)
    budgets = [flag for flag in BUDGETS if vars(args)[flag] is not None]  # one or none
    prunes_units = budgets or args.heads is not None or args.ffn is not None
    if args.vocab and not (prunes_units or args.layers or args.epochs) and is_pretrained_only(args.model):
        return main_pretrained(argv)

    # 1. The model and the data
    model, tokenizer = open_trainable(args.model, args.dropout, args.freeze, device)
    if args.lora_rank:
        check_adaptable(model, args.model)
    if (prunes_units or args.layers) and not isinstance(model, Encoder):
        raise UserError(f"{args.model} has neither heads nor layers to prune: give it --vocab, or `prune.py weights`")
    data = align_labels(open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed),
                        model.config.label_names)
    max_length = model.config.text_length = text_length(model, args.max_length)
    val_ids = tokenizer(data.validation.texts, max_length)

    def validate(model, **masks):
        logits = predict(model, val_ids, args.batch_size, tokenizer.pad_id, **masks)
        return scores(logits, data.validation.labels)

    before = validate(model)
    parameters_before = count_parameters(model)
    report = {}
    started = time.monotonic()
    print(f"unpruned: {describe(model)}, macro-F1 {before['macro_f1']:.4f}")

    # 2. Tokens
    if args.vocab:
        texts = texts_to_count(data, args.vocab_texts, args.data_dir)
        model, tokenizer, report["vocabulary"] = shrink_vocabulary(
            model, tokenizer, texts, args.vocab, max_length, args.keep_characters, data.validation.texts)
        val_ids = tokenizer(data.validation.texts, max_length)
        report_vocabulary(report["vocabulary"], validate(model)["macro_f1"])
    original = model  # the model to compare logits and milliseconds with
    train_ids = tokenizer(data.train.texts, max_length)
    sample = take(data.train, args.samples, seed=args.seed)
    sample_batches = [batch.to(device) for batch in batches(tokenizer(sample.texts, max_length), sample.labels,
                                                            args.batch_size, tokenizer.pad_id)]
    targets = data.train.labels
    if args.teacher:
        # Cross-entropy with probabilities is distillation at temperature 1: its gradient is that of
        # KL(original || pruned).
        targets = predict(original, train_ids, args.batch_size, tokenizer.pad_id).softmax(-1).tolist()

    # 3. Layers
    if args.layers:
        report["layers"] = layers_to_keep(model, sample_batches, args.layers)
        model = keep_layers(model, report["layers"])
        print(f"layers {', '.join(map(str, report['layers']))} stay: macro-F1 {validate(model)['macro_f1']:.4f}")

    # 4. Heads and neurons, in equal steps with recovery after each
    whole = model
    budget = None
    if budgets:
        mean_length = float(np.mean([len(ids) for ids in train_ids]))
        budget = budget_of(budgets[0], vars(args)[budgets[0]], model, tokenizer, args.batch_size, mean_length)
    shares = [1.0 if share is None else share for share in (args.heads, args.ffn)]
    totals = count_units(model)
    num_steps = steps_per_epoch(len(train_ids), args.batch_size, args.accumulate)
    unfinished = Unfinished(args.out, vars(args), data, model, tokenizer)
    tracker = start_tracking(args.wandb, args.out, vars(args))
    log = TrainingLog(args.epochs, args.patience, args.minutes, tracker, after_epoch)
    report |= unfinished.notes()
    if "steps" in report:  # an interrupted run has come so far: its weights follow in log.resume
        model = smaller_model(model, report["steps"][-1]["heads"], report["steps"][-1]["neurons"])
    for step in range(max(1, len(report.get("steps", []))), args.steps + 1):
        if prunes_units and len(report.get("steps", [])) < step:
            gradients = mask_gradients(model, sample_batches, args.label_free)
            importance = IMPORTANCE[args.importance](model, gradients)
            remaining = 1 - step / args.steps  # of what will be pruned, the share left to later steps
            if budget:
                allowed = budget.asked + remaining * (budget.full - budget.asked)
                masks = keep_within(importance, budget.cost, allowed, NEURONS_ROUND_TO)
            else:
                shares_now = [share + remaining * (1 - share) for share in shares]
                masks = keep_shares(importance, shares_now, totals, args.scope)
            if args.refit:
                masks = rearrange_masks(masks, gradients)
            head_mask, ffn_mask = ([mask.to(device) for mask in part] for part in masks)
            masked = validate(model, head_mask=head_mask, ffn_mask=ffn_mask)
            sliced = slice_model(model, head_mask, ffn_mask).eval()
            difference = check_sliced_equals_masked(sliced, model.eval(), head_mask, ffn_mask, sample_batches[0])
            model = sliced
            report.setdefault("steps", []).append({"heads": model.config.num_heads,
                                                   "neurons": model.config.intermediate_sizes, "masked": masked})
            print(f"step {step}/{args.steps}: {describe(model)} stay, {args.importance} importance | macro-F1 with "
                  f"masks {masked['macro_f1']:.4f} | sliced: logits differ by {difference:.1e}")
            if args.refit:
                errors = np.array(reconstruct(model, whole, sample_batches)).mean(axis=0)
                print(f"refit: relative error of the blocks {errors[0]:.3f} -> {errors[1]:.3f}, macro-F1 "
                      f"{validate(model)['macro_f1']:.4f}")
        if not args.epochs:
            continue
        if log.history and log.out_of_time():
            print(f"--minutes {args.minutes:g} are over: no recovery after step {step}")
            continue
        if args.lora_rank:
            add_lora(model, args.lora_targets, args.lora_rank, args.lora_alpha, args.lora_dropout, args.freeze)
        log.start_over(model, validate(model))
        optimizer = OPTIMIZERS[args.optimizer](parameter_groups(model, args.weight_decay), lr=args.lr)
        scheduler = warmup_then_decay(optimizer, args.epochs * num_steps, args.warmup)
        log.resume(unfinished, model, optimizer, scheduler, part=f"step {step}", notes=report)
        for epoch in log.epochs():
            model.train()
            shuffled = batches(train_ids, targets, args.batch_size, tokenizer.pad_id, shuffle_seed=(args.seed, epoch))
            for group in log.progress(grouped(shuffled, args.accumulate), num_steps):
                for batch in group:
                    batch = batch.to(device)
                    with autocast(device, args.bf16):
                        logits = model(batch.input_ids, batch.attention_mask)
                        loss = F.cross_entropy(logits, batch.labels)
                    (loss / len(group)).backward()
                    log.batch(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            log.end_epoch(model, validate(model))
        log.restore_best(model)
        if args.lora_rank:
            merge_lora(model)
    if not args.epochs:
        print(f"pruned in {time.monotonic() - started:.0f} s, without training")

    # 5. The folder and the summary
    logits = predict(model, val_ids, args.batch_size, tokenizer.pad_id)
    after = scores(logits, data.validation.labels)
    report["speedup"] = {f"batch {size}": time_ratio(model, original, train_ids, size, tokenizer.pad_id)
                         for size in sorted({1, 32, args.batch_size})}
    if budget:
        report["budget"] = report_budget(budget, model, args.batch_size, report["speedup"])
    run = provenance("prune.py", vars(args), argv, parent=parent_of(args.model), data=data, history=log.history,
                     validation=after, pruning=report)
    save_model(model, tokenizer, args.out, run)
    unfinished.remove()
    tracker.log_confusion(data.validation.labels, logits.argmax(-1).tolist(), data.label_names)
    tracker.finish(args.out)
    if isinstance(model, Encoder):
        print(f"heads per layer   {' '.join(map(str, model.config.num_heads))}\n"
              f"neurons per layer {' '.join(map(str, model.config.intermediate_sizes))}")
    print_summary(before, after, parameters_before, count_parameters(model))
    print("faster: " + ", ".join(f"{ratio:.2f} x at {size}" for size, ratio in report["speedup"].items()))
    out, same_data = shlex.quote(args.out), data_flags(args.data, args.data_dir, args.text, args.label)
    print(f"next: python quantize.py --model {out} --out {shlex.quote(args.out + '-int8')} {same_data}")
    return run


def main_pretrained(argv):
    """Prune the vocabulary of a checkpoint before it is fine-tuned: that is faster then, and takes less memory."""
    args = parse_args(argv)
    data = open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed)
    model, tokenizer = load_model(args.model, label_names=data.label_names)
    max_length = text_length(model, args.max_length)
    parameters_before = count_parameters(model)
    texts = texts_to_count(data, args.vocab_texts, args.data_dir)
    model, tokenizer, report = shrink_vocabulary(model, tokenizer, texts, args.vocab, max_length, args.keep_characters,
                                                 data.validation.texts)
    report_vocabulary(report)
    run = provenance("prune.py", vars(args), argv, parent=parent_of(args.model), data=data,
                     pruning={"vocabulary": report})
    save_model(model, tokenizer, args.out, run)
    print(f"{parameters_before:,} -> {count_parameters(model):,} parameters; the head is new, so there is no score yet")
    print(f"next: python train.py --model {shlex.quote(args.out)} --out {shlex.quote(args.out + '-teacher')} "
          f"{data_flags(args.data, args.data_dir, args.text, args.label)}")
    return run


def texts_to_count(data, vocab_texts, data_dir):
    """The texts whose tokens stay: the training texts, and those of --vocab-texts."""
    texts = list(data.train.texts)
    for name in vocab_texts:
        texts += unlabelled_texts(name, data_dir)[0]
    return texts


# ---- single weights ----------------------------------------------------------------------------------------

def parse_args_weights(argv):
    parser = parser_for(inspect.cleandoc(main_weights.__doc__), prog="prune.py weights")
    parser.add_argument("--model", required=True, help="the model folder to prune")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--method", choices=[*TRAINED, *ONE_SHOT, "2:4"], default="gradual",
                        help=f"{', '.join(TRAINED)} prune while --epochs train, the others at once")
    parser.add_argument("--sparsity", type=unit_interval, help="share of the weights that goes")
    parser.add_argument("--strength", type=nonnegative_float, metavar="LAMBDA", help="with --method soft-movement, "
                        "in place of --sparsity: the weight of the penalty on the scores (400 is the paper's)")
    parser.add_argument("--include", nargs="+", choices=PARTS, default=[], metavar="PART",
                        help="prune the weights of these parts too: embeddings, head (default: neither)")
    parser.add_argument("--samples", type=positive_int, default=2048, help="training texts for --method wanda")
    parser.add_argument("--teacher", choices=["self"], help="train on the unpruned model's probabilities")
    add_training_flags(parser, epochs=0, lr=5e-5)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    soft = args.method == "soft-movement"
    if soft and (args.sparsity is not None or args.strength is None):
        parser.error("--method soft-movement has no --sparsity: its --strength decides how much goes (try 400)")
    if not soft and args.sparsity is None:
        parser.error("say which share of the weights goes: --sparsity 0.9")
    if args.method == "2:4" and args.sparsity != 0.5:
        parser.error("--method 2:4 wants --sparsity 0.5: two of every four weights go")
    if args.method in TRAINED and not args.epochs:
        parser.error(f"--method {args.method} prunes while it trains: give it --epochs, or take --method wanda")
    if args.method in TRAINED and args.freeze:
        parser.error(f"--method {args.method} changes every pruned matrix: it does not go with --freeze")
    refuse_idle_flags(parser, vars(args), [
        ("strength", soft, "it goes with --method soft-movement"),
        ("samples", args.method == "wanda", "they are for --method wanda"),
        *tracking_rules(vars(args))])
    refuse_without_epochs(parser, vars(args))
    return args


def main_weights(argv, after_epoch=None):
    """Prune single weights: set the least important ones to zero, and store each matrix as bitmap + values.

    Zeros save bytes, not time: dense kernels multiply by zero as fast as by any other number. Without training:

        magnitude    keep the largest |W_ij|
        wanda        keep the largest |W_ij| * ||X_j||_2 of each row, X_j the inputs (Sun et al. 2023, arXiv:2306.11695)
        2:4          keep the larger two of every four weights of a row (Mishra et al. 2021, arXiv:2104.08378)
        random       the control

    While --epochs train, for sparsities that the methods above do not survive:

        gradual         more and more of the smallest weights (Zhu and Gupta 2017, arXiv:1710.01878)
        movement        those that training moves toward zero (Sanh et al. 2020, arXiv:2005.07683)
        soft-movement   the same with a threshold: --strength in place of --sparsity
        rigl            sparse from the start; small weights are exchanged (Evci et al. 2020, arXiv:1911.11134)

        python prune.py weights --model runs/demo/teacher --data demo --out runs/demo/half --sparsity 0.5 --method wanda
        python prune.py weights --model runs/demo/teacher --data demo --out runs/demo/sparse --sparsity 0.9 \\
            --method gradual --epochs 3 --teacher self
    """
    args = parse_args_weights(argv[1:])
    check_out(args.out, [args.model])
    device = pick_device(args.device)
    check_optimizer(args.optimizer, device)
    seed_everything(args.seed)

    # 1. The model and the data
    model, tokenizer = open_trainable(args.model, args.dropout, args.freeze, device)
    data = align_labels(open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed),
                        model.config.label_names)
    max_length = model.config.text_length = text_length(model, args.max_length)
    train_ids = tokenizer(data.train.texts, max_length)
    val_ids = tokenizer(data.validation.texts, max_length)

    def validate(model):
        return scores(predict(model, val_ids, args.batch_size, tokenizer.pad_id), data.validation.labels)

    before = validate(model)
    parameters_before = count_parameters(model)
    print(f"unpruned: {describe(model)}, macro-F1 {before['macro_f1']:.4f}")
    targets = data.train.labels
    if args.teacher:
        targets = predict(model, train_ids, args.batch_size, tokenizer.pad_id).softmax(-1).tolist()

    # 2. The method: zeros here and now, or little by little while the loop trains
    num_steps = steps_per_epoch(len(train_ids), args.batch_size, args.accumulate)
    modules = prunable(model, args.include)
    if args.method in TRAINED:
        amount = args.strength if args.method == "soft-movement" else args.sparsity
        sparsifier = TRAINED[args.method](modules, args.epochs * num_steps, amount)
    else:
        sample = take(data.train, args.samples, seed=args.seed)
        sample_ids = tokenizer(sample.texts, max_length)
        sample_batches = [batch.to(device) for batch in batches(sample_ids, None, args.batch_size, tokenizer.pad_id)]
        masks = one_shot_masks(args.method, model, sample_batches, args.sparsity, args.include)
        apply_masks(model, masks)
        sparsifier = FixedMasks(modules, masks)

    # 3. The loop
    unfinished = Unfinished(args.out, vars(args), data, model, tokenizer)
    tracker = start_tracking(args.wandb, args.out, vars(args))
    log = TrainingLog(args.epochs, args.patience, args.minutes, tracker, after_epoch)
    if args.epochs:
        log.start_over(model, validate(model) if sparsifier.at_target() else None)
        optimizer = OPTIMIZERS[args.optimizer](parameter_groups(model, args.weight_decay), lr=args.lr)
        scheduler = warmup_then_decay(optimizer, args.epochs * num_steps, args.warmup)
        log.resume(unfinished, model, optimizer, scheduler, sparsifier)
    for epoch in log.epochs():
        model.train()
        shuffled = batches(train_ids, targets, args.batch_size, tokenizer.pad_id, shuffle_seed=(args.seed, epoch))
        for group in log.progress(grouped(shuffled, args.accumulate), num_steps):
            for batch in group:
                batch = batch.to(device)
                with autocast(device, args.bf16):
                    logits = model(batch.input_ids, batch.attention_mask)
                    loss = F.cross_entropy(logits, batch.labels)
                (loss / len(group)).backward()
                log.batch(loss)
            sparsifier.before_step()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
            optimizer.step()
            sparsifier.after_step()
            scheduler.step()
            optimizer.zero_grad()
        log.end_epoch(model, validate(model), counts=sparsifier.at_target())  # what is too dense cannot be the best
    if not sparsifier.at_target():
        raise UserError("training stopped before the requested sparsity was reached: give it more --minutes")
    log.restore_best(model)

    # 4. The folder and the summary
    logits = predict(model, val_ids, args.batch_size, tokenizer.pad_id)
    after = scores(logits, data.validation.labels)
    sparse = store_sparse(model)
    report = {"sparsity": sparsity_of(model, args.include)}
    run = provenance("prune.py", vars(args), argv, parent=parent_of(args.model), data=data, history=log.history,
                     validation=after, pruning=report)
    save_model(sparse, tokenizer, args.out, run)
    unfinished.remove()
    tracker.log_confusion(data.validation.labels, logits.argmax(-1).tolist(), data.label_names)
    tracker.finish(args.out)
    print(f"sparsity {report['sparsity']:.1%} of the prunable weights, stored as bitmap + values: this saves bytes, "
          "not time, because dense kernels multiply by zeros too")
    print_summary(before, after, parameters_before, count_parameters(sparse))
    out, same_data = shlex.quote(args.out), data_flags(args.data, args.data_dir, args.text, args.label)
    print(f"next: python evaluate.py {shlex.quote(args.model)} {out} {same_data}")
    return run


# ---- what both have in common ------------------------------------------------------------------------------

def open_trainable(name, dropout, freeze, device):
    """(model in fp32 on the device, tokenizer) of a model folder, with --dropout and --freeze applied."""
    model, tokenizer = load_model(name)
    model = to_dense(model)
    if model.config.stored_formats:
        raise UserError(f"{name} is quantized: prune its fp32 parent, then quantize the result")
    set_dropout(model, dropout)
    freeze_layers(model, freeze)
    return model.to(device), tokenizer


if __name__ == "__main__":
    run_script(main)
