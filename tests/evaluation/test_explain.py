"""Which words decided: occlusion and integrated gradients, against closed forms and against each other."""

import pytest
import torch

from pocketbert.data.tokenizer import Tokenizer, train_wordpiece
from pocketbert.errors import UserError
from pocketbert.evaluation.explain import (
    Words,
    integrated_gradients,
    log_odds,
    occlusion,
    read_words,
    starting_from,
)
from pocketbert.models.predict import predict
from small_models import FAMILIES, RECURRENT, TEXTS, quantized, random_model, random_recurrent

IDS = [2, 11, 12, 13, 14, 15, 3]
FOUR = Words("a b c d", [(0, 1), (2, 3), (4, 5), (6, 7)], IDS, [[1], [2, 3], [4], [5]], [2, 4, 4, 4, 4, 4, 3])


def test_log_odds_are_those_of_the_probability():
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    p = logits.softmax(-1)[0, 2]
    torch.testing.assert_close(log_odds(logits, 2)[0], (p / (1 - p)).log())


def test_occlusion_is_the_difference_of_two_calls():
    model = random_model()
    without = [2, 11, 4, 4, 14, 15, 3]  # the second word has two tokens
    whole, other = (log_odds(predict(model, [row], 1, 0), 1)[0] for row in (IDS, without))
    assert occlusion(model, FOUR, 1, 0)[1] == pytest.approx(float(whole - other), abs=1e-5)


@pytest.mark.parametrize("model", [*FAMILIES, *RECURRENT])
def test_integrated_gradients_share_out_the_whole_difference(model):
    """Completeness (Sundararajan et al. 2017, proposition 1), for every kind of network."""
    network = random_recurrent(RECURRENT[model]) if model in RECURRENT else random_model(family=model, std=0.1)
    ids, absent = torch.tensor([IDS]), torch.tensor([FOUR.absent])
    with torch.no_grad():
        difference = float(log_odds(network(ids), 0) - log_odds(network(absent), 0))
    scores, missed = integrated_gradients(network, FOUR, 0, steps=256)
    assert abs(missed) < 5e-3 * max(1, abs(difference))
    if model != "bag":  # there the n-grams that end with the last special token are of no word
        assert sum(scores) == pytest.approx(difference, abs=5e-3 * max(1, abs(difference)))


def test_integrated_gradients_of_a_linear_model_are_its_products():
    """A model that is linear in the embeddings: a_i = w . (x_i - x'_i), and occlusion says the same."""

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = torch.nn.Embedding(60, 4)
            self.config = type("Config", (), {"label_names": ["no", "yes"]})
            self.device = torch.device("cpu")

        def forward(self, input_ids, attention_mask=None):
            score = (self.embeddings(input_ids) @ torch.tensor([1.0, -2, 0.5, 3])).sum(dim=1)
            return torch.stack([torch.zeros_like(score), score], dim=-1)

    model = Linear()
    with torch.no_grad():
        change = model.embeddings(torch.tensor(IDS)) - model.embeddings(torch.tensor(FOUR.absent))
    products = change @ torch.tensor([1.0, -2, 0.5, 3])
    expected = [float(products[places].sum()) for places in FOUR.tokens]
    assert integrated_gradients(model, FOUR, 1, steps=3)[0] == pytest.approx(expected, abs=1e-4)
    assert occlusion(model, FOUR, 1, 0) == pytest.approx(expected, abs=1e-4)


def test_a_view_that_starts_from_embeddings_leaves_the_model_as_it_is():
    model = random_model()
    ids = torch.tensor([IDS])
    with torch.no_grad():
        before = model(ids)
        x = model.embeddings(torch.tensor([FOUR.absent]))
        torch.testing.assert_close(starting_from(model, x)(ids), model(torch.tensor([FOUR.absent])))
        torch.testing.assert_close(model(ids), before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def taught():
    """(model, tokenizer): an encoder that has learned: "good" is positive, "late" negative, whatever stands beside."""
    texts = [f"{start} {word} {end}" for start in ("what a", "the", "i love this") for end in ("day", "phone", "film")
             for word in ("good", "late", "long")]
    tokenizer = train_wordpiece(texts, vocab_size=300)
    model = random_model(std=0.1, layers=1, vocab_size=300)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in tokenizer(texts, 40)], batch_first=True)
    labels = torch.tensor([2, 0, 1] * (len(texts) // 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        torch.nn.functional.cross_entropy(model(ids, (ids != 0).long()), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def test_both_name_the_word_that_decides(taught):
    """Both methods put the word that tells the label first, and far ahead."""
    model, tokenizer = taught
    for word, label in (("good", 2), ("late", 0)):
        words = read_words(tokenizer, f"what a {word} phone", 40)
        assert int(predict(model, [words.ids], 1, tokenizer.pad_id)[0].argmax()) == label
        by_occlusion = occlusion(model, words, label, tokenizer.pad_id)
        by_gradients, _ = integrated_gradients(model, words, label)
        for scores in (by_occlusion, by_gradients):
            assert scores.index(max(scores)) == 2
            assert scores[2] > 2 * sorted(scores)[-2]


def test_models_in_fewer_bits_have_gradients_and_int8_says_that_it_has_none():
    model = random_model()
    assert integrated_gradients(quantized(model, "encoder=nf4"), FOUR, 0)[0]
    with pytest.raises(UserError, match="int8"):
        integrated_gradients(quantized(model), FOUR, 0)
    assert len(occlusion(quantized(model), FOUR, 0, 0)) == 4


def test_every_token_belongs_to_one_word_and_a_text_that_is_cut_has_words_without_tokens():
    tokenizer = train_wordpiece(TEXTS, vocab_size=60)
    text = "  what a lovely day, isn't it?"
    words = read_words(tokenizer, text, 128)
    assert [words.text[start:end] for start, end in words.spans] == text.split()
    assert words.ids == tokenizer([text], 128)[0]
    assert sorted(sum(words.tokens, [])) == list(range(1, len(words.ids) - 1))
    for (start, end), places in zip(words.spans, words.tokens, strict=True):
        assert [words.ids[place] for place in places] == tokenizer([words.text[start:end]], 128)[0][1:-1]
    short = read_words(tokenizer, text, 5)
    assert short.ids == tokenizer([text], 5)[0] and short.tokens[-1] == []
    assert read_words(tokenizer, "", 9).tokens == []


def test_words_are_those_of_the_cleaned_text_and_chinese_has_a_word_a_character():
    tokenizer = Tokenizer(train_wordpiece(TEXTS, vocab_size=60).backend, cleaning="cardiff")
    words = read_words(tokenizer, "@ann 今天 ok", 128)
    assert [words.text[start:end] for start, end in words.spans] == ["@user", "今", "天", "ok"]
