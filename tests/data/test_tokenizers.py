"""Tokenizers: the same ids as `transformers`, from every published form; cleaning; odd input; broken files.

The files are small and made here: two tokenizers are trained on the texts below and written in each form.
"""

import json
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    BertweetTokenizer,
    CamembertTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from pocketbert.data.tokenizer import Tokenizer, groups_of, train_wordpiece
from pocketbert.data.tokenizer_files import load_tokenizer
from pocketbert.data.tweets import CLEANERS, clean_bertweet, clean_cardiff, default_cleaning
from pocketbert.errors import UserError

TWEETS = [
    "Just had the BEST coffee ever!!! ☕️😍 @barista_joe thanks https://t.co/AbC123",
    "i can't believe it’s not butter… “really”? it's a café in Zürich, naïve façade",
    "RT @user1: flights cancelled AGAIN :( #fail #travel http://bit.ly/xyz?a=1&b=2",
    "two lines\nof text\r\n\r\nand a third\tone with  two blanks ",
    "天气很好 今天 and 日本語 with русский текст, العربية",
    "literally [SEP] in the text, [MASK] too, <s> and </s> and <mask>",
    "sooooo happyyyy 😂😂😂 👍🏽 ❤️ 👨‍👩‍👧 love u <3 :-) 24/7",
    "the cat sat on the mat and the other cat sat on the other mat, the end",
    "a\x00b \x07bell \x1csep a\u2028line\u0085next\u00a0space\u3000wide \ufffd",
    "foo@@ bar@@ @@ x</w> </w> isn't they'd we'll I've you're i'm she's",
    "", " ", "\n", "x" * 150, "é e\u0301 ½ ™ © ＡＢＣ ﬁ",
]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """One folder per published form, each with a small vocabulary of its own."""
    root = tmp_path_factory.mktemp("forms")
    folders = {name: root / name for name in ("wordpiece", "cased", "roberta", "bertweet", "json")}
    for folder in folders.values():
        folder.mkdir()

    for name, lowercase in (("wordpiece", True), ("cased", False)):
        vocab = train_wordpiece(TWEETS, vocab_size=400, lowercase=lowercase).backend.get_vocab()
        (folders[name] / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")
    (folders["cased"] / "tokenizer_config.json").write_text('{"do_lower_case": false}')

    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.train_from_iterator(TWEETS, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model.model.save(str(folders["roberta"]))

    model = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain = [text for text in TWEETS if not any(mark in text for mark in ("</", "@@", "\x1c"))]
    model.train_from_iterator(plain, trainers.BpeTrainer(
        vocab_size=400, end_of_word_suffix="</w>", show_progress=False))
    merges = json.loads(model.to_str())["model"]["merges"]
    (folders["bertweet"] / "bpe.codes").write_text("".join(f"{a} {b} 7\n" for a, b in merges), encoding="utf-8")
    pieces = sorted(p[:-4] if p.endswith("</w>") else p + "@@" for p in model.get_vocab())
    pieces = [piece for i, piece in enumerate(pieces) if i % 5]          # so that some merges lead to <unk>
    (folders["bertweet"] / "vocab.txt").write_text("".join(f"{p} 7\n" for p in pieces), encoding="utf-8")

    load(folders["cased"]).save(folders["json"])
    return folders


def finder(folder):
    return lambda name: folder / name if (folder / name).exists() else None


def load(folder, config=None, cleaning="none"):
    return load_tokenizer(finder(folder), config or {}, cleaning=cleaning)


def oracle(name, folder):
    """transformers' own reader of the same files."""
    if name in ("wordpiece", "cased"):
        return BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=name == "wordpiece")
    if name == "roberta":
        return RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    if name == "bertweet":
        return BertweetTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


FORMS = ("wordpiece", "cased", "roberta", "bertweet", "json")


# ---- equal ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [1000, 16, 5, 3])
@pytest.mark.parametrize("name", FORMS)
def test_ids_equal_transformers(forms, name, max_length):
    ours = load(forms[name])(TWEETS, max_length)
    theirs = oracle(name, forms[name])(TWEETS, truncation=True, max_length=max_length)["input_ids"]
    for text, a, b in zip(TWEETS, ours, theirs, strict=True):
        assert a == b, ascii(text)


@pytest.mark.parametrize("name", FORMS)
def test_a_saved_tokenizer_gives_the_same_ids(forms, name, tmp_path):
    before = load(forms[name])
    before.save(tmp_path)
    after = load(tmp_path, {"vocab_size": before.vocab_size})
    assert after(TWEETS, 64) == before(TWEETS, 64)
    assert (after.pad_id, after.unk_id, after.vocab_size) == (before.pad_id, before.unk_id, before.vocab_size)


@pytest.mark.parametrize("name", FORMS)
def test_every_id_has_a_row_in_the_embedding(forms, name):
    tokenizer = load(forms[name])
    ids = [i for row in tokenizer(TWEETS, 1000) for i in row]
    assert 0 <= min(ids) and max(ids) < tokenizer.vocab_size
    assert (tokenizer.pad_id, tokenizer.unk_id) == ((0, 1) if name in ("wordpiece", "cased", "json") else (1, 3))


def test_bertweet_reads_pieces_missing_from_its_vocabulary_as_unknown(forms):
    tokenizer = load(forms["bertweet"])
    assert tokenizer.num_ids > tokenizer.vocab_size                  # the fixture has such pieces
    assert tokenizer.unk_id in tokenizer(["the other cat sat on the mat"], 100)[0]
    assert tokenizer.vocab_size == tokenizer.backend.token_to_id("<mask>") + 1


def test_bertweet_is_recognised_although_it_has_a_vocab_txt(forms):
    assert load(forms["bertweet"], cleaning=None).cleaning == "bertweet"
    assert load(forms["bertweet"]).prefix == [0]                     # <s>, not [CLS]


@pytest.mark.parametrize("options", [{"strip_accents": False}, {"do_lower_case": False, "strip_accents": True},
                                     {"tokenize_chinese_chars": False}])
def test_wordpiece_options_of_tokenizer_config_are_obeyed(forms, tmp_path, options):
    (tmp_path / "vocab.txt").write_bytes((forms["wordpiece"] / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    expected = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), **options)(TWEETS)["input_ids"]
    assert load(tmp_path)(TWEETS, 1000) == expected
    assert expected != load(forms["wordpiece"])(TWEETS, 1000)


def test_a_vocabulary_may_hold_pieces_that_look_like_line_ends(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "\x85", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    assert load(tmp_path)(["cat"], 8) == [[2, 7, 3]]


def test_truncation_and_padding_of_the_file_are_ignored(forms, tmp_path):
    backend = tokenizers.Tokenizer.from_file(str(forms["json"] / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=128)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path)(TWEETS, 64) == load(forms["json"])(TWEETS, 64)


def write_sentencepiece(folder, pieces):
    """sentencepiece.bpe.model, a protobuf. pieces: [(piece, log-probability)]"""
    def field(number, payload):                                      # one length-delimited protobuf field
        return bytes([number << 3 | 2, len(payload)]) + payload
    fields = [field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score)) for piece, score in pieces]
    (folder / "sentencepiece.bpe.model").write_bytes(b"".join(fields))


