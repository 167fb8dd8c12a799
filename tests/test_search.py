"""search.py: trials, the space of each script, resumption, what is kept and what is refused."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import search
import train
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model
from pocketbert.models.recipes import recipe_sizes
from pocketbert.search.space import SPACES, given_flags, open_part, read_space, suggest_values, with_values
from pocketbert.search.storage import begun
from script_runs import train_argv
from search import space_file

ROOT = Path(__file__).parents[1]
TINY = "scratch:layers=1,hidden=16,heads=2,vocab=200"


@pytest.fixture(autouse=True)
def draw(monkeypatch):
    """Pictures would take most of the time of these tests: only the test that asks for `draw` draws them."""
    original = search.draw
    monkeypatch.setattr(search, "draw", lambda study, out: [])
    return lambda: monkeypatch.setattr(search, "draw", original)


def search_argv(mine, out, trials, *more):
    """The command line of a search over train.py."""
    return ["train", "--trials", str(trials), "--minutes", "2", "--out", str(out), "--model", TINY, "--data", str(mine),
            "--epochs", "2", "--batch-size=16", *more]


def read_run(folder):
    return json.loads((folder / "run.json").read_text())


def load_study(out):
    return search.optuna.load_study(study_name="search", storage=f"sqlite:///{out / 'study.db'}")


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- trials ------------------------------------------------------------------------------------------------

def test_search_keeps_the_best_model_resumes_and_respects_fixed_flags(mine, tmp_path, capsys, draw):
    draw()
    out = tmp_path / "search"
    search.main(search_argv(mine, out, 2))
    search.main(search_argv(mine, out, 4))
    printed = capsys.readouterr().out
    assert "2 trials are done" in printed and "best of 4 trials" in printed
    run = read_run(out / "best")
    study = load_study(out)
    assert run["validation"]["macro_f1"] == pytest.approx(study.best_value)
    assert run["arguments"]["batch_size"] == 16 and "batch-size" not in study.best_params
    assert {"history.png", "slices.png", "epochs.png"} <= set(os.listdir(out)) and not list(out.glob("*trial-*"))


def test_main_returns_the_best_trial_and_its_flags_make_the_same_model_again(mine, tmp_path):
    best = search.main(search_argv(mine, tmp_path / "s", 2))
    assert best["number"] == load_study(tmp_path / "s").best_trial.number
    again = train.main([*best["flags"], "--out", str(tmp_path / "again")])
    assert again["validation"]["macro_f1"] == best["macro_f1"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "again", tmp_path / "s" / "best")]
    assert weights[0] == weights[1] and best["folder"] == str(tmp_path / "s" / "best")


def test_search_scores_the_model_that_prune_saves_and_not_a_larger_one_on_the_way(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", model="scratch:layers=2,hidden=16,heads=2,vocab=200"))
    search.main(["prune", "--trials", "2", "--minutes", "2", "--out", str(tmp_path / "s"), "--model",
                 str(tmp_path / "teacher"), "--data", str(mine), "--heads", "0.5", "--ffn", "0.1", "--steps", "2",
                 "--epochs", "1"])
    run = read_run(tmp_path / "s" / "best")
    assert run["validation"]["macro_f1"] == pytest.approx(load_study(tmp_path / "s").best_value)
    assert run["pruning"]["steps"][-1]["neurons"] == load_model(tmp_path / "s" / "best")[0].config.intermediate_sizes


def test_search_keeps_its_budget_of_minutes_even_within_an_epoch(mine, tmp_path):
    argv = search_argv(mine, tmp_path / "s", 50, "--patience", "100000")
    argv[argv.index("--minutes") + 1] = "0.05"
    argv[argv.index("--epochs") + 1] = "100000"  # one such trial would take hours
    search.main(argv)
    assert "stopped: --minutes" in (tmp_path / "s" / "trials.log").read_text()


def test_loss_that_explodes_counts_as_a_pruned_trial(mine, tmp_path, monkeypatch):
    (tmp_path / "lr.toml").write_text("lr = [1e-3, 1e30]\n")
    monkeypatch.setattr("pocketbert.search.space.suggest", lambda trial, name, entry:
                        entry["choices"][trial.number if trial else 0])
    search.main(search_argv(mine, tmp_path / "s", 2, "--space", str(tmp_path / "lr.toml")))
    states = [trial.state.name for trial in load_study(tmp_path / "s").trials]
    assert states == ["COMPLETE", "PRUNED"] and "lower --lr" in (tmp_path / "s" / "trials.log").read_text()


# ---- the space of each script ------------------------------------------------------------------------------

SPACE_FILES = {  # file -> the command line that it is for
    "train": ["train", "--model", "cnn"], "distill": ["distill", "--teacher", "t", "--student", "gru"],
    "prune": ["prune", "--model", "m", "--heads", "0.5"], "prune-budget": ["prune", "--model", "m"],
    "prune-weights": ["prune", "weights", "--model", "m", "--sparsity", "0.5"], "lora": ["train", "--model", "m"]}


def test_every_space_that_is_there_is_read_and_its_flags_are_those_of_the_script():
    assert sorted(SPACE_FILES) == sorted(path.stem for path in SPACES.glob("*.toml"))
    for name, (script, *words) in SPACE_FILES.items():
        space = read_space(SPACES / f"{name}.toml")
        for kind in space.get("model", space.get("student", {None: None})):
            model = {"--model": kind, "--student": kind}
            words = [kind if kind and before in model else word
                     for before, word in zip(["", *words], words, strict=False)]
            given = given_flags(words)
            values = suggest_values(None, open_part(space, given), given, lambda values: 1)
            argv = with_values([*words, "--data", "demo", "--epochs", "1", "--out", "o"], values)
            search.SCRIPTS[script].parse_args(argv)
            if kind:
                recipe_sizes(values.get("model", values.get("student")))  # raises for a size that the kind has not
    assert space_file("prune", ["weights"]).name == "prune-weights.toml"


def test_sparse_training_is_searched_without_frozen_layers(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", model="scratch:layers=3,hidden=16,heads=2,vocab=200"))
    best = search.main(["prune", "weights", "--sparsity", "0.5", "--trials", "4", "--out", str(tmp_path / "s"),
                        "--model", str(tmp_path / "teacher"), "--data", str(mine), "--epochs", "1"])
    assert best["flags"][:3] == ["weights", "--sparsity", "0.5"] and "--freeze" not in best["flags"]
    assert read_run(tmp_path / "s" / "best")["pruning"]["sparsity"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("student, depth", [("teacher:layers=0,2", 2), ("teacher:layers=1:hidden=8", 1),
                                            ("teacher:hidden=8", 3), ("gru:layers=2", 2), ("scratch:layers=4", 4)])
def test_search_freezes_no_more_layers_than_the_student_has(student, depth, mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", model="scratch:layers=3,hidden=16,heads=2,vocab=200"))
    assert search.read_depth({"student": student, "teacher": [str(tmp_path / "teacher")]}) == depth


def test_a_trained_recurrent_model_is_searched_with_its_own_depth(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "gru", model="gru:layers=2,hidden=8,embedding=8,vocab=200", epochs=1))
    assert search.read_depth({"model": str(tmp_path / "gru")}) == 2
    best = search.main(["train", "--model", str(tmp_path / "gru"), "--data", str(mine), "--epochs", "1", "--trials",
                        "1", "--out", str(tmp_path / "s")])
    assert read_run(tmp_path / "s" / "best")["parent"]["name"] == str(tmp_path / "gru") and best["number"] == 0


def write_space(tmp_path, text):
    """["--space", a file with this text]"""
    (tmp_path / "space.toml").write_text(text)
    return ["--space", str(tmp_path / "space.toml")]


def test_the_sizes_of_a_new_model_are_searched_and_its_recipe_is_complete(mine, tmp_path):
    space = write_space(tmp_path, "model.gru = { hidden = [4, 6], layers = [1, 2] }\nfreeze = { low = 0, high = 11 }")
    argv = search_argv(mine, tmp_path / "s", 6, "--lr", "1e-2", *space)
    argv[argv.index(TINY)] = "gru:vocab=100,embedding=4"
    best = search.main(argv)
    recipes = {trial.user_attrs["flags"][1]: trial.params.get("freeze") for trial in load_study(tmp_path / "s").trials}
    assert len(recipes) > 1 and set(recipes) <= {f"gru:vocab=100,embedding=4,hidden={hidden},layers={layers}"
                                                 for hidden in (4, 6) for layers in (1, 2)}
    assert not any(freeze for recipe, freeze in recipes.items() if "layers=1" in recipe)
    assert read_run(tmp_path / "s" / "best")["arguments"]["model"] == best["flags"][1] in recipes


def test_a_model_above_max_mb_is_no_result(mine, tmp_path):
    space = write_space(tmp_path, "model.gru.hidden = [4, 64]")
    argv = search_argv(mine, tmp_path / "s", 6, "--lr", "1e-2", "--max-mb", "0.05", *space)
    argv[argv.index(TINY)] = "gru:vocab=100,embedding=4"
    best = search.main(argv)
    found = {(trial.params["model.hidden"], trial.state.name, trial.user_attrs["size_mb"] < 0.05)
             for trial in load_study(tmp_path / "s").trials if "size_mb" in trial.user_attrs}
    assert {(4, "COMPLETE", True), (64, "PRUNED", False)} <= found and "hidden=4" in best["flags"][1]
    argv[argv.index("0.05")] = "0.000001"
    argv[argv.index(str(tmp_path / "s"))] = str(tmp_path / "none")
    with pytest.raises(UserError, match="no trial .* with at most 1e-06 MB"):
        search.main(argv)


def test_budgets_and_the_rank_of_adapters_are_searched(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher"))
    same = ["--trials", "2", "--model", str(tmp_path / "teacher"), "--data", str(mine), "--epochs", "1"]
    best = search.main(["prune", *same, "--out", str(tmp_path / "p"), "--max-mb", "1", "--space",
                        str(SPACES / "prune-budget.toml")])
    assert {"--heads", "--ffn", "--lr"} <= set(best["flags"])
    best = search.main(["train", *same, "--out", str(tmp_path / "l"), "--space", str(SPACES / "lora.toml")])
    assert (tmp_path / "l" / "best" / "adapter_model.safetensors").is_file() and "--lora-rank" in best["flags"]


def test_the_best_model_is_trained_again_on_request_once(mine, tmp_path, capsys):
    out = tmp_path / "s"
    for _ in range(2):
        best = search.main(search_argv(mine, out, 2, "--retrain=--epochs 3 --max-train 60"))
    run = read_run(out / "retrained")
    assert run["arguments"]["epochs"] == 3 and run["data"]["train"] == 60
    assert run["arguments"]["lr"] == read_run(out / "best")["arguments"]["lr"] and best["number"] in (0, 1)
    printed = capsys.readouterr().out
    assert printed.count("--retrain: python train.py") == 1 and "is the best trial's model, retrained" in printed


def test_trials_are_runs_of_one_group_in_wandb(wandb, mine, tmp_path):
    search.main(search_argv(mine, tmp_path / "s", 2, "--wandb", "offline"))
    search.main(search_argv(mine, tmp_path / "s", 3, "--wandb", "offline"))
    assert [run.options["name"] for run in wandb.runs] == ["trial-0", "trial-1", "trial-2"]
    [group] = {run.options["group"] for run in wandb.runs}
    assert group.startswith("search-") and len({run.options["id"] for run in wandb.runs}) == 3
    search.main(search_argv(mine, tmp_path / "t", 1, "--wandb", "offline", "--wandb-group", "mine"))
    assert wandb.runs[-1].options["group"] == "mine"


# ---- workers on one storage --------------------------------------------------------------------------------

def test_two_workers_on_one_storage_share_the_trials(mine, tmp_path):
    storage = tmp_path / "study.db"
    program = "import sys, search; search.draw = lambda study, out: []; search.main(sys.argv[1:])"
    workers = [subprocess.Popen([sys.executable, "-c", program, *search_argv(
        mine, tmp_path / name, 8, "--storage", str(storage), "--max-train", "60")], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True) for name in "ab"]
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    study = search.optuna.load_study(study_name="search", storage=f"sqlite:///{storage}")
    done = search.finished_trials(study)
    assert len(done) == 8 and len({trial.user_attrs["worker"][1] for trial in done}) == 2
    rates = [trial.params["lr"] for trial in done]
    assert len(set(rates)) == 8
    best = [search.main(search_argv(mine, tmp_path / name, 8, "--storage", str(storage), "--max-train", "60"))
            for name in "ab"]
    assert best[0]["number"] == best[1]["number"] == study.best_trial.number
    assert [read_run(tmp_path / name / "best")["trial"] for name in "ab"] == 2 * [study.best_trial.number]


def test_a_worker_whose_trial_would_be_one_too_many_leaves_it(mine, tmp_path, monkeypatch):
    out = tmp_path / "s"
    search.main(search_argv(mine, out, 1))
    asked = []
    monkeypatch.setattr(search, "begun", lambda study, before=None: asked.append(before) or (
        0 if asked == [None] else begun(study, before)))
    search.main(search_argv(mine, out, 1))
    assert [trial.state.name for trial in load_study(out).trials] == ["COMPLETE", "FAIL"]


def test_the_last_worker_retrains(mine, tmp_path, capsys):
    out = tmp_path / "s"
    search.main(search_argv(mine, out, 1))
    load_study(out).ask().set_user_attr("worker", ["another host", 1])
    search.main(search_argv(mine, out, 1, "--retrain"))
    assert "other workers are still searching" in capsys.readouterr().out and not (out / "retrained").exists()


# ---- kills -------------------------------------------------------------------------------------------------

class Killed(BaseException):
    """Stands in for kill -9: nothing in search.py catches it."""


def die(*args):
    raise Killed


def test_a_search_killed_before_the_best_model_was_kept_keeps_it_when_it_goes_on(mine, tmp_path, monkeypatch):
    out = tmp_path / "s"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(search, "end_trial", die)
        search.main(search_argv(mine, out, 1))
    assert not (out / "best").exists()
    best = search.main(search_argv(mine, out, 1))
    assert best["folder"] == str(out / "best") and read_run(out / "best")["trial"] == best["number"] == 0
    assert load_model(out / "best") and not list(out.glob("trial-*"))


def test_a_search_killed_while_the_best_model_was_copied_keeps_it_when_it_goes_on(mine, tmp_path, monkeypatch):
    out = tmp_path / "s"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "copyfile", die)
        search.main(search_argv(mine, out, 1))
    best = search.main(search_argv(mine, out, 2))
    assert read_run(out / "best")["trial"] == best["number"] and not list(out.glob("trial-*"))


def test_a_search_killed_within_a_trial_repeats_it(mine, tmp_path, monkeypatch):
    out = tmp_path / "s"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(search, "read_json", die)  # of the trial's run.json, to put its number in
        search.main(search_argv(mine, out, 1))
    search.main(search_argv(mine, out, 1))
    assert [trial.state.name for trial in load_study(out).trials] == ["FAIL", "COMPLETE"]
    assert read_run(out / "best")["trial"] == 1


def test_a_search_of_eight_trials_killed_after_three_resumes_and_ends_with_eight(mine, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s"
    calls = []

    def killed_in_the_fourth(*args):
        calls.append(1)
        return die() if len(calls) == 4 else original(*args)
    original = train.main
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "main", killed_in_the_fourth)
        search.main(search_argv(mine, out, 8))
    best = search.main(search_argv(mine, out, 8))
    printed = capsys.readouterr().out
    assert "3 trials are done" in printed and "best of 8 trials" in printed
    states = [trial.state.name for trial in load_study(out).trials]
    assert states[3] == "FAIL" and len(states) == 9 and states.count("FAIL") == 1
    assert read_run(out / "best")["trial"] == best["number"] and not list(out.glob("*trial-*"))


def test_a_best_model_that_was_removed_is_not_claimed_to_be_there(mine, tmp_path, capsys):
    out = tmp_path / "s"
    search.main(search_argv(mine, out, 1))
    shutil.rmtree(out / "best")
    assert search.main(search_argv(mine, out, 1))["folder"] is None
    assert "kept in" not in capsys.readouterr().out.splitlines()[-3]


# ---- what is refused ---------------------------------------------------------------------------------------

def test_search_with_another_command_in_the_same_folder_is_an_error(mine, tmp_path):
    search.main(search_argv(mine, tmp_path / "s", 1))
    with pytest.raises(UserError, match="another --out"):
        search.main(search_argv(mine, tmp_path / "s", 1, "--max-length", "16"))


@pytest.mark.parametrize("argv, message", [
    (["train", "--model", TINY, "--epochs", "0"], "--epochs above 0"),
    (["distill", "--teacher", "t", "--student", TINY, "--seeds", "3"], "--control and --seeds"),
    (["distill", "--teacher", "t", "--student", TINY, "--control"], "--control and --seeds")])
def test_a_search_that_could_not_compare_anything_is_refused_before_it_starts(argv, message, mine, tmp_path):
    with pytest.raises(UserError, match=message):
        search.main([*argv, "--data", str(mine), "--out", str(tmp_path / "s")])
    assert not (tmp_path / "s").exists()


def test_a_wrong_flag_stops_the_search_before_its_first_trial(mine, tmp_path, capsys):
    with pytest.raises(SystemExit):
        search.main(search_argv(mine, tmp_path / "s", 1, "--learning-rate", "1"))
    assert "--learning-rate" in capsys.readouterr().err and not (tmp_path / "s").exists()


@pytest.mark.parametrize("folder", ["best", "trial", "demo"])
def test_a_folder_with_files_of_somebody_else_is_refused_and_left_alone(folder, mine, tmp_path):
    out = tmp_path / "runs"
    train.main(train_argv(mine, out / folder, epochs=1))
    before = files_in(out)
    with pytest.raises(UserError, match="no search of ours"):
        search.main(search_argv(mine, out, 1))
    assert files_in(out) == before


def test_files_of_the_user_in_the_folder_of_the_best_model_stay(mine, tmp_path):
    search.main(search_argv(mine, tmp_path / "s", 1))
    (tmp_path / "s" / "best" / "notes.txt").write_text("mine")
    search.main(search_argv(mine, tmp_path / "s", 3))
    assert (tmp_path / "s" / "best" / "notes.txt").read_text() == "mine"


def test_a_search_does_not_go_on_with_other_data_or_another_model(mine, tmp_path):
    search.main(search_argv(mine, tmp_path / "s", 1))
    text = mine.read_text()
    mine.write_text(text + "one more,neutral\n")
    with pytest.raises(UserError, match="other data"):
        search.main(search_argv(mine, tmp_path / "s", 2))
    mine.write_text(text)
    search.main(search_argv(mine, tmp_path / "s", 2))

    for seed in (0, 1):
        train.main(train_argv(mine, tmp_path / "teacher", epochs=1, seed=seed))
        argv = ["distill", "--teacher", str(tmp_path / "teacher"), "--student", TINY, "--data", str(mine), "--epochs",
                "1", "--trials", "1", "--out", str(tmp_path / "d")]
        if seed == 0:
            search.main(argv)
    with pytest.raises(UserError, match="other models"):
        search.main(argv)


def test_a_storage_with_other_data_or_another_space_is_refused_in_one_line(mine, tmp_path):
    storage = ["--storage", str(tmp_path / "study.db")]
    search.main(search_argv(mine, tmp_path / "a", 1, *storage, *write_space(tmp_path, "lr = [1e-3]")))
    with pytest.raises(UserError, match="study.db holds a search with other space: .* another --storage") as error:
        search.main(search_argv(mine, tmp_path / "b", 1, *storage, *write_space(tmp_path, "lr = [1e-2]")))
    assert "\n" not in str(error.value)
    space = write_space(tmp_path, "lr = [1e-3]")
    search.main(search_argv(mine, tmp_path / "c", 1, *storage, "--study", "other", "--max-length", "9", *space))
    mine.write_text(mine.read_text() + "one more,neutral\n")
    with pytest.raises(UserError, match="study.db holds a search with other data"):
        search.main(search_argv(mine, tmp_path / "d", 1, *storage, *space))


def test_two_searches_in_one_folder_are_refused(mine, tmp_path):
    search.main(search_argv(mine, tmp_path / "s", 1))
    handle = os.open(tmp_path / "s", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another search is running"):
        search.main(search_argv(mine, tmp_path / "s", 2))
    os.close(handle)
    search.main(search_argv(mine, tmp_path / "s", 2))


@pytest.mark.parametrize("name", ["a?b", "a#b", "50%", "a{b}", "a b&c=d", "ü"])
def test_the_folder_of_a_search_may_have_any_name(name, mine, tmp_path):
    best = search.main(search_argv(mine, tmp_path / name, 1))
    assert best["folder"] == str(tmp_path / name / "best") and (tmp_path / name / "study.db").is_file()
    assert sorted(os.listdir(tmp_path)) == sorted([name, "mine.csv"])
    assert search.main(search_argv(mine, tmp_path / name, 1)) == best
