"""Files of texts: CSV, TSV, JSONL, `text;label` lines, folders of texts, plain lines; also .gz.

    bytes -> lines (text_lines) -> records (read_records): a dict of strings a row, or the Problem with it

One rule: every row comes out, as a record or as a Problem with its line number, because a row that is read wrongly
costs more than a missing one: it is learned. Each oddity handled below was met in a real file: tweets with line
breaks inside quotes, quotes that are only text, a semicolon inside the sentence, rows that are not UTF-8.
"""

import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from functools import partial
from pathlib import Path

from pocketbert.errors import UserError

USUAL_TEXT = ["text", "sentence", "tweet", "utt", "review", "content"]

USUAL_LABEL = ["label_text", "label", "sentiment", "intent", "class", "category"]


def open_bytes(path):
    return gzip.open(path) if str(path).endswith(".gz") else open(path, "rb")


def detect_encoding(path):
    """(encoding, note or None) of a text file: by its byte order mark or, failing that, by all its lines.

    A few broken rows do not make a file Latin-1: read that way, each good "é" of the others would become "Ã©".
    Only if most of the lines beyond ASCII are not UTF-8 is the file what Windows programs write, cp1252.
    """
    beyond_ascii = invalid = 0
    with open_bytes(path) as file:
        for number, line in enumerate(file):
            if number == 0 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                return "utf-16", None
            if not line.isascii():
                beyond_ascii += 1
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    invalid += 1
    if invalid * 2 <= beyond_ascii:
        return "utf-8-sig", None                                     # plain UTF-8 too: drops the mark if there is one
    return "cp1252", (f"{path.name} is not UTF-8 ({invalid:,} of the {beyond_ascii:,} lines beyond ASCII): "
                      "read as cp1252")


def text_lines(path, notes):
    """The lines of a file, in constant memory, split at \\n alone: texts hold \\r, U+2028 and the like.

    A byte that cannot be decoded arrives as a lone surrogate: the reader of the row can tell it from a typed U+FFFD.
    """
    try:
        encoding, note = detect_encoding(path)
        notes += [note] if note and note not in notes else []
        errors = "replace" if encoding == "utf-16" else "surrogateescape"
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding, errors=errors, newline="\n") as lines:
            yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}): fetch it again") from error


BROKEN = re.compile("[\ud800-\udfff]+")     # undecodable bytes, or half a character written as a JSON escape


class Problem(str):
    """Why a row cannot be read, worded to follow "3 rows of train.csv ..."."""


BLANK = Problem("with nothing on the line")

FIELDS = Problem("with a wrong number of fields")


def column_names(cells):
    names = [cell.strip() for cell in cells]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"two columns of a file are called {twice[0]!r}: rename one")
    return names


def csv_records(name, lines, fits):
    """A CSV file with a header. The delimiter is the one of , ; TAB with which the wanted columns are there.

    Strict about quotes. Python's reader would take `1,"abc` and all that follows up to the next quote for one
    field, and rows would vanish into a text. Here damage inside one line costs that row; a quote that runs on
    over further lines stops the reading, because nobody can say where the next row begins.
    """
    csv.field_size_limit(2 ** 31 - 1)                      # the default refuses texts beyond 131,072 characters
    first = next(lines, "")
    if "\r" in first.rstrip("\r\n"):
        raise UserError(f"{name} has \\r for line ends: save it with Windows or Unix line ends")
    delimiter = next((d for d in ",;\t" if fits([c.strip() for c in next(csv.reader([first], delimiter=d), [])])), ",")
    header, row_lines = None, []                           # row_lines: of the current row, for the error message
    watched = (row_lines.append(line) or line for line in itertools.chain([first], lines))
    reader = csv.reader(watched, delimiter=delimiter, strict=True)
    while True:
        row_lines.clear()
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            at_end = "end of data" in str(error)
            if header and len(row_lines) == 1 and not at_end:
                yield f"line {line}", Problem("with broken CSV quotes or line ends")
                continue
            if at_end:                                     # a lenient reader puts all that was swallowed last
                line += sum(field.count("\n") for field in next(csv.reader(row_lines, delimiter=delimiter))[:-1])
            raise UserError(f'{name}, line {line}: a quote opens here and does not close properly up to line '
                             f'{reader.line_num}: close it, or write "" for a quote inside a text') from error
        if header is None:
            header = column_names(fields)
            continue
        if not fields and len(header) == 1:                # in a file of one column an empty line is an empty text
            fields = [""]
        yield f"line {line}", (dict(zip(header, fields, strict=True)) if len(fields) == len(header)
                               else FIELDS if fields else BLANK)


