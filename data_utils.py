"""Data sets: from the publisher's files to label ids and padded batches.

    dataset = load_dataset("emotion")                          # registered: data/emotion/, else the Hub
    dataset = load_dataset("mine.csv", text="tweet", label="mood")
    for note in dataset.notes: print(note)                     # what was left out, and why
    for batch in batches(ids, dataset.train.labels, 32, pad_id=0, shuffle_seed=0): ...

Every row of a file is either used or counted in a note:

    records (table_utils.read_records) -> texts and label names (read_split) -> Dataset (assemble) -> batches

To register a data set, add a dict to DATASETS.
"""

import difflib
import hashlib
import itertools
import json
import random
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import demo_data
import hub_utils
from table_utils import BROKEN, Problem, choose_columns, no_column, read_records, read_texts

VALIDATION_ROWS = 3000      # taken from train where the publisher has no validation file, but at most
VALIDATION_SHARE = 0.2      # this share of the rows
SPLIT_SEED = 20200316       # never the training seed: a student would be validated on its teacher's training rows
POOL_BATCHES = 50           # training: this many batches are sorted by length together

SPLITS = ["train", "validation", "test"]
KINDS = [".csv", ".tsv", ".jsonl", ".json"]                                    # each also with .gz

EMOTIONS = ("admiration amusement anger annoyance approval caring confusion curiosity desire disappointment "
            "disapproval disgust embarrassment excitement fear gratitude grief joy love nervousness optimism pride "
            "realization relief remorse sadness surprise neutral").split()
EKMAN = {"anger": "anger annoyance disapproval", "disgust": "disgust", "fear": "fear nervousness",
         "joy": "joy amusement approval excitement gratitude love optimism relief pride admiration desire caring",
         "sadness": "sadness disappointment embarrassment grief remorse",
         "surprise": "surprise realization confusion curiosity", "neutral": "neutral"}
MULTI = "a row with several labels counts for the {} that most of them fall in; ties go to the first listed"
GO_EMOTIONS = [{"files": ["train.tsv", "dev.tsv", "test.tsv"], "columns": ["text", "label", "id"]},
               {"repo": "SetFit/go_emotions@eb2aeb71c7715233b57c33b4500f5fb513d76d0d",
                "files": ["train.jsonl", "validation.jsonl", "test.jsonl"]}]

# One dict per data set. "labels": names in the order of their ids; None = sorted names. "sources": the forms in
# which it is published, tried in turn: under data_dir/NAME/, or with "repo" on the Hub at a pinned revision.
# A source has "files" for train, validation, test; the "text" column (else "text"); the "label" columns, of which
# the first that holds a known label counts (else "label_text", then "label"); "columns" if there is no header.
DATASETS = {
    "tweet_sentiment_extraction": {"labels": ["negative", "neutral", "positive"], "sources": [
        {"files": ["train.csv", None, "test.csv"], "label": ["sentiment"]},
        {"repo": "mteb/tweet_sentiment_extraction@62146448f05be9e52a36b8ee9936447ea787eede",
         "files": ["train.jsonl", None, "test.jsonl"]}]},
    "corona_tweets": {
        "labels": ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"],
        "sources": [{"files": ["Corona_NLP_train.csv", None, "Corona_NLP_test.csv"],
                     "text": "OriginalTweet", "label": ["Sentiment"]}]},
    "sst2": {"labels": ["negative", "positive"], "sources": [
        {"files": ["train.tsv", "dev.tsv", "test.tsv"], "text": "sentence"},
        {"repo": "SetFit/sst2@00ea8ccb7a54b4e3780a3e51aa3f80361ff849c0",
         "files": ["train.jsonl", "dev.jsonl", "test.jsonl"],
         "note": ": 6,920 whole sentences for training, not the 67,349 phrases of GLUE"}]},
    "emotion": {"labels": ["sadness", "joy", "love", "anger", "fear", "surprise"], "sources": [
        {"files": ["train.txt", "val.txt", "test.txt"], "columns": ["text", "label"]},
        {"repo": "mteb/emotion@829147f8f75a25f005913200eb5ed41fae320aa1",
         "files": ["train.jsonl", "validation.jsonl", "test.jsonl"]}]},
    "goemotions": {"labels": EMOTIONS, "groups": {e: e for e in EMOTIONS}, "note": MULTI.format("emotion"),
                   "sources": GO_EMOTIONS},
    "goemotions:ekman": {"labels": list(EKMAN), "groups": {e: group for group in EKMAN for e in EKMAN[group].split()},
                         "note": MULTI.format("group"), "sources": GO_EMOTIONS},
    "massive": {"labels": None, "locale": "en-US", "sources": [                  # massive:de-DE for another locale
        {"files": ["{locale}_train.jsonl", "{locale}_dev.jsonl", "{locale}_test.jsonl"],
         "text": "utt", "label": ["intent"]},
        {"files": ["{locale}.jsonl"] * 3, "partitions": ["train", "dev", "test"],
         "text": "utt", "label": ["intent"]},
        {"repo": "mteb/amazon_massive_intent@d189f0ff91cc89665ddc5185f7267979c0314718",
         "files": ["train/{language}.json.gz", "validation/{language}.json.gz", "test/{language}.json.gz"]}]},
    "imdb": {"labels": ["negative", "positive"], "sources": [
        {"files": ["train", None, "test"]}, {"files": ["aclImdb/train", None, "aclImdb/test"]},       # folders
        {"repo": "mteb/imdb@8d743909f834c38949e8323a8a6ce8721ea6c7f4", "files": ["train.jsonl", None, "test.jsonl"]}]},
    "demo": {},                                                                  # generated by demo_data.py
}


