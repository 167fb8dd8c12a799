"""The Optuna study of `search.py pareto`: its storage, its trials as plain records, what is tried next.

A trial is a candidate that is trained for one number of epochs. What it has found is in its user attributes:

    candidate, epochs    see candidates.py
    rows                 scores and costs of each form of its model, see measure.py; [] if it was not trained
    affordable           does one form meet the costs of the budget? Not there while nobody knows
    worker               [host, process number]

The values that Optuna sees are (macro-F1, log milliseconds for one text, log megabytes) of its best affordable form.
"""

import math
import warnings

import optuna
from optuna.trial import TrialState

from pocketbert.search.candidates import EPOCHS, FIRST, as_params
from pocketbert.search.halving import next_promotion
from pocketbert.search.storage import fail_lost_trials, worker_seed

DIRECTIONS = ["maximize", "minimize", "minimize"]
STARTUP_TRIALS = 10  # before the sampler has a model of the space


def open_study(storage, name, kinds, seed):
    """The study of this name in an Optuna storage, which is made and given the first candidates if it is not there.

    storage: of optuna.storages    kinds: which kinds of candidates are tried
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=name, storage=storage, directions=DIRECTIONS, load_if_exists=True)
    is_new = not study.trials
    repeat_failed_trials(study)
    for candidate in FIRST:
        if candidate["kind"] in kinds:
            enqueue(study, candidate, EPOCHS[candidate["kind"]][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls three arguments experimental
        sampler = optuna.samplers.TPESampler(seed=seed if is_new else worker_seed(seed, study, True),
                                             n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True,
                                             constant_liar=True)
        lowest = {f"{kind}.epochs": EPOCHS[kind][0] for kind in kinds}
        study.sampler = optuna.samplers.PartialFixedSampler(lowest, sampler)
    return study


def same_teacher(study, row):
    """The teacher's row of the first run of a search: all milliseconds are measured in it."""
    if "teacher" not in study.user_attrs:
        study.set_user_attr("teacher", row)
    return study.user_attrs["teacher"]


def enqueue(study, candidate, epochs):
    """Let the next free worker train this candidate, unless it was or will be trained."""
    study.enqueue_trial(as_params(candidate, epochs), user_attrs={"candidate": candidate, "epochs": epochs},
                        skip_if_exists=True)


def repeat_failed_trials(study):
    """What a killed process has left running, and what failed for lack of time, is tried again.

    Nothing is lost: what had been trained is in the candidate's folder.
    """
    fail_lost_trials(study)
    there = [(trial["candidate"], trial["epochs"]) for trial in records(study)]
    for trial in study.get_trials(states=[TrialState.FAIL]):
        again = trial.user_attrs.get("candidate"), trial.user_attrs.get("epochs")
        if again[0] and again not in there:
            there.append(again)
            study.enqueue_trial(as_params(*again), user_attrs={"candidate": again[0], "epochs": again[1]})


def records(study, before=None):
    """The trials that count, as the dictionaries that halving.py wants. before: only those with a smaller number"""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING,
                                                      TrialState.WAITING])
    return [{"candidate": trial.user_attrs["candidate"], "epochs": trial.user_attrs["epochs"],
             "rows": trial.user_attrs.get("rows", []), "affordable": trial.user_attrs.get("affordable")}
            for trial in trials if "candidate" in trial.user_attrs and (before is None or trial.number < before)]


def num_tried(study):
    """How many trials have ended, with a model or without."""
    return len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]))


def promote(study):
    """Enqueue the promising candidate whose turn it is to be trained further, if there is one."""
    if promotion := next_promotion(records(study)):
        enqueue(study, *promotion)


def values_of(rows, affordable_rows):
    """What Optuna sees of a trial: of its affordable forms, or of all if there are none, the best one."""
    row = max(affordable_rows or rows, key=lambda row: (row["macro_f1"], -row["size_mb"]))
    return row["macro_f1"], math.log(row["ms_1"]), math.log(row["size_mb"])


def expected_seconds(study, candidate, epochs):
    """How long a trial will take, by the slowest finished one of its kind and its number of epochs; 0: nobody knows."""
    seconds = 0.0
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        if trial.user_attrs["candidate"]["kind"] == candidate["kind"]:
            share = (1 + epochs) / (1 + trial.user_attrs["epochs"])
            seconds = max(seconds, share * trial.duration.total_seconds())
    return seconds
