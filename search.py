"""Search the hyper-parameters of a script with Optuna: which learning rate, batch size, dropout ... scores best?

A trial is one call of the main() of train.py, prune.py or distill.py with flags that a sampler suggests. Its score is
the validation macro-F1 of the model that it saves. Two ideas save time:

    TPE              suggests values like those of the better finished trials (Bergstra et al. 2011, "Algorithms for
                     Hyper-Parameter Optimization")
    median pruning   stops a trial whose best epoch so far is worse than the median of the earlier trials at that epoch

    python search.py train --trials 20 --minutes 30 --out runs/search \\
        --model sentence-transformers/all-MiniLM-L6-v2 --data tweet_sentiment_extraction --epochs 2
    python search.py distill --trials 10 --out runs/search-student --teacher runs/demo/teacher \\
        --student bag:ngrams=3,embedding=32,hidden=32,buckets=8192 --data demo --unlabelled demo:unlabelled --epochs 3
    python search.py prune weights --sparsity 0.9 --trials 10 --out runs/search-sparse --model runs/demo/teacher \\
        --data demo --epochs 3

What is searched is in pocketbert/search/spaces/SCRIPT.toml, or in --space FILE. All other flags go to the script as
they are; a flag that is given is not searched. The study is kept in OUT/study.db, or with --storage in a database,
where several workers share the trials. The same command continues a search that was stopped, if the data and the models
are still the same. Validation texts decide; the test split is not read.
"""

import contextlib
import fcntl
import hashlib
import inspect
import os
import shlex
import shutil
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
from optuna.trial import TrialState

import distill
import evaluate
import prune
import quantize
import train
from data_utils import align_labels, load_dataset, open_data, unlabelled_texts
from model_utils import load_model, open_model
from pocketbert.cli import add_common_flags, nonnegative_float, nonnegative_int, parser_for, positive_int, run_script
from pocketbert.errors import TrainingDiverged, UserError
from pocketbert.evaluation.budget import WORDS, budget
from pocketbert.evaluation.cascade_report import halves
from pocketbert.evaluation.opening import open_models
from pocketbert.files import locked, read_json, replacing_files, write_json
from pocketbert.hub import repository
from pocketbert.models.config import EncoderConfig
from pocketbert.models.device import seed_everything
from pocketbert.models.encoder import Encoder
from pocketbert.models.folder import FOLDER_FILES, is_pretrained_only, parent_of
from pocketbert.models.recipes import RECIPES, recipe_depth
from pocketbert.models.recurrent_config import RecurrentConfig
from pocketbert.models.size import file_bytes
from pocketbert.search.candidates import EPOCHS, OF_ENCODERS, recipe_of
from pocketbert.search.end import (
    choose,
    explain_miss,
    front_rows,
    front_table,
    keep_best,
    to_measure_again,
    write_front,
)
from pocketbert.search.measure import make_bench
from pocketbert.search.pareto import OutOfTime, Task, bring_here, rows_here, try_candidate
from pocketbert.search.space import (
    SPACES,
    flag_text,
    given_flags,
    open_part,
    read_space,
    suggest_values,
    with_values,
)
from pocketbert.search.storage import (
    begun,
    check_settings,
    claim_study,
    fail_lost_trials,
    open_storage,
    this_worker,
    worker_seed,
)
from pocketbert.search.study import num_tried, promote, records, same_teacher
from pocketbert.search.study import open_study as open_pareto_study

SCRIPTS = {"train": train, "prune": prune, "distill": distill}
FINISH = 0.1  # share of the minutes of `pareto` for the last measurement


class Surplus(Exception):
    """Another worker has begun the last trial: this one is not needed, and counts as failed."""


def space_file(script, fixed):
    """The file with the space of a script; `prune.py weights` has its own. fixed: its command line"""
    return SPACES / f"{'prune-weights' if fixed[:1] == ['weights'] else script}.toml"


def read_depth(given):
    """How many layers the model that will be trained has. given: {flag: value} of the script."""
    name = given.get("student") or given["model"]
    if name.split(":")[0] in (*RECIPES, "teacher"):
        depth = recipe_depth(name)
        if depth is not None:
            return depth
        name = given["teacher"][0]  # teacher:hidden=128 keeps all layers
    path = repository(name)("config.json")
    if path is None:
        raise FileNotFoundError(f"{name} has no config.json: it is not a model folder")
    values = read_json(path)
    if str(values.get("model_type")).startswith("pocketbert-"):
        return RecurrentConfig.from_hf(values, f"{name}/config.json").num_layers
    return len(EncoderConfig.from_hf(values, f"{name}/config.json").num_heads)


