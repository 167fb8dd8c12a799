"""Models that every table should contain, because they cost next to nothing: what is a network worth beside them?

    majority    the most frequent class of the training texts, for every text
    tf-idf      counts of words, word pairs and pieces of words, and a logistic regression (scikit-learn)
    fastText    word vectors and hashed character n-grams (Joulin et al. 2016), where `fasttext` is installed

They are trained here, on the training texts, with one setting for all data. Each is called like an OpenModel (see
opening.py): encode, batch, logits, score.
"""

import importlib
import importlib.util
import io
import math
import os
import tempfile

import numpy as np
import torch

TRAIN_AT_MOST = 30_000      # texts: beyond them a logistic regression takes minutes
ROUNDS = 60                 # of its solver: more move the score by less than 0.2 points


def reference_models(data):
    """[a model] of those that can be trained on the data: none without training texts."""
    if not len(data.train):
        return []
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(data.train))[:TRAIN_AT_MOST]
    texts = [data.train.texts[row] for row in rows]
    labels = np.array(data.train.labels)[rows]
    num_labels = len(data.label_names)
    models = [Majority(labels, num_labels)]
    if len(set(labels.tolist())) > 1:
        models.append(TfIdf(texts, labels, num_labels))
        if fasttext_can_train():
            models.append(FastText(texts, labels, num_labels))
    return models


def fasttext_can_train():
    """Is fastText installed? The package fasttext-predict has the same name and cannot train."""
    return bool(importlib.util.find_spec("fasttext")) and hasattr(importlib.import_module("fasttext"),
                                                                  "train_supervised")


class Reference:
    """What the three share: raw texts in, logits out; nothing on a disk but the bytes that they would take there."""

    is_reference = True
    folder = ""
    history = None
    device = torch.device("cpu")

    def encode(self, texts, max_length):
        """(what `batch` takes for each text, how many texts were cut: none)"""
        return list(texts), 0

    def batch(self, rows):
        return rows

    def score(self, rows, batch_size):
        """Logits (N, num_labels) of N encoded texts."""
        return torch.cat([self.logits(self.batch(rows[i:i + 256])) for i in range(0, len(rows), 256)])


class Majority(Reference):
    """The most frequent class for every text; its probabilities are the shares of the classes."""

    name = "majority"
    tokenizer_bytes = 0

    def __init__(self, labels, num_labels):
        counts = np.bincount(labels, minlength=num_labels)
        self.row = torch.tensor(np.log((counts + 1) / (counts.sum() + num_labels)), dtype=torch.float32)
        self.parameters = num_labels
        self.bytes = 4 * num_labels

    def logits(self, batch):
        return self.row.expand(len(batch), -1)


class TfIdf(Reference):
    """Logistic regression on (1 + log count) * idf of words, word pairs and character n-grams inside words."""

    name = "tf-idf"

    def __init__(self, texts, labels, num_labels):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_union
        options = {"sublinear_tf": True, "min_df": 2 if len(texts) > 200 else 1, "dtype": np.float32}
        self.vectorizer = make_union(
            TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", ngram_range=(1, 2), **options),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **options))
        features = self.vectorizer.fit_transform(texts)
        found = LogisticRegression(C=4, class_weight="balanced", max_iter=ROUNDS, tol=1e-3)
        with np.errstate(all="ignore"):
            fit_quietly(found, features, labels)
        # One row a class, also for classes that the training texts lack (never chosen) and for two classes, which
        # scikit-learn stores as one row.
        coefficients = np.zeros((num_labels, features.shape[1]), dtype=np.float32)
        intercepts = np.full(num_labels, -1e4, dtype=np.float32)
        is_binary = len(found.classes_) == 2
        coefficients[found.classes_] = np.vstack([-found.coef_ / 2, found.coef_ / 2]) if is_binary else found.coef_
        intercepts[found.classes_] = (np.concatenate([-found.intercept_ / 2, found.intercept_ / 2]) if is_binary
                                      else found.intercept_)
        self.coefficients = coefficients
        self.intercepts = intercepts
        self.parameters = coefficients.size + intercepts.size
        self.bytes = npz_bytes(coefficients=coefficients, intercepts=intercepts)
        self.tokenizer_bytes = self.vocabulary_bytes()

    def vocabulary_bytes(self):
        """The n-grams as UTF-8, one a line, and their idf in float32."""
        total = 0
        for _, part in self.vectorizer.transformer_list:
            words = "\n".join(part.get_feature_names_out()).encode("utf-8", "surrogatepass")
            total += len(words) + npz_bytes(idf=part.idf_.astype(np.float32))
        return total

    def encode(self, texts, max_length):
        features = self.vectorizer.transform(texts)
        return [features[i] for i in range(features.shape[0])], 0

    def batch(self, rows):
        from scipy.sparse import vstack
        return vstack(rows, format="csr")

    def logits(self, batch):
        return torch.from_numpy(np.asarray(batch @ self.coefficients.T + self.intercepts, dtype=np.float32))


def fit_quietly(model, features, labels):
    """Fit without the warning that the solver has stopped after ROUNDS."""
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features, labels)


def npz_bytes(**arrays):
    """Bytes of these arrays in an uncompressed .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return len(file.getvalue())


class FastText(Reference):
    """fastText with pairs of words and character n-grams of 3 to 5 letters."""

    name = "fastText"
    tokenizer_bytes = 0

    def __init__(self, texts, labels, num_labels):
        import fasttext
        self.num_labels = num_labels
        with tempfile.TemporaryDirectory() as folder:
            lines = [f"__label__{label} {one_line(text)}" for text, label in zip(texts, labels, strict=True)]
            with open(f"{folder}/train.txt", "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
            self.model = fasttext.train_supervised(f"{folder}/train.txt", wordNgrams=2, minn=3, maxn=5, dim=50,
                                                   epoch=10, lr=0.3, bucket=200_000, thread=1, seed=0, verbose=0)
            self.parameters = self.model.get_input_matrix().size + self.model.get_output_matrix().size
            self.finish(f"{folder}/train.txt")
            self.model.save_model(f"{folder}/model.bin")
            self.bytes = os.path.getsize(f"{folder}/model.bin")

    def finish(self, training_file):
        """What a subclass does to the trained model before it is measured."""

    def logits(self, batch):
        """Logarithms of the probabilities: (B, num_labels)

        One text at a time through `f`: for a list, fastText 0.9.2 gives every label the largest probability.
        """
        logits = torch.full((len(batch), self.num_labels), -20.0)
        for i, text in enumerate(batch):
            for probability, name in self.model.f.predict(one_line(text) + "\n", self.num_labels, 0.0, "replace"):
                logits[i, int(name.removeprefix("__label__"))] = math.log(max(probability, 1e-8))
        return logits


def one_line(text):
    """The text without line breaks, and without halves of characters, which UTF-8 cannot write."""
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
