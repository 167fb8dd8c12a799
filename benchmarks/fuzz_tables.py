"""Damaged tables: is a row ever read wrongly without a note?

    python benchmarks/fuzz_tables.py                 # 500 tables; writes docs/results/fuzz_tables.md and .json
    python benchmarks/fuzz_tables.py --tables 5000 --seed 1 --out /tmp/fuzz

A small table of labelled texts is written as CSV, TSV (with and without quotes) or JSON lines, damaged in one or more
ways, and read by `load_dataset`. Each text holds a word that no other text of the table has, so every (text, label)
that comes out can be compared with the rows that went in. A pair is

    right       one of the original rows, or what a row says after the damage: it differs from the original by no more
                characters than the damage has changed ("great" -> "gre@t", which no program can notice)
    wrong       anything else: a text made of two rows, a text with another row's label, half a text

A wrong pair, or a row that is missing although its own word is in the file, is a fault of the reader if there is no
note that the undamaged table does not get, too. An error of one line is always right; a traceback is a fault.
"""

import argparse
import csv
import io
import json
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from data_utils import load_dataset
from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.errors import UserError
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.provenance import provenance

WORDS = "the a so was today phone service movie very great awful lovely sad broken fine café naïve 😀 5\" it's".split()
LABELS = [["negative", "positive"], ["0", "1"], ["joy", "anger", "fear"], ["sehr gut", "schlecht"]]
LOST = 9  # characters of a text that another encoding may not have: emoji
WORD = re.compile(r"w\d{3}x")
OUTCOMES = ["all rows right", "left out or repaired, with a note", "refused in one line", "wrong pair, with a note",
            "wrong pair, no note", "row missing, no note", "traceback"]
FAULTS = OUTCOMES[4:]


# ---- tables ----------------------------------------------------------------------------------------------

def random_rows(rng):
    """[(text, label)]: 40 texts, some with delimiters, quotes and line breaks, each with a word of its own."""
    labels = rng.choice(LABELS)
    rows = []
    for i in range(40):
        words = rng.choices(WORDS, k=rng.randint(3, 9)) + [f"w{i:03}x"]
        rng.shuffle(words)
        text = " ".join(words)
        kind = rng.random()
        if kind < 0.1:
            text = text.replace(" ", ", ", 1)
        elif kind < 0.15:
            text = f'she said "{text}" to me'
        elif kind < 0.2:
            text = f'"{text}"'
        rows.append([text, labels[i % len(labels)]])
    return rows


def csv_table(rows, rng):
    """CSV as pandas writes it, sometimes with semicolons, with a number before the text, or with Windows line ends."""
    if rng.random() < 0.3:
        rows = [[text.replace(" ", "\n", 1), label] for text, label in rows]
    return rows, delimited(rows, rng.choice(",,;"), rng)


def pandas_tsv(rows, rng):
    if rng.random() < 0.3:
        rows = [[text.replace(" ", "\n", 1), label] for text, label in rows]
    return rows, delimited(rows, "\t", rng)


def delimited(rows, delimiter, rng):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n"]))
    numbered = rng.random() < 0.3
    for i, row in enumerate([["text", "label"], *rows]):
        writer.writerow([f"{i}" if i else "id", *row] if numbered else row)
    return file.getvalue().encode()


def plain_tsv(rows, rng):
    """TSV without any quoting, as GLUE's."""
    return rows, "".join(f"{text}\t{label}\n" for text, label in [["text", "label"], *rows]).encode()


def json_lines(rows, rng):
    return rows, "".join(json.dumps({"text": text, "label": label}, ensure_ascii=rng.random() < 0.5) + "\n"
                         for text, label in rows).encode()


FORMATS = {".csv": csv_table, "-pandas.tsv": pandas_tsv, "-plain.tsv": plain_tsv, ".jsonl": json_lines}


# ---- damage: data, random numbers -> (damaged data, number of characters changed in place) ------------------

def place(data, rng):
    return rng.randrange(len(data))


def flip_bytes(data, rng):
    data = bytearray(data)
    count = rng.randint(1, 5)
    for _ in range(count):
        data[place(data, rng)] = rng.randrange(256)
    return bytes(data), count


def flip_letters(data, rng):
    """Printable ASCII for any byte: damage that is valid UTF-8 mostly."""
    data = bytearray(data)
    count = rng.randint(1, 5)
    for _ in range(count):
        data[place(data, rng)] = rng.randrange(32, 127)
    return bytes(data), count


def insert_quotes(data, rng):
    count = rng.randint(1, 4)
    for _ in range(count):
        at = place(data, rng)
        data = data[:at] + b'"' + data[at:]
    return data, count


