"""Calibration, the weights of several teachers and their combination, against computations by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from distill import kd_loss
from pocketbert.distillation.ensemble import (
    calibrate_temperature,
    combine,
    combine_teachers,
    confidence_weights,
    entropy_weights,
    given_weights,
    validation_weights,
)
from pocketbert.distillation.losses import logit_mse_loss

STUDENT = torch.tensor([[1.0, 0.0, -1.0, 0.3], [0.5, 0.5, 2.0, -0.7]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 3.0, 0.5]])
SURE = 50.0 * torch.eye(4)[:2]


def softmax(row, temperature=1.0):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_teachers(teachers=3, texts=200, labels=3, seed=0, sharpness=2.0):
    """Logits (teachers, texts, labels) and labels that they get right more often than not."""
    gold = torch.randint(0, labels, (texts,), generator=torch.Generator().manual_seed(seed))
    return sharpness * (F.one_hot(gold, labels) + random_tensor(teachers, texts, labels, seed=seed)), gold


def soft_target_loss(student, teacher, temperature):
    return kd_loss(student, teacher, torch.zeros(len(student), dtype=torch.long), temperature, alpha=1.0)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 10.0])
def test_calibrated_temperature_is_the_best_of_a_grid(sharpness):
    logits, gold = random_teachers(teachers=1, sharpness=sharpness)
    grid = torch.logspace(math.log10(0.05), math.log10(20), 4000).tolist()
    best = min(grid, key=lambda temperature: F.cross_entropy(logits[0].double() / temperature, gold).item())
    assert calibrate_temperature(logits[0], gold) == pytest.approx(best, rel=0.005)


def test_calibration_undoes_a_factor_on_the_logits():
    logits, gold = random_teachers(teachers=1)
    assert calibrate_temperature(3 * logits[0], gold) == pytest.approx(3 * calibrate_temperature(logits[0], gold))


def test_temperature_of_a_teacher_without_mistakes_or_that_is_worse_than_chance_stops_at_the_bounds():
    gold = torch.tensor([0, 1, 2])
    assert calibrate_temperature(torch.eye(3), gold) == pytest.approx(0.05)
    assert calibrate_temperature(-torch.eye(3), gold) == pytest.approx(20)


def test_given_weights_are_scaled_to_sum_1():
    torch.testing.assert_close(given_weights([1, 3], 2), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(given_weights([1] * 3, 3), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("wrong", [[1.0], [1, 2, 3], [-1, 2], [0, 0], [math.nan, 1], [math.inf, 1]])
def test_impossible_weights_are_an_error(wrong):
    with pytest.raises(ValueError, match="weights"):
        given_weights(wrong, 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_weights_equal_a_search_through_all_mixtures_of_two(seed):
    logits, gold = random_teachers(teachers=2, seed=seed)
    p = F.softmax(logits.double(), -1).gather(2, gold.expand(2, -1)[..., None])[..., 0]
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    nll = -(grid[:, None] * p[0] + (1 - grid[:, None]) * p[1]).log().mean(dim=1)
    assert validation_weights(logits, gold)[0].item() == pytest.approx(grid[nll.argmin()].item(), abs=2e-3)


def test_each_step_towards_validation_weights_lowers_the_cross_entropy():
    logits, gold = random_teachers(teachers=4)
    logits[0] *= -1  # a teacher that is worse than chance
    nll = [F.nll_loss(combine_teachers(logits, validation_weights(logits, gold, steps), 1.0), gold).item()
           for steps in range(12)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(nll)) and nll[-1] < nll[0] - 0.01


def test_validation_weights_concentrate_on_a_perfect_teacher():
    logits, gold = random_teachers(teachers=3)
    logits[1] = 30.0 * F.one_hot(gold, 3)
    assert validation_weights(logits, gold)[1] > 0.999


def test_confidence_and_entropy_weights_equal_plain_numbers():
    logits, gold = random_teachers(teachers=3, texts=5)
    by_confidence, by_entropy = confidence_weights(logits, gold), entropy_weights(logits)
    for n in range(5):
        p = [softmax(logits[k, n].tolist()) for k in range(3)]
        shares = softmax([-math.log(p[k][gold[n]]) for k in range(3)])
        entropies = [-sum(x * math.log(x) for x in p[k]) for k in range(3)]
        for k in range(3):
            assert by_confidence[k, n].item() == pytest.approx((1 - shares[k]) / 2, abs=1e-6)
            assert by_entropy[k, n].item() == pytest.approx((1 - entropies[k] / sum(entropies)) / 2, abs=1e-6)


def test_text_without_a_label_is_weighted_by_entropy():
    logits, gold = random_teachers(texts=4)
    gold[2] = -1
    weights = confidence_weights(logits, gold)
    assert torch.equal(weights[:, 2], entropy_weights(logits)[:, 2])
    assert not torch.isclose(weights[:, 0], entropy_weights(logits)[:, 0]).all()


@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_all_weights_of_every_kind_are_positive_and_sum_to_one(teachers):
    logits, gold = random_teachers(teachers)
    for sharpness in (0.0, 1.0, 1e4):  # teachers that know nothing, something, and everything for sure
        for weights in (validation_weights(sharpness * logits, gold), confidence_weights(sharpness * logits, gold),
                        entropy_weights(sharpness * logits), given_weights([2.0] * teachers, teachers)):
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(0), torch.ones(weights.shape[1:]))
            assert teachers > 1 or (weights == 1).all()


def test_one_teacher_is_the_single_teacher_path_to_the_last_bit():
    logits, gold = random_teachers(teachers=1)
    for weights in (given_weights([3], 1), confidence_weights(logits, gold), validation_weights(logits, gold)):
        assert torch.equal(combine_teachers(logits, weights, 2.0), logits[0])


@pytest.mark.parametrize("per_text", [False, True])
def test_combined_teacher_has_the_weighted_mean_of_the_softened_probabilities(per_text):
    logits, gold = random_teachers()
    weights = confidence_weights(logits, gold) if per_text else given_weights([1, 2, 3], 3)
    combined = combine_teachers(logits, weights, temperature=3.0)
    expected = sum(weights[k].view(-1, 1) * F.softmax(logits[k] / 3.0, -1) for k in range(3))
    torch.testing.assert_close(F.softmax(combined / 3.0, -1), expected)


@pytest.mark.parametrize("loss, temperature", [
    (soft_target_loss, 3.0), (lambda s, t, T: logit_mse_loss(s, t), math.inf)])
def test_combined_teacher_gives_the_gradient_of_the_mean_not_of_the_sum_of_the_teachers_losses(loss, temperature):
    logits, _ = random_teachers(texts=6)
    weights, student = given_weights([1, 2, 3], 3), random_tensor(6, 3, seed=9).requires_grad_()
    combined = combine_teachers(logits, weights, temperature)
    one, = torch.autograd.grad(loss(student, combined, temperature), student)
    many, = torch.autograd.grad(sum(w * loss(student, z, temperature) for w, z in zip(weights, logits, strict=True)),
                                student)
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_two_copies_of_a_teacher_give_the_loss_of_one():
    """The mistake of summing teachers: here two copies would teach twice as much."""
    student, combined = STUDENT, combine_teachers(torch.stack([TEACHER, TEACHER]), given_weights([1, 1], 2), 2.0)
    torch.testing.assert_close(soft_target_loss(student, combined, 2.0), soft_target_loss(student, TEACHER, 2.0))


def test_teacher_of_weight_0_adds_nothing_and_confident_teachers_that_disagree_stay_finite():
    logits = torch.stack([SURE, SURE.flip(1), 2 * SURE])
    combined = combine_teachers(logits, torch.tensor([0.5, 0.5, 0.0]), 1.0)
    assert combined.isfinite().all()
    torch.testing.assert_close(F.softmax(combined, -1), (F.softmax(SURE, -1) + F.softmax(SURE.flip(1), -1)) / 2)


def test_weights_that_sum_to_the_number_of_teachers_are_an_error():
    with pytest.raises(ValueError, match="sum to 1"):
        combine_teachers(random_teachers()[0], torch.ones(3), 2.0)


def test_over_confident_teacher_is_calibrated_before_the_average():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (200,))
    good = 2 * F.one_hot(labels, 3) + torch.randn(200, 3)
    bad = F.one_hot(labels, 3) + torch.randn(200, 3)
    plain = combine(torch.stack([good, bad]), torch.stack([good, bad]), labels, labels, "mean", 2.0)
    loud = combine(torch.stack([good, 10 * bad]), torch.stack([good, 10 * bad]), labels, labels, "mean", 2.0)
    torch.testing.assert_close(loud, plain, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("weights", ["validation", "confidence", "entropy", "mean"])
def test_weights_are_those_of_the_function_that_the_name_says(weights):
    torch.manual_seed(0)
    labels, (answers, on_validation) = torch.randint(-1, 3, (50,)), 3 * torch.randn(2, 2, 50, 3)
    gold = torch.randint(0, 3, (50,))
    heat = torch.stack([calibrate_temperature(row, gold) * torch.ones(()) for row in on_validation])
    cool, cool_validation = answers / heat.view(2, 1, 1), on_validation / heat.view(2, 1, 1)
    shares = {"validation": validation_weights(cool_validation, gold), "mean": torch.tensor([0.5, 0.5]),
              "confidence": confidence_weights(cool, labels),
              "entropy": entropy_weights(cool)}[weights]
    torch.testing.assert_close(combine(answers, on_validation, labels, gold, weights, 3.0),
                               combine_teachers(cool, shares, 3.0))
