"""docs/examples: their workers, called as Ray Data and Spark call them."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas
import pytest

from pocketbert import Classifier
from pocketbert.models.folder import save_model
from small_models import random_model

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TEXTS = ["so good", None, "so bad", "not good"]


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tokenizer, tmp_path):
    save_model(random_model(vocab_size=max(tokenizer.vocab_size, 60)), tokenizer, tmp_path / "m", run={})
    return str(tmp_path / "m")


def test_a_worker_of_ray_keeps_all_rows_and_labels_those_with_a_text(folder):
    batch = {"id": np.arange(4), "text": np.array(TEXTS, dtype=object)}
    labelled = example("ray_data").Score(folder, "text")(batch)
    expected = Classifier(folder)([text for text in TEXTS if text])
    assert labelled["id"].tolist() == [0, 1, 2, 3]
    assert labelled["label"].tolist() == [expected[0]["label"], "", expected[1]["label"], expected[2]["label"]]
    assert np.isnan(labelled["score"][1])


def test_a_partition_of_spark_keeps_all_rows_and_labels_those_with_a_text(folder):
    frames = [pandas.DataFrame({"id": [0, 1], "text": TEXTS[:2]}), pandas.DataFrame({"id": [2, 3], "text": TEXTS[2:]})]
    labelled = pandas.concat(example("spark").score(iter(frames), folder, "text"))
    expected = Classifier(folder)([text for text in TEXTS if text])
    assert labelled["id"].tolist() == [0, 1, 2, 3]
    assert labelled["label"].dropna().tolist() == [answer["label"] for answer in expected]
    assert labelled["score"].isna().tolist() == [False, True, False, False]
