"""The columns that compare a model with the baseline, against numpy on the same draws."""

import numpy as np
import pytest

from pocketbert.evaluation.columns import difference_columns, percentiles


def test_what_is_kept_and_what_is_lost_have_the_intervals_of_their_own_redrawn_values():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    draws = {"macro_f1": rng.uniform(0.6, 0.8, 2000), "accuracy": rng.uniform(0.5, 0.7, 2000)}
    base = {"macro_f1": rng.uniform(0.8, 0.9, 2000), "accuracy": rng.uniform(0.7, 0.8, 2000)}
    found = difference_columns({"macro_f1": 0.7, "accuracy": 0.6}, {"macro_f1": 0.85, "accuracy": 0.75}, draws, base,
                               labels, labels, labels)
    for names, values in (
            (("low", "high"), draws["macro_f1"] - base["macro_f1"]),
            (("keep_low", "keep_high"), draws["macro_f1"] / base["macro_f1"]),
            (("accuracy_difference_low", "accuracy_difference_high"), draws["accuracy"] - base["accuracy"]),
            (("accuracy_keep_low",), draws["accuracy"] / base["accuracy"])):
        expected = np.quantile(values, (0.025, 0.975))[:len(names)]
        assert [found[name] for name in names] == pytest.approx(expected.tolist())
    assert found["keep"] == pytest.approx(0.7 / 0.85) and found["accuracy_keep"] == pytest.approx(0.8)
    assert found["difference"] == pytest.approx(-0.15) and found["same_label_as_baseline"] == 1


def test_percentiles_are_the_median_and_the_slowest_twentieth_and_hundredth():
    assert percentiles("ms", np.arange(101)) == {"ms": 50, "ms_p95": 95, "ms_p99": 99}
