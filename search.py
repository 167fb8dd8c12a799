"""Search the hyper-parameters of a verb with Optuna: which learning rate, batch size, dropout ... scores best?

Each trial is one call of the verb's own main() with flags that a sampler suggests; what it reports back is the
validation macro-F1 after every epoch. TPE (Bergstra et al. 2011) learns from finished trials where good values
lie; a median pruner stops a trial that is worse, at the same epoch, than half of those before it.

    python search.py train --trials 20 --minutes 30 --out runs/search \
        --model sentence-transformers/all-MiniLM-L6-v2 --data tweet_sentiment_extraction --epochs 2
    python search.py distill --trials 10 --teacher runs/demo/teacher --student scratch:layers=2,hidden=64 --data demo \
        --out runs/search-student

All further flags go to the verb as they are; one that the search would suggest is then held fixed. The study is
kept in OUT/study.db: a killed search goes on where it stopped when the same command is given again. Like every
choice, this one is made on validation texts; the test split is not touched.
"""

import contextlib
import shlex
import shutil
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
from optuna.trial import TrialState

import distill
import prune
import train
from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.errors import UserError
from pocketbert.files import move_files, read_json
from pocketbert.hub import repository
from pocketbert.models.config import EncoderConfig
from pocketbert.models.folder import FOLDER_FILES, check_out
from pocketbert.models.recipes import RECIPES, recipe_depth

VERBS = {"train": train, "prune": prune, "distill": distill}

# The search space, a line a flag: change a line to search elsewhere. `depth` is the model's number of layers.
SPACE = {
    "--lr": lambda trial, depth: trial.suggest_float("lr", 1e-5, 2e-3, log=True),
    "--batch-size": lambda trial, depth: trial.suggest_categorical("batch-size", [16, 32, 64]),
    "--weight-decay": lambda trial, depth: trial.suggest_float("weight-decay", 1e-4, 0.1, log=True),
    "--warmup": lambda trial, depth: trial.suggest_float("warmup", 0.0, 0.3),
    "--dropout": lambda trial, depth: trial.suggest_float("dropout", 0.0, 0.3),
    "--freeze": lambda trial, depth: trial.suggest_int("freeze", 0, max(0, depth - 1)),
}


def depth_of(args):
    """How many layers the model to be trained has."""
    name = getattr(args, "student", None) or args.model
    if name.split(":")[0] in (*RECIPES, "teacher"):
        depth = recipe_depth(name)
        if depth is not None:
            return depth
        name = args.teacher[0]  # teacher:hidden=128 keeps all layers
    config = repository(name)("config.json")
    if config is None:
        raise FileNotFoundError(f"{name} has no config.json: it is not a model folder")
    return len(EncoderConfig.from_hf(read_json(config), name).num_heads)


