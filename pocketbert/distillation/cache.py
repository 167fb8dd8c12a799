"""The teachers' logits: each teacher is asked once for a text, and its answer is kept on disk."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pocketbert.data.tokenizer import Tokenizer
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, parent_of
from pocketbert.models.predict import predict


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
            raise UserError(f"--teacher {folder} knows the labels {', '.join(names)}, {folders[0]} knows "
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


def teacher_logits(teachers, texts, args, device):
    """(teachers, texts, labels): the logits of every teacher, the labels in the order of the first one's."""
    answers = []
    for teacher in teachers:
        def ask(new, teacher=teacher):
            model = teacher.model.to("cpu" if teacher.model.config.stored_formats else device)
            ids = teacher.tokenizer(new, min(args.max_length, model.config.max_length))
            logits = predict(model, ids, args.batch_size, teacher.tokenizer.pad_id)
            model.to("cpu")
            return logits
        weights, words = parent_of(teacher.name)["sha256"] or teacher.name, teacher.tokenizer
        digest = text_digest(f"{weights} {words.backend.to_str()} {words.cleaning} {args.max_length}").hex()
        cache = Path(args.out).parent / "teacher_logits" / f"{digest[:16]}.safetensors"
        answers.append(cached_logits(cache, texts, ask)[:, teacher.columns])
    return torch.stack(answers)
