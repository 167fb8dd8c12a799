"""Fine-tune a text classifier, or train one from scratch.

The idea is the plainest one there is: minimise the cross-entropy between the model's prediction and the label,

    loss = -log softmax(logits)[label]

starting from weights that already know the language (Devlin et al. 2019, arXiv:1810.04805). AdamW with warm-up and
linear decay moves the weights; those of the epoch with the best validation macro-F1 are kept. Batches hold texts of
like length, so little is padding. With --lora-rank two thin matrices are trained beside each large one, which stays as
it is (pocketbert/models/lora.py), and --out holds these adapters alone.

    python train.py --data demo --model scratch:layers=4,hidden=128 --lr 6e-4 --epochs 9 --out runs/demo/teacher
    python train.py --data tweet_sentiment_extraction --model sentence-transformers/all-MiniLM-L6-v2 \\
        --lr 1e-4 --epochs 2 --out runs/tweets/teacher
    ... --lora-rank 8 --lr 1e-3 [--lora-base nf4] --out runs/tweets/lora
    python train.py merge --model runs/tweets/lora --out runs/tweets/merged
"""

import inspect
import math
import shlex
import sys

import torch
import torch.nn.functional as F

from data_utils import batches, grouped, open_data
from model_utils import check_out, load_model, open_model, predict, save_model, text_length
from pocketbert import cli
from pocketbert.cli import (
    add_common_flags,
    add_lora_flags,
    add_training_flags,
    data_flags,
    lora_rules,
    nonnegative_float,
    nonnegative_int,
    number_between,
    parser_for,
    refuse_idle_flags,
    run_script,
    tracking_rules,
    unit_interval,
)
from pocketbert.data.augment import SAME_LABEL, mask_token, with_new_versions
from pocketbert.errors import UserError
from pocketbert.evaluation.metrics import scores
from pocketbert.hub import repository
from pocketbert.models.adapter import adapter_of
from pocketbert.models.device import autocast, pick_device, seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import parent_of, save_adapter
from pocketbert.models.lora import add_lora, check_adaptable, count_trained, decode_base, merge_lora, store_base
from pocketbert.models.size import count_parameters, file_bytes
from pocketbert.models.stored import decode_in_each_call
from pocketbert.models.weight_paths import base_of, is_adapter
from pocketbert.provenance import provenance
from pocketbert.training import distributed
from pocketbert.training.log import TrainingLog
from pocketbert.training.optim import (
    OPTIMIZERS,
    check_optimizer,
    clip_grad_norm_,
    freeze_layers,
    parameter_groups,
    set_dropout,
    steps_per_epoch,
    warmup_then_decay,
)
from pocketbert.training.tracking import start_tracking
from pocketbert.training.unfinished import Unfinished


def class_weights(labels, num_labels, power):
    """(num_labels,): how much a text of each class counts, (mean count / count of the class)^power.

    power 0: every text counts alike, and a rare class hardly; 1: every class counts alike; 0.5 lies between.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=num_labels).clamp(min=1).float()
    return (counts.mean() / counts) ** power


def focal_loss(logits, labels, weights=None, gamma=2.0):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5): texts that are easy already count less.

        loss = sum_i w_i (1 - p_i)^gamma (-log p_i) / sum_i w_i
        p_i = softmax(logits_i)[label_i],    w_i = weights[label_i]

    logits: (batch, num_labels)    labels: (batch,) int64    weights: (num_labels,), None: all 1
    gamma 0 is the weighted cross-entropy; 2 is the paper's.
    """
    if gamma == 0:
        return F.cross_entropy(logits, labels, weights)
    log_p = F.log_softmax(logits, dim=-1).gather(1, labels[:, None])[:, 0]
    w = torch.ones_like(log_p) if weights is None else weights[labels]
    return (w * (1 - log_p.exp()) ** gamma * -log_p).sum() / w.sum()


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True,
                        help="a model folder, a Hub id (org/name or org/name@revision), or a fresh one: "
                        "scratch:layers=4,hidden=256, lstm, gru, xlstm, rwkv, cnn, bag (bag:ngrams=3,hidden=32 ...)")
    parser.add_argument("--words", metavar="MODEL", help="start a recurrent model's words from this model's table, "
                        "with its tokenizer")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--new-head", action="store_true", help="replace the classification head that is there")
    parser.add_argument("--tokenizer", help="take the tokenizer from this folder or Hub id instead")
    parser.add_argument("--cleaning", choices=["none", "cardiff", "bertweet"],
                        help="how tweets are cleaned (default: as the model was pretrained)")
    parser.add_argument("--balance", type=unit_interval, default=0.0,
                        help="0: every text counts alike; 1: every class; 0.5: between, for rare classes")
    parser.add_argument("--focal-gamma", type=nonnegative_float, default=0.0,
                        help="focal loss: texts that are easy already count (1 - p)^gamma; 2 is usual, 0: off")
    parser.add_argument("--sampling", choices=["once", "balanced"], default="once",
                        help="an epoch is every text once, or as many draws in which each class comes equally often")
    parser.add_argument("--augment", type=nonnegative_int, default=0, help="new versions of each training text of "
                        "--augment-classes, with its label; 0: none")
    parser.add_argument("--augment-classes", nargs="+", default=[], metavar="CLASS",
                        help="which classes get new versions; all: every one (default: those rarer than the average)")
    parser.add_argument("--augment-with", nargs="+", choices=SAME_LABEL, default=["swap", "delete"],
                        metavar="OPERATION", help=f"what is done to words of a new version: {', '.join(SAME_LABEL)}")
    parser.add_argument("--layer-decay", type=number_between(0.1, 1), default=1.0,
                        help="each layer learns at so many times the rate of the one above it; 1: off")
    parser.add_argument("--checkpointing", action="store_true", help="keep only the inputs of each layer for the "
                        "backward pass, and compute it again there: less memory, a third more time (encoders)")
    add_training_flags(parser, epochs=3, lr=5e-5, optimizers=cli.OPTIMIZERS | cli.ROW_ADAMW)
    add_lora_flags(parser, merged=False)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    refuse_idle_flags(parser, vars(args), [
        *lora_rules(vars(args)), *tracking_rules(vars(args)),
        ("augment_classes", args.augment, "it wants --augment"),
        ("augment_with", args.augment, "it wants --augment")])
    if args.balance and args.sampling == "balanced":
        parser.error("--sampling balanced draws every class equally often already: drop --balance")
    return args


