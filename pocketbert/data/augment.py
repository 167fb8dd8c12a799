"""More texts from few: change a word here and there, and let the teacher label the new text, if there is one.

A student that learns from the teacher's probabilities can use texts without a label, so more texts are worth having.
Tang et al. 2019 (arXiv:1903.12136) and TinyBERT (arXiv:1909.10351) made ten or twenty new texts from each one:

    text     @ann so GOOD, I love this film!
    swap     @ann so this I love GOOD, film!     two words change places                   } EDA: Wei and Zou 2019,
    delete   @ann so GOOD, I love this           a word is removed                         } arXiv:1901.11196
    insert   @ann so GOOD, I movie love ...      a word similar to one of the text's       }
    replace  @ann so GREAT, I love this film!    a word becomes a similar word             }
    mask     @ann so GOOD, I [MASK] this film!   a word becomes the tokenizer's mask       ) Tang et al.
    ngram    GOOD, I love                        one to five consecutive words             )

Similar words are neighbours in the teacher's own embedding table, so no dictionary is needed. They occur in the same
contexts, and "bad" is therefore a neighbour of "good". A new text must not inherit the label of the old one: the
teacher labels it.

    synonyms = similar_words(word_vectors(teacher), tokenizer, texts)
    new_texts = augment(texts, copies=10, seed=0, synonyms=synonyms)

Without a teacher (train.py) only swap, delete and mask are allowed, which mostly leave the label as it was:

    split = with_new_versions(data, copies=4, classes=["anger"], operations=["swap", "delete"])

A word is what stands between blanks, so languages that are written without blanks gain nothing here.
"""

import random
import re
from collections import Counter
from functools import lru_cache

import torch
import torch.nn.functional as F

from pocketbert.data.splits import Split, text_key
from pocketbert.errors import UserError

OPERATIONS = ("swap", "delete", "insert", "replace", "mask", "ngram")

DEFAULT_OPERATIONS = ("swap", "delete", "insert", "replace", "ngram")  # those that need no mask token

WITH_SYNONYMS = ("insert", "replace")

SAME_LABEL = ("swap", "delete", "mask")  # the new text mostly has the label of the old one

PUNCTUATION = "\"'`´“”‘’«»„.,!?;()-–—…¿¡"  # around a word: stays where it is

PROTECTED = re.compile(r"[\d@#/\\:_<>\[\]{}=&*+~^|$%€£]|^;|\w\.\w")  # @ann, #tag, 10am, http://..., [MASK], :-D, a.b


@lru_cache(maxsize=1 << 16)
def split_word(word):
    """'"Good,' -> ('"', 'Good', ','): punctuation, the word itself, punctuation. None: not to be changed."""
    core = word.strip(PUNCTUATION)
    if PROTECTED.search(word) or not any(map(str.isalpha, core)):
        return None
    before, _, after = word.partition(core)
    return before, core, after


def free_places(words):
    """The indices of the words that may be changed: no mentions, hashtags, links, numbers, emoticons or tokens."""
    return [i for i, word in enumerate(words) if split_word(word)]


def with_core(word, core):
    """The word with another core, in the same case: ('GOOD,', 'great') -> 'GREAT,'."""
    before, old, after = split_word(word)
    if len(old) > 1 and old.isupper():
        core = core.upper()
    elif old[0].isupper():
        core = core[0].upper() + core[1:]
    return before + core + after


def neighbours(table, k, chunk=1024):
    """For each row of the table (M, d), the k other rows with the highest cosine, the nearest first: (M, k) indices."""
    rows = F.normalize(table.detach().float(), dim=-1)
    k = min(k, len(rows) - 1)
    nearest = []
    for start in range(0, len(rows), chunk):  # all M x M cosines at once would take gigabytes
        cosines = rows[start:start + chunk] @ rows.T
        cosines.diagonal(start).fill_(-torch.inf)  # a word is not its own synonym
        nearest.append(cosines.topk(k).indices)
    return torch.cat(nearest)


