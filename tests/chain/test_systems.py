"""The five published systems: each chain is whole, is made once, goes on when it was killed, and ends in a page."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.systems.report import tomllib
from make_runs import ROOT, make

SYSTEMS = sorted(path.stem for path in ROOT.glob("benchmarks/systems/*.mk") if path.stem != "rules")

# In place of Python: notes its arguments and leaves what the script would leave last. DIES: the step that is killed.
STUB = """#!/bin/sh
script=$1
echo "$@" >> "$CALLS"
while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; [ "$1" = --control ] && control=1; shift; done
case $out in *"$DIES") kill -9 $$;; esac
mkdir -p "$out"
[ -n "$control" ] && mkdir -p "$out-alone" && touch "$out-alone/run.json"
case $script in
    evaluate.py) touch "$out/results.json";;
    search.py) touch "$out/epochs.png";;
    benchmarks/memory.py) touch "$out/memory.json";;
    */report.py) touch "$out/$SYSTEM.md";;
    *) touch "$out/run.json";;
esac
"""


def run_make(system, place, python=None, dies="none of them", **variables):
    """(the finished make, the command lines that the stub was given)"""
    calls = place / "calls"
    calls.write_text("")
    if python is None:
        python = place / "python"
        python.write_text(STUB)
        python.chmod(0o755)
    environment = {"CALLS": str(calls), "DIES": dies, "SYSTEM": system}
    done = make(place / "none", system, python=python, environment=environment, MODEL=None, RUNS=None, STUDENT=None,
                SYSTEMS=place / "runs", PAGES=place / "pages", **variables)
    return done, calls.read_text().splitlines()


def out_of(call):
    return call.split(" --out ")[1].split()[0]


# ---- the chains ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("small", ["", "weights"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_each_step_comes_after_those_whose_folders_it_reads_and_a_second_run_does_nothing(system, small, tmp_path):
    done, calls = run_make(system, tmp_path, SMALL=small)
    assert done.returncode == 0, done.stderr
    made = [out_of(call) for call in calls]
    assert len(set(made)) == len(made) and calls[-1].startswith("benchmarks/systems/report.py")
    for i, call in enumerate(calls[:-1]):
        for word in call.split():
            if word.startswith(str(tmp_path / "runs")) and word != made[i]:
                folder = word.rpartition("/")[0] if word.endswith(".jsonl") else word
                assert {folder, folder.removesuffix("-alone")} & set(made[:i]), f"{call} reads {word}"
    done, calls = run_make(system, tmp_path, SMALL=small)
    assert done.returncode == 0 and calls == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_killed_chain_goes_on_with_the_step_that_was_killed(system, tmp_path):
    _, calls = run_make(system, tmp_path)
    victim = out_of(calls[len(calls) // 2])
    again = tmp_path / "again"
    again.mkdir()
    name = victim.split("/runs/")[1]
    done, first = run_make(system, again, dies=f"/runs/{name}")
    assert done.returncode != 0
    done, second = run_make(system, again)
    assert done.returncode == 0 and any(out_of(call).endswith(f"/runs/{name}") for call in second)
    assert len(first) + len(second) == len(calls) + 1


def test_models_names_the_checkpoint_of_a_role_and_an_empty_name_leaves_its_steps_out(tmp_path):
    _, calls = run_make("friends", tmp_path, MODELS="bert=my/folder distilbert=", SKIP="friends/sst2/%")
    assert sum("--model my/folder " in call for call in calls) == 2
    assert not any("distilbert-base" in call or "/sst2/" in call or "kd-both" in call for call in calls)
    assert sum("--model distilroberta-base " in call for call in calls) == 2


# ---- the pages -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("system", SYSTEMS)
def test_every_published_row_names_a_step_of_the_chain(system, tmp_path):
    _, calls = run_make(system, tmp_path)
    made = {out_of(call).split(f"/runs/{system}/")[-1]: call for call in calls}
    published = tomllib.loads((ROOT / "benchmarks" / "systems" / f"{system}.toml").read_text())
    for table in published["tables"]:
        for row in table["rows"]:
            folders = {Path(word).name for word in made[row.get("report", table["report"])].split()}
            none_of_ours = {"", "tf-idf"}  # what no script can run, and a reference of evaluate.py
            assert {row["run"], *row.get("seeds", [])} - none_of_ours <= folders
        assert set(sum(table.get("csv", {}).values(), [])) <= {row["run"] for row in table["rows"]}


def emotion_file(folder):
    """A folder of data with a small `emotion`, whose label is told by one word."""
    names = ["sadness", "joy", "love", "anger", "fear", "surprise"]
    (folder / "emotion").mkdir(parents=True)
    for file, count in (("train.txt", 180), ("val.txt", 60)):
        rows = [f"i feel {names[i % 6]} about number {i} {file};{names[i % 6]}" for i in range(count)]
        (folder / "emotion" / file).write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.end_to_end
def test_friends_on_a_small_file_end_in_a_page_with_the_numbers_of_evaluate(tmp_path):
    settings = {"MODELS": "bert=scratch:layers=1,hidden=16,heads=2,vocab=150 distilroberta= distilbert= "
                          "tiny=cnn:vocab=150,hidden=8,embedding=8",
                "FRIENDS_DATA": "emotion", "FRIENDS_SEEDS": 2, "FRIENDS_TEACHER": "--lr 1e-2 --dropout 0",
                "FRIENDS_STUDENT": "--epochs 1 --lr 1e-2", "EVALUATE_FLAGS": "--timed 4",
                "DATA_DIR": emotion_file(tmp_path / "data"), "python": sys.executable}
    done, _ = run_make("friends", tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "pages" / "friends.md").read_text()
    [table, *absent] = json.loads((tmp_path / "pages" / "friends.json").read_text())["tables"][1:]
    measured = {row["name"]: row for row in json.loads(
        (tmp_path / "runs" / "friends" / "emotion" / "report" / "results.json").read_text())["models"]
        if row["name"] != "majority"}
    rows = {row["run"]: row for row in table["rows"]}
    assert sorted(rows) == sorted(measured) == ["bert", "kd-bert", "kd-bert-alone", "tf-idf"]
    for name, row in rows.items():
        np.testing.assert_allclose(row["ours"]["value"], measured[name]["accuracy"], rtol=1e-12)
        assert row["ours"]["ms"] == measured[name]["ms_1"]
        assert row["ours"]["mb"] == pytest.approx(measured[name]["size_mb"])
        assert f"| {row['name']} " in page and f"{measured[name]['accuracy']:.4f} [" in page
    assert rows["bert"]["published"] == 0.9295 and re.search(r"\| BERT-base +\| +0.9295 \|", page)
    assert "DistilRoBERTa (0.9315)" in page and all(not other["rows"] for other in absent)
    assert str(tmp_path) not in page + (tmp_path / "pages" / "friends.json").read_text()
    again, _ = run_make("friends", tmp_path, **settings)
    assert again.returncode == 0 and ".py " not in again.stdout
