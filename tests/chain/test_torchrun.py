"""torchrun: two processes train what one process trains; one that dies ends both, and the same command goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import distill
import train
from pocketbert.cli import run_script
from script_runs import train_argv
from small_models import LABELS, TEXTS

ROOT = Path(__file__).parents[2]
SMALL = ["--model", "scratch:layers=2,hidden=16,heads=2,vocab=200"]
SAME = ["--dropout", "0", "--lr", "1e-2", "--max-train", "61", "--checkpoint-steps", "0"]
COMMANDS = {  # 61 texts are 21 batches of 3, or 13 of 5: no size is even, and of the last batch one process has no text
    "weights": (train, [*SMALL, *SAME, "--batch-size", "3", "--epochs", "1", "--balance", "0.7"]),
    "accumulate": (train, [*SMALL, *SAME, "--batch-size", "5", "--epochs", "4", "--accumulate", "2", "--max-grad-norm",
                           "0.1", "--balance", "1", "--focal-gamma", "2"]),
    "distill": (distill, ["--teacher", "{teacher}", "--student", "bag:ngrams=2,buckets=50", *SAME, "--batch-size", "5",
                          "--epochs", "2", "--augment", "1", "--control"]),
    "whole": (train, [*SMALL, "--dropout", "0.2", "--lr", "1e-2", "--batch-size", "16", "--epochs", "2"]),
}
PROGRAM = """
import json, os, sys, train, distill
from pocketbert.cli import run_script

def main():
    for script, argv, batches_to_live in json.loads(sys.argv[1]):
        if batches_to_live and os.environ["RANK"] == "1":
            left, autocast = iter(range(batches_to_live)), train.autocast
            train.autocast = lambda *args: os.kill(os.getpid(), 9) if next(left, None) is None else autocast(*args)
        {"train": train, "distill": distill}[script].main(argv)

run_script(main, distributed=True)
"""


def argv(place, name, out, *more):
    script, flags = COMMANDS[name]
    flags = [flag.format(teacher=place / "teacher") for flag in flags]
    return script, [*flags, *more, "--data", str(place / "mine.csv"), "--out", str(place / out)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with mine.csv, whose labels are of unequal number, and a teacher."""
    folder = tmp_path_factory.mktemp("torchrun")
    rows = [f"{text} {word} {i},{label}" for i in range(20) for text in TEXTS[:2]
            for word, label in zip(("awful", "perhaps", "great"), LABELS, strict=True) if label != "neutral" or i < 8]
    (folder / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    train.main(train_argv(folder / "mine.csv", folder / "teacher", epochs=1))
    return folder


def torchrun(place, *commands):
    """Run commands in the same two processes, one after the other. commands: (script, flags, batches until one dies)"""
    (place / "program.py").write_text(PROGRAM)
    commands = json.dumps([(script.__name__, flags, batches) for script, flags, batches in commands])
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           place / "program.py", commands], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)


@pytest.fixture(scope="module")
def two(place):
    """All commands with two processes, then "whole" once more, in whose 8th batch one of them is killed."""
    return torchrun(place, *[(*argv(place, name, f"two-{name}"), 0) for name in COMMANDS],
                    (*argv(place, "whole", "killed", "--checkpoint-steps", "1"), 7))


@pytest.fixture(scope="module")
def again(place, two):
    """The killed command once more, and one that is refused."""
    return torchrun(place, (*argv(place, "whole", "killed"), 0),
                    (*argv(place, "distill", "refused", "--relations", "1"), 0))


def history(folder):
    return [row["loss"] for row in json.loads((folder / "run.json").read_text())["history"]]


@pytest.mark.parametrize("name, more", [("weights", ""), ("accumulate", ""), ("distill", ""), ("distill", "-alone")])
def test_two_processes_train_the_weights_of_one(place, two, name, more):
    script, flags = argv(place, name, f"one-{name}")
    if not more:
        script.main(flags)
    one, other = place / f"one-{name}{more}", place / f"two-{name}{more}"
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, other))
    for tensor in expected:
        # The softmax does not see a number that is added to all keys, so the gradient of their bias is 0 but for
        # rounding, and AdamW's steps along it are of any sign.
        if not tensor.endswith("key.bias"):
            torch.testing.assert_close(found[tensor], expected[tensor], atol=1e-5, rtol=0, msg=tensor)
    assert history(other) == pytest.approx(history(one), abs=1e-5)
    runs = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    assert runs[0]["validation"] == pytest.approx(runs[1]["validation"], abs=1e-5)
    assert [run["processes"] for run in runs] == [1, 2]


def test_one_process_prints(two):
    assert two.stdout.count("2 processes (gloo)") == 1
    assert two.stdout.count("epoch 1/1 |") == 1 and two.stdout.count("teacher logits:") == 1


def test_process_that_dies_ends_all_with_one_line_and_the_same_command_goes_on(place, two, again):
    assert two.returncode == 1 and two.stderr.count("error: process 0 of 2: another one has ended") == 1
    assert "rank0" not in two.stderr, "a traceback"
    assert again.stdout.count("going on with an interrupted run: epoch 2, step 2") == 1
    one, other = (place / name / "model.safetensors" for name in ("two-whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def test_processes_drop_different_numbers(place, two):
    """With the same dropout in both, the masks of their shares would be the same."""
    script, flags = argv(place, "whole", "one-whole")
    script.main(flags)
    assert history(place / "two-whole") != pytest.approx(history(place / "one-whole"), abs=1e-3)


def test_what_needs_whole_batches_is_refused_in_one_line(again):
    assert again.returncode == 1 and again.stderr.count("--relations is for one process, and torchrun has started") == 1


def test_scripts_for_one_process_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit, match="torchrun has started 2 processes and this is for one"):
        run_script(lambda: None)
    run_script(lambda: None, distributed=True)
