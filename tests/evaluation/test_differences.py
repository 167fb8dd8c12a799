"""What a difference is worth, against hand computations and simulations."""

import numpy as np
import pytest

from evaluate import bootstrap, paired_bootstrap
from pocketbert.evaluation.differences import detectable, holm, interval, p_of_draws, verdict
from pocketbert.evaluation.metrics import confusion_counts, macro_f1


def test_holm_by_hand():
    """Three models: 0.01 * 3, then 0.03 * 2, then max(0.06, 0.04)."""
    assert holm({"a": 0.03, "b": 0.01, "c": 0.04}) == {"a": pytest.approx(0.06), "b": pytest.approx(0.03),
                                                       "c": pytest.approx(0.06)}
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1, "b": 1}
    assert holm({}) == {}


def test_holm_keeps_the_chance_of_any_false_alarm_at_five_percent():
    """Ten models that equal the baseline: without a correction 40 % of all reports call one of them different."""
    rng = np.random.default_rng(0)
    reports = rng.random((2000, 10))
    alarms = np.mean([min(holm(dict(enumerate(row))).values()) < 0.05 for row in reports])
    assert 0.035 < alarms < 0.065 < 0.35 < np.mean(reports.min(axis=1) < 0.05)


def test_p_of_draws_is_below_five_percent_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(0)
    for mean in np.linspace(-4, 4, 33):
        draws = rng.normal(mean, 1, 2000)
        low, high = interval(draws)
        assert (p_of_draws(draws) < 0.05) == (low > 0 or high < 0) or abs(abs(mean) - 1.96) < 0.1
    assert p_of_draws(np.zeros(2000)) == 1
    assert p_of_draws(np.ones(1999)) == pytest.approx(2 / 2000)  # never 0: more draws could show otherwise


@pytest.mark.parametrize("low, high, p, words", [
    (-0.03, -0.01, 0.001, "worse"), (0.01, 0.03, 0.001, "better"),
    (-0.03, -0.01, 0.2, "these texts cannot tell"),     # significant alone, but not as one of many
    (-0.004, 0.002, 0.6, "same within 0.4 points"), (0, 0, 1, "same within 0.1 points"),
    (-0.0071, 0.0099, 0.6, "same within 1.0 points"), (-0.002, 0.0101, 0.3, "these texts cannot tell"),
    (-0.004, -0.001, 0.01, "worse")])
def test_verdict_in_words(low, high, p, words):
    assert verdict(low, high, p) == words


def population(seed, size=3):
    """Shares of (label, new model's answer, baseline's answer), and the true difference in macro-F1."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(size ** 3) * 0.3).reshape(size, size, size)
    for c in range(size):  # both models are right more often than not
        shares[c, c, c] += 0.5
        shares[c, :, c] += 0.02
    shares /= shares.sum()
    new, old = shares.sum(axis=2), shares.sum(axis=1)
    return shares, macro_f1(new * 1e9) - macro_f1(old * 1e9)


def draw(shares, texts, rng):
    """labels, the new model's answers, the baseline's answers: each (texts,)"""
    cells = rng.choice(shares.size, texts, p=shares.ravel())
    return np.unravel_index(cells, shares.shape)


def test_the_interval_covers_a_known_difference_in_95_percent_of_samples():
    """benchmarks/coverage.py does this with 1,000 pairs; here 120, of which 106 to 119 may be covered (99.9 %)."""
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(120):
        shares, difference = population(seed)
        low, high = paired_bootstrap(*draw(shares, 400, rng), 3, draws=300, seed=seed)
        covered += low <= difference <= high
    assert 105 < covered < 120


def test_a_difference_as_large_as_detectable_is_found_in_80_percent_of_samples():
    rng = np.random.default_rng(2)
    smallest = 2.802 * 0.01
    found = 0
    for _ in range(300):
        draws = rng.normal(rng.normal(smallest, 0.01), 0.01, 500)
        assert detectable(draws) == pytest.approx(smallest, rel=0.15)
        found += p_of_draws(draws) < 0.05
    assert 0.73 < found / 300 < 0.87


def test_all_models_are_scored_on_the_same_redrawn_texts():
    labels = np.arange(300) % 3
    answers = {"a": np.roll(labels, 1) * (labels > 0), "b": labels, "c": np.roll(labels, 1) * (labels > 0)}
    draws = bootstrap(labels, answers, 3, draws=50)
    assert (draws["a"]["macro_f1"] == draws["c"]["macro_f1"]).all() and (draws["b"]["accuracy"] == 1).all()
    assert draws["a"]["accuracy"].std() > 0
    mean = macro_f1(confusion_counts(labels, answers["a"], 3))
    assert draws["a"]["macro_f1"].mean() == pytest.approx(mean, abs=0.02)
