"""Prune the vocabulary: remove the tokens that the texts never use, from the tokenizer and the embedding together.

A pretrained vocabulary covers texts of every kind; a task uses a part of it. The rows of the other tokens are the
larger part of a small model: the embedding is 52 % of MiniLM and 91 % of BERT-tiny. As TextPruner (Yang et al. 2022,
arXiv:2203.15996) and "Load What You Need" (Abdaoui et al. 2020, arXiv:2010.05609) do, keep the tokens that occur:

    kept = special tokens + single characters + {token : count(token) >= min_count}
    new embedding = embedding[kept],    new id of a token = its place in kept

A word whose token was removed is split into smaller pieces by the new tokenizer, at worst into characters. A text all
of whose tokens are kept is tokenized as before, so its logits stay the same (`shrink_tokenizer` says why).

    smaller, smaller_tokenizer, report = shrink_vocabulary(model, tokenizer, texts, min_count=3)
"""

import copy
import json
from collections import Counter

import tokenizers
from torch import nn

from pocketbert.data.tokenizer import Tokenizer
from pocketbert.errors import UserError


def count_tokens(tokenizer, texts, max_length=128):
    """How often each id occurs in the texts, cut at max_length as they will be for the model: {id: count}.

    BERTweet's tokenizer has pieces without a row in the embedding: ids from vocab_size on, which the model reads as
    <unk>. They are counted under their own ids, because removing the merges of such a piece would split its word in
    another place. (A removed word can still end in such a piece: 3 more <unk> in the 3,000 validation tweets, at
    min_count 1.)
    """
    if isinstance(texts, str):
        raise ValueError("no texts but one string: give a list of strings")
    texts = list(texts)
    if not texts:
        raise UserError("no texts to count tokens in: the vocabulary to keep is unknown")
    every_id = Tokenizer(tokenizer.backend, cleaning=tokenizer.cleaning)    # without a vocab_size no id is hidden
    counts = Counter()
    for row in every_id(texts, max_length):
        counts.update(row)
    return counts


def special_ids(tokenizer):
    """Ids with a role: [CLS], [SEP], padding, unknown, and all added tokens."""
    return {tokenizer.pad_id, tokenizer.unk_id, *tokenizer.prefix, *tokenizer.suffix,
            *tokenizer.backend.get_added_tokens_decoder()}


def continues_a_word(backend, character):
    """Can a word have this character after another one? Not if the tokenizer splits there, as BERT's does at "!"."""
    def words(text):
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
    return any(words(first + character) == [first + character] for first in ("a", character))


def fallback_ids(backend, model):
    """{id: character} of the pieces that can spell any text: single characters (in byte-level BPE: bytes).

    model: the "model" of the backend's tokenizer.json. WordPiece writes "##x" for an x that continues a word; a third
    of these 997 pieces in BERT's vocabulary, such as "##!", can never occur and are left out. BERTweet writes "x</w>"
    for an x that ends a word.
    """
    if model["type"] == "Unigram":
        pieces = [piece for piece, _ in model["vocab"]]
        # A character without a piece gets the lowest score of all minus 10, so the piece with that score must stay.
        worst = min(range(len(pieces)), key=lambda i: model["vocab"][i][1])
        return {i: piece for i, piece in enumerate(pieces) if len(piece) == 1} | {worst: ""}
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    found = {}
    for piece, i in model["vocab"].items():
        character = piece.removeprefix(prefix).removesuffix(suffix)
        if len(character) == 1 and (not prefix or piece == character or continues_a_word(backend, character)):
            found[i] = character
    return found


