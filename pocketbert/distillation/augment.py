"""More texts out of few: change a word here and there, and let the teacher say what the new text means.

A student learns from the teacher's probabilities, so a text without a label is as good as one with; what runs out is
texts. Tang et al. 2019 (arXiv:1903.12136) and TinyBERT (arXiv:1909.10351) made ten or twenty out of each:

    text     @ann so GOOD, I love this film!
    swap     @ann so this I love GOOD, film!     two words change places                    } EDA: Wei and Zou 2019,
    delete   @ann so GOOD, I love this           a word goes                                } arXiv:1901.11196
    insert   @ann so GOOD, I movie love ...      a word that is like one of the text's      }
    replace  @ann so GREAT, I love this film!    a word by one that is like it              }
    mask     @ann so GOOD, I [MASK] this film!   a word by the tokenizer's mask             ) Tang et al.
    ngram    GOOD, I love                        one to five words in a row                 )

Which words are alike? Those that lie near to each other in the teacher's own embedding table: no dictionary, no
download. Mind that near there means "stands among the same words", and so "bad" is a neighbour of "good". A new text
must never inherit the label of the old one: the teacher reads it, and labels it.

    synonyms = similar_words(teacher.embeddings.word.weight, tokenizer, texts)
    new_texts = augment(texts, copies=10, seed=0, synonyms=synonyms)

A word is what stands between blanks; languages written without blanks gain nothing here.
"""

import random
import re
from collections import Counter
from functools import lru_cache

import torch
import torch.nn.functional as F

from pocketbert.errors import UserError

PUNCTUATION = "\"'`´“”‘’«»„.,!?;()-–—…¿¡"                       # around a word: stays where it is

PROTECTED = re.compile(r"[\d@#/\\:_<>\[\]{}=&*+~^|$%€£]|^;|\w\.\w")  # @ann, #tag, 10am, http://..., [MASK], :-D, a.b


@lru_cache(maxsize=1 << 16)
def split_word(word):
    """'"Good,' -> ('"', 'Good', ','): what stands before, the word itself, what stands after. None: leave it alone."""
    core = word.strip(PUNCTUATION)
    if PROTECTED.search(word) or not any(map(str.isalpha, core)):
        return None
    before, _, after = word.partition(core)
    return before, core, after


def free_places(words):
    """The places of the words that may be touched: no mentions, hashtags, links, numbers, emoticons or tokens."""
    return [i for i, word in enumerate(words) if split_word(word)]


def with_core(word, core):
    """The word with another core, written as big as the old one: ('GOOD,', 'great') -> 'GREAT,'."""
    before, old, after = split_word(word)
    if len(old) > 1 and old.isupper():
        core = core.upper()
    elif old[0].isupper():
        core = core[0].upper() + core[1:]
    return before + core + after


def neighbours(table, k, chunk=1024):
    """For each row of the table (M, d), the k other rows with the highest cosine, the nearest first: (M, k) indices."""
    rows = F.normalize(table.detach().float(), dim=-1)
    k, nearest = min(k, len(rows) - 1), []
    for start in range(0, len(rows), chunk):        # M x M cosines at once would be gigabytes
        cosines = rows[start:start + chunk] @ rows.T
        cosines.diagonal(start).fill_(-torch.inf)   # a word is no synonym of itself
        nearest.append(cosines.topk(k).indices)
    return torch.cat(nearest)


def similar_words(table, tokenizer, texts, k=8, min_count=5, most=10_000):
    """{word: [the k words nearest to it]}, for the texts' most frequent words, in small letters.

    table: the teacher's word embeddings (vocabulary, d)    tokenizer: the teacher's
    Only words that are one token have a row of their own, so only these are keys or values; a rare word's row has
    hardly been trained, hence min_count.
    """
    counts = Counter(parts[1].lower() for text in texts for word in text.split() if (parts := split_word(word)))
    words = [word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
             if count >= min_count][:2 * most]
    start, end = len(tokenizer.prefix), len(tokenizer.suffix)
    # " good", not "good": byte-level BPE has one token for a word within a text and another for its beginning.
    rows = tokenizer([f" {word}" for word in words], max_length=start + end + 2)
    single = {}                                     # id -> word; two spellings of one id are one word
    for word, row in zip(words, rows, strict=True):
        if len(row) == start + 1 + end and row[start] != tokenizer.unk_id:
            single.setdefault(row[start], word)
    ids, words = list(single)[:most], list(single.values())[:most]
    if len(words) < 2:
        return {}
    nearest = neighbours(table[torch.tensor(ids, device=table.device)], k).tolist()
    return {word: [words[i] for i in row] for word, row in zip(words, nearest, strict=True)}


