"""Label new texts: rows in, one JSON object a row out, in constant memory."""

import contextlib
import json
import os
import sys
from itertools import islice
from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.models.predict import predict

CHUNK_BATCHES = 64          # batches whose texts are read, sorted by length and scored together


def answers(model, tokenizer, rows, batch_size, max_length):
    """Yields one dictionary a row, in order: {"label", "probabilities"}, or {"error"} for a row without a text.

    rows: (row, text, problem) as tables.read_texts yields them. They are read in chunks of CHUNK_BATCHES batches, so
    that a file of any size fits into memory.
    """
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK_BATCHES * batch_size)):
        yield from answer_chunk(model, tokenizer, chunk, batch_size, max_length)


def answer_chunk(model, tokenizer, chunk, batch_size, max_length):
    """The answers to a list of rows."""
    names = model.config.label_names
    texts = [text for _, text, problem in chunk if problem is None]
    ids = tokenizer(texts, min(max_length, model.config.max_length))
    probabilities = iter(predict(model, ids, batch_size, tokenizer.pad_id).softmax(-1).tolist())
    for _, _, problem in chunk:
        if problem is not None:
            yield {"error": problem}
            continue
        row = next(probabilities)
        yield {"label": names[row.index(max(row))],
               "probabilities": {name: round(p, 6) for name, p in zip(names, row, strict=True)}}


@contextlib.contextmanager
def writing(name):
    """The file for the answers: standard output, a device or pipe as it is, or a file that appears when complete."""
    if name is None:
        yield sys.stdout
        return
    target = Path(name).resolve()
    if target.is_dir():
        raise UserError(f"--out {name} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--out {name}: there is no folder {target.parent}; make it first")
    if target.exists() and not target.is_file():
        with open(target, "w", encoding="utf-8") as out:
            yield out
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            yield out
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_answers(rows, out):
    """Write each answer as a line of JSON to the file named `out` (None: standard output).

    Returns how many rows had no text. A reader that closes the pipe (`| head`) ends the writing without an error.
    """
    errors = 0
    try:
        with writing(out) as file:
            for answer in rows:
                errors += "error" in answer
                file.write(json.dumps(answer, ensure_ascii=not out) + "\n")
            file.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return errors
