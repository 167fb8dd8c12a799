"""The model card says what metrics.json and run.json say, and nothing else; push uploads it with the model."""

import json
import re

import pytest

import evaluate
import hub_server
from hub_server import use_hub
from pocketbert.errors import UserError
from pocketbert.evaluation.card import SIGNATURE, card, write_card
from pocketbert.models.folder import load_model, save_model
from small_models import random_model

hub = hub_server.hub
CLASS = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "texts": 40}
METRICS = {
    "data": "tweets", "split": "test", "texts": 2000, "macro_f1": 0.81237, "f1_low": 0.79, "f1_high": 0.83,
    "accuracy": 0.8, "accuracy_low": 0.78, "accuracy_high": 0.82, "ece": 0.0312, "size_mb": 1.234, "ms_1": 0.42,
    "texts_per_second": 12345.6, "cold_start_ms": 340.0, "peak_memory_mb": 74.2, "formats": ["onnx-int8"],
    "per_class": {"bad": CLASS, "<script>": CLASS},
    "hardware": {"processor": "A chip", "instructions": ["avx2"], "threads": 1, "torch": "2.13"},
    "slices": {"emoji": {"texts": 70, "accuracy": 0.7, "difference": -0.05, "low": -0.09, "high": -0.01},
               "links": {"texts": 30, "accuracy": 0.9, "difference": 0.02, "low": 0.0, "high": 0.04}}}
RUN = {"parent": {"name": "org/base", "sha256": "0"}}


def head_of(text):
    """The YAML head as a dict: each line is a key and JSON."""
    lines = text.split("---")[1].strip().splitlines()
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines)}


def test_the_head_holds_the_scores_with_their_intervals_and_the_base_model():
    head = head_of(card("student", RUN, METRICS, [], "apache-2.0"))
    [index] = head["model-index"]
    [result] = index["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.8124, 0.8]
    assert result["metrics"][0]["args"]["interval_95"] == [0.79, 0.83]
    assert (head["base_model"], head["license"], head["datasets"]) == ("org/base", "apache-2.0", ["tweets"])


def test_no_licence_and_no_base_model_are_stated_where_none_is_known():
    head = head_of(card("student", {}, METRICS, []))
    assert "license" not in head and "base_model" not in head


def test_the_text_names_cost_machine_weak_slices_and_commands_and_no_html_of_others():
    text = card("student", RUN, METRICS, ["python train.py --seed 1"])
    for part in ("1.23 MB", "0.42 ms", "12,346 texts", "0.34 s", "A chip (avx2)", "python train.py --seed 1", "emoji"):
        assert part in text
    assert "links" not in text and "<script>" not in text.split("---", 2)[2]


def a_folder(tmp_path, tokenizer):
    folder = tmp_path / "student"
    save_model(random_model(vocab_size=max(tokenizer.vocab_size, 60)), tokenizer, folder, run=RUN)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_a_readme_of_the_user_is_not_overwritten_and_ours_is(tmp_path, tokenizer):
    folder = a_folder(tmp_path, tokenizer)
    assert SIGNATURE in write_card(folder).read_text()
    write_card(folder, "mit")
    assert "mit" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("mine")
    with pytest.raises(UserError, match="was not written by this command"):
        write_card(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_a_folder_without_measurements_gets_no_card(tmp_path, tokenizer):
    folder = a_folder(tmp_path, tokenizer)
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="measure it first"):
        write_card(folder)


def test_push_uploads_the_model_and_its_card_and_the_hub_gives_the_same_model(hub, tmp_path, tokenizer, monkeypatch):
    folder = a_folder(tmp_path, tokenizer)
    (folder / "private_notes.txt").write_text("mine")
    server = hub({}, token="t")
    use_hub(monkeypatch, tmp_path, server.url, token="t")
    evaluate.main(["push", str(folder), "org/student"])
    files = server.repos["org/student"]["main"]
    assert set(files) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "run.json", "metrics.json"}
    model, _ = load_model("org/student")
    expected, _ = load_model(folder)
    assert all((a == b).all() for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_a_refused_upload_is_one_line(hub, tmp_path, tokenizer, monkeypatch):
    server = hub({}, token="t")
    use_hub(monkeypatch, tmp_path, server.url, token="wrong")
    with pytest.raises(UserError, match="was not uploaded") as error:
        evaluate.main(["push", str(a_folder(tmp_path, tokenizer)), "org/student"])
    assert re.search("401", str(error.value)) and "\n" not in str(error.value)
