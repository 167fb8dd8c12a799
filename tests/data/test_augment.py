"""New texts are new, made by the operation that was asked for, and protected words stay."""

import random
from collections import Counter

import pytest
import torch

from pocketbert.data.augment import (
    OPERATIONS,
    augment,
    delete,
    free_places,
    insert,
    mask_token,
    mask_words,
    neighbours,
    ngram_sample,
    replace,
    similar_words,
    split_word,
    swap,
    with_core,
    with_new_versions,
)
from pocketbert.data.splits import Dataset, Split
from pocketbert.data.tokenizer import train_wordpiece
from pocketbert.errors import UserError
from small_models import TEXTS

TWEET = '@ann I LOVE this "lovely" film, so much!!! #cinema http://t.co/x 10am :) [MASK] don\'t miss it'.split()
PROTECTED = ["@ann", "#cinema", "http://t.co/x", "10am", ":)", "[MASK]"]
SYNONYMS = {"love": ["like", "hate"], "lovely": ["nice"], "film": ["movie"], "good": ["great"]}
CHANGES = {"swap": swap, "delete": delete, "insert": lambda *a: insert(*a[:2], SYNONYMS, *a[2:]),
           "replace": lambda *a: replace(*a[:2], SYNONYMS, *a[2:]),
           "mask": lambda *a: mask_words(*a[:2], "[MASK]", *a[2:])}


def every_change(operation, words=TWEET, rate=0.3):
    return [CHANGES[operation](words, random.Random(seed), rate) for seed in range(200)]


# ---- words ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("word", ["@ann", "#tag", "http://t.co", "www.a.com", "10am", "2nd", "!!!", ":)", ":-D", ";D",
                                  "<3", "[MASK]", "<s>", "</s>", "😂", "&amp;", "a_b", "$5", "", "...", "U.S."])
def test_what_is_no_plain_word_is_protected(word):
    assert split_word(word) is None


@pytest.mark.parametrize("word, parts", [('"Good,', ('"', "Good", ",")), ("don't", ("", "don't", "")),
                                         ("I`d", ("", "I`d", "")), ("so-called...", ("", "so-called", "...")),
                                         ("नमस्ते", ("", "नमस्ते", "")), ("(a)", ("(", "a", ")"))])
def test_plain_word_is_split_from_the_punctuation_around_it(word, parts):
    assert split_word(word) == parts and "".join(parts) == word


@pytest.mark.parametrize("word, new", [("good,", "great,"), ("GOOD,", "GREAT,"), ("Good", "Great"), ("A", "Great")])
def test_new_word_has_the_case_of_the_old_one(word, new):
    assert with_core(word, "great") == new


# ---- operations ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("operation", CHANGES)
def test_protected_words_are_never_touched_and_the_list_given_is_not_changed(operation):
    before = list(TWEET)
    for words in every_change(operation):
        assert [word for word in words if word in PROTECTED and word != "[MASK]"] == PROTECTED[:-1]
        assert "[MASK]" in words
    assert before == TWEET


def test_swap_keeps_the_words_and_the_places_of_the_protected_ones():
    for words in every_change("swap"):
        assert Counter(words) == Counter(TWEET)
        assert [(i, word) for i, word in enumerate(words) if word in PROTECTED] == \
            [(i, word) for i, word in enumerate(TWEET) if word in PROTECTED]
    swapped = swap(TWEET, random.Random(0), rate=0.01)
    assert sum(a != b for a, b in zip(swapped, TWEET, strict=True)) == 2


def test_delete_removes_the_asked_number_of_words_and_keeps_the_order():
    for words in every_change("delete"):
        assert len(words) == len(TWEET) - round(0.3 * len(TWEET))
        rest = iter(TWEET)
        assert all(word in rest for word in words)  # a subsequence
    assert len(free_places(delete(TWEET, random.Random(0), rate=1.0))) == 1


def test_insert_adds_words_like_those_of_the_text_and_removes_none():
    for words in every_change("insert"):
        added = Counter(words) - Counter(TWEET)
        assert added.total() == len(words) - len(TWEET) == round(0.3 * len(TWEET))
        assert set(added) <= {"like", "hate", "nice", "movie"}
        rest = iter(words)
        assert all(word in rest for word in TWEET)


