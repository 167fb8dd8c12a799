"""Successive halving: train every candidate a little, and only the promising ones to the end.

Candidates are trained for the first number of epochs in their list (rung 0). Whenever a rung has three times as many
finished candidates as have left it upwards, the best one that is still there goes on to the next number of epochs. No
worker waits for another (ASHA: Li et al. 2020, arXiv:1810.05934, with a reduction factor of 3).

Promising is a candidate of whose forms one meets the costs of the budget and is on the Pareto front of its rung; of
several, the one with the best score goes first.
"""

from pocketbert.search.candidates import EPOCHS
from pocketbert.search.front import front_of

KEEP_ONE_OF = 3


def rung_of(trial):
    """On which rung a finished trial stands: the place of its epochs in the list of its kind."""
    return EPOCHS[trial["candidate"]["kind"]].index(trial["epochs"])


def next_promotion(trials):
    """(candidate, epochs) to train next, or None: rather a new candidate.

    trials: [{"candidate", "epochs", "rows", "affordable"}], finished, running or waiting. rows: the scores and costs of
    each form of its model ([] while it is not finished)    affordable: does a form meet the costs of the budget?
    """
    for rung in reversed(range(max(map(len, EPOCHS.values())) - 1)):
        here = [trial for trial in trials if rung_of(trial) == rung and trial["rows"]]
        above = [trial["candidate"] for trial in trials if rung_of(trial) == rung + 1]
        if len(above) >= len(here) // KEEP_ONE_OF:
            continue
        waiting = [trial for trial in here if trial["candidate"] not in above and trial["affordable"]
                   and rung + 1 < len(EPOCHS[trial["candidate"]["kind"]])]
        if promising := best_of(waiting, here):
            candidate = promising["candidate"]
            return candidate, EPOCHS[candidate["kind"]][rung + 1]
    return None


def best_of(waiting, rung):
    """The trial with the best score among the waiting ones that are on the front of their rung; None: there is none."""
    front = front_of([row for trial in rung if trial["affordable"] for row in trial["rows"]])
    promising = [trial for trial in waiting if any(row in front for row in trial["rows"])]
    return max(promising, key=best_score, default=None)


def best_score(trial):
    return max(row["macro_f1"] for row in trial["rows"])