def main(argv=None, after_epoch=None):
    """Trains; merges an adapter, if the first argument is "merge".

    after_epoch(epoch, scores), if given, is called after each epoch and may raise to stop (search.py).
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["merge"]:
        return main_merge(argv)
    args = parse_args(argv)
    check_out(args.out, sources=[args.model, args.words, args.tokenizer])
    distributed.join(args.device)
    device = pick_device(args.device)
    check_optimizer(args.optimizer, device)
    seed_everything(args.seed)

    # The data and the model
    data = open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed)
    model, tokenizer, data = open_model(args.model, data, words=args.words, new_head=args.new_head,
                                        tokenizer_name=args.tokenizer, cleaning=args.cleaning)
    set_dropout(model, args.dropout)
    freeze_layers(model, args.freeze)
    if args.lora_rank:
        check_adaptable(model, args.model)
        if args.lora_base == "nf4":
            store_base(model)
            decode_in_each_call(model)
        add_lora(model, args.lora_targets, args.lora_rank, args.lora_alpha, args.lora_dropout, args.freeze)
        print(f"LoRA: {count_trained(model):,} of {count_parameters(model):,} numbers are trained")
    if args.checkpointing and not isinstance(model, Encoder):
        raise UserError(f"--checkpointing is for encoders; {args.model} is a {model.config.kind}: drop it")
    model.checkpointing = args.checkpointing
    model.to(device)
    max_length = model.config.text_length = text_length(model, args.max_length)
    train = data.train
    if args.augment:
        mask = mask_token(tokenizer)
        train = with_new_versions(data, args.augment, args.augment_classes, args.augment_with, args.seed, mask)
    train_ids = tokenizer(train.texts, max_length)
    val_ids = tokenizer(data.validation.texts, max_length)

    # The loop
    weights = class_weights(train.labels, len(data.label_names), args.balance).to(device)
    num_steps = steps_per_epoch(len(train_ids), args.batch_size, args.accumulate)
    groups = parameter_groups(model, args.weight_decay, args.lr, args.layer_decay)
    optimizer = OPTIMIZERS[args.optimizer](groups, lr=args.lr)
    if args.optimizer == "row-adamw":
        optimizer.watch(model)
    scheduler = warmup_then_decay(optimizer, args.epochs * num_steps, args.warmup)
    unfinished = Unfinished(args.out, vars(args), data, model, tokenizer)
    tracker = start_tracking(args.wandb, args.out, vars(args))
    log = TrainingLog(args.epochs, args.patience, args.minutes, tracker, after_epoch)
    distributed.seed_rank(args.seed)
    log.resume(unfinished, model, optimizer, scheduler)
    for epoch in log.epochs():
        model.train()
        shuffled = batches(train_ids, train.labels, args.batch_size, tokenizer.pad_id, (args.seed, epoch),
                           distributed.rank(), distributed.world_size(), balanced=args.sampling == "balanced",
                           class_weights=weights.tolist())
        for group in log.progress(grouped(shuffled, args.accumulate), num_steps):
            for batch in group:
                batch = batch.to(device)
                with autocast(device, args.bf16):
                    logits = model(batch.input_ids, batch.attention_mask)
                    loss = focal_loss(logits, batch.labels, weights, args.focal_gamma) * batch.share
                (loss / len(group)).backward()
                log.batch(loss)
            distributed.sum_gradients(model.parameters())
            clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        logits = distributed.in_parts(predict, model, val_ids, args.batch_size, tokenizer.pad_id)
        log.end_epoch(model, scores(logits, data.validation.labels))
    log.restore_best(model)

    # The folder
    if args.lora_rank:
        adapter = adapter_of(model)
        merge_lora(model)  # as load_model does: what is measured is what is opened
    logits = distributed.in_parts(predict, model, val_ids, args.batch_size, tokenizer.pad_id)
    validation = scores(logits, data.validation.labels)
    if distributed.rank():
        return None  # the first process writes
    run = provenance("train.py", vars(args), argv, parent=parent_of(args.model), data=data, history=log.history,
                     validation=validation, processes=distributed.world_size())
    if args.lora_rank:
        save_adapter(adapter, model.config, tokenizer, args.out, run)
    else:
        save_model(model, tokenizer, args.out, run)
    unfinished.remove()
    tracker.log_confusion(data.validation.labels, logits.argmax(-1).tolist(), data.label_names)
    tracker.finish(args.out)
    print(f"{args.out}: validation macro-F1 {validation['macro_f1']:.4f}, accuracy {validation['accuracy']:.4f}")
    if args.lora_rank:
        print(f"next: python train.py merge --model {shlex.quote(args.out)} --out {shlex.quote(args.out + '-merged')}")
    else:
        print(f"next: {next_command(model, args.out, data_flags(args.data, args.data_dir, args.text, args.label))}")
    return run


# ---- train.py merge ----------------------------------------------------------------------------------------

def parse_args_merge(argv):
    parser = parser_for(inspect.cleandoc(main_merge.__doc__), prog="train.py merge")
    parser.add_argument("--model", required=True, help="the adapter: a folder of train.py or of peft, or a Hub id")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's error, too")
    return parser.parse_args(argv)


def main_merge(argv):
    """Merge a LoRA adapter into its base model: W + (alpha / r) B A is one matrix, in fp32.

    The folder is a dense model like any other, which needs the base no more and is also a valid Hugging Face folder. A
    base in NF4 is decoded first, so that the merged model has the logits that the adapter was trained for.

        python train.py merge --model runs/tweets/lora --out runs/tweets/merged
    """
    args = parse_args_merge(argv[1:])
    distributed.refuse_several("train.py merge", "start it with python")
    find = repository(args.model)
    if not is_adapter(find):
        raise UserError(f"{args.model} is no adapter: there is nothing to merge")
    check_out(args.out, sources=[args.model, base_of(find).name])
    model, tokenizer = load_model(args.model)
    generator = torch.Generator().manual_seed(0)
    length = min(24, model.config.max_length)
    ids = torch.randint(tokenizer.vocab_size, (64, length), generator=generator).tolist()
    before = predict(model, ids, 32, tokenizer.pad_id)
    decode_base(model)
    merge_lora(model)
    difference = (predict(model, ids, 32, tokenizer.pad_id) - before).abs().max().item()
    run = provenance("train.py", vars(args), argv, parent=parent_of(args.model),
                     merge={"logits_differ_by": difference})
    save_model(model, tokenizer, args.out, run)
    print(f"{args.out}: {file_bytes(args.out)['model'] / 1e6:.2f} MB; on {len(ids)} random texts its logits differ "
          f"from the adapter's by {difference:.1e} at most")
    print(f"next: python prune.py --model {shlex.quote(args.out)} --data DATA --heads 0.5 --ffn 0.5 "
          f"--out {shlex.quote(args.out + '-pruned')}")
    return run


def next_command(model, folder, data):
    """The pruning that suits the model."""
    arguments = f"--model {shlex.quote(folder)} {data} --out {shlex.quote(folder + '-pruned')}"
    if isinstance(model, Encoder):
        return f"python prune.py {arguments} --heads 0.5 --ffn 0.5"
    if model.config.ngrams == 1:
        return f"python prune.py {arguments} --vocab 2"
    return f"python prune.py weights {arguments} --sparsity 0.5 --method magnitude --include embeddings"


if __name__ == "__main__":
    run_script(main, distributed=True)
