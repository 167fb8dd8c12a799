"""Vocabulary pruning: tokenizer and embedding stay aligned, kept texts stay the same, removed words are split."""

import json
from collections import Counter

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from pocketbert.data.tokenizer import ROBERTA_SPECIALS, Tokenizer, train_wordpiece
from pocketbert.data.tokenizer_files import add_roberta_specials, read_bertweet
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.pruning.vocabulary import (
    changed_texts,
    count_tokens,
    merge_ancestors,
    shrink_embedding,
    shrink_tokenizer,
    shrink_vocabulary,
    special_ids,
    tokens_to_keep,
)
from small_models import random_model

# Each vocabulary is learnt from all of these; the task uses the first half alone.
TASK = ["the trains are late again today", "What a lovely day for a long walk!", "anyone know when the shop opens?",
        "not a good phone :(", "I loved this film so much", "the bus leaves at nine, the café at ten 😂"]
OTHERS = ["quarterly earnings exceeded expectations", "the committee postponed its meeting", "a goodly thunderstorm",
          "gravitational waves were measured", "русский текст и слова", "天气很好 today", "unlikely filming 1984"]
LENGTH = 30


def wordpiece():
    return train_wordpiece(TASK + OTHERS, vocab_size=400)


def byte_bpe():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator(TASK + OTHERS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=ROBERTA_SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return Tokenizer(add_roberta_specials(backend))


def bertweet(folder):
    """The published files, with every fifth longer piece missing: some merges lead to <unk>."""
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator(TASK + OTHERS, trainers.BpeTrainer(
        vocab_size=320, end_of_word_suffix="</w>", show_progress=False))
    merges = json.loads(backend.to_str())["model"]["merges"]
    (folder / "bpe.codes").write_text("".join(f"{a} {b} 7\n" for a, b in merges), encoding="utf-8")
    pieces = sorted(p[:-4] if p.endswith("</w>") else p + "@@" for p in backend.get_vocab())
    pieces = [piece for i, piece in enumerate(pieces) if i % 5 or len(piece.removesuffix("@@")) == 1]
    (folder / "vocab.txt").write_text("".join(f"{p} 7\n" for p in pieces), encoding="utf-8")
    backend, real_ids = read_bertweet(folder / "vocab.txt", folder / "bpe.codes", added={})
    return Tokenizer(backend, {"vocab_size": real_ids}, "bertweet")


def unigram():
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainee = tokenizers.Tokenizer(models.Unigram())
    trainee.pre_tokenizer = split
    trainee.train_from_iterator((TASK + OTHERS) * 3, trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False))
    pieces = [(piece, score) for piece, score in json.loads(trainee.to_str())["model"]["vocab"] if piece != "<unk>"]
    vocab = [(token, 0.0) for token in ROBERTA_SPECIALS[:4]] + pieces + [("<mask>", 0.0)]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=3))
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), split
    return Tokenizer(add_roberta_specials(backend))


KINDS = ["bert", "distilbert", "roberta", "bertweet", "xlm-roberta"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """{model type: (random model, its tokenizer)}; the model has a few rows more than the tokenizer has ids."""
    made = {"bert": wordpiece(), "roberta": byte_bpe(), "bertweet": bertweet(tmp_path_factory.mktemp("bertweet")),
            "xlm-roberta": unigram()}
    made["distilbert"] = made["bert"]

    def model_for(kind):
        family = kind if kind in ("bert", "distilbert") else "roberta"
        spare = 0 if kind == "bertweet" else 3
        model_type = "roberta" if kind == "bertweet" else kind
        return random_model(family=family, vocab_size=made[kind].vocab_size + spare, hf={
            "model_type": model_type, "unk_token_id": made[kind].unk_id, "eos_token_id": made[kind].suffix[0]})
    return {kind: (model_for(kind), made[kind]) for kind in KINDS}


def logits_of(model, tokenizer, texts):
    """One text at a time, so that no text depends on its batch."""
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([row])) for row in tokenizer(texts, LENGTH)])


