"""Which words decided? Two answers with nothing in common but the question, so that each checks the other.

f(x) is the log-odds of the label that the model gave: how strongly it prefers this label to all others together.

    f(x) = log p / (1 - p) = z_label - log sum of exp z_j over the other labels j

Both compare a word with its absence: its tokens become the mask token (the unknown token, where there is no mask).

    occlusion              a_i = f(x) - f(x without word i)
        Take one word away and look (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2, for pictures; Li et al.
        2016, arXiv:1612.08220, for words). Any model can be asked, also an exported graph. Two words of which either
        is enough both get 0.

    integrated gradients   a_i = (x_i - x'_i) . integral over s from 0 to 1 of df/dx_i at x' + s (x - x')
        x are the vectors that leave the embedding layer, x' those of the text without any word. The gradients along
        the way from x' to x add up to the whole difference (Sundararajan et al. 2017, arXiv:1703.01365):

            sum of a_i = f(x) - f(x')     ("completeness": the words share out the log-odds among them)

A positive a_i speaks for the label, a negative one against it; the unit is nats of log-odds.
"""

import copy
import re
from dataclasses import dataclass

import torch

from pocketbert.data.tokenizer import well_formed
from pocketbert.data.tweets import CLEANERS
from pocketbert.errors import UserError
from pocketbert.models.predict import predict

# A word is what stands between blanks; Thai, Japanese and Chinese have none, so there each character is one.
NO_BLANKS = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{NO_BLANKS}]|[^\s{NO_BLANKS}]+")


@dataclass
class Words:
    """A text as a model reads it.

    text     after cleaning
    spans    (start, end) of each word in the text
    ids      token ids, special tokens included, cut at the model's length
    tokens   for each word the places of its tokens in ids; [] for a word behind the cut
    absent   ids with every word's tokens replaced by the token that says nothing
    """

    text: str
    spans: list
    ids: list
    tokens: list
    absent: list


def read_words(tokenizer, text, max_length):
    """The Words of a text."""
    text = CLEANERS[tokenizer.cleaning](well_formed(text))
    spans = [match.span() for match in WORD.finditer(text)]
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    room = max_length - len(tokenizer.prefix) - len(tokenizer.suffix)
    middle = [i if i < tokenizer.vocab_size else tokenizer.unk_id for i in encoding.ids[:room]]
    tokens = [[] for _ in spans]
    word = 0
    for place, (start, _) in enumerate(encoding.offsets[:room], len(tokenizer.prefix)):
        while word < len(spans) - 1 and spans[word][1] <= start:
            word += 1
        if spans:
            tokens[word].append(place)
    nothing = [nothing_id(tokenizer)] * len(middle)
    return Words(text, spans, tokenizer.prefix + middle + tokenizer.suffix, tokens,
                 tokenizer.prefix + nothing + tokenizer.suffix)


def nothing_id(tokenizer):
    """The id of the mask token, else of the unknown token."""
    ids = (tokenizer.backend.token_to_id(token) for token in ("[MASK]", "<mask>"))
    return next((i for i in ids if i is not None and i < tokenizer.vocab_size), tokenizer.unk_id)


def log_odds(logits, label):
    """z_label - log sum of exp of the others: (..., num_labels) -> (...)"""
    others = [i for i in range(logits.shape[-1]) if i != label]
    return logits[..., label] - logits[..., others].logsumexp(-1)


def occlusion(model, words, label, pad_id, batch_size=32):
    """f(x) - f(x without word i) of each word; one forward pass a word, in batches. A word behind the cut gets 0."""
    rows = [words.ids]
    for places in words.tokens:
        row = list(words.ids)
        for place in places:
            row[place] = words.absent[place]
        rows.append(row)
    scores = log_odds(predict(model, rows, batch_size, pad_id), label)
    return (scores[0] - scores[1:]).tolist()


def integrated_gradients(model, words, label, steps=16, batch_size=16):
    """(a_i of each word, what completeness misses: the sum of a_i - (f(x) - f(x'))).

    steps: points of the midpoint rule at which the gradient is taken; what is missed falls with their square
    """
    check_gradients(model)
    ids, absent = (torch.tensor([row], device=model.device) for row in (words.ids, words.absent))
    with torch.no_grad():
        end, start = model.embeddings(ids), model.embeddings(absent)  # (1, T, C)
        whole = log_odds(model(ids), label) - log_odds(model(absent), label)
    total = torch.zeros_like(end)
    points = (torch.arange(steps, device=end.device, dtype=end.dtype) + 0.5) / steps
    for some in points.split(batch_size):
        x = (start + some[:, None, None] * (end - start)).requires_grad_()
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent networks have no gradient in eval mode
            score = log_odds(starting_from(model, x)(ids.expand(len(some), -1)), label).sum()
            total += torch.autograd.grad(score, x)[0].sum(dim=0)
    per_token = ((end - start) * total / steps).sum(dim=-1)[0]  # (T,)
    per_word = [float(per_token[places].sum()) for places in words.tokens]
    return per_word, float(per_token.sum() - whole)


def starting_from(model, x):
    """A model that shares the weights, and whose embedding layer gives x whatever the token ids.

    The model itself stays as it is: other threads may call it meanwhile.
    """
    embeddings = copy.copy(model.embeddings)
    embeddings.forward = lambda input_ids: x
    view = copy.copy(model)
    view._modules = {**model._modules, "embeddings": embeddings}
    return view


def check_gradients(model):
    """Raise a UserError for a model that has no gradient."""
    if not isinstance(model, torch.nn.Module):
        raise UserError("integrated gradients need a model of torch; this one is an exported graph")
    if any(getattr(module, "kind", "") == "int8_linear" for module in model.modules()):
        raise UserError("integrated gradients need matrices with a gradient; those of this model are int8")
