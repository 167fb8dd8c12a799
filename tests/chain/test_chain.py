"""`make all` from a file of texts to a table of six models, what make remakes and why, and wrong input to the verbs."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distill
import evaluate
import prune
import quantize
import train
from pocketbert.cli import run_script
from pocketbert.errors import UserError
from pocketbert.models.folder import save_model
from pocketbert.models.recurrent_config import RECURRENT_KINDS
from pocketbert.models.size import file_bytes
from small_models import LABELS, TEXTS, random_model

ROOT = Path(train.__file__).parent
STEPS = ["teacher", "pruned", "int8", "pruned-int8", "student", "student-alone"]
SETTINGS = {"MODEL": "scratch:layers=2,hidden=16,heads=2,vocab=200", "STUDENT": "teacher:layers=0",
            "TRAIN_FLAGS": "--epochs 6 --lr 1e-2 --batch-size 8 --dropout 0",
            "PRUNE_FLAGS": "--heads 0.5 --ffn 0.5 --epochs 1 --lr 5e-3 --samples 64",
            "DISTILL_FLAGS": "--epochs 2 --lr 5e-3 --batch-size 8", "EVALUATE_FLAGS": "--timed 4"}

# Stands in for Python where only make is asked: notes the call and leaves what the verb would leave.
STUB = """#!/bin/sh
verb=$1
while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done
echo "$(basename "$out")" >> "$CALLS"
[ "$(basename "$out")" = "$DIES" ] && kill -9 $$
mkdir -p "$out"
if [ $verb = evaluate.py ]; then touch "$out/results.md"; else touch "$out/run.json"; fi
"""


@pytest.fixture
def mine(tmp_path):
    """A CSV of 300 rows whose label is told by one word."""
    words = zip(("awful", "perhaps", "great") * 100, LABELS * 100, strict=True)
    rows = [f"{TEXTS[i * 7 % 6].strip('?')} {word} {i % 9},{label}" for i, (word, label) in enumerate(words)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return tmp_path / "mine.csv"


def make(mine, *targets, python=sys.executable, environment=None, **variables):
    """Call make with RUNS beside the data.

    -o: `.venv/.installed` counts as up to date, so no test ever installs anything. The environment is cleared of
    what make would take for settings of its own (DATA, MODEL, and MAKEFLAGS when `make test` runs the tests).
    """
    settings = SETTINGS | {"DATA": mine, "RUNS": mine.parent / "runs", "PYTHON": python} | variables
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LD_LIBRARY_PATH") if key in os.environ}
    return subprocess.run(["make", "-C", ROOT, "--no-print-directory", "-j2", "-o", ".venv/.installed", *targets,
                           *(f"{key}={value}" for key, value in settings.items())], capture_output=True, text=True,
                          env=kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | (environment or {}))


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".commands" not in str(path)}


# --- the whole chain --------------------------------------------------------------------------------------

def test_make_all_ends_with_a_table_of_six_models_and_a_second_one_does_nothing(mine):
    runs = mine.parent / "runs"
    done = make(mine, "all")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (runs / "report" / "results.md").read_text().split("\n\n")[1]
    assert "Traceback" not in done.stderr and table in done.stdout[done.stdout.index("evaluate.py"):]
    assert sorted(line.split()[1] for line in table.splitlines()[2:]) == sorted(STEPS)
    with open(runs / "report" / "results.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(STEPS) and rows["teacher"]["is_baseline"] == "True"
    assert float(rows["teacher"]["macro_f1"]) > 0.9
    size = {name: int(row["bytes"]) for name, row in rows.items()}
    assert size["pruned-int8"] < size["pruned"] < size["teacher"] > size["int8"] > size["pruned-int8"]
    assert size["student"] == size["student-alone"] < size["teacher"]
    assert sorted(path.parent.name for path in runs.glob("*/metrics.json")) == sorted(STEPS)

    before = times(runs)
    again = make(mine, "all")
    assert again.returncode == 0 and ".py " not in again.stdout and times(runs) == before
    assert table in make(mine, "table").stdout and times(runs) == before


def test_wrong_model_stops_the_chain_with_one_line_and_leaves_no_folder(mine):
    done = make(mine, "all", MODEL=mine.parent / "no-such-model")
    assert done.returncode != 0
    error, stop = done.stderr.splitlines()
    assert "no-such-model' is no folder here" in error and stop.startswith("make: ***")
    assert [path.name for path in (mine.parent / "runs").iterdir()] == [".commands"]


# --- what make remakes ------------------------------------------------------------------------------------

@pytest.fixture
def chain(mine):
    """A function that calls make with the stub for Python and returns (exit code, the folders made, in order)."""
    (mine.parent / "python").write_text(STUB)
    (mine.parent / "python").chmod(0o755)
    calls = mine.parent / "calls"

    def call(dies="", **variables):
        calls.write_text("")
        done = make(mine, "all", python=mine.parent / "python", environment={"CALLS": str(calls), "DIES": dies},
                    **variables)
        return done.returncode, calls.read_text().split()
    return call


def test_each_step_is_made_once_and_after_what_it_needs(chain):
    code, made = chain()
    assert code == 0 and sorted(made) == sorted([*STEPS, "report"])
    assert made[0] == "teacher" and made[-1] == "report" and made.index("pruned") < made.index("pruned-int8")
    assert chain() == (0, [])


@pytest.mark.parametrize("gone, remade", [
    ("int8", {"int8", "report"}), ("pruned", {"pruned", "pruned-int8", "report"}), ("student", {"student", "report"}),
    ("report", {"report"}), ("teacher", {*STEPS, "report"})])
def test_a_deleted_folder_is_made_again_with_what_depends_on_it(gone, remade, chain, mine):
    chain()
    shutil.rmtree(mine.parent / "runs" / gone)
    code, made = chain()
    assert code == 0 and set(made) == remade and len(made) == len(remade)


@pytest.mark.parametrize("dies, rest", [("teacher", {*STEPS, "report"}), ("pruned-int8", {"pruned-int8", "report"}),
                                        ("report", {"report"})])
def test_a_killed_chain_goes_on_where_it_stopped(dies, rest, chain):
    code, made = chain(dies=dies)
    assert code != 0 and "report" not in made[:-1]
    code, more = chain()
    assert code == 0 and sorted([*made, *more]) == sorted([*STEPS, "report", dies]) and dies in more
    assert set(more) <= rest | {"student", "student-alone"}  # these two may not have had their turn


@pytest.mark.parametrize("changed, remade", [
    ({"STUDENT": "teacher:layers=1"}, {"student", "student-alone", "report"}),
    ({"PRUNE_FLAGS": "--heads 0.4"}, {"pruned", "pruned-int8", "report"}),
    ({"QUANTIZE_FLAGS": "--engine x86"}, {"int8", "pruned-int8", "report"}),
    ({"EVALUATE_FLAGS": "--timed 8"}, {"report"}), ({"MODEL": "scratch:layers=3"}, {*STEPS, "report"})])
def test_a_changed_setting_remakes_what_it_touches_and_no_more(changed, remade, chain):
    chain()
    code, made = chain(**changed)
    assert code == 0 and set(made) == remade and len(made) == len(remade)
    assert chain(**changed) == (0, [])


def test_a_changed_data_file_remakes_everything(chain, mine):
    chain()
    mine.write_text(mine.read_text() + "one more,neutral\n")
    assert set(chain()[1]) == {*STEPS, "report"}


# --- wrong input ------------------------------------------------------------------------------------------

def flags(**values):
    return [part for name, value in values.items() for part in (f"--{name}", value)]


SCRATCH = SETTINGS["MODEL"]
WRONG = [  # verb, flags, words of the error
    (train, flags(model="no/such/model", data="mine.csv"), "'no/such/model' is no folder here"),
    (train, flags(model="scratch:depth=2", data="mine.csv"), "'depth=2' is not one of layers=NUMBER"),
    (train, flags(model=SCRATCH, data="emotoin"), "did you mean 'emotion'?"),
    (train, flags(model=SCRATCH, data="gone.csv"), "'gone.csv' is no file or folder here"),
    (train, flags(model=SCRATCH, data="mine.csv", text="mood"), "no column for --text mood; it has text, label"),
    (train, flags(model=SCRATCH, data="one.csv"), "all training rows have the label 'x'"),
    (train, flags(model=SCRATCH, data="mine.csv", freeze="99"), "--freeze 99: the model has 2 layers"),
    (train, flags(model=SCRATCH, data="mine.csv", device="abacus"), "--device abacus does not work here"),
    (train, flags(model=SCRATCH, data="mine.csv", **{"batch-size": "0"}), "--batch-size: 0 is not a whole number"),
    (train, flags(model=SCRATCH, data="mine.csv", lr="1e30"), "lower --lr"),
    (prune, flags(model="m", data="mine.csv", heads="2"), "--heads: 2 is not between 0 and 1"),
    (prune, flags(model="m", data="mine.csv", heads="nan"), "--heads: nan is not between 0 and 1"),
    (prune, flags(model="m", data="mine.csv", heads="0.5", freeze="99", epochs="1"), "--freeze 99: the model has 3"),
    (prune, flags(model="broken", data="mine.csv", heads="0.5"), "broken/config.json is not readable JSON"),
    (quantize, flags(model="broken"), "broken/config.json is not readable JSON"),
    (quantize, flags(model="m", engine="steam"), "--engine steam is not available here"),
    (distill, flags(teacher="m", student="teacher:layers=9", data="mine.csv"), "must name layers from 0 to 2"),
    (distill, flags(teacher="m", student="m", data="mine.csv", temperature="0"), "--temperature 0.0 must be above 0"),
    (distill, flags(teacher="broken", student=SCRATCH, data="mine.csv"), "broken/config.json is not readable JSON"),
    (evaluate, ["gone", *flags(data="mine.csv")], "gone: no such folder"),
    (evaluate, ["folder", *flags(data="mine.csv")], "none of these is a model folder"),
    (evaluate, ["m", *flags(data="mine.csv", baseline="n", timed="1")], "--baseline n is not one of m")]


@pytest.fixture
def workplace(mine, tokenizer, monkeypatch):
    """The current folder: mine.csv, one.csv of one class, a model m, a broken one and an empty folder."""
    monkeypatch.chdir(mine.parent)
    Path("one.csv").write_text("text,label\n" + "word,x\n" * 50)
    Path("folder").mkdir()
    save_model(random_model(), tokenizer, "m", run={})
    shutil.copytree("m", "broken")
    Path("broken/config.json").write_text('{"model_type": ')
    return mine.parent


@pytest.mark.parametrize("verb, argv, words", WRONG, ids=[f"{verb.__name__} {' '.join(a)}" for verb, a, _ in WRONG])
def test_wrong_input_is_one_line_and_writes_nothing(verb, argv, words, workplace, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    monkeypatch.setattr("sys.argv", [f"{verb.__name__}.py", *argv, "--out", "deep/out"])
    with pytest.raises(SystemExit) as error:
        run_script(verb.main)
    if error.value.code == 2:  # argparse's own: the usage, then the line
        message = capsys.readouterr().err.splitlines()[-1]
    else:                      # a string as the exit's code: Python prints it to stderr and exits with 1
        message = error.value.code
        assert capsys.readouterr().err == ""
    assert message.startswith(f"{verb.__name__}.py: error: ") and words in message and "\n" not in message
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before
    assert not Path("deep").exists()


def test_debug_shows_the_traceback(workplace, monkeypatch):
    monkeypatch.setattr("sys.argv", ["quantize.py", "--model", "broken", "--out", "out", "--debug"])
    with pytest.raises(UserError, match="not readable JSON"):
        run_script(quantize.main)


@pytest.mark.parametrize("kind", RECURRENT_KINDS)
def test_recurrent_models_go_through_every_verb(kind, tmp_path):
    """Trained, vocabulary pruned, weights pruned, quantized, all in one table; what does not fit is refused."""
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 6)))
    data, folder = ["--data", str(tmp_path / "mine.csv")], str(tmp_path / "m")
    train.main(["--model", f"{kind}:hidden=8,embedding=16", "--out", folder, "--epochs", "1", *data])
    prune.main(["--model", folder, "--out", folder + "-v", "--vocab", "2", *data])
    prune.main(["weights", "--model", folder, "--out", folder + "-s", "--sparsity", "0.6", "--method", "magnitude",
                "--include", "embeddings", *data])
    for method in ("dynamic", "clusters"):
        quantize.main(["--model", folder, "--out", f"{folder}-{method}", "--method", method, "--force", *data])
    folders = [folder, *(f"{folder}-{name}" for name in ("v", "s", "dynamic", "clusters"))]
    bytes_of = [file_bytes(name)["model"] for name in folders]
    assert max(bytes_of[1:]) < bytes_of[0]
    evaluate.main([*folders, *data, "--out", str(tmp_path / "report"), "--timed", "2"])
    with pytest.raises(UserError, match="no heads and no layers"):
        prune.main(["--model", folder, "--out", folder + "-h", "--heads", "0.5", *data])
    with pytest.raises(UserError, match="export is for encoders"):
        quantize.main(["export", "--model", folder, "--out", folder + "-o", "--format", "onnx"])
