"""Prune the vocabulary: drop the tokens that the texts never use, from tokenizer and embedding together.

A vocabulary is made for all the texts of the world; a task uses a part of it, and the rows of the others in the
embedding are dead weight: 52 % of MiniLM are its embedding, 91 % of BERT-tiny. TextPruner (Yang et al. 2022,
arXiv:2203.15996) and "Load What You Need" (Abdaoui et al. 2020, arXiv:2010.05609) keep the tokens that occur:

    kept = special tokens + single characters + {token : count(token) >= min_count}
    new embedding = embedding[kept],    new id of a token = its place in kept

A dropped word is not lost: the smaller vocabulary cuts it into smaller pieces, in the end into its characters.
And a text all of whose tokens are kept is cut as before, so that its logits stay the same. Why? `shrink_tokenizer`.

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

    BERTweet's tokenizer has pieces without a row, ids beyond vocab_size, which the model sees as <unk>; they are
    counted as they are, because forgetting how such a piece is merged would cut its word in another place. (So a
    dropped word can end in such a piece: 3 more <unk> in the 3,000 validation tweets, at min_count 1.)
    """
    if isinstance(texts, str) or not (texts := list(texts)):
        raise UserError("no texts to count tokens in: the vocabulary to keep is unknown")
    every_id = Tokenizer(tokenizer.backend, cleaning=tokenizer.cleaning)    # without a vocab_size no id is hidden
    counts = Counter()
    for row in every_id(texts, max_length):
        counts.update(row)
    return counts


def special_ids(tokenizer):
    """Ids with a role: [CLS], [SEP], padding, unknown, and all tokens that were added by hand."""
    return {tokenizer.pad_id, tokenizer.unk_id, *tokenizer.prefix, *tokenizer.suffix,
            *tokenizer.backend.get_added_tokens_decoder()}


def continues_a_word(backend, character):
    """Can this character follow another one in a word? Not if the tokenizer cuts there, as BERT's does at "!"."""
    def words(text):
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
    return any(words(first + character) == [first + character] for first in ("a", character))


def fallback_ids(backend, model):
    """{id: character} of the pieces into which anything can be cut: single characters (in byte-level BPE: bytes).

    model: the "model" of the backend's tokenizer.json. WordPiece writes "##x" for an x that continues a word, and
    a third of these 997 in BERT's vocabulary can never occur, such as "##!"; BERTweet writes "x</w>" for an x that
    ends a word.
    """
    if model["type"] == "Unigram":
        pieces = [piece for piece, _ in model["vocab"]]
        # A character without a piece costs the lowest score of all minus 10, so that piece must always stay.
        worst = min(range(len(pieces)), key=lambda i: model["vocab"][i][1])
        return {i: piece for i, piece in enumerate(pieces) if len(piece) == 1} | {worst: ""}
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    characters = {piece: piece.removeprefix(prefix).removesuffix(suffix) for piece in model["vocab"]}
    return {model["vocab"][piece]: character for piece, character in characters.items() if len(character) == 1
            and (not prefix or piece == character or continues_a_word(backend, character))}


