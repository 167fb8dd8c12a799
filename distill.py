"""Distil a teacher into a smaller student: learn from all of the teacher's probabilities, not from one label.

Where the label says "negative", the teacher says "negative 0.7, neutral 0.28, positive 0.02", and that tells the
student how near the classes are. Softened by a temperature T (Hinton, Vinyals and Dean 2015, arXiv:1503.02531):

    loss = alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * CE(student, label)

The teacher is asked once for each text; its logits are kept on disk, by text, for the next student.

    python distill.py --teacher runs/demo/teacher --student scratch:layers=2,hidden=64 --data demo \\
        --out runs/demo/student --lr 1e-3 --epochs 10
    python distill.py --teacher runs/tweets/teacher --student teacher:layers=0,2,5 \\
        --data tweet_sentiment_extraction --out runs/tweets/student --lr 1e-4 --epochs 3

`--control` trains the same student with the same budget without the teacher: what the teacher is worth is the
difference between the two, never the score of the first alone.
"""

import hashlib
import math
import os
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from data_utils import batches
from encoder import with_layers
from measure_utils import count_parameters
from model_utils import check_out, load_model, save_model
from sparsity import to_dense
from train_utils import (
    Optimizer,
    TrainingLog,
    add_common_flags,
    add_training_flags,
    autocast,
    encode,
    fraction,
    open_data,
    open_model,
    parent_of,
    parser_for,
    pick_device,
    predict,
    prepare_for_training,
    provenance,
    run_script,
    scores,
    seed_everything,
)


def kd_loss(student_logits, teacher_logits, labels, temperature=2.0, alpha=0.5):
    """Knowledge distillation loss (Hinton et al. 2015, arXiv:1503.02531, section 2).

        loss = alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * CE(student, labels)

    student_logits, teacher_logits: (batch, num_labels)    labels: (batch,) int64
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
    # "batchmean": "mean" would also divide by num_labels.
    # T^2 undoes the 1/T^2 that softening puts on the gradient, so alpha keeps its meaning when T changes.
    soft_loss = F.kl_div(log_probs, soft_targets, reduction="batchmean") * temperature ** 2
    return alpha * soft_loss + (1 - alpha) * F.cross_entropy(student_logits, labels)


# ---------------------------------------------------------------------------------------------------------
# The teacher's answers, computed once and kept by text
# ---------------------------------------------------------------------------------------------------------

def text_digest(text):
    """16 bytes that stand for a text, the same in every process."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def cached_logits(cache, texts, compute):
    """Logits (N, num_labels) of the texts: from the file `cache` where they are there, else compute(texts).

    The file holds text keys (M, 16) and logits (M, num_labels); it grows, and is rewritten atomically. It is
    keyed by text and not by row, so it serves any subset, order or further set of texts.
    """
    known = {}
    if cache.exists():
        stored = load_file(cache)
        known = {bytes(key): row for key, row in zip(stored["keys"].numpy(), stored["logits"], strict=True)}
    keys = [text_digest(text) for text in texts]
    new = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    if new:
        known |= dict(zip([key for key, _ in new], compute([text for _, text in new]), strict=True))
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
        save_file({"keys": torch.tensor([list(key) for key in known], dtype=torch.uint8),
                   "logits": torch.stack(list(known.values()))}, temporary)
        os.replace(temporary, cache)
    print(f"teacher logits: {len(keys):,} texts, {len(new):,} of them new, kept in {cache}")
    return torch.stack([known[key] for key in keys])


def ask_teacher(teacher, tokenizer, texts, args, device):
    teacher.to("cpu" if teacher.config.stored_forms else device)
    ids = tokenizer(texts, min(args.max_length, teacher.config.max_length))
    logits = predict(teacher, ids, args.batch_size, tokenizer.pad_id)
    teacher.cpu()
    return logits


# ---------------------------------------------------------------------------------------------------------
# The student
# ---------------------------------------------------------------------------------------------------------

def layers_of_teacher(recipe, teacher):
    """'teacher:layers=0,2,5' -> a student made of the teacher's embeddings, these layers and its head.

    It starts far ahead of random weights, and the teacher's tokenizer is its own.
    """
    _, _, numbers = recipe.partition("layers=")
    kept = [int(number) for number in numbers.split(",")] if re.fullmatch(r"\d+(,\d+)*", numbers) else []
    if not kept or kept != sorted(set(kept)) or kept[-1] >= len(teacher.layers):
        raise ValueError(f"--student {recipe!r}: layers=... must name layers from 0 to {len(teacher.layers) - 1} in "
                         f"rising order, e.g. teacher:layers=0,{len(teacher.layers) - 1}")
    return with_layers(teacher, kept)


