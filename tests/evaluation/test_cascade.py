"""The threshold of a cascade against brute force, the cascade against its two models, and its times."""

from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from pocketbert.data.splits import Split, text_key
from pocketbert.evaluation.cascade import ALL_TO_LARGE, cascade_predict, choose_threshold, confidence
from pocketbert.evaluation.cascade_report import halves, spread_rows, time_columns, times_in_turn, warnings_of


def two_models(seed, texts=45, classes=4, levels=None):
    """(small logits, large logits, labels): both right more often than not; few levels make many equal confidences."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=texts)
    right = np.eye(classes)[labels]
    small, large = (rng.normal(size=(texts, classes)) + lift * right for lift in (1.0, 2.5))
    if levels:
        small = np.round(small * levels) / levels
    return torch.tensor(small, dtype=torch.float32), torch.tensor(large, dtype=torch.float32), labels


def macro(labels, predicted):
    return f1_score(labels, predicted, average="macro", zero_division=0)


def by_threshold(small, large, threshold):
    """The labels of the cascade, in one line."""
    return torch.where(small.double().softmax(-1).amax(-1) >= threshold, small.argmax(-1), large.argmax(-1)).numpy()


# --- the threshold ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("max_drop", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("seed, levels", [(0, None), (1, None), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_threshold_is_the_lowest_that_brute_force_allows(seed, levels, max_drop):
    small, large, labels = two_models(seed, levels=levels)
    certain = confidence(small).numpy()
    candidates = [*np.unique(certain).tolist(), ALL_TO_LARGE]
    assert len(candidates) == 46 if levels is None else len(candidates) < 42  # ties are tested with levels
    good = [t for t in candidates
            if macro(labels, by_threshold(small, large, t)) >= macro(labels, large.argmax(-1)) - max_drop - 1e-12]
    threshold, share, score = choose_threshold(small, large, labels, max_drop)
    assert threshold == min(good) and share == (certain >= threshold).mean()
    assert score == pytest.approx(macro(labels, by_threshold(small, large, threshold)), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_max_drop_0_never_loses_on_the_choosing_texts(seed):
    small, large, labels = two_models(seed)
    threshold, _, score = choose_threshold(small, large, labels, 0)
    assert score >= macro(labels, large.argmax(-1)) - 1e-12
    assert macro(labels, by_threshold(small, large, threshold)) == pytest.approx(score)


def test_max_drop_1_leaves_every_text_to_the_small_model():
    small, large, labels = two_models(0)
    assert choose_threshold(small, large, labels, 1) == (
        confidence(small).min().item(), 1.0, pytest.approx(macro(labels, small.argmax(-1))))


def test_a_perfect_small_model_takes_every_text_and_a_useless_one_none():
    small, large, labels = two_models(0)
    perfect = small + 20 * torch.eye(4)[labels]
    assert choose_threshold(perfect, large, labels, 0)[1:] == (1.0, 1.0)
    assert choose_threshold(large, large, labels, 0)[1] == 1.0  # as good is good enough
    wrong = torch.eye(4)[(labels + 1) % 4] * torch.linspace(1, 9, 45)[:, None]
    assert choose_threshold(wrong, 20 * torch.eye(4)[labels], labels, 0) == (ALL_TO_LARGE, 0.0, 1.0)


def test_confident_texts_that_float32_cannot_tell_apart_get_thresholds_of_their_own():
    logits = torch.tensor([[20.0, 0], [25.0, 0]])
    assert logits.softmax(-1).amax(-1).unique().numel() == 1 and confidence(logits).unique().numel() == 2


# --- the cascade ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.9, ALL_TO_LARGE, confidence(two_models(0)[0])[30].item()])
def test_cascade_labels_are_those_of_the_two_models_joined_at_the_threshold(threshold):
    logits = dict(zip(("small", "large"), two_models(0)[:2], strict=True))
    rows, asked = [7, 3, 40, 11, 12, 30, 8], []

    def score(name, some):
        asked.append((name, some))
        return logits[name][some]
    labels, to_large = cascade_predict(partial(score, "small"), partial(score, "large"), rows, threshold)
    assert labels.tolist() == by_threshold(*logits.values(), threshold)[rows].tolist()
    left = [row for row in rows if confidence(logits["small"])[row] < threshold]
    # The large model sees the uncertain texts alone.
    assert asked == [("small", rows), *([("large", left)] if left else [])]
    assert [row for row, doubt in zip(rows, to_large, strict=True) if doubt] == left


def test_what_is_not_a_number_is_left_to_the_large_model():
    small, large = torch.full((1, 2), torch.nan), torch.tensor([[0.0, 1.0]])
    assert cascade_predict(small.__getitem__, large.__getitem__, [0], 0.0)[0].tolist() == [1]


# --- which texts choose, which measure --------------------------------------------------------------------

def test_halves_share_no_text_keep_every_row_and_the_classes_shares():
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(200)] + ["Text 0", " text 1 ", "text 2", "text 2"]  # copies, as text_key has it
    split = Split(texts, rng.choice(3, len(texts), p=[0.6, 0.3, 0.1]).tolist())
    one, other = halves(split)
    assert not {*map(text_key, one.texts)} & {*map(text_key, other.texts)}
    rows = Counter(zip(one.texts + other.texts, one.labels + other.labels, strict=True))
    assert rows == Counter(zip(split.texts, split.labels, strict=True))
    for label in range(3):
        assert abs(one.labels.count(label) - other.labels.count(label)) <= 6
    assert halves(split) == (one, other)


def test_one_text_cannot_both_choose_and_measure():
    with pytest.raises(ValueError, match="1 validation text cannot both"):
        halves(Split(["a", "A"], [0, 1]))


# --- times ------------------------------------------------------------------------------------------------

def test_timed_rows_have_the_splits_share_of_uncertain_texts_and_its_mean_length():
    rng = np.random.default_rng(0)
    lengths, doubtful = rng.integers(3, 60, size=1000), rng.random(1000) < 0.25
    rows = spread_rows(lengths, doubtful, 64)
    assert len(set(rows)) == 64 and doubtful[rows].mean() == pytest.approx(doubtful.mean(), abs=1 / 64)
    for route in (True, False):
        mine = [row for row in rows if doubtful[row] == route]
        assert lengths[mine].mean() == pytest.approx(lengths[doubtful == route].mean(), abs=2)
    assert sorted(spread_rows([5, 4, 3], [0, 1, 0], 64)) == [0, 1, 2]


def test_cascade_costs_the_small_model_and_where_it_is_unsure_the_large_one_too(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("pocketbert.hardware.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    logits = {"small": torch.tensor([[9.0, 0], [0.1, 0], [0, 9.0]]), "large": torch.zeros(3, 2)}

    def score(name, rows):
        clock[0] += {"small": 0.001, "large": 0.010}[name] * len(rows)
        return logits[name][rows]
    times = times_in_turn(partial(score, "small"), partial(score, "large"), [[0], [1], [2], [0, 1, 2]], threshold=0.9)
    np.testing.assert_allclose(times["small"], [1, 1, 1, 3])
    np.testing.assert_allclose(times["large"], [10, 10, 10, 30])
    np.testing.assert_allclose(times["cascade"], [1, 11, 1, 13])


def test_speedups_of_a_cascade_are_the_large_models_mean_time_over_its_own():
    one = {"large": np.array([10.0, 20.0]), "cascade": np.array([1.0, 5.0])}
    bulk = {"large": np.array([3000.0]), "cascade": np.array([6000.0])}
    columns = time_columns("cascade", one, bulk)
    assert (columns["speedup_1"], columns["speedup_bulk"], columns["bulk_seconds"]) == (5, 0.5, 6)
    assert (columns["ms_mean"], columns["ms_median"]) == (3, 3)


def result_of(share=0.5, drop=0.0, sizes=(1, 2), speedups=(2.0, 2.0)):
    """As much of a cascade.json as the warnings need."""
    rows = [{"name": name, "difference": -drop, "speedup_1": speedups[0], "speedup_bulk": speedups[1]}
            for name in ("large", "small", "cascade")]
    return {"rows": rows, "chosen": {"share_small": share}, "max_drop": 0.005,
            "bytes": {"small": sizes[0], "large": sizes[1]}}


@pytest.mark.parametrize("changes, words", [
    ({}, []),
    ({"share": 0}, ["the large model answers everything, no threshold is good enough"]),
    ({"share": 1}, ["the small model alone is good enough, it needs no cascade"]),
    ({"drop": 0.006}, ["the drop on the measured texts is above --max-drop"]),
    ({"sizes": (2, 2)}, ["small has no smaller file than large"]),
    ({"speedups": (1.0, 2.0)}, [f"{name} is no faster than large one by one" for name in ("small", "cascade")]),
    ({"speedups": (0.9, 0.9)}, [f"{name} is no faster than large one by one and in bulk"
                                for name in ("small", "cascade")])])
def test_useless_cascade_is_warned_of(changes, words):
    assert list(warnings_of(result_of(**changes))) == words
