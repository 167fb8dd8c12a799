"""From the rows of the files to a Dataset: classes, label ids, a validation split, and what a user should know."""

import hashlib
import json
from collections import Counter

from pocketbert.data.labels import (
    check_no_scores,
    drop_marks,
    is_possible_mark,
    label_key,
    match_labels,
    settle_classes,
    sorted_names,
)
from pocketbert.data.splits import Dataset, Split, duplicate_notes, split_validation
from pocketbert.errors import UserError

RARE = 5  # a class with fewer training rows is mentioned: it may be a spelling mistake or a damaged row


def build_dataset(name, parts, notes, label_names=None):
    """The Dataset of {split: (texts, labels)}.

    label_names: the classes in the order of their ids; the labels are then among them. None: the classes are what
    the labels say (see labels.settle_classes), sorted, as numbers if all of them are numbers.
    An error also tells the notes: that rows were left out is often the reason for it.
    """
    notes = list(notes)
    try:
        if label_names is None:
            parts = settle(parts, notes)
            label_names = sorted_names(set().union(*(labels for _, labels in parts.values())))
        return assemble(name, parts, notes, label_names)
    except UserError as error:
        raise UserError(f"{name}: {error}{' (' + '; '.join(notes) + ')' if notes else ''}") from error


def settle(parts, notes):
    """The same parts with classes for labels, and without the rows whose label means "no label"."""
    classes = settle_classes({split: labels for split, (_, labels) in parts.items()}, notes)
    check_no_scores(classes["train"])
    settled = {}
    for split, (texts, _) in parts.items():
        rows = [(text, label) for text, label in zip(texts, classes[split], strict=True) if label is not None]
        settled[split] = [text for text, _ in rows], [label for _, label in rows]
    return settled


def assemble(name, parts, notes, label_names):
    if "test" in parts and not parts["test"][0]:
        parts = {split: part for split, part in parts.items() if split != "test"}
        notes.append("the test file has no labelled row: not used")
    found = {split: set(labels) for split, (_, labels) in parts.items()}
    for split, labels in found.items():
        if not labels:
            raise UserError(f"{split} has no row that can be used")
    if len(found["train"]) < 2:
        raise UserError(f"all training rows have the label {parts['train'][1][0]!r}: a classifier needs two")
    notes += class_notes(parts, label_names)

    ids = {label: i for i, label in enumerate(label_names)}
    splits = {split: Split(list(texts), [ids[label] for label in labels]) for split, (texts, labels) in parts.items()}
    notes += duplicate_notes(splits)
    origin = "publisher"
    if "validation" not in splits:
        splits["train"], splits["validation"] = split_validation(splits["train"])
        origin = f"{len(splits['validation']):,} of the training rows, stratified"
    return Dataset(name, list(label_names), splits["train"], splits["validation"], splits.get("test"), notes, origin,
                   fingerprint(parts))


def build_test(name, texts, labels, label_names, notes):
    """The Split of a labelled file, with the label ids of a model; what was left out is added to notes.

    A mark such as -1 or "none" is no label here if the model has no such class.
    """
    classes = settle_classes({"train": labels}, notes)["train"]
    known = {label_key(label) for label in label_names}
    marks = {label for label in classes if is_possible_mark(label) and label_key(label) not in known}
    classes = drop_marks(classes, marks, name, "the model", notes)
    rows = [(text, label) for text, label in zip(texts, classes, strict=True) if label is not None]
    if not rows:
        raise UserError(f"{name} has no labelled row: {'; '.join(notes) or 'no rows'}")
    names = sorted_names({label for _, label in rows})
    ids = dict(zip(names, match_labels(names, label_names, name), strict=True))
    return Split([text for text, _ in rows], [ids[label] for _, label in rows])


def class_notes(parts, label_names):
    """Which classes are rare in train, and which ones it lacks."""
    counts = Counter(parts["train"][1])
    notes = []
    rare = [f"{label} ({counts[label]})" for label in label_names if 0 < counts[label] < RARE]
    if rare:
        more = f" and {len(rare) - 9} more" if len(rare) > 9 else ""
        notes.append(f"classes with fewer than {RARE} training rows: {', '.join(rare[:9])}{more}")
    for split, (_, labels) in parts.items():
        unseen = set(labels) - set(counts)
        if unseen:
            in_order = [label for label in label_names if label in unseen]
            notes.append(f"{split} has labels that train has not: {', '.join(in_order)}")
    return notes


def fingerprint(parts):
    """12 hexadecimal digits of a hash of all texts and label names."""
    rows = [[split, list(texts), list(labels)] for split, (texts, labels) in parts.items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
