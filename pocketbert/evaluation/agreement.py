"""Which texts a small model gets wrong that its baseline gets right, and how much the two agree.

    flips(...)                  texts that were right and are wrong now, the most confident ones with their words
    probability_loyalty(...)    1 - sqrt(JS) of the two models' probabilities (Xu et al. 2021, arXiv:2109.03228)

Two models with the same score can be wrong on different texts: users notice each answer that has changed.
"""

import math

import torch

EXAMPLES = 10               # flips whose texts are shown
SHOWN_CHARACTERS = 300      # of a text


def probability_loyalty(logits, baseline_logits):
    """The mean over texts of 1 - sqrt(JS(p, q)), in [0, 1]; 1: the same probabilities for every text.

        JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2,    m = (p + q) / 2,    in bits, so that JS <= 1

    logits, baseline_logits: (N, num_labels)    (Xu et al. 2021, section 3.2)
    """
    p = logits.double().softmax(-1)
    q = baseline_logits.double().softmax(-1)
    m = (p + q) / 2
    js = (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum(-1) / (2 * math.log(2))
    return float((1 - js.clamp(0, 1).sqrt()).mean())


def flips(texts, labels, logits, baseline_logits, label_names, examples=EXAMPLES):
    """What changed for the worse and for the better.

    {"broken": texts that the baseline gets right and this model wrong, "fixed": the reverse, "of": number of texts,
     "examples": [{"text", "label", "baseline", "model", "confidence"}]}

    examples: the broken texts on which this model is most confident, which no threshold would catch.
    """
    labels = torch.as_tensor(labels)
    probabilities = logits.double().softmax(-1)
    predicted = logits.argmax(-1)
    was = baseline_logits.argmax(-1)
    broken = ((was == labels) & (predicted != labels)).nonzero().flatten()
    fixed = (was != labels) & (predicted == labels)
    confidence = probabilities.amax(-1)
    worst = sorted(broken.tolist(), key=lambda row: -float(confidence[row]))[:examples]
    shown = [{"text": shorten(texts[row]), "label": label_names[labels[row]], "baseline": label_names[was[row]],
              "model": label_names[predicted[row]], "confidence": float(confidence[row])} for row in worst]
    return {"broken": len(broken), "fixed": int(fixed.sum()), "of": len(labels), "examples": shown}


def shorten(text):
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS - 1] + "…"
