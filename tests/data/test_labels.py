"""Labels: what counts as one class, what as no label, and which output of a model a class is."""

import json

import pytest

from data_utils import load_dataset, load_test_file
from pocketbert.data.datasets import EMOTIONS
from pocketbert.data.labels import align_labels, known_label, match_labels, number_of, plain_label
from pocketbert.data.splits import Dataset, Split
from pocketbert.errors import UserError
from small_tables import jsonl, labelled, load_own, many, write


def classes(tmp_path, labels, **splits):
    """({class: training rows}, notes, Dataset) of files with these labels; splits: the labels of further files."""
    write(tmp_path / "train.csv", labelled(labels))
    for split, values in splits.items():
        write(tmp_path / f"{split}.csv", labelled(values))
    dataset = load_dataset(str(tmp_path if splits else tmp_path / "train.csv"))
    counts = dict.fromkeys(dataset.label_names, 0)
    for part in (dataset.train,) if splits else (dataset.train, dataset.validation):
        for label in part.labels:
            counts[dataset.label_names[label]] += 1
    return counts, "\n".join(dataset.notes), dataset


# ---- one value ----

@pytest.mark.parametrize("value, expected", [
    (" joy ", "joy"), (3, "3"), (3.0, "3"), (0.5, "0.5"), (True, "true"), (False, "false"), ("\ufeffjoy\u200b", "joy"),
    ("", None), ("  ", None), (None, None), (float("nan"), None), (float("inf"), None), ("NaN", None), ("?", None),
    ("<NA>", None), ([1], None), ({"a": 1}, None), ("None", "None"), ("-1", "-1")])
def test_a_value_is_read_as_a_label(value, expected):
    assert plain_label(value) == expected


@pytest.mark.parametrize("text, expected", [
    ("1", 1), ("1.0", 1), (" +1", 1), ("01", 1), ("1.", 1), ("1,0", 1), ("1e0", 1), ("10E-1", 1), ("\uff11", 1),
    ("-1", -1), ("\u22121", -1), ("-0", 0), ("0.5", 0.5), (".5", 0.5), ("0,7031", 0.7031), ("1,000", 1000),
    ("12345678901234567890123", 12345678901234567890123), ("1 2", None), ("1_000", None), ("0x1", None),
    ("1e999", None), ("inf", None), ("one", None), ("1a", None), ("", None), ("1,2,3", None)])
def test_a_number_is_known_in_every_writing(text, expected):
    assert number_of(text) == expected


# ---- the classes of a dataset ----

@pytest.mark.parametrize("spellings, name", [
    (["1", "1.0", "01", "+1", "1,0", "1."], "1"),
    (["Positive", "positive", "POSITIVE", "positive.", " Positive "], "Positive"),
    (["very  good", "Very good", "very\u00a0good"], "very  good"),
    (["stra\u00dfe", "STRASSE"], "stra\u00dfe"),
    (["caf\u00e9", "cafe\u0301"], "caf\u00e9"),
    (["True", "true", "TRUE"], "True"),
    (["None", "none"], "None")])
def test_spellings_of_one_label_are_one_class_and_a_note_says_so(tmp_path, spellings, name):
    rows = [f'"{spelling}"' for spelling in spellings]
    counts, notes, _ = classes(tmp_path, [rows[0], *rows * 2, *["other"] * 9])
    assert counts == {name: 2 * len(rows) + 1, "other": 9}
    assert f"as {name!r}" in notes


def test_a_number_is_one_class_in_all_files_before_any_class_exists(tmp_path):
    """What pandas writes for a column of whole numbers in which a value is missing: 1.0."""
    counts, _, dataset = classes(tmp_path, "01" * 9, validation=["0.0", "1.0"], test=["1.00", "0"])
    assert counts == {"0": 9, "1": 9}
    assert dataset.validation.labels == [0, 1] and dataset.test.labels == [1, 0]


