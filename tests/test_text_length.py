"""The length that a model was trained with is in its config.json and holds for every script that reads it (W1)."""

import csv
import json

import pytest

import evaluate
import prune
import quantize
import train
from model_utils import load_model, open_model, save_model, text_length
from pocketbert import Classifier
from pocketbert.files import read_json
from small_models import RECURRENT, random_model, random_recurrent


@pytest.mark.parametrize("trained, asked, expected", [
    (None, None, 128), (20, None, 20), (20, 30, 30), (20, 10, 10), (20, 10**6, 512), (None, 10**6, 512)])
def test_length_is_what_was_asked_else_that_of_the_training_else_128(trained, asked, expected):
    model = random_recurrent(RECURRENT["gru"])
    model.config.text_length = trained
    assert text_length(model, asked) == expected


def test_length_is_never_more_than_there_are_positions():
    assert text_length(random_model()) == 40  # of 40 positions


@pytest.mark.parametrize("make", [random_model, lambda: random_recurrent(RECURRENT["bag"])])
def test_length_is_saved_and_loaded(make, tmp_path, tokenizer):
    model = make()
    model.config.text_length = 33
    save_model(model, tokenizer, tmp_path / "m", run={})
    assert load_model(tmp_path / "m")[0].config.text_length == 33


def test_generation_length_of_another_config_is_not_read(tmp_path, tokenizer):
    model = random_model()
    model.config.hf["max_length"] = 20  # what transformers once wrote into every config.json
    save_model(model, tokenizer, tmp_path / "m", run={})
    assert load_model(tmp_path / "m")[0].config.text_length is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model trained on texts of 150 words, of which the last one decides, and their file."""
    folder = tmp_path_factory.mktemp("length")
    with open(folder / "long.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(60):
            label = ("good", "bad")[i % 2]
            rows.writerow([f"{'the bus is late ' * 37}{i} {label}", label])
    train.main(["--data", str(folder / "long.csv"), "--model", "bag:vocab=100,embedding=8,hidden=8", "--lr", "0.05",
                "--epochs", "20", "--patience", "20", "--dropout", "0", "--max-length", "256", "--device", "cpu",
                "--out", str(folder / "m")])
    return folder


def macro_f1(folder, *flags):
    results = evaluate.main([str(folder / "m"), "--data", str(folder / "long.csv"), "--out", str(folder / "report"),
                             "--timed", "2", "--quick", "--device", "cpu", *flags])
    return results.models[0].macro_f1


def test_model_of_long_texts_reads_them_to_the_end_without_a_flag(folder):
    assert read_json(folder / "m" / "config.json")["text_length"] == 256
    assert macro_f1(folder) == 1.0
    assert macro_f1(folder, "--max-length", "128") < 0.5  # without their ends all texts are the same


def test_predict_and_classifier_read_long_texts_to_the_end_without_a_flag(folder, capsys):
    with open(folder / "long.csv", newline="") as file:
        texts, labels = zip(*list(csv.reader(file))[1:], strict=True)
    evaluate.main(["predict", "--model", str(folder / "m"), "--device", "cpu", *texts])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == list(labels)
    assert [answer["label"] for answer in Classifier(str(folder / "m"), device="cpu")(texts)] == list(labels)


@pytest.mark.parametrize("script, argv", [(quantize, ["--method", "int8-weights", "--force"]),
                                          (prune, ["--vocab", "1", "--epochs", "0"])])
def test_children_inherit_the_length(script, argv, folder):
    child = folder / script.__name__
    script.main(["--model", str(folder / "m"), "--data", str(folder / "long.csv"), "--out", str(child), *argv])
    assert read_json(child / "config.json")["text_length"] == 256


def test_fine_tuning_goes_on_at_the_length_of_the_parent(folder):
    from data_utils import load_dataset

    model, _, _ = open_model(str(folder / "m"), load_dataset(str(folder / "long.csv")))
    assert text_length(model) == 256
