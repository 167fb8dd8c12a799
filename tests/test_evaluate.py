"""evaluate.py as a user runs it: the report against its own files, `predict` against damaged input."""

import ast
import contextlib
import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

import evaluate
from pocketbert.cli import run_script
from pocketbert.data.splits import Dataset, Split
from pocketbert.errors import UserError
from pocketbert.evaluation.html import write_page
from pocketbert.evaluation.opening import FromText, OpenModel
from pocketbert.evaluation.report import results_table
from pocketbert.files import read_json
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from small_models import LABELS, TEXTS, random_model

SCRIPT = Path(evaluate.__file__)
WORDS = ["late", "lovely", "shop", "phone", "film", "bus"]


def many_texts(count):
    """Texts of many lengths, all different."""
    return [" ".join([TEXTS[i % 6], *[WORDS[(i * k) % 6] for k in range(i % 11)], str(i)]) for i in range(count)]


def lively_model(tokenizer):
    """Random weights, and a head's bias with which no class wins on all texts."""
    model = random_model()
    with torch.no_grad():
        model.head.out.bias -= predict(model, tokenizer(TEXTS, 40), 6, tokenizer.pad_id).mean(dim=0)
    return model


# --- the bootstrap and the timing loop ------------------------------------------------------------------

def two_models(texts=200, right=(0.6, 0.7)):
    """Labels of 3 classes, and the predictions of two models that are right that often."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=texts)
    return labels, *(np.where(rng.random(texts) < share, labels, rng.integers(3, size=texts)) for share in right)


def test_bootstrap_interval_of_a_model_with_itself_is_zero():
    """It would not be if the two models were scored on different draws."""
    labels, one, _ = two_models()
    assert evaluate.paired_bootstrap(labels, one, one, 3) == (0, 0)


def test_bootstrap_interval_holds_the_difference_and_repeats_itself():
    labels, one, other = two_models()
    low, high = interval = evaluate.paired_bootstrap(labels, one, other, 3)
    difference = (f1_score(labels, one, average="macro") - f1_score(labels, other, average="macro"))
    assert low < difference < high and difference < 0
    assert evaluate.paired_bootstrap(labels, one, other, 3) == interval
    assert evaluate.paired_bootstrap(labels, other, one, 3) == pytest.approx((-high, -low))  # seen from the other side


def test_bootstrap_interval_narrows_with_the_number_of_texts():
    low, high = evaluate.paired_bootstrap(*two_models(100), 3)
    low_many, high_many = evaluate.paired_bootstrap(*two_models(1600), 3)
    assert 2 < (high - low) / (high_many - low_many) < 8  # the square root of 16 is 4


def open_stub(forward, name="stub"):
    """An OpenModel, as far as timing needs one, that runs a function."""
    forward.device = torch.device("cpu")
    return OpenModel(name, "", forward, SimpleNamespace(pad_id=0), 1, 1, None)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_models_are_timed_in_turn_on_the_same_texts_from_the_shortest_to_the_longest(batch_size):
    ids = [[2] + [7] * (i % 10) + [3] for i in range(30)]
    log = []

    def model(name):
        return lambda input_ids, attention_mask: log.append((name, input_ids.shape, attention_mask))

    models = {name: open_stub(model(name)) for name in ("a", "b")}
    times = evaluate.latencies(models, {"a": ids, "b": ids}, batch_size, count=5)
    assert [len(values) for values in times.values()] == [15, 15]  # three times each
    names = [name for name, *_ in log]
    turns = names[::2]
    assert turns == names[1::2]  # each timed call follows one of the same model that is not
    assert all(set(pair) == {"a", "b"} for pair in zip(turns[::2], turns[1::2], strict=True))
    assert set(turns[::2]) == {"a", "b"}  # now one is first, now the other
    assert [shape for _, shape, _ in log[::4]] == [shape for _, shape, _ in log[3::4]]
    widths = [shape[1] for _, shape, _ in log]
    assert {shape[0] for _, shape, _ in log} == {batch_size} and (min(widths), max(widths)) == (2 + batch_size // 4, 11)
    if batch_size == 1:
        assert all(mask is None for *_, mask in log)  # nothing is padded


def test_what_the_model_before_has_left_in_the_caches_is_not_timed(monkeypatch):
    """A model whose first call after another one is slow, as if its weights came from the memory."""
    now, last = [0.0], [None]

    def model(name):
        def forward(input_ids, attention_mask):
            now[0] += 0.001 if last[0] == name else 1.0
            last[0] = name
        return forward

    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: now[0])
    models = {name: open_stub(model(name)) for name in ("a", "b")}
    times = evaluate.latencies(models, {name: [[2, 3]] * 9 for name in models}, 1, count=3)
    assert np.concatenate(list(times.values())) == pytest.approx(1.0)  # milliseconds


def test_a_model_is_timed_from_raw_strings_to_labels():
    rows = {"a": [2, 1, 3], "bc": [2, 1, 1, 3]}
    stub = open_stub(lambda input_ids, attention_mask: torch.nn.functional.one_hot(input_ids.sum(1), 9))
    stub.model.config = SimpleNamespace(max_length=9, text_length=None)
    stub.tokenizer = lambda texts, max_length: [rows[text] for text in texts]
    stub.tokenizer.pad_id, stub.tokenizer.suffix = 0, []
    model = FromText(stub, None)
    assert model.logits(model.batch(["a", "bc", "a"])) == [6, 7, 6]


# --- compare(): the numbers that the table prints ----------------------------------------------------------

class Sleeper(torch.nn.Module):
    """A model that answers right for a share of the texts and moves a clock: `seconds` for each text of a batch."""

    device = torch.device("cpu")

    def __init__(self, clock, seconds, right_below, size):
        super().__init__()
        self.clock, self.seconds, self.right_below = clock, seconds, right_below
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.config = SimpleNamespace(label_names=LABELS, max_length=40, text_length=None, hf={}, stored_formats={})

    def forward(self, input_ids, attention_mask=None):
        self.clock[0] += self.seconds * len(input_ids)
        number = input_ids[:, 1]
        label = number % 3
        return torch.nn.functional.one_hot(torch.where(number < self.right_below, label, (label + 1) % 3), 3).float()


def compare_sleepers(monkeypatch, texts=100, timed=8, **options):
    """(result of a baseline, of a model that is twice as slow and better): compare() on texts that are numbers."""
    clock = [0.0]
    monkeypatch.setattr("evaluate.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def tokenize(texts, max_length):
        clock[0] += 7e-6 * len(texts)
        return [[0, int(text)] for text in texts]
    tokenize.pad_id = 0
    tokenize.suffix = []
    models = [OpenModel("slow", "slow", Sleeper(clock, 0.002, 90, 30), tokenize, 1_000_000, 500, None),
              OpenModel("base", "base", Sleeper(clock, 0.001, 60, 50), tokenize, 3_000_000, 500, None)]
    split = Split([str(i) for i in range(texts)], [i % 3 for i in range(texts)])
    data = Dataset("numbers", LABELS, split, split, split, [], "", "0" * 12)
    monkeypatch.setattr("evaluate.folder_columns", lambda *_: {})
    base, slow = evaluate.compare(models, data, timed=timed, quick=True, references=[], **options).models
    return base, slow


def test_a_model_that_takes_twice_as_long_is_half_as_fast(monkeypatch):
    base, slow = compare_sleepers(monkeypatch)
    assert (base.name, slow.name) == ("base", "slow") and base.is_baseline and not slow.is_baseline
    assert (base.speedup_1, base.speedup_32) == (1, 1)
    assert (slow.speedup_1, slow.speedup_32) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (base.ms_1, base.ms_1_p95, slow.ms_1) == (pytest.approx(1), pytest.approx(1), pytest.approx(2))
    assert (base.ms_32, slow.ms_32) == (pytest.approx(32), pytest.approx(64))


@pytest.mark.parametrize("texts, in_batch", [(100, 32), (10, 10)])
def test_texts_per_second_are_those_of_the_batch_that_was_timed(texts, in_batch, monkeypatch):
    for row, rate in zip(compare_sleepers(monkeypatch, texts), (1000, 500), strict=True):
        assert row.texts_per_second * row.ms_32_from_text == pytest.approx(1000 * in_batch)
        assert row.texts_per_second == pytest.approx(1 / (1 / rate + 7e-6))
        assert row.ms_32_from_text == pytest.approx(row.ms_32 + 0.007 * in_batch)  # seven microseconds to tokenise
        assert row.tokenisation_us == pytest.approx(7)


def test_a_better_model_has_a_positive_difference_and_interval(monkeypatch):
    base, slow = compare_sleepers(monkeypatch)
    assert (base.accuracy, slow.accuracy) == (pytest.approx(0.6), pytest.approx(0.9))
    assert slow.difference == pytest.approx(slow.macro_f1 - base.macro_f1) and slow.difference > 0.25
    assert 0 < slow.low < slow.difference < slow.high
    assert slow.p_value == pytest.approx(2 * 0.5 ** 30)  # right on 30 texts where the baseline is wrong, never reversed
    assert slow.same_label_as_baseline == pytest.approx(0.7)
    assert slow.f1_low < slow.macro_f1 < slow.f1_high
    reverse = compare_sleepers(monkeypatch, baseline="slow")[1]
    assert (reverse.name, reverse.difference) == ("base", pytest.approx(-slow.difference))
    assert reverse.low < reverse.high < 0 and (reverse.speedup_1, reverse.speedup_32) == (2, 2)


def test_sizes_are_those_of_the_folder_and_parameters_those_of_the_model(monkeypatch):
    base, slow = compare_sleepers(monkeypatch)
    assert [(row.bytes, row.bytes_mb, row.tokenizer_bytes, row.parameters) for row in (base, slow)] == [
        (3_000_000, 3.0, 500, 50), (1_000_000, 1.0, 500, 30)]


def test_compare_writes_nothing_and_scores_the_split_that_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    compare_sleepers(monkeypatch, split="validation")
    assert not list(tmp_path.iterdir())


# --- the report -------------------------------------------------------------------------------------------

def write_csv(path, texts, labels=LABELS):
    path.parent.mkdir(exist_ok=True)
    path.write_text("text,label\n" + "".join(f"{text},{labels[i % len(labels)]}\n" for i, text in enumerate(texts)))


@pytest.fixture(scope="module")
def reported(tmp_path_factory, tokenizer):
    """A report on two models, a folder that is none and a file, on a test split of 40 texts. The second is mute."""
    here = tmp_path_factory.mktemp("reported")
    mute = random_model(seed=1, layers=2)
    mute.head.out.bias.data[1] = 1e3
    save_model(lively_model(tokenizer), tokenizer, here / "runs" / "large", run={
        "history": [{"epoch": 1, "loss": 1.0, "macro_f1": 0.4}]})
    save_model(mute, tokenizer, here / "runs" / "mute", run={"n": 2})
    (here / "runs" / "teacher_logits").mkdir()
    (here / "runs" / "notes.txt").write_text("mine")
    write_csv(here / "data" / "train.csv", many_texts(60))
    write_csv(here / "data" / "test.csv", many_texts(100)[60:])
    before = {path: path.read_bytes() for path in (here / "runs").rglob("*") if path.is_file()}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        results = evaluate.main([*sorted((here / "runs").iterdir()), "--data", here / "data", "--out", here / "report",
                       "--timed", "4", "--quick", "--no-references"])
    with open(here / "report" / "results.csv", newline="") as file:
        words = ("name", "folder", "split", "verdict", "parent")
        rows = [{key: (value or None) if key in words else ast.literal_eval(value or "None")
                 for key, value in row.items()}
                for row in csv.DictReader(file)]
    return SimpleNamespace(here=here, printed=printed.getvalue(), rows=rows, results=results, before=before,
                           page=(here / "report" / "results.md").read_text())


def test_report_writes_its_files_and_leaves_out_what_is_no_model(reported):
    assert {path.name for path in (reported.here / "report").iterdir()} == {
        "report.html", "results.md", "results.csv", "results.json", "score_size.png", "score_latency.png",
        "confusion.png", "training.png"}
    assert [row["name"] for row in reported.rows] == ["large", "mute"]
    for name in ("teacher_logits", "notes.txt"):
        assert f"{name} is not a model folder: left out" in reported.printed


def test_report_scores_the_test_split_as_sklearn_does(reported):
    model, tokenizer = load_model(reported.here / "runs" / "large")
    logits = predict(model, tokenizer(many_texts(100)[60:], 40), 8, tokenizer.pad_id)
    row = reported.rows[0]
    assert (row["split"], row["texts"]) == ("test", 40) and "40 test texts" in reported.page
    assert row["macro_f1"] == pytest.approx(f1_score([i % 3 for i in range(40)], logits.argmax(-1), average="macro"))
    assert row["bytes"] == os.path.getsize(reported.here / "runs" / "large" / "model.safetensors")


def test_all_files_hold_the_numbers_that_main_returns(reported):
    table = results_table(reported.results)
    assert table in reported.page and table in reported.printed
    assert read_json(reported.here / "report" / "results.json") == reported.results.as_dict()
    page = (reported.here / "report" / "report.html").read_text(encoding="utf-8")
    assert page == write_page(read_json(reported.here / "report" / "results.json"))
    for row in reported.rows:
        metrics = read_json(reported.here / "runs" / row["name"] / "metrics.json")
        assert {key: metrics[key] for key in row} == row
        assert metrics["data"] and metrics["fingerprint"] and metrics["hardware"]["threads"]
        assert np.sum(metrics["confusion"]) == 40 and set(metrics["per_class"]) == set(LABELS)


def test_report_names_the_baseline_and_its_difference_from_itself_is_zero(reported):
    large, mute = reported.rows
    assert large["is_baseline"] and (large["difference"], large["low"], large["high"], large["p_value"]) == (0, 0, 0, 1)
    assert not mute["is_baseline"] and mute["low"] <= mute["difference"] <= mute["high"]
    assert mute["f1_low"] <= mute["macro_f1"] <= mute["f1_high"] and mute["bytes"] < large["bytes"]


def test_report_warns_of_a_model_that_answers_one_class(reported):
    assert "WARNING: mute answers one class" in reported.page and "WARNING: large" not in reported.page
    assert [row["answers_one_class"] for row in reported.rows] == [False, True]


def test_report_changes_nothing_in_the_model_folders_but_metrics_json(reported):
    after = {path: path.read_bytes() for path in (reported.here / "runs").rglob("*") if path.is_file()}
    assert after.keys() - reported.before.keys() == {reported.here / "runs" / name / "metrics.json"
                                                     for name in ("large", "mute")}
    assert all(after[path] == data for path, data in reported.before.items())


def test_report_without_a_test_file_says_validation_everywhere(tmp_path, tokenizer, capsys):
    save_model(random_model(), tokenizer, tmp_path / "m", run={})
    write_csv(tmp_path / "mine.csv", many_texts(60))
    evaluate.main([tmp_path / "m", "--data", tmp_path / "mine.csv", "--out", tmp_path / "report", "--timed", "2",
                   "--quick"])
    page, printed = (tmp_path / "report" / "results.md").read_text(), capsys.readouterr().out
    for words in (page, printed):
        assert "12 validation texts" in words and "no labelled test file" in words
    assert read_json(tmp_path / "m" / "metrics.json")["split"] == "validation"


@pytest.mark.parametrize("labels", [LABELS, ["positive"]], ids=["all classes", "one class"])
@pytest.mark.parametrize("how", ["--test", "folder"])
def test_all_rows_of_a_labelled_file_are_scored_whatever_its_classes(how, labels, tmp_path, tokenizer, capsys):
    model = lively_model(tokenizer)
    save_model(model, tokenizer, tmp_path / "m", run={})
    write_csv(tmp_path / "data" / "test.csv", many_texts(50), labels)
    flags = ["--test", tmp_path / "data" / "test.csv"] if how == "--test" else ["--data", tmp_path / "data"]
    [row] = evaluate.main([tmp_path / "m", *flags, "--out", tmp_path / "report", "--timed", "2",
                           "--quick"]).models
    predicted = predict(model, tokenizer(many_texts(50), 40), 8, tokenizer.pad_id).argmax(-1)
    wanted = [LABELS.index(labels[i % len(labels)]) for i in range(50)]
    assert sum(scores["texts"] for scores in row.per_class.values()) == 50
    assert row.accuracy == pytest.approx(accuracy_score(wanted, predicted))
    assert row.macro_f1 == pytest.approx(f1_score(wanted, predicted, labels=range(3), average="macro", zero_division=0))
    for words in (capsys.readouterr().out, (tmp_path / "report" / "results.md").read_text()):
        assert "50 test texts of test.csv" in words and "optimistic" not in words and "chosen" not in words


def test_test_file_goes_through_the_gate_for_labels(tmp_path, tokenizer, capsys):
    save_model(random_model(), tokenizer, tmp_path / "m", run={})
    (tmp_path / "mine.csv").write_text("text,label\na,Positive\nb,NEGATIVE \nc,-1\nd,\n")
    results = evaluate.main([tmp_path / "m", "--test", tmp_path / "mine.csv", "--out", tmp_path / "r", "--timed", "1",
                             "--quick"])
    assert [results.models[0].per_class[name]["texts"] for name in LABELS] == [1, 0, 1] and results.texts == 2
    assert "the label '-1'" in capsys.readouterr().out
    (tmp_path / "mine.csv").write_text("text,label\na,ham\nb,spam\n")
    with pytest.raises(UserError, match="labels that the model has not: ham, spam"):
        evaluate.main([tmp_path / "m", "--test", tmp_path / "mine.csv", "--out", tmp_path / "none"])
    assert not (tmp_path / "none").exists()


def test_models_of_two_tasks_are_an_error_and_write_nothing(tmp_path, tokenizer):
    save_model(random_model(), tokenizer, tmp_path / "moods", run={})
    save_model(random_model(label_names=["ham", "spam", "eggs"]), tokenizer, tmp_path / "mail", run={})
    write_csv(tmp_path / "mine.csv", many_texts(60))
    with pytest.raises(ValueError, match="mail has the labels ham, spam, eggs.* one task at a time"):
        evaluate.main([tmp_path / "moods", tmp_path / "mail", "--data", tmp_path / "mine.csv", "--out",
                       tmp_path / "report"])
    assert not (tmp_path / "report").exists() and not list(tmp_path.rglob("metrics.json"))


def published(folder, tokenizer, weights, vocabulary):
    """A model folder as others publish it: weights as a pickle or safetensors, the tokenizer as vocab.txt or ours."""
    save_model(random_model(), tokenizer, folder, run={})
    (folder / "run.json").unlink()
    if weights == "pytorch_model.bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    if vocabulary == "vocab.txt":
        vocab = tokenizer.backend.get_vocab()
        (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n")
        (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("weights, vocabulary", [
    ("model.safetensors", "vocab.txt"), ("pytorch_model.bin", "tokenizer.json"), ("pytorch_model.bin", "vocab.txt")])
def test_folder_as_others_publish_it_gets_a_report(weights, vocabulary, tmp_path, tokenizer):
    published(tmp_path / "m", tokenizer, weights, vocabulary)
    write_csv(tmp_path / "mine.csv", many_texts(40))
    [row] = evaluate.main([tmp_path / "m", "--test", tmp_path / "mine.csv", "--out", tmp_path / "report",
                           "--timed", "1", "--quick"]).models
    assert row.bytes == os.path.getsize(tmp_path / "m" / weights)
    assert row.tokenizer_bytes == os.path.getsize(tmp_path / "m" / vocabulary)
    assert (tmp_path / "report" / "results.md").exists() and (tmp_path / "m" / "metrics.json").exists()


@pytest.mark.parametrize("missing, words", [("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")])
def test_what_a_folder_lacks_is_said_before_the_work(missing, words, tmp_path, tokenizer):
    save_model(random_model(), tokenizer, tmp_path / "m", run={})
    (tmp_path / "m" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=words):
        evaluate.main([tmp_path / "m", "--data", "demo", "--out", tmp_path / "report"])
    assert not (tmp_path / "report").exists()


# --- predict ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("predict") / "model"
    save_model(lively_model(tokenizer), tokenizer, folder, run={})
    return folder


def alike(answer, other):
    """The same answer, up to the rounding that the other texts of a batch bring."""
    probabilities = pytest.approx(other["probabilities"], abs=3e-6)
    return answer["label"] == other["label"] and answer["probabilities"] == probabilities


@pytest.fixture
def ask(model_folder, capsys):
    """A function: the flags of `evaluate.py predict` -> the objects that it prints."""
    def call(*argv):
        evaluate.main(["predict", "--model", model_folder, *argv])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return call


def expected(model_folder, texts):
    """Labels and probabilities, each text scored alone."""
    model, tokenizer = load_model(model_folder)
    probabilities = predict(model, tokenizer(texts, 40), 1, tokenizer.pad_id).softmax(-1)
    return [LABELS[i] for i in probabilities.argmax(-1)], probabilities


def check(answers, model_folder, texts):
    labels, probabilities = expected(model_folder, texts)
    assert [answer["label"] for answer in answers] == labels and len(set(labels)) > 1
    assert all(list(answer["probabilities"]) == LABELS for answer in answers)
    found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    torch.testing.assert_close(found, probabilities, atol=1e-5, rtol=0)


def as_gz(path, data):
    with gzip.open(path, "wb") as file:
        file.write(data)


FORMS = {"mine.csv": "id,text\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(TEXTS)),
         "mine.tsv": "id\ttext\n" + "".join(f"{i}\t{t}\n" for i, t in enumerate(TEXTS)),
         "mine.jsonl": "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(TEXTS)),
         "strings.jsonl": "".join(json.dumps(t) + "\n" for t in TEXTS),
         "mine.txt": "\n".join(TEXTS)}


@pytest.mark.parametrize("name", [*FORMS, "mine.csv.gz"])
def test_predict_answers_every_row_of_a_file_in_order(name, ask, model_folder, tmp_path):
    data = FORMS[name.removesuffix(".gz")].encode()
    as_gz(tmp_path / name, data) if name.endswith(".gz") else (tmp_path / name).write_bytes(data)
    check(ask("--input", tmp_path / name), model_folder, TEXTS)


def test_predict_answers_texts_given_as_arguments(ask, model_folder):
    check(ask(*TEXTS), model_folder, TEXTS)


def test_predict_reads_a_named_column_of_jsonl_from_standard_input(ask, model_folder, monkeypatch):
    rows = "".join(json.dumps({"text": "wrong", "post": text}) + "\n" for text in TEXTS)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    check(ask("--text", "post"), model_folder, TEXTS)


def test_predict_writes_to_out_what_it_would_print(ask, tmp_path):
    printed = ask(*TEXTS)
    assert ask(*TEXTS, "--out", tmp_path / "labels.jsonl") == []
    assert [json.loads(line) for line in (tmp_path / "labels.jsonl").open()] == printed
    assert [path.name for path in tmp_path.iterdir()] == ["labels.jsonl"]


def test_answers_depend_neither_on_chunks_nor_on_batches(ask, model_folder, tmp_path):
    texts = many_texts(300)  # chunks of 64, 192 and 2048 rows
    (tmp_path / "mine.txt").write_text("\n".join(texts))
    for batch_size in (1, 3, 32):
        check(ask("--input", tmp_path / "mine.txt", "--batch-size", batch_size), model_folder, texts)


WILD_JSONL = [  # a line of the file, and the words of its error object; None: it gets a label
    (b'{"text": "good"}', None), (b"3", "not a string but 3"), (b"null", "not a string but null"),
    (b"[1, 2]", r"not a string but \[1, 2\]"), (b'{"text": 5}', "not a string but 5"), (b"NaN", "not a string but NaN"),
    (b'{"other": 1}', "without a text field"), (b'{"text": ""}', None), (b'{"text": " \\t"}', None),
    (b'{"text": "\\ud800"}', "not valid text"), (b'{"text": "\xff\xfe"}', "not valid text"),
    (b'{"text": "a\\u0000b \\u0001\\u001b[31m\\u200b"}', None), (b'{"text": "\\r\\n\\u2028 x"}', None),
    (b'{"text": "' + b"ab " * 33_334 + b'"}', None), (b'{"text": "' + b"x" * 100_000 + b'"}', None),
    (b'{"text": ', "invalid JSON"), (b"[" * 100_000, "invalid JSON"), (b'"just a string"', None),
    ('{"text": "\U0001f600 \u0645\u0631\u062d\u0628\u0627 \u0130\ufb03"}'.encode(), None), (b'{"text": "last"}', None)]


def test_a_wild_row_gets_an_answer_or_an_error_and_harms_no_other(ask, tmp_path, capsys):
    (tmp_path / "wild.jsonl").write_bytes(b"\n".join(line for line, _ in WILD_JSONL))
    answers = ask("--input", tmp_path / "wild.jsonl")
    assert len(answers) == len(WILD_JSONL)
    for number, (answer, (line, problem)) in enumerate(zip(answers, WILD_JSONL, strict=True), 1):
        if problem:
            assert list(answer) == ["error"], line[:40]
            assert re.search(rf"^line {number}: .*{problem}", answer["error"])
        else:
            assert answer["label"] in LABELS and sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert alike(answers[0], ask("good")[0]) and alike(answers[-1], ask("last")[0])


def test_wild_csv_rows_keep_their_places(ask, tmp_path):
    (tmp_path / "wild.csv").write_bytes(b'text,n\ngood,1\n,2\n"two\nlines",3\nbad,4,5\na\x00b,6\n'
                                        + "caf\u00e9,7\n\u00fc,8\n".encode() + b"\xff\xfe,9\nlast,10\n")
    answers = ask("--input", tmp_path / "wild.csv")
    assert ["error" in answer for answer in answers] == [False, False, False, True, False, False, False, True, False]
    assert answers[3]["error"].startswith("line 6:") and alike(answers[-1], ask("last")[0])


def test_empty_line_of_a_one_column_csv_keeps_its_place(ask, tmp_path):
    (tmp_path / "one.csv").write_text("text\ngood\n\nlast\n")
    answers = ask("--input", tmp_path / "one.csv")
    assert len(answers) == 3 and alike(answers[2], ask("last")[0])


def test_wild_arguments_are_answered(ask):
    answers = ask("good", "", " ", "x" * 100_000, "\x00\x01\x1b[0m", "\ud800", "\udcff bytes", "last")
    assert len(answers) == 8 and alike(answers[0], ask("good")[0]) and alike(answers[-1], ask("last")[0])
    assert all(answer.keys() == {"error"} or answer["label"] in LABELS for answer in answers)


def test_predict_answers_raw_bytes_from_a_pipe_with_exit_code_0(model_folder, ask):
    lines = [b"good", b"", b"\xff\xfe\xfa", b"nul \x00 bell \x07", b"x" * 100_000, "caf\u00e9".encode(), b"last"]
    done = subprocess.run([sys.executable, SCRIPT, "predict", "--model", model_folder],
                          input=b"\n".join(lines), capture_output=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [False, False, True, False, False, False, False]
    assert alike(answers[0], ask("good")[0]) and alike(answers[-1], ask("last")[0])
    assert done.stderr.decode().splitlines() == ['1 of the rows: no text, so "error" in place of a label']


def test_predict_answers_each_line_of_a_pipe_that_stays_open(model_folder, ask):
    """As in `tail -f x | python evaluate.py predict`: each answer is read before the next line is written."""
    command = [sys.executable, SCRIPT, "predict", "--model", model_folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watchdog = threading.Timer(120, process.kill)  # without an answer readline() would wait for ever
        watchdog.start()
        answers = []
        for line in (b"good\n", b"not a good phone :(\n", b"\n"):
            process.stdin.write(line)
            process.stdin.flush()
            answers.append(json.loads(process.stdout.readline()))
        rest, _ = process.communicate(b"one\ntwo\nhalf a line")
        watchdog.cancel()
    assert process.returncode == 0 and len(rest.splitlines()) == 3
    for answer, text in zip(answers, ("good", "not a good phone :(", ""), strict=True):
        assert alike(answer, ask(text)[0])


def test_predict_counts_the_texts_that_were_cut(model_folder, capsys):
    evaluate.main(["predict", "--model", model_folder, "--max-length", "5", "a", "a b c", "a b c d",
                   "a " * 99])
    assert capsys.readouterr().err == "2 of the texts: cut at 5 tokens\n"


@pytest.mark.parametrize("out", ["in.jsonl", "./in.jsonl", "link.jsonl", "hard.jsonl", "folder/../in.jsonl"])
def test_predict_never_overwrites_its_input(out, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"text": "mine"}\n')
    Path("link.jsonl").symlink_to("in.jsonl")
    os.link("in.jsonl", "hard.jsonl")
    Path("folder").mkdir()
    for source in ("in.jsonl", tmp_path / "in.jsonl", "link.jsonl"):
        with pytest.raises(UserError, match="is the file that --input reads"):
            evaluate.main(["predict", "--model", model_folder, "--input", source, "--out", out])
    assert Path("in.jsonl").read_text() == '{"text": "mine"}\n' and Path("link.jsonl").is_symlink()


def test_a_reader_that_has_seen_enough_breaks_nothing(model_folder, tmp_path):
    """As in `evaluate.py predict ... | head -1`."""
    (tmp_path / "many.txt").write_text("\n".join(many_texts(5000)))
    command = [sys.executable, SCRIPT, "predict", "--model", model_folder, "--input", tmp_path / "many.txt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["label"] in LABELS
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("flags, words", [
    (["--input", "mine.csv", "--text", "tweet"], "mine.csv has no column for --text tweet; it has a, b"),
    (["--input", "mine.jsonl", "--text", "tweet"], "mine.jsonl has no column for --text tweet; it has a"),
    (["--input", "mine.csv"], "Name it with --text COLUMN"),
    (["--input", "gone.csv"], "--input 'gone.csv' is not a file"),
    (["--input", "open.csv"], "open.csv, line 2: a quote opens here"),
    (["--input", "false.gz"], "damaged gzip"),
    (["--input", "mine.csv", "a text"], "not both"),
    (["hello", "--max-length", "2"], "no room for text"),
    (["hello", "--model", "no/such/model"], "'no/such/model' is no folder here")])
def test_users_error_is_one_line_and_leaves_the_old_out_file(flags, words, model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("a,b\n1,2\n")
    Path("open.csv").write_text('text,n\n"never closed,1\nbad,2\n')
    Path("mine.jsonl").write_text('{"a": "x"}\n')
    Path("false.gz").write_text("plain")
    Path("labels.jsonl").write_text("old")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["evaluate.py", "predict", "--model", str(model_folder), "--out", "labels.jsonl",
                                     *flags])
    with pytest.raises(SystemExit) as error:
        run_script(evaluate.main)  # a string as the exit's code: Python prints it to stderr and exits with 1
    assert error.value.code.startswith("evaluate.py: error: ") and words in error.value.code
    assert "\n" not in error.value.code and capsys.readouterr() == ("", "")
    assert sorted(tmp_path.iterdir()) == before and Path("labels.jsonl").read_text() == "old"
