"""A cascade: the small model answers where it is confident, the large one answers the rest.

    answer(text) = small(text)  if max softmax(small's logits) >= threshold,  else  large(text)

Nothing is trained. The threshold is the lowest with which macro-F1, on texts that are never those measured, is at
most --max-drop below the large model's. When such a rule is enough: Jitkrittum et al. 2023, arXiv:2307.02764.
"""

import numpy as np

from pocketbert.evaluation.metrics import confusion_counts, macro_f1

ALL_TO_LARGE = 2.0          # a threshold that no probability reaches


def confidence(logits):
    """The largest probability of each row: (N, num_labels) -> (N,). Only their order matters: no calibration."""
    return logits.cpu().double().softmax(-1).amax(-1)  # float64: in float32 many confident texts are all 1


def cascade_predict(small, large, rows, threshold):
    """(labels (N,), which of the N rows went to the large model (N,) bool).

    small, large: functions from a list of rows to logits (number of rows, num_labels)
    """
    logits = small(rows)
    predicted = logits.argmax(-1)
    to_large = ~(confidence(logits) >= threshold)  # a NaN goes to the large model
    uncertain = to_large.nonzero().flatten().tolist()
    if uncertain:
        predicted[uncertain] = large([rows[i] for i in uncertain]).argmax(-1)
    return predicted, to_large


def choose_threshold(small_logits, large_logits, labels, max_drop):
    """(threshold, share of the texts that the small model answers, the cascade's macro-F1 on these texts).

    The lowest of all thresholds with macro-F1(cascade) >= macro-F1(large) - max_drop. One pass over the texts, from
    the most confident to the least: each text moves from the large model's column of one confusion matrix to the
    small model's.
    """
    certain = confidence(small_logits).numpy()
    small = small_logits.argmax(-1).numpy()
    large = large_logits.argmax(-1).numpy()
    labels = np.asarray(labels)
    confusion = confusion_counts(labels, large, small_logits.shape[1])
    best = ALL_TO_LARGE, 0.0, macro_f1(confusion)
    enough = best[2] - max_drop
    order = np.argsort(-certain, kind="stable")
    for answered, row in enumerate(order, 1):
        confusion[labels[row], large[row]] -= 1
        confusion[labels[row], small[row]] += 1
        if answered < len(order) and certain[order[answered]] == certain[row]:
            continue  # no threshold lies between two equal confidences
        score = macro_f1(confusion)
        if score >= enough:
            best = float(certain[row]), answered / len(order), score
    return best