def frequent_words(texts, min_count, most):
    """The texts' most frequent plain words in lower case, the most frequent first."""
    counts = Counter()
    for text in texts:
        for word in text.split():
            parts = split_word(word)
            if parts:
                counts[parts[1].lower()] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, count in ranked if count >= min_count][:most]


def similar_words(table, tokenizer, texts, k=8, min_count=5, most=10_000):
    """{word: [the k words nearest to it]} for the texts' most frequent words, in lower case.

    table: the teacher's word embeddings (vocabulary, d)    tokenizer: the teacher's
    Only words that are a single token have a row of their own, so only these are keys or values. The row of a rare word
    is hardly trained, hence min_count.
    """
    words = frequent_words(texts, min_count, 2 * most)
    start = len(tokenizer.prefix)
    end = len(tokenizer.suffix)
    # " good" instead of "good": byte-level BPE has different tokens for a word within a text and at its beginning.
    rows = tokenizer([f" {word}" for word in words], max_length=start + end + 2)
    word_of = {}  # token id -> word; two spellings with one id are one word
    for word, row in zip(words, rows, strict=True):
        if len(row) == start + 1 + end and row[start] != tokenizer.unk_id:
            word_of.setdefault(row[start], word)
    ids = list(word_of)[:most]
    words = list(word_of.values())[:most]
    if len(words) < 2:
        return {}
    nearest = neighbours(table[torch.tensor(ids, device=table.device)], k).tolist()
    return {word: [words[i] for i in row] for word, row in zip(words, nearest, strict=True)}


def mask_token(tokenizer):
    """The text of the tokenizer's mask token, or else of its unknown token: '[MASK]'. None if it has neither.

    Only for a student with the same tokenizer: another one would read "[", "mask", "]".
    """
    for token in ("[MASK]", "<mask>", "[UNK]", "<unk>"):
        if tokenizer.backend.token_to_id(token) is not None:
            return token
    return None


def how_many(words, rate):
    """How many words to change: EDA's n = rate * words, at least 1."""
    return max(1, round(rate * len(words)))


def swap(words, rng, rate=0.1):
    """Two free words change places, n times (EDA: random swap)."""
    words = list(words)
    free = free_places(words)
    for _ in range(how_many(words, rate) if len(free) > 1 else 0):
        i, j = rng.sample(free, 2)
        words[i], words[j] = words[j], words[i]
    return words


def delete(words, rng, rate=0.1):
    """n free words are removed, but never the last one (EDA: random deletion, with a fixed n)."""
    free = free_places(words)
    gone = set(rng.sample(free, min(how_many(words, rate), max(0, len(free) - 1))))
    return [word for i, word in enumerate(words) if i not in gone]


def insert(words, rng, synonyms, rate=0.1):
    """A word similar to one of the text's words is inserted at a random place, n times (EDA: random insertion)."""
    words = list(words)
    similar = [synonyms.get(split_word(words[i])[1].lower()) for i in free_places(words)]
    similar = [near for near in similar if near]
    for _ in range(how_many(words, rate) if similar else 0):
        place = rng.randint(0, len(words))
        words.insert(place, rng.choice(rng.choice(similar)))
    return words


def replace(words, rng, synonyms, rate=0.1):
    """n words become similar words (EDA: synonym replacement)."""
    words = list(words)
    known = [i for i in free_places(words) if synonyms.get(split_word(words[i])[1].lower())]
    for i in rng.sample(known, min(how_many(words, rate), len(known))):
        words[i] = with_core(words[i], rng.choice(synonyms[split_word(words[i])[1].lower()]))
    return words


def mask_words(words, rng, mask, rate=0.1):
    """n free words become the mask (Tang et al. 2019)."""
    words = list(words)
    free = free_places(words)
    for i in rng.sample(free, min(how_many(words, rate), len(free))):
        before, _, after = split_word(words[i])
        words[i] = before + mask + after
    return words


def ngram_sample(words, rng, longest=5):
    """One to five consecutive words (Tang et al. 2019)."""
    n = rng.randint(1, min(longest, len(words)))
    start = rng.randint(0, len(words) - n)
    return words[start:start + n]