@dataclass
class Split:
    texts: list[str]
    labels: list[int]

    def __len__(self):
        return len(self.texts)


@dataclass
class Dataset:
    name: str
    label_names: list[str]
    train: Split
    validation: Split
    test: Split | None              # None: the publisher's test file is absent or has no labels
    notes: list[str]
    validation_origin: str          # "publisher", or how many training rows were held out
    fingerprint: str                # of all texts and labels: two runs with the same one saw the same data


# 1. Records -> texts and label names

def plain_label(value):
    """A label as its name: " joy " -> "joy", 3 -> "3". None if it is empty or not a string or number."""
    return str(value).strip() or None if isinstance(value, (str, int, float)) and value == value else None   # no NaN


def known_label(value, names):
    """The label's name if it is among the names, in any case, or is an id (2, "2"). Otherwise None."""
    key = (plain_label(value) or "").casefold()
    key = {"neg": "negative", "pos": "positive"}.get(key, key)                       # aclImdb's folders
    if key.isdecimal() and int(key) < len(names):
        return names[int(key)]
    return next((name for name in names if name.casefold() == key), None)


def strongest_label(value, groups):
    """The group of a row with several labels: "4,27", [4, 27] or ["approval", "neutral"]."""
    labels = [known_label(v, EMOTIONS) for v in (value if isinstance(value, list) else str(value).split(","))]
    found = [groups.get(label) for label in labels]
    return None if None in found else max(found, key=found.count, default=None)      # max keeps the first of equals


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
            raise ValueError(no_column(path, named, record))
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


# 2. Rows -> Dataset

def load_dataset(name, data_dir="data", text=None, label=None):
    """A data set by its registered name (see DATASETS), or from the user's own file or folder of files.

    text, label: names of the columns of one's own files, where they cannot be guessed.
    """
    base, _, variant = name.partition(":")
    if base not in DATASETS:
        return assemble(name, *own_parts(name, text, label))
    if text or label:
        raise ValueError(f"--text and --label are for your own files: the columns of {name} are known "
                         f"(a file or folder of that name is ./{name})")
    entry = DATASETS.get(name, DATASETS[base])
    if name not in DATASETS and "locale" not in entry:
        raise ValueError(f"{base} has no variant {variant!r}; known: {', '.join(DATASETS)}")
    if name == "demo":
        generated = demo_data.generate(seed=0)
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


def find_source(name, folder, entry, locale, notes):
    """(the first source that is at hand, [path or None for train, validation, test])."""
    language = locale if locale.startswith("zh") else locale.split("-")[0]          # on the Hub: en, but zh-CN
    wanted = []
    for source in entry["sources"]:
        files = [file and file.format(locale=locale, language=language) for file in source["files"]]
        repo = source.get("repo")
        wanted.append(f"{files[0]} in {repo} on the Hub" if repo else str(folder / files[0]))
        try:
            find = hub_utils.repository(repo, repo_type="dataset") if repo else lambda file: existing(folder / file)
            paths = [file and find(file) for file in files]
        except (OSError, ValueError) as error:
            raise type(error)(f"{name}: no {' or '.join(wanted)}: {' '.join(str(error).split())}") from error
        if paths[0]:
            notes += [f"read from the Hub: {repo}{source.get('note', '')}"] if repo else []
            return source, paths
    raise FileNotFoundError(f"{name}: no {' or '.join(wanted)}" + ("" if repo else
                            ": it is not on the Hub, put the publisher's file there"))


