"""Several teachers: each is calibrated, then they are averaged."""

import math

import torch
import torch.nn.functional as F

from pocketbert.distillation.losses import centred


def calibrate_temperature(logits, labels, lowest=0.05, highest=20.0):
    """The T with the lowest cross-entropy of softmax(logits / T) on labelled validation texts (Guo et al. 2017,
    arXiv:1706.04599, section 4.2): logits / T are as sure as they are right, and T changes no decision.

    Without it, the over-confident teacher wins every average. Cross-entropy is convex in b = 1/T, so bisection
    finds where its slope is 0: where the logits that softmax(b logits) expects are, on average, those of the labels.

        dCE/db = mean (sum_c softmax(b logits)_c logits_c - logits_label)

    A teacher without a mistake would be given T = 0, one that is worse than dice T = infinity: hence the bounds.
    """
    logits = logits.double()
    gold = logits.gather(1, labels[:, None]).mean()
    low, high = 1 / highest, 1 / lowest
    for _ in range(60):
        b = math.sqrt(low * high)
        slope = (F.softmax(b * logits, dim=-1) * logits).sum(dim=-1).mean() - gold
        low, high = (low, b) if slope > 0 else (b, high)
    return 1 / math.sqrt(low * high)


def given_weights(weights, num_teachers):
    """One number a teacher, scaled to sum 1: (K,). [1] * K is the plain mean."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    if weights.shape != (num_teachers,):
        raise ValueError(f"{weights.numel()} weights for {num_teachers} teachers: give one for each")
    if not weights.isfinite().all() or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(f"teacher weights {weights.tolist()}: each must be 0 or more, and one above 0")
    return (weights / weights.sum()).float()


def validation_weights(logits, labels, steps=1000):
    """The weights (K,) with which the teachers' mean has the lowest cross-entropy on labelled validation texts.

    A mixture whose components are given, so two lines of EM (Dempster et al. 1977), which never make it worse:

        share[k, n] = w_k p_k(label n) / sum_j w_j p_j(label n)      how much of text n is teacher k's merit?
        w_k         = mean over n of share[k, n]

    logits: calibrated, of texts that no teacher was trained on.
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
    """For each text, more weight for the teacher that is surer: w_k = (1 - H_k / sum_j H_j) / (K - 1), (K, N).

    H_k: the entropy of teacher k's probabilities (Kwon et al. 2020, "Adaptive knowledge distillation based on
    entropy"). No label is needed. It believes whoever sounds sure: calibrate first.
    """
    K = len(logits)
    if K == 1:
        return torch.ones(logits.shape[:2], device=logits.device)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    total = entropy.sum(dim=0)
    # No entropy at all, every teacher is perfectly sure: equal shares instead of 0 / 0.
    share = torch.where(total > 0, entropy / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / K)
    return (1 - share) / (K - 1)


def confidence_weights(logits, labels):
    """For each text, more weight for the teacher that is nearer to its label: w_k = (1 - softmax_k(CE_k)) / (K - 1).

    CE_k: the cross-entropy of teacher k on this text (CA-MKD, Zhang et al. 2022, arXiv:2201.00007).
    A text without a label (-1) gets its entropy_weights. (K, N), sum 1 over K; no teacher can get more than
    1 / (K - 1), so with two of them one may get all, with more none does.
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
    """Logits (N, C) of one teacher that stands for all K, for a student that is trained at this temperature:

        softmax(combined / T) = sum_k w_k softmax(logits_k / T)

    Each teacher is softened first and then averaged, because then KL to the average differs from the average of
    the K Hinton losses by a number that does not depend on the student: the same gradients (You et al. 2017; CA-MKD).
    Mean, never sum: K summed losses would drown the labels, so weights must sum to 1.

    logits: (K, N, C), each teacher's divided by its calibrate_temperature    weights: (K,) or (K, N)
    temperature math.inf: the weighted mean of the centred logits, which is the same thing for logit_mse_loss.
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


WEIGHTS = ("mean", "validation", "confidence", "entropy")


def combine(logits, val_logits, labels, val_labels, weights, temperature):
    """One teacher's logits (N, C) out of K teachers' (K, N, C); with one teacher, its own, untouched.

    Each is calibrated first, on validation, because else the most boastful would be heard the most.
    weights: one of WEIGHTS, or numbers    labels: (N,), -1 where there is none    temperature: the student's
    """
    if len(logits) == 1:
        return logits[0]
    own = torch.tensor([calibrate_temperature(row, val_labels) for row in val_logits]).view(-1, 1, 1)
    logits, val_logits = logits / own, val_logits / own
    if weights == "validation":
        chosen = validation_weights(val_logits, val_labels)
    elif weights == "confidence":
        chosen = confidence_weights(logits, labels)
    elif weights == "entropy":
        chosen = entropy_weights(logits)
    else:
        chosen = given_weights([1.0] * len(logits) if weights == "mean" else weights, len(logits))
    shares = chosen.view(len(logits), -1).mean(dim=1)
    print("teachers: temperatures " + ", ".join(f"{t:.2f}" for t in own.flatten().tolist())
          + f"; weights ({weights if isinstance(weights, str) else 'given'}) "
          + ", ".join(f"{share:.2f}" for share in shares.tolist()))
    return combine_teachers(logits, chosen, temperature)
