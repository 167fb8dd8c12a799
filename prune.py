"""Prune a classifier: find the heads, neurons, layers and tokens that matter least, and really cut them out.

How much would the loss change if a head were gone? Put a gate xi in front of each head's output, xi = 1, and
ask the gradient (Michel, Levy and Neubig 2019, arXiv:1905.10650, section 4.1; Kwon et al. 2022, arXiv:2204.09656):

    gradient importance = E_x | dL(x) / dxi |          Fisher importance = E_x ( dL(x) / dxi )^2

The gates are the explicit `head_mask` and `ffn_mask` of the encoder, so one backward pass over some texts gives
the importance of every head and neuron. The most important for their cost stay, as many as the budget holds; the
score with the masks on tells the harm; then the tensors are really cut, which changes no logit. What was lost comes
back in two ways: `refit` solves for the matrices that read the surviving units (no training, no labels), and
--epochs trains, on the labels or on the unpruned model's probabilities (--teacher self).

    python prune.py --model runs/demo/teacher --data demo --out runs/demo/pruned --heads 0.5 --ffn 0.5 --epochs 2
    python prune.py --model runs/tweets/teacher --data tweet_sentiment_extraction --out runs/tweets/half --flops 0.5
    ... --latency 0.5 | --size-mb 40 | --layers 3 | --layers 0,2,5 | --vocab 1 | --sparsity 0.9 --epochs 3

The arithmetic is in pruning.py, step by step. To add an importance of your own, write a function there like
`magnitude_importance` and name it in IMPORTANCE.
"""

import math
import re
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F