def test_sentencepiece_model_is_read_with_the_ids_of_fairseq(tmp_path):
    write_sentencepiece(tmp_path, [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -4.0), ("▁a", -1.0), ("b", -1.0)])
    tokenizer = load(tmp_path)
    assert tokenizer(["ab  a b", "a?"], 16) == [[0, 5, 6, 5, 4, 6, 2], [0, 5, 3, 2]]       # 3 + 1 is "▁"
    assert tokenizer.backend.token_to_id("<mask>") == tokenizer.vocab_size - 1 == 7
    whole = (tmp_path / "sentencepiece.bpe.model").read_bytes()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="sentencepiece.bpe.model is broken"):
        load(tmp_path)


# ---- added tokens, lower case beside a tokenizer.json, CamemBERT -------------------------------------------

SPOKEN = ["Great [USER] sad[URL]x AWFUL", "[user] Great", " [USER]  [URL] ", "@USERHTTPURL x @USER", "the cat <mask>"]


def copy(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def theirs(kind, folder):
    tokenizer = kind.from_pretrained(str(folder))
    return [tokenizer(text)["input_ids"] for text in SPOKEN + TWEETS]


def decoder_of(added, **properties):
    flat = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
    return {str(i): {"content": token, **flat, **properties} for token, i in added.items()}


@pytest.mark.parametrize("properties", [None, {}, {"normalized": True}, {"special": True}, {"lstrip": True},
                                        {"single_word": True}])
@pytest.mark.parametrize("name, kind", [("wordpiece", BertTokenizer), ("roberta", RobertaTokenizer)])
def test_added_tokens_have_the_ids_of_transformers(forms, tmp_path, name, kind, properties):
    """None: as added_tokens.json; otherwise as added_tokens_decoder of tokenizer_config.json."""
    copy(forms[name], tmp_path)
    size = load(tmp_path).vocab_size
    added = {"[USER]": size, "[URL]": size + 1, "@USER": size + 2, "HTTPURL": size + 3}
    if properties is None:
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["[USER]"]}))
    else:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(
            {"tokenizer_class": kind.__name__, "added_tokens_decoder": decoder_of(added, **properties)}))
    ours = load(tmp_path)
    assert ours.vocab_size == size + 4
    assert ours(SPOKEN + TWEETS, 1000) == theirs(kind, tmp_path)
    ours.save(tmp_path / "saved")
    assert load(tmp_path / "saved")(SPOKEN + TWEETS, 1000) == ours(SPOKEN + TWEETS, 1000)


