"""The door to the data: from a name or a file to texts and label ids, from token ids to batches.

    data = load_dataset("emotion")                               # registered: data/emotion/, else the Hub
    data = load_dataset("mine.csv", text="tweet", label="mood")
    for note in data.notes: print(note)                          # what was left out, and why
    data = align_labels(data, model.config.label_names)          # the label ids of a model
    for batch in batches(ids, data.train.labels, 32, pad_id=0, shuffle_seed=0): ...

Every row of a file is either used or counted in a note. The registered datasets are in pocketbert/data/datasets.py.
"""

import difflib
import hashlib
import json
import re
from functools import partial
from pathlib import Path

from pocketbert.data.batching import Batch, batches, grouped
from pocketbert.data.datasets import DATASETS, find_source
from pocketbert.data.demo import generate
from pocketbert.data.labels import align_labels, known_label, plain_label, strongest_label
from pocketbert.data.splits import SPLITS, Dataset, Split, duplicate_notes, split_validation, take
from pocketbert.data.tables import BROKEN, Problem, choose_columns, no_column, read_records, read_texts
from pocketbert.errors import UserError

__all__ = ["Batch", "Dataset", "align_labels", "batches", "grouped", "load_dataset", "open_data", "take",
           "unlabelled_texts"]

FILE_KINDS = [".csv", ".tsv", ".jsonl", ".json"]                               # each also with .gz


def read_split(path, choose, to_name, notes, columns=None, partitions=(), partition=None):
    """(texts, label names) of a file; what was left out or repaired is added to notes.

    choose(columns) -> (text column, label columns to try in turn); to_name(value) -> label name or None.
    partitions: for one file with all splits, the values of its field "partition"; partition: the one to read.
    """
    texts, labels, tally, picked = [], [], {}, None

    def count(what, where):
        number, first = tally.get(what, (0, where))
        tally[what] = number + 1, first

    for where, record in read_records(path, choose, columns, notes):
        if not isinstance(record, dict):
            count(f"{record if isinstance(record, Problem) else 'without a JSON object'}|left out", where)
            continue
        if partitions and record.get("partition") != partition:
            if record.get("partition") not in partitions:             # the other ones are read with their own split
                count("with an unknown partition|left out", where)
            continue
        picked = picked or choose(list(record))
        if picked is None:
            wanted = choose.keywords
            named = {"--text COLUMN": wanted.get("text"), "--label COLUMN": (wanted.get("labels") or [None])[0]}
            raise UserError(no_column(path, named, record))
        text, values = record.get(picked[0]), [record.get(column) for column in picked[1]]
        label = next(filter(None, map(to_name, values)), None)
        given = [value for value in values if value is not None and str(value).strip()]
        if text is None or isinstance(text, str) and not text.strip():
            count("with an empty text|left out", where)
        elif not isinstance(text, str):
            count("whose text is not a string|left out", where)
        elif label is None and given:
            count("with an unknown label|left out", f"{where}, {str(given[0])[:40]!r}")
        elif label is None:
            count("with no label|left out", where)
        else:
            if any(isinstance(v, str) and not v.isascii() and BROKEN.search(v) for v in record.values()):
                count("with bytes that are not valid text, replaced by U+FFFD|used", where)
            texts.append(BROKEN.sub("\ufffd", text))
            labels.append(BROKEN.sub("\ufffd", label))
    for what, (number, first) in tally.items():
        what, fate = what.split("|")
        notes.append(f"{number:,} row{'s' * (number > 1)} of {path.name} {what} (first: {first}): {fate}")
    return texts, labels


def load_dataset(name, data_dir="data", text=None, label=None):
    """A data set by its registered name (see DATASETS), or from the user's own file or folder of files.

    text, label: names of the columns of one's own files, where they cannot be guessed.
    """
    base, _, variant = name.partition(":")
    if base not in DATASETS:
        return assemble(name, *own_parts(name, text, label))
    if text or label:
        raise UserError(f"--text and --label are for your own files: the columns of {name} are known "
                         f"(a file or folder of that name is ./{name})")
    entry = DATASETS.get(name, DATASETS[base])
    if name not in DATASETS and "locale" not in entry:
        raise UserError(f"{base} has no variant {variant!r}; known: {', '.join(DATASETS)}")
    if name == "demo":
        generated = generate(seed=0)
        return assemble(name, {split: tuple(zip(*generated[split], strict=True)) for split in SPLITS}, [])

    notes = [entry["note"]] if "note" in entry else []
    source, paths = find_source(name, Path(data_dir) / base, entry, variant or entry.get("locale", ""), notes)
    known = entry["labels"]
    to_name = (partial(strongest_label, groups=entry["groups"]) if "groups" in entry
               else partial(known_label, names=known) if known else plain_label)
    parts = {}
    for i, (split, path) in enumerate(zip(SPLITS, paths, strict=True)):
        if path is not None:
            choose = partial(choose_columns, text=source.get("text", "text"), need_label=split != "test",
                             labels=source.get("label", ["label_text", "label"]))
            partitions = source.get("partitions", ())
            parts[split] = read_split(path, choose, to_name, notes, source.get("columns"), partitions,
                                      partitions[i] if partitions else None)
    return assemble(name, parts, notes, known)


