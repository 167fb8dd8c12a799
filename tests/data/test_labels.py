"""Labels: what counts as one class, and which class of a model it is."""

import pytest
from small_tables import load_own, many

from pocketbert.data.labels import align_labels
from pocketbert.data.splits import Dataset, Split


def test_integer_labels_are_in_numeric_order_and_others_sorted(tmp_path):
    body = "text,label\n" + "".join(f"t{i},{i % 12}\n" for i in range(60))
    assert load_own(tmp_path, body)[2].label_names == [str(i) for i in range(12)]
    assert load_own(tmp_path, "text,label\n" + many())[2].label_names == ["neg", "pos"]


def small_dataset():
    split = Split(["a", "b", "c"], [0, 1, 2])
    return Dataset("d", ["negative", "neutral", "positive"], split, split, None, [], "publisher", "0")


def test_labels_are_aligned_by_name_in_any_case_and_the_models_order_wins():
    aligned = align_labels(small_dataset(), ["POSITIVE", "mixed", "NEGATIVE", "Neutral"])
    assert aligned.train.labels == aligned.validation.labels == [2, 3, 0] and aligned.test is None
    assert aligned.label_names == ["POSITIVE", "mixed", "NEGATIVE", "Neutral"]


def test_labels_the_model_lacks_are_named_and_generic_names_match_by_number():
    with pytest.raises(ValueError, match="model has not: neutral. .*train.py"):
        align_labels(small_dataset(), ["NEGATIVE", "POSITIVE"])
    assert align_labels(small_dataset(), ["LABEL_0", "LABEL_1", "LABEL_2"]).train.labels == [0, 1, 2]
    with pytest.raises(ValueError, match="model has not"):
        align_labels(small_dataset(), ["LABEL_0", "LABEL_1"])