def quotes_at_starts(data, rng):
    """A quote at the start of one to four lines, where it opens a field."""
    lines = data.splitlines(keepends=True)
    count = rng.randint(1, 4)
    for _ in range(count):
        i = rng.randrange(1, len(lines))
        lines[i] = b'"' + lines[i]
    return b"".join(lines), count


def delete_quotes(data, rng):
    count = 0
    for _ in range(rng.randint(1, 4)):
        at = data.find(b'"', place(data, rng))
        if at >= 0:
            data = data[:at] + data[at + 1:]
            count += 1
    return data, count


def cut_lines(data, rng):
    """The end of one to three lines is missing, the line end stays."""
    lines = data.splitlines(keepends=True)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(1, len(lines))
        lines[i] = lines[i].rstrip(b"\r\n")[:rng.randrange(len(lines[i]))] + b"\n"
    return b"".join(lines), 0


def cut_file(data, rng):
    return data[:rng.randrange(len(data) // 2, len(data))], 0


def join_lines(data, rng):
    for _ in range(rng.randint(1, 3)):
        at = data.find(b"\n", place(data, rng))
        if at >= 0:
            data = data[:at] + data[at + 1:]
    return data, 0


def split_lines(data, rng):
    for _ in range(rng.randint(1, 3)):
        at = place(data, rng)
        data = data[:at] + b"\n" + data[at:]
    return data, 0


def change_delimiters(data, rng):
    """Other delimiters in some lines, or in all."""
    old, new = rng.choice([(b",", b";"), (b";", b","), (b"\t", b","), (b",", b"\t"), (b"\t", b"  ")])
    share = rng.choice([0.1, 0.5, 1.0])
    lines = data.splitlines(keepends=True)
    changed = max(len(new) * line.count(old) for line in lines)  # a text may hold the delimiter, too
    return b"".join(line.replace(old, new) if rng.random() < share else line for line in lines), changed


def other_encoding(data, rng):
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "utf-8-sig", "cp1252", "latin-1", "utf-32"]), "ignore"), LOST


def mixed_encodings(data, rng):
    """The second part of the file is in cp1252."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    others = [line.decode("utf-8", "replace").encode("cp1252", "ignore") for line in lines[at:]]
    return b"".join(lines[:at] + others), LOST


def repeat_header(data, rng):
    lines = data.splitlines(keepends=True)
    for _ in range(rng.randint(1, 2)):
        lines.insert(rng.randrange(1, len(lines)), rng.choice([b"", b"\xef\xbb\xbf"]) + lines[0])
    return b"".join(lines), 0


def append_other_table(data, rng):
    """`cat a.csv b.csv`, where b has its columns in another order."""
    return data + b"label,text\n" + b"negative,appended one\n" * 3, 0


def old_line_ends(data, rng):
    at = place(data, rng)
    return data[:at] + data[at:].replace(b"\r\n", b"\r").replace(b"\n", b"\r"), 0


def repeat_lines(data, rng):
    lines = data.splitlines(keepends=True)
    i = rng.randrange(1, len(lines))
    return b"".join(lines[:i] + lines[i:i + 2] + lines[i:]), 0


def null_bytes(data, rng):
    count = rng.randint(1, 8)
    at = place(data, rng)
    return data[:at] + b"\0" * count + data[at:], count


DAMAGES = [flip_bytes, flip_letters, insert_quotes, quotes_at_starts, delete_quotes, cut_lines, cut_file, join_lines,
           split_lines, change_delimiters, other_encoding, mixed_encodings, repeat_header, append_other_table,
           old_line_ends, repeat_lines, null_bytes]


# ---- the oracle ------------------------------------------------------------------------------------------

def distance(a, b, most):
    """Levenshtein distance of two strings, or most + 1 if it is larger."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
        if min(row) > most:
            return most + 1
        previous = row
    return previous[-1]


def is_right(pair, originals, changed):
    """Is a pair an original row, but for so many characters, or but for the ends of lines inside its quotes?"""
    joined = "\t".join(pair)
    if joined in originals:
        return True
    if changed > 0 and any(distance(joined, row, changed) <= changed for row in originals):
        return True
    return "\n" in joined and any(only_inner_ends_are_cut(joined.split("\n"), row.split("\n")) for row in originals)


def only_inner_ends_are_cut(lines, whole_lines):
    """A line break inside quotes is text, so nobody can see that the line before it was cut."""
    return (len(lines) == len(whole_lines) and lines[-1] == whole_lines[-1]
            and all(whole.startswith(line) for line, whole in zip(lines, whole_lines, strict=True)))