def test_added_tokens_of_bertweet_are_whole_and_real(forms, tmp_path):
    copy(forms["bertweet"], tmp_path)
    size = load(tmp_path).vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[USER]": size}))
    tokenizer = load(tmp_path)
    assert tokenizer.vocab_size == size + 1 and tokenizer(["the [USER] cat"], 64)[0].count(size) == 1
    assert tokenizer(["the other cat"], 64) == load(forms["bertweet"])(["the other cat"], 64)


def test_a_token_added_beside_a_tokenizer_json_and_a_gap_between_the_ids(forms, tmp_path):
    copy(forms["json"], tmp_path)
    size = load(tmp_path).vocab_size
    options = {"added_tokens_decoder": decoder_of({"[USER]": size + 3})}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert size + 3 in load(tmp_path)(["a [USER]"], 64)[0] and load(tmp_path).vocab_size == size + 4


@pytest.mark.parametrize("added", [{"[USER]": 10 ** 18}, {"[USER]": 7}, {"[USER]": "x"}, [1]])
def test_added_tokens_with_impossible_ids_are_one_line(forms, tmp_path, added):
    copy(forms["wordpiece"], tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"do_lower_case": False}, {"do_lower_case": True},
                                     {"do_lower_case": True, "strip_accents": False},
                                     {"do_lower_case": False, "tokenize_chinese_chars": False}])
@pytest.mark.parametrize("name", ["wordpiece", "cased"])
def test_tokenizer_config_decides_about_lower_case_beside_a_tokenizer_json(forms, tmp_path, name, options):
    load(forms[name]).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **options}))
    assert load(tmp_path)(SPOKEN + TWEETS, 1000) == theirs(BertTokenizer, tmp_path)
    options = {"tokenizer_class": "PreTrainedTokenizerFast", **options}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert load(tmp_path)(TWEETS, 1000) == load(forms[name])(TWEETS, 1000)      # which does not know the option


