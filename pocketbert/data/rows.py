"""The labelled rows of one file: which are used, which are left out, and why."""

from dataclasses import dataclass
from pathlib import Path

from pocketbert.data.columns import choose_columns, no_column
from pocketbert.data.labels import is_given
from pocketbert.data.lines import BROKEN
from pocketbert.data.problems import Problem, Tally
from pocketbert.data.splits import SPLITS
from pocketbert.data.tables import read_records
from pocketbert.errors import UserError

FILE_KINDS = [".csv", ".tsv", ".jsonl", ".json"]  # each also with .gz
STEMS = {"train": ["train"], "validation": ["validation", "dev", "val"], "test": ["test"]}
UNKNOWN = "with an unknown label"
REPAIRED = "with bytes that are not valid text, replaced by U+FFFD"


@dataclass
class Wanted:
    """What to read from a file.

    text, labels   names of columns, where None means: guess. The first label column that holds a label counts
    to_name        turns a value of a label column into the name of a label, or None
    need_label     False for a test file, which may have no labels
    columns        names of the columns, if the file has no header
    partition      for one file with all splits: the value of its field "partition" that is this split
    partitions     all the values that the field may have; () if each split has a file of its own
    """

    text: str | None
    labels: list
    to_name: object
    need_label: bool = True
    columns: list | None = None
    partition: str | None = None
    partitions: tuple = ()

    def choose(self, columns):
        return choose_columns(columns, self.text, self.labels, self.need_label)


def read_split(path, wanted, notes):
    """(texts, label names) of a file; what was left out or repaired is added to notes."""
    texts = []
    labels = []
    tally = Tally()
    picked = None
    for where, record in read_records(path, wanted.choose, wanted.columns, notes):
        if not isinstance(record, dict):
            tally.add(where, record if isinstance(record, Problem) else "without a JSON object")
            continue
        if wanted.partitions and record.get("partition") != wanted.partition:
            if record.get("partition") not in wanted.partitions:  # the others are read with their own split
                tally.add(where, "with an unknown partition")
            continue
        picked = picked or wanted.choose(list(record))
        if picked is None:
            named = {"--text COLUMN": wanted.text, "--label COLUMN": wanted.labels[0]}
            raise UserError(no_column(path, named, list(record)))
        text = record.get(picked[0])
        values = [record.get(column) for column in picked[1]]
        label = next(filter(None, map(wanted.to_name, values)), None)
        problem = problem_of_row(text, label, values)
        if problem == UNKNOWN:
            where = f"{where}, {str(next(filter(is_given, values)))[:40]!r}"
        if problem:
            tally.add(where, problem)
            continue
        if any(isinstance(v, str) and not v.isascii() and BROKEN.search(v) for v in record.values()):
            tally.add(where, REPAIRED, "used")
        texts.append(BROKEN.sub("\ufffd", text))
        labels.append(BROKEN.sub("\ufffd", label))
    notes += tally.notes(path.name)
    return texts, labels


def problem_of_row(text, label, values):
    """Why a row cannot be used, or None."""
    if text is None or isinstance(text, str) and not text.strip():
        return "with an empty text"
    if not isinstance(text, str):
        return "whose text is not a string"
    if label is None:
        return UNKNOWN if any(map(is_given, values)) else "with no label"
    return None


def own_files(name):
    """{split: Path} of a file, which is all training rows, or of a folder of train, validation and test files."""
    path = Path(name)
    if path.is_dir():
        found = {split: files_called(path, STEMS[split]) for split in SPLITS}
        if not found["train"] or any(len(files) > 1 for files in found.values()):
            files = [file.name for files in found.values() for file in files]
            raise UserError(f"{path} must hold one train file and at most one validation and one test file "
                            f"({', '.join(FILE_KINDS)} or .gz); it has {', '.join(files) or 'none'}")
        return {split: files[0] for split, files in found.items() if files}
    if Path(name.removesuffix(".gz")).suffix.lower() not in FILE_KINDS:
        raise UserError(f"{path}: expected a file that ends in {', '.join(FILE_KINDS)} (or .gz), or a folder of these")
    return {"train": path}


def files_called(folder, stems):
    """The files of a folder with one of these names and a known ending."""
    names = [stem + kind + end for stem in stems for kind in FILE_KINDS for end in ("", ".gz")]
    return [folder / name for name in names if (folder / name).is_file()]


def read_own(name, text, label, to_name, notes):
    """{split: (texts, label names)} of the user's own file or folder of files."""
    parts = {}
    for split, path in own_files(name).items():
        parts[split] = read_split(path, Wanted(text, [label], to_name, need_label=split != "test"), notes)
    return parts


def read_registered(paths, source, to_name, notes):
    """{split: (texts, label names)} of a registered dataset. paths: one for each split, or None; source: its entry."""
    parts = {}
    partitions = source.get("partitions", [None] * len(SPLITS))
    for split, path, partition in zip(SPLITS, paths, partitions, strict=True):
        if path is not None:
            wanted = Wanted(source.get("text", "text"), source.get("label", ["label_text", "label"]), to_name,
                            need_label=split != "test", columns=source.get("columns"), partition=partition,
                            partitions=tuple(source.get("partitions", ())))
            parts[split] = read_split(path, wanted, notes)
    return parts
