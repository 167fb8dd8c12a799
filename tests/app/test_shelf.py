"""Which folders the page opens, and that all sessions share them."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pocketbert.app import shelf as shelf_module
from pocketbert.app.shelf import Shelf, ask, find_folders
from pocketbert.errors import UserError
from pocketbert.models.classifier import Classifier
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.quantization.export import export_graph
from small_models import TEXTS, random_model


@pytest.fixture
def runs(tmp_path, tokenizer):
    """runs/one, runs/deep/two, and outside/secret beside runs."""
    for seed, place in enumerate(("runs/one", "runs/deep/two", "outside/secret")):
        save_model(random_model(seed=seed), tokenizer, tmp_path / place, run={})
    return tmp_path / "runs"


def test_names_are_those_below_the_roots(runs):
    (runs / "notes").mkdir()
    (runs / ".hidden").mkdir()
    (runs / ".hidden" / "config.json").write_text("{}")
    assert Shelf([runs]).names() == ["runs/deep/two", "runs/one"]
    assert find_folders([runs / "one"]) == {"one": runs / "one"}
    (runs / "deep" / "runs").mkdir()
    assert all(name.startswith(str(runs)) for name in Shelf([runs, runs / "deep" / "runs"]).names())


@pytest.mark.parametrize("name", ["outside/secret", "../outside/secret", "runs/../outside/secret", "runs/link",
                                  "runs/one/", "runs", "", ".", "..", "~", "/etc", "runs/one\0", "file:///etc"])
@pytest.mark.parametrize("hub", [True, False])
def test_no_name_leads_out_of_the_roots(runs, name, hub, monkeypatch):
    monkeypatch.chdir(runs.parent)
    (runs / "link").symlink_to(runs.parent / "outside" / "secret")
    with pytest.raises((UserError, OSError)):
        Shelf(["runs"], hub=hub).open(name)
    with pytest.raises((UserError, OSError)):
        Shelf(["runs"], hub=hub).open(str(runs.parent / name))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_whose_file_is_a_link_to_elsewhere_is_refused(runs, file):
    (runs / "one" / file).unlink()
    (runs / "one" / file).symlink_to(runs.parent / "outside" / "secret" / file)
    with pytest.raises(UserError, match="leads out"):
        Shelf([runs]).open("runs/one")


def test_links_inside_the_roots_are_no_way_out(runs):
    os.rename(runs / "one" / "tokenizer.json", runs / "kept.json")
    (runs / "one" / "tokenizer.json").symlink_to(runs / "kept.json")
    assert Shelf([runs]).open("runs/one").name == "runs/one"


def test_an_adapter_whose_base_lies_elsewhere_is_refused(runs):
    (runs / "adapter").mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(runs.parent / "outside" / "secret")}
    (runs / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="base model secret is not below"):
        Shelf([runs]).open("runs/adapter")


def test_a_name_of_the_hub_needs_leave(runs):
    with pytest.raises(UserError, match="fetches nothing"):
        Shelf([runs], hub=False).open("org/model")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        Shelf([runs]).open("org/model")


def test_a_broken_folder_is_one_line_and_the_next_one_opens(runs):
    (runs / "one" / "model.safetensors").write_bytes(b"no tensors")
    shelf = Shelf([runs])
    with pytest.raises(UserError) as error:
        shelf.open("runs/one")
    assert "\n" not in str(error.value) and str(error.value).startswith("runs/one/model.safetensors")
    assert shelf.open("runs/deep/two").name == "runs/deep/two"


def test_ten_sessions_that_ask_at_once_open_a_model_once(runs, monkeypatch):
    opened = []
    monkeypatch.setattr(shelf_module, "Classifier", lambda *options: opened.append(options) or Classifier(*options))
    shelf = Shelf([runs])
    barrier = threading.Barrier(10)

    def session(_):
        barrier.wait()
        return shelf.open("runs/one")

    with ThreadPoolExecutor(10) as pool:
        models = list(pool.map(session, range(10)))
    assert len(opened) == 1 and all(model is models[0] for model in models)


def test_ten_users_at_once_get_the_answers_to_their_own_texts(runs):
    shelf = Shelf([runs])
    texts = [[f"{text} {user}" for text in TEXTS[user % 3:]] for user in range(10)]
    alone = [shelf.open("runs/one").classifier.probabilities(own)[0] for own in texts]

    def user(i):
        return [ask(shelf.open("runs/one"), texts[i]).probabilities for _ in range(10)]

    with ThreadPoolExecutor(10) as pool:
        for expected, answers in zip(alone, pool.map(user, range(10)), strict=True):
            for answer in answers:
                np.testing.assert_array_equal(answer, expected)


def test_a_model_that_was_trained_again_is_opened_again(runs, tokenizer):
    shelf = Shelf([runs])
    before = ask(shelf.open("runs/one"), TEXTS).probabilities
    save_model(random_model(seed=9), tokenizer, runs / "one", run={})
    assert not np.allclose(ask(shelf.open("runs/one"), TEXTS).probabilities, before)
    assert len(shelf.models) == 1


def test_the_model_that_was_not_used_for_longest_goes(runs):
    shelf = Shelf([runs, runs.parent / "outside"], most=2)
    for name in ("runs/one", "outside/secret", "runs/one", "runs/deep/two"):
        shelf.open(name)
    assert [name.rpartition("/")[2] for name, _ in shelf.models] == ["one", "two"]


@pytest.mark.parametrize("form", [None, "onnx"])
def test_a_model_for_a_comparison_gives_the_logits_of_its_folder(tmp_path, tokenizer, form):
    model = random_model()
    if form:
        (tmp_path / "graph").mkdir()
        export_graph(model, form, tmp_path / "graph")
    save_model(model, tokenizer, tmp_path / "runs" / "m", run={}, graph=form and (form, tmp_path / "graph"))
    opened = Shelf([tmp_path / "runs"]).open("runs/m").for_comparison()
    loaded, _ = load_model(tmp_path / "runs" / "m")
    ids = tokenizer(TEXTS, 40)
    assert predict(opened.model, ids, 4, 0).equal(predict(loaded, ids, 4, 0))
    assert opened.bytes > 0 and opened.tokenizer_bytes > 0
