"""Every training loop: interrupted anywhere, the same command goes on and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import distill
import prune
import quantize
import train
from pocketbert.models.size import MODEL_FILES
from pocketbert.training.log import TrainingLog
from pocketbert.training.unfinished import Unfinished
from script_runs import train_argv
from small_models import LABELS, TEXTS

ROOT = Path(__file__).parents[2]
TRAINING = ["--epochs", "2", "--lr", "1e-2", "--batch-size", "16", "--accumulate", "2", "--dropout", "0.2"]
COMMANDS = {  # name: (script, flags). An epoch has 6 batches and 3 steps.
    "train": (train, ["--model", "scratch:layers=1,hidden=16,heads=2,vocab=200", *TRAINING]),
    "adamw8bit": (train, ["--model", "scratch:layers=1,hidden=64", "--optimizer", "adamw8bit", *TRAINING]),
    "balanced": (train, ["--model", "gru:hidden=8,embedding=8,vocab=200", "--sampling", "balanced", *TRAINING]),
    "qlora": (train, ["--model", "{teacher}", "--lora-rank", "2", "--lora-base", "nf4", *TRAINING]),
    "prune": (prune, ["--model", "{teacher}", "--heads", "0.5", "--ffn", "0.5", "--steps", "2", "--refit", *TRAINING]),
    "lora": (prune, ["--model", "{teacher}", "--heads", "0.5", "--steps", "2", "--lora-rank", "2", *TRAINING]),
    "layers": (prune, ["--model", "{teacher}", "--layers", "1", "--teacher", "self", *TRAINING]),
    "gradual": (prune, ["weights", "--model", "{teacher}", "--sparsity", "0.5", "--method", "gradual", *TRAINING]),
    "movement": (prune, ["weights", "--model", "{teacher}", "--sparsity", "0.5", "--method", "movement", *TRAINING]),
    "rigl": (prune, ["weights", "--model", "{teacher}", "--sparsity", "0.5", "--method", "rigl", *TRAINING]),
    "cluster": (quantize, ["cluster", "--model", "{teacher}", *TRAINING]),
    "distill": (distill, ["--teacher", "{teacher}", "--student", "teacher:layers=0:hidden=8", "--hidden", "1",
                          "--control", "--seeds", "2", *TRAINING]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with mine.csv and a teacher."""
    folder = tmp_path_factory.mktemp("resume")
    rows = [f"{text} {word} {i},{label}" for i in range(20) for text in TEXTS[:2]
            for word, label in zip(("awful", "perhaps", "great"), LABELS, strict=True)]
    (folder / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    train.main(train_argv(folder / "mine.csv", folder / "teacher", epochs=1,
                          model="scratch:layers=2,hidden=16,heads=2,vocab=200"))
    return folder


def run(place, name, out, *more):
    script, flags = COMMANDS[name]
    flags = [flag.format(teacher=place / "teacher") for flag in flags]
    return script.main([*flags, "--data", str(place / "mine.csv"), "--out", str(place / out), *more])


def result(folder):
    """What must be the same: all files, and the numbers of run.json."""
    run_json = json.loads((folder / "run.json").read_text())
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in run_json["history"]]
    names = [name for name in (*MODEL_FILES, "adapter_model.safetensors") if (folder / name).exists()]
    return [(folder / name).read_bytes() for name in (*names, "config.json", "tokenizer.json")] \
        + [run_json["validation"], history]


@pytest.fixture(scope="module")
def expected(place):
    """name -> what the command leaves if it is not interrupted."""
    known = {}

    def of(name):
        if name not in known:
            run(place, name, f"{name}-whole", "--checkpoint-steps", "0")
            known[name] = result(place / f"{name}-whole")
        return known[name]
    return of


class Killed(BaseException):
    """In place of kill -9: nothing in the project catches it."""


def kill_in_call(patch, owner, function, number):
    """The process dies in call `number` (from 0) of a function."""
    original = getattr(owner, function)
    calls = []

    def dying(*args, **options):
        calls.append(1)
        if len(calls) > number:
            raise Killed
        return original(*args, **options)
    patch.setattr(owner, function, dying)


