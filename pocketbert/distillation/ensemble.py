"""Several teachers become one: each is calibrated on validation texts, then their probabilities are averaged.

    combine(logits, val_logits, labels, val_labels, weights="validation", temperature=2.0)      # (K, N, C) -> (N, C)
"""

import math

import torch
import torch.nn.functional as F

from pocketbert.distillation.losses import centred
from pocketbert.errors import UserError

WEIGHTS = ("mean", "validation", "confidence", "entropy")


def calibrate_temperature(logits, labels, lowest=0.05, highest=20.0):
    """The T with the lowest cross-entropy of softmax(logits / T) on labelled validation texts.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2): the confidence of logits / T matches the
    accuracy as well as one number can make it, and no decision changes. Without it, the most over-confident teacher
    dominates the average.

    The cross-entropy is convex in b = 1/T, so bisection finds the zero of its derivative:

        dCE/db = mean (sum_c softmax(b logits)_c logits_c - logits_label)

    A teacher without errors would get T = 0 and one that is worse than chance T = infinity; hence the bounds.
    logits: (N, C)    labels: (N,)
    """
    logits = logits.double()
    gold = logits.gather(1, labels[:, None]).mean()
    low = 1 / highest
    high = 1 / lowest
    for _ in range(60):
        b = math.sqrt(low * high)
        slope = (F.softmax(b * logits, dim=-1) * logits).sum(dim=-1).mean() - gold
        if slope > 0:
            high = b
        else:
            low = b
    return 1 / math.sqrt(low * high)


def given_weights(weights, num_teachers):
    """One number for each teacher, scaled to the sum 1: (K,). [1] * K is the plain mean."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    if weights.shape != (num_teachers,):
        raise UserError(f"{weights.numel()} weights for {num_teachers} teachers: give one for each")
    if not weights.isfinite().all() or (weights < 0).any() or weights.sum() == 0:
        raise UserError(f"teacher weights {weights.tolist()}: each must be 0 or more, and one above 0")
    return (weights / weights.sum()).float()


def validation_weights(logits, labels, steps=1000):
    """The weights (K,) whose mixture of the teachers has the lowest cross-entropy on labelled validation texts.

    The components of the mixture are fixed, so expectation-maximisation (Dempster et al. 1977) is two lines, and no
    step increases the cross-entropy:

        share[k, n] = w_k p_k(label n) / sum_j w_j p_j(label n)      the responsibility of teacher k for text n
        w_k         = mean over n of share[k, n]

    logits: (K, N, C), calibrated, of texts on which no teacher was trained    labels: (N,)
    """
    log_probs = F.log_softmax(logits.double(), dim=-1)
    log_gold = log_probs.gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]  # (K, N)
    weights = torch.full((len(logits),), 1 / len(logits), dtype=torch.float64, device=logits.device)
    for _ in range(steps):
        before = weights
        weights = F.softmax(weights.log()[:, None] + log_gold, dim=0).mean(dim=1)
        if (weights - before).abs().max() < 1e-9:
            break
    return weights.float()


def entropy_weights(logits):
    """For each text, more weight for the more confident teacher: w_k = (1 - H_k / sum_j H_j) / (K - 1), (K, N).

    H_k: the entropy of teacher k's probabilities (Kwon et al. 2020, "Adaptive knowledge distillation based on
    entropy"). No label is needed. Over-confident teachers get too much weight, so calibrate first.
    """
    K = len(logits)
    if K == 1:
        return torch.ones(logits.shape[:2], device=logits.device)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    total = entropy.sum(dim=0)
    # Where every teacher has an entropy of 0: equal shares instead of 0 / 0.
    share = torch.where(total > 0, entropy / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / K)
    return (1 - share) / (K - 1)


def confidence_weights(logits, labels):
    """For each text, more weight for the teacher that is nearer to its label: w_k = (1 - softmax_k(CE_k)) / (K - 1).

    CE_k: the cross-entropy of teacher k on this text (CA-MKD, Zhang et al. 2022, arXiv:2201.00007).
    A text without a label (-1) gets its entropy_weights. (K, N), with the sum 1 over K. No teacher can get more than
    1 / (K - 1): with two teachers one can get all the weight, with three at most a half.
    """
    K = len(logits)
    if K == 1:
        return torch.ones(logits.shape[:2], device=logits.device)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    gold = labels.clamp_min(0).expand(K, -1)[..., None]
    cross_entropy = -log_probs.gather(2, gold)[..., 0]
    weights = (1 - F.softmax(cross_entropy, dim=0)) / (K - 1)
    return torch.where(labels < 0, entropy_weights(logits), weights)


def combine_teachers(logits, weights, temperature):
    """Logits (N, C) of one teacher that replaces all K, for a student that is trained at this temperature:

        softmax(combined / T) = sum_k w_k softmax(logits_k / T)

    The teachers are softened first and averaged afterwards. Then the KL to the average and the average of the K Hinton
    losses differ only by a constant that does not depend on the student, so their gradients are equal (You et al. 2017;
    CA-MKD). It is a mean and not a sum, so the weights must sum to 1: a sum of K losses would outweigh the labels.

    logits: (K, N, C), each teacher's divided by its calibrate_temperature    weights: (K,) or (K, N)
    temperature math.inf: the weighted mean of the centred logits, which has the same property for logit_mse_loss.
    """
    if len(logits) == 1:
        return logits[0]
    weights = weights.to(logits).view(len(logits), -1, 1)
    if (weights < 0).any() or (weights.sum(dim=0) - 1).abs().max() > 1e-4:
        raise ValueError("the weights of the teachers must be 0 or more and sum to 1 for every text")
    if math.isinf(temperature):
        return (weights * centred(logits)).sum(dim=0)
    log_probs = F.log_softmax(logits / temperature, dim=-1)
    return temperature * (weights.log() + log_probs).logsumexp(dim=0)


def combine(logits, val_logits, labels, val_labels, weights, temperature):
    """The logits (N, C) of K teachers (K, N, C) combined. The logits of a single teacher are returned unchanged.

    Each teacher is first calibrated on the validation texts; otherwise the most over-confident teacher would dominate
    the average.

    val_logits: (K, validation texts, C)    labels: (N,), -1 where there is none    val_labels: (validation texts,)
    weights: one of WEIGHTS, or K numbers    temperature: the student's
    """
    if len(logits) == 1:
        return logits[0]
    temperatures = torch.tensor([calibrate_temperature(row, val_labels) for row in val_logits])
    logits = logits / temperatures.view(-1, 1, 1)
    val_logits = val_logits / temperatures.view(-1, 1, 1)
    if weights == "mean":
        chosen = given_weights([1.0] * len(logits), len(logits))
    elif weights == "validation":
        chosen = validation_weights(val_logits, val_labels)
    elif weights == "confidence":
        chosen = confidence_weights(logits, labels)
    elif weights == "entropy":
        chosen = entropy_weights(logits)
    else:
        chosen = given_weights(weights, len(logits))
    shares = chosen.view(len(logits), -1).mean(dim=1)
    name = weights if isinstance(weights, str) else "given"
    print(f"teachers: temperatures {', '.join(f'{t:.2f}' for t in temperatures.tolist())}; "
          f"weights ({name}) {', '.join(f'{share:.2f}' for share in shares.tolist())}")
    return combine_teachers(logits, chosen, temperature)