def own_parts(name, text, label):
    """({split: (texts, label names)}, notes) of a file, or a folder of train, validation (dev, val), test files."""
    path = Path(name)
    if not path.exists():
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise FileNotFoundError(f"{name!r} is no file or folder here, and no data set"
                                + (f", did you mean {near[0]!r}?" if near else ".") + f" Known: {', '.join(DATASETS)}")
    paths = {"train": [path]}
    if path.is_dir():
        stems = {"train": ["train"], "validation": ["validation", "dev", "val"], "test": ["test"]}
        paths = {split: [file for stem in stems[split] for kind in FILE_KINDS for end in ("", ".gz")
                         if (file := path / (stem + kind + end)).is_file()] for split in SPLITS}
        if not paths["train"] or any(len(found) > 1 for found in paths.values()):
            raise UserError(f"{path} must hold one train file and at most one validation and one test file "
                             f"({', '.join(FILE_KINDS)} or .gz); it has "
                             f"{', '.join(f.name for found in paths.values() for f in found) or 'none'}")
    elif Path(name.removesuffix(".gz")).suffix.lower() not in FILE_KINDS:
        raise UserError(f"{path}: expected a file that ends in {', '.join(FILE_KINDS)} (or .gz), or a folder of these")
    notes = []
    return {split: read_split(found[0], partial(choose_columns, text=text, labels=[label], need_label=split != "test"),
                              plain_label, notes) for split, found in paths.items() if found}, notes


def unlabelled_texts(name, data_dir="data"):
    """(texts, how many rows have none) of a registered data set, of a file, or of one column of it: FILE:COLUMN."""
    if name.partition(":")[0] in DATASETS:
        data = load_dataset(name, data_dir)
        return [text for split in (data.train, data.validation, data.test) if split for text in split.texts], 0
    if Path(name).is_dir() or not name:
        raise UserError(f"{name!r} is no file of texts")
    path, _, column = name.rpartition(":")
    if not path or Path(name).exists():
        path, column = name, None
    rows = list(read_texts(path, column, how=f"{path}:COLUMN"))
    texts = [text for _, text, problem in rows if problem is None and text.strip()]
    return texts, len(rows) - len(texts)


def assemble(name, parts, notes, label_names=None):
    """Dataset from {split: (texts, label names)}: label ids, the validation split, what repeats."""
    if "test" in parts and not parts["test"][0]:
        del parts["test"]
        notes.append("the test file has no labelled row: not used")
    found = {split: set(labels) for split, (_, labels) in parts.items()}
    if not all(found.values()):
        raise UserError(f"{name}: train or validation has no row that can be used: {'; '.join(notes) or 'no rows'}")
    if label_names is None:                              # sorted; as numbers if all of them are
        names = set().union(*found.values())
        integers = all(re.fullmatch(r"[+-]?\d+", n) for n in names)
        label_names = sorted(names, key=lambda n: (int(n), n) if integers else n)
    if len(found["train"]) < 2:
        raise UserError(f"{name}: all training rows have the label {parts['train'][1][0]!r}: a classifier needs two")
    for split, names in found.items():
        if unseen := [n for n in label_names if n in names - found["train"]]:
            notes.append(f"{split} has labels that train has not: {', '.join(unseen)}")

    ids = {label_name: i for i, label_name in enumerate(label_names)}
    splits = {split: Split(list(texts), [ids[n] for n in labels]) for split, (texts, labels) in parts.items()}
    digest = hashlib.sha256(json.dumps([[split, *map(list, part)] for split, part in parts.items()]).encode())
    notes, origin = notes + duplicate_notes(splits), "publisher"
    if "validation" not in splits:
        splits["train"], splits["validation"] = split_validation(splits["train"])
        origin = f"{len(splits['validation']):,} of the training rows, stratified"
    return Dataset(name, list(label_names), splits["train"], splits["validation"], splits.get("test"), notes, origin,
                   digest.hexdigest()[:12])


def open_data(name, data_dir="data", text=None, label=None, max_train=None, seed=0):
    """load_dataset, with what a user should know printed; max_train: a stratified subset of so many training rows."""
    data = load_dataset(name, data_dir, text=text, label=label)
    print(f"data: {data.name}, {len(data.train):,} training and {len(data.validation):,} validation texts "
          f"(validation: {data.validation_origin}), {len(data.label_names)} labels")
    for note in data.notes:
        print(f"  {note}")
    if max_train and max_train < len(data.train):
        data.train = take(data.train, max_train, seed=seed)
        print(f"  --max-train: a stratified subset of {len(data.train):,} training texts")
    return data
