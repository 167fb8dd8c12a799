"""One gate for labels: from a value in a file to a class, and from a class of the data to an output of a model.

Every label goes through these steps, whichever file it comes from (train, validation, test, a test file of one's own):

    1. read      " joy " -> "joy", 3 -> "3", true -> "true"; empty, NaN and ? are no label         plain_label
    2. settle    spellings of one class are merged over all files: 1 = 1.0 = "01", Joy = joy       settle_classes
                 -1 and other marks that only validation or test has are no label
                 continuous scores are refused
    3. match     classes of the data to the outputs of a model                                     match_labels
                 the same name first, then the same name in another case, numbers by their value
                 an error where the order would be a guess

A label that is matched wrongly gives wrong numbers without any other sign, so whatever is merged is said in a note, and
whatever is not certain is an error.
"""

import math
import re
import unicodedata
from collections import Counter
from dataclasses import replace

from pocketbert.data.datasets import EMOTIONS
from pocketbert.data.splits import Split
from pocketbert.errors import UserError

MARKS = {"", "nan", "?", "??", "<na>", "#n/a", "#na"}   # always "no label"
# No label if train does not have it as a class; "none" or "unknown" may well be a class.
POSSIBLE_MARKS = {"-", "--", "n/a", "na", "none", "null", "nil", "missing", "unlabeled", "unlabelled", "unlabel",
                  "no label", "hidden", "tbd"}
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
GENERIC = re.compile(r"label[ _-]?(\d+)", re.ASCII | re.IGNORECASE)  # LABEL_3, as transformers names nameless classes
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad\x00"
MOST_SCORES = 20  # more different fractions than this are scores, not classes


# ---- 1. read ---------------------------------------------------------------------------------------------

def plain_label(value):
    """A value of a label column as a string: " joy " -> "joy", 3.0 -> "3". None: no label, or several in a list."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, (str, int)):
        return None
    name = str(value).strip().strip(INVISIBLE).strip()
    return None if name.casefold() in MARKS else name


def is_given(value):
    """Does a label column hold something in this row? A mark for "no label" counts as nothing."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return False
    return not (isinstance(value, str) and plain_label(value) is None)


def number_of(name):
    """The number that a label is, or None: "1", "1.0", " +1", "01", "1,0" and "1e0" are 1; "0,5" is 0.5."""
    text = unicodedata.normalize("NFKC", name).strip().replace("\u2212", "-").casefold()
    if THOUSANDS.fullmatch(text):
        return int(text.replace(",", ""))
    if not NUMBER.fullmatch(text):
        return None
    if text.lstrip("+-").isdigit():
        return int(text)
    value = float(text.replace(",", "."))
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def label_key(name):
    """Two labels are one class if they have the same key: numbers by value, names without case, blanks, last dot."""
    number = number_of(name)
    if number is not None:
        return number
    text = unicodedata.normalize("NFKC", name).strip(INVISIBLE).casefold()
    text = unicodedata.normalize("NFKC", " ".join(text.split()))
    return text.rstrip(" .") or text


def known_label(value, names):
    """The one of the names that a value means: the name itself, the name in another case, or its number."""
    label = plain_label(value)
    if label is None:
        return None
    if label in names:
        return label
    key = label_key(label)
    key = {"neg": "negative", "pos": "positive"}.get(key, key)  # aclImdb's folders
    if isinstance(key, int):
        return names[key] if 0 <= key < len(names) else None
    return next((name for name in names if label_key(name) == key), None)


def strongest_label(value, groups):
    """The group of a row with several labels, "4,27", [4, 27] or ["approval", "neutral"]: the one of most of them.

    Ties go to the group that is listed first. None if a label is unknown.
    """
    values = value if isinstance(value, list) else str(value).split(",")
    found = [groups.get(known_label(v, EMOTIONS)) for v in values]
    return None if None in found else max(found, key=found.count, default=None)  # max takes the first of equals


# ---- 2. settle -------------------------------------------------------------------------------------------

def settle_classes(labels, notes):
    """{split: [label]} -> {split: [class or None]}: one class for all spellings of a label, None for "no label".

    labels: as plain_label gives them. What was merged or taken as "no label" is added to notes.
    """
    spellings = Counter()
    for split in labels:
        spellings.update(labels[split])
    groups = {}
    for spelling in spellings:
        groups.setdefault(label_key(spelling), {})[spelling] = spellings[spelling]
    class_of = {}
    merged = []
    for group in groups.values():
        name = common_spelling(group)
        class_of.update(dict.fromkeys(group, name))
        if len(group) > 1:
            merged.append(f"{', '.join(map(repr, group))} as {name!r}")
    if merged:
        notes.append(f"labels that differ only in case, blanks or the writing of a number count as one: "
                     f"{'; '.join(merged[:5])}{' ...' if len(merged) > 5 else ''}")
    classes = {split: [class_of[label] for label in labels[split]] for split in labels}
    for split in ("validation", "test"):
        if split in classes:
            marks = marks_of_split(classes[split], set(classes["train"]))
            classes[split] = drop_marks(classes[split], marks, split, "train", notes)
    return classes


