"""Flips and loyalty against hand computations."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from pocketbert.evaluation.agreement import SHOWN_CHARACTERS, flips, probability_loyalty


def test_probability_loyalty_is_one_minus_scipys_distance():
    """scipy's Jensen-Shannon distance is the square root of the divergence."""
    torch.manual_seed(0)
    logits, other = torch.randn(20, 4), torch.randn(20, 4)
    p, q = logits.softmax(-1).numpy(), other.softmax(-1).numpy()
    wanted = np.mean([1 - jensenshannon(a, b, base=2) for a, b in zip(p, q, strict=True)])
    assert probability_loyalty(logits, other) == pytest.approx(wanted, abs=1e-6)
    assert probability_loyalty(logits, logits + 3) == pytest.approx(1, abs=1e-3)  # a constant changes no probability
    certain = torch.tensor([[200.0, -200.0]])
    assert probability_loyalty(certain, -certain) == pytest.approx(0)


def test_flips_are_what_the_baseline_gets_right_and_the_model_wrong_the_most_confident_first():
    labels = [0, 1, 0, 1, 1]
    baseline = torch.tensor([[2.0, 0], [0, 2.0], [2.0, 0], [2.0, 0], [0, 2.0]])     # wrong on the fourth only
    model = torch.tensor([[2.0, 0], [1.0, 0], [0, 3.0], [0, 1.0], [0, 1.0]])        # wrong on the second and third
    found = flips(["a", "b", "c" * 500, "d", "e"], labels, model, baseline, ["no", "yes"])
    assert (found["broken"], found["fixed"], found["of"]) == (2, 1, 5)
    first, second = found["examples"]
    assert (first["label"], first["baseline"], first["model"]) == ("no", "no", "yes")
    assert first["confidence"] == pytest.approx(float(torch.tensor([0, 3.0]).softmax(-1)[1]))
    assert len(first["text"]) == SHOWN_CHARACTERS and second["text"] == "b"