def check_operations(operations, copies, synonyms, mask):
    unknown = set(operations) - set(OPERATIONS)
    if unknown:
        raise UserError(f"operations {', '.join(sorted(unknown))}: choose from {', '.join(OPERATIONS)}")
    if not operations or copies < 0:
        raise UserError(f"{len(operations)} operations, {copies} copies: expected one operation or more, 0 copies or "
                        "more")
    if set(WITH_SYNONYMS) & set(operations) and synonyms is None:
        raise ValueError("insert and replace need synonyms, see similar_words")
    if "mask" in operations and not mask:
        raise ValueError("mask needs the text of a mask token, see mask_token")


def augment(texts, copies, seed=0, operations=DEFAULT_OPERATIONS, synonyms=None, mask=None):
    """Yield up to `copies` new texts for each text, each by one of the operations, chosen at random.

    synonyms: from similar_words, for insert and replace    mask: from mask_token, for mask
    No new text is empty or equal to another one or to one of the given texts. The new versions of a text depend on it
    and on the seed alone: more texts do not change those of the others, so cached teacher logits stay valid.
    """
    check_operations(operations, copies, synonyms, mask)
    change = {"swap": swap,
              "delete": delete,
              "insert": lambda words, rng: insert(words, rng, synonyms),
              "replace": lambda words, rng: replace(words, rng, synonyms),
              "mask": lambda words, rng: mask_words(words, rng, mask),
              "ngram": ngram_sample}
    sources = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    seen = set(sources)
    for source in sources:
        words = source.split()
        if not free_places(words):
            continue
        versions = {source}
        rng = random.Random(f"{seed} {source}".encode("utf-8", "surrogatepass"))
        for _ in range(3 * copies):  # a short text has fewer than `copies` versions, so the number of tries is limited
            if len(versions) > copies:
                break
            new_words = change[rng.choice(operations)](words, rng)
            new = " ".join(new_words)
            if new not in versions and free_places(new_words):
                versions.add(new)
                if new not in seen:
                    seen.add(new)
                    yield new


def rare_classes(data):
    """The names of the classes that have fewer training texts than the average class."""
    counts = Counter(data.train.labels)
    mean = len(data.train) / len(data.label_names)
    return [name for label, name in enumerate(data.label_names) if counts[label] < mean]


def check_classes(names, label_names):
    if not names:
        raise UserError(f"--augment: no class is rarer than the average; give --augment-classes all, or some of "
                        f"{', '.join(label_names)}")
    for name in names:
        if name not in label_names:
            raise UserError(f"--augment-classes {name}: the labels are {', '.join(label_names)}")


def with_new_versions(data, copies, classes=(), operations=("swap", "delete"), seed=0, mask=None):
    """The training Split with up to `copies` new versions of each text of some classes, which inherit its label.

    classes: their names; (): the rare ones, ["all"]: all    mask: from mask_token, for mask
    No new version is a text that any split holds: what is validated or tested is never trained on.
    """
    names = list(classes) or rare_classes(data)
    if names == ["all"]:
        names = data.label_names
    check_classes(names, data.label_names)
    if "mask" in operations and not mask:
        raise UserError("--augment-with mask: this tokenizer has no mask token; take swap and delete")
    taken = {text_key(" ".join(text.split())) for split in (data.train, data.validation, data.test) if split
             for text in split.texts}
    texts = list(data.train.texts)
    labels = list(data.train.labels)
    for label in map(data.label_names.index, names):
        originals = [text for text, its_label in zip(data.train.texts, data.train.labels, strict=True)
                     if its_label == label]
        for text in augment(originals, copies, seed, operations, mask=mask):
            if text_key(text) not in taken:
                taken.add(text_key(text))
                texts.append(text)
                labels.append(label)
    print(f"--augment {copies}: {len(texts) - len(data.train):,} new versions of texts of {', '.join(names)}")
    return Split(texts, labels)