from data_utils import encode, open_data, unlabelled_texts
from pocketbert.cli import (
    add_common_flags,
    add_training_flags,
    data_flags,
    nonnegative_float,
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
from pocketbert.models.device import autocast, pick_device, seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import check_out, load_model, parent_of, save_model
from pocketbert.models.predict import predict
from pocketbert.models.size import count_parameters, file_bytes
from pocketbert.models.sparse import to_dense
from pocketbert.models.surgery import check_sliced_equals_masked, keep_layers, slice_model
from pocketbert.provenance import provenance
from pocketbert.pruning.choose import keep_shares, keep_within, least_harmful_layers
from pocketbert.pruning.cost import byte_cost, latency_cost, mac_cost
from pocketbert.pruning.importance import IMPORTANCE, mask_gradients
from pocketbert.pruning.reconstruct import rearrange_mask, reconstruct
from pocketbert.pruning.sparse_training import FixedMasks, GradualMagnitude, Movement, RigL, SoftMovement
from pocketbert.pruning.vocabulary import shrink_vocabulary
from pocketbert.pruning.weights import (
    apply_masks,
    magnitude_scores,
    masks_from_scores,
    n_of_m_masks,
    prunable,
    random_scores,
    sparsity_of,
    store_sparse,
    wanda_scores,
)
from pocketbert.training.log import TrainingLog
from pocketbert.training.optim import Optimizer, prepare_for_training

ONE_SHOT = {"magnitude": magnitude_scores, "wanda": wanda_scores, "random": random_scores}

TRAINED = {"gradual": GradualMagnitude, "movement": Movement, "rigl": RigL, "soft-movement": SoftMovement}


def budget_of(args, model, tokenizer, length):
    """(Cost, budget at the last step, cost of the model as it is) for --flops, --latency or --size-mb."""
    units = model.config.num_heads, model.config.intermediate_sizes
    if args.flops is not None:
        cost = mac_cost(model.config, length)
        return cost, args.flops * cost.total(*units), cost.total(*units)
    if args.latency is not None:
        cost = latency_cost(model, args.batch_size, round(length))
        return cost, args.latency * cost.total(*units), cost.total(*units)
    with tempfile.TemporaryDirectory() as folder:  # the file that the model would have, header included
        save_model(model, tokenizer, f"{folder}/model", run={})
        cost = byte_cost(model.config, file_bytes(f"{folder}/model")["model"])
    return cost, args.size_mb * 1e6, cost.total(*units)


def drop_tokens(model, tokenizer, data, args):
    """Tokenizer and embedding table shrink together: (model, tokenizer, report)."""
    more = [text for name in args.vocab_texts for text in unlabelled_texts(name, args.data_dir)[0]]
    model, tokenizer, report = shrink_vocabulary(model, tokenizer, data.train.texts + more, args.vocab,
                                                 args.max_length, args.characters, data.validation.texts)
    print(f"vocabulary: {report['tokens_before']:,} -> {report['tokens_after']:,} tokens, "
          f"{report['embedding_bytes_saved'] / 1e6:.1f} MB less; {report['changed_texts']:,} of "
          f"{report['checked_texts']:,} validation texts change their tokens")
    return model, tokenizer, report


def drop_layers(model, texts, args):
    """Whole blocks go, the least harmful first, or all but those that --layers names: (model, numbers of the kept)."""
    kept, depth = [int(number) for number in args.layers.split(",")], len(model.layers)
    if "," not in args.layers and 1 <= kept[0] <= depth:
        kept = least_harmful_layers(model, texts, kept[0])
    elif "," not in args.layers or kept != sorted(set(kept)) or kept[-1] >= depth:
        raise ValueError(f"--layers {args.layers}: the model has {depth} layers; give how many stay, or which of 0 to "
                         f"{depth - 1} in rising order")
    return keep_layers(model, kept), kept


def drop_units(model, texts, cost, args, validate, train):
    """Heads and neurons, in --steps equal steps: importance, masks, cut, refit, recover. (model, what each step did)

    cost: from budget_of, None for --heads and --ffn    train: recovers a model between two steps, in place
    """
    whole, units, steps = model, (sum(model.config.num_heads), sum(model.config.intermediate_sizes)), []
    for step in range(1, args.steps + 1):
        remaining = 1 - step / args.steps  # share of what will go that is still there
        gradients = mask_gradients(model, texts, args.label_free)
        importance = IMPORTANCE[args.importance](model, gradients)
        if cost:
            curve, budget, full = cost
            masks = keep_within(importance, curve, budget + remaining * (full - budget), args.round_to)
        else:
            shares = [share + remaining * (1 - share) for share in (args.heads, args.ffn)]
            masks = keep_shares(importance, shares, units, args.scope)
        if args.refit:
            masks = [[rearrange_mask(mask, g) for mask, g in zip(part, gradient, strict=True)]
                     for part, gradient in zip(masks, gradients, strict=True)]
        head_mask, ffn_mask = ([mask.to(model.device) for mask in part] for part in masks)
        masked = validate(model, head_mask=head_mask, ffn_mask=ffn_mask)
        smaller = slice_model(model, head_mask, ffn_mask).eval()
        difference = check_sliced_equals_masked(smaller, model.eval(), head_mask, ffn_mask, texts[0])
        model = smaller
        print(f"step {step}/{args.steps}: {describe(model)} stay, {args.importance} importance | macro-F1 with masks "
              f"{masked['macro_f1']:.4f} | cut: logits differ by {difference:.1e}")
        steps.append({"heads": model.config.num_heads, "neurons": model.config.intermediate_sizes,
                      "masked": masked})
        if args.refit:
            errors = reconstruct(model, whole, texts)
            print(f"refit: relative error of the blocks {np.mean([a for a, _ in errors]):.3f} -> "
                  f"{np.mean([b for _, b in errors]):.3f}, macro-F1 {validate(model)['macro_f1']:.4f}")
        if args.epochs and step < args.steps:
            train(model, FixedMasks({}, {}))
    return model, steps


def recover(model, train_ids, targets, validate, args, pad_id, log, sparsifier):
    """Fine-tune what is left; the best epoch's weights are kept.

    targets: labels (N,) or the unpruned model's probabilities (N, num_labels). With probabilities, cross-entropy
    is distillation at temperature 1: its gradient is that of KL(original || pruned).
    sparsifier: a method of sparsity.py that keeps, or makes, single weights zero while the others learn.
    """
    batches_per_epoch = math.ceil(len(train_ids) / args.batch_size)
    optimizer = Optimizer(model, args, num_batches=args.epochs * batches_per_epoch)
    for epoch in log.epochs():
        model.train()
        shuffled = batches(train_ids, None, args.batch_size, pad_id, shuffle_seed=args.seed + epoch)
        for batch in log.progress(shuffled, total=batches_per_epoch):
            batch = batch.to(model.device)
            with autocast(model.device, args.bf16):
                logits = model(batch.input_ids, batch.attention_mask)
                loss = F.cross_entropy(logits, targets[batch.index].to(model.device))
            loss.backward()
            sparsifier.before_step()
            optimizer.step(loss)
            sparsifier.after_step()
            log.batch(loss)
        log.add(epoch, validate(model), counts=sparsifier.at_target())  # what is still too dense cannot be the best
    if not sparsifier.at_target():
        raise ValueError("training stopped before the asked sparsity was reached: give it more --minutes")
    log.restore_best()


def sparsifier_for(args, model, texts, steps):
    """The method that --sparsity and --method name; those of one shot set the weights to zero here and now."""
    if not args.sparse:
        return FixedMasks({}, {})
    asked = dict.fromkeys(args.also, True)
    modules = prunable(model, **asked)
    if args.method == "rigl":
        return RigL(modules, steps, masks_from_scores(magnitude_scores(model, **asked), args.sparsity, args.scope))
    if args.method == "soft-movement":
        return SoftMovement(modules, steps, args.strength)
    if args.method in TRAINED:
        return TRAINED[args.method](modules, steps, args.sparsity, args.scope)
    if args.method == "2:4":
        masks = n_of_m_masks(magnitude_scores(model, **asked), n=2, m=4)
    else:
        scope = "row" if args.method == "wanda" else args.scope
        masks = masks_from_scores(ONE_SHOT[args.method](model, texts, **asked), args.sparsity, scope)
    apply_masks(model, masks)
    return FixedMasks(modules, masks)


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the model folder to prune")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--heads", type=unit_interval, help="share of the attention heads that stays")
    parser.add_argument("--ffn", type=unit_interval, help="share of the FFN neurons that stays")
    parser.add_argument("--flops", type=unit_interval, help="share of the encoder's multiplications that stays")
    parser.add_argument("--latency", type=unit_interval, help="share of the milliseconds that stays, measured here")
    parser.add_argument("--size-mb", type=float, help="the size that model.safetensors may have, in 10^6 bytes")
    parser.add_argument("--layers", help="keep so many layers (the least harmful go), or these: 0,2,5")
    parser.add_argument("--vocab", type=positive_int, metavar="MIN_COUNT",
                        help="keep the tokens that occur so often in the training texts")
    parser.add_argument("--vocab-texts", nargs="+", default=[], metavar="TEXTS", help="with --vocab: further "
                        "texts whose tokens count: files (or FILE:COLUMN), registered datasets (default: none)")
    parser.add_argument("--characters", choices=["all", "seen"], default="all",
                        help="with --vocab: single characters of all scripts stay, or those that the texts use")
    parser.add_argument("--sparsity", type=unit_interval, help="share of single weights that goes: bytes, no time")
    parser.add_argument("--method", choices=[*ONE_SHOT, "2:4", *TRAINED],
                        help=f"with --sparsity (default: gradual): {', '.join([*ONE_SHOT, '2:4'])} prune in one "
                        f"shot, {', '.join(TRAINED)} while --epochs train")
    parser.add_argument("--strength", type=nonnegative_float, metavar="LAMBDA", help="with --method soft-movement, "
                        "in place of --sparsity: the weight of the penalty that pulls weights out (400 is the paper's)")
    parser.add_argument("--also", nargs="+", choices=["embeddings", "head"], default=[], metavar="PART",
                        help="with --sparsity: prune single weights of the embeddings, or of the head, too "
                        "(default: neither)")
    parser.add_argument("--importance", choices=list(IMPORTANCE), default="fisher", help="how units are ranked")
    parser.add_argument("--scope", choices=["global", "layer"], default="global",
                        help="rank the units (--heads, --ffn) or weights (--sparsity) of all layers together, or "
                        "keep the same share of each")
    parser.add_argument("--label-free", action="store_true", help="use the model's own answers in place of labels")
    parser.add_argument("--refit", action="store_true", help="without training: swap units that double each "
                        "other, and solve for the matrices that read those that stay")
    parser.add_argument("--samples", type=positive_int, default=2048,
                        help="training texts for importance and refit")
    parser.add_argument("--round-to", type=positive_int, default=16,
                        help="neurons of a layer under a budget are a multiple of this")
    parser.add_argument("--steps", type=positive_int, default=1,
                        help="reach the budget in so many equal steps, with recovery after each")
    parser.add_argument("--teacher", choices=["self"], help="recover on the unpruned model's probabilities")
    add_training_flags(parser, epochs=0, lr=5e-5)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    budgets = [name for name in ("flops", "latency", "size_mb") if getattr(args, name) is not None]
    shares = args.heads is not None or args.ffn is not None
    args.budget, args.units = bool(budgets), bool(budgets) or shares
    args.sparse = args.sparsity is not None or args.method == "soft-movement"
    if len(budgets) + shares > 1:
        parser.error("--flops, --latency, --size-mb and --heads/--ffn are four ways to say one thing: give one")
    if not args.units and not args.layers and not args.vocab and not args.sparse:
        parser.error("say what stays: --heads 0.5 --ffn 0.5, --flops 0.5, --latency 0.5, --size-mb 40, --layers 3 "
                     "or --vocab 1; or what goes: --sparsity 0.5")
    if args.method == "soft-movement" and (args.sparsity is not None or args.strength is None):
        parser.error("--method soft-movement has no --sparsity: its --strength decides how much goes (try 400)")
    if args.method == "2:4" and args.sparsity != 0.5:
        parser.error("--method 2:4 wants --sparsity 0.5: two of every four weights go")
    refuse_idle_flags(parser, args, (
            ("refit", args.units, "it makes up for cut heads and neurons: give it --flops, --latency or --heads"),
            ("label_free", args.units, "it is about the importance of heads and neurons: give it --flops or --heads"),
            ("importance", args.units, "it ranks heads and neurons: give it --flops or --heads"),
            ("steps", args.units, "it is about heads and neurons: give it --flops or --heads"),
            ("round_to", args.budget, "it wants a budget: --flops, --latency or --size-mb"),
            ("characters", args.vocab, "it wants --vocab"),
            ("vocab_texts", args.vocab, "it wants --vocab"),
            ("method", args.sparse, "it wants --sparsity"),
            ("also", args.sparse, "it wants --sparsity"),
            ("strength", args.method == "soft-movement", "it wants --method soft-movement"),
            ("teacher", args.epochs, "recovery wants --epochs"),
            ("accumulate", "movement" not in (args.method or ""), "movement learns from the gradient of every batch"),
            ("scope", not args.budget, "a budget weighs the units of all layers together")))
    args.method = args.method or "gradual"
    if args.sparse and args.method in TRAINED and not args.epochs:
        parser.error(f"--method {args.method} prunes while it trains: give it --epochs, or take --method wanda")
    args.heads, args.ffn = (1.0 if value is None else value for value in (args.heads, args.ffn))
    if args.layers and not re.fullmatch(r"\d+(,\d+)*", args.layers):
        parser.error(f"--layers {args.layers} must be a number of layers or a list like 0,2,5")
    return args


