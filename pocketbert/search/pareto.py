"""One trial of `search.py pareto`: make a candidate, put it into every form, measure each.

The forms that cost no training are applied to each trained candidate:

    fp32          the folder as it was trained
    int8          torch's dynamic int8, for encoders
    onnx          the graph for ONNX Runtime
    onnx-int8     the graph with int8 matrices and word vectors
"""

import contextlib
import importlib.util
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch

from pocketbert.errors import TrainingDiverged
from pocketbert.evaluation.budget import SCORES
from pocketbert.models.folder import save_model
from pocketbert.models.sparse import to_dense
from pocketbert.models.surgery import keep_layers, slice_model
from pocketbert.search.candidates import EPOCHS, OF_ENCODERS, command_of, name_of, sizes_of, spread_layers, suggest
from pocketbert.search.measure import Bench, measure, meets_costs
from pocketbert.search.storage import this_worker
from pocketbert.search.study import expected_seconds, records, values_of

STUDENT_FORMS = ("fp32", "onnx", "onnx-int8")
ENCODER_FORMS = ("fp32", "int8", "onnx-int8")


class OutOfTime(Exception):
    """A trial would end after the deadline. It fails, and the next run of the search tries it again."""


@dataclass
class Task:
    """What all trials of a search have in common."""

    out: Path
    bench: Bench
    conditions: list            # of the budget
    kinds: list[str]            # of candidates
    scripts: dict               # {"distill": distill.main, ...}
    open_student: object        # recipe -> (untrained model, tokenizer)
    teacher: str                # the folder
    labeller: str               # the folder that labels texts: the teacher, or the teacher in int8 where that is faster
    data: list[str]             # flags that name the data
    texts: list[str]            # --augment, --unlabelled
    deadline: float = math.inf  # time.monotonic() at which the last training must have ended
    is_over: bool = False       # set when no time is left

    @property
    def depth(self):
        return len(self.bench.teacher.model.layers)


def forms_of(kind):
    """The forms that are tried for a kind of candidate; those of ONNX Runtime only where it is installed."""
    forms = ENCODER_FORMS if kind in OF_ENCODERS else STUDENT_FORMS
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        return forms
    return tuple(form for form in forms if not form.startswith("onnx"))


def try_candidate(trial, task):
    """The objective of the study: (macro-F1, log ms, log MB) of a candidate in its best affordable form."""
    begin = time.monotonic()
    candidate, epochs = suggest(trial, task.kinds)
    for name, value in (("candidate", candidate), ("epochs", epochs), ("worker", this_worker())):
        trial.set_user_attr(name, value)
    if begin + expected_seconds(trial.study, candidate, epochs) > task.deadline:
        task.is_over = True
        raise OutOfTime
    if is_known(candidate, epochs, trial):
        raise optuna.TrialPruned
    if epochs == EPOCHS[candidate["kind"]][0] and not can_be_afforded(candidate, task):
        trial.set_user_attr("affordable", False)
        print(f"trial {trial.number}: {name_of(candidate, epochs)}: too large or too slow in every form; not trained",
              flush=True)
        raise optuna.TrialPruned
    try:
        rows = rows_of(candidate, epochs, task)
    except TrainingDiverged as error:  # a result as well: these values are bad
        print(f"trial {trial.number}: {name_of(candidate, epochs)}: {error}", flush=True)
        raise optuna.TrialPruned from None
    affordable = [row for row in rows if meets_costs(row, task.conditions, task.bench)]
    trial.set_user_attr("rows", rows)
    trial.set_user_attr("affordable", bool(affordable))
    best = max(affordable or rows, key=lambda row: row["macro_f1"])
    print(f"trial {trial.number}: {name_of(candidate, epochs)}: {best['form']} keeps {best['keep']:.1%}, "
          f"{best['size_mb']:.2f} MB, {best['ms_1']:.3f} ms, {time.monotonic() - begin:.0f} s"
          + ("" if affordable else ", above the budget's costs"), flush=True)
    return values_of(rows, affordable)


