"""One storage, several workers: who is lost, how many trials have begun, what is refused."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest

from pocketbert.errors import UserError
from pocketbert.search import storage as storage_module
from pocketbert.search.storage import (
    begun,
    claim_study,
    fail_lost_trials,
    open_storage,
    this_worker,
    worker_seed,
)

ROOT = Path(__file__).parents[2]
HERE = socket.gethostname()


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(storage=open_storage(tmp_path / "a?b#c%.db"))


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_trials_of_killed_workers_fail_and_those_of_others_run_on(study):
    workers = [[HERE, ended_process()], [HERE, 1], ["another host", 1], this_worker(), None]
    for worker in workers:
        trial = study.ask()
        if worker:
            trial.set_user_attr("worker", worker)
    fail_lost_trials(study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING", "RUNNING", "FAIL", "RUNNING"]


def test_a_trial_that_never_named_its_worker_is_lost_after_a_while(study, monkeypatch):
    study.ask()

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=5)
    monkeypatch.setattr("pocketbert.search.storage.datetime", Later)
    fail_lost_trials(study)
    assert study.trials[0].state.name == "FAIL"


def test_the_trials_that_have_begun_are_those_that_ended_with_a_result_or_run(study):
    states = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL]
    for state in states:
        study.tell(study.ask(), 1.0 if state == states[0] else None, state=state)
    study.ask()
    assert begun(study) == 3
    assert [begun(study, before=number) for number in range(4)] == [0, 1, 2, 2]


def test_a_study_of_another_command_or_of_other_data_is_refused_in_one_line(study):
    claim_study(study, {"command": "train --model m", "data": "a", "space": {"lr": {"choices": [1e-3, 2e-3]}}}, "x.db")
    claim_study(study, {"command": "train --model m", "data": "a", "space": {"lr": {"choices": [1e-3, 2e-3]}}}, "x.db")
    for settings, message in (({"command": "other", "data": "a"}, "x.db holds the search of another command"),
                              ({"command": "train --model m", "data": "b"}, "other data: .* another --storage or")):
        with pytest.raises(UserError, match=message) as error:
            claim_study(study, settings, "x.db")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["nonsense://a", "mysql+nodriver://a/b", "{tmp}/no/folder/x.db", "{tmp}/text.db"])
def test_a_storage_that_cannot_be_opened_is_one_line(where, tmp_path):
    (tmp_path / "text.db").write_text("this is not a database, but a text of more than a hundred bytes " * 9)
    with pytest.raises(UserError, match="cannot be opened") as error:
        open_storage(where.format(tmp=tmp_path))
    assert "\n" not in str(error.value)


def test_a_url_and_a_path_open_the_same_file(tmp_path):
    optuna.create_study(study_name="s", storage=open_storage(tmp_path / "a.db"))
    assert optuna.load_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path / 'a.db'}")).trials == []


def test_workers_that_start_at_the_same_moment_make_the_tables_once(tmp_path):
    program = ("import sys, optuna; from pocketbert.search.storage import open_storage\n"
               "sys.stdin.read()\n"
               "optuna.create_study(study_name='s', storage=open_storage(sys.argv[1]), load_if_exists=True).ask()")
    workers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "a.db")], stdin=subprocess.PIPE,
                                stderr=subprocess.PIPE, cwd=ROOT) for _ in range(3)]
    for worker in workers:
        worker.stdin.close()
        worker.stdin = None
    errors = [worker.communicate()[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], errors
    assert len(optuna.load_study(study_name="s", storage=open_storage(tmp_path / "a.db")).trials) == 3


def test_of_many_workers_that_ask_at_once_each_gets_a_waiting_trial_of_its_own(tmp_path):
    study = optuna.create_study(study_name="s", storage=open_storage(tmp_path / "s.db"))
    for i in range(24):
        study.enqueue_trial({"x": float(i)})

    def worker(_):
        mine = optuna.load_study(study_name="s", storage=open_storage(tmp_path / "s.db"))
        return [mine.ask().number for _ in range(6)]

    with ThreadPoolExecutor(4) as pool:
        numbers = [number for asked in pool.map(worker, range(4)) for number in asked]
    assert sorted(numbers) == list(range(24))


def test_a_worker_that_starts_a_trial_later_has_another_seed_than_the_next_process(study, monkeypatch):
    seeds = set()
    for _ in range(3):
        for process in range(100, 103):
            monkeypatch.setattr(storage_module.os, "getpid", lambda process=process: process)
            seeds.add(worker_seed(0, study, shared=True))
        study.ask()
    assert len(seeds) == 9 and worker_seed(-1, study, shared=False) == worker_seed(-1, study, shared=False)