@pytest.mark.parametrize("config", [{"model_type": "camembert"}, {"tokenizer_class": "CamembertTokenizer"}])
def test_camembert_has_its_own_numbers(tmp_path, config):
    words = [("▁", -4.0), ("▁bon", -2.0), ("▁jour", -2.2), *((c, -5.0) for c in "abcdefghijklmnopqrstuvwxyz")]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *words]
    write_sentencepiece(tmp_path, pieces)
    first = [(token, 0.0) for token in ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>")] + [("<unk>NOTUSED", -100.0)]
    oracle = CamembertTokenizer(vocab=[*first, *pieces[1:], ("<mask>", 0.0)])
    tokenizer = load(tmp_path, config)
    texts = ["bon jour", "bonjour zé", "<s> bon <mask>", "", "a <unk>NOTUSED b"]
    assert tokenizer(texts, 100) == [oracle(text)["input_ids"] for text in texts]
    assert tokenizer(["bon"], 8) == [[5, 8, 6]] and (tokenizer.pad_id, tokenizer.unk_id) == (1, 3)
    assert load(tmp_path)(["bon"], 8) == [[0, 5, 2]]                           # XLM-R


# ---- odd input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cleaning", CLEANERS)
@pytest.mark.parametrize("name", FORMS)
def test_odd_texts_give_at_most_max_length_ids(forms, name, cleaning):
    tokenizer = load(forms[name], cleaning=cleaning)
    odd = ["", " \t\n", "\x00", "\x01\x02\x7f", "\ud800", "a\udfffb", "x" * 100_000, "a-." * 3_000, "@", "&#0;"]
    rows = tokenizer(odd, 32)
    assert all(len(tokenizer.prefix) + len(tokenizer.suffix) <= len(row) <= 32 for row in rows)
    assert rows[0] == tokenizer.prefix + tokenizer.suffix


def test_texts_are_encoded_in_groups_of_bounded_size_with_the_same_ids(forms, monkeypatch):
    tokenizer = load(forms["wordpiece"])
    whole = tokenizer(TWEETS, 16)
    monkeypatch.setattr("pocketbert.data.tokenizer.CHARACTERS_AT_ONCE", 100)
    assert tokenizer(TWEETS, 16) == whole
    sizes = [sum(map(len, group)) for group in groups_of(TWEETS, 100)]
    assert len(sizes) > 5 and max(sizes) < 100 + max(map(len, TWEETS)) and sum(sizes) == sum(map(len, TWEETS))


def test_half_a_surrogate_pair_is_the_replacement_character_and_a_whole_one_is_its_emoji(forms):
    tokenizer = load(forms["roberta"])
    assert tokenizer(["a\ud83db", "\ud83d\ude02"], 32) == tokenizer(["a\ufffdb", "😂"], 32)


@pytest.mark.parametrize("value", [None, 3, float("nan"), b"bytes", ["list"]])
def test_a_text_that_is_no_string_is_an_error_that_names_its_type(forms, value):
    with pytest.raises(TypeError, match=type(value).__name__):
        load(forms["wordpiece"])(["fine", value], 8)


def test_a_max_length_without_room_for_text_is_an_error(forms):
    with pytest.raises(ValueError, match="max_length 2"):
        load(forms["roberta"])(["text"], 2)


def test_threads_with_different_max_lengths_do_not_disturb_each_other(forms):
    tokenizer, wrong = load(forms["wordpiece"]), []

    def work(max_length):
        for _ in range(20):
            wrong.extend(row for row in tokenizer(TWEETS, max_length) if len(row) > max_length)
            wrong.extend([] if len(tokenizer(["the cat " * 40], max_length)[0]) == max_length else [max_length])
    threads = [threading.Thread(target=work, args=(n,)) for n in (8, 16, 40)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


# ---- broken and missing files --------------------------------------------------------------------------


@pytest.mark.parametrize("name, file", [("json", "tokenizer.json"), ("roberta", "vocab.json")])
def test_a_truncated_json_file_is_named_in_one_line(forms, tmp_path, name, file):
    for path in forms[name].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{file} .*broken.*download") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[PAD]\n[UNK]\n\xff\xfe\n", b"[PAD]\n[UNK]\ncat\n", b""])