def test_replace_changes_only_words_with_synonyms_and_keeps_case_and_punctuation():
    seen = set()
    for words in every_change("replace", rate=0.01):
        (old, new), = [(a, b) for a, b in zip(TWEET, words, strict=True) if a != b]
        seen.add((old, new))
    assert seen == {("LOVE", "LIKE"), ("LOVE", "HATE"), ('"lovely"', '"nice"'), ("film,", "movie,")}


def test_mask_hides_the_asked_number_of_words_and_keeps_their_punctuation():
    for words in every_change("mask"):
        changed = [(a, b) for a, b in zip(TWEET, words, strict=True) if a != b]
        assert len(changed) == round(0.3 * len(TWEET))
        assert all(b == a.replace(split_word(a)[1], "[MASK]") for a, b in changed)


def test_ngram_is_one_to_five_words_in_a_row():
    lengths, joined = Counter(), " ".join(TWEET)
    for seed in range(300):
        words = ngram_sample(TWEET, random.Random(seed))
        lengths[len(words)] += 1
        assert f" {' '.join(words)} " in f" {joined} "
    assert set(lengths) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("words", [["good"], [":)"], ["@ann", "!!!"]])
def test_text_with_nothing_to_change_is_returned_as_it_is(words):
    assert swap(words, random.Random(0)) == delete(words, random.Random(0)) == words
    assert insert(words, random.Random(0), {}) == replace(words, random.Random(0), {}) == words


# ---- similar words -------------------------------------------------------------------------------------

