"""From a value in a file to the name of a label, and from the names of a dataset to the ids of a model."""

import re
from dataclasses import replace

from pocketbert.data.datasets import EMOTIONS
from pocketbert.data.splits import Split
from pocketbert.errors import UserError


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
        raise UserError(f"{dataset.name} has labels that the model has not: {', '.join(missing[:9])}. The model's "
                         f"{len(label_names)}: {', '.join(label_names[:9])}. Rename the labels in the data, or "
                         "fine-tune the model on this data first (train.py)")

    def remap(split):
        return split and Split(split.texts, [ids[dataset.label_names[label].casefold()] for label in split.labels])

    return replace(dataset, label_names=list(label_names), train=remap(dataset.train),
                   validation=remap(dataset.validation), test=remap(dataset.test))