def run_trial(trial, script, flags, out, deadline, max_mb):
    """Call the script's main once; it writes OUT/trial-NUMBER. Returns the validation macro-F1 of the model in it.

    flags: its command line without --out    deadline: time.monotonic() at which it must have stopped
    max_mb: a larger model is no result; None: any size is
    """
    trial.set_user_attr("flags", flags)
    folder = trial_folder(out, trial.number)
    minutes = max(0.01, (deadline - time.monotonic()) / 60)
    argv = [*flags, "--out", str(folder), "--minutes", f"{minutes:.3f}", "--checkpoint-steps", "0"]
    scores_so_far = []

    def after_epoch(epoch, scores):
        # Counted here, because a script with several rounds of training (prune.py --steps) starts again at epoch 1.
        scores_so_far.append(scores["macro_f1"])
        trial.report(scores["macro_f1"], len(scores_so_far))
        if trial.should_prune():
            # An exception is the one way out of the script's loop that needs no code there: nothing has been
            # written yet at this point, and Optuna expects this exception.
            raise optuna.TrialPruned

    with open(out / "trials.log", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        print(f"--- trial {trial.number}: {shlex.join([f'{script}.py', *argv])}")
        try:
            run = SCRIPTS[script].main(argv, after_epoch)
        except TrainingDiverged as error:  # a result as well: these values are bad
            print(error)
            raise optuna.TrialPruned from None
    size_mb = sum(file_bytes(folder).values()) / 1e6
    trial.set_user_attr("size_mb", size_mb)
    if max_mb and size_mb > max_mb:
        raise optuna.TrialPruned
    write_json(read_json(folder / "run.json") | {"trial": trial.number}, folder / "run.json")
    return run["validation"]["macro_f1"]


def trial_folder(out, number):
    return out / f"trial-{number}"


def trial_of(folder):
    """The number of the trial that wrote a model folder; None: no finished trial did."""
    path = folder / "run.json"
    return read_json(path).get("trial") if path.is_file() else None


def keep_model(source, out):
    """Copy a model folder to OUT/best."""
    with replacing_files(out / "best", FOLDER_FILES, last="run.json") as staging:
        for path in source.iterdir():
            if path.name in FOLDER_FILES:
                shutil.copyfile(path, staging / path.name)


def remove_trials(out):
    """Remove the folders of trials: the best model is in OUT/best."""
    for folder in [*out.glob("trial-*"), *out.glob(".trial-*.unfinished")]:
        shutil.rmtree(folder, ignore_errors=True)


def end_trial(study, trial, out):
    """Print a line about a finished trial. Its model becomes OUT/best if it is the best one so far."""
    if trial.state == TrialState.FAIL:  # Surplus
        return
    score = f"macro-F1 {trial.value:.4f}" if trial.value is not None else ""
    if "size_mb" in trial.user_attrs:
        score += f" {trial.user_attrs['size_mb']:.2f} MB"
    values = ", ".join(f"{name} {flag_text(value)}" for name, value in trial.params.items())
    best = trial.state == TrialState.COMPLETE and study.best_trial.number == trial.number
    print(f"trial {trial.number}: {trial.state.name.lower()} {score} ({values})" + (" *" if best else ""), flush=True)
    if best:
        keep_model(trial_folder(out, trial.number), out)
    remove_trials(out)


def read_settings(script, fixed, given):
    """What all trials of a search have in common: the command, and hashes of the data and the models that it names.

    given: {flag: value} of the script
    """
    if script == "distill":
        models = [*given["teacher"], given["student"], given["words"]]
    else:
        models = [given["model"], given.get("words")]
    models = [name for name in models if name and name.split(":")[0] not in (*RECIPES, "teacher")]  # recipes: no file
    texts = given.get("unlabelled", []) + given.get("vocab_texts", [])
    data, data_dir = given["data"], given["data_dir"]
    return {
        "command": shlex.join([script, *fixed]),
        "data": load_dataset(data, data_dir, given["text"], given["label"]).fingerprint,
        "models": {name: parent_of(name)["sha256"] for name in models},
        "texts": {name: hash_texts(unlabelled_texts(name, data_dir)[0]) for name in texts},
    }


def hash_texts(texts):
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


@contextlib.contextmanager
def search_folder(out, settings):
    """Hold the folder OUT while this process searches in it.

    It is made if it is not there. A UserError says why it cannot be used: it holds other files, another search, the
    same search on other data, or one that is running. OUT/search.json marks the folder as a search's.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        lock(handle, out)
        claim(out, "search.json", settings)
        yield
    finally:
        os.close(handle)


def claim(out, mark, settings):
    """Mark the folder OUT as that of a search with these settings, or see that it is. mark: the name of a file in it"""
    if (out / mark).is_file():
        check_settings(read_json(out / mark), settings, out)
    elif any(not path.name.startswith(".tmp.") for path in out.iterdir()):
        raise UserError(f"--out {out} holds files but no {mark}, so it is no search of ours and is left alone; name "
                        "another folder")
    else:
        write_json(settings, out / mark)


def lock(handle, out):
    """Lock an open folder until the handle is closed or this process ends, however it ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another search is running in {out}: wait for it, or give another --out") from None


def open_study(storage, name, settings, seed, out):
    """The study in a storage, which is made if it is not there, as the last process left it or its kill.

    storage: a file or a URL; None: OUT/study.db, which no other worker uses
    """
    study = optuna.create_study(study_name=name, storage=open_storage(storage or out / "study.db"),
                                direction="maximize", load_if_exists=True)
    claim_study(study, settings, storage or out)
    fail_lost_trials(study)
    if study.get_trials(states=[TrialState.COMPLETE]):
        number = study.best_trial.number
        if trial_of(trial_folder(out, number)) == number:  # killed before keep_model had finished
            keep_model(trial_folder(out, number), out)
    remove_trials(out)
    study.sampler = optuna.samplers.TPESampler(seed=worker_seed(seed, study, storage), n_startup_trials=5)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    return study


def finished_trials(study):
    return study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])