def test_neighbours_are_those_of_all_cosines_whatever_the_chunk():
    table = torch.randn(37, 6, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
    for i, row in enumerate(neighbours(table, k=5, chunk=10).tolist()):
        assert row == sorted((j for j in range(37) if j != i), key=lambda j: -cosines[i, j].item())[:5]
    assert neighbours(table[:3], k=8).shape == (3, 2)


@pytest.fixture(scope="module")
def words_tokenizer():
    return train_wordpiece(["good great bad film movie walk once"] * 9 + [" ".join("unfathomable")], vocab_size=90)


def test_similar_words_are_nearest_in_the_table_and_only_whole_frequent_words(words_tokenizer):
    table = torch.zeros(words_tokenizer.vocab_size, 2)
    angles = {"good": 0, "great": 10, "bad": 25, "walk": 90, "film": 180, "movie": 185}
    for word, angle in angles.items():
        radians = torch.tensor(angle).deg2rad()
        table[words_tokenizer.backend.token_to_id(word)] = torch.stack([radians.cos(), radians.sin()]) * (1 + angle)
    texts = ["Good, GREAT bad film movie walk!"] * 5 + ["unfathomable 10am @ann"] * 5 + ["once"] * 4
    similar = similar_words(table, words_tokenizer, texts, k=2)
    assert set(similar) == set(angles)  # no "unfathomable": several tokens; no "once": rare
    assert similar["good"] == ["great", "bad"] and similar["film"] == ["movie", "walk"]


def test_words_that_the_tokenizer_does_not_know_have_no_synonyms(words_tokenizer):
    table = torch.randn(words_tokenizer.vocab_size, 2)
    assert set(similar_words(table, words_tokenizer, ["кот good great"] * 5)) == {"good", "great"}
    assert similar_words(table, words_tokenizer, ["good"] * 5) == {}
    assert similar_words(table, words_tokenizer, []) == {}


def test_text_of_the_mask_is_read_as_the_mask(tokenizer):
    assert mask_token(tokenizer) == "[MASK]"
    mask_id = tokenizer.backend.token_to_id("[MASK]")
    assert tokenizer(["the [MASK] is late", "the [MASK]!"], 20)[0].count(mask_id) == 1
    assert mask_id in tokenizer(["the [MASK]!"], 20)[0]


# ---- augment --------------------------------------------------------------------------------------------

ALL = dict(operations=OPERATIONS, synonyms=SYNONYMS, mask="[MASK]")


def test_augment_is_the_same_for_the_same_seed_and_another_for_another():
    first = list(augment(TEXTS, 5, seed=0, **ALL))
    assert first == list(augment(TEXTS, 5, seed=0, **ALL))
    assert first != list(augment(TEXTS, 5, seed=1, **ALL))


def test_new_texts_are_new_different_not_empty_and_at_most_as_many_as_asked():
    sources = [*TEXTS, " ".join(TWEET), "the bus", "good", ":)", "", "   ", "the  bus", "\ud800 bad news"]
    new = list(augment(sources, 5, **ALL))
    assert len(set(new)) == len(new) <= 5 * len(sources)
    assert not set(new) & {" ".join(text.split()) for text in sources}
    assert all(free_places(text.split()) for text in new)
    for text in TEXTS:
        assert len(list(augment([text], 5, **ALL))) == 5
    assert len(list(augment(["the bus"], 50, **ALL))) < 50 and list(augment(TEXTS, 0, **ALL)) == []


def test_piece_of_one_text_that_is_another_text_is_not_made_again():
    sources = ["so the train is late again", "late again", "the train", "train is late again", "is"]
    new = list(augment(sources, 50, operations=["ngram"]))
    assert "train is" in new and len(set(new)) == len(new) and not set(new) & set(sources)


def test_new_versions_of_a_text_do_not_depend_on_the_others():
    alone = list(augment(TEXTS[:1], 5, **ALL))
    assert list(augment(TEXTS, 5, **ALL))[:5] == alone
    assert list(augment(reversed(TEXTS), 5, **ALL))[-5:] == alone


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_alone_finds_new_texts(operation):
    assert 1 <= len(set(augment([" ".join(TWEET)], 3, operations=[operation], synonyms=SYNONYMS, mask="[MASK]"))) <= 3


@pytest.mark.parametrize("wrong, message", [
    (dict(operations=["shout"]), "shout"), (dict(operations=[]), "0 operations"), (dict(copies=-1), "-1 copies"),
    (dict(operations=["replace"], synonyms=None), "similar_words"),
    (dict(operations=["mask"], mask=None), "mask_token")])
def test_impossible_augmentation_is_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        list(augment(TEXTS, **{"copies": 2, **ALL, **wrong}))


# ---- new versions that keep their label ----------------------------------------------------------------

def dataset(train, validation=()):
    """train, validation: (text, label), ..."""
    splits = [Split([text for text, _ in rows], [label for _, label in rows]) for rows in (train, validation)]
    return Dataset("mine", ["rare", "common"], *splits, None, [], "publisher", "")


TRAIN = [("the train is late again", 0), *[(f"what a lovely day number {i}", 1) for i in range(9)]]


def test_new_versions_are_of_the_rare_classes_and_keep_their_label():
    data = dataset(TRAIN)
    split = with_new_versions(data, copies=3)
    assert split.texts[:10] == data.train.texts and len(split) == 13 and split.labels[10:] == [0, 0, 0]
    assert len(data.train) == 10 and len(set(split.texts)) == 13
    assert all(set(text.split()) <= set("the train is late again".split()) for text in split.texts[10:])
    both = with_new_versions(data, 3, ["all"])
    assert set(both.labels[10:]) == {0, 1} and with_new_versions(data, 3, ["common"]).labels.count(0) == 1
    for text, label in zip(both.texts[10:], both.labels[10:], strict=True):
        assert ("late" in text or "train" in text) == (label == 0)


def test_new_versions_depend_on_the_seed_alone():
    data = dataset(TRAIN)
    first = with_new_versions(data, 2, seed=1)
    assert first == with_new_versions(data, 2, seed=1) != with_new_versions(data, 2, seed=2)


def test_no_text_of_the_validation_split_becomes_a_new_version():
    text = "late train"
    assert set(with_new_versions(dataset([(text, 0), ("x", 1), ("y", 1)]), 9).texts) > {"train late", "train", "late"}
    data = dataset([(text, 0), ("x", 1), ("y", 1)], validation=[("Train  late", 0), ("LATE ", 1)])
    assert with_new_versions(data, 9).texts == [text, "x", "y", "train"]
    assert data.validation.texts == ["Train  late", "LATE "]


@pytest.mark.parametrize("options, message", [
    (dict(classes=["angry"]), "--augment-classes angry: the labels are rare, common"),
    (dict(operations=["mask"]), "no mask token")])
def test_versions_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        with_new_versions(dataset(TRAIN), 2, **options)
    with pytest.raises(UserError, match="no class is rarer"):
        with_new_versions(dataset([("one text", 0), ("other text", 1)]), 2)
