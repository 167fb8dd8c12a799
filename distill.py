"""Distil one or several teachers into a smaller student of any kind.

A label says "negative". A teacher says "negative 0.70, neutral 0.28, positive 0.02", which also tells the student how
similar the classes are. The student learns from both (Hinton, Vinyals and Dean 2015, arXiv:1503.02531):

    loss = alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * CE(student, label)

The temperature T softens the distributions. Each teacher scores each text once, and its logits are kept on disk. The
student therefore needs neither the teacher's architecture nor its tokenizer, and it can also learn from texts without
a label (--unlabelled, --augment).

    python distill.py --teacher runs/demo/teacher --student scratch:layers=2,hidden=64 --data demo \\
        --out runs/demo/student --lr 1e-3 --epochs 10 --control --seeds 3
    python distill.py --teacher runs/tweets/teacher runs/tweets/other --weights validation \\
        --student teacher:layers=0,2,5 --data tweet_sentiment_extraction --out runs/tweets/student --lr 1e-4
    ... --student lstm | gru | xlstm | rwkv | bag:ngrams=3     --loss mse | decoupled     --relations 1

--control also trains the same student without a teacher, on the labelled texts, for as many steps, into OUT-alone. What
the teacher is worth is the difference between the two, with an interval over --seeds. An interrupted command goes on
with the next training when it is given again.

The other losses are in pocketbert/distillation/losses.py and inner.py, several teachers in ensemble.py, the cache of
their logits in cache.py, new texts in pocketbert/data/augment.py.
"""

import itertools
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from data_utils import align_labels, batches, grouped, open_data, unlabelled_texts
from model_utils import check_out, load_model, open_model, predict, save_model, text_length
from pocketbert.cli import (
    add_common_flags,
    add_lora_flags,
    add_training_flags,
    data_flags,
    lora_rules,
    nonnegative_float,
    nonnegative_int,
    parser_for,
    positive_int,
    refuse_idle_flags,
    run_script,
    tracking_rules,
    unit_interval,
)
from pocketbert.data.augment import (
    DEFAULT_OPERATIONS,
    OPERATIONS,
    WITH_SYNONYMS,
    augment,
    mask_token,
    similar_words,
)
from pocketbert.data.labels import match_labels
from pocketbert.data.splits import text_key
from pocketbert.distillation.cache import open_teachers, teacher_logits
from pocketbert.distillation.ensemble import WEIGHTS, combine, given_weights
from pocketbert.distillation.inner import InnerLosses, InnerWeights
from pocketbert.distillation.losses import decoupled_kd_loss, mse_kd_loss
from pocketbert.errors import UserError
from pocketbert.evaluation.metrics import scores, t_interval
from pocketbert.files import read_json
from pocketbert.models.device import autocast, pick_device, seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import parent_of
from pocketbert.models.lora import add_lora, check_adaptable, merge_lora
from pocketbert.models.recipes import student_of_teacher
from pocketbert.models.size import count_parameters
from pocketbert.models.sparse import to_dense
from pocketbert.models.stored import word_vectors
from pocketbert.provenance import provenance
from pocketbert.training import distributed
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
from pocketbert.training.unfinished import Unfinished, digest_of