def existing(path):
    return path if path.exists() else None


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
        paths = {split: [file for stem in stems[split] for kind in KINDS for end in ("", ".gz")
                         if (file := path / (stem + kind + end)).is_file()] for split in SPLITS}
        if not paths["train"] or any(len(found) > 1 for found in paths.values()):
            raise ValueError(f"{path} must hold one train file and at most one validation and one test file "
                             f"({', '.join(KINDS)} or .gz); it has "
                             f"{', '.join(f.name for found in paths.values() for f in found) or 'none'}")
    elif Path(name.removesuffix(".gz")).suffix.lower() not in KINDS:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(KINDS)} (or .gz), or a folder of these")
    notes = []
    return {split: read_split(found[0], partial(choose_columns, text=text, labels=[label], need_label=split != "test"),
                              plain_label, notes) for split, found in paths.items() if found}, notes


def unlabelled_texts(name, data_dir="data"):
    """(texts, how many rows have none) of a registered data set, of a file, or of one column of it: FILE:COLUMN."""
    if name.partition(":")[0] in DATASETS:
        data = load_dataset(name, data_dir)
        return [text for split in (data.train, data.validation, data.test) if split for text in split.texts], 0
    if Path(name).is_dir() or not name:
        raise ValueError(f"{name!r} is no file of texts")
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
        raise ValueError(f"{name}: train or validation has no row that can be used: {'; '.join(notes) or 'no rows'}")
    if label_names is None:                              # sorted; as numbers if all of them are
        names = set().union(*found.values())
        integers = all(re.fullmatch(r"[+-]?\d+", n) for n in names)
        label_names = sorted(names, key=lambda n: (int(n), n) if integers else n)
    if len(found["train"]) < 2:
        raise ValueError(f"{name}: all training rows have the label {parts['train'][1][0]!r}: a classifier needs two")
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


def text_key(text):
    """Texts with the same key count as the same text."""
    return text.strip().casefold()


def duplicate_notes(splits):
    """What repeats, and contradicts itself: it is all used, but a reader of a score should know."""
    keys, labels_of = {split: [text_key(t) for t in part.texts] for split, part in splits.items()}, {}
    for key, label in zip(keys["train"], splits["train"].labels, strict=True):
        labels_of.setdefault(key, set()).add(label)
    counts = {"row(s) of train with a text that occurs earlier in it": len(keys["train"]) - len(labels_of),
              "text(s) of train with more than one label": sum(len(labels) > 1 for labels in labels_of.values())}
    for early, late in itertools.combinations(SPLITS, 2):
        known = set(keys.get(early, []))
        counts[f"row(s) of {late} with a text that is also in {early}"] = sum(k in known for k in keys.get(late, []))
    return [f"{count:,} {what.replace('(s)', 's' * (count > 1))}: used" for what, count in counts.items() if count]


def shares(counts, n):
    """How many of n rows each class gets: in proportion to counts, by largest remainders."""
    exact = [n * count / max(sum(counts), 1) for count in counts]
    rows = [int(e) for e in exact]
    for c in sorted(range(len(counts)), key=lambda c: rows[c] - exact[c])[:n - sum(rows)]:
        rows[c] += 1
    return rows


def by_class(groups, labels, seed):
    """Row groups by the label of their first row, in random order (random() alone is the same in every Python)."""
    rng, classes = random.Random(seed), {}
    for _, rows in sorted((rng.random(), rows) for rows in groups):
        classes.setdefault(labels[rows[0]], []).append(rows)
    return list(classes.values())


def select(split, rows):
    return Split([split.texts[r] for r in rows], [split.labels[r] for r in rows])


def split_validation(train):
    """(train, validation): VALIDATION_ROWS rows, at most VALIDATION_SHARE of them all, in proportion to classes.

    A text that occurs twice goes to one side with all its copies, or validation would reward memory. At least
    one text of every class stays in train. The same rows give the same split in every run, whatever its seed.
    """
    groups = {}
    for row, text in enumerate(train.texts):
        groups.setdefault(text_key(text), []).append(row)
    classes = by_class(groups.values(), train.labels, SPLIT_SEED)
    wanted = max(1, min(VALIDATION_ROWS, int(VALIDATION_SHARE * len(train))))
    held_out = set()
    for texts, room in zip(classes, shares([sum(map(len, texts)) for texts in classes], wanted), strict=True):
        for rows in texts[:-1]:
            if len(rows) <= room:
                held_out.update(rows)
                room -= len(rows)
    if not held_out:
        raise ValueError(f"{len(train)} training rows are too few to hold some out: add rows or a validation file")
    return select(train, [r for r in range(len(train)) if r not in held_out]), select(train, sorted(held_out))


