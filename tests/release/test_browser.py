"""The page of quantize.py export --format web in Chromium, against Python. Needs `make web` and Chromium."""

import random

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

import quantize
from benchmarks.browser import answers_in_browser, compare
from benchmarks.chromium import Chromium, serving
from pocketbert.data.tokenizer import Tokenizer, train_wordpiece, well_formed
from pocketbert.models.folder import save_model
from pocketbert.quantization.web import HARD_TEXTS, different_ids
from small_models import LABELS, TEXTS, random_model, random_recurrent

WORDS = " ".join(TEXTS + HARD_TEXTS[2:-1]).split() + ["😀😀", "http://x.yz", "@bob", "ß", "“quoted”", "Ǆ", "ﬁne"]
RECIPES = {"cnn": "cnn:layers=2,embedding=8,hidden=16", "bag": "bag:embedding=8,hidden=8",
           "n-grams": "bag:ngrams=3,buckets=64,embedding=8,hidden=8", "gru": "gru:layers=2,embedding=8,hidden=8",
           "lstm": "lstm:embedding=8,hidden=8"}


def hundred_texts():
    rng = random.Random(0)
    return HARD_TEXTS + [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(100 - len(HARD_TEXTS))]


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def words():
    """A tokenizer that has the letters of the hard texts."""
    return train_wordpiece(TEXTS + WORDS, vocab_size=600)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    def write(model, tokenizer):
        folder = tmp_path_factory.mktemp("page")
        save_model(model, tokenizer, folder / "model", run={})
        quantize.main(["export", "--model", str(folder / "model"), "--out", str(folder / "web"), "--format", "web"])
        return folder / "web"
    return write


@pytest.mark.parametrize("kind", ["encoder", *RECIPES])
def test_the_browser_gives_pythons_ids_labels_and_probabilities(kind, browser, words, export):
    model = random_recurrent(RECIPES[kind], words.vocab_size) if kind in RECIPES else random_model(
        vocab_size=words.vocab_size, std=0.15)
    folder = export(model, words)
    texts = hundred_texts()
    with serving(folder) as url:
        browser.open(url)
        answers = answers_in_browser(browser, texts)
    found = compare(folder, texts, answers)
    probabilities = [answer["probabilities"][LABELS[0]] for answer in answers]
    assert max(probabilities) - min(probabilities) > 0.02 and any(answer["cut"] for answer in answers)
    assert found["same_labels"] == found["same_ids"] == found["texts"] == 100
    assert found["largest_difference"] < 1e-3


# ---- other tokenizers --------------------------------------------------------------------------------------

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
AROUND = {"single": "<s> $A </s>", "special_tokens": [("<s>", 0), ("</s>", 2)]}


def trained(backend, trainer, cleaning="none"):
    # Not "xxx...": its pieces would be equally good in any order, and rounding decides between them.
    texts = [well_formed(text) for text in TEXTS + WORDS if len(text) < 100]
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(**AROUND)
    return Tokenizer(backend, cleaning=cleaning)


def byte_pairs():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(backend, trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False), cleaning="cardiff")


def unigram():
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return trained(backend, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False))


def cased():
    return train_wordpiece(TEXTS + WORDS, 600, lowercase=False)


@pytest.mark.parametrize("tokenizer", [cased, byte_pairs, unigram])
@pytest.mark.parametrize("max_length", [5, 128])
def test_token_ids_in_javascript_are_pythons(tokenizer, max_length):
    assert different_ids(tokenizer(), hundred_texts(), max_length) == []


def test_texts_with_other_ids_are_found(words):
    words.prefix = [words.prefix[0] + 1]
    assert different_ids(words, ["so good", "so bad"], 9) == ["so good", "so bad"]


# ---- the page ----------------------------------------------------------------------------------------------

def text_of(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').innerText.trim()")


def test_the_page_answers_what_is_typed_and_asks_nobody_else(browser, words, export):
    folder = export(random_recurrent(RECIPES["cnn"], words.vocab_size), words)
    with serving(folder) as url:
        browser.open(url)
        assert browser.evaluate("document.activeElement.id") == "text"
        browser.type("what a lovely day")
        browser.wait_for("document.querySelector('#bars .best')")
        [answer] = answers_in_browser(browser, ["what a lovely day"])
        assert text_of(browser, "verdict") == answer["label"]
        for name, probability in answer["probabilities"].items():
            assert f"{name}\n{100 * probability:.1f} %" in text_of(browser, "bars")
        assert f"{len(answer['ids'])} tokens" in text_of(browser, "status") and "MB" in text_of(browser, "status")
        browser.type(" so good" * 300)
        browser.wait_for("document.getElementById('note').textContent.includes('first 128 tokens')")
        browser.press("Escape")
        browser.wait_for("!document.querySelector('#bars .best')")
        assert text_of(browser, "verdict") == text_of(browser, "note") == ""
        assert browser.requests() and all(asked.startswith(url) for asked in browser.requests())
        assert browser.complaints() == []
        with pytest.raises(RuntimeError):  # of the Content-Security-Policy
            browser.evaluate("fetch('http://127.0.0.1:9/')")


def test_of_many_labels_the_most_probable_are_shown_in_order(browser, words, export):
    names = [f"intent {i}" for i in range(60)]
    folder = export(random_model(vocab_size=words.vocab_size, label_names=names), words)
    with serving(folder) as url:
        browser.open(url)
        browser.type("the train is late")
        browser.wait_for("document.querySelector('#bars .best')")
        [answer] = answers_in_browser(browser, ["the train is late"])
        best = sorted(names, key=lambda name: -answer["probabilities"][name])[:8]
        assert text_of(browser, "bars").split("\n")[::2] == best
        assert "8 most probable of 60" in text_of(browser, "note")


def test_a_page_without_its_model_says_so(browser, words, export):
    folder = export(random_recurrent(RECIPES["cnn"], words.vocab_size), words)
    (folder / "model.onnx").unlink()
    with serving(folder) as url:
        browser.open(url, ready="document.getElementById('status')")
        browser.wait_for("document.getElementById('status').innerText.includes('model.onnx cannot be loaded (404)')")
