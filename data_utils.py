"""The door to the data: from a name or a file to texts and label ids, from token ids to batches.

    data = load_dataset("emotion")                              # registered: from data/emotion/ or from the Hub
    data = load_dataset("mine.csv", text="tweet", label="mood")
    for note in data.notes:
        print(note)                                             # what was left out, and why
    data = align_labels(data, model.config.label_names)         # the label ids of a model
    for batch in batches(ids, data.train.labels, 32, pad_id=0, shuffle_seed=0):
        logits = model(batch.input_ids, batch.attention_mask)

Every row of a file is either used or counted in a note. Where to look next, in pocketbert/data/:

    datasets.py   the registered datasets          tables.py     CSV, TSV, JSONL: rows and damaged rows
    labels.py     how labels are matched           rows.py       which rows of a file are used
    splits.py     Dataset, the validation split    batching.py   padded batches of texts of like length
"""

import difflib
from functools import partial
from pathlib import Path

from pocketbert.data.batching import Batch, batches, grouped
from pocketbert.data.build import build_dataset, build_test
from pocketbert.data.datasets import DATASETS, find_source
from pocketbert.data.demo import generate, unlabelled
from pocketbert.data.labels import align_labels, known_label, plain_label, strongest_label
from pocketbert.data.rows import read_own, read_registered
from pocketbert.data.splits import SPLITS, Dataset, take
from pocketbert.data.tables import read_texts
from pocketbert.errors import UserError

__all__ = ["Batch", "Dataset", "align_labels", "batches", "grouped", "load_dataset", "load_test_file",
           "open_data", "take", "unlabelled_texts"]


def load_dataset(name, data_dir="data", text=None, label=None):
    """A Dataset by its registered name (see DATASETS), or from the user's own file or folder of files.

    text, label: names of the columns of one's own files, if they cannot be guessed.
    """
    if name.partition(":")[0] in DATASETS:
        if text or label:
            raise UserError(f"--text and --label are for your own files: the columns of {name} are known "
                            f"(a file or folder of that name is ./{name})")
        return load_registered(name, data_dir)
    if not Path(name).exists():
        near = difflib.get_close_matches(name, DATASETS, n=1)
        guess = f", did you mean {near[0]!r}?" if near else "."
        raise FileNotFoundError(f"{name!r} is no file or folder here, and no dataset{guess} "
                                f"Known: {', '.join(DATASETS)}")
    notes = []
    parts = read_own(name, text, label, plain_label, notes)
    return build_dataset(name, parts, notes)


def load_registered(name, data_dir):
    """A dataset of DATASETS, from its files below data_dir/NAME/ or from the Hub. name: "massive", "massive:de-DE"."""
    base, _, variant = name.partition(":")
    entry = DATASETS.get(name, DATASETS[base])
    if name not in DATASETS and "locale" not in entry:
        raise UserError(f"{base} has no variant {variant!r}; known: {', '.join(DATASETS)}")
    if name == "demo:unlabelled":
        raise UserError(f"{name} has no labels: it is for --unlabelled; the labelled texts are demo")
    if name == "demo":
        generated = generate(seed=0)
        parts = {split: tuple(zip(*generated[split], strict=True)) for split in SPLITS}
        return build_dataset(name, parts, [])
    notes = [entry["note"]] if "note" in entry else []
    source, paths = find_source(name, Path(data_dir) / base, entry, variant or entry.get("locale", ""), notes)
    if "groups" in entry:
        to_name = partial(strongest_label, groups=entry["groups"])
    elif entry["labels"]:
        to_name = partial(known_label, names=entry["labels"])
    else:
        to_name = plain_label
    return build_dataset(name, read_registered(paths, source, to_name, notes), notes, entry["labels"])


def open_data(name, data_dir="data", text=None, label=None, max_train=None, seed=0):
    """load_dataset, and print what a user should know. max_train: a stratified subset of so many training rows."""
    data = load_dataset(name, data_dir, text=text, label=label)
    print(f"data: {data.name}, {len(data.train):,} training and {len(data.validation):,} validation texts "
          f"(validation: {data.validation_origin}), {len(data.label_names)} labels")
    for note in data.notes:
        print(f"  {note}")
    if max_train and max_train < len(data.train):
        data.train = take(data.train, max_train, seed=seed)
        print(f"  --max-train: a stratified subset of {len(data.train):,} training texts")
    return data


def unlabelled_texts(name, data_dir="data"):
    """(texts, number of rows without one) of a registered dataset, of a file, or of a column of it: FILE:COLUMN."""
    if name == "demo:unlabelled":
        return unlabelled(), 0
    if name.partition(":")[0] in DATASETS:
        data = load_dataset(name, data_dir)
        splits = [split for split in (data.train, data.validation, data.test) if split is not None]
        return [text for split in splits for text in split.texts], 0
    if Path(name).is_dir() or not name:
        raise UserError(f"{name!r} is no file of texts")
    path, _, column = name.rpartition(":")
    if not path or Path(name).exists():
        path = name
        column = None
    rows = list(read_texts(path, column, how=f"{path}:COLUMN"))
    texts = [text for _, text, problem in rows if problem is None and text.strip()]
    return texts, len(rows) - len(texts)


def load_test_file(name, label_names, text=None, label=None):
    """(Split, notes): all rows of the user's own labelled file, with the label ids of a model. For `--test FILE`.

    label_names: the model's. Rows whose label means "no label" are left out; a label that the model lacks is an error.
    """
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{name!r} is no file here")
    notes = []
    parts = read_own(name, text, label, plain_label, notes)
    return build_test(name, *parts["train"], label_names, notes), notes