def merge_ancestors(vocab, merges, kept):
    """kept, and all that byte-pair encoding passes through to build it: "good" needs "go" + "od", "go" needs "g" + "o".

    vocab: piece -> id    merges: pairs of pieces    kept: ids    -> ids
    A piece that several merges build keeps the parts of them all: which one is used depends on the word.
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


def tokens_to_keep(tokenizer, counts, min_count=1, characters="all"):
    """The old ids that stay, in order: special tokens, characters, what occurs min_count times, merge ancestors.

    characters: "all" of them, so that tomorrow's text in whatever script can be read; or those "seen" in the texts,
    and Latin ones, which saves 2.4 MB of MiniLM, and a word in a script that the texts never used becomes [UNK].
    """
    if min_count < 1 or characters not in ("all", "seen"):
        raise UserError(f'min_count {min_count}, characters {characters!r}: expected at least 1, and "all" or "seen"')
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model["type"] not in ("WordPiece", "BPE", "Unigram"):
        raise UserError(f"a {model['type']} vocabulary cannot be pruned: only WordPiece, BPE and Unigram can")
    fallback = fallback_ids(tokenizer.backend, model)
    if characters == "seen":
        seen = set("".join(tokenizer.backend.id_to_token(i) for i in counts))
        # Up to U+017F: ASCII, accents, and the signs with which byte-level BPE writes its 256 bytes.
        fallback = {i: character for i, character in fallback.items() if character < "\u0180" or character in seen}
    kept = special_ids(tokenizer) | set(fallback) | {i for i, count in counts.items() if count >= min_count}
    if model["type"] == "BPE":
        kept = merge_ancestors(model["vocab"], model["merges"], kept)
    return sorted(kept)


def renumber(processor, new_id):
    """A post_processor of tokenizer.json, which puts [CLS] and [SEP] around a text, with the new ids."""
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
    """The tokenizer that knows only kept_ids, as 0, 1, 2, ... in their old order; all else is as it was.

    kept_ids: from tokens_to_keep, sorted. Why a text whose tokens are all kept is cut as before:
      WordPiece takes the longest piece that fits. It is still there, and no longer one has come. (Where that led
        to a dead end, [UNK], a shorter piece may now lead on; vocabularies that hold their letters have no such end.)
      BPE applies the earliest learnt merge that fits. It built a kept token, so it is still there, and no earlier
        one has come. (A word that max_length cuts in two is the exception: nobody counted its second half.)
      Unigram takes the cheapest way through the text. It is still open, and no cheaper one has come.
    """
    state = json.loads(tokenizer.backend.to_str())
    model, new_id = state["model"], {old: new for new, old in enumerate(kept_ids)}
    assert special_ids(tokenizer) <= set(new_id), "a special token is missing in kept_ids: use tokens_to_keep"
    if model["type"] == "Unigram":      # a list: the place is the id
        model["vocab"] = [model["vocab"][i] for i in kept_ids if i < len(model["vocab"])]
        model["unk_id"] = new_id.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new_id[i] for piece, i in model["vocab"].items() if i in new_id}
    if model["type"] == "BPE":
        model["merges"] = [(a, b) for a, b in model["merges"] if {a, b, a + b} <= model["vocab"].keys()]
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    state["post_processor"] = renumber(state["post_processor"], new_id)
    rows = sum(i < tokenizer.vocab_size for i in kept_ids)      # BERTweet's hidden ids come last and have no row
    smaller = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)),
                        {"vocab_size": rows, "pad_token_id": new_id[tokenizer.pad_id]}, tokenizer.cleaning)
    assert (smaller.num_ids, smaller.vocab_size) == (len(kept_ids), rows), "the ids of the new tokenizer have gaps"
    return smaller


def changed_texts(tokenizer, smaller, kept_ids, texts, max_length=128):
    """How many of the texts are cut into other tokens by the smaller tokenizer; the logits of the rest are equal."""
    before, after = tokenizer(texts, max_length), smaller(texts, max_length)
    return sum([kept_ids[i] for i in new] != old for old, new in zip(before, after, strict=True))


def shrink_embedding(model, kept_ids):
    """A copy of the model with only these rows of its embedding, and the ids in its config renumbered."""
    word = model.embeddings.word
    if hasattr(model.embeddings, "ngram"):
        raise UserError("a bag of n-grams finds its n-grams by the numbers of their tokens, which pruning the "
                         "vocabulary changes: give --vocab to a model with ngrams=1, or train it again on fewer words")
    if not isinstance(word, nn.Embedding):
        raise UserError("this model's embedding is stored in a compressed form: prune the vocabulary of its parent "
                         "and compress it afterwards")
    new_id = {old: new for new, old in enumerate(kept_ids)}
    pad_id = new_id.get(model.config.pad_token_id, 0)
    if getattr(model.config, "family", None) == "roberta" and pad_id != model.config.pad_token_id:
        raise UserError(f"pad_token_id {model.config.pad_token_id} does not keep its place, from which this model "
                         "counts its positions: the special tokens must stand first in the vocabulary")
    smaller = copy.deepcopy(model)
    rows = word.weight.detach()[kept_ids].clone()
    smaller.embeddings.word = nn.Embedding.from_pretrained(rows, freeze=not word.weight.requires_grad)
    config = smaller.config
    config.vocab_size, config.pad_token_id = len(kept_ids), pad_id
    config.hf |= {key: new_id.get(i) for key, i in config.hf.items() if key.endswith("_token_id")}     # bos, eos, ...
    return smaller


def shrink_vocabulary(model, tokenizer, texts, min_count=1, max_length=128, characters="all", check_texts=()):
    """A copy of model and tokenizer that know only the tokens that the texts use at least min_count times.

    texts: all that is like the texts to come; labels are not needed    characters: see tokens_to_keep
    check_texts: other texts, of which the report says how many change
    Returns (model, tokenizer, report): tokens and bytes before and after, and how many of check_texts change.
    """
    counts = count_tokens(tokenizer, texts, max_length)
    kept_ids = tokens_to_keep(tokenizer, counts, min_count, characters)
    smaller_tokenizer = shrink_tokenizer(tokenizer, kept_ids)
    smaller = shrink_embedding(model, kept_ids[:smaller_tokenizer.vocab_size])
    before, after = model.embeddings.word.weight, smaller.embeddings.word.weight
    report = {"min_count": min_count, "characters": characters, "tokens_before": len(before),
              "tokens_after": len(after), "tokens_used": sum(count >= min_count for count in counts.values()),
              "embedding_bytes_saved": before.nbytes - after.nbytes,
              "tokenizer_bytes_saved": sum(len(t.backend.to_str().encode()) * sign
                                           for t, sign in ((tokenizer, 1), (smaller_tokenizer, -1)))}
    if check_texts := list(check_texts):
        report |= {"checked_texts": len(check_texts), "changed_texts": changed_texts(
            tokenizer, smaller_tokenizer, kept_ids, check_texts, max_length)}
    return smaller, smaller_tokenizer, report
