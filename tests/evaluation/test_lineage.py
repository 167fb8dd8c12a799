"""The commands that rebuild a folder, from the run.json of a chain."""

import json

from pocketbert.evaluation.lineage import rebuild_commands


def write_run(folder, command, parent=None, weights="aa", **more):
    folder.mkdir(parents=True)
    run = {"command": command, "parent": parent, "files": {"model.safetensors": weights}} | more
    (folder / "run.json").write_text(json.dumps(run))


def test_parents_and_teachers_come_first_and_each_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = {"name": "org/base", "sha256": "0", "commit": "c0ffee"}
    write_run(tmp_path / "runs/t", "python train.py --out runs/t", hub)
    write_run(tmp_path / "runs/t2", "python train.py --out runs/t2", {"name": "scratch:layers=2"})
    write_run(tmp_path / "runs/s", "python distill.py 'a b' --out runs/s", {"name": "runs/t", "sha256": "aa"},
              teachers=["runs/t", "runs/t2"])
    write_run(tmp_path / "runs/q", "python quantize.py --out runs/q", {"name": "runs/s", "sha256": "aa"}, commit="abc")
    assert rebuild_commands("runs/q") == [
        "git checkout abc", "# org/base of the Hub, commit c0ffee", "python train.py --out runs/t",
        "python train.py --out runs/t2", "python distill.py 'a b' --out runs/s", "python quantize.py --out runs/q"]


def test_runs_that_were_moved_together_are_found_and_a_changed_parent_is_said(tmp_path):
    write_run(tmp_path / "moved/t", "python train.py", {"name": "scratch:layers=2"}, weights="other")
    write_run(tmp_path / "moved/s", "python prune.py", {"name": "runs/t", "sha256": "aa"})
    assert rebuild_commands(tmp_path / "moved/s") == [
        "python train.py", "# runs/t has other weights now than those from which the next folder was made",
        "python prune.py"]


def test_what_is_gone_or_foreign_is_a_comment(tmp_path):
    write_run(tmp_path / "s", "python prune.py", {"name": "gone", "sha256": "aa"})
    assert rebuild_commands(tmp_path / "s") == [
        "# gone: a checkpoint without run.json, SHA-256 of its weights aa", "python prune.py"]
    (tmp_path / "foreign").mkdir()
    [line] = rebuild_commands(tmp_path / "foreign")
    assert line.startswith("# ") and "has no run.json" in line


def test_a_folder_that_names_itself_as_parent_ends(tmp_path):
    write_run(tmp_path / "s", "python prune.py", {"name": str(tmp_path / "s"), "sha256": "aa"})
    assert rebuild_commands(tmp_path / "s") == ["python prune.py"]
