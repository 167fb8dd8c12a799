"""search.py pareto: from a teacher to the cheapest model inside a budget."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import search
import train
from page_reader import PageReader
from pocketbert.errors import BudgetMissed, UserError
from pocketbert.files import sha256
from pocketbert.models.folder import load_model
from pocketbert.models.size import file_bytes
from pocketbert.search import pareto
from pocketbert.search.storage import open_storage
from script_runs import train_argv

ROOT = Path(__file__).parents[1]
SPACE = {"bag": {"vocab": [100, 200], "embedding": [8], "hidden": [8], "lr": [1e-2, 2e-2], "alpha": [0.5, 0.9]}}


@pytest.fixture
def teacher(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", epochs=6))
    return tmp_path / "teacher"


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """A space of small bags, which train in a second; the forms of ONNX Runtime in one test only."""
    if "same_bytes" not in request.node.name:
        monkeypatch.setattr(pareto, "forms_of", lambda kind: ("fp32",))
    monkeypatch.setattr("pocketbert.search.candidates.SPACE", SPACE)
    first = {"kind": "bag", "vocab": 100, "embedding": 8, "hidden": 8, "lr": 1e-2, "alpha": 0.9}
    monkeypatch.setattr("pocketbert.search.study.FIRST", [first])


def run(teacher, mine, out, budget="", *more, trials=4):
    return search.main(["pareto", "--teacher", str(teacher), "--data", str(mine), "--kinds", "bag", "--augment", "0",
                        "--out", str(out), "--trials", str(trials), "--minutes", "2", "--budget", budget, *more])


def test_it_finds_a_model_inside_the_budget_whose_script_makes_the_same_bytes(teacher, mine, tmp_path):
    out = tmp_path / "found"
    row = run(teacher, mine, out, "keep>=0.5 size_mb<=1")
    best = out / "best"
    load_model(best)
    size = file_bytes(best)
    assert row["size_mb"] == pytest.approx((size["model"] + size["tokenizer"]) / 1e6) and row["size_mb"] <= 1
    with open(out / "front.csv", newline="") as file:
        assert best.parent.name == "found" and row["model"] in [line["model"] for line in csv.DictReader(file)]
    page = PageReader((out / "front.html").read_text())
    assert f"{row['macro_f1']:.4f}" in page.cells and page.addresses == ["data:,"] and not page.loose
    subprocess.run(["bash", str(best / "rebuild.sh"), str(tmp_path / "new")], cwd=ROOT, check=True, capture_output=True,
                   env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"})
    for name in ("tokenizer.json", *(name for name in ("model.onnx", "model.safetensors") if (best / name).exists())):
        assert sha256(tmp_path / "new" / "model" / name) == sha256(best / name)


def test_an_impossible_budget_names_the_nearest_models_and_what_they_miss(teacher, mine, tmp_path):
    with pytest.raises(BudgetMissed, match="Nearest: .* misses keep>=5 by") as error:
        run(teacher, mine, tmp_path / "front", "keep>=5")
    assert "\n" not in str(error.value) and (tmp_path / "front" / "front.csv").exists()
    assert not (tmp_path / "front" / "best").exists()


def test_what_is_too_large_in_every_form_is_not_trained(teacher, mine, tmp_path, monkeypatch):
    monkeypatch.setattr(pareto, "rows_of", lambda *args: pytest.fail("trained"))
    with pytest.raises(BudgetMissed, match="no candidate could be trained inside"):
        run(teacher, mine, tmp_path / "front", "size_mb<=0.0001", trials=2)
    assert not list((tmp_path / "front" / "models").iterdir())


def test_a_killed_search_goes_on_with_what_was_trained(teacher, mine, tmp_path, monkeypatch, capsys):
    out = tmp_path / "front"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        def killed(*args):
            raise KeyboardInterrupt
        patch.setattr(pareto, "measure_forms", killed)
        run(teacher, mine, out)
    [folder] = (out / "models").glob("bag-*")
    trained = (folder / "run.json").stat().st_mtime_ns
    monkeypatch.setattr("pocketbert.search.storage.is_alive", lambda worker: False)
    run(teacher, mine, out, trials=1)
    assert (folder / "run.json").stat().st_mtime_ns == trained
    assert json.loads((out / "best" / "pareto.json").read_text())["model"].startswith(folder.name)


def test_other_data_or_a_folder_of_somebody_else_is_refused(teacher, mine, tmp_path):
    run(teacher, mine, tmp_path / "front", trials=1)
    mine.write_text(mine.read_text() + "one more text,positive\n")
    with pytest.raises(UserError, match="other data"):
        run(teacher, mine, tmp_path / "front")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="left alone"):
        run(teacher, mine, tmp_path / "theirs")


def test_two_workers_share_one_study(teacher, mine, tmp_path):
    program = ("import sys; import search, pocketbert.search.candidates as c, pocketbert.search.study as s; "
               f"import pocketbert.search.pareto as p; p.forms_of = lambda kind: ('fp32',); "
               f"c.SPACE = {SPACE!r}; s.FIRST = []; search.main(sys.argv[1:])")
    argv = [sys.executable, "-c", program, "pareto", "--teacher", str(teacher), "--data", str(mine), "--kinds", "bag",
            "--augment", "0", "--out", str(tmp_path / "front"), "--trials", "6", "--minutes", "2"]
    workers = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(2)]
    outputs = [worker.communicate(timeout=200) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "".join(errors for _, errors in outputs)
    study = search.open_pareto_study(open_storage(tmp_path / "front" / "study.db"), "pareto", ["bag"], 0)
    processes = {trial.user_attrs["worker"][1] for trial in study.trials if "worker" in trial.user_attrs}
    assert len(processes) == 2


def test_a_worker_with_a_folder_of_its_own_goes_on_with_the_trials_of_a_storage_and_makes_their_best_model(
        teacher, mine, tmp_path):
    storage = ("--storage", str(tmp_path / "shared.db"))
    first = run(teacher, mine, tmp_path / "one", "keep>=0.1", *storage)
    second = run(teacher, mine, tmp_path / "two", "keep>=0.1", *storage)  # the trials are done: it trains no other
    assert first["model"] == second["model"]
    assert [folder.name for folder in (tmp_path / "two" / "models").glob("bag-*")] == [second["model"]]
    assert (sha256(tmp_path / "one" / "best" / "model.safetensors")
            == sha256(tmp_path / "two" / "best" / "model.safetensors"))