def merge_ancestors(vocab, merges, kept):
    """The kept ids, and those of all pieces that byte-pair encoding merges on the way to them.

    "good" is built from "go" + "od", and "go" from "g" + "o". If several merges build a piece, the parts of all of
    them are kept, because the word decides which merge is used.
    vocab: {piece: id}    merges: pairs of pieces    kept: ids    Returns a set of ids.
    """
    parts = {}
    for a, b in merges:
        parts.setdefault(vocab[a + b], []).extend((vocab[a], vocab[b]))
    kept, todo = set(kept), list(kept)
    while todo:
        new = set(parts.get(todo.pop(), ())) - kept
        kept |= new
        todo += new
    return kept


def tokens_to_keep(tokenizer, counts, min_count=1, keep_characters="all"):
    """The old ids that stay, in order: special tokens, characters, what occurs min_count times, parts of merges.

    keep_characters: "all" of them, so that later texts in any script can be read; or those "seen" in the texts, and
    Latin ones. "seen" saves 2.4 MB of MiniLM, and a word in another script becomes [UNK].
    """
    if min_count < 1 or keep_characters not in ("all", "seen"):
        raise ValueError(f'min_count {min_count}, keep_characters {keep_characters!r}: expected at least 1, and "all" '
                         'or "seen"')
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model["type"] not in ("WordPiece", "BPE", "Unigram"):
        raise UserError(f"a {model['type']} vocabulary cannot be pruned: only WordPiece, BPE and Unigram can")
    fallback = fallback_ids(tokenizer.backend, model)
    if keep_characters == "seen":
        seen = set("".join(tokenizer.backend.id_to_token(i) for i in counts))
        # Up to U+017F: ASCII, accents, and the signs with which byte-level BPE writes its 256 bytes.
        fallback = {i: character for i, character in fallback.items() if character < "\u0180" or character in seen}
    kept = special_ids(tokenizer) | set(fallback) | {i for i, count in counts.items() if count >= min_count}
    if model["type"] == "BPE":
        kept = merge_ancestors(model["vocab"], model["merges"], kept)
    return sorted(kept)


def renumber(processor, new_id):
    """The post_processor of tokenizer.json, which puts [CLS] and [SEP] around a text, with the new ids."""
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        return processor | {"processors": [renumber(part, new_id) for part in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        tokens = {name: token | {"ids": [new_id[i] for i in token["ids"]]}
                  for name, token in processor["special_tokens"].items()}
        return processor | {"special_tokens": tokens}
    # BertProcessing and RobertaProcessing: "sep": ["[SEP]", 102]
    return processor | {role: [processor[role][0], new_id[processor[role][1]]]
                        for role in ("sep", "cls") if role in processor}


def shrink_tokenizer(tokenizer, kept_ids):
    """The tokenizer with only kept_ids, renumbered 0, 1, 2, ... in their old order; everything else is as it was.

    kept_ids: from tokens_to_keep, sorted. A text all of whose tokens are kept is tokenized as before, because

      WordPiece takes the longest piece that fits. That piece still exists, and no longer one was added. (Where the
        old tokenizer ran into a dead end and gave [UNK], the new one may find a shorter piece; a vocabulary that
        holds its letters has no dead ends.)
      BPE applies the earliest learned merge that fits. The merges of a kept token still exist, and no earlier ones
        were added. (Exception: a word that max_length cuts in two, because its second half was not counted.)
      Unigram picks the segmentation with the best total score. That segmentation still exists, and removing tokens
        adds no new one.
    """
    state = json.loads(tokenizer.backend.to_str())
    model = state["model"]
    new_id = {old: new for new, old in enumerate(kept_ids)}
    assert special_ids(tokenizer) <= set(new_id), "a special token is missing in kept_ids: use tokens_to_keep"
    if model["type"] == "Unigram":      # a list, in which the place is the id
        model["vocab"] = [model["vocab"][i] for i in kept_ids if i < len(model["vocab"])]
        model["unk_id"] = new_id.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new_id[i] for piece, i in model["vocab"].items() if i in new_id}
    if model["type"] == "BPE":
        model["merges"] = [(a, b) for a, b in model["merges"] if {a, b, a + b} <= model["vocab"].keys()]
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    state["post_processor"] = renumber(state["post_processor"], new_id)
    rows = sum(i < tokenizer.vocab_size for i in kept_ids)      # BERTweet's ids without a row come last
    smaller = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)),
                        {"vocab_size": rows, "pad_token_id": new_id[tokenizer.pad_id]}, tokenizer.cleaning)
    assert (smaller.num_ids, smaller.vocab_size) == (len(kept_ids), rows), "the ids of the new tokenizer have gaps"
    return smaller


