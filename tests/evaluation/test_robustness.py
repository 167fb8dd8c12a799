"""Damaged texts by hand, and models whose answers hang on what was damaged or on the batch."""

import random

import numpy as np
import pytest
import torch

from pocketbert.evaluation.robustness import batch_mates, damaged, no_emoji, no_punctuation, robustness, slip, typos


def test_a_slip_swaps_doubles_or_loses_one_inner_letter():
    made = {slip("weather", random.Random(seed)) for seed in range(2000)}
    inner = "eathe"
    swapped = {"waether", "wetaher", "weahter", "weatehr"}
    doubled = {"weather"[:i] + c + "weather"[i:] for i, c in enumerate(inner, 1)}
    lost = {"weather"[:i] + "weather"[i + 1:] for i in range(1, 6)}
    assert made - {"weather"} <= swapped | doubled | lost
    assert made & swapped and made & doubled and made & lost


def test_typos_are_the_same_in_every_run_and_leave_short_words_and_numbers_alone():
    text = "the weather in london was really lovely on 20241125 " * 20
    assert typos(text) == typos(text) != text
    assert typos("a bad day 12345 :-)") == "a bad day 12345 :-)"
    changed = sum(a != b for a, b in zip(text.split(), typos(text).split(), strict=True))
    assert changed / (4 * 20) == pytest.approx(0.2, abs=0.15)  # four of the words have four letters and more


def test_punctuation_and_emoji_are_taken_out_and_nothing_else():
    assert no_punctuation("well, #no @you: it's 5.0!") == "well #no @you its 50"
    assert no_emoji("so good \U0001f600 <3 :-) ok") == "so good     ok"


def test_a_damage_that_changes_no_text_is_left_out():
    assert list(damaged(["a b c"])) == []
    assert {name: changed for name, (_, changed) in damaged(["Ab", "c!", "d e"]).items()} == {
        "lower case": 1, "no punctuation": 1}


class Capitals:
    """Answers 1 for a text that begins with a capital; logs how many texts it scored."""

    def __init__(self):
        self.scored = []

    def encode(self, texts, max_length):
        return [[ord(text[0])] for text in texts], 0

    def score(self, rows, batch_size):
        self.scored.append(len(rows))
        return torch.nn.functional.one_hot(torch.tensor([int(row[0] < 97) for row in rows]), 2).float()


def test_the_loss_by_a_damage_is_that_of_the_texts_it_changed_and_only_they_are_scored_again():
    model = Capitals()
    texts = ["Good one", "Good two!", "bad three", "bad four"]
    rows, _ = model.encode(texts, None)
    logits = model.score(rows, 4)
    found = robustness(model, texts, np.array([1, 1, 0, 0]), rows, logits, 4, None)
    assert found["lower case"] == {"texts": 4, "changed": 2, "macro_f1": pytest.approx(1 / 3),
                                   "difference": pytest.approx(1 / 3 - 1)}  # all answers are 0: F1 2/3 and 0
    assert found["no punctuation"] == {"texts": 4, "changed": 1, "macro_f1": 1, "difference": 0}
    assert model.scored == [4, 2]  # the first letter of the others is as before


@pytest.mark.parametrize("neighbours_matter, share", [(False, 0), (True, 0.5)])
def test_labels_that_change_with_the_batch_are_counted(neighbours_matter, share):
    class Model:
        def score(self, rows, batch_size):
            first = torch.tensor([float(row[0]) for row in rows])
            mates = float(neighbours_matter and batch_size > 1)
            return torch.stack([first - mates * 2, torch.zeros(len(rows))], dim=1)
    found = batch_mates(Model(), [[1], [3]] * 50)
    assert found["labels_changed"] == share and found["largest_logit_difference"] == 2 * neighbours_matter
    assert found["texts"] == 100