def is_known(candidate, epochs, trial):
    """Was this candidate trained already, or one of the same sizes too large or too slow?"""
    for other in records(trial.study, before=trial.number):
        if (other["candidate"], other["epochs"]) == (candidate, epochs) and other["rows"]:
            return True
        if other["affordable"] is False and not other["rows"] and sizes_of(other["candidate"]) == sizes_of(candidate):
            return True
    return False


def rows_of(candidate, epochs, task):
    """Train a candidate, unless an earlier run has; then the row of each of its forms."""
    folder = task.out / "models" / name_of(candidate, epochs)
    teacher = task.teacher if candidate["kind"] in OF_ENCODERS else task.labeller
    script, argv = command_of(candidate, epochs, teacher, task.depth, str(folder), task.data, task.texts)
    run_once(script, argv, folder, task)
    return measure_forms(folder, forms_of(candidate["kind"]), task)


def run_once(script, argv, folder, task):
    """Call a script's main, unless its folder is whole; what it prints goes to OUT/log.txt."""
    if not (folder / "run.json").is_file():
        with open(task.out / "log.txt", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            print(f"--- {script}.py {' '.join(argv)}", flush=True)
            task.scripts[script](argv)


def measure_forms(folder, forms, task):
    """[row] of a model folder in each of the forms; those that need another file get a folder beside it."""
    rows = []
    for form in forms:
        target = folder
        if form != "fp32":
            target = folder.with_name(f"{folder.name}-{form}")
            run_once("quantize", form_argv(form, folder, target), target, task)
        rows.append(measure(str(target), form, task.bench))
    return rows


def form_argv(form, folder, target):
    """The command line of quantize.py."""
    where = ["--model", str(folder), "--out", str(target)]
    return [*where, "--force"] if form == "int8" else ["export", *where, "--format", form]


def rows_here(trials, out):
    """The rows of trials (study.records), with their folders in OUT/models: another worker may have another OUT."""
    return [row | {"folder": str(out / "models" / Path(row["folder"]).name)} for trial in trials
            for row in trial["rows"]]


def bring_here(row, trials, task):
    """Train and convert the model of a row, if another worker's OUT has it and not this one."""
    name = Path(row["folder"]).name
    for trial in trials:
        if any(Path(other["folder"]).name == name for other in trial["rows"]):
            return rows_of(trial["candidate"], trial["epochs"], task)


# ---- before training -------------------------------------------------------------------------------------

def can_be_afforded(candidate, task):
    """Would one form of a candidate meet the costs of the budget? Its size and time do not depend on training."""
    if all(condition.word in SCORES for condition in task.conditions):
        return True
    folder = task.out / "models" / f"untrained-{'-'.join(map(str, this_worker()))}"
    try:
        model, tokenizer = untrained(candidate, task)
        save_model(model, tokenizer, folder, run={"script": "search.py"})
        rows = measure_forms(folder, forms_of(candidate["kind"]), task)
        return any(meets_costs(row, task.conditions, task.bench) for row in rows)
    finally:
        for path in folder.parent.glob(f"{folder.name}*"):
            shutil.rmtree(path, ignore_errors=True)


def untrained(candidate, task):
    """(model, tokenizer) with the sizes of a candidate."""
    teacher = task.bench.teacher
    if candidate["kind"] == "layers":
        return keep_layers(to_dense(teacher.model), spread_layers(task.depth, candidate["share"])), teacher.tokenizer
    if candidate["kind"] == "pruned":
        return cut(to_dense(teacher.model), candidate["share"]), teacher.tokenizer
    return task.open_student(candidate)


def cut(model, share):
    """The model with the first `share` of the heads and neurons of each layer."""
    def masks(counts):
        return [(torch.arange(count) < round(share * count)).float() for count in counts]
    return slice_model(model, masks(model.config.num_heads), masks(model.config.intermediate_sizes)).eval()
