"""The teachers' logits. Each teacher scores a text once; its logits are kept on disk, so a second run starts at once.

    teachers = open_teachers(["runs/demo/teacher"])
    logits = teacher_logits(teachers, texts, "runs/demo/teacher_logits", max_length=128, batch_size=32, device="cpu")
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pocketbert.data.labels import match_labels
from pocketbert.data.tokenizer import Tokenizer
from pocketbert.errors import UserError
from pocketbert.files import replacing
from pocketbert.models.folder import load_model, parent_of
from pocketbert.models.opening import text_length
from pocketbert.models.predict import predict


@dataclass
class Teacher:
    name: str
    model: nn.Module
    tokenizer: Tokenizer
    columns: list[int]  # its columns of logits, in the order of the first teacher's labels


def open_teachers(folders):
    """The teachers. Their labels must be the same, in any order and spelling (see data/labels.py)."""
    teachers = []
    for folder in folders:
        model, tokenizer = load_model(folder)
        first = teachers[0].model if teachers else model
        columns = teacher_columns(folders[0], first.config.label_names, folder, model.config.label_names)
        teachers.append(Teacher(folder, model, tokenizer, columns))
    return teachers


def teacher_columns(first, first_names, folder, names):
    """[the column of a teacher's logits for each label of the first teacher], or an error that names both."""
    try:
        columns = match_labels(first_names, names, source=first)
    except UserError:
        columns = []
    if len(columns) != len(names):
        raise UserError(f"--teacher {folder} knows the labels {', '.join(names)}, {first} knows "
                        f"{', '.join(first_names)}: all teachers of one student must have the same labels")
    return columns


def text_digest(text):
    """16 bytes that identify a text, the same in every process."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def cached_logits(cache, texts, compute):
    """Logits (N, num_labels) of the texts: from the file `cache` where they are there, else from compute(texts).

    The file holds text keys (M, 16) and logits (M, num_labels). It is keyed by text and not by row, so it serves any
    subset, order or addition of texts. New texts are added to it.
    """
    known = {}
    if cache.exists():
        stored = load_file(cache)
        known = {bytes(key): row for key, row in zip(stored["keys"].numpy(), stored["logits"], strict=True)}
    keys = [text_digest(text) for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        known |= dict(zip(new, compute(list(new.values())), strict=True))
        cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache) as temporary:
            save_file({"keys": torch.tensor([list(key) for key in known], dtype=torch.uint8),
                       "logits": torch.stack(list(known.values()))}, temporary)
    print(f"teacher logits: {len(keys):,} texts, {len(new):,} of them new, kept in {cache}")
    return torch.stack([known[key] for key in keys])


def cache_name(teacher, max_length):
    """A file name that changes with everything the logits depend on: weights, tokenizer, cleaning and length."""
    weights = parent_of(teacher.name)["sha256"] or teacher.name
    tokenizer = teacher.tokenizer
    identity = f"{weights} {tokenizer.backend.to_str()} {tokenizer.cleaning} {max_length}"
    return f"{text_digest(identity).hex()[:16]}.safetensors"


def runs_on_cpu_only(model):
    """Stored formats such as int8 have kernels for the CPU alone, and exported graphs (no nn.Module) run there."""
    return not isinstance(model, nn.Module) or bool(model.config.stored_formats)


def teacher_logits(teachers, texts, cache_folder, max_length, batch_size, device):
    """Logits (teachers, texts, labels) of every teacher, with the labels in the order of the first teacher's.

    cache_folder: where the logits are kept, one file for each teacher    max_length: see predict.text_length
    """
    logits = []
    for teacher in teachers:
        def compute(new_texts, teacher=teacher):
            model = teacher.model.to("cpu" if runs_on_cpu_only(teacher.model) else device)
            ids = teacher.tokenizer(new_texts, text_length(model, max_length))
            new_logits = predict(model, ids, batch_size, teacher.tokenizer.pad_id)
            model.to("cpu")
            return new_logits
        cache = Path(cache_folder) / cache_name(teacher, text_length(teacher.model, max_length))
        logits.append(cached_logits(cache, texts, compute)[:, teacher.columns])
    return torch.stack(logits)
