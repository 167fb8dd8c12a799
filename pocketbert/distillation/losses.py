"""Losses on logits."""

import torch
import torch.nn.functional as F


def check_logits(student_logits, teacher_logits, temperature):
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {tuple(student_logits.shape)} and teacher logits "
                         f"{tuple(teacher_logits.shape)} differ: do both models have the same label list?")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0")


def soft_target_loss(student_logits, teacher_logits, temperature=2.0):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Nats per text. T^2 undoes the 1/T^2 that softening puts on the gradient.
    """
    check_logits(student_logits, teacher_logits, temperature)
    soft_targets = F.softmax(teacher_logits.detach() / temperature, dim=-1)
    log_probs = F.log_softmax(student_logits / temperature, dim=-1)
    # "batchmean": "mean" would also divide by num_labels.
    return F.kl_div(log_probs, soft_targets, reduction="batchmean") * temperature ** 2


def centred(logits):
    """The logits of each text minus their mean: softmax cannot see the difference."""
    return logits - logits.mean(dim=-1, keepdim=True)


def logit_mse_loss(student_logits, teacher_logits, temperature=None):
    """1/2 mean (student - teacher)^2 of the centred logits, over labels and texts; there is no temperature.

    Regression on logits (Ba and Caruana 2014, arXiv:1312.6184; Tang et al. 2019, arXiv:1903.12136). The half and the
    mean over labels make it what soft_target_loss becomes as T grows (Hinton et al., equation 4), so the weight of
    the soft targets keeps its meaning. Centred, because a teacher may add any number to all logits of a text.
    """
    check_logits(student_logits, teacher_logits, temperature=1.0)
    return 0.5 * F.mse_loss(centred(student_logits), centred(teacher_logits.detach()))


def split_at_target(logits, labels):
    """log-probabilities of (the target, any other label) (B, 2), and among the other labels alone (B, C - 1)."""
    is_target = F.one_hot(labels, logits.shape[-1]).bool()
    others = logits[~is_target].view(len(logits), -1)
    # logsumexp, not log(1 - p): with a sure teacher, 1 - p is 0 in float32 and its logarithm is not a number.
    target_or_not = torch.stack([logits[is_target], others.logsumexp(dim=-1)], dim=-1)
    return F.log_softmax(target_or_not, dim=-1), F.log_softmax(others, dim=-1)


def decoupled_kd_loss(student_logits, teacher_logits, labels, temperature=4.0, tckd_weight=1.0, nckd_weight=8.0):
    """T^2 (tckd_weight * TCKD + nckd_weight * NCKD) (Zhao et al. 2022, arXiv:2203.08679).

    With p_t the teacher's softened probability of the target, Hinton's loss is the sum of two:

        KL = TCKD + (1 - p_t) NCKD      TCKD: KL of (p_t, 1 - p_t), "how sure?"
                                        NCKD: KL among the other labels, "what else could it be?"

    and the factor silences the second where the teacher is sure. Here both have weights of their own; 1, 8 and T = 4
    are the paper's, for the 100 labels of CIFAR-100. With two labels there is one other, of probability 1: NCKD is 0,
    and what is left is Hinton's loss. A text without a label (-1) has the teacher's best label for its target.
    Nats per text.
    """
    check_logits(student_logits, teacher_logits, temperature)
    teacher_logits = teacher_logits.detach()
    target = torch.where(labels < 0, teacher_logits.argmax(dim=-1), labels)
    student_target, student_others = split_at_target(student_logits / temperature, target)
    teacher_target, teacher_others = split_at_target(teacher_logits / temperature, target)
    tckd = F.kl_div(student_target, teacher_target, reduction="batchmean", log_target=True)
    nckd = F.kl_div(student_others, teacher_others, reduction="batchmean", log_target=True)
    return temperature ** 2 * (tckd_weight * tckd + nckd_weight * nckd)
