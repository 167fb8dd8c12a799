"""`make all` from a file of texts to a table of eight models, wrong input to the scripts, and every kind of model."""

import csv
import shutil
from pathlib import Path

import pytest

import distill
import evaluate
import prune
import quantize
import train
from make_runs import SETTINGS, STEPS, make
from pocketbert.cli import run_script
from pocketbert.errors import UserError
from pocketbert.evaluation.references import fasttext_can_train
from pocketbert.models.folder import save_model
from pocketbert.models.recurrent_config import RECURRENT_KINDS
from pocketbert.models.size import file_bytes
from small_models import LABELS, TEXTS, random_model


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".commands" not in str(path)}


# --- the whole chain --------------------------------------------------------------------------------------

def test_make_all_ends_with_a_table_of_eight_models_a_second_one_does_nothing_and_clean_removes_it_all(mine):
    runs = mine.parent / "runs"
    done = make(mine, "all")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (runs / "report" / "results.md").read_text().split("\n\n")[1]
    assert "Traceback" not in done.stderr and table in done.stdout[done.stdout.index("evaluate.py"):]
    names = sorted([*STEPS, "majority", "tf-idf", *(["fastText"] if fasttext_can_train() else [])])
    assert sorted(line.split()[1] for line in table.splitlines()[2:]) == names
    with open(runs / "report" / "results.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == names and rows["teacher"]["is_baseline"] == "True"
    assert float(rows["teacher"]["macro_f1"]) > 0.9
    size = {name: int(row["bytes"]) for name, row in rows.items()}
    assert size["pruned-int8"] < size["pruned"] < size["teacher"] > size["int8"] > size["pruned-int8"]
    assert size["student"] == size["student-alone"] < size["teacher"]
    assert sorted(path.parent.name for path in runs.glob("*/metrics.json")) == sorted(STEPS)

    before = times(runs)
    again = make(mine, "all")
    assert again.returncode == 0 and ".py " not in again.stdout and times(runs) == before
    assert table in make(mine, "table").stdout and times(runs) == before
    assert make(mine, "clean").returncode == 0 and not runs.exists()


def test_wrong_model_stops_the_chain_with_one_line_and_leaves_no_folder(mine):
    done = make(mine, "all", MODEL=mine.parent / "no-such-model")
    assert done.returncode != 0
    error, stop = done.stderr.splitlines()
    assert "no-such-model' is no folder here" in error and stop.startswith("make: ***")
    assert [path.name for path in (mine.parent / "runs").iterdir()] == [".commands"]


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
    Path("broken/run.json").unlink()  # the hashes in it would tell first
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
    export = ["export", "--model", folder, "--out", f"{folder}-onnx", "--format", "onnx"]
    if kind in ("xlstm", "rwkv"):
        with pytest.raises(UserError, match=f"{kind} cannot be exported"):
            quantize.main(export)
    else:
        quantize.main(export)
        folders.append(f"{folder}-onnx")
    quick = [] if kind == "gru" else ["--quick"]
    evaluate.main([*folders, *data, "--out", str(tmp_path / "report"), "--timed", "2", *quick])
    with pytest.raises(UserError, match="neither heads nor layers"):
        prune.main(["--model", folder, "--out", folder + "-h", "--heads", "0.5", *data])