def open_student(name, teacher, teacher_tokenizer, data, args):
    if name.split(":")[0] == "teacher":
        teacher = to_dense(teacher)
        if teacher.config.stored_forms:
            raise ValueError(f"--student {name}: the layers of an int8 teacher cannot be trained; take its fp32 "
                             "parent, or a student of another kind")
        student = layers_of_teacher(name, teacher)
        prepare_for_training(student, args)
        return student, teacher_tokenizer
    student, tokenizer, aligned = open_model(name, data, args)
    if aligned.label_names != data.label_names:
        raise ValueError(f"--student {name} has the labels {', '.join(aligned.label_names)} in this order, the teacher "
                         f"{', '.join(data.label_names)}: take a student without a head, or fine-tune it again")
    return student, tokenizer


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--teacher", required=True, help="a fine-tuned model folder")
    parser.add_argument("--student", required=True,
                        help="a model folder, a Hub id, scratch:layers=2,hidden=64, or teacher:layers=0,2,5")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--temperature", type=float, default=2.0, help="softens both distributions; 1: plain softmax")
    parser.add_argument("--alpha", type=fraction, default=0.5, help="weight of the soft targets; 0: labels only")
    parser.add_argument("--control", action="store_true", help="the same student and budget without the teacher")
    add_training_flags(parser, epochs=3, lr=1e-4)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    if args.temperature <= 0:
        parser.error(f"--temperature {args.temperature} must be above 0")
    return args


def main(argv=None, after_epoch=None):
    args = parse_args(argv)
    check_out(args.out)
    device = pick_device(args.device)
    seed_everything(args.seed)
    teacher, teacher_tokenizer = load_model(args.teacher)
    data = open_data(args, teacher.config.label_names)
    student, tokenizer = open_student(args.student, teacher, teacher_tokenizer, data, args)
    student.to(device)
    train_ids, val_ids = (encode(tokenizer, split, args, student) for split in (data.train, data.validation))

    alpha = 0.0 if args.control else args.alpha
    if args.control:
        print("control: trained on the labels alone")
        all_teacher_logits = torch.zeros(len(data.train), len(data.label_names))
    else:
        teacher_hash = parent_of(args.teacher)["sha256"][:16]
        cache = Path(args.out).parent / "teacher_logits" / f"{teacher_hash}-{args.max_length}.safetensors"
        all_teacher_logits = cached_logits(cache, data.train.texts, lambda texts: ask_teacher(
            teacher, teacher_tokenizer, texts, args, device))

    batches_per_epoch = math.ceil(len(train_ids) / args.batch_size)
    optimizer = Optimizer(student, args, num_batches=args.epochs * batches_per_epoch)
    log = TrainingLog(student, args, after_epoch)
    for epoch in log.epochs():
        student.train()
        shuffled = batches(train_ids, data.train.labels, args.batch_size, tokenizer.pad_id,
                           shuffle_seed=args.seed + epoch)
        for batch in log.progress(shuffled, total=batches_per_epoch):
            batch = batch.to(device)
            teacher_logits = all_teacher_logits[batch.index].to(device)
            with autocast(device, args.bf16):
                student_logits = student(batch.input_ids, batch.attention_mask)
                loss = kd_loss(student_logits, teacher_logits, batch.labels, args.temperature, alpha)
            loss.backward()
            optimizer.step(loss)
            log.batch(loss)
        log.add(epoch, scores(predict(student, val_ids, args.batch_size, tokenizer.pad_id), data.validation.labels))
    log.restore_best()

    logits = predict(student, val_ids, args.batch_size, tokenizer.pad_id)
    validation = scores(logits, data.validation.labels)
    save_model(student, tokenizer, args.out, provenance(
        "distill.py", args, argv, parent=args.teacher, data=data, history=log.history, validation=validation,
        student=args.student, control=args.control))
    log.finish(logits, data.validation.labels, data.label_names)
    print(f"{args.out}: {count_parameters(student):,} parameters (teacher {count_parameters(teacher):,}), "
          f"validation macro-F1 {validation['macro_f1']:.4f}\n"
          f"next: python evaluate.py {args.teacher} {args.out} --data {args.data} --out runs/report")


if __name__ == "__main__":
    run_script(main)
