"""rebuild.sh: every step, in order, with its folders renamed."""

import json
import subprocess

import pytest

from pocketbert.errors import UserError
from pocketbert.search.rebuild import rebuild_script, steps_to


def write_run(folder, command, parent=None):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"command": command, "parent": {"name": str(parent)}}))


def test_the_script_repeats_the_commands_with_new_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "teacher", "python train.py --model org/model --out teacher --data 'my data.csv'")
    write_run(tmp_path / "cnn", f"python distill.py --teacher {tmp_path}/teacher --out {tmp_path}/cnn",
              tmp_path / "teacher")
    write_run(tmp_path / "pocket", f"python quantize.py export --model {tmp_path}/cnn --out pocket", tmp_path / "cnn")
    (tmp_path / "rebuild.sh").write_text(rebuild_script(steps_to(tmp_path / "pocket")))
    (tmp_path / "stub").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "stub").chmod(0o755)
    done = subprocess.run(["bash", "rebuild.sh", "new"], capture_output=True, text=True, check=True,
                          env={"PYTHON": str(tmp_path / "stub"), "PATH": "/usr/bin:/bin"})
    new = tmp_path / "new"
    assert done.stdout.splitlines() == [
        f"train.py --model org/model --out {new}/step-1 --data my data.csv",
        f"distill.py --teacher {new}/step-1 --out {new}/step-2",
        f"quantize.py export --model {new}/step-2 --out {new}/model"]


def test_a_folder_that_was_not_made_here_ends_the_chain_and_a_command_without_out_is_refused(tmp_path):
    assert steps_to(tmp_path) == []
    write_run(tmp_path / "m", "python train.py --model x")
    with pytest.raises(UserError, match="names no --out"):
        steps_to(tmp_path / "m")
