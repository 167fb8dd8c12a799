"""Weights & Biases: what an offline run's file holds, runs that go on, groups, uploads; another tracker."""

import re
import sys
import types
from pathlib import Path

import pytest

import distill
import train
from pocketbert.training import tracking
from script_runs import train_argv


def wandb_records(path):
    """The records of an offline run's file: LevelDB's log format after a header of 7 bytes, each a protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's last bytes, too few for a header
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        part += data[at + 7:at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def test_offline_wandb_run_holds_configuration_curves_and_confusion_matrix(mine, tmp_path):
    import wandb
    train.main(train_argv(mine, tmp_path / "out", wandb="offline"))
    wandb.teardown()  # its writer is a process of its own, and done when it has ended
    [path] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    keys, config = set(), {}
    for record in wandb_records(path):
        keys |= {item.key or ".".join(item.nested_key) for item in record.history.item}
        config |= {item.key: item.value_json for item in record.run.config.update}
    assert {"train/loss", "validation/macro_f1", "epoch"} <= keys
    assert any("confusion_matrix" in key for key in keys), keys
    assert config["lr"] == "0.01" and "scratch" in config["model"]


def curves(run):
    return [(step, values) for step, values in run.steps if "train/loss" in values or "epoch" in values]


class Killed(BaseException):
    pass


def test_a_resumed_run_goes_on_in_its_run_and_repeats_only_steps_that_it_has_logged(wandb, mine, tmp_path, monkeypatch):
    flags = {"wandb": "online", "epochs": 4, "patience": 9, "checkpoint-steps": 5}
    train.main(train_argv(mine, tmp_path / "whole", **flags))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        calls = []

        def killed(*args):
            calls.append(1)
            if len(calls) == 19:  # the last checkpoint was after step 15
                raise Killed
            return autocast(*args)
        autocast = train.autocast
        patch.setattr(train, "autocast", killed)
        train.main(train_argv(mine, tmp_path / "out", **flags))
    train.main(train_argv(mine, tmp_path / "out", **flags))
    whole, first, second = wandb.runs
    assert first.options["id"] == second.options["id"] != whole.options["id"]
    assert second.options["resume"] == "allow" and not first.finished and second.finished
    assert min(step for step, _ in curves(second)) > 15
    seen = dict(map(repr_of, curves(first) + curves(second)))
    assert seen == dict(map(repr_of, curves(whole))) and len(seen) == len(curves(whole)) == 8


def repr_of(row):
    return row[0], str(row[1])


def test_group_and_artifact_reach_wandb_and_are_refused_without_it(wandb, mine, tmp_path, capsys):
    flags = {"wandb-group": "mine", "wandb-artifact": ""}
    train.main(train_argv(mine, tmp_path / "out", epochs=1))
    (tmp_path / "out" / "notes.txt").write_text("of the user")
    train.main(train_argv(mine, tmp_path / "out", epochs=1, wandb="offline", **flags))
    [run] = wandb.runs
    assert (run.options["group"], run.options["name"], run.options["mode"]) == ("mine", "out", "offline")
    assert run.files == ["out", "config.json", "model.safetensors", "run.json", "tokenizer.json"]
    for flag, value in flags.items():
        with pytest.raises(SystemExit):
            train.main(train_argv(mine, tmp_path / "x", **{flag: value}))
        assert f"--{flag} does nothing here: it goes with --wandb" in capsys.readouterr().err


def test_distill_uploads_the_model_of_each_role_once(wandb, mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", epochs=1))
    distill.main(["--teacher", str(tmp_path / "teacher"), "--student", "bag:embedding=8,hidden=8,buckets=50", "--data",
                  str(mine), "--out", str(tmp_path / "s"), "--epochs", "1", "--control", "--seeds", "2", "--wandb",
                  "offline", "--wandb-artifact"])
    assert [run.files[:1] for run in wandb.runs] == [["s"], ["s-alone"], [], []]
    assert all("model.safetensors" in run.files for run in wandb.runs[:2]) and all(run.finished for run in wandb.runs)


def test_the_tensorboard_example_of_the_guide_tracks_a_training(mine, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "guide" / "train.md").read_text()
    [example] = re.findall(r"```python\n(.*?TensorBoard.*?)```", page, re.DOTALL)
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((step, name))

        def close(self):
            written.append("closed")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    names = dict(vars(tracking))
    exec(example, names)
    monkeypatch.setattr(train, "start_tracking", names["start_tracking"])
    train.main(train_argv(mine, tmp_path / "out", epochs=2))
    assert written[0].endswith("out-tensorboard") and written[-1] == "closed"
    assert (1, "train/loss") in written
    assert [name for _, name in written[1:-1]].count("validation/macro_f1") == 2