def take(split, n, seed):
    """n rows of a split, in proportion to its classes, but at least one row of each where n allows it."""
    if n >= len(split):
        return split
    classes = sorted(by_class([[row] for row in range(len(split))], split.labels, seed), key=len, reverse=True)
    chosen = [rows.pop() for rows in classes[:n]]        # one of each class, then the rest in proportion
    for rows, count in zip(classes, shares([len(rows) for rows in classes], n - len(chosen)), strict=True):
        chosen += rows[:count]
    return select(split, sorted(row for [row] in chosen))


def align_labels(dataset, label_names):
    """The data set with the label ids of a model: matched by name, in any case; the model's order wins.

    A model whose labels are only called LABEL_0, LABEL_1, ... is matched by their number.
    """
    ids = {name.casefold(): i for i, name in enumerate(label_names)}
    missing = [name for name in dataset.label_names if name.casefold() not in ids]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in label_names):
        if len(label_names) == len(dataset.label_names):
            return dataset
    if missing:
        raise ValueError(f"{dataset.name} has labels that the model has not: {', '.join(missing[:9])}. The model's "
                         f"{len(label_names)}: {', '.join(label_names[:9])}. Rename the labels in the data, or "
                         "fine-tune the model on this data first (train.py)")

    def remap(split):
        return split and Split(split.texts, [ids[dataset.label_names[label].casefold()] for label in split.labels])

    return replace(dataset, label_names=list(label_names), train=remap(dataset.train),
                   validation=remap(dataset.validation), test=remap(dataset.test))


# 3. Token ids -> batches

@dataclass
class Batch:
    input_ids: torch.Tensor                     # (B, T) int64, padded to the longest row of this batch
    attention_mask: torch.Tensor | None         # (B, T) int64, 1 = token, 0 = padding; None if nothing is padded
    labels: torch.Tensor | None                 # (B,) int64
    index: list[int]                            # which row of the split each line is

    def to(self, device):
        return Batch(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in vars(self).values()))


def make_batch(ids, labels, rows, pad_id):
    """Pad the rows to their longest: one numpy assignment fills the batch, no tensor is made per row."""
    lengths = np.array([len(ids[r]) for r in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]                               # (B, T)
    padded = np.full(mask.shape, pad_id, dtype=np.int64)
    padded[mask] = np.fromiter(itertools.chain.from_iterable(ids[r] for r in rows), np.int64, lengths.sum())
    return Batch(torch.from_numpy(padded), None if mask.all() else torch.from_numpy(mask.astype(np.int64)),
                 None if labels is None else torch.tensor([labels[r] for r in rows]), rows)


def batches(ids, labels, batch_size, pad_id, shuffle_seed=None):
    """Yields a Batch for every batch_size rows; every row occurs exactly once.

    ids: a list of token ids per row. labels: a list of ints, or None.
    Texts of one length belong together, because padding costs as much time as text. For scoring
    (shuffle_seed=None) all rows are sorted, longest first: if a batch is too big for memory, it is the first.
    Batch.index undoes the order. For training, pools of POOL_BATCHES random batches are sorted and cut, and the
    batches shuffled: nearly as little padding, and no two epochs (with another seed each) have the same batches.
    """
    if batch_size < 1 or labels is not None and len(labels) != len(ids):
        raise ValueError(f"batch size {batch_size}, {len(ids)} texts, {len(labels or ids)} labels: "
                         "expected at least 1, and a label for every text")
    rng = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
    lengths = np.array([len(row) for row in ids])
    order = np.arange(len(ids)) if rng is None else rng.permutation(len(ids))
    pool_size = max(len(ids), 1) if rng is None else POOL_BATCHES * batch_size
    cuts = []
    for start in range(0, len(ids), pool_size):
        pool = order[start:start + pool_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")].tolist()
        cuts += [pool[i:i + batch_size] for i in range(0, len(pool), batch_size)]
    for i in range(len(cuts)) if rng is None else rng.permutation(len(cuts)):
        yield make_batch(ids, labels, cuts[i], pad_id)