def draw(study, out):
    """Draw how the search went, what each flag did and, from three trials on, which flags mattered.

    Returns the names of the pictures.
    """
    plt.switch_backend("Agg")  # draws into files and needs no screen
    plots = optuna.visualization.matplotlib
    pictures = {"history.png": plots.plot_optimization_history, "slices.png": plots.plot_slice,
                "epochs.png": plots.plot_intermediate_values}
    if len(study.get_trials(states=[TrialState.COMPLETE])) > 2:
        pictures["importances.png"] = plots.plot_param_importances
    for name, plot in pictures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's "experimental", matplotlib's axis with a single value
            plot(study)
        figure = plt.gcf()
        if name == "slices.png":
            figure.set_size_inches(3.2 * max(2, len(figure.axes) - 1), 4)
        figure.savefig(out / name, dpi=110, bbox_inches="tight")
        plt.close(figure)
    return list(pictures)


def parse_args(argv=None):
    """(args of the search, the words of the command line that go to the script)"""
    parser = parser_for(__doc__)
    parser.add_argument("script", choices=list(SCRIPTS), help="whose main() a trial calls (prune weights: single "
                        "weights)")
    parser.add_argument("--trials", type=positive_int, default=20, help="in all, those of earlier runs and of other "
                        "workers included")
    parser.add_argument("--minutes", type=nonnegative_float, default=30,
                        help="stop searching after this long; 0: no limit")
    parser.add_argument("--space", metavar="FILE", help="what is searched: a TOML file like those in "
                        "pocketbert/search/spaces/ (default: the script's file there)")
    parser.add_argument("--max-mb", type=nonnegative_float, default=0,
                        help="a model with more 10^6 bytes, tokenizer included, is no result; 0: any size is")
    parser.add_argument("--retrain", nargs="?", const="", metavar="FLAGS", help="train the best trial's model again at "
                        "the end, into OUT/retrained, with these flags added: --retrain='--epochs 9' (default: do not)")
    parser.add_argument("--out", default="runs/search", help="the folder of this worker: its log, the best model, the "
                        "pictures")
    add_storage_flags(parser, study="search")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler and of every trial")
    args, rest = parser.parse_known_args(argv)
    fixed = []
    for word in rest:
        flag, equals, value = word.partition("=")
        fixed += [flag, value] if equals and flag.startswith("--") else [word]  # --lr=1e-4 is --lr 1e-4
    return args, [*fixed, "--seed", str(args.seed)]


