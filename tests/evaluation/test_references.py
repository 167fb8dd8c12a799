"""Majority, TF-IDF and fastText against what scikit-learn and a stand-in say."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pocketbert.data.splits import Dataset, Split
from pocketbert.evaluation.references import reference_models

WORDS = ["awful", "fine", "lovely"]


def data_of(labels, texts=None):
    texts = texts or [f"what a {WORDS[label]} day number {i}" for i, label in enumerate(labels)]
    nothing = Split([], [])
    return Dataset("d", ["a", "b", "c"], Split(texts, labels), nothing, None, [], "", "0")


def answers(model, texts):
    rows, cut = model.encode(texts, None)
    assert cut == 0
    logits = model.score(rows, 32)
    assert logits.shape == (len(texts), 3) and logits.dtype == torch.float32
    return logits


def test_majority_answers_the_most_frequent_class_with_the_shares_as_probabilities():
    majority = reference_models(data_of([0, 2, 2, 2]))[0]
    logits = answers(majority, ["x", "y"])
    assert logits.argmax(-1).tolist() == [2, 2]
    assert logits.softmax(-1)[0].tolist() == pytest.approx([2 / 7, 1 / 7, 4 / 7])  # one text more of each class
    assert (majority.bytes, majority.tokenizer_bytes, majority.parameters) == (12, 0, 3)


@pytest.mark.parametrize("labels", [[0, 1, 2] * 40, [0, 2] * 60], ids=["three classes", "one is absent"])
def test_tf_idf_gives_scikit_learns_own_answers(labels):
    from sklearn.linear_model import LogisticRegression
    data = data_of(labels)
    model = reference_models(data)[1]
    texts = [f"a {word} thing" for word in WORDS if WORDS.index(word) in labels]
    logits = answers(model, texts)
    assert logits.argmax(-1).tolist() == sorted(set(labels))
    sklearns = LogisticRegression(C=4, class_weight="balanced", max_iter=60, tol=1e-3)
    order = np.random.default_rng(0).permutation(len(labels))
    train = model.vectorizer.transform([data.train.texts[i] for i in order])
    sklearns.fit(train, np.array(labels)[order])
    wanted = np.zeros((len(texts), 3))
    wanted[:, sklearns.classes_] = sklearns.predict_proba(model.vectorizer.transform(texts))
    np.testing.assert_allclose(logits.softmax(-1).numpy(), wanted, atol=1e-4)


def test_bytes_of_tf_idf_are_those_of_its_numbers_and_words():
    model = reference_models(data_of([0, 1, 2] * 40))[1]
    columns = model.coefficients.shape[1]
    assert 4 * 3 * columns < model.bytes < 4 * 3 * columns + 1000
    words = sum(len(word.encode()) + 1 for _, part in model.vectorizer.transformer_list
                for word in part.get_feature_names_out())
    assert words + 4 * columns - 2 <= model.tokenizer_bytes < words + 4 * columns + 1000


def test_no_reference_without_training_texts_and_no_regression_on_one_class():
    assert reference_models(data_of([])) == []
    assert [model.name for model in reference_models(data_of([1, 1]))] == ["majority"]


def test_fasttext_is_a_row_where_it_is_installed(monkeypatch, tmp_path):
    """A stand-in with fastText's interface: labels of probability, the most probable first."""
    seen = {}

    class Model:
        def save_model(self, path):
            open(path, "wb").write(b"x" * 77)

        def get_input_matrix(self):
            return np.zeros((10, 5))

        get_output_matrix = get_input_matrix

        @property
        def f(self):
            return self

        def predict(self, line, k, threshold, on_unicode_error):
            assert line.index("\n") == len(line) - 1 and (k, threshold) == (3, 0.0)
            return [(0.75, "__label__2"), (0.25, "__label__0")]

    def train_supervised(path, **options):
        seen["lines"] = open(path, encoding="utf-8").read().splitlines()
        return Model()
    monkeypatch.setitem(sys.modules, "fasttext", SimpleNamespace(__spec__=SimpleNamespace()))  # fasttext-predict
    assert [model.name for model in reference_models(data_of([0, 2]))] == ["majority", "tf-idf"]
    sys.modules["fasttext"].train_supervised = train_supervised
    model = reference_models(data_of([0, 2], ["one\nline", "two"]))[-1]
    assert model.name == "fastText" and sorted(seen["lines"]) == ["__label__0 one line", "__label__2 two"]
    assert (model.bytes, model.parameters) == (77, 100)
    probabilities = answers(model, ["a\nb", "\ud83d"]).softmax(-1)
    assert probabilities[0].tolist() == pytest.approx([0.25, 0, 0.75], abs=1e-6)
