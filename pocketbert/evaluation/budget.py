"""A budget in words: "keep>=0.97 ms_1<=0.5 size_mb<=2".

    keep          macro-F1 divided by the baseline's                 0 to 1
    macro_f1, accuracy                                               0 to 1
    ms_1, ms_32   median milliseconds for one text, for a batch of 32
    texts_per_s   texts a second from raw strings, tokenisation included
    size_mb       10^6 bytes of the model file and the tokenizer's
    memory_mb     10^6 bytes that a process with this model takes at its peak

The number on the right may be a share of the baseline's: "ms_1<=baseline/150", "macro_f1>=0.97*baseline".
"""

import argparse
import re
from dataclasses import dataclass

from pocketbert.errors import UserError

WORDS = {  # word -> what makes it better
    "keep": ">=", "macro_f1": ">=", "accuracy": ">=", "texts_per_s": ">=",
    "ms_1": "<=", "ms_32": "<=", "size_mb": "<=", "memory_mb": "<="}
SCORES = ("keep", "macro_f1", "accuracy")  # known only after training; the others are the costs of a model
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
CONDITION = re.compile(rf"(?P<word>\w+)\s*(?P<sign><=|>=)\s*(?:(?P<number>{NUMBER})(?P<times>\s*\*\s*baseline)?"
                       rf"|baseline\s*/\s*(?P<divisor>{NUMBER}))(?=\s|,|$)")


@dataclass(frozen=True)
class Condition:
    """word <= number or word >= number; of_baseline: the number counts in baselines."""

    word: str
    sign: str
    number: float
    of_baseline: bool = False

    def bound(self, baseline):
        """The number that the model must reach. baseline: {word: number}"""
        return self.number * baseline[self.word] if self.of_baseline else self.number

    def violation(self, row, baseline):
        """How far a model is outside, as a share of the bound; 0 or less: inside. row, baseline: {word: number}"""
        bound = self.bound(baseline)
        excess = row[self.word] - bound if self.sign == "<=" else bound - row[self.word]
        return excess / max(abs(bound), 1e-12)

    def __str__(self):
        return f"{self.word}{self.sign}{self.number:g}" + ("*baseline" if self.of_baseline else "")


def parse_budget(text):
    """"keep>=0.97, size_mb<=2" -> [Condition, ...]; a UserError names the piece that is none."""
    conditions = []
    rest = text.strip()
    while rest:
        match = CONDITION.match(rest)
        if not match:
            raise UserError(f"{rest!r} does not begin with a condition like keep>=0.97, size_mb<=2 or "
                            f"ms_1<=baseline/50; words: {', '.join(WORDS)}")
        conditions.append(condition_of(match))
        rest = rest[match.end():].lstrip(" ,")
    return conditions


def budget(text):
    """parse_budget for the type= of a flag: what is wrong becomes argparse's message."""
    try:
        return parse_budget(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(error) from None


def condition_of(match):
    word, sign = match["word"], match["sign"]
    if word not in WORDS:
        raise UserError(f"{word!r} is not one of {', '.join(WORDS)}")
    if sign != WORDS[word]:
        raise UserError(f"{word}{sign} bounds the good side; write {word}{WORDS[word]}")
    if match["divisor"]:
        if not float(match["divisor"]):
            raise UserError("baseline/0 is no number")
        return Condition(word, sign, 1 / float(match["divisor"]), of_baseline=True)
    return Condition(word, sign, float(match["number"]), of_baseline=bool(match["times"]))


def violations(conditions, row, baseline):
    """{condition: by how much its bound is missed, as a share of it} of those that are missed."""
    missed = {}
    for condition in conditions:
        by = condition.violation(row, baseline)
        if by > 0:
            missed[str(condition)] = by
    return missed
