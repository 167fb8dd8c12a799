"""Scores, and whether a difference between two models is real."""

import math

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support


def macro_f1(confusion):
    """Macro-F1 of confusion matrices (..., classes, classes) [true, predicted], as sklearn computes it:
    the mean of 2 TP / (2 TP + FP + FN) over the classes that occur among the true or the predicted labels."""
    true_positive = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)  # 2 TP + FP + FN
    f1 = np.divide(2 * true_positive, total, out=np.zeros(total.shape), where=total > 0)
    return f1.sum(axis=-1) / (total > 0).sum(axis=-1)


def confusion_matrix(labels, predicted, num_labels):
    """(classes, classes) counts: row = true class, column = predicted class."""
    pairs = np.asarray(labels) * num_labels + np.asarray(predicted)
    return np.bincount(pairs, minlength=num_labels ** 2).reshape(num_labels, num_labels)


def paired_bootstrap(labels, predicted, baseline, num_labels, draws=2000, seed=0):
    """95 % interval of macro-F1(predicted) - macro-F1(baseline), both scored on the same redrawn texts.

    Drawing the texts once for both models removes what the texts' difficulty adds to the noise
    (Efron and Tibshirani 1993, chapter 13: the percentile interval).
    """
    labels, predicted, baseline = map(np.asarray, (labels, predicted, baseline))
    rng, differences = np.random.default_rng(seed), np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(len(labels), size=len(labels))
        differences[i] = (macro_f1(confusion_matrix(labels[drawn], predicted[drawn], num_labels))
                          - macro_f1(confusion_matrix(labels[drawn], baseline[drawn], num_labels)))
    return tuple(float(x) for x in np.quantile(differences, (0.025, 0.975)))


# Student's t: 97.5 % quantiles for 1, 2, 3 ... degrees of freedom; normal from 30 on.
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
               2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 1.960]


def t_interval(values):
    """(mean, low, high): the 95 % interval of the mean of a few runs, mean +- t * s / sqrt(n); one run: no width."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values[0]), math.nan, math.nan
    half = T_QUANTILES[min(len(values) - 1, len(T_QUANTILES)) - 1] * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def mcnemar(labels, predicted, baseline):
    """Exact p-value that two models are right equally often, from the texts on which only one is right."""
    labels, predicted, baseline = map(np.asarray, (labels, predicted, baseline))
    only_new = int(((predicted == labels) & (baseline != labels)).sum())
    only_old = int(((predicted != labels) & (baseline == labels)).sum())
    n = only_new + only_old  # twice the smaller tail of Binomial(n, 1/2)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(only_new, only_old) + 1)) / 2 ** n)


def scores(logits, labels):
    """{"macro_f1", "accuracy", "cross_entropy"} of logits (N, C) against N labels; macro-F1 as in sklearn."""
    predicted = logits.argmax(-1).numpy()
    return {"macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
            "accuracy": float(accuracy_score(labels, predicted)),
            "cross_entropy": float(torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels)))}


def quality(logits, labels, label_names):
    """Scores, per-class scores and confusion matrix of logits (N, classes)."""
    predicted = logits.argmax(-1).numpy()
    ids = range(len(label_names))
    precision, recall, f1, texts = precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0)
    return {**scores(logits, labels),
            "per_class": {name: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                                 "texts": int(texts[i])} for i, name in enumerate(label_names)},
            "confusion": confusion_matrix(labels, predicted, len(label_names)).tolist()}