def add_storage_flags(parser, study):
    """Where the workers of one search meet. study: the default of its name"""
    parser.add_argument("--storage", metavar="URL", help="an SQLite file or a database's URL, on which several workers "
                        "search together, each with an --out of its own (default: OUT/study.db)")
    parser.add_argument("--study", default=study, metavar="NAME", help="the name of the search in the storage")


def parse_script_flags(script, words, out):
    """Parse the command line that each trial gets, so that a wrong flag stops here. Returns {flag: value}."""
    given = vars(SCRIPTS[script].parse_args([*words, "--out", str(out / "trial")]))
    if not given["epochs"]:
        raise UserError("a search compares trainings: give --epochs above 0")
    if script == "distill" and (given["control"] or given["seeds"] > 1):
        raise UserError("--control and --seeds are for the values that the search has found, not for each trial: "
                        "give them to distill.py afterwards")
    return given


def main(argv=None):
    """Returns the best trial: {"number", "macro_f1", "flags", "folder"}; folder None: its model is not there."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["pareto"]:
        return main_pareto(argv[1:])
    args, fixed = parse_args(argv)
    out = Path(args.out)
    words = given_flags(fixed)
    if words.get("wandb", "disabled") != "disabled" and "wandb-group" not in words:  # one run a trial, in one group
        fixed += ["--wandb-group", f"{args.study}-{hash_texts(fixed)[:6]}"]
    space = open_part(read_space(args.space or space_file(args.script, fixed)), words)
    example = suggest_values(None, space, words, lambda values: 1)
    given = parse_script_flags(args.script, with_values(fixed, example), out)
    settings = read_settings(args.script, fixed, given) | {"space": space, "max-mb": args.max_mb}
    with search_folder(out, settings):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = open_study(args.storage, args.study, settings, args.seed, out)
        if finished_trials(study):
            print(f"going on with {args.storage or out / 'study.db'}: {len(finished_trials(study))} trials are done")
        deadline = time.monotonic() + 60 * (args.minutes or 1e9)

        def objective(trial):
            trial.set_user_attr("worker", this_worker())
            trial.set_user_attr("out", str(out.resolve()))
            if begun(study, before=trial.number) >= args.trials:
                raise Surplus
            values = suggest_values(trial, space, words, lambda values: read_depth(given | values))
            return run_trial(trial, args.script, with_values(fixed, values), out, deadline, args.max_mb)

        while begun(study) < args.trials and time.monotonic() < deadline:
            study.optimize(objective, n_trials=1, catch=(Surplus,),
                           callbacks=[lambda study, trial: end_trial(study, trial, out)])
            fail_lost_trials(study)
        if not study.get_trials(states=[TrialState.COMPLETE]):
            raise UserError(f"no trial finished within --minutes {args.minutes:g}"
                            + (f" with at most {args.max_mb:g} MB" if args.max_mb else "") + "; give it more")
        pictures = draw(study, out)
        best = end_search(study, args.script, out, pictures)
        if args.retrain is not None:
            retrain(study, args.script, [*best["flags"], *shlex.split(args.retrain)], out / "retrained")
        return best


def end_search(study, script, out, pictures):
    """Print which trial was best, and the command that trains its model again. Returns it as a dictionary."""
    best = study.best_trial
    flags = best.user_attrs["flags"]
    elsewhere = Path(best.user_attrs["out"]) / "best"  # of the worker that has made it, perhaps on another machine
    if trial_of(out / "best") != best.number and elsewhere.is_dir():
        with locked(elsewhere):
            if trial_of(elsewhere) == best.number:
                keep_model(elsewhere, out)
    kept = trial_of(out / "best") == best.number
    where = f"kept in {out / 'best'}" if kept else f"but {out / 'best'} is not its model: train it again"
    print(f"best of {len(finished_trials(study))} trials: number {best.number}, macro-F1 {best.value:.4f}, {where}")
    print(f"pictures in {out}: {', '.join(pictures)}")
    print(shlex.join(["python", f"{script}.py", *flags, "--out", str(out / "again")]))
    folder = str(out / "best") if kept else None
    return {"number": best.number, "macro_f1": best.value, "flags": flags, "folder": folder}


def retrain(study, script, flags, folder):
    """Train the best model again, with more epochs or a --control, say; interrupted, the same search goes on with it.

    The worker that ends last does it: others could find a better trial.
    """
    if study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        print("not retrained: other workers are still searching; the last one retrains, or this command once more")
        return
    command = shlex.join(["python", f"{script}.py", *flags, "--out", str(folder)])
    if (folder / "run.json").is_file() and read_json(folder / "run.json").get("command") == command:
        print(f"{folder} is the best trial's model, retrained")
        return
    print(f"--retrain: {command}", flush=True)
    SCRIPTS[script].main([*flags, "--out", str(folder)])


# ---- pareto: the smallest model that is good enough ----------------------------------------------------------

def parse_args_pareto(argv):
    parser = parser_for(inspect.getdoc(main_pareto), prog="search.py pareto")
    parser.add_argument("--teacher", required=True, help="a fine-tuned encoder, or a checkpoint to fine-tune first")
    parser.add_argument("--budget", type=budget, default="", help="what the model must keep and may cost, such as "
                        f"'keep>=0.97 ms_1<=0.5 size_mb<=2' or 'ms_1<=baseline/50'; words: {', '.join(WORDS)} "
                        "(default: none, the whole front)")
    parser.add_argument("--keep-on", choices=["point", "low"], default="point",
                        help="what `keep` means: the score itself, or the lower end of its 95 %% interval")
    parser.add_argument("--minutes", type=nonnegative_float, default=60, help="for everything")
    parser.add_argument("--trials", type=positive_int, default=1000, help="at most so many trainings in all")
    parser.add_argument("--kinds", nargs="+", choices=list(EPOCHS), default=list(EPOCHS), metavar="KIND",
                        help=f"which candidates: {', '.join(EPOCHS)}")
    parser.add_argument("--augment", type=nonnegative_int, default=4, help="new versions of each training text")
    parser.add_argument("--unlabelled", nargs="+", default=[], metavar="TEXTS",
                        help="texts for the teacher to label: files, registered datasets (default: none)")
    parser.add_argument("--out", required=True, help="the folder for the candidates, the front and best/; workers on "
                        "one machine may have the same")
    add_storage_flags(parser, study="pareto")
    parser.add_argument("--max-train", type=positive_int, help="a stratified subset of so many training rows")
    add_common_flags(parser)
    return parser.parse_args(argv)


def data_argv(given):
    """The flags with which every script finds the same data. given: {flag: value}"""
    names = ("data", "data_dir", "text", "label", "max_length", "max_train", "seed")
    return [str(part) for name in names if given[name] is not None
            for part in (f"--{name.replace('_', '-')}", given[name])]


def fine_tuned(teacher, out, data):
    """The folder of the teacher; a checkpoint without a head is fine-tuned first, as in the README's first command."""
    if not is_pretrained_only(teacher):
        return teacher
    folder = out / "teacher"
    if not (folder / "run.json").is_file():
        train.main(["--model", teacher, "--lr", "1e-4", "--epochs", "2", *data, "--out", str(folder)])
    return str(folder)


