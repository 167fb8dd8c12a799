"""Tables with a delimiter: CSV, TSV, and lines of `text;label`.

A CSV file follows RFC 4180: a field that holds a delimiter, a quote or a line break stands in quotes, and a quote
inside it is doubled. Many TSV files have no quoting at all, so that a quote is a character of the text; but what pandas
writes with to_csv(sep="\\t") is quoted as CSV is. `tsv_fields` tells the two apart row by row.
"""

import itertools
import re
from functools import partial

from pocketbert.data.lines import BROKEN, NumberedLines
from pocketbert.data.problems import BLANK, FEWER, HEADER, MORE, QUOTES, Tally
from pocketbert.errors import UserError

SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)  # for Excel the first line can name the delimiter
QUOTED_AFTER_BLANKS = re.compile(r' +(?="(?:[^"]|"")*" *(.))', re.DOTALL)
LOOK_AHEAD = 100  # lines that one quoted field of a TSV file may have
ESCAPED = 'with \\" for a quote inside a text'
IN_QUOTES = "with a field in quotes"
STRAY = "with a quote inside a field that is not in quotes"


class BadQuotes(Exception):
    """A row whose quotes do not fit together. opened: the number of the line where the last quote opens."""

    def __init__(self, opened, at_end):
        super().__init__()
        self.opened = opened
        self.at_end = at_end  # was the end of the file met instead of a closing quote?


# ---- one row ---------------------------------------------------------------------------------------------

def split_row(line, more, delimiter):
    """The fields of one CSV row.

    A quote counts only at the start of a field, where blanks may stand before it: in `a 5" disk,pos` it is text.
    Inside quotes "" is a quote, and delimiters and line breaks are text.
    line: the first line of the row    more: NumberedLines, from which the lines inside its quotes are taken
    """
    whole = line.rstrip("\r\n")
    if '"' not in whole and "\r" not in whole:  # most rows
        return whole.split(delimiter)
    fields = []
    start = 0
    while True:
        opened = more.number
        quote = quote_at(line, start, delimiter)
        if quote is None:
            end = line.find(delimiter, start)
            end = len(line.rstrip("\r\n")) if end < 0 else end
            field = line[start:end]
            if "\r" in field:
                raise BadQuotes(opened, at_end=False)
        else:
            field, line, end = quoted_field(line, quote + 1, more)
        fields.append(field)
        if not line[end:].strip("\r\n"):
            return fields
        if not line.startswith(delimiter, end):
            raise BadQuotes(opened, at_end=False)
        start = end + 1


def quote_at(line, start, delimiter):
    """Where the quote of a quoted field is that begins at `start`; None if the field is not quoted."""
    if line.startswith('"', start):
        return start
    if line.startswith(" ", start):
        blanks = QUOTED_AFTER_BLANKS.match(line, start)
        if blanks and blanks[1] in (delimiter, "\r", "\n"):
            return blanks.end()
    return None


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
            text = "".join(parts) + line[start:end]
            end += 1
            while line.startswith(" ", end):
                end += 1
            return text, line, end


def csv_fields(line, lines, delimiter, tally):
    r"""The fields of a CSV row; lines are taken from `lines` only if the row does not end on its first one.

    A row that is broken, but whole if \" is read as "", was written by a program that escapes quotes this way.
    """
    try:
        fields = split_row(line, NumberedLines([], lines.number), delimiter)
        if '"' in line:
            as_written = set(line.rstrip("\r\n").split(delimiter)) & set(fields)  # what lost no quotes
            if any('"' in field for field in as_written):
                tally.add(f"line {lines.number}", STRAY, "used")
        return fields
    except BadQuotes as error:
        if '\\"' in line:
            try:
                fields = split_row(line.replace('\\"', '""'), NumberedLines([], lines.number), delimiter)
                tally.add(f"line {lines.number}", ESCAPED, "read as a quote")
                return fields
            except BadQuotes:
                pass
        if not error.at_end:
            raise
        return split_row(line, lines, delimiter)


def tsv_fields(line, lines, width, quoted, tally):
    """The fields of a TSV row of `width` columns, whose quotes are text unless they are needed.

    A field that begins with a quote is read as CSV if that gives `width` fields and if without quotes it would be
    something else: it holds "" or a tab or a line break. Then pandas wrote it. A row that spans several lines must not
    hold a tab in the field with the line break: that is a stray quote that has swallowed other rows.
    quoted: the header is in quotes, so every field may be
    """
    plain = line.rstrip("\r\n").split("\t")
    if not any(field.startswith('"') for field in plain):
        return plain
    number = lines.number
    taken = []
    ahead = NumberedLines((taken.append(more) or more for more in itertools.islice(lines, LOOK_AHEAD)), number)
    try:
        fields = split_row(line, ahead, "\t")
    except BadQuotes:
        fields = []
    needed = quoted or '""' in line or bool(taken) or len(fields) != len(plain)
    swallowed = any("\n" in field and "\t" in field for field in fields)
    if len(fields) == width and needed and not swallowed:
        tally.add(f"line {number}", IN_QUOTES, "read as in a CSV file")
        return fields
    lines.push_back(taken)
    return plain


# ---- all rows --------------------------------------------------------------------------------------------

