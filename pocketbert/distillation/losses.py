"""Two losses on logits that can take the place of `kd_loss` in distill.py: `--loss mse` and `--loss decoupled`.

All three have the same signature, loss(student_logits, teacher_logits, labels, temperature, alpha), and the same form:

    loss = alpha * soft_loss(student, teacher) + (1 - alpha) * cross_entropy(student, labels)

so a new loss is one more function here and one more choice in distill.py.
"""

import torch
import torch.nn.functional as F


def check_same_shape(student_logits, teacher_logits):
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {tuple(student_logits.shape)} and teacher logits "
                         f"{tuple(teacher_logits.shape)} differ: do both models have the same label list?")


def label_loss(student_logits, labels):
    """Cross-entropy with the labels, summed over the labelled texts and divided by the number of all texts.

    labels: (B,) int64, -1 where there is no label: such a text adds nothing. Nats per text.
    """
    return F.cross_entropy(student_logits, labels, ignore_index=-1, reduction="sum") / len(labels)


def mse_kd_loss(student_logits, teacher_logits, labels, temperature=None, alpha=0.5):
    """alpha * logit_mse_loss + (1 - alpha) * cross-entropy; there is no temperature."""
    hard_loss = label_loss(student_logits, labels)
    return alpha * logit_mse_loss(student_logits, teacher_logits) + (1 - alpha) * hard_loss


def decoupled_kd_loss(student_logits, teacher_logits, labels, temperature=2.0, alpha=0.5):
    """alpha * decoupled_soft_loss + (1 - alpha) * cross-entropy."""
    hard_loss = label_loss(student_logits, labels)
    return alpha * decoupled_soft_loss(student_logits, teacher_logits, labels, temperature) + (1 - alpha) * hard_loss


def centred(logits):
    """The logits of each text minus their mean. The softmax does not change."""
    return logits - logits.mean(dim=-1, keepdim=True)


def logit_mse_loss(student_logits, teacher_logits):
    """1/2 mean (student - teacher)^2 of the centred logits, over labels and texts.

    Regression on logits (Ba and Caruana 2014, arXiv:1312.6184; Tang et al. 2019, arXiv:1903.12136). With the factor
    1/2 and the mean over labels, it is the limit of T^2 KL for large T (Hinton et al. 2015, equation 4), so alpha keeps
    its meaning. The logits are centred because a constant added to all logits of a text changes no probability.
    """
    check_same_shape(student_logits, teacher_logits)
    return 0.5 * F.mse_loss(centred(student_logits), centred(teacher_logits.detach()))


def split_at_target(logits, labels):
    """log-probabilities of (the target, any other label) (B, 2), and among the other labels alone (B, C - 1)."""
    is_target = F.one_hot(labels, logits.shape[-1]).bool()
    others = logits[~is_target].view(len(logits), -1)
    # logsumexp instead of log(1 - p): for a confident teacher, 1 - p rounds to 0 in float32 and its log is -inf.
    target_or_not = torch.stack([logits[is_target], others.logsumexp(dim=-1)], dim=-1)
    return F.log_softmax(target_or_not, dim=-1), F.log_softmax(others, dim=-1)


def decoupled_soft_loss(student_logits, teacher_logits, labels, temperature=4.0, tckd_weight=1.0, nckd_weight=8.0):
    """T^2 (tckd_weight * TCKD + nckd_weight * NCKD) (Zhao et al. 2022, arXiv:2203.08679).

    With p_t the teacher's softened probability of the target, Hinton's KL is the sum of two terms:

        KL = TCKD + (1 - p_t) NCKD      TCKD: KL between the two pairs (p_t, 1 - p_t)
                                        NCKD: KL between the distributions over the other labels

    The factor 1 - p_t suppresses NCKD where the teacher is confident. Here both terms have weights of their own; 1, 8
    and T = 4 are the paper's values for the 100 labels of CIFAR-100. With two labels there is only one other label, of
    probability 1: NCKD is 0 and the loss is Hinton's. For a text without a label (-1), the teacher's most probable
    label is the target. Nats per text.
    """
    check_same_shape(student_logits, teacher_logits)
    teacher_logits = teacher_logits.detach()
    target = torch.where(labels < 0, teacher_logits.argmax(dim=-1), labels)
    student_target, student_others = split_at_target(student_logits / temperature, target)
    teacher_target, teacher_others = split_at_target(teacher_logits / temperature, target)
    tckd = F.kl_div(student_target, teacher_target, reduction="batchmean", log_target=True)
    nckd = F.kl_div(student_others, teacher_others, reduction="batchmean", log_target=True)
    return temperature ** 2 * (tckd_weight * tckd + nckd_weight * nckd)
