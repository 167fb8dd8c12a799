"""The distillation loss against a computation by hand, and what surrounds it."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_model

from distill import cached_logits, kd_loss, layers_of_teacher

STUDENT = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
GOLD = torch.tensor([0, 2])


def softmax(row, temperature):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def test_loss_equals_the_formula_worked_out_with_plain_numbers():
    temperature, alpha, total = 3.0, 0.7, 0.0
    for student, teacher, label in zip(STUDENT.tolist(), TEACHER.tolist(), GOLD.tolist(), strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        kl = sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))
        ce = -math.log(softmax(student, 1.0)[label])
        total += alpha * temperature ** 2 * kl + (1 - alpha) * ce
    assert kd_loss(STUDENT, TEACHER, GOLD, temperature, alpha).item() == pytest.approx(total / 2, rel=1e-6)


def test_alpha_0_is_cross_entropy_whatever_the_teacher_says():
    assert torch.equal(kd_loss(STUDENT, TEACHER, GOLD, 4.0, alpha=0.0), F.cross_entropy(STUDENT, GOLD))


def test_alpha_1_ignores_the_labels():
    assert torch.equal(kd_loss(STUDENT, TEACHER, GOLD, 2.0, 1.0), kd_loss(STUDENT, TEACHER, 2 - GOLD, 2.0, 1.0))


def test_student_that_equals_its_teacher_has_no_soft_loss_and_no_gradient():
    student = TEACHER.clone().requires_grad_()
    loss = kd_loss(student, TEACHER, GOLD, 2.0, alpha=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6


def test_soft_gradient_is_t_times_the_difference_of_the_softened_probabilities():
    """d/dz T^2 KL = T (softmax(z/T) - softmax(t/T)), averaged over the batch."""
    for temperature in (1.0, 2.0, 5.0):
        student = STUDENT.clone().requires_grad_()
        kd_loss(student, TEACHER, GOLD, temperature, alpha=1.0).backward()
        difference = F.softmax(STUDENT / temperature, -1) - F.softmax(TEACHER / temperature, -1)
        torch.testing.assert_close(student.grad, temperature * difference / len(GOLD), atol=1e-6, rtol=1e-5)


def test_high_temperature_gradient_does_not_vanish_but_matches_centred_logits():
    """Hinton et al., equation 4: as T grows, T^2 KL becomes the squared difference of centred logits, over 2C."""
    student = STUDENT.double().requires_grad_()
    kd_loss(student, TEACHER.double(), GOLD, 1e3, alpha=1.0).backward()
    centred = [x - x.mean(-1, keepdim=True) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(student.grad.float(), (centred[0] - centred[1]) / 3 / len(GOLD), atol=1e-3, rtol=1e-2)


def test_no_gradient_flows_into_the_teacher():
    teacher = TEACHER.clone().requires_grad_()
    kd_loss(STUDENT.clone().requires_grad_(), teacher, GOLD).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("wrong", [dict(temperature=0.0), dict(alpha=1.5), dict(alpha=-0.1)])
def test_impossible_temperature_or_alpha_is_an_error(wrong):
    with pytest.raises(ValueError):
        kd_loss(STUDENT, TEACHER, GOLD, **wrong)


def test_other_label_lists_are_an_error():
    with pytest.raises(ValueError, match="same label list"):
        kd_loss(STUDENT, TEACHER[:, :2], GOLD)


def test_teacher_is_asked_once_for_each_text_whatever_the_order(tmp_path):
    asked = []

    def teacher(texts):
        asked.extend(texts)
        return torch.tensor([[float(len(text)), 0.0] for text in texts])

    cache = tmp_path / "logits.safetensors"
    first = cached_logits(cache, ["a", "bb", "a"], teacher)
    second = cached_logits(cache, ["ccc", "bb", "\ud800"], teacher)
    assert first.tolist() == [[1, 0], [2, 0], [1, 0]] and second.tolist() == [[3, 0], [2, 0], [1, 0]]
    assert asked == ["a", "bb", "ccc", "\ud800"]


def test_student_of_all_the_teachers_layers_is_the_teacher(padded_batch):
    teacher = random_model()
    assert torch.equal(layers_of_teacher("teacher:layers=0,1,2", teacher)(*padded_batch), teacher(*padded_batch))


def test_student_of_some_layers_has_these_and_leaves_the_teacher_alone():
    teacher = random_model()
    student = layers_of_teacher("teacher:layers=0,2", teacher)
    assert len(teacher.layers) == 3 and student.config.heads_per_layer == [4, 4]
    assert torch.equal(student.layers[1].ffn.up.weight, teacher.layers[2].ffn.up.weight)
    student.layers[1].ffn.up.weight.data.zero_()
    assert teacher.layers[2].ffn.up.weight.abs().sum() > 0


@pytest.mark.parametrize("recipe", ["teacher:layers=0,9", "teacher:layers=", "teacher:layers=2,0", "teacher:depth=3",
                                    "teacher:layers=0,-1"])
def test_impossible_layers_are_an_error_that_says_what_is_possible(recipe):
    with pytest.raises(ValueError, match="from 0 to 2"):
        layers_of_teacher(recipe, random_model())


