"""Files of texts: CSV, TSV, JSONL, `text;label` lines, folders of texts, plain lines; each also with .gz.

    bytes -> lines (lines.py) -> records (read_records): a dictionary for each row, or the Problem with it

One rule: every row comes out, as a record or as a Problem with its line number, because a row that is read wrongly is
worse than a missing one: the model learns it. CSV and TSV are in delimited.py.
"""

import io
import itertools
import json
import sys
from functools import partial
from pathlib import Path

from pocketbert.data.columns import choose_columns, no_column
from pocketbert.data.delimited import check_line_ends, delimited_records, separated_records
from pocketbert.data.lines import BROKEN, text_lines
from pocketbert.data.problems import BLANK, JSON, Problem
from pocketbert.errors import UserError


def json_records(name, lines):
    """JSON lines, or for a .json file also one array. Yields whatever JSON a line holds; a dictionary is a row."""
    start = next(lines, "")
    lines = itertools.chain([start] if start else [], lines)
    if name.removesuffix(".gz").endswith(".json") and start.lstrip().startswith("["):
        try:
            rows = json.loads("".join(lines))
        except RecursionError:
            raise UserError(f"{name} is not valid JSON: nested too deeply") from None
        except ValueError as error:
            raise UserError(f"{name} is not valid JSON: {error}") from error
        yield from ((f"entry {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(lines, 1):
        value = parse_json(line)
        if value is JSON:
            check_line_ends(name, number, line, lambda row: isinstance(parse_json(row), dict))
        yield f"line {number}", value


def parse_json(line):
    try:
        return json.loads(line) if line.strip() else BLANK
    except (ValueError, RecursionError):
        return JSON


def folder_records(folder):
    """aclImdb: train/pos/0_9.txt. One file is one text; its folder is the label, and unsup/ has none."""
    for file in sorted(folder.glob("*/*.txt")):
        label = file.parent.name
        record = {"text": file.read_bytes().decode("utf-8", "surrogateescape"), "label": label}
        yield f"{label}/{file.name}", Problem("in unsup/, without a label,") if label == "unsup" else record


def read_records(path, fits, columns=None, notes=None, lines=None):
    """Yields (where, record or Problem) for each row of a file, in order; where is like "line 315".

    fits(columns): are the wanted columns among these?    columns: their names, if the file has no header
    notes: a list that gets what a user should know    lines: instead of those of the file, for standard input
    """
    if path.is_dir():
        return folder_records(path)
    name = path.name
    notes = [] if notes is None else notes
    lines = lines or text_lines(path, notes)
    kind = Path(name.removesuffix(".gz")).suffix.lower()
    if kind in (".csv", ".tsv"):
        return delimited_records(name, lines, fits, notes, tsv=kind == ".tsv", columns=columns)
    if kind in (".json", ".jsonl"):
        return json_records(name, lines)
    if columns:  # text;label is cut at the last semicolon, because the text may hold one
        return separated_records(lines, lambda line: line.rsplit(";", 1), columns)
    return plain_records(name, lines)


def plain_records(name, lines):
    """One text per line."""
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            check_line_ends(name, number, line, str.strip)
        yield f"line {number}", line.rstrip("\r\n")


def read_texts(path=None, column=None, how="--text COLUMN", lines=None, notes=None):
    """Yields (row, text, problem) for each row of a file, in order and in constant memory; rows count from 0.

    Either text or problem is None: a row that is no text gets a problem, and the rows after it are still read.
    CSV, TSV and JSONL files (/.gz) have columns; any other file is one text per line. path None: standard
    input, JSONL if a column is named, else one text per line. A line of JSONL may also be just a string.
    how: the user names a column, for errors    lines: standard input as an iterator over lines
    notes: a list that gets what a user should know about the file, when all rows have been read
    """
    if path is None and lines is None:
        lines = io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", "surrogateescape", newline="\n")
    path = Path(path or ("stdin.jsonl" if column else "stdin"))
    choose = partial(choose_columns, text=column, need_label=False)
    picked = None
    row = -1
    for where, record in read_records(path, choose, notes=notes, lines=lines):
        if record is BLANK:
            continue
        row += 1
        text = record
        if isinstance(record, dict):
            picked = picked or choose(list(record))
            if picked is None and (column or ".json" not in path.name):  # a header is the same for all rows
                raise UserError(no_column(path, {how: column}, list(record)))
            missing = Problem("without a text field")
            text = record.get(picked[0], missing) if picked else missing
        problem = problem_of(text)
        if problem:
            yield row, None, f"{where}: {problem}"
        else:
            yield row, text, None


def problem_of(text):
    """Why a value cannot be classified, or None if it is a text."""
    if isinstance(text, Problem):
        return "a row " + text
    if not isinstance(text, str):
        return f"the text is not a string but {json.dumps(text)[:40]}"
    if BROKEN.search(text):
        return "the text holds bytes that are not valid text"
    return None
