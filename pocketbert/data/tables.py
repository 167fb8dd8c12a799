"""Files of texts: CSV, TSV, JSONL, `text;label` lines, folders of texts, plain lines; each also with .gz.

    bytes -> lines (lines.py) -> records (read_records): a dictionary for each row, or the Problem with it

One rule: every row comes out, as a record or as a Problem with its line number, because a row that is read wrongly is
worse than a missing one: the model learns it. Each oddity handled below was met in a real file: tweets with line
breaks inside quotes, quotes that are only text, a semicolon inside the sentence, rows that are not UTF-8.
"""

import io
import itertools
import json
import sys
from functools import partial
from pathlib import Path

from pocketbert.data.columns import choose_columns, no_column
from pocketbert.data.lines import BROKEN, NumberedLines, text_lines
from pocketbert.errors import UserError


class Problem(str):
    """Why a row cannot be read, worded to follow "3 rows of train.csv ..."."""


BLANK = Problem("with nothing on the line")
FIELDS = Problem("with a wrong number of fields")
QUOTES = Problem("with broken CSV quotes or line ends")


class BadQuotes(Exception):
    """A CSV row whose quotes do not fit together. opened: the number of the line where the last quote opens."""

    def __init__(self, opened, at_end):
        super().__init__()
        self.opened = opened
        self.at_end = at_end  # is it the end of the file that was met, and no closing quote?


def column_names(cells):
    names = [cell.strip() for cell in cells]
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(f"two columns of a file are called {name!r}: rename one")
    return names


def split_row(line, more, delimiter):
    """The fields of one CSV row (RFC 4180).

    A quote counts only at the start of a field: in `a 5" disk,pos` it is text. Inside quotes "" is a quote, and
    delimiters and line breaks are text.
    line: the first line of the row    more: NumberedLines, from which the lines inside its quotes are taken
    """
    whole = line.rstrip("\r\n")
    if '"' not in whole and "\r" not in whole:  # most rows
        return whole.split(delimiter)
    fields = []
    start = 0
    while True:
        if line.startswith('"', start):
            opened = more.number
            field, line, end = quoted_field(line, start + 1, more)
        else:
            opened = more.number
            end = line.find(delimiter, start)
            end = len(line.rstrip("\r\n")) if end < 0 else end
            field = line[start:end]
            if "\r" in field:
                raise BadQuotes(opened, at_end=False)
        fields.append(field)
        if not line[end:].strip("\r\n"):
            return fields
        if not line.startswith(delimiter, end):
            raise BadQuotes(opened, at_end=False)
        start = end + 1


def quoted_field(line, start, more):
    """(text, its last line, the place behind the closing quote) of a field whose quote opens before `start`."""
    opened = more.number
    parts = []
    while True:
        end = line.find('"', start)
        if end < 0:
            parts.append(line[start:])
            start = 0
            line = next(more, None)
            if line is None:
                raise BadQuotes(opened, at_end=True)
        elif line.startswith('"', end + 1):  # "" is a quote
            parts.append(line[start:end + 1])
            start = end + 2
        else:
            return "".join(parts) + line[start:end], line, end + 1


def csv_records(name, lines, fits):
    """A CSV file with a header. The delimiter is the one of , ; TAB with which the wanted columns are there.

    Strict about quotes. Python's reader would take `1,"abc` and all that follows up to the next quote for one
    field, and rows would vanish into a text. Here damage inside one line costs that row; a quote that runs on
    over further lines stops the reading, because nobody can say where the next row begins.
    """
    lines = NumberedLines(lines)
    first = next(lines, "")
    if "\r" in first.rstrip("\r\n"):
        raise UserError(f"{name} has \\r for line ends: save it with Windows or Unix line ends")
    delimiter = find_delimiter(first, fits)
    header = None
    for line in itertools.chain([first] if first else [], lines):
        number = lines.number
        try:
            fields = split_row(line, lines, delimiter)
        except BadQuotes as error:
            if header is None or error.at_end or lines.number > number:
                raise UserError(f'{name}, line {error.opened}: a quote opens here and does not close properly up to '
                                f'line {lines.number}: close it, or write "" for a quote inside a text') from None
            yield f"line {number}", QUOTES
            continue
        if header is None:
            header = column_names(fields)
        elif not line.strip("\r\n") and len(header) > 1:  # in a file of one column an empty line is an empty text
            yield f"line {number}", BLANK
        else:
            yield f"line {number}", as_record(header, fields)


def find_delimiter(first, fits):
    for delimiter in ",;\t":
        try:
            cells = split_row(first, NumberedLines([]), delimiter)
        except BadQuotes:
            continue
        if fits([cell.strip() for cell in cells]):
            return delimiter
    return ","


def as_record(columns, fields):
    return dict(zip(columns, fields, strict=True)) if len(fields) == len(columns) else FIELDS


def separated_records(lines, cut, columns=None):
    """A file without quoting, so that a quote is a character of the text. cut(line) -> fields."""
    for number, line in enumerate(lines, 1):
        fields = cut(line.rstrip("\r\n"))
        if columns is None:
            columns = column_names(fields)
        elif not line.strip() and len(fields) != len(columns):
            yield f"line {number}", BLANK
        else:
            yield f"line {number}", as_record(columns, fields)


def json_records(name, lines):
    """JSON lines, or for a .json file also one array. Yields whatever JSON a line holds; a dictionary is a row."""
    start = next(lines, "")
    lines = itertools.chain([start] if start else [], lines)
    if name.removesuffix(".gz").endswith(".json") and start.lstrip().startswith("["):
        try:
            rows = json.loads("".join(lines))
        except ValueError as error:
            raise UserError(f"{name} is not valid JSON: {error}") from error
        yield from ((f"entry {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(lines, 1):
        try:
            yield f"line {number}", json.loads(line) if line.strip() else BLANK
        except (ValueError, RecursionError):
            yield f"line {number}", Problem("with invalid JSON")


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
    lines = lines or text_lines(path, [] if notes is None else notes)
    kind = Path(name.removesuffix(".gz")).suffix.lower()
    if kind == ".csv":
        return csv_records(name, lines, fits)
    if kind == ".tsv":
        return separated_records(lines, lambda line: line.split("\t"), columns)
    if kind in (".json", ".jsonl"):
        return json_records(name, lines)
    if columns:  # text;label is cut at the last semicolon, because the text may hold one
        return separated_records(lines, lambda line: line.rsplit(";", 1), columns)
    return ((f"line {number}", line.rstrip("\r\n")) for number, line in enumerate(lines, 1))


def read_texts(path=None, column=None, how="--text COLUMN", lines=None):
    """Yields (row, text, problem) for each row of a file, in order and in constant memory; rows count from 0.

    Either text or problem is None: a row that is no text gets a problem, and the rows after it are still read.
    CSV, TSV and JSONL files (/.gz) have columns; any other file is one text per line. path None: standard
    input, JSONL if a column is named, else one text per line. A line of JSONL may also be just a string.
    how: the user names a column, for errors    lines: standard input as an iterator over lines
    """
    if path is None and lines is None:
        lines = io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", "surrogateescape", newline="\n")
    path = Path(path or ("stdin.jsonl" if column else "stdin"))
    choose = partial(choose_columns, text=column, need_label=False)
    picked = None
    row = -1
    for where, record in read_records(path, choose, lines=lines):
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