def interrupted_and_run_again(place, name, monkeypatch, owner, function, number, every=1):
    """Kill a command, run it again. Returns how many batches the second run has trained on."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in_call(patch, owner, function, number)
        run(place, name, f"{name}-killed", "--checkpoint-steps", str(every))
    seen = []
    with monkeypatch.context() as patch:
        batch = TrainingLog.batch
        patch.setattr(TrainingLog, "batch", lambda log, loss: seen.append(1) or batch(log, loss))
        run(place, name, f"{name}-killed", "--checkpoint-steps", str(every))
    assert not list(place.glob(".*"))
    return len(seen)


# autocast is called once a batch; train.py calls predict after each epoch and once more at the end.
@pytest.mark.parametrize("every, moment, function, number, batches_left", [
    (1, "in the first step", "autocast", 0, 12), (1, "between two batches of a step", "autocast", 3, 10),
    (2, "after a step without a checkpoint", "autocast", 6, 8), (1, "in validation", "predict", 0, 6),
    (1, "in the first step of an epoch", "autocast", 6, 6), (1, "in the last validation", "predict", 1, 0),
    (1, "after the last epoch", "predict", 2, 0), (4, "before the folder is written", "save_model", 0, 4)])
def test_training_that_was_killed_goes_on_from_its_last_checkpoint(
        place, expected, monkeypatch, every, moment, function, number, batches_left):
    assert interrupted_and_run_again(place, "train", monkeypatch, train, function, number, every) == batches_left
    assert result(place / "train-killed") == expected("train"), moment


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
@pytest.mark.parametrize("number", [3, 9])
def test_every_loop_goes_on_within_an_epoch(place, expected, monkeypatch, name, number):
    left = interrupted_and_run_again(place, name, monkeypatch, COMMANDS[name][0], "autocast", number)
    total = {"prune": 24, "lora": 24, "distill": 48}.get(name, 12)
    assert left == total - number + 1  # the first batch of the step was done for nothing
    assert result(place / f"{name}-killed") == expected(name)


@pytest.mark.parametrize("name, number", [("prune", 12), ("prune", 15), ("distill", 12), ("distill", 27)])
def test_later_rounds_and_seeds_go_on_too(place, expected, monkeypatch, name, number):
    left = interrupted_and_run_again(place, name, monkeypatch, COMMANDS[name][0], "autocast", number)
    assert left == {"prune": 24, "distill": 48}[name] - number + number % 2
    assert result(place / f"{name}-killed") == expected(name)


def test_finished_command_that_was_killed_before_its_checkpoint_was_removed_is_whole(place, expected, monkeypatch):
    assert interrupted_and_run_again(place, "train", monkeypatch, Unfinished, "remove", 1) == 0
    assert result(place / "train-killed") == expected("train")


@pytest.mark.parametrize("change, what", [(["--lr", "2e-2"], "--lr"), (["--max-length", "9"], "--max-length"),
                                          ("data", "data"), ("code", "code"), ("torch", "torch")])
def test_another_command_other_data_or_another_version_starts_over_and_says_so(
        place, monkeypatch, capsys, change, what):
    csv = (place / "mine.csv").read_text()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in_call(patch, train, "autocast", 4)
        run(place, "train", "other", "--checkpoint-steps", "1")
    capsys.readouterr()
    try:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_in_call(patch, train, "autocast", 0)
            if change == "data":
                (place / "mine.csv").write_text(csv + "one more,neutral\n")
            if change == "code":
                patch.setattr("pocketbert.training.unfinished.code_digest", lambda: "another")
            if change == "torch":
                patch.setattr(torch, "__version__", "9.9")
            run(place, "train", "other", *(change if isinstance(change, list) else []))
    finally:
        (place / "mine.csv").write_text(csv)
    output = capsys.readouterr().out
    assert f"with other settings ({what}" in output and "going on" not in output
    assert not list(place.glob(".*"))


@pytest.mark.parametrize("number, while_in", [(signal.SIGINT, "a step"), (signal.SIGTERM, "a step"),
                                              (signal.SIGINT, "validation")])
def test_ctrl_c_waits_for_the_step_keeps_a_checkpoint_and_the_same_command_goes_on(place, expected, number, while_in):
    """A process that sends itself the signal: in its fourth batch, within step 2, or in its first validation."""
    function, call = ("autocast", 4) if while_in == "a step" else ("predict", 1)
    program = ("import os, train\n"
               "from pocketbert.cli import run_script\n"
               f"original, calls = train.{function}, []\n"
               "def stopping(*args):\n"
               "    calls.append(1)\n"
               f"    if len(calls) == {call}: os.kill(os.getpid(), {number})\n"
               "    return original(*args)\n"
               f"train.{function} = stopping\n"
               "run_script(train.main)\n")
    flags = [*COMMANDS["train"][1], "--data", place / "mine.csv", "--out", place / "train-stopped"]
    command = [sys.executable, "-c", program, *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    where = "epoch 1, step 2" if while_in == "a step" else "epoch 1, step 3"
    assert done.returncode == 130 and f"the same command goes on from {where}" in done.stderr, done.stderr
    assert (place / ".train-stopped.unfinished" / "checkpoint.pt").exists()
    run(place, "train", "train-stopped")
    assert result(place / "train-stopped") == expected("train")
    assert not list(place.glob(".*"))