def test_json_numbers_booleans_and_strings_of_one_value_are_one_class(tmp_path):
    rows = [{"text": f"t{i}", "label": value} for i, value in enumerate([1, 1.0, "1", "1.0", 0, 0.0, "0", -0.0] * 3)]
    assert load_own(tmp_path, jsonl(rows), "a.jsonl")[2].label_names == ["0", "1"]
    rows = [{"text": f"t{i}", "label": value} for i, value in enumerate([True, "true", "True", False, "FALSE"] * 4)]
    assert load_own(tmp_path, jsonl(rows), "b.jsonl")[2].label_names == ["false", "true"]
    assert json.loads(jsonl(rows[:1]))["label"] is True


def test_codes_with_zeros_in_front_keep_them_unless_the_number_is_also_written_without(tmp_path):
    assert classes(tmp_path, ["01", "02", "10"] * 6)[2].label_names == ["01", "02", "10"]
    assert classes(tmp_path, ["01", "02", "1"] * 6)[2].label_names == ["1", "02"]


def test_the_order_of_numbers_is_by_value_and_of_names_by_the_alphabet(tmp_path):
    assert classes(tmp_path, [str(i % 12) for i in range(60)])[2].label_names == [str(i) for i in range(12)]
    assert classes(tmp_path, ["-1", "1.0", "0"] * 9)[2].label_names == ["-1", "0", "1"]
    assert load_own(tmp_path, "text,label\n" + many())[2].label_names == ["neg", "pos"]


# ---- no label ----

@pytest.mark.parametrize("mark", ["-1", "-1.0", "-100", "", "nan", "?", "None", "null", "N/A", "unlabeled", "-", "x"])
def test_a_test_file_whose_labels_are_hidden_is_not_used(tmp_path, mark):
    counts, notes, dataset = classes(tmp_path, "01" * 9, validation="01", test=[mark] * 6)
    assert counts == {"0": 9, "1": 9} and dataset.test is None
    assert "6 rows of test" in notes and "the test file has no labelled row: not used" in notes


def test_rows_without_a_label_are_left_out_beside_rows_with_one(tmp_path):
    _, notes, dataset = classes(tmp_path, "01" * 9, validation="01", test=["-1", "1", "none", "0", ""])
    assert dataset.test == Split(["text 1", "text 3"], [1, 0])
    assert "1 row of test with the label '-1', which train has not" in notes and "with no label" in notes


def test_a_mark_that_train_has_is_a_class(tmp_path):
    counts, notes, dataset = classes(tmp_path, ["-1", "0", "1"] * 6, validation=["-1"], test=["-1", "1"])
    assert counts == {"-1": 6, "0": 6, "1": 6} and dataset.test.labels == [0, 2] and "no label" not in notes
    counts, _, _ = classes(tmp_path, ["none", "joy"] * 6, validation=["none"], test=["None"])
    assert counts == {"joy": 6, "none": 6}


# ---- scores ----

@pytest.mark.parametrize("labels", [
    [f"{i / 40:.4f}" for i in range(40)], [f"{i / 40:.4f}".replace(".", ",") for i in range(40)],
    [f"{(i % 26) / 26:.2f}" for i in range(400)], [str(i * i) for i in range(40)], ["0.0", "0.7031", "0.0062", "1"]])
def test_continuous_scores_are_refused_with_the_reason(tmp_path, labels):
    with pytest.raises(UserError, match="look like scores.*different numbers"):
        classes(tmp_path, [f'"{label}"' for label in labels])


@pytest.mark.parametrize("labels", [[str(i / 2) for i in range(10)] * 5, [str(i) for i in range(77)] * 3,
                                    ["0.5", "1"] * 5, [f"class {i}" for i in range(30)] * 2])
def test_grades_and_numbered_classes_are_no_scores(tmp_path, labels):
    assert len(classes(tmp_path, labels)[0]) == len(set(labels))


# ---- the classes of a model ----

def small_dataset():
    split = Split(["a", "b", "c"], [0, 1, 2])
    return Dataset("d", ["negative", "neutral", "positive"], split, split, None, [], "publisher", "0")


