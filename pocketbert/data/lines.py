"""Bytes to lines of text: gzip, encodings, byte order marks, and bytes that cannot be decoded."""

import gzip
import io
import itertools
import re
import zlib

from pocketbert.errors import UserError

BROKEN = re.compile("[\ud800-\udfff]+")  # undecodable bytes, or half a character written as a JSON escape


def open_bytes(path):
    return gzip.open(path) if str(path).endswith(".gz") else open(path, "rb")


def detect_encoding(path):
    """(encoding, note or None) of a text file: by its byte order mark or, failing that, by all its lines.

    A few broken rows do not make a file Latin-1: read that way, each good "é" of the others would become "Ã©".
    Only if most of the lines beyond ASCII are not UTF-8 is the file what Windows programs write, cp1252.
    """
    beyond_ascii = 0
    invalid = 0
    with open_bytes(path) as file:
        for number, line in enumerate(file):
            if number == 0 and encoding_by_mark(line):
                return encoding_by_mark(line), None
            if not line.isascii():
                beyond_ascii += 1
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    invalid += 1
    if invalid * 2 <= beyond_ascii:
        return "utf-8", None
    return "cp1252", (f"{path.name} is not UTF-8 ({invalid:,} of the {beyond_ascii:,} lines beyond ASCII): "
                      "these lines are read as cp1252")


def encoding_by_mark(line):
    """The encoding that the first bytes of a file tell: by a byte order mark, or by a NUL in each ASCII character."""
    if line.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(line) > 3 and line.count(0) * 2 >= len(line) - 2:
        return "utf-16-be" if line[0] == 0 else "utf-16-le"
    return None


def text_lines(path, notes):
    """The lines of a file, in constant memory, split at \\n alone: texts hold \\r, U+2028 and the like.

    A byte that cannot be decoded arrives as a lone surrogate, so that the reader of the row can tell it from a
    U+FFFD that somebody typed.
    """
    try:
        encoding, note = detect_encoding(path)
        if note and note not in notes:
            notes.append(note)
        with open_bytes(path) as raw:
            if encoding.startswith(("utf-16", "utf-32")):
                lines = wide_lines(path, raw, encoding)
            else:
                lines = (decode_line(line, encoding) for line in raw)
            for line in lines:  # a second mark, or the one of a file that was appended to another, is no text
                yield line.lstrip("\ufeff")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}): fetch it again") from error


def decode_line(line, encoding):
    """A line of bytes as text. In a cp1252 file, too, a line that is UTF-8 is UTF-8: tables are put together."""
    if encoding == "cp1252" and not line.isascii():
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            return line.decode("cp1252", "surrogateescape")
    return line.decode("utf-8", "surrogateescape")


def wide_lines(path, raw, encoding):
    """The lines of a UTF-16 or UTF-32 file."""
    with io.TextIOWrapper(raw, encoding, errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if "\u0a00" in line:  # no character, but a line end whose two bytes are in the wrong order
                raise UserError(f"{path} is damaged in line {number}: from there on the bytes are shifted by one")
            yield line.replace("\ufffd", "\udc80")


class NumberedLines:
    """An iterator over lines that knows the number of the line it gave last. start: the number before the first one."""

    def __init__(self, lines, start=0):
        self.lines = iter(lines)
        self.number = start

    def __iter__(self):
        return self

    def __next__(self):
        line = next(self.lines)
        self.number += 1
        return line

    def push_back(self, lines):
        """Give these lines, the last ones that were taken, once more."""
        self.lines = itertools.chain(lines, self.lines)
        self.number -= len(lines)
