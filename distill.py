"""Distil one or several teachers into a student of any kind: learn from all of their probabilities, not from a label.

Where the label says "negative", the teacher says "negative 0.7, neutral 0.28, positive 0.02", and that tells the
student how near the classes are. Softened by a temperature T (Hinton, Vinyals and Dean 2015, arXiv:1503.02531):

    loss = alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * CE(student, label)

A teacher is asked once for each text, and its logits are kept on disk by text; so teachers and student may differ in
family and tokenizer, and texts without a label (--unlabelled, --augment) teach as well as others.

    python distill.py --teacher runs/demo/teacher --student scratch:layers=2,hidden=64 --data demo \
        --out runs/demo/student --lr 1e-3 --epochs 10 --control --seeds 3
    python distill.py --teacher runs/tweets/teacher runs/tweets/other --weights validation \
        --student teacher:layers=0,2,5 --data tweet_sentiment_extraction --out runs/tweets/student --lr 1e-4
    ... --student lstm | gru | xlstm | rwkv | bag:ngrams=3     --loss mse | decoupled     --relations 1

`--control` trains the same student for as many steps without a teacher, on the labelled texts alone (so for more
epochs, of which it also keeps the best), into OUT-alone: what the teacher is worth is the difference between the two,
never the score of the first alone; --seeds says how sure it is.
The losses are in distillation.py, the teachers' answers in teachers.py.
"""

import argparse
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from data_utils import encode, open_data, unlabelled_texts
from model_utils import open_model
from pocketbert.cli import (
    add_common_flags,
    add_training_flags,
    data_flags,
    nonnegative_float,
    nonnegative_int,
    parser_for,
    positive_int,
    refuse_idle_flags,
    run_script,
    unit_interval,
)
from pocketbert.data.batching import batches
from pocketbert.data.splits import text_key
from pocketbert.distillation.augment import DEFAULT_WAYS, WAYS, augment, mask_token, similar_words
from pocketbert.distillation.cache import open_teachers, teacher_logits
from pocketbert.distillation.ensemble import WEIGHTS, combine, given_weights
from pocketbert.distillation.inner import InnerLosses, compares_layers
from pocketbert.distillation.losses import decoupled_kd_loss, logit_mse_loss, soft_target_loss
from pocketbert.evaluation.metrics import scores, t_interval
from pocketbert.files import write_json
from pocketbert.models.device import autocast, pick_device, seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import check_out, parent_of, save_model
from pocketbert.models.predict import predict
from pocketbert.models.recipes import student_of_teacher
from pocketbert.models.size import count_parameters
from pocketbert.models.sparse import to_dense
from pocketbert.models.stored import word_vectors
from pocketbert.provenance import provenance
from pocketbert.training.log import TrainingLog
from pocketbert.training.optim import Optimizer, prepare_for_training


