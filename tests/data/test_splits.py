"""The validation split, stratified subsets, repeated texts, fingerprints."""

from collections import Counter

import pytest
import torch

from data_utils import load_dataset
from pocketbert.data.splits import SPLIT_SEED, VALIDATION_ROWS, Split, split_validation, take
from small_tables import load_own, many, write


def test_validation_is_stratified_repeatable_and_shares_no_text_with_train():
    texts = [f"text {i}" for i in range(900)] + [f" TEXT {i} " for i in range(100)]
    train = Split(texts, [i % 10 == 0 for i in range(900)] + [i % 10 == 0 for i in range(100)])
    rest, held_out = split_validation(train)
    assert len(held_out) == 200 and len(rest) == 800 and Counter(held_out.labels)[True] == 20
    assert Counter(rest.texts + held_out.texts) == Counter(texts)
    assert not {t.strip().casefold() for t in rest.texts} & {t.strip().casefold() for t in held_out.texts}
    torch.manual_seed(SPLIT_SEED + 1)
    assert split_validation(train) == (rest, held_out)


def test_validation_takes_no_more_than_its_rows_and_leaves_a_class_of_one_in_train():
    train = Split([f"t{i}" for i in range(20_001)], [i % 2 for i in range(20_000)] + [2])
    rest, held_out = split_validation(train)
    assert len(held_out) == VALIDATION_ROWS and 2 in rest.labels
    with pytest.raises(ValueError, match="too few"):
        split_validation(Split(["a", "b"], [0, 1]))


def test_repeats_leaks_and_contradictions_are_counted(tmp_path):
    write(tmp_path / "train.csv", "text,label\n" + many() + "Plain text 1 ,neg\nplain text 2,neg\n")
    write(tmp_path / "validation.csv", "text,label\nPLAIN TEXT 3,pos\nnew,neg\n")
    write(tmp_path / "test.csv", "text,label\nnew,neg\nnewer,rare\n")
    notes = load_dataset(str(tmp_path)).notes
    assert "2 rows of train with a text that occurs earlier in it: used" in notes
    assert "1 text of train with more than one label: used" in notes
    assert "1 row of validation with a text that is also in train: used" in notes
    assert "1 row of test with a text that is also in validation: used" in notes
    assert "test has labels that train has not: rare" in notes


def test_the_fingerprint_changes_with_any_text_or_label(tmp_path):
    prints = {load_own(tmp_path, "text,label\n" + many() + extra)[2].fingerprint
              for extra in ("x,pos\n", "y,pos\n", "x,neg\n", "x,pos\nx,pos\n")}
    assert len(prints) == 4


def test_take_keeps_every_class_and_the_proportions():
    split = Split([f"t{i}" for i in range(1000)], [0] * 700 + [1] * 298 + [2, 3])
    part = take(split, 100, seed=0)
    counts = Counter(part.labels)
    assert len(part) == 100 and counts[2] == counts[3] == 1 and 66 <= counts[0] <= 72
    assert len(set(part.texts)) == 100 and all(split.labels[int(t[1:])] == y for t, y in zip(part.texts, part.labels,
                                                                                          strict=True))
    assert part == take(split, 100, seed=0) != take(split, 100, seed=1)
    assert take(split, 2, seed=0).labels == [0, 1] and take(split, 5000, seed=0) is split
