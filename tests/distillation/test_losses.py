"""Each loss on logits against a computation by hand, or an equality that its paper promises."""

import math

import pytest
import torch
import torch.nn.functional as F

from distill import kd_loss
from pocketbert.distillation.losses import (
    decoupled_kd_loss,
    decoupled_soft_loss,
    label_loss,
    logit_mse_loss,
    mse_kd_loss,
    split_at_target,
)

STUDENT = torch.tensor([[1.0, 0.0, -1.0, 0.3], [0.5, 0.5, 2.0, -0.7]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 3.0, 0.5]])
GOLD = torch.tensor([0, 1])
SURE = 50.0 * torch.eye(4)[:2]


def softmax(row, temperature=1.0):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def soft_target_loss(student, teacher, temperature=2.0):
    """Hinton's term alone."""
    return kd_loss(student, teacher, torch.zeros(len(student), dtype=torch.long), temperature, alpha=1.0)


def test_soft_target_loss_at_temperature_1_is_cross_entropy_minus_the_teachers_entropy():
    p = F.softmax(TEACHER, dim=-1)
    cross_entropy, entropy = F.cross_entropy(STUDENT, p), -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(soft_target_loss(STUDENT, TEACHER, 1.0), cross_entropy - entropy)


def test_logit_mse_equals_plain_numbers():
    total = 0.0
    for s, t in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        total += sum((a - sum(s) / 4 - b + sum(t) / 4) ** 2 for a, b in zip(s, t, strict=True)) / 2 / 4
    assert logit_mse_loss(STUDENT, TEACHER).item() == pytest.approx(total / 2, rel=1e-6)


def test_logit_mse_does_not_see_a_number_added_to_all_logits_of_a_text():
    shifted = TEACHER + torch.tensor([[100.0], [-7.0]])
    torch.testing.assert_close(logit_mse_loss(STUDENT, shifted), logit_mse_loss(STUDENT, TEACHER), rtol=1e-5, atol=1e-5)


def test_logit_mse_is_what_soft_target_loss_becomes_at_high_temperature():
    student, teacher = STUDENT.double(), TEACHER.double()
    torch.testing.assert_close(soft_target_loss(student, teacher, 1e4), logit_mse_loss(student, teacher),
                               rtol=1e-3, atol=0)


def by_hand_tckd_nckd(student, teacher, label, temperature):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    others = [i for i in range(len(p)) if i != label]
    tckd = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
    nckd = kl([p[i] / (1 - p[label]) for i in others], [q[i] / (1 - q[label]) for i in others])
    return tckd, nckd, p[label]


def test_decoupled_loss_equals_plain_numbers():
    total = 0.0
    for s, t, label in zip(STUDENT.tolist(), TEACHER.tolist(), GOLD.tolist(), strict=True):
        tckd, nckd, _ = by_hand_tckd_nckd(s, t, label, 4.0)
        total += 4.0 ** 2 * (0.5 * tckd + 3.0 * nckd)
    loss = decoupled_soft_loss(STUDENT, TEACHER, GOLD, 4.0, tckd_weight=0.5, nckd_weight=3.0)
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


@pytest.mark.parametrize("row", [0, 1])
def test_with_weight_1_minus_p_target_decoupled_loss_is_hintons(row):
    """The paper's identity, KL = TCKD + (1 - p_t) NCKD, text by text because p_t differs."""
    student, teacher, gold = STUDENT[row:row + 1], TEACHER[row:row + 1], GOLD[row:row + 1]
    p_target = F.softmax(teacher / 2.0, dim=-1)[0, gold[0]].item()
    loss = decoupled_soft_loss(student, teacher, gold, 2.0, tckd_weight=1.0, nckd_weight=1 - p_target)
    torch.testing.assert_close(loss, soft_target_loss(student, teacher, 2.0))


def test_second_term_of_the_decoupled_loss_is_exactly_zero_for_two_labels():
    student, teacher = STUDENT[:, :2], TEACHER[:, :2]
    assert decoupled_soft_loss(student, teacher, GOLD, 2.0, tckd_weight=0.0, nckd_weight=8.0) == 0
    torch.testing.assert_close(decoupled_soft_loss(student, teacher, GOLD, 2.0),
                               soft_target_loss(student, teacher, 2.0))


@pytest.mark.parametrize("sign", [1, -1])
def test_decoupled_loss_and_its_gradient_are_finite_for_logits_of_50(sign):
    student = (sign * SURE).requires_grad_()
    loss = decoupled_soft_loss(student, SURE, GOLD, 1.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert split_at_target(SURE, GOLD)[0][0, 1].item() == pytest.approx(math.log(3) - 50)


def test_text_without_a_label_has_the_teachers_best_label_as_its_target():
    student, best = STUDENT.flip(0), TEACHER.argmax(-1)
    assert best.tolist() == [0, 2] and student.argmax(-1).tolist() == [2, 0]
    assert torch.equal(decoupled_soft_loss(student, TEACHER, torch.tensor([0, -1])),
                       decoupled_soft_loss(student, TEACHER, best))


SOFT_LOSSES = [soft_target_loss, logit_mse_loss, lambda s, t, *T: decoupled_soft_loss(s, t, GOLD, *T)]


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=["kl", "mse", "dkd"])
def test_soft_loss_of_a_perfect_student_is_zero_and_the_teacher_gets_no_gradient(loss):
    student, teacher = (TEACHER.clone().requires_grad_() for _ in range(2))
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6 and teacher.grad is None


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=["kl", "mse", "dkd"])
def test_doubling_the_batch_does_not_change_a_soft_loss(loss):
    if loss not in SOFT_LOSSES[:2]:
        def loss(s, t):
            return decoupled_soft_loss(s, t, GOLD.repeat(len(s) // 2))
    torch.testing.assert_close(loss(STUDENT.repeat(2, 1), TEACHER.repeat(2, 1)), loss(STUDENT, TEACHER))


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=["kl", "mse", "dkd"])
def test_other_label_lists_are_an_error(loss):
    with pytest.raises(ValueError, match="same label list"):
        loss(STUDENT, TEACHER[:, :3])


@pytest.mark.parametrize("loss, soft_loss", [(mse_kd_loss, lambda s, t, labels, T: logit_mse_loss(s, t)),
                                             (decoupled_kd_loss, decoupled_soft_loss)])
def test_other_losses_mix_their_soft_loss_and_the_labels_as_kd_loss_does(loss, soft_loss):
    labels = torch.tensor([0, -1])
    expected = 0.3 * soft_loss(STUDENT, TEACHER, labels, 2.0) + 0.7 * F.cross_entropy(STUDENT[:1], labels[:1]) / 2
    torch.testing.assert_close(loss(STUDENT, TEACHER, labels, 2.0, 0.3), expected)
    assert torch.equal(loss(STUDENT, TEACHER, GOLD, 2.0, 0.0), kd_loss(STUDENT, TEACHER, GOLD, 2.0, 0.0))


def test_texts_without_a_label_add_nothing_to_the_label_loss():
    assert label_loss(STUDENT, torch.tensor([-1, -1])) == 0
    torch.testing.assert_close(label_loss(STUDENT, torch.tensor([-1, 1])), F.cross_entropy(STUDENT[1:], GOLD[1:]) / 2)