def main(argv=None, after_epoch=None):
    args = parse_args(argv)
    check_out(args.out, [args.model])
    device = pick_device(args.device)
    seed_everything(args.seed)
    original, tokenizer = load_model(args.model)
    original = to_dense(original)
    if (args.units or args.layers) and not isinstance(original, Encoder):
        raise ValueError(f"{args.model} has neither heads nor layers to prune: give it --sparsity or --vocab")
    prepare_for_training(original, args)
    data, report = open_data(args, original.config.label_names), {}
    original.to(device)

    def validate(model, **masks):
        ids = encode(tokenizer, data.validation, args, model)
        return scores(predict(model, ids, args.batch_size, tokenizer.pad_id, **masks), data.validation.labels)

    before, size_before = validate(original), count_parameters(original)
    print(f"unpruned: {describe(original)}, macro-F1 {before['macro_f1']:.4f}")

    model = original
    if args.vocab:
        model, tokenizer, report["vocabulary"] = drop_tokens(model, tokenizer, data, args)
        print(f"with these tokens: macro-F1 {validate(model)['macro_f1']:.4f}")
    original = model  # the one to compare logits and milliseconds with
    train_ids = encode(tokenizer, data.train, args, model)
    sample = take(data.train, args.samples, seed=args.seed)
    texts = [batch.to(device) for batch in batches(encode(tokenizer, sample, args, model), sample.labels,
                                                   args.batch_size, tokenizer.pad_id)]
    length = float(np.mean([len(ids) for ids in train_ids]))
    targets = torch.tensor(data.train.labels)
    if args.teacher and args.epochs:
        targets = predict(original, train_ids, args.batch_size, tokenizer.pad_id).softmax(-1)
    log, started = TrainingLog(model, args, after_epoch), time.monotonic()

    def train(model, sparsifier):
        log.start_over(model, validate(model) if sparsifier.at_target() else None)
        recover(model, train_ids, targets, validate, args, tokenizer.pad_id, log, sparsifier)

    if args.layers:
        model, report["layers"] = drop_layers(model, texts, args)
        print(f"layers {', '.join(map(str, report['layers']))} stay: macro-F1 {validate(model)['macro_f1']:.4f}")
    cost = budget_of(args, model, tokenizer, length) if args.budget else None
    if args.units:
        model, report["steps"] = drop_units(model, texts, cost, args, validate, train)

    # Single weights, in one shot here or while training below; then recover.
    steps = args.epochs * math.ceil(len(train_ids) / args.batch_size)
    sparsifier = sparsifier_for(args, model, texts, steps)
    print(f"pruned in {time.monotonic() - started:.0f} s, without training" if not args.epochs else "training ...")
    if args.epochs:
        train(model, sparsifier)
    logits = predict(model, encode(tokenizer, data.validation, args, model), args.batch_size, tokenizer.pad_id)
    after = scores(logits, data.validation.labels)
    if args.sparse:
        report["sparsity"] = sparsity_of(model, **dict.fromkeys(args.also, True))
        model = store_sparse(model)
        print(f"sparsity {report['sparsity']:.1%} of the prunable weights, stored as bitmap + values: bytes are "
              "saved, time is not, because dense kernels multiply by zeros like by any number")
    report["speedup"] = {f"batch {size}": time_ratio(model, original, train_ids, size, tokenizer.pad_id)
                         for size in sorted({1, 32, args.batch_size})}
    if args.budget:
        curve, asked, full = cost
        spent = curve.total(model.config.num_heads, model.config.intermediate_sizes)
        report["budget"] = {"unit": curve.unit, "asked": asked, "predicted": spent, "unpruned": full}
        print(f"budget: asked {asked:,.4g} {curve.unit} ({asked / full:.1%} of the unpruned), predicted {spent:,.4g} "
              f"({spent / full:.1%}), measured at batch {args.batch_size} "
              f"{1 / report['speedup'][f'batch {args.batch_size}']:.1%} of the time")
    save_model(model, tokenizer, args.out, provenance(
        "prune.py", args, argv, parent=parent_of(args.model), data=data, history=log.history,
        validation=after, pruning=report))
    log.finish(logits, data.validation.labels, data.label_names)
    if isinstance(model, Encoder):
        print(f"heads per layer   {' '.join(map(str, model.config.num_heads))}\n"
              f"neurons per layer {' '.join(map(str, model.config.intermediate_sizes))}")
    print(f"{'':<10}{'parameters':>14}{'macro-F1':>10}{'kept':>8}\n"
          f"{'before':<10}{size_before:>14,}{before['macro_f1']:>10.4f}\n"
          f"{'pruned':<10}{count_parameters(model):>14,}{after['macro_f1']:>10.4f}"
          f"{after['macro_f1'] / max(before['macro_f1'], 1e-9):>8.1%}\n"
          f"faster: " + ", ".join(f"{ratio:.2f} x at {batch}" for batch, ratio in report["speedup"].items())
          + f"\nnext: python quantize.py --model {args.out} --out {args.out}-int8 {data_flags(args)}")


def describe(model):
    if not isinstance(model, Encoder):
        return f"{count_parameters(model):,} parameters"
    return f"{sum(model.config.num_heads)} heads and {sum(model.config.intermediate_sizes)} neurons"


if __name__ == "__main__":
    run_script(main)
