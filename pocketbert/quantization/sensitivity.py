"""Which matrices suffer most from a format, and how many of them must stay in fp32 to keep the score."""

import copy

import torch.nn.functional as F

from pocketbert.models.stored import replace_module
from pocketbert.quantization.plan import with_stored


def divergence(reference_logits, logits):
    """Mean KL(fp32 || quantized) in nats. It sees changes of the probabilities that flip no label.

    reference_logits, logits: (N, num_labels)
    """
    log_ratio = reference_logits.log_softmax(-1) - logits.log_softmax(-1)
    return (reference_logits.softmax(-1) * log_ratio).sum(-1).mean().item()


def sensitivity(model, stored, score, labels):
    """[(name, divergence, rise of the cross-entropy)] with one matrix stored at a time, the most sensitive first.

    score: a function from a model to its logits (N, num_labels) on some validation texts    labels: (N,)
    """
    probe = copy.deepcopy(model).eval()
    reference = score(probe)
    loss = F.cross_entropy(reference, labels)
    ranking = []
    for name, module in stored.items():
        original = probe.get_submodule(name)
        replace_module(probe, name, module)
        logits = score(probe)
        replace_module(probe, name, original)
        ranking.append((name, divergence(reference, logits), (F.cross_entropy(logits, labels) - loss).item()))
    return sorted(ranking, key=lambda row: -row[1])


def keep_sensitive(model, stored, ranking, max_drop, validate):
    """Keep matrices in fp32, the most sensitive first, until the macro-F1 is at most `max_drop` below the model's.

    ranking: from `sensitivity`    validate: a function from a model to {"macro_f1": ...}
    Returns (the stored modules that are left, the names of the kept matrices).
    """
    wanted = validate(model)["macro_f1"] - max_drop
    stored = dict(stored)
    kept = []
    while True:
        macro_f1 = validate(with_stored(model, stored))["macro_f1"]
        print(f"  {len(kept)} of {len(ranking)} matrices kept in fp32: macro-F1 {macro_f1:.4f} (wanted: {wanted:.4f})")
        if macro_f1 >= wanted or len(kept) == len(ranking):
            return stored, kept
        name = ranking[len(kept)][0]
        del stored[name]
        kept.append(name)