def kd_loss(student_logits, teacher_logits, labels, temperature=2.0, alpha=0.5):
    """Knowledge distillation loss (Hinton et al. 2015, arXiv:1503.02531, section 2).

        loss = alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * CE(student, labels)

    student_logits, teacher_logits: (batch, num_labels)    labels: (batch,) int64, -1: no label and no CE term
    temperature T > 0 softens both; alpha in [0, 1] is the weight of the soft targets.
    Returns nats per example, averaged over the batch.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {tuple(student_logits.shape)} and teacher logits "
                         f"{tuple(teacher_logits.shape)} differ: do both models have the same label list?")
    if temperature <= 0 or not 0 <= alpha <= 1:
        raise ValueError(f"temperature {temperature} must be above 0 and alpha {alpha} between 0 and 1")
    soft_targets = F.softmax(teacher_logits.detach() / temperature, dim=-1)
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    # batchmean: "mean" would also divide by num_labels.
    # T^2 undoes the 1/T^2 that softening puts on the gradient, so alpha keeps its meaning when T changes.
    soft_loss = F.kl_div(log_probs, soft_targets, reduction="batchmean") * temperature ** 2
    # The sum over the labelled texts, divided by all: one text counts the same with and without unlabelled neighbours.
    label_loss = F.cross_entropy(student_logits, labels, ignore_index=-1, reduction="sum") / len(labels)
    return alpha * soft_loss + (1 - alpha) * label_loss


@dataclass
class DistillationData:
    """What the student learns from: N texts, those with a label first."""

    texts: list[str]
    labels: list[int]  # N numbers, -1 where there is no label
    teacher_logits: torch.Tensor  # (N, num_labels)
    teacher_score: float | None = None  # macro-F1 of the best teacher on the validation texts

    def labelled(self):
        """Its labelled texts alone."""
        count = sum(label >= 0 for label in self.labels)
        return DistillationData(self.texts[:count], self.labels[:count], self.teacher_logits[:count])


def new_texts(sources, data):
    """The texts of the sources that are new, each once: neither training texts, nor held out for validation or test.

    sources: (name, list of texts), ...
    """
    known = {text_key(text) for text in data.train.texts}
    held_out = {text_key(text) for split in (data.validation, data.test) if split for text in split.texts}
    chosen = []
    for name, texts in sources:
        before = len(chosen)
        for text in texts:
            key = text_key(text)
            if key not in known and key not in held_out:
                known.add(key)
                chosen.append(text)
        num_held_out = sum(text_key(text) in held_out for text in texts)
        print(f"{name}: {len(chosen) - before:,} texts without a label; left out: {num_held_out:,} that are validation "
              "or test texts")
    return chosen


def read_unlabelled(name, data_dir):
    """The texts of one argument of --unlabelled."""
    texts, num_empty = unlabelled_texts(name, data_dir)
    if not texts:
        raise UserError(f"--unlabelled {name} holds no text")
    print(f"--unlabelled {name}: {len(texts):,} texts and {num_empty:,} rows without one")
    return texts


def augmented_texts(texts, copies, seed, operations, teacher):
    """`copies` new versions of each text, with the teacher's word vectors and its mask token."""
    mask = mask_token(teacher.tokenizer) if "mask" in operations else None
    synonyms = None
    if set(WITH_SYNONYMS) & set(operations):
        synonyms = similar_words(word_vectors(teacher.model), teacher.tokenizer, texts)
    return list(augment(texts, copies, seed, operations, synonyms=synonyms, mask=mask))


def same_steps(epochs, num_texts, num_labelled):
    """How many epochs over the labelled texts have at least as many steps as `epochs` over all texts."""
    return math.ceil(epochs * num_texts / num_labelled)


def open_student(name, teacher, data, words=None):
    """(student, tokenizer): new at each call, with the labels in the teacher's order."""
    if name.split(":")[0] == "teacher":
        if words:
            raise UserError(f"--words {words} is for recurrent students; {name} has its teacher's words")
        source = to_dense(teacher.model)
        if source.config.stored_formats or not isinstance(source, Encoder):
            raise UserError(f"--student {name}: only the layers of an fp32 encoder can be trained; take such a "
                            "teacher, or a student of another kind")
        return student_of_teacher(name, source), teacher.tokenizer
    student, tokenizer, aligned = open_model(name, data, words=words)
    if match_labels(data.label_names, aligned.label_names) != list(range(len(aligned.label_names))):
        raise UserError(f"--student {name} has the labels {', '.join(aligned.label_names)} in this order, the teacher "
                        f"{', '.join(data.label_names)}: take a student without a head, or fine-tune it again")
    return student, tokenizer


def check_inner(student, teacher, same_tokenizer):
    """The inner losses need two fp32 encoders that see the same tokens."""
    encoders = isinstance(student, Encoder) and isinstance(teacher, Encoder)
    if not encoders or teacher.config.stored_formats or not same_tokenizer:
        raise UserError("--hidden, --attention and --relations compare token by token: teacher and student must "
                        "be fp32 encoders with the same tokenizer, for example --student teacher:layers=0,2,5")


def check_augment(operations, teacher, tokenizer):
    """What the operations need: a mask token that teacher and student share, or the teacher's word vectors."""
    if "mask" in operations and not (tokenizer.same_as(teacher.tokenizer) and mask_token(tokenizer)):
        raise UserError("--augment-with mask needs a student with the teacher's tokenizer, and a mask token in it")
    if set(WITH_SYNONYMS) & set(operations) and not hasattr(teacher.model, "embeddings"):
        others = " ".join(name for name in DEFAULT_OPERATIONS if name not in WITH_SYNONYMS)
        raise UserError(f"--augment: {' and '.join(WITH_SYNONYMS)} find similar words with the word vectors of the "
                        f"first teacher, and {teacher.name} is an exported graph without them: add --augment-with "
                        f"{others}, or name a PyTorch teacher first")