def flag_text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run_trial(trial, verb, fixed, depth, out, deadline):
    """One call of the verb. Returns the validation macro-F1 of its result, the model folder OUT/trial."""
    suggested = [part for flag, choose in SPACE.items() if flag not in fixed
                 for part in (flag, flag_text(choose(trial, depth)))]
    argv = [*fixed, *suggested, "--out", str(out / "trial")]
    trial.set_user_attr("argv", [*fixed, *suggested])
    history = []

    def after_epoch(epoch, scores):
        history.append(scores["macro_f1"])
        trial.report(scores["macro_f1"], len(history))
        if trial.should_prune():
            raise optuna.TrialPruned

    minutes = max(0.01, (deadline - time.monotonic()) / 60)
    with open(out / "trials.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        print(f"--- trial {trial.number}: {shlex.join(argv)}")
        try:
            VERBS[verb].main([*argv, "--minutes", f"{minutes:.3f}"], after_epoch)
        except FloatingPointError as error:  # a loss that explodes is an answer, too: not with these values
            print(error)
            raise optuna.TrialPruned from None
    if not history:
        raise UserError("no epoch was trained: --epochs must be above 0")
    return read_json(out / "trial" / "run.json")["validation"]["macro_f1"]  # of the model that was saved


def keep_if_best(study, trial, out):
    """After each trial: a line, and the model of the best trial so far becomes OUT/best."""
    score = f"macro-F1 {trial.value:.4f}" if trial.value is not None else ""
    values = ", ".join(f"{name} {flag_text(value)}" for name, value in trial.params.items())
    best = trial.state == TrialState.COMPLETE and study.best_trial.number == trial.number
    print(f"trial {trial.number}: {trial.state.name.lower()} {score} ({values})" + (" *" if best else ""), flush=True)
    if best:
        move_files(out / "trial", out / "best", FOLDER_FILES, last="run.json")
    shutil.rmtree(out / "trial", ignore_errors=True)


def open_study(out, seed, settings):
    """The study of OUT/study.db, new or left by an earlier run; a different command in the same folder is an error."""
    name = f"sqlite:///{out / 'study.db'}"
    study = optuna.create_study(study_name="search", storage=name, direction="maximize", load_if_exists=True)
    earlier = study.user_attrs.get("settings", settings)
    if earlier != settings:
        raise UserError(f"{out} holds the search of another command ({earlier}): give another --out")
    study.set_user_attr("settings", settings)
    for trial in study.get_trials(states=[TrialState.RUNNING]):  # killed in the middle
        study.tell(trial.number, state=TrialState.FAIL)
    # A resumed sampler must not draw the same numbers again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=5)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    return study


def finished(study):
    return [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def draw(study, out):
    """The study's pictures: how it went, what each parameter did and which ones mattered."""
    plt.switch_backend("Agg")  # draws into files and needs no screen
    plots = optuna.visualization.matplotlib
    pictures = {"history.png": plots.plot_optimization_history, "slices.png": plots.plot_slice,
                "epochs.png": plots.plot_intermediate_values}
    if len([t for t in study.trials if t.state == TrialState.COMPLETE]) > 2:
        pictures["importances.png"] = plots.plot_param_importances
    for name, plot in pictures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna's "experimental", matplotlib's axis with a single value
            plot(study)
        figure = plt.gcf()
        if name == "slices.png":
            figure.set_size_inches(3.2 * max(2, len(figure.axes) - 1), 4)
        figure.savefig(out / name, dpi=110, bbox_inches="tight")
        plt.close(figure)
    return list(pictures)


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("verb", choices=list(VERBS), help="whose main() a trial calls")
    parser.add_argument("--trials", type=positive_int, default=20, help="in all, those of earlier runs included")
    parser.add_argument("--minutes", type=float, default=30, help="stop searching after this long; 0: no limit")
    parser.add_argument("--out", default="runs/search", help="the folder for study.db, the best model, the pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler and of every trial")
    args, rest = parser.parse_known_args(argv)
    flags = [part.partition("=") for part in rest]  # --lr=1e-4 is --lr 1e-4
    args.fixed = [part for flag, _, value in flags for part in ((flag, value) if value and flag[:2] == "--" else
                                                                (flag + _ + value,))] + ["--seed", str(args.seed)]
    return args


def main(argv=None):
    args = parse_args(argv)
    out = Path(args.out)
    check = VERBS[args.verb].parse_args([*args.fixed, "--out", str(out / "trial")])  # a wrong flag stops here
    out.mkdir(parents=True, exist_ok=True)
    check_out(out / "trial")
    depth = depth_of(check)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(out, args.seed, shlex.join([args.verb, *args.fixed]))
    if done := len(finished(study)):
        print(f"going on with {out / 'study.db'}: {done} trials are done")
    deadline = time.monotonic() + 60 * (args.minutes or 1e9)
    while len(finished(study)) < args.trials and time.monotonic() < deadline:
        study.optimize(lambda trial: run_trial(trial, args.verb, args.fixed, depth, out, deadline), n_trials=1,
                       callbacks=[lambda study, trial: keep_if_best(study, trial, out)])
    if not study.get_trials(states=[TrialState.COMPLETE]):
        raise UserError(f"no trial finished within --minutes {args.minutes:g}; give it more time")
    pictures = draw(study, out)
    best = study.best_trial
    command = shlex.join(["python", f"{args.verb}.py", *best.user_attrs["argv"], "--out", str(out / "again")])
    print(f"best of {len(finished(study))} trials: number {best.number}, macro-F1 {best.value:.4f}, "
          f"kept in {out / 'best'}\npictures in {out}: {', '.join(pictures)}\n{command}")


if __name__ == "__main__":
    run_script(main)
