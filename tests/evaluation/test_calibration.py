"""Bins, ECE and temperature against plain loops and known temperatures."""

import numpy as np
import pytest
import torch

from pocketbert.evaluation.calibration import ece, fit_temperature, reliability


def sampled(temperature, texts=20_000):
    """Logits whose softmax at `temperature` is the true distribution of the labels drawn here."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(texts, 3)
    labels = torch.multinomial((logits / temperature).softmax(-1), 1).flatten()
    return logits, labels.numpy()


def test_ece_is_a_plain_loop_over_fifteen_bins():
    logits, labels = sampled(2.0, 300)
    probabilities = logits.double().softmax(-1).numpy()
    total = 0
    for b in range(15):
        inside = [i for i, row in enumerate(probabilities) if b / 15 < row.max() <= (b + 1) / 15]
        if inside:
            right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            total += len(inside) / 300 * abs(right - np.mean([probabilities[i].max() for i in inside]))
    bins = reliability(logits, labels)
    assert ece(bins) == pytest.approx(total) and sum(row["texts"] for row in bins) == 300 and len(bins) == 15


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found_and_leaves_no_calibration_error(temperature):
    logits, labels = sampled(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.04)
    assert ece(reliability(logits / found, labels)) < 0.015
    if temperature != 1:
        assert ece(reliability(logits, labels)) > 0.04


def test_a_model_that_is_always_right_gets_the_coldest_temperature_and_no_error():
    logits = torch.eye(3)[[0, 1, 2, 1]]
    assert fit_temperature(logits, [0, 1, 2, 1]) == pytest.approx(1 / 20, rel=1e-3)
    assert ece(reliability(100 * logits, [0, 1, 2, 1])) == pytest.approx(0)