def separated_records(lines, cut, columns=None):
    """A file without quoting, so that a quote is a character of the text. cut(line) -> fields."""
    for number, line in enumerate(lines, 1):
        fields = cut(line.rstrip("\r\n"))
        if columns is None:
            columns = column_names(fields)
        else:
            yield f"line {number}", (dict(zip(columns, fields, strict=True)) if len(fields) == len(columns)
                                     else FIELDS if line.strip() else BLANK)


def json_records(name, lines):
    """JSON lines, or for a .json file also one array. Yields whatever JSON a line holds; a dict is a row."""
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
        yield f"{label}/{file.name}", (
            Problem("in unsup/, without a label,") if label == "unsup"
            else {"text": file.read_bytes().decode("utf-8", "surrogateescape"), "label": label})


def read_records(path, fits, columns=None, notes=None, lines=None):
    """Yields (where, record or Problem) for each row of a file, in order; where is like "line 315".

    fits(columns): whether the wanted columns are among these. columns: names, if the file has no header.
    """
    if path.is_dir():
        return folder_records(path)
    lines, name = lines or text_lines(path, [] if notes is None else notes), path.name
    kind = Path(name.removesuffix(".gz")).suffix.lower()
    if kind == ".csv":
        return csv_records(name, lines, fits)
    if kind == ".tsv":
        return separated_records(lines, lambda line: line.split("\t"), columns)
    if kind in (".json", ".jsonl"):
        return json_records(name, lines)
    if columns:                                            # text;label: cut at the last, the text may hold one
        return separated_records(lines, lambda line: line.rsplit(";", 1), columns)
    return ((f"line {number}", line.rstrip("\r\n")) for number, line in enumerate(lines, 1))


def choose_columns(columns, text=None, labels=(None,), need_label=True):
    """(text column, label columns) by the wanted names, or for None by the usual ones; None if it is not clear."""
    def find(wanted, usual):
        names = [wanted.casefold()] if wanted else usual
        matches = [c for c in columns if c == wanted] or [c for c in columns if c.casefold() in names]
        if not wanted and "label_text" in map(str.casefold, matches):
            matches = [c for c in matches if c.casefold() != "label"]
        return matches if len(matches) == 1 else []

    text_column, label_columns = find(text, USUAL_TEXT), [c for wanted in labels for c in find(wanted, USUAL_LABEL)]
    return (text_column[0], label_columns) if text_column and (label_columns or not need_label) else None


def no_column(path, named, record):
    """The message when the columns cannot be told. named: {how one names a column: the name that was given, or None}"""
    if absent := [how.replace("COLUMN", name) for how, name in named.items()
                  if name and name.casefold() not in map(str.casefold, record)]:
        return f"{path} has no column for {' and '.join(absent)}; it has {', '.join(record) or 'none'}"
    question, those = (("columns are the text and the label", "them") if len(named) > 1 else
                       ("column is the text", "it"))
    return f"{path}: which {question}? It has {', '.join(record) or 'none'}. Name {those} with {' '.join(named)}"


def read_texts(path=None, column=None, how="--text COLUMN"):
    """Yields (row, text, problem) for each row of a file, in order and in constant memory; rows count from 0.

    Either text or problem is None: a row that is no text gets a problem, and the rows after it are still read.
    CSV, TSV and JSONL files (/.gz) have columns; any other file is one text per line. path None: standard
    input, JSONL if a column is named, else one text per line. A line of JSONL may also be just a string.
    how: the user names a column, for errors.
    """
    stdin = None if path else io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", "surrogateescape", newline="\n")
    path = Path(path or ("stdin.jsonl" if column else "stdin"))
    choose, picked, row = partial(choose_columns, text=column, need_label=False), None, -1
    for where, record in read_records(path, choose, lines=stdin):
        if record is BLANK:
            continue
        row, text, problem = row + 1, record, None
        if isinstance(record, dict):
            picked = picked or choose(list(record))
            if picked is None and (column or ".json" not in path.name):     # a header is the same for all rows
                raise UserError(no_column(path, {how: column}, record))
            text = record.get(picked[0], Problem("without a text field")) if picked else Problem("without a text field")
        if isinstance(text, Problem):
            problem = "a row " + text
        elif not isinstance(text, str):
            problem = f"the text is not a string but {json.dumps(text)[:40]}"
        elif BROKEN.search(text):
            problem = "the text holds bytes that are not valid text"
        yield row, None if problem else text, problem and f"{where}: {problem}"
