"""A dataset and its splits: the validation split, stratified subsets, texts that occur twice."""

import itertools
import random
from dataclasses import dataclass

from pocketbert.errors import UserError

VALIDATION_ROWS = 3000      # taken from train if the publisher has no validation file, but at most
VALIDATION_SHARE = 0.2      # this share of the rows
SPLIT_SEED = 20200316       # not the training seed: a student would be validated on its teacher's training rows
SPLITS = ["train", "validation", "test"]


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


def text_key(text):
    """Texts with the same key count as the same text."""
    return text.strip().casefold()


def duplicate_notes(splits):
    """Texts that repeat or contradict themselves. They are all used, but a reader of a score should know."""
    keys = {split: [text_key(text) for text in part.texts] for split, part in splits.items()}
    labels_of = {}
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
    """Groups of rows by the label of their first row, in random order: [[group, ...] of each class].

    Only random() is used, because it alone gives the same numbers in every version of Python.
    """
    rng = random.Random(seed)
    classes = {}
    for _, rows in sorted((rng.random(), rows) for rows in groups):
        classes.setdefault(labels[rows[0]], []).append(rows)
    return list(classes.values())


def select(split, rows):
    return Split([split.texts[r] for r in rows], [split.labels[r] for r in rows])


def split_validation(train):
    """(train, validation): VALIDATION_ROWS rows, at most VALIDATION_SHARE of all rows, in proportion to the classes.

    All copies of a text go to the same side, otherwise validation would reward memory. At least one text of every
    class stays in train. The same rows give the same split in every run, whatever its seed.
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
        raise UserError(f"{len(train)} training rows are too few to hold some out: add rows or a validation file")
    return select(train, [r for r in range(len(train)) if r not in held_out]), select(train, sorted(held_out))


def take(split, n, seed):
    """n rows of a split in proportion to its classes, but at least one row of each class if n allows it."""
    if n >= len(split):
        return split
    classes = sorted(by_class([[row] for row in range(len(split))], split.labels, seed), key=len, reverse=True)
    chosen = [rows.pop() for rows in classes[:n]]        # one of each class, then the rest in proportion
    for rows, count in zip(classes, shares([len(rows) for rows in classes], n - len(chosen)), strict=True):
        chosen += rows[:count]
    return select(split, sorted(row for [row] in chosen))