def mask_token(tokenizer):
    """The text that the tokenizer reads as its mask, or else as unknown: '[MASK]'; None if it has neither.

    Only for a student with the same tokenizer: any other reads "[", "mask", "]".
    """
    tokens = ("[MASK]", "<mask>", "[UNK]", "<unk>")
    return next((token for token in tokens if tokenizer.backend.token_to_id(token) is not None), None)


def how_many(words, rate):
    """EDA's n = rate * words: long texts can bear more noise. At least 1."""
    return max(1, round(rate * len(words)))


def swap(words, rng, rate=0.1):
    """Two free words change places, n times (EDA: random swap)."""
    words, free = list(words), free_places(words)
    for _ in range(how_many(words, rate) if len(free) > 1 else 0):
        i, j = rng.sample(free, 2)
        words[i], words[j] = words[j], words[i]
    return words


def delete(words, rng, rate=0.1):
    """n free words go, but never the last one (EDA: random deletion, with n words instead of a dice for each)."""
    free = free_places(words)
    gone = set(rng.sample(free, min(how_many(words, rate), max(0, len(free) - 1))))
    return [word for i, word in enumerate(words) if i not in gone]


def insert(words, rng, synonyms, rate=0.1):
    """A word like one of the text's words, at any place, n times (EDA: random insertion)."""
    words = list(words)
    known = [near for i in free_places(words) if (near := synonyms.get(split_word(words[i])[1].lower()))]
    for _ in range(how_many(words, rate) if known else 0):
        words.insert(rng.randint(0, len(words)), rng.choice(rng.choice(known)))
    return words


def replace(words, rng, synonyms, rate=0.1):
    """n words become words like them (EDA: synonym replacement)."""
    words = list(words)
    known = [i for i in free_places(words) if synonyms.get(split_word(words[i])[1].lower())]
    for i in rng.sample(known, min(how_many(words, rate), len(known))):
        words[i] = with_core(words[i], rng.choice(synonyms[split_word(words[i])[1].lower()]))
    return words


def mask_words(words, rng, mask, rate=0.1):
    """n free words become the mask: how much did each of them say? (Tang et al. 2019)"""
    words, free = list(words), free_places(words)
    for i in rng.sample(free, min(how_many(words, rate), len(free))):
        before, _, after = split_word(words[i])
        words[i] = before + mask + after
    return words


def ngram_sample(words, rng, longest=5):
    """One to five words in a row, and nothing else (Tang et al. 2019)."""
    n = rng.randint(1, min(longest, len(words)))
    start = rng.randint(0, len(words) - n)
    return words[start:start + n]


WAYS = ("swap", "delete", "insert", "replace", "mask", "ngram")

DEFAULT_WAYS = ("swap", "delete", "insert", "replace", "ngram")  # those that need no mask token


def augment(texts, copies, seed=0, ways=DEFAULT_WAYS, rate=0.1, synonyms=None, mask=None):
    """Yield up to `copies` new texts for each text, each made in one of the ways, chosen by dice.

    rate: the share of words to change    synonyms: from similar_words, for insert and replace    mask: from mask_token
    None is empty, and none equals another one or a text that was there. What becomes of a text depends on it and the
    seed alone: adding texts does not change the others, so that what a teacher said of them can be kept.
    """
    if unknown := set(ways) - set(WAYS):
        raise UserError(f"ways {', '.join(sorted(unknown))}: choose from {', '.join(WAYS)}")
    if not ways or copies < 0 or not 0 < rate <= 1:
        raise UserError(f"{len(ways)} ways, {copies} copies, rate {rate}: expected one way or more, 0 copies or more, "
                         "a rate above 0 and up to 1")
    if {"insert", "replace"} & set(ways) and synonyms is None:
        raise UserError("insert and replace need synonyms, see similar_words")
    if "mask" in ways and not mask:
        raise UserError("mask needs the text of a mask token, see mask_token")
    change = {"swap": lambda words, rng: swap(words, rng, rate),
              "delete": lambda words, rng: delete(words, rng, rate),
              "insert": lambda words, rng: insert(words, rng, synonyms, rate),
              "replace": lambda words, rng: replace(words, rng, synonyms, rate),
              "mask": lambda words, rng: mask_words(words, rng, mask, rate),
              "ngram": ngram_sample}
    sources = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    seen = set(sources)
    for source in sources:
        words, own = source.split(), {source}
        if not free_places(words):
            continue
        rng = random.Random(f"{seed} {source}".encode("utf-8", "surrogatepass"))
        for _ in range(3 * copies):     # a short text has fewer than `copies` variants: stop asking at some point
            if len(own) > copies:
                break
            new_words = change[rng.choice(ways)](words, rng)
            new = " ".join(new_words)
            if new not in own and free_places(new_words):
                own.add(new)
                if new not in seen:
                    seen.add(new)
                    yield new