def outcome(path, rows, changed, usual):
    """(one of OUTCOMES, an example or the message). usual: the notes about the undamaged table, which do not count."""
    originals = {"\t".join(row) for row in rows}
    try:
        data = load_dataset(str(path), text="text", label="label")
    except (UserError, OSError) as error:
        return ("traceback" if "\n" in str(error) else "refused in one line"), ascii(str(error))
    except Exception as error:
        return "traceback", ascii(error)
    pairs = [(text, data.label_names[label]) for split in (data.train, data.validation)
             for text, label in zip(split.texts, split.labels, strict=True)]
    wrong = [pair for pair in pairs if not is_right(pair, originals, changed)]
    notes = [note for note in data.notes if note not in usual]
    if wrong:
        return f"wrong pair, {'with a' if notes else 'no'} note", ascii([wrong[0], *notes])
    if notes:
        return "left out or repaired, with a note", ascii(notes)
    left = path.read_bytes().replace(b"\0", b"")
    read = " ".join(text for text, _ in pairs).replace("\0", "")
    missing = [text for text, _ in rows if WORD.search(text)[0].encode() in left and WORD.search(text)[0] not in read]
    if missing and len(pairs) < len(rows):
        return "row missing, no note", ascii(missing)
    return "all rows right", ""


def run(tables, seed, folder):
    """[{"format", "damage", "outcome", "example"}], one for each table."""
    results = []
    for number in range(tables):
        rng = random.Random(f"{seed} {number}")
        ending = list(FORMATS)[number % len(FORMATS)]
        rows, data = FORMATS[ending](random_rows(rng), rng)
        path = folder / f"{number}{ending}"
        path.write_bytes(data)
        usual = load_dataset(str(path)).notes
        damages = rng.sample(DAMAGES, rng.choice([1, 1, 1, 2, 3]))
        damages[0] = DAMAGES[number // len(FORMATS) % len(DAMAGES)]  # each format meets each damage
        changed = 0
        for damage in damages:
            data, count = damage(data, rng)
            changed += count
        if ending == ".jsonl":
            changed *= 6  # a damaged escape, such as u00e9 without its backslash
        path.write_bytes(data)
        result, example = outcome(path, rows, changed, usual)
        names = [damage.__name__ for damage in damages]
        results.append({"format": ending.lstrip("-."), "damage": names[0], "all": names, "number": number,
                        "outcome": result, "example": example[:300]})
    return results


def counts_table(results, key):
    """Markdown: one line for each value of `key`, one column for each outcome."""
    lines = [[key, "tables", *OUTCOMES]]
    for value in [*dict.fromkeys(result[key] for result in results), "all tables"]:
        some = [result for result in results if value in (result[key], "all tables")]
        counts = Counter(result["outcome"] for result in some)
        lines.append([value.replace("_", " "), f"{len(some):,}", *(str(counts[name]) for name in OUTCOMES)])
    return markdown_table(lines, "l" + "r" * (len(lines[0]) - 1))


def main(argv=None):
    parser = parser_for(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", type=positive_int, default=500, help="how many tables are damaged and read")
    parser.add_argument("--seed", type=int, default=0, help="of the tables and of the damage")
    parser.add_argument("--out", default="docs/results", help="the folder for fuzz_tables.md and fuzz_tables.json")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = run(args.tables, args.seed, Path(folder))
    faults = [result for result in results if result["outcome"] in FAULTS]
    for fault in faults:
        print(f"table {fault['number']} ({fault['format']}, {', '.join(fault['all'])}): {fault['outcome']}: "
              f"{fault['example']}")
    run_info = provenance("benchmarks/fuzz_tables.py", vars(args), argv)
    counts = {name: sum(result["outcome"] == name for result in results) for name in OUTCOMES}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    by_kind = Counter(f"{result['format']}, {result['damage']}: {result['outcome']}" for result in results)
    write_json(run_info | {"counts": counts, "faults": faults, "counts by kind": by_kind}, out / "fuzz_tables.json")
    text = "\n\n".join([
        "# Damaged tables",
        f"`{run_info['command']}` on commit {str(run_info['commit'])[:7]}, {hardware_line()}.",
        "What was done to the tables, and what counts as right or wrong, is described in benchmarks/fuzz_tables.py. "
        "\"damage\" is the first of one to three kinds of damage to a table.",
        counts_table(results, "damage"), counts_table(results, "format"),
        f"Faults (the last three columns): {len(faults)} of {len(results):,} tables. A wrong pair with a note is one "
        "where a program cannot know better: rows that a stray quote has joined into one text, a label that was cut."])
    write_text(text + "\n", out / "fuzz_tables.md")
    print(f"{len(results):,} tables: " + ", ".join(f"{name}: {count}" for name, count in counts.items()))
    return run_info | {"counts": counts}


if __name__ == "__main__":
    run_script(main)