def kd_loss(student_logits, teacher_logits, labels, temperature=2.0, alpha=0.5, loss="soft"):
    """Knowledge distillation loss (Hinton et al. 2015, arXiv:1503.02531, section 2).

        loss = alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * CE(student, labels)

    student_logits, teacher_logits: (batch, num_labels)    labels: (batch,) int64, -1: no label, no second term
    temperature T > 0 softens both; alpha in [0, 1] is the weight of the soft targets.
    loss: "soft" is the KL above; "mse" and "decoupled" put another distance in its place (see distillation.py).
    Returns nats per example, averaged over the batch.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {tuple(student_logits.shape)} and teacher logits "
                         f"{tuple(teacher_logits.shape)} differ: do both models have the same label list?")
    if temperature <= 0 or not 0 <= alpha <= 1:
        raise ValueError(f"temperature {temperature} must be above 0 and alpha {alpha} between 0 and 1")
    hard_loss = F.cross_entropy(student_logits, labels, ignore_index=-1, reduction="sum") / len(labels)
    if alpha == 0:
        return hard_loss
    if loss == "decoupled":
        soft_loss = decoupled_kd_loss(student_logits, teacher_logits, labels, temperature)
    else:
        soft_loss = {"soft": soft_target_loss, "mse": logit_mse_loss}[loss](student_logits, teacher_logits, temperature)
    return alpha * soft_loss + (1 - alpha) * hard_loss


def open_student(name, teacher, data, args):
    """(student ready to train, tokenizer): a fresh one at each call."""
    if name.split(":")[0] == "teacher":
        if args.words:
            raise ValueError(f"--words {args.words} is for recurrent students; {name} has its teacher's words")
        source = to_dense(teacher.model)
        if source.config.stored_formats or not isinstance(source, Encoder):
            raise ValueError(f"--student {name}: only the layers of an fp32 encoder can be trained; take such a "
                             "teacher, or a student of another kind")
        student = student_of_teacher(name, source)
        prepare_for_training(student, args)
        return student, teacher.tokenizer
    student, tokenizer, aligned = open_model(name, data, args, words=args.words)
    if aligned.label_names != data.label_names:
        raise ValueError(f"--student {name} has the labels {', '.join(aligned.label_names)} in this order, the teacher "
                         f"{', '.join(data.label_names)}: take a student without a head, or fine-tune it again")
    return student, tokenizer


def more_texts(args, teacher, data):
    """Texts without labels: those of --unlabelled, and --augment new versions of each training text.

    What is held out stays held out, also without its label; and no text comes twice.
    """
    held_out = {text_key(text) for split in (data.validation, data.test) if split for text in split.texts}
    seen, texts = {text_key(text) for text in data.train.texts}, []

    def take(found, what):
        new = {key: text for text in found if (key := text_key(text)) not in held_out and key not in seen}
        print(f"{what}: {len(new):,} texts without a label; left out: "
              f"{sum(text_key(text) in held_out for text in found):,} that are validation or test texts")
        seen.update(new)
        texts.extend(new.values())

    for name in args.unlabelled:
        found, without = unlabelled_texts(name, args.data_dir)
        if not found:
            raise ValueError(f"--unlabelled {name} holds no text")
        take(found, f"--unlabelled {name}, {len(found):,} texts and {without:,} rows without one")
    if args.augment:
        mask = mask_token(teacher.tokenizer) if "mask" in args.augment_ways else None
        synonyms = similar_words(word_vectors(teacher.model), teacher.tokenizer, data.train.texts)
        take(list(augment(data.train.texts, args.augment, args.seed, args.augment_ways, synonyms=synonyms, mask=mask)),
             f"--augment {args.augment}")
    return texts


def train_student(student, ids, labels, teacher_logits, validate, args, alpha, pad_id, inner_losses=None,
                  after_epoch=None):
    """One training, with or without (alpha 0) a teacher. Returns the log; the student has its best epoch's weights.

    ids: token ids of N texts    labels: N numbers, -1 where there is none    teacher_logits: (N, num_labels)
    """
    device, batches_per_epoch = student.device, math.ceil(len(ids) / args.batch_size)
    log = TrainingLog(student, args, after_epoch)
    trained = nn.ModuleList([student, *([inner_losses] if inner_losses else [])])
    optimizer = Optimizer(trained, args, num_batches=args.epochs * batches_per_epoch)
    for epoch in log.epochs():
        student.train()
        shuffled = batches(ids, labels, args.batch_size, pad_id, shuffle_seed=args.seed + epoch)
        for batch in log.progress(shuffled, total=batches_per_epoch):
            batch = batch.to(device)
            with autocast(device, args.bf16), inner_losses.listen(student) if inner_losses else nullcontext() as inner:
                student_logits = student(batch.input_ids, batch.attention_mask)
                loss = kd_loss(student_logits, teacher_logits[batch.index].to(device), batch.labels, args.temperature,
                               alpha, args.loss)
                if inner_losses:
                    loss = loss + inner_losses(student, inner, batch)
            loss.backward()
            optimizer.step(loss)
            log.batch(loss)
        log.add(epoch, validate(student))
    log.restore_best()
    return log


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--teacher", required=True, nargs="+", help="one or more fine-tuned model folders")
    parser.add_argument("--weights", default="mean", help=f"how several teachers are combined: {', '.join(WEIGHTS)} "
                        "(the last two for each text), or numbers: 0.7,0.3")
    parser.add_argument("--student", required=True,
                        help="a model folder, a Hub id, scratch:layers=2,hidden=64, teacher:layers=0,2,5, "
                        "teacher:layers=0,2,5:hidden=192, lstm, gru, xlstm, rwkv or bag")
    parser.add_argument("--words", metavar="MODEL", help="start a recurrent student's words from this model's table, "
                        "with its tokenizer")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--loss", choices=["soft", "mse", "decoupled"], default="soft", help="how soft targets are met")
    parser.add_argument("--temperature", type=float, default=2.0, help="softens both distributions; 1: plain softmax")
    parser.add_argument("--alpha", type=unit_interval, default=0.5, help="weight of the soft targets; 0: no teacher")
    parser.add_argument("--hidden", type=nonnegative_float, default=0.0, help="of the hidden states' distance; 0: off")
    parser.add_argument("--attention", type=nonnegative_float, default=0.0,
                        help="of the attention scores' distance; 0: off")
    parser.add_argument("--relations", type=nonnegative_float, default=0.0, help="of MiniLMv2's relations; 0: off")
    parser.add_argument("--relation-heads", type=positive_int,
                        help="heads for --relations (default: as many as the teacher has)")
    parser.add_argument("--layer-map", choices=["uniform", "last"], default="uniform",
                        help="which of the teacher's layers each of the student's learns from")
    parser.add_argument("--unlabelled", nargs="+", default=[], metavar="TEXTS", help="texts for the "
                        "teacher to label: files (or FILE:COLUMN), registered datasets (default: none)")
    parser.add_argument("--augment", type=nonnegative_int, default=0,
                        help="new versions of each training text; 0: none")
    parser.add_argument("--augment-ways", nargs="+", choices=WAYS, default=list(DEFAULT_WAYS), metavar="WAY",
                        help=f"how texts change: {', '.join(WAYS)} (mask: if the student has the teacher's tokenizer)")
    parser.add_argument("--control", action="store_true",
                        help="train the same student also without a teacher, into OUT-alone")
    parser.add_argument("--seeds", type=positive_int, default=1,
                        help="repeat with so many seeds; OUT holds the first one's model, run.json all scores")
    add_training_flags(parser, epochs=3, lr=1e-4)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    if not 0 < args.temperature < math.inf:
        parser.error(f"--temperature {args.temperature} must be above 0 and finite")
    if args.weights not in WEIGHTS:
        try:
            args.weights = [float(weight) for weight in args.weights.split(",")]
        except ValueError:
            parser.error(f"--weights {args.weights} is not one of {', '.join(WEIGHTS)}, nor numbers like 0.7,0.3")
        try:
            given_weights(args.weights, len(args.teacher))
        except ValueError as error:
            parser.error(f"--weights: {error}")
    refuse_idle_flags(parser, args, (
            ("weights", len(args.teacher) > 1, "there is one teacher"),
            ("relation_heads", args.relations, "it wants --relations"),
            ("layer_map", args.hidden or args.attention, "it wants --hidden or --attention"),
            ("temperature", args.loss != "mse", "--loss mse has none"),
            ("augment_ways", args.augment, "it wants --augment")))
    if args.alpha == 0 and (idle := [f"--{name}" for name in ("loss", "temperature", "hidden", "attention", "relations",
                                                              "weights")
                                     if getattr(args, name) != parser.get_default(name)]):
        print(f"--alpha 0 learns from labels alone: {', '.join(idle)} will do nothing")  # make's control has them too
    if args.control and args.alpha == 0:
        parser.error("--control is the student without a teacher, and --alpha 0 is the same: drop one")
    return args


@dataclass
class Lesson:
    """What there is to learn from: N texts, those with a label first."""

    texts: list[str]
    labels: list[int]  # N, -1: none
    teacher_logits: torch.Tensor  # (N, num_labels); zeros where no teacher is asked
    teacher_score: float | None  # macro-F1 on validation of the best teacher


def prepare_lesson(teachers, data, args, device):
    texts = data.train.texts + more_texts(args, teachers[0], data)
    labels = list(data.train.labels) + [-1] * (len(texts) - len(data.train))
    if args.alpha == 0:
        return Lesson(texts, labels, torch.zeros(len(texts), len(data.label_names)), None)
    answers = teacher_logits(teachers, texts + data.validation.texts, args, device)
    answers, on_validation = answers[:, :len(texts)], answers[:, len(texts):]
    temperature, val_labels = math.inf if args.loss == "mse" else args.temperature, data.validation.labels
    logits = combine(answers, on_validation, torch.tensor(labels), torch.tensor(val_labels), args.weights, temperature)
    return Lesson(texts, labels, logits, max(scores(row, val_labels)["macro_f1"] for row in on_validation))


def train_one(role, teachers, data, lesson, args, device, after_epoch=None):
    """Train a "student" with its teachers, or the same one "alone": (student, tokenizer, history, scores)."""
    seed_everything(args.seed)
    student, tokenizer = open_student(args.student, teachers[0], data, args)
    student.to(device)
    count, alpha = len(lesson.texts), args.alpha
    if role == "alone" or alpha == 0:  # the labelled texts, which come first: more epochs of fewer steps
        count, alpha, ratio = len(data.train), 0.0, len(lesson.texts) / len(data.train)
        more = {name: math.ceil(getattr(args, name) * ratio) for name in ("epochs", "patience")}
        args = argparse.Namespace(**vars(args) | more)
    ids = tokenizer(lesson.texts[:count], min(args.max_length, student.config.max_length))
    val_ids = encode(tokenizer, data.validation, args, student)
    print(f"{role}, seed {args.seed}: {count_parameters(student):,} parameters, {count:,} texts an epoch")

    def validate(model):
        return scores(predict(model, val_ids, args.batch_size, tokenizer.pad_id), data.validation.labels)

    inner_losses = None
    if compares_layers(args) and alpha:
        inner_losses = InnerLosses(student, teachers[0].model.to(device), args).to(device)
    log = train_student(student, ids, lesson.labels[:count], lesson.teacher_logits, validate, args, alpha,
                        tokenizer.pad_id, inner_losses, after_epoch)
    logits = predict(student, val_ids, args.batch_size, tokenizer.pad_id)
    log.finish(logits, data.validation.labels, data.label_names)
    return student, tokenizer, log.history, scores(logits, data.validation.labels)


def main(argv=None, after_epoch=None):
    args = parse_args(argv)
    for out in (args.out, *([f"{args.out}-alone"] if args.control else [])):
        check_out(out, [*args.teacher, args.student, args.words])
    device = pick_device(args.device)
    seed_everything(args.seed)
    teachers = open_teachers(args.teacher)
    data = open_data(args, teachers[0].model.config.label_names)
    student, tokenizer = open_student(args.student, teachers[0], data, args)  # what cannot be shows early
    if compares_layers(args):
        teacher = teachers[0].model = to_dense(teachers[0].model)
        if not (isinstance(student, Encoder) and isinstance(teacher, Encoder) and not teacher.config.stored_formats
                and tokenizer.same_as(teachers[0].tokenizer)):
            raise ValueError("--hidden, --attention and --relations compare token by token: teacher and student must "
                             "be fp32 encoders with the same tokenizer, for example --student teacher:layers=0,2,5")
        InnerLosses(student, teacher, args)
    if "mask" in args.augment_ways and not (mask_token(tokenizer) and tokenizer.same_as(teachers[0].tokenizer)):
        raise ValueError("--augment-ways mask wants a student with the teacher's tokenizer, and a mask token in it")
    if args.loss == "decoupled" and len(data.label_names) == 2:
        print("--loss decoupled: with two classes its second term is zero, and the first is --loss soft")
    lesson = prepare_lesson(teachers, data, args, device)

    folders = {"student": args.out} | ({"alone": f"{args.out}-alone"} if args.control else {})
    found, runs = {role: [] for role in folders}, {}
    for seed in range(args.seed, args.seed + args.seeds):
        for role, folder in folders.items():
            seed_args = argparse.Namespace(**vars(args) | {"seed": seed})
            student, tokenizer, history, validation = train_one(
                role, teachers, data, lesson, seed_args, device,
                after_epoch if (role, seed) == ("student", args.seed) else None)
            found[role].append(validation)
            if role not in runs:  # the first seed's model is kept, at once
                runs[role] = provenance("distill.py", args, argv, parent=parent_of(args.teacher[0]), data=data,
                                        history=history,
                                        validation=validation, teachers=args.teacher, student=args.student,
                                        control=role == "alone", texts=len(lesson.texts))
                save_model(student, tokenizer, folder, runs[role])
    for role, run in runs.items():
        write_json(run | {"seeds": found}, Path(folders[role]) / "run.json")
    print_comparison({role: [row["macro_f1"] for row in rows] for role, rows in found.items()}, lesson.teacher_score)
    print(f"next: python evaluate.py {args.teacher[0]} {args.out}{f' {args.out}-alone' * args.control} "
          f"{data_flags(args)} --out runs/report")


def print_comparison(found, teacher_score):
    """The macro-F1 of each seed, the mean with its 95 % interval over seeds, and what the teacher was worth."""
    rows = dict(found)
    if "alone" in found:
        rows["difference"] = [a - b for a, b in zip(found["student"], found["alone"], strict=True)]
    print(f"\n{'macro-F1':<12}{'mean':>8}{'95 % interval':>20}{'of the teacher':>17}   seeds")
    for name, values in rows.items():
        mean, low, high = t_interval(values)
        share = f"{mean / teacher_score:>17.1%}" if teacher_score and name != "difference" else " " * 17
        sign = "+" if name == "difference" else ""
        interval = f"[{low:{sign}.4f}, {high:{sign}.4f}]" if len(values) > 1 else "one seed: none"
        print(f"{name:<12}{mean:>8.4f}{interval:>20}{share}   {' '.join(f'{value:.4f}' for value in values)}")
    if teacher_score:
        print(f"{'teacher':<12}{teacher_score:>8.4f}   (where there are several: the best of them)")


if __name__ == "__main__":
    run_script(main)
