"""Who got hurt: the score on slices, groups of texts that a mean over all of them hides.

A slice is a name and a predicate, text -> bool. `slices_of` gives those that every report has; --slices FILE.py adds
the functions of a file of one's own:

    def question(text):
        return text.rstrip().endswith("?")
"""

import inspect
import re
import unicodedata
from collections import Counter

import numpy as np

from pocketbert.errors import UserError

WORD = re.compile(r"\w+")
NEGATION = re.compile(r"\b(?:no|not|never|none|nobody|nothing|nowhere|neither|nor|cannot|without|\w+n['’]?t)\b",
                      re.IGNORECASE)
LINK = re.compile(r"https?://|www\.", re.IGNORECASE)
EMOTICON = re.compile(r"(?:^|\s)[:;=8][-o']?[()\[\]dDpP/\\|*]+|<3")
RARE = 2                    # a word that the training texts have at most so many times is rare
RARE_SHARE = 0.2            # of the words of a text with "rare words", at least


def has_emoji(text):
    """An emoji (a symbol of Unicode's "So" beyond the basic blocks, or a flag) or an emoticon such as :-)"""
    return bool(EMOTICON.search(text)) or any(ord(c) >= 0x2600 and unicodedata.category(c) == "So" for c in text)


def is_upper_case(text):
    """Most of its letters, and at least four, are capitals."""
    letters = [c for c in text if c.isalpha()]
    return len(letters) >= 4 and sum(c.isupper() for c in letters) > len(letters) / 2


def is_not_latin(text):
    """Most of its letters belong to another script than Latin: Arabic, Cyrillic, Han ..."""
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and sum("LATIN" not in unicodedata.name(c, "") for c in letters) > len(letters) / 2


PREDICATES = {
    "hashtags": lambda text: bool(re.search(r"#\w", text)),
    "emoji": has_emoji,
    "negation": lambda text: bool(NEGATION.search(text)),
    "links": lambda text: bool(LINK.search(text)),
    "upper case": is_upper_case,
    "script not Latin": is_not_latin,
}


def rare_words(train_texts):
    """The predicate "a fifth of its words are rare in the training texts"."""
    counts = Counter(word for text in train_texts for word in WORD.findall(text.casefold()))

    def predicate(text):
        words = WORD.findall(text.casefold())
        return bool(words) and sum(counts[word] <= RARE for word in words) >= RARE_SHARE * len(words)
    return predicate


def slices_of(texts, train_texts=(), predicates=None):
    """{name: (N,) bool}: which of the N texts belong to each slice; empty slices are left out.

    train_texts: what "rare" means; () leaves that slice out    predicates: more of them, {name: text -> bool}
    """
    lengths = np.array([len(text) for text in texts])
    quartiles = np.quantile(lengths, (0.25, 0.5, 0.75))
    quarter = np.searchsorted(quartiles, lengths, side="left")
    named = {name: quarter == i for i, name in enumerate(("shortest quarter", "second quarter", "third quarter",
                                                          "longest quarter"))}
    chosen = dict(PREDICATES)
    if train_texts:
        chosen["rare words"] = rare_words(train_texts)
    for name, predicate in (chosen | (predicates or {})).items():
        named[name] = np.array([ask(predicate, name, text) for text in texts])
    return {name: inside for name, inside in named.items() if inside.any()}


def ask(predicate, name, text):
    """predicate(text) as a bool; a fault in a user's function is named with the text."""
    try:
        return bool(predicate(text))
    except Exception as error:  # whatever a function of the user's raises
        raise UserError(f"the slice {name} fails on {text[:60]!r}: {type(error).__name__}: {error}") from error


def read_predicates(path):
    """{name: function} of all functions that a Python file defines, but for those whose name starts with "_"."""
    namespace = {"__name__": "slices"}
    try:
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), namespace)  # the user's own code, as an import would run it
    except OSError as error:
        raise UserError(f"--slices {path} cannot be read ({error.strerror}); name a Python file") from None
    except Exception as error:
        raise UserError(f"--slices {path}: {type(error).__name__}: {error}") from error
    found = {name.replace("_", " "): value for name, value in namespace.items()
             if inspect.isfunction(value) and value.__module__ == "slices" and not name.startswith("_")}
    if not found:
        raise UserError(f"--slices {path} defines no function; write one, text -> True or False, for each slice")
    return found


def slice_scores(slices, labels, predicted, baseline):
    """{name: {"texts", "accuracy", "difference", "low", "high"}} of one model.

    difference: accuracy minus the baseline's on the same texts, with its 95 % interval from the normal approximation
    of the paired differences d in {-1, 0, 1}:  mean(d) +- 1.96 std(d) / sqrt(n). Accuracy, because a slice may lack
    whole classes.    slices: of `slices_of`    labels, predicted, baseline: (N,)
    """
    is_right = predicted == labels
    paired = is_right.astype(float) - (baseline == labels)
    rows = {}
    for name, inside in slices.items():
        d = paired[inside]
        half_width = 1.96 * d.std() / np.sqrt(len(d))
        rows[name] = {"texts": int(inside.sum()), "accuracy": float(is_right[inside].mean()),
                      "difference": float(d.mean()), "low": float(d.mean() - half_width),
                      "high": float(d.mean() + half_width)}
    return rows