def test_a_broken_vocab_txt_is_named_in_one_line(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocab.txt is broken.*download") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["bpe.codes", "vocab.txt"])
def test_a_broken_bertweet_file_is_named(forms, tmp_path, file):
    for path in forms["bertweet"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_text("oneword\n")
    with pytest.raises(ValueError, match=rf"{file}.* is broken"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"org/model.*tokenizer.json.*bpe.codes.*merges.txt.*vocab.txt"):
        load_tokenizer(finder(tmp_path), {}, name="org/model")


def test_a_failed_save_leaves_the_old_file(forms, tmp_path, monkeypatch):
    load(forms["wordpiece"]).save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def no_space(handle):
        raise OSError("no space left on device")
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        load(forms["roberta"]).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_bytes() == before


# ---- cleaning ------------------------------------------------------------------------------------------


def test_cardiff_cleaning_is_the_published_function():
    def preprocess(text):                        # from the model card of twitter-roberta-base-sentiment-latest
        new_text = []
        for t in text.split(" "):
            t = "@user" if t.startswith("@") and len(t) > 1 else t
            t = "http" if t.startswith("http") else t
            new_text.append(t)
        return " ".join(new_text)
    assert clean_cardiff("@ann: see https://t.co/x @ me  a@b") == "@user see http @ me  a@b"
    for text in TWEETS:
        assert clean_cardiff(text) == preprocess(text)


def test_bertweet_cleaning_equals_transformers(forms):
    """Without emoji: transformers needs a package for those, which may be absent."""
    normalize = oracle("bertweet", forms["bertweet"]).normalizeTweet
    texts = TWEETS + [
        "it's 5 p.m. and he cannot go, ain't it? call 555-123-4567… or (0)555 123 4567",
        "mail me: a.b@c.org &amp; visit www.x.com/y or nltk.org, &#8364;5 &nosuch; wow!!!!!! --> <b> (: :D 3,000",
        "SC has first two cases of coronavirus, DHEC confirms https://post.com/a/b-c.html?u=x&v=user-share… via @post"]
    for text in texts:
        text = "".join(c for c in text if c < "\u2070" and c not in "\u200d\u0301©")
        assert clean_bertweet(text) == normalize(text), ascii(text)


def test_bertweet_cleaning_names_emoji_but_not_other_symbols():
    assert clean_bertweet("😂 ❤️👍🏽✨☹ 🇩🇪 ★♡♫ ü") == (
        ":face_with_tears_of_joy: :red_heart: :thumbs_up: :medium_skin_tone: :sparkles: :frowning_face: "
        ":regional_indicator_symbol_letter_d: :regional_indicator_symbol_letter_e: ★ ♡ ♫ ü")


@pytest.mark.parametrize("pattern", ["a", "a.", "1-", "<a", "http:','", "a@", "#'", ". \t", "(:", "&a"])
def test_bertweet_cleaning_ends_for_hostile_texts(pattern):
    """NLTK's own expression needs minutes or years for some of these; ours some tenths of a second."""
    def stop(*_):
        raise AssertionError("the expression backtracks without end")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    try:
        assert len(clean_bertweet(pattern * (40_000 // len(pattern)))) > 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_callers_cleaning_wins_over_the_saved_one_and_that_over_the_models(forms):
    find, name = finder(forms["roberta"]), "cardiffnlp/twitter-roberta-base"
    saved = {"text_cleaning": "none"}
    assert load_tokenizer(find, {}, name=name).cleaning == "cardiff"
    assert load_tokenizer(find, saved, name=name).cleaning == "none"
    assert load_tokenizer(find, saved, name=name, cleaning="bertweet").cleaning == "bertweet"
    assert default_cleaning("x", {"_name_or_path": name}) == "cardiff"
    assert default_cleaning("x", {"tokenizer_class": "BertweetTokenizer"}) == "bertweet"
    assert default_cleaning("bert-base-uncased", {}) == "none"
    with pytest.raises(ValueError, match="'tidy'.*none, cardiff, bertweet"):
        load_tokenizer(find, {}, cleaning="tidy")


def test_the_tokenizer_cleans(forms):
    cleaned, plain = load(forms["roberta"], cleaning="cardiff"), load(forms["roberta"])
    assert cleaned(["@ann http://x.y"], 64) == plain(["@user http"], 64) != plain(["@ann http://x.y"], 64)


def test_pad_id_comes_from_the_tokenizer_then_the_config_then_zero():
    def backend(pad):
        vocab = {"<unk>": 0, "a</w>": 1} | ({pad: 2} if pad else {})
        return tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    assert Tokenizer(backend("<pad>"), {"pad_token_id": 1}).pad_id == 2
    assert Tokenizer(backend(None), {"pad_token_id": 1}).pad_id == 1
    assert Tokenizer(backend(None)).pad_id == 0


# ---- training ------------------------------------------------------------------------------------------


def test_trained_wordpiece_has_berts_specials_first_and_the_size_asked_for():
    tokenizer = train_wordpiece(TWEETS * 3, vocab_size=350)
    assert [tokenizer.backend.id_to_token(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.vocab_size == 350 and sorted(tokenizer.backend.get_vocab().values()) == list(range(350))
    row = tokenizer(["The cat"], 16)[0]
    assert row[0] == 2 and row[-1] == 3 and len(row) == 4 and row == tokenizer(["the CAT"], 16)[0]
    cased = train_wordpiece(TWEETS, vocab_size=350, lowercase=False)
    assert cased(["The"], 16) != cased(["the"], 16)


def test_training_gives_the_same_vocabulary_in_every_process():
    """Hash tables are seeded per process; the library alone gives other ids each time."""
    code = ("import hashlib, random; from pocketbert.data.tokenizer import train_wordpiece; random.seed(0); "
            "words = [''.join(random.choices('abcdefghij', k=5)) "
            "for _ in range(2000)]; t = train_wordpiece([' '.join(words)], 300); "
            "print(hashlib.md5(repr(sorted(t.backend.get_vocab().items())).encode()).hexdigest())")
    folder = Path(__file__).parents[2]
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                              cwd=folder).stdout for _ in range(3)}
    assert len(digests) == 1
