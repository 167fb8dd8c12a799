"""The statistics against formulas, sklearn and scipy."""

from math import comb

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from pocketbert.evaluation.metrics import confusion_counts, macro_f1, mcnemar, quality, scores, t_interval


@pytest.mark.parametrize("seed", range(8))
def test_macro_f1_equals_sklearns_also_when_classes_are_absent(seed):
    rng = np.random.default_rng(seed)
    true_classes, predicted_classes = rng.choice(6, 3, replace=False), rng.choice(6, 2, replace=False)
    labels, predicted = rng.choice(true_classes, 40), rng.choice(predicted_classes, 40)
    ours = macro_f1(confusion_counts(labels, predicted, 6))
    sklearns = f1_score(labels, predicted, labels=range(6), average="macro", zero_division=0)
    assert ours == pytest.approx(sklearns)
    logits = torch.eye(6)[torch.tensor(predicted)]
    assert scores(logits, labels)["macro_f1"] == quality(logits, labels, "abcdef")["macro_f1"] == sklearns


def test_macro_f1_is_over_all_classes_of_the_model_whatever_occurs_among_the_labels():
    """A perfect model of 4 classes on texts of one class: 1/4, as sklearn's labels=range(4) gives."""
    found = quality(torch.eye(4)[[2, 2, 2]], [2, 2, 2], ["a", "b", "c", "d"])
    assert found["macro_f1"] == np.mean([row["f1"] for row in found["per_class"].values()]) == 0.25
    assert found["accuracy"] == 1


def test_confusion_counts_have_true_classes_as_rows():
    assert confusion_counts(np.array([0, 0, 2]), np.array([1, 1, 2]), 3).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("only_new, only_old", [(1, 8), (5, 5), (0, 3), (12, 4)])
def test_mcnemar_is_the_two_sided_binomial_tail(only_new, only_old):
    """By hand: of n texts that one model alone gets right, as lopsided a split as this by tossing a coin."""
    labels = np.zeros(only_new + only_old + 20, dtype=int)
    new, old = labels.copy(), labels.copy()
    old[:only_new] = 1
    new[only_new:only_new + only_old] = 1
    new[-10:] = old[-10:] = 2                                       # both wrong: says nothing about either
    n, fewer = only_new + only_old, min(only_new, only_old)
    by_hand = min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2 ** n)
    assert mcnemar(labels, new, old) == pytest.approx(by_hand)


def test_mcnemar_of_twenty_thousand_texts_equals_scipys_binomial_distribution():
    """A sum of binomial coefficients takes half a minute here."""
    from scipy.stats import binom
    labels, new, old = np.zeros((3, 20_000), dtype=int)
    new[:9_900] = 1
    old[9_900:] = 1
    assert mcnemar(labels, new, old) == pytest.approx(2 * binom.cdf(9_900, 20_000, 0.5))


def test_mcnemar_of_models_that_never_differ_is_one():
    labels = np.array([0, 1, 2, 1])
    assert mcnemar(labels, np.array([0, 0, 2, 1]), np.array([0, 0, 2, 1])) == 1.0


@pytest.mark.parametrize("runs", [2, 4, 31, 200])
def test_t_interval_is_scipys(runs):
    from scipy.stats import sem, t
    values = np.random.default_rng(runs).normal(0.8, 0.01, runs)
    mean, low, high = t_interval(values)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(t.interval(0.95, runs - 1, values.mean(), sem(values)), rel=1e-12)


def test_one_run_has_no_interval():
    assert np.isnan(t_interval([0.8])[1:]).all()
