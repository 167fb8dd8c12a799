"""A file that a visitor has sent: its columns, its rows, and the same rows with labels, in the same order."""

import csv
import io
import itertools
import json
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pocketbert.data.chunks import in_chunks
from pocketbert.data.columns import choose_columns, no_column
from pocketbert.data.delimited import SEP_LINE, column_names, find_delimiter
from pocketbert.data.lines import NumberedLines, text_lines
from pocketbert.data.problems import BLANK, Problem
from pocketbert.data.tables import problem_of, read_records
from pocketbert.errors import UserError
from pocketbert.evaluation.answers import Answerer

MOST_MB = 20            # of a file
MOST_ROWS = 100_000     # of a file
KINDS = ["csv", "tsv", "jsonl", "json", "txt"]
ROWS_AT_ONCE = 256      # between two steps of the progress bar
TEXT = "text"           # the column of a file that has none


@contextmanager
def uploaded(name, data):
    """The path of a file with these bytes, in a folder of its own that is gone afterwards.

    Of the name that the visitor gave, only the ending is used; errors inside `with` speak of the name.
    """
    kind = name.rpartition(".")[2].lower()
    if kind not in KINDS:
        raise UserError(f"{name}: a file ends in {', '.join('.' + kind for kind in KINDS)}")
    if len(data) > MOST_MB * 1_000_000:
        raise UserError(f"{name} has {len(data) / 1e6:.0f} MB; this page takes {MOST_MB}. evaluate.py predict labels "
                        "files of any size")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload.{kind}"
        path.write_bytes(data)
        try:
            yield path
        except (UserError, OSError) as error:
            raise UserError(str(error).replace(str(path), name).replace(path.name, name)) from error


def columns_of(path):
    """The names of the columns of a file, [] for a file of plain lines."""
    if path.suffix == ".txt":
        return []
    if path.suffix in (".csv", ".tsv"):
        lines = NumberedLines(text_lines(path, []))
        first = next(lines, "")
        sep = SEP_LINE.fullmatch(first)
        first = next(lines, "") if sep else first
        delimiter = sep[1] if sep else "\t" if path.suffix == ".tsv" else find_delimiter(first, lambda row: row[1:])
        return column_names(path.name, first, lines, delimiter) if first.strip() else []
    for _, record in itertools.islice(read_records(path, bool), 100):
        if isinstance(record, dict):
            return list(record)
    return []


def guess_column(columns):
    """The column that is probably the text: the one with a usual name, else the first; None without columns."""
    chosen = choose_columns(columns, need_label=False)
    return chosen[0] if chosen else next(iter(columns), None)


def read_rows(path, column):
    """[(record, text, problem)] of each row that is not blank. record: {column: value}; {} for a damaged row."""
    rows = []
    for where, record in read_records(path, partial(choose_columns, text=column, need_label=False)):
        if record is BLANK:
            continue
        if len(rows) == MOST_ROWS:
            raise UserError(f"more than {MOST_ROWS:,} rows: evaluate.py predict labels files of any size")
        text = record
        if isinstance(record, dict):
            if column not in record and path.suffix in (".csv", ".tsv"):
                raise UserError(no_column(path.name, {"the column COLUMN": column}, list(record)))
            text = record.get(column, Problem("without a text field"))
        problem = problem_of(text)
        if not isinstance(record, dict):
            record = {} if problem else {TEXT: text}
        rows.append((record, text, f"{where}: {problem}" if problem else None))
    return rows


def label_rows(classifier, rows):
    """Yields (rows done, answers so far) after each part; an answer is {"label", "probabilities"} or {"error"}."""
    answerer = Answerer(classifier)
    answers = []
    numbered = ((i, text, problem) for i, (_, text, problem) in enumerate(rows))
    for chunk in in_chunks(numbered, ROWS_AT_ONCE, lambda row: row[1] if row[2] is None else ""):
        answers += answerer.answer(chunk)
        yield len(answers), answers


def labelled_file(kind, rows, answers):
    """(ending, bytes): the rows with new columns, as the file that came: CSV, TSV or JSON lines; CSV for plain lines.

    The new columns: predicted, probability (of this label), error; JSON lines have all probabilities.
    """
    columns = list(dict.fromkeys(column for record, _, _ in rows for column in record)) or [TEXT]
    label, probability, error = (unused(name, columns) for name in ("predicted", "probability", "error"))
    out = io.StringIO(newline="")
    if kind in ("json", "jsonl"):
        for (record, _, _), answer in zip(rows, answers, strict=True):
            new = ({error: answer["error"]} if "error" in answer else
                   {label: answer["label"], probability: answer["probabilities"]})
            out.write(json.dumps(record | new, ensure_ascii=False) + "\n")
        return "jsonl", out.getvalue().encode("utf-8", "replace")
    writer = csv.DictWriter(out, [*columns, label, probability, error], restval="", lineterminator="\n",
                            delimiter="\t" if kind == "tsv" else ",")
    writer.writeheader()
    for (record, _, _), answer in zip(rows, answers, strict=True):
        if "error" in answer:
            writer.writerow(record | {error: answer["error"]})
        else:
            best = answer["probabilities"][answer["label"]]
            writer.writerow(record | {label: answer["label"], probability: best})
    return "tsv" if kind == "tsv" else "csv", out.getvalue().encode("utf-8", "replace")


def unused(name, columns):
    """The name, or with a number behind it where there is such a column already."""
    names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
    return next(name for name in names if name not in columns)


def time_left(seconds, done, total):
    """"40 s left", from how long the first `done` of `total` rows took."""
    left = seconds / done * (total - done)
    return f"{left / 60:.0f} min left" if left > 120 else f"{left:.0f} s left"