def test_labels_are_aligned_by_name_in_any_case_and_the_models_order_wins():
    aligned = align_labels(small_dataset(), ["POSITIVE", "mixed", "NEGATIVE", "Neutral"])
    assert aligned.train.labels == aligned.validation.labels == [2, 3, 0] and aligned.test is None
    assert aligned.label_names == ["POSITIVE", "mixed", "NEGATIVE", "Neutral"]


def test_the_same_name_wins_over_the_same_name_in_another_case():
    assert match_labels(["positive"], ["POSITIVE", "negative", "positive"]) == [2]
    with pytest.raises(UserError, match="which one is meant"):
        match_labels(["Positive"], ["POSITIVE", "negative", "positive"])
    with pytest.raises(UserError, match="two labels of the data are one"):
        match_labels(["positive", "Positive"], ["POSITIVE", "negative"])


@pytest.mark.parametrize("names, model_names, expected", [
    (["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 2]),
    (["1.0", "02"], ["LABEL_2", "LABEL_0", "LABEL_1"], [2, 0]),
    (["0", "1"], ["0.0", "1.0"], [0, 1]),
    (["LABEL_1", "LABEL_0"], ["0", "1"], [1, 0]),
    (["label_1"], ["LABEL_0", "LABEL_1"], [1]),
    (["0", "5", "10"], ["10", "5", "0"], [2, 1, 0])])
def test_numbers_are_matched_by_their_value_and_never_by_rank(names, model_names, expected):
    assert match_labels(names, model_names) == expected


@pytest.mark.parametrize("names, model_names, message", [
    (["0", "5", "10"], ["LABEL_0", "LABEL_1", "LABEL_2"], "model has not: 5, 10"),
    (["negative", "positive"], ["LABEL_0", "LABEL_1"], "would be a guess.*--new-head"),
    (["0", "1"], ["negative", "positive"], "would be a guess"),
    (["LABEL_0", "LABEL_1"], ["negative", "positive"], "would be a guess"),
    (["negative", "neutral"], ["NEGATIVE", "POSITIVE"], "model has not: neutral. .*train.py")])
def test_labels_that_the_model_lacks_or_whose_order_would_be_a_guess_are_refused(names, model_names, message):
    with pytest.raises(UserError, match=message) as error:
        match_labels(names, model_names)
    assert "\n" not in str(error.value)


def test_known_names_are_found_by_name_case_or_number():
    names = ["Negative", "negative", "Positive"]
    assert [known_label(v, names) for v in ("negative", "POSITIVE", 2, "2.0", 0.0, "pos", "-1", 3, "other", None)] == [
        "negative", "Positive", "Positive", "Positive", "Negative", "Positive", None, None, None, None]
    assert known_label("27", EMOTIONS) == "neutral"


# ---- a test file of one's own ----

def test_all_rows_of_a_test_file_get_the_ids_of_the_model(tmp_path):
    path = write(tmp_path / "mine.csv", labelled(["Good", "BAD", "good ", "-1", "", "none"]))
    split, notes = load_test_file(str(path), ["bad", "so so", "good"])
    assert split == Split(["text 0", "text 1", "text 2"], [2, 0, 2])
    assert any("label '-1', which the model has not" in note for note in notes)
    path = write(tmp_path / "one.csv", labelled(["1.0"]))                        # one row, one class, no split
    assert load_test_file(str(path), ["LABEL_0", "LABEL_1"])[0] == Split(["text 0"], [1])


def test_a_test_file_with_a_label_that_the_model_lacks_or_without_any_is_refused(tmp_path):
    path = write(tmp_path / "mine.csv", labelled(["good", "awful"]))
    with pytest.raises(UserError, match="model has not: awful"):
        load_test_file(str(path), ["bad", "good"])
    path = write(tmp_path / "hidden.csv", labelled(["-1", "-1"]))
    with pytest.raises(UserError, match="no labelled row.*2 rows.*'-1'"):
        load_test_file(str(path), ["bad", "good"])
    with pytest.raises(FileNotFoundError, match="no file here"):
        load_test_file(str(tmp_path / "absent.csv"), ["bad", "good"])