def changed_texts(tokenizer, smaller, kept_ids, texts, max_length=128):
    """How many of the texts the smaller tokenizer splits in another way; the logits of the others stay the same."""
    before, after = tokenizer(texts, max_length), smaller(texts, max_length)
    return sum([kept_ids[i] for i in new] != old for old, new in zip(before, after, strict=True))


def shrink_embedding(model, kept_ids):
    """A copy of the model with only these rows of its embedding, and the ids in its config renumbered."""
    word = model.embeddings.word
    if hasattr(model.embeddings, "ngram"):
        raise UserError("a bag of n-grams hashes the ids of the tokens, which vocabulary pruning changes: use --vocab "
                        "with a model of ngrams=1, or train it again with a smaller vocabulary")
    if not isinstance(word, nn.Embedding):
        raise UserError("this model's embedding is stored in a compressed format: prune the vocabulary of its parent "
                        "and compress it afterwards")
    new_id = {old: new for new, old in enumerate(kept_ids)}
    pad_id = new_id.get(model.config.pad_token_id, 0)
    if getattr(model.config, "family", None) == "roberta" and pad_id != model.config.pad_token_id:
        raise UserError(f"pad_token_id {model.config.pad_token_id} does not keep its place, from which this model "
                        "counts its positions: the special tokens must be the first ones of the vocabulary")
    smaller = copy.deepcopy(model)
    rows = word.weight.detach()[kept_ids].clone()
    smaller.embeddings.word = nn.Embedding.from_pretrained(rows, freeze=not word.weight.requires_grad)
    config = smaller.config
    config.vocab_size, config.pad_token_id = len(kept_ids), pad_id
    config.hf |= {key: new_id.get(i) for key, i in config.hf.items() if key.endswith("_token_id")}     # bos, eos, ...
    return smaller


def shrink_vocabulary(model, tokenizer, texts, min_count=1, max_length=128, keep_characters="all", check_texts=()):
    """A copy of model and tokenizer with only the tokens that occur at least min_count times in the texts.

    texts: similar to those that the model will see; labels are not needed    keep_characters: see tokens_to_keep
    check_texts: other texts; the report says how many of them are tokenized in another way
    Returns (model, tokenizer, report): tokens and bytes before and after.
    """
    counts = count_tokens(tokenizer, texts, max_length)
    kept_ids = tokens_to_keep(tokenizer, counts, min_count, keep_characters)
    smaller_tokenizer = shrink_tokenizer(tokenizer, kept_ids)
    smaller = shrink_embedding(model, kept_ids[:smaller_tokenizer.vocab_size])
    before, after = model.embeddings.word.weight, smaller.embeddings.word.weight
    report = {"min_count": min_count,
              "keep_characters": keep_characters,
              "tokens_before": len(before),
              "tokens_after": len(after),
              "tokens_used": sum(count >= min_count for count in counts.values()),
              "embedding_bytes_saved": before.nbytes - after.nbytes,
              "tokenizer_bytes_saved": tokenizer_bytes(tokenizer) - tokenizer_bytes(smaller_tokenizer)}
    if check_texts:
        report["checked_texts"] = len(check_texts)
        report["changed_texts"] = changed_texts(tokenizer, smaller_tokenizer, kept_ids, check_texts, max_length)
    return smaller, smaller_tokenizer, report


def tokenizer_bytes(tokenizer):
    """The size of tokenizer.json."""
    return len(tokenizer.backend.to_str().encode())
