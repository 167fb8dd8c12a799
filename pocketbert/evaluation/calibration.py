"""Does a probability of 0.9 mean "right nine times out of ten"?

    reliability(logits, labels)         confidence and accuracy in 15 bins: the diagram
    ece(bins)                           their mean distance (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599)
    fit_temperature(logits, labels)     the one number T that makes softmax(logits / T) most honest

Temperature never changes an answer: the largest logit stays the largest.
"""

import torch
import torch.nn.functional as F

BINS = 15
HOTTEST = 20.0              # bounds of the temperature: beyond them a model knows nothing, or is never wrong


def reliability(logits, labels, bins=BINS):
    """[{"confidence", "accuracy", "texts"}] of bins of equal width; an empty one has None in place of numbers.

    Bin b holds the texts whose largest probability lies in ((b) / bins, (b + 1) / bins].
    logits: (N, num_labels)    labels: (N,) class ids
    """
    confidence, predicted = logits.double().softmax(-1).max(-1)
    is_right = (predicted == torch.as_tensor(labels)).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    rows = []
    for b in range(bins):
        inside = bin_of == b
        count = int(inside.sum())
        rows.append({"texts": count, "confidence": float(confidence[inside].mean()) if count else None,
                     "accuracy": float(is_right[inside].mean()) if count else None})
    return rows


def ece(rows):
    """Expected calibration error of `reliability`'s bins, in [0, 1]: the sum of  share * |accuracy - confidence|"""
    total = sum(row["texts"] for row in rows)
    return sum(row["texts"] / total * abs(row["accuracy"] - row["confidence"]) for row in rows if row["texts"])


def fit_temperature(logits, labels, steps=60):
    """The T > 0 that minimises the cross-entropy of softmax(logits / T) against the labels.

    Golden-section search over log T between 1/20 and 20: the cross-entropy is convex in 1 / T, so it has one minimum.
    logits: (N, num_labels) of texts that are neither trained on nor reported    labels: (N,)
    """
    logits = logits.double()
    labels = torch.as_tensor(labels)

    def loss(log_temperature):
        return float(F.cross_entropy(logits / log_temperature.exp(), labels))
    low = -torch.tensor(HOTTEST, dtype=torch.float64).log()
    high = -low
    shrink = (5 ** 0.5 - 1) / 2
    for _ in range(steps):
        left = high - shrink * (high - low)
        right = low + shrink * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(((low + high) / 2).exp())