def parse_weights(text, num_teachers):
    """One of WEIGHTS as it is, or "0.7,0.3" as numbers."""
    if text in WEIGHTS:
        return text
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        raise UserError(f"{text} is not one of {', '.join(WEIGHTS)}, nor numbers like 0.7,0.3") from None
    given_weights(weights, num_teachers)  # raises if they are impossible
    return weights


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--teacher", required=True, nargs="+", help="one or more fine-tuned model folders")
    parser.add_argument("--weights", default="mean", help=f"how several teachers are combined: {', '.join(WEIGHTS)} "
                        "(the last two for each text), or numbers: 0.7,0.3")
    parser.add_argument("--student", required=True,
                        help="a model folder, a Hub id, scratch:layers=2,hidden=64, teacher:layers=0,2,5, "
                        "teacher:layers=0,2,5:hidden=192, lstm, gru, xlstm, rwkv, cnn or bag")
    parser.add_argument("--words", metavar="MODEL", help="start a recurrent student's word vectors from this model's, "
                        "with its tokenizer")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--loss", choices=["soft", "mse", "decoupled"], default="soft",
                        help="the distance to the teacher: KL of softened probabilities (soft), MSE of logits, or "
                        "decoupled KL")
    parser.add_argument("--temperature", type=float, default=2.0, help="softens both distributions; 1: plain softmax")
    parser.add_argument("--alpha", type=unit_interval, default=0.5, help="weight of the soft targets; 0: no teacher")
    parser.add_argument("--hidden", type=nonnegative_float, default=0.0,
                        help="weight of the distance of hidden states (TinyBERT); 0: off")
    parser.add_argument("--attention", type=nonnegative_float, default=0.0,
                        help="weight of the distance of attention scores (TinyBERT); 0: off")
    parser.add_argument("--relations", type=nonnegative_float, default=0.0,
                        help="weight of the distance of relations (MiniLMv2); 0: off")
    parser.add_argument("--relation-heads", type=positive_int,
                        help="heads for --relations (default: as many as the teacher has)")
    parser.add_argument("--unlabelled", nargs="+", default=[], metavar="TEXTS", help="texts for the "
                        "teacher to label: files (or FILE:COLUMN), registered datasets (default: none)")
    parser.add_argument("--augment", type=nonnegative_int, default=0,
                        help="new versions of each training text; 0: none")
    parser.add_argument("--augment-with", nargs="+", choices=OPERATIONS, default=list(DEFAULT_OPERATIONS),
                        metavar="OPERATION", help=f"how a new version is made: {', '.join(OPERATIONS)} "
                        "(mask: if the student has the teacher's tokenizer)")
    parser.add_argument("--control", action="store_true",
                        help="train the same student also without a teacher, into OUT-alone")
    parser.add_argument("--seeds", type=positive_int, default=1,
                        help="repeat with so many seeds; OUT holds the first one's model, run.json all scores")
    add_training_flags(parser, epochs=3, lr=1e-4)
    add_lora_flags(parser, merged=True)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    if not 0 < args.temperature < math.inf:
        parser.error(f"--temperature {args.temperature} must be above 0 and finite")
    try:
        args.weights = parse_weights(args.weights, len(args.teacher))
    except UserError as error:
        parser.error(f"--weights: {error}")
    refuse_idle_flags(parser, vars(args), (
        *lora_rules(vars(args)),
        *tracking_rules(vars(args)),
        ("weights", len(args.teacher) > 1, "there is one teacher"),
        ("relation_heads", args.relations, "it wants --relations"),
        ("temperature", args.loss != "mse", "--loss mse has none"),
        ("augment_with", args.augment, "it wants --augment")))
    if args.control and args.alpha == 0:
        parser.error("--control is the student without a teacher, and --alpha 0 is the same: drop one")
    if args.alpha == 0:  # no error, because make trains its control with the student's flags
        of_teacher = ("loss", "temperature", "hidden", "attention", "relations", "weights")
        idle = [f"--{name}" for name in of_teacher if getattr(args, name) != parser.get_default(name)]
        if idle:
            print(f"--alpha 0 learns from labels alone: {', '.join(idle)} will do nothing")
    return args


