"""Scores of one model, and tests of the difference between two.

    scores(logits, labels)                      macro-F1, accuracy and cross-entropy: used by every script
    quality(logits, labels, label_names)        the same, with the scores of each class and the confusion matrix
    mcnemar(labels, predicted, baseline)        the exact p-value that two models are equally often right
    t_interval(values)                          the mean of a few runs and its 95 % interval

sklearn and scipy are imported inside the functions: they take longer to load than `evaluate.py predict` may take to
start.
"""

import math

import numpy as np
import torch


def confusion_counts(labels, predicted, num_labels):
    """(num_labels, num_labels) counts, row = true class, column = predicted class, of two int arrays (N,)."""
    counts = np.bincount(labels * num_labels + predicted, minlength=num_labels ** 2)
    return counts.reshape(num_labels, num_labels)


def macro_f1(confusion):
    """Macro-F1 of a confusion matrix (num_labels, num_labels) [true, predicted]: the mean over all classes of

        F1 = 2 TP / (2 TP + FP + FN),  0 for a class that is neither a true nor a predicted label

    Only for loops that need thousands of scores (the bootstrap, the threshold of a cascade), where sklearn is 20 times
    slower. Every score that is reported comes from `scores`, and a test compares the two.
    """
    true_positive = np.diagonal(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)  # 2 TP + FP + FN
    return float((2 * true_positive / np.maximum(total, 1)).mean())


def scores(logits, labels):
    """{"macro_f1", "accuracy", "cross_entropy"} of logits (N, num_labels) against N labels.

    macro_f1 is the mean over all num_labels classes, also those that do not occur among the labels, so that its
    meaning does not change with the texts. cross_entropy is in nats per text.
    """
    from sklearn.metrics import accuracy_score, f1_score
    predicted = logits.argmax(-1).numpy()
    ids = range(logits.shape[1])
    return {
        "macro_f1": float(f1_score(labels, predicted, labels=ids, average="macro", zero_division=0)),
        "accuracy": float(accuracy_score(labels, predicted)),
        "cross_entropy": float(torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels))),
    }


def quality(logits, labels, label_names):
    """`scores`, and {"per_class", "confusion"} of logits (N, num_labels).

    per_class: {name: {"precision", "recall", "f1", "texts"}}
    confusion: (num_labels, num_labels) counts, row = true class, column = predicted class
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
    predicted = logits.argmax(-1).numpy()
    ids = range(len(label_names))
    precision, recall, f1, texts = precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0)
    per_class = {}
    for i, name in enumerate(label_names):
        per_class[name] = {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                           "texts": int(texts[i])}
    confusion = confusion_matrix(labels, predicted, labels=ids)
    return {**scores(logits, labels), "per_class": per_class, "confusion": confusion.tolist()}


def mcnemar(labels, predicted, baseline):
    """Exact p-value of McNemar's test: are two models right equally often?

    Only the texts on which exactly one of the two is right count. If the models are equally good, each of these is a
    fair coin toss: the p-value is the two-sided binomial test (McNemar 1947; the exact form, not the chi-square one).
    """
    from scipy.stats import binomtest
    is_right = np.asarray(predicted) == np.asarray(labels)
    baseline_is_right = np.asarray(baseline) == np.asarray(labels)
    only_new = int((is_right & ~baseline_is_right).sum())
    only_baseline = int((~is_right & baseline_is_right).sum())
    if only_new + only_baseline == 0:
        return 1.0
    return float(binomtest(only_new, only_new + only_baseline, 0.5).pvalue)


def t_interval(values):
    """(mean, low, high): the 95 % interval of the mean of n runs, mean +- t * s / sqrt(n).

    t is the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom; one run has no interval (NaN).
    """
    from scipy.stats import t
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values[0]), math.nan, math.nan
    half_width = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half_width), float(values.mean() + half_width)
