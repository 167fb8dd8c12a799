"""The score on texts that were damaged a little, as users damage them; and do the texts of a batch disturb each other?

    typos               two neighbouring letters swapped, one doubled or one lost, in every fifth word on average
    lower case          everything in small letters
    no punctuation      letters, digits, @, # and blanks only
    no emoji            emoji and emoticons gone

Seeded by the text itself: the same text is damaged in the same way for every model and in every run.
"""

import random
import re

from pocketbert.evaluation.metrics import confusion_counts, macro_f1
from pocketbert.evaluation.slices import EMOTICON, has_emoji

TYPO_SHARE = 0.2            # of the words with at least four letters
DAMAGED_TEXTS = 500         # a drop of 3 points shows with so many
BATCH_MATES = 256           # texts that are scored alone and in a batch


def typos(text):
    """One slip in a fifth of the longer words: "weather" -> "waether", "weathher" or "weaher"."""
    rng = random.Random(text)
    return re.sub(r"[^\W\d_]{4,}", lambda match: slip(match[0], rng), text)


def slip(word, rng):
    if rng.random() >= TYPO_SHARE:
        return word
    i = rng.randrange(1, len(word) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2:]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    return word[:i] + word[i + 1:]


def no_punctuation(text):
    return re.sub(r"[^\w\s@#]", "", text)


def no_emoji(text):
    return "".join(c for c in EMOTICON.sub(" ", text) if not has_emoji(c))


DAMAGES = {"typos": typos, "lower case": str.lower, "no punctuation": no_punctuation, "no emoji": no_emoji}


def damaged(texts):
    """{name of the damage: (the N texts after it, how many it changed)}; one that changes no text is left out."""
    found = {}
    for name, damage in DAMAGES.items():
        new = [damage(text) for text in texts]
        changed = sum(a != b for a, b in zip(texts, new, strict=True))
        if changed:
            found[name] = new, changed
    return found


def robustness(model, texts, labels, rows, logits, batch_size, max_length):
    """{damage: {"texts", "changed", "macro_f1", "difference"}} of a model on the first DAMAGED_TEXTS texts.

    difference: macro-F1 after the damage minus that before it    rows, logits: of all texts, undamaged
    """
    texts = texts[:DAMAGED_TEXTS]
    labels = labels[:DAMAGED_TEXTS]
    logits = logits[:DAMAGED_TEXTS]
    before = score_of(logits, labels)
    found = {}
    for name, (new, changed) in damaged(texts).items():
        new_rows, _ = model.encode(new, max_length)
        todo = [i for i, row in enumerate(new_rows) if not is_same(row, rows[i])]
        new_logits = logits.clone()
        if todo:
            new_logits[todo] = model.score([new_rows[i] for i in todo], batch_size)
        score = score_of(new_logits, labels)
        found[name] = {"texts": len(texts), "changed": changed, "macro_f1": score, "difference": score - before}
    return found


def is_same(row, other):
    """Are these the same token ids? An uncased tokenizer sees no capitals, so there is nothing to score again."""
    return isinstance(row, list) and row == other


def score_of(logits, labels):
    return macro_f1(confusion_counts(labels, logits.argmax(-1).numpy(), logits.shape[1]))


def batch_mates(model, rows):
    """Does an answer depend on the texts beside it in a batch? {"texts", "labels_changed", "largest_logit_difference"}

    BATCH_MATES texts, evenly spread, are scored alone and in batches of 32. Padding and the sums of another order
    change the last bits of a float model; int8 whose scale is that of a whole batch changes much more.
    rows: the encoded texts
    """
    step = max(1, len(rows) // BATCH_MATES)
    rows = rows[::step][:BATCH_MATES]
    alone = model.score(rows, 1)
    together = model.score(rows, 32)
    return {"texts": len(rows), "labels_changed": float((alone.argmax(-1) != together.argmax(-1)).float().mean()),
            "largest_logit_difference": float((alone - together).abs().max())}
