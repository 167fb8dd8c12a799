"""benchmarks/kills.py: its checks can fail."""

import json
import shutil

import pytest

from benchmarks import kills
from pocketbert.models.folder import save_model
from small_models import random_model


@pytest.fixture
def folders(tokenizer, tmp_path):
    """Two finished model folders of different weights, old/m and new/m."""
    for seed, name in enumerate(("old", "new")):
        save_model(random_model(seed=seed), tokenizer, tmp_path / name / "m", run={})
    return tmp_path


def step():
    return kills.Step("train", [], ["m"])


def faults_of(folders, code=0):
    return kills.find_faults(step(), folders / "killed", code, kills.weights_in(folders / "new", ["m"]),
                             kills.names_in(folders / "new"))


def test_a_rerun_that_equals_the_reference_has_no_fault(folders):
    shutil.copytree(folders / "new", folders / "killed")
    assert faults_of(folders) == [] and faults_of(folders, code=1) == ["does not end"]


def test_other_weights_and_files_that_are_left_over_or_missing_are_faults(folders):
    shutil.copytree(folders / "old", folders / "killed")
    assert faults_of(folders) == ["other weights"]
    (folders / "killed" / "m" / ".tmp.1.x").write_text("")
    assert faults_of(folders) == ["other weights", "other files"]
    shutil.rmtree(folders / "killed")
    assert faults_of(folders) == ["other weights", "other files"]


def test_what_a_folder_holds_after_a_kill_is_told_apart(folders):
    old, new = (kills.weights_in(folders / name, ["m"])["m"] for name in ("old", "new"))
    assert kills.state_of(folders / "old" / "m", old, new) == "the old model"
    assert kills.state_of(folders / "new" / "m", old, new) == "the new model"
    assert kills.state_of(folders / "nowhere", old, new) == "nothing"
    assert kills.state_of(folders / "new" / "m", old, "something else") == "a mixture"
    shutil.copy(folders / "old" / "m" / "model.safetensors", folders / "new" / "m")
    assert kills.state_of(folders / "new" / "m", old, new) == "refused"  # run.json has the hashes of the files


def test_the_table_counts_every_kill_once():
    found = [{"step": "train", "moment": "any", "over an old folder": True, "states": ["refused"], "faults": []},
             {"step": "make", "moment": "writing", "over an old folder": False, "states": ["the new model", "nothing"],
              "faults": ["other files"]}]
    page = kills.page({"kills": found, "command": "c", "commit": "1234567",
                       "hardware": json.loads('{"processor": "p", "instructions": [], "threads": 1, "torch": "2"}')})
    last = [cell.strip() for cell in page.splitlines()[-1].strip("|").split("|")]
    assert last == ["all", "2", "1", "1", "1", "0", "1", "1", "1", "0", "0", "0", "1"]
