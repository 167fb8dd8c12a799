"""What the teachers say: each is asked once for a text, its answer is kept on disk, and all are combined into one.

Logits are kept by text, not by token: a teacher and its student may cut a text into different tokens, and several
teachers, of different families, may stand side by side.

    teachers = open_teachers(["runs/tweets/teacher", "runs/tweets/other"])
    logits = ask_all(teachers, texts, args, device)                           # (teachers, texts, labels)
    teacher_logits = combine(logits, validation_logits, labels, validation_labels, "validation", temperature=2.0)
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distillation import (
    calibrate_temperature,
    combine_teachers,
    confidence_weights,
    entropy_weights,
    given_weights,
    validation_weights,
)
from model_utils import load_model
from text_utils import Tokenizer
from train_utils import parent_of, predict

WEIGHTS = ("mean", "validation", "confidence", "entropy")


@dataclass
class Teacher:
    name: str
    model: nn.Module
    tokenizer: Tokenizer
    columns: list[int]  # where the first teacher's labels are among its own


def open_teachers(folders):
    """The teachers, whose labels must be the same names, in any order."""
    teachers = []
    for folder in folders:
        model, tokenizer = load_model(folder)
        names = model.config.label_names
        wanted = teachers[0].model.config.label_names if teachers else names
        if sorted(names) != sorted(wanted):
            raise ValueError(f"--teacher {folder} knows the labels {', '.join(names)}, {folders[0]} knows "
                             f"{', '.join(wanted)}: teachers of one student must have the same")
        teachers.append(Teacher(folder, model, tokenizer, [names.index(name) for name in wanted]))
    return teachers


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


def ask_all(teachers, texts, args, device):
    """(teachers, texts, labels): the logits of every teacher, the labels in the order of the first one's."""
    answers = []
    for teacher in teachers:
        def ask(new, teacher=teacher):
            model = teacher.model.to("cpu" if teacher.model.config.stored_forms else device)
            ids = teacher.tokenizer(new, min(args.max_length, model.config.max_length))
            logits = predict(model, ids, args.batch_size, teacher.tokenizer.pad_id)
            model.to("cpu")
            return logits
        weights, words = parent_of(teacher.name)["sha256"] or teacher.name, teacher.tokenizer
        digest = text_digest(f"{weights} {words.backend.to_str()} {words.cleaning} {args.max_length}").hex()
        cache = Path(args.out).parent / "teacher_logits" / f"{digest[:16]}.safetensors"
        answers.append(cached_logits(cache, texts, ask)[:, teacher.columns])
    return torch.stack(answers)


def combine(logits, val_logits, labels, val_labels, weights, temperature):
    """One teacher's logits (N, C) out of K teachers' (K, N, C); with one teacher, its own, untouched.

    Each is calibrated first, on validation, because else the most boastful would be heard the most.
    weights: one of WEIGHTS, or numbers    labels: (N,), -1 where there is none    temperature: the student's
    """
    if len(logits) == 1:
        return logits[0]
    own = torch.tensor([calibrate_temperature(row, val_labels) for row in val_logits]).view(-1, 1, 1)
    logits, val_logits = logits / own, val_logits / own
    if weights == "validation":
        chosen = validation_weights(val_logits, val_labels)
    elif weights == "confidence":
        chosen = confidence_weights(logits, labels)
    elif weights == "entropy":
        chosen = entropy_weights(logits)
    else:
        chosen = given_weights([1.0] * len(logits) if weights == "mean" else weights, len(logits))
    shares = chosen.view(len(logits), -1).mean(dim=1)
    print("teachers: temperatures " + ", ".join(f"{t:.2f}" for t in own.flatten().tolist())
          + f"; weights ({weights if isinstance(weights, str) else 'given'}) "
          + ", ".join(f"{share:.2f}" for share in shares.tolist()))
    return combine_teachers(logits, chosen, temperature)