def common_spelling(group):
    """The name of a class. group: {spelling: how often}. A number is written without sign, zeros in front and ".0"."""
    number = number_of(next(iter(group)))
    spelling = max(group, key=group.get)  # max takes the first of equals
    if number is None or len(group) == 1 and re.fullmatch(r"\d+", spelling, re.ASCII):  # "01" may be a code
        return spelling
    return str(number)


def marks_of_split(classes, known):
    """The classes of a validation or test split that only mean "no label". known: the classes of train.

    A class that train lacks is such a mark if it is a negative number, if it is called "none" or the like, or if the
    split has no other: hidden test labels are published as -1.
    """
    unknown = set(classes) - known
    if len(set(classes)) == 1 and len(classes) > 1:
        return unknown
    return {name for name in unknown if is_possible_mark(name)}


def drop_marks(classes, marks, split, owner, notes):
    """The classes with None for the marks. owner: who has no such class, train or a model, for the note."""
    for mark in sorted(marks):
        count = classes.count(mark)
        notes.append(f"{count:,} row{'s' * (count > 1)} of {split} with the label {mark!r}, which {owner} has not: "
                     'taken as "no label", left out')
    return [None if name in marks else name for name in classes]


def is_possible_mark(name):
    number = number_of(name)
    return number < 0 if number is not None else label_key(name) in POSSIBLE_MARKS


def check_no_scores(classes):
    """Raise if the classes are continuous scores: many different fractions, or as many numbers as rows."""
    numbers = [number_of(name) for name in set(classes)]
    if None in numbers:
        return
    fractions = [number for number in numbers if isinstance(number, float)]
    many_fractions = len(fractions) > 1 and (len(numbers) > MOST_SCORES or len(numbers) * 2 > len(classes))
    if many_fractions or len(numbers) > MOST_SCORES and len(numbers) * 2 > len(classes):
        examples = ", ".join(f"{number:g}" for number in sorted(numbers)[:4])
        raise UserError(f"the labels look like scores, not like classes: {len(numbers):,} different numbers in "
                        f"{len(classes):,} rows ({examples}, ...). Cut them into classes, such as below and above "
                        "the middle, or name another column with --label")


def sorted_names(names):
    """Class names in the order of their ids: by value if all of them are numbers, else by the alphabet."""
    numbers = {name: number_of(name) for name in names}
    if None in numbers.values():
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))


# ---- 3. match --------------------------------------------------------------------------------------------

def match_labels(names, model_names, source="the data"):
    """[output of the model for each of the names], or an error. source: whose names they are, for the message."""
    numbered = all(class_number(name) is not None for name in [*names, *model_names])
    key_of = class_number if numbered else label_key
    by_key = {}
    for i, name in enumerate(model_names):
        by_key.setdefault(key_of(name), []).append(i)
    found = []
    missing = []
    for name in names:
        outputs = [model_names.index(name)] if name in model_names else by_key.get(key_of(name), [])
        if len(outputs) > 1:
            raise UserError(f"{source} has the label {name!r}, the model {listed([model_names[i] for i in outputs])}: "
                            "which one is meant? Write it exactly as the model does")
        found += outputs
        missing += [] if outputs else [name]
    if missing:
        raise UserError(mismatch(names, model_names, missing, source))
    if len(set(found)) < len(found):
        raise UserError(f"two labels of {source} are one of the model's: {source} has {listed(names)}, the model "
                        f"{listed(model_names)}")
    return found


def class_number(name):
    """3 for "LABEL_3" and for "3.0"; None for a name."""
    match = GENERIC.fullmatch(name)
    return int(match[1]) if match else number_of(name)


def mismatch(names, model_names, missing, source):
    """The message when labels cannot be matched; it says what kind of mismatch it is."""
    model_numbered = all(class_number(name) is not None for name in model_names)
    data_numbered = all(class_number(name) is not None for name in names)
    if model_numbered != data_numbered:
        sides = [f"the model has {listed(model_names)}", f"{source} has {listed(names)}"]
        numbers, words = sides if model_numbered else reversed(sides)
        return (f"{numbers}, but {words}: which number has which name would be a guess. Name the model's labels in its "
                "config.json (id2label), write the same labels into the data, or train a new head on this data "
                "(train.py --new-head)")
    return (f"{source} has labels that the model has not: {listed(missing)}. The model's {len(model_names)}: "
            f"{listed(model_names)}. Rename the labels in the data, or fine-tune the model on this data first "
            "(train.py, with --new-head if the model has a head for other labels)")


def listed(names):
    return ", ".join(list(names)[:9]) + (" ..." if len(names) > 9 else "")


def align_labels(dataset, label_names):
    """The dataset with the label ids of a model (see match_labels)."""
    outputs = match_labels(dataset.label_names, label_names, dataset.name)

    def remap(split):
        return split and Split(split.texts, [outputs[label] for label in split.labels])

    return replace(dataset, label_names=list(label_names), train=remap(dataset.train),
                   validation=remap(dataset.validation), test=remap(dataset.test))