def main(argv=None, after_epoch=None):
    """after_epoch(epoch, scores), if given, is called after each epoch of the first student and may raise to stop."""
    args = parse_args(argv)
    folders = {"student": args.out}
    if args.control:
        folders["alone"] = f"{Path(args.out)}-alone"
    for folder in folders.values():
        check_out(folder, sources=[*args.teacher, args.student, args.words])
    distributed.join(args.device)
    device = pick_device(args.device)
    check_optimizer(args.optimizer, device)
    seed_everything(args.seed)

    # 1. The teachers, the data, and a first student: what cannot be is refused before the teachers are asked
    teachers = open_teachers(args.teacher)
    data = open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed)
    data = align_labels(data, teachers[0].model.config.label_names)
    student, tokenizer = open_student(args.student, teachers[0], data, args.words)
    freeze_layers(student, args.freeze)
    if args.lora_rank:
        check_adaptable(student, args.student)
    same_tokenizer = tokenizer.same_as(teachers[0].tokenizer)
    inner_weights = InnerWeights(args.hidden, args.attention, args.relations, args.relation_heads)
    if inner_weights.any():
        distributed.refuse_several("--hidden, --attention or --relations", "they are means over the tokens of a batch, "
                                   "of which each would have others")
        teachers[0].model = to_dense(teachers[0].model)
        check_inner(student, teachers[0].model, same_tokenizer)
        InnerLosses(student, teachers[0].model, inner_weights)  # raises if the depths or widths do not fit
    if args.augment:
        check_augment(args.augment_with, teachers[0], tokenizer)
    if args.loss == "decoupled" and len(data.label_names) == 2:
        print("--loss decoupled: with two classes its second term is 0, which leaves --loss soft")

    # 2. Texts without a label, and what the teachers say of all texts
    sources = [(f"--unlabelled {name}", read_unlabelled(name, args.data_dir)) for name in args.unlabelled]
    if args.augment:
        augmented = augmented_texts(data.train.texts, args.augment, args.seed, args.augment_with, teachers[0])
        sources.append((f"--augment {args.augment}", augmented))
    unlabelled = new_texts(sources, data)
    texts = data.train.texts + unlabelled
    labels = list(data.train.labels) + [-1] * len(unlabelled)
    if args.alpha == 0:
        examples = DistillationData(texts, labels, torch.zeros(len(texts), len(data.label_names)))
    else:
        logits = distributed.from_rank_0(
            teacher_logits, teachers, texts + data.validation.texts, Path(args.out).parent / "teacher_logits",
            args.max_length, args.batch_size, device)
        val_logits = logits[:, len(texts):]
        val_labels = data.validation.labels
        combined = combine(logits[:, :len(texts)], val_logits, torch.tensor(labels), torch.tensor(val_labels),
                           args.weights, math.inf if args.loss == "mse" else args.temperature)
        teacher_score = max(scores(one, val_labels)["macro_f1"] for one in val_logits)
        examples = DistillationData(texts, labels, combined, teacher_score)

    # 3. The loss: another one is a function with the same parameters
    loss_function = kd_loss
    if args.loss == "mse":
        loss_function = mse_kd_loss
    elif args.loss == "decoupled":
        loss_function = decoupled_kd_loss

    # 4. Train each seed's student, and with --control the same student without a teacher. What an earlier run of the
    #    same command has done is not done again.
    unfinished = Unfinished(args.out, vars(args), data, student, tokenizer, texts=digest_of(texts),
                            teachers=[parent_of(name) for name in args.teacher])
    results = unfinished.read_results(roles=list(folders))
    for i, role in itertools.product(range(args.seeds), folders):
        if i < len(results[role]):
            continue
        seed = args.seed + i
        alone = role == "alone" or args.alpha == 0
        train = examples.labelled() if alone else examples
        alpha = 0.0 if alone else args.alpha
        epochs = same_steps(args.epochs, len(examples.texts), len(train.texts))
        patience = same_steps(args.patience, len(examples.texts), len(train.texts))

        seed_everything(seed)
        student, tokenizer = open_student(args.student, teachers[0], data, args.words)
        set_dropout(student, args.dropout)
        freeze_layers(student, args.freeze)
        if args.lora_rank:
            add_lora(student, args.lora_targets, args.lora_rank, args.lora_alpha, args.lora_dropout, args.freeze)
        student.to(device)
        max_length = text_length(student, args.max_length or teachers[0].model.config.text_length)
        student.config.text_length = max_length
        train_ids = tokenizer(train.texts, max_length)
        val_ids = tokenizer(data.validation.texts, max_length)
        inner_losses = None
        if inner_weights.any() and not alone:
            teacher = teachers[0].model.to(device)
            inner_losses = InnerLosses(student, teacher, inner_weights).to(device)
        print(f"{role}, seed {seed}: {count_parameters(student):,} parameters, {len(train_ids):,} texts an epoch")

        trained = nn.ModuleList([student]) if inner_losses is None else nn.ModuleList([student, inner_losses])
        num_steps = steps_per_epoch(len(train_ids), args.batch_size, args.accumulate)
        optimizer = OPTIMIZERS[args.optimizer](parameter_groups(trained, args.weight_decay), lr=args.lr)
        scheduler = warmup_then_decay(optimizer, epochs * num_steps, args.warmup)
        tracker = start_tracking(args.wandb, folders[role], vars(args) | {"seed": seed, "role": role})
        is_first_student = i == 0 and role == "student"
        log = TrainingLog(epochs, patience, args.minutes, tracker, after_epoch if is_first_student else None)
        distributed.seed_rank(seed)
        log.resume(unfinished, trained, optimizer, scheduler, part=f"{role}, seed {seed}")
        for epoch in log.epochs():
            student.train()
            shuffled = batches(train_ids, train.labels, args.batch_size, tokenizer.pad_id, (seed, epoch),
                               distributed.rank(), distributed.world_size())
            for group in log.progress(grouped(shuffled, args.accumulate), num_steps):
                for batch in group:
                    batch = batch.to(device)
                    batch_teacher_logits = train.teacher_logits[batch.index].to(device)
                    with autocast(device, args.bf16):
                        if inner_losses is None:
                            student_logits = student(batch.input_ids, batch.attention_mask)
                            inner_loss = 0.0
                        else:
                            student_logits, inner_loss = inner_losses(student, teacher, batch)
                        loss = inner_loss + loss_function(student_logits, batch_teacher_logits, batch.labels,
                                                          args.temperature, alpha) * batch.share
                    (loss / len(group)).backward()
                    log.batch(loss)
                distributed.sum_gradients(trained.parameters())
                torch.nn.utils.clip_grad_norm_(trained.parameters(), args.max_grad_norm or math.inf)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            logits = distributed.in_parts(predict, student, val_ids, args.batch_size, tokenizer.pad_id)
            log.end_epoch(student, scores(logits, data.validation.labels))
        log.restore_best(student)
        if args.lora_rank:
            merge_lora(student)

        logits = distributed.in_parts(predict, student, val_ids, args.batch_size, tokenizer.pad_id)
        tracker.log_confusion(data.validation.labels, logits.argmax(-1).tolist(), data.label_names)
        validation = scores(logits, data.validation.labels)
        if i == 0 and distributed.rank() == 0:  # the first seed's model is saved at once, beside its final place
            run = provenance("distill.py", vars(args), argv, parent=parent_of(args.teacher[0]), data=data,
                             history=log.history, validation=validation, teachers=args.teacher, student=args.student,
                             control=role == "alone", texts=len(train.texts), processes=distributed.world_size())
            save_model(student, tokenizer, unfinished.folder / role, run)
        tracker.finish(unfinished.folder / role if i == 0 else None)
        results[role].append(validation)
        unfinished.write_results(results)

    # 5. The folders, --out last: its run.json says that everything is done. The first process writes them.
    if distributed.rank():
        return None
    for role in reversed(folders):
        student, tokenizer = load_model(unfinished.folder / role)
        run = read_json(unfinished.folder / role / "run.json") | {"seeds": results}
        save_model(student, tokenizer, folders[role], run)
    unfinished.remove()
    print_comparison({role: [row["macro_f1"] for row in rows] for role, rows in results.items()},
                     examples.teacher_score)
    print(f"next: python evaluate.py {shlex.join([args.teacher[0], *folders.values()])} "
          f"{data_flags(args.data, args.data_dir, args.text, args.label)} --out runs/report")
    return run


def print_comparison(macro_f1, teacher_score):
    """The macro-F1 of each seed, their mean with its 95 % interval, and what the teacher was worth.

    macro_f1: {"student": [one number for each seed], "alone": ...}
    """
    rows = dict(macro_f1)
    if "alone" in macro_f1:
        rows["difference"] = [a - b for a, b in zip(macro_f1["student"], macro_f1["alone"], strict=True)]
    print(f"\n{'macro-F1':<12}{'mean':>8}{'95 % interval':>20}{'of the teacher':>17}   seeds")
    for name, values in rows.items():
        mean, low, high = t_interval(values)
        sign = "+" if name == "difference" else ""
        interval = f"[{low:{sign}.4f}, {high:{sign}.4f}]" if len(values) > 1 else "one seed: none"
        share = ""
        if teacher_score and name != "difference":
            share = f"{mean / teacher_score:.1%}"
        print(f"{name:<12}{mean:>8.4f}{interval:>20}{share:>17}   {' '.join(f'{value:.4f}' for value in values)}")
    if teacher_score:
        print(f"{'teacher':<12}{teacher_score:>8.4f}   (the best one, if there are several)")


if __name__ == "__main__":
    run_script(main, distributed=True)