def pieces_of(tokenizer, text):
    return [tokenizer.backend.id_to_token(i) for i in tokenizer([text], LENGTH)[0]]


# ---- what must not change --------------------------------------------------------------------------------


@pytest.mark.parametrize("characters", ["all", "seen"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_counted_texts_keep_their_tokens_and_their_logits(pairs, kind, characters):
    model, tokenizer = pairs[kind]
    smaller, smaller_tokenizer, report = shrink_vocabulary(model, tokenizer, TASK, 1, LENGTH, characters)
    assert smaller.config.vocab_size == smaller_tokenizer.vocab_size == report["tokens_after"] < tokenizer.vocab_size
    assert torch.equal(logits_of(smaller, smaller_tokenizer, TASK), logits_of(model, tokenizer, TASK))
    for text in TASK:
        assert pieces_of(smaller_tokenizer, text) == pieces_of(tokenizer, text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("min_count", [1, 2])
def test_any_text_whose_tokens_are_kept_keeps_them_and_its_logits(pairs, kind, min_count):
    model, tokenizer = pairs[kind]
    counted = TASK + TASK[:3]
    kept = tokens_to_keep(tokenizer, count_tokens(tokenizer, counted, LENGTH), min_count)
    smaller, smaller_tokenizer, _ = shrink_vocabulary(model, tokenizer, counted, min_count, LENGTH)
    words = sorted({word for text in TASK + OTHERS for word in text.split()})
    texts = [f"{a} {b}" for a in words for b in words[::5]]
    raw = Tokenizer(tokenizer.backend, cleaning=tokenizer.cleaning)           # BERTweet's hidden ids too
    same = [text for text, row in zip(texts, raw(texts, LENGTH), strict=True) if set(row) <= set(kept)]
    assert 50 < len(same) < len(texts)
    assert changed_texts(tokenizer, smaller_tokenizer, kept, same, LENGTH) == 0
    assert torch.equal(logits_of(smaller, smaller_tokenizer, same[:100]), logits_of(model, tokenizer, same[:100]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_token_keeps_its_row_and_its_name(pairs, kind):
    model, tokenizer = pairs[kind]
    smaller, smaller_tokenizer, _ = shrink_vocabulary(model, tokenizer, TASK, 2, LENGTH)
    kept = tokens_to_keep(tokenizer, count_tokens(tokenizer, TASK, LENGTH), 2)
    assert kept != list(range(len(kept)))                                     # the ids did move
    for new, old in enumerate(kept):
        assert smaller_tokenizer.backend.id_to_token(new) == tokenizer.backend.id_to_token(old)
        if old < tokenizer.vocab_size:
            assert torch.equal(smaller.embeddings.word.weight[new], model.embeddings.word.weight[old])


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_keep_their_role(pairs, kind):
    model, tokenizer = pairs[kind]
    smaller, new, _ = shrink_vocabulary(model, tokenizer, TASK, 10**9, LENGTH)
    name, new_name = tokenizer.backend.id_to_token, new.backend.id_to_token
    assert (new_name(new.pad_id), new_name(new.unk_id)) == (name(tokenizer.pad_id), name(tokenizer.unk_id))
    assert [*map(new_name, new.prefix + new.suffix)] == [*map(name, tokenizer.prefix + tokenizer.suffix)]
    assert new.cleaning == tokenizer.cleaning
    assert smaller.config.pad_token_id == new.pad_id
    assert (smaller.config.hf["unk_token_id"], smaller.config.hf["eos_token_id"]) == (new.unk_id, new.suffix[0])
    assert smaller.config.position_offset == model.config.position_offset
    mask = "[MASK]" if "[MASK]" in tokenizer.backend.get_vocab() else "<mask>"
    roles = {tokenizer.backend.token_to_id(mask), *tokenizer.prefix, *tokenizer.suffix}
    in_pair, new_in_pair = (t.backend.encode(f"a {mask} b", "c").ids for t in (tokenizer, new))
    expected = [name(i) for i in in_pair if i in roles]
    assert [token for token in map(new_name, new_in_pair) if token in expected] == expected and len(expected) > 3
    assert (new.unk_id in new(["ѫ"], 9)[0]) == (tokenizer.unk_id in tokenizer(["ѫ"], 9)[0]) == (kind != "roberta")


def test_special_tokens_in_the_middle_of_a_vocabulary_are_renumbered_everywhere():
    """BERT's real vocabulary has [UNK], [CLS] and [SEP] at 100 to 102, behind 99 unused tokens."""
    state = json.loads(wordpiece().backend.to_str())
    vocab = ["[PAD]", *(f"[unused{i}]" for i in range(99))]
    vocab += sorted(set(state["model"]["vocab"]) - {"[PAD]"}, key=state["model"]["vocab"].get)
    state["model"]["vocab"] = {piece: i for i, piece in enumerate(vocab)}
    for token in state["added_tokens"]:
        token["id"] = vocab.index(token["content"])
    for token in state["post_processor"]["special_tokens"].values():
        token["ids"] = [vocab.index(token["id"])]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.unk_id) == ([101], [102], 100)
    model = random_model(vocab_size=tokenizer.vocab_size, hf={"sep_token_id": 102, "bos_token_id": 7, "x_id": 102})
    smaller, new, _ = shrink_vocabulary(model, tokenizer, TASK, 1, LENGTH)
    assert smaller.config.hf == {"sep_token_id": 3, "bos_token_id": None, "x_id": 102}
    assert (new.prefix, new.suffix, new.unk_id, new.pad_id) == ([2], [3], 1, 0)
    assert torch.equal(logits_of(smaller, new, TASK), logits_of(model, tokenizer, TASK))


@pytest.mark.parametrize("processor", ["bert", "roberta"])
def test_the_older_forms_of_post_processor_are_renumbered(processor):
    tokenizer = wordpiece() if processor == "bert" else byte_bpe()
    (sep, cls), kind = (tokenizer.suffix[0], tokenizer.prefix[0]), tokenizers.processors
    name = tokenizer.backend.id_to_token
    older = (kind.BertProcessing if processor == "bert" else kind.RobertaProcessing)((name(sep), sep), (name(cls), cls))
    tokenizer.backend.post_processor = kind.Sequence([kind.ByteLevel(), older])
    tokenizer.backend.add_tokens(["<3<3"])                                   # behind the vocabulary, a new last id
    tokenizer = Tokenizer(tokenizer.backend)
    kept = tokens_to_keep(tokenizer, count_tokens(tokenizer, TASK, LENGTH), 1)
    new = shrink_tokenizer(tokenizer, kept)
    assert new.backend.token_to_id("<3<3") == len(kept) - 1
    assert changed_texts(tokenizer, new, kept, TASK + ["late <3<3 again"], LENGTH) == 0


# ---- what must change, and how ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_word_is_split_into_kept_pieces_and_never_unknown(pairs, kind):
    model, tokenizer = pairs[kind]
    smaller, new, _ = shrink_vocabulary(model, tokenizer, TASK, 1, LENGTH)
    known = [text for text in OTHERS if tokenizer.unk_id not in tokenizer([text], 200)[0]]
    assert len(known) >= 2
    for text in known:
        assert max(new([text], 200)[0]) < new.vocab_size == len(smaller.embeddings.word.weight), text
        # Every character is read. (BERTweet's own pieces without a row, here a fifth, are <unk> before and after.)
        assert new.unk_id not in Tokenizer(new.backend, cleaning=new.cleaning)([text], 200)[0], text
    assert pieces_of(new, OTHERS[0]) != pieces_of(tokenizer, OTHERS[0])
    odd = ["", "\x00", "🤷🏽 ½ ™ ﬁ", "the\u2028x</w> ##a @@ [MASK] <mask>", "x" * 300, "한국어 العربية"]
    assert all(0 <= i < new.vocab_size for row in new(odd, LENGTH) for i in row)


def test_with_a_huge_min_count_only_special_tokens_and_characters_stay():
    tokenizer = wordpiece()
    tokens = {tokenizer.backend.id_to_token(i) for i in tokens_to_keep(tokenizer, Counter({7: 5}), 10**9)}
    vocab = tokenizer.backend.get_vocab()
    longer = {token for token in tokens if len(token.removeprefix("##")) > 1}
    assert longer == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    gone = {piece for piece in vocab if len(piece.removeprefix("##")) == 1} - tokens
    assert {"##!", "##天"} <= gone and "天" in tokens          # BERT cuts around these: no word has one inside
    assert all(not piece[2:].isalpha() or piece[2:] in "天气很好" for piece in gone)
    everything = train_wordpiece(["a!b 天气b c,d (e) 气!天"] + TASK + OTHERS, vocab_size=400)
    cut = [everything.backend.id_to_token(i) for row in everything(TASK + OTHERS, 99) for i in row]
    assert not gone & set(cut)


def test_byte_bpe_keeps_all_256_bytes_and_the_ancestors_of_what_it_keeps():
    tokenizer = byte_bpe()
    model = json.loads(tokenizer.backend.to_str())["model"]
    for characters in ("all", "seen"):
        for min_count in (1, 10**9):
            kept = set(tokens_to_keep(tokenizer, count_tokens(tokenizer, TASK, LENGTH), min_count, characters))
            assert {model["vocab"][byte] for byte in pre_tokenizers.ByteLevel.alphabet()} <= kept
            reached = {i for piece, i in model["vocab"].items() if len(piece) == 1} | special_ids(tokenizer)
            for a, b in model["merges"]:                                      # in the order in which they were learnt
                if {model["vocab"][a], model["vocab"][b]} <= reached and model["vocab"][a + b] in kept:
                    reached.add(model["vocab"][a + b])
            assert kept == reached


def test_a_piece_of_two_merges_keeps_the_parts_of_both():
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "ca": 6}
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c"), ("c", "a")]
    assert merge_ancestors(vocab, merges, {5}) == {0, 1, 2, 3, 4, 5}


def test_the_unigram_piece_with_the_lowest_score_stays_because_it_sets_the_price_of_unknown_characters():
    vocab = [(t, 0.0) for t in ROBERTA_SPECIALS[:4]] + [("▁", -2.0), ("a", -2.0), ("▁xq", -8.0), ("▁罕", -20.0)]
    backend = tokenizers.Tokenizer(models.Unigram([*vocab, ("<mask>", 0.0)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = Tokenizer(add_roberta_specials(backend))
    kept = tokens_to_keep(tokenizer, count_tokens(tokenizer, ["a"], LENGTH), 1)
    assert [vocab[i][0] for i in kept[4:-1]] == ["▁", "a", "▁罕"]
    assert tokens_to_keep(tokenizer, count_tokens(tokenizer, ["a"], LENGTH), 1, "seen") == kept


def test_unseen_scripts_go_when_only_seen_characters_are_wanted():
    tokenizer = wordpiece()
    counts = count_tokens(tokenizer, TASK, LENGTH)
    tokens = {tokenizer.backend.id_to_token(i) for i in tokens_to_keep(tokenizer, counts, 10**9, "seen")}
    assert {"😂", "q", "##q", "1"} <= tokens and not tokens & {"天", "р", "##р"}
    assert "天" in {tokenizer.backend.id_to_token(i) for i in tokens_to_keep(tokenizer, counts, 10**9, "all")}


def test_changed_texts_counts_the_texts_and_the_report_tells_them(pairs):
    model, tokenizer = pairs["bert"]
    smaller, new, report = shrink_vocabulary(model, tokenizer, TASK, 1, LENGTH, check_texts=TASK + OTHERS)
    old_pieces = [pieces_of(tokenizer, text) for text in TASK + OTHERS]
    changed = sum(pieces_of(new, text) != old for text, old in zip(TASK + OTHERS, old_pieces, strict=True))
    assert (report["checked_texts"], report["changed_texts"]) == (len(TASK + OTHERS), changed) and changed > 1
    rows = report["tokens_before"] - report["tokens_after"]
    assert report["embedding_bytes_saved"] == rows * model.config.hidden_size * 4 > 0
    assert report["tokenizer_bytes_saved"] > 0
    assert model.config.vocab_size == len(model.embeddings.word.weight) == report["tokens_before"]     # left as it was


# ---- the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_gives_the_same_ids_and_logits(pairs, kind, tmp_path):
    model, tokenizer = pairs[kind]
    smaller, new, report = shrink_vocabulary(model, tokenizer, TASK, 2, LENGTH)
    save_model(model, tokenizer, tmp_path / "before", run={})
    save_model(smaller, new, tmp_path / "after", run={})
    loaded, loaded_tokenizer = load_model(str(tmp_path / "after"))
    texts = TASK + OTHERS
    assert loaded_tokenizer(texts, LENGTH) == new(texts, LENGTH)
    assert (loaded_tokenizer.pad_id, loaded_tokenizer.unk_id) == (new.pad_id, new.unk_id)
    ids = new(texts, LENGTH)
    # Not torch.equal: tensors from a file lie at odd addresses, where some kernels add in another order.
    torch.testing.assert_close(predict(loaded, ids, 4, new.pad_id), predict(smaller, ids, 4, new.pad_id),
                               atol=1e-5, rtol=1e-5)
    assert all(map(torch.equal, loaded.state_dict().values(), smaller.state_dict().values()))
    saved = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("before", "after")]
    assert abs(saved[0] - saved[1] - report["embedding_bytes_saved"]) < 100              # the header's digits


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "xlm-roberta"])
def test_transformers_reads_the_folder_with_the_same_ids_and_logits(pairs, kind, tmp_path):
    model, tokenizer = pairs[kind]
    smaller, new, _ = shrink_vocabulary(model, tokenizer, TASK, 2, LENGTH)
    save_model(smaller, new, tmp_path / "out", run={})
    texts, theirs = TASK + OTHERS, AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "out" / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = new(texts, LENGTH)
    assert fast(texts, truncation=True, max_length=LENGTH)["input_ids"] == ids
    assert auto(texts, truncation=True, max_length=LENGTH)["input_ids"] == ids
    with torch.inference_mode():
        expected = torch.cat([theirs(input_ids=torch.tensor([row])).logits for row in ids])
    torch.testing.assert_close(logits_of(smaller, new, texts), expected, atol=1e-5, rtol=1e-5)


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts, kind", [([], UserError), ("a text", ValueError)])
def test_no_texts_and_a_string_in_place_of_a_list_are_errors(pairs, texts, kind):
    with pytest.raises(ValueError, match="no texts") as error:
        shrink_vocabulary(*pairs["bert"], texts)
    assert type(error.value) is kind


@pytest.mark.parametrize("options", [{"min_count": 0}, {"keep_characters": "few"}])
def test_impossible_options_are_an_error(pairs, options):
    with pytest.raises(ValueError, match="expected at least 1"):
        shrink_vocabulary(*pairs["bert"], TASK, **options)


def test_a_roberta_whose_padding_would_move_is_refused(pairs):
    model, tokenizer = pairs["roberta"]
    with pytest.raises(ValueError, match="pad_token_id 1 does not keep its place"):
        shrink_embedding(model, [1, 2, 3])


def test_an_embedding_in_a_compressed_form_is_refused(pairs):
    model, _ = pairs["bert"]
    compressed = random_model()
    compressed.embeddings.word = torch.nn.Identity()
    with pytest.raises(ValueError, match="compress it afterwards"):
        shrink_embedding(compressed, [0, 1])


def test_a_vocabulary_of_whole_words_is_refused():
    backend = tokenizers.Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="WordLevel"):
        tokens_to_keep(Tokenizer(backend), Counter(), 1)