def int8_of(teacher, out, data):
    """The folder that labels texts: the teacher in int8, where that is faster here; else the teacher."""
    folder = out / "teacher-int8"
    if not (folder / "run.json").is_file():
        try:
            quantize.main(["--model", teacher, "--out", str(folder), *data])
        except UserError as error:  # slower than fp32 here
            print(f"the fp32 teacher labels the texts: {error}")
            return teacher
    return str(folder)


def main_pareto(argv):
    """Find the cheapest model that is good enough: students of several kinds, sizes and forms, each measured.

    One half of the validation texts chooses, the other half reports: the best of many on some texts is partly lucky
    there. A budget has no model inside it: exit code 3, and the nearest models. Optuna suggests the candidates
    (pocketbert/search/candidates.py), successive halving decides which are trained to the end (halving.py). The same
    command goes on after a kill, and several at once share the work.

        python search.py pareto --teacher runs/demo/teacher --data demo --unlabelled demo:unlabelled \\
            --budget "keep>=0.97 size_mb<=0.5" --minutes 5 --out runs/demo/pareto
    """
    args = parse_args_pareto(argv)
    out = Path(args.out)
    deadline = time.monotonic() + 60 * (args.minutes or 1e9)
    seed_everything(args.seed)
    training = data_argv(vars(args))
    texts = ["--augment", str(args.augment), *(["--unlabelled", *args.unlabelled] if args.unlabelled else [])]
    settings = {"command": shlex.join(["pareto", args.teacher, *training, *texts, *args.kinds]),
                "data": load_dataset(args.data, args.data_dir, args.text, args.label).fingerprint,
                "models": {args.teacher: parent_of(args.teacher)["sha256"]},
                "texts": {name: hash_texts(unlabelled_texts(name, args.data_dir)[0]) for name in args.unlabelled}}
    out.mkdir(parents=True, exist_ok=True)

    # 1. The teacher, and the two halves of the validation texts
    with locked(out):  # of workers that start at once, one makes these folders, and the others wait
        claim(out, "pareto.json", settings)
        teacher = fine_tuned(args.teacher, out, training)
        labeller = int8_of(teacher, out, training)
    data = open_data(args.data, args.data_dir, args.text, args.label, args.max_train, args.seed)
    data = align_labels(data, load_model(teacher)[0].config.label_names)
    choosing, reporting = halves(data.validation)
    print(f"{len(choosing):,} validation texts choose, {len(reporting):,} report")
    bench = make_bench(teacher, choosing, data.label_names, evaluate.latencies, evaluate.paired_bootstrap,
                       wants_memory=any(condition.word == "memory_mb" for condition in args.budget))
    kinds = [kind for kind in args.kinds if kind not in OF_ENCODERS or isinstance(bench.teacher.model, Encoder)]
    print(f"teacher: macro-F1 {bench.row['macro_f1']:.4f}, {bench.row['size_mb']:.1f} MB, {bench.row['ms_1']:.2f} ms")
    task = Task(out, bench, args.budget, kinds,
                {"distill": distill.main, "prune": prune.main, "quantize": quantize.main},
                lambda candidate: open_model(recipe_of(candidate, 0), data)[:2], teacher, labeller,
                training, texts)

    # 2. Candidates, until the time is over
    with locked(out):
        study = open_pareto_study(open_storage(args.storage or out / "study.db"), args.study, kinds, args.seed)
        claim_study(study, settings, args.storage or out)
    bench.row = same_teacher(study, bench.row)
    task.deadline = deadline - FINISH * 60 * args.minutes
    while num_tried(study) < args.trials and not task.is_over:
        promote(study)
        study.optimize(partial(try_candidate, task=task), n_trials=1, catch=(OutOfTime,))

    # 3. The choice on one half, the report on the other
    rows = rows_here(records(study), out)
    if args.keep_on == "low":
        rows = [row | {"keep": row["keep_low"]} for row in rows]
    chosen = choose(rows, args.budget, bench.row)
    if chosen and not Path(chosen["folder"]).is_dir():
        print(f"training {chosen['folder']}, which another worker has found")
        bring_here(chosen, records(study), task)
    front = [row for row in to_measure_again(rows, chosen) if Path(row["folder"]).is_dir()]
    if front:
        models = open_models([teacher, *(row["folder"] for row in front)], ["teacher", *(
            Path(row["folder"]).name for row in front)], args.device)
        results = evaluate.compare(models, replace(data, validation=reporting), split="validation", baseline="teacher",
                                   quick=True, references=[])
        found = front_rows(front, results)
        write_front(found, rows, results, out)
        print("\n" + front_table(found) + "\n")
    if not chosen:
        raise explain_miss(rows, args.budget, bench.row, f"{out / 'front.csv'} has the whole front; give it more "
                           "--minutes, more --unlabelled texts or a larger budget")
    [row] = [row for row in found if row["folder"] == chosen["folder"]]
    best = keep_best(chosen, row, out)
    print(f"{best}: {row['model']}, {row['size_mb']:.2f} MB, {row['speedup_1']:.1f} x faster for one text; keeps "
          f"{row['keep']:.1%} of the teacher's macro-F1 on texts that did not choose it")
    print(f"made again by: bash {shlex.quote(str(best / 'rebuild.sh'))} NEW_FOLDER")
    return row


if __name__ == "__main__":
    run_script(main)