def delimited_records(name, lines, fits, notes, tsv=False, columns=None):
    """Yields (where, dictionary or Problem) for each row of a CSV or TSV file.

    fits(columns): are the wanted columns among these?    columns: their names, if the file has no header
    notes: what a user should know about the file is added when all rows have been read
    """
    lines = NumberedLines(lines)
    first = next(lines, None)
    if first is None:
        return
    delimiter = "\t" if tsv else None
    sep = SEP_LINE.fullmatch(first)
    if sep:
        delimiter = sep[1]
        first = next(lines, "")
    if "\r" in first.rstrip("\r\n"):
        raise line_ends_error(name, 1)
    delimiter = delimiter or find_delimiter(first, fits)
    if columns is None:
        columns = column_names(name, first, lines, delimiter)
    else:
        lines.push_back([first])
    tally = Tally()
    if tsv and not sep:
        split = partial(tsv_fields, lines=lines, width=len(columns), quoted=first.startswith('"'),
                        tally=tally)
    else:
        split = partial(csv_fields, lines=lines, delimiter=delimiter, tally=tally)
    longest = 1
    for number, line, fields in split_rows(name, lines, split):
        where = f"line {number}"
        problem = problem_of_fields(fields, line, columns)
        if problem and "\r" in line.rstrip("\r\n"):
            check_line_ends(name, number, line, lambda row: row.count(delimiter) == len(columns) - 1)
        height = lines.number - number + 1
        if problem is None and height > 1:
            longest = max(longest, height)
            tally.add(where, "spans lines", "used")
        problem = problem or problem_of_header(name, number, fields, columns, fits)
        yield where, problem or dict(zip(columns, fields, strict=True))
    notes += spans_note(name, tally, longest) + tally.notes(name)


def split_rows(name, lines, split):
    """Yields (number of the first line, that line, fields) of each row; fields are None if its quotes are broken.

    Damage inside one line costs that row. A quote that runs on over further lines and does not close properly stops
    the reading, because nobody can say where the next row begins.
    """
    for line in lines:
        number = lines.number
        try:
            fields = split(line)
        except BadQuotes as error:
            if error.at_end or lines.number > number:
                raise UserError(f'{name}, line {error.opened}: a quote opens here and does not close properly up to '
                                f'line {lines.number}: close it, or write "" for a quote inside a text') from None
            fields = None
        yield number, line, fields


def problem_of_fields(fields, line, columns):
    if fields is None:
        return QUOTES
    if not line.strip("\r\n") and len(columns) > 1:  # in a file of one column an empty line is an empty text
        return BLANK
    if len(fields) != len(columns):
        return FEWER if len(fields) < len(columns) else MORE
    return None


def problem_of_header(name, number, fields, columns, fits):
    """HEADER if a row is the header again, as in `cat a.csv b.csv`; an error if it is a header of other columns."""
    if len(columns) == 1 or max(map(len, fields)) > 60:
        return None
    cells = [field.strip().casefold() for field in fields]
    if cells == [column.casefold() for column in columns]:
        return HEADER
    if sorted(cells) == sorted(column.casefold() for column in columns) or fits([field.strip() for field in fields]):
        raise UserError(f"{name}, line {number}: a second header, with the columns "
                        f"{BROKEN.sub('?', ', '.join(fields))}: read the two tables from two files")
    return None


def spans_note(name, tally, longest):
    """The note about rows with line breaks inside quotes: a stray quote may have swallowed the rows after it."""
    key = ("spans lines", "used")
    count = tally.counts.pop(key, 0)
    if count == 0:
        return []
    if count == 1:
        return [f"1 row of {name} spans {longest} lines (first: {tally.first[key]}): used"]
    return [f"{count:,} rows of {name} span several lines, at most {longest} (first: {tally.first[key]}): used"]


def find_delimiter(first, fits):
    """The one of , ; TAB with which the wanted columns are in the first line of a CSV file."""
    for delimiter in ",;\t":
        try:
            cells = split_row(first, NumberedLines([]), delimiter)
        except BadQuotes:
            continue
        if fits([cell.strip() for cell in cells]):
            return delimiter
    return ","


def column_names(name, first, lines, delimiter):
    """The names in the header, of which no two may be the same."""
    try:
        names = [BROKEN.sub("\ufffd", cell.strip()) for cell in split_row(first, lines, delimiter)]
    except BadQuotes as error:
        raise UserError(f"{name}, line {error.opened}: a quote opens in the header and does not close") from None
    for column in names:
        if column and names.count(column) > 1:
            raise UserError(f"two columns of a file are called {column!r}: rename one")
    return names


def check_line_ends(name, number, line, is_row):
    """Raise if a line is several rows that end with \\r: then all of them would be read as one, or lost as one."""
    pieces = line.rstrip("\r\n").split("\r")
    if len(pieces) > 2 and len(list(filter(is_row, pieces))) > 2:
        raise line_ends_error(name, number)


def line_ends_error(name, number):
    return UserError(f"{name} has \\r for line ends from line {number} on: save it with Windows or Unix line ends")


def separated_records(lines, cut, columns):
    """A file without header and quoting. cut(line) -> fields."""
    for number, line in enumerate(lines, 1):
        fields = cut(line.rstrip("\r\n"))
        problem = problem_of_fields(fields, line, columns)
        yield f"line {number}", problem or dict(zip(columns, fields, strict=True))
