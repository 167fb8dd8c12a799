"""Label new texts: rows in, one JSON object a row out, as soon as a row is there and in bounded memory.

    rows -> chunks (row_chunks) -> answers to each chunk (Answerer) -> lines of JSON, flushed after each chunk

A chunk ends when no more input is waiting, so a pipe that stays open (`tail -f x | ...`) gets each answer at once,
while a file or a fast pipe is scored in chunks that are sorted by length.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from pocketbert.data.chunks import CHUNK_BATCHES, in_chunks
from pocketbert.errors import UserError


def row_chunks(rows, batch_size, more_is_ready=None):
    """Rows in chunks. rows: (row, text, problem) as tables.read_texts yields them    more_is_ready: see in_chunks"""
    return in_chunks(rows, CHUNK_BATCHES * batch_size, lambda row: row[1] or "", more_is_ready)


class Answerer:
    """Answers chunks of rows with a Classifier, and counts the rows without a text and the texts that were cut."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.without_text = 0
        self.cut = 0

    def answer(self, chunk):
        """One dictionary a row, in order: {"label", "probabilities"}, or {"error"} for a row without a text."""
        names = self.classifier.label_names
        texts = [text for _, text, problem in chunk if problem is None]
        probabilities, cut = self.classifier.probabilities(texts)
        probabilities = iter(probabilities.tolist())
        self.cut += cut
        self.without_text += len(chunk) - len(texts)
        answers = []
        for _, _, problem in chunk:
            if problem is not None:
                answers.append({"error": problem})
                continue
            row = next(probabilities)
            answers.append({"label": names[row.index(max(row))],
                            "probabilities": {name: round(p, 6) for name, p in zip(names, row, strict=True)}})
        return answers


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


def check_files(source, out):
    """Raise before the work if the file to read is missing, or is also the file to write."""
    if source is None:
        return
    if not Path(source).exists() or Path(source).is_dir():
        raise FileNotFoundError(f"--input {source!r} is not a file")
    if out is not None and Path(out).is_file() and os.path.samefile(source, out):
        raise UserError(f"--out {out} is the file that --input reads, which would be lost; name another file")


def write_answers(answerer, chunks, out):
    """Write each answer as a line of JSON to the file named `out` (None: standard output), flushed after each chunk.

    Returns whether all were written: a reader that closes the pipe (`| head`) ends the writing without an error.
    """
    try:
        with writing(out) as file:
            for chunk in chunks:
                for answer in answerer.answer(chunk):
                    file.write(json.dumps(answer, ensure_ascii=not out) + "\n")
                file.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
