"""Measure models side by side: quality, bytes, milliseconds, each with its uncertainty. Or label new texts.

    python evaluate.py runs/demo/* --data demo --out runs/report
    python evaluate.py runs/demo/* --test labelled.csv --out runs/report
    python evaluate.py runs/demo/* --data demo --out runs/report --gate "keep>=0.97 ms_1<=2 size_mb<=5"
    python evaluate.py cascade runs/demo/student runs/demo/teacher --data demo --out runs/cascade --max-drop 0.005
    python evaluate.py predict --model runs/demo/student "not a fan of the new app, sadly"
    python evaluate.py predict --model runs/demo/student --input tweets.csv --text text --out labels.jsonl
    python evaluate.py card runs/demo/student
    python evaluate.py push runs/demo/student org/name

The rules of the table:
- The test split is scored here and nowhere else. Without a labelled test file the validation texts are scored, and
  the report says so. `--test FILE` scores all rows of a labelled file of your own.
- Size is the bytes of the files.
- Times are medians of runs in which the models take turns, on real texts that are not padded to a maximum length,
  of the model alone and from raw strings.
- Every difference from the baseline has a paired bootstrap interval (in points of macro-F1), McNemar's exact p-value
  and a verdict in words, which is corrected for the number of models that are compared with the baseline.
- What costs next to nothing is a row, too: the most frequent class, and TF-IDF with a logistic regression.
"""

import argparse
import inspect
import random
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_utils import Dataset, align_labels, load_test_file, open_data
from model_utils import text_length
from pocketbert.cli import (
    add_common_flags,
    parser_for,
    positive_int,
    refuse_idle_flags,
    run_script,
    unit_interval,
)
from pocketbert.data.build import fingerprint
from pocketbert.data.rows import STEMS, files_called
from pocketbert.data.splits import Split
from pocketbert.data.tables import read_texts
from pocketbert.errors import BudgetMissed, UserError
from pocketbert.evaluation.answers import Answerer, check_files, row_chunks, write_answers
from pocketbert.evaluation.budget import WORDS, budget
from pocketbert.evaluation.card import push, write_card
from pocketbert.evaluation.cascade import cascade_predict, choose_threshold
from pocketbert.evaluation.cascade_report import (
    BULK_TEXTS,
    cascade_table,
    choosing_and_measuring,
    ready_batches,
    score_ready,
    score_rows,
    spread_rows,
    time_columns,
    times_in_turn,
    write_cascade,
)
from pocketbert.evaluation.cascade_report import remarks as cascade_remarks
from pocketbert.evaluation.columns import (
    Answers,
    difference_columns,
    folder_columns,
    folder_names,
    full_columns,
    hurt_columns,
    judge,
    score_columns,
    size_columns,
    speed_columns,
    time_other_threads,
)
from pocketbert.evaluation.differences import interval
from pocketbert.evaluation.gate import check_gate
from pocketbert.evaluation.metrics import confusion_counts, macro_f1, mcnemar
from pocketbert.evaluation.model_warnings import warnings_of
from pocketbert.evaluation.opening import FromText, model_folders, open_models, short_names
from pocketbert.evaluation.references import reference_models
from pocketbert.evaluation.report import remarks, results_table, write_metrics, write_report
from pocketbert.evaluation.resources import EnergyMeter
from pocketbert.evaluation.results import ModelResult, Results
from pocketbert.evaluation.slices import read_predicates, slices_of
from pocketbert.evaluation.stream import StreamLines
from pocketbert.hardware import hardware, synchronize
from pocketbert.models.classifier import Classifier
from pocketbert.provenance import now

DRAWS = 2000                # of the bootstrap


def bootstrap(labels, predictions, num_labels, draws=DRAWS, seed=0):
    """Scores on redrawn texts: {name: {"macro_f1": (draws,), "accuracy": (draws,)}}.

    labels: (N,) class ids    predictions: {name of a model: (N,) class ids}
    Each draw takes N texts with replacement and scores all models on the same ones. So the difference of two models
    within a draw is free of what the difficulty of the texts adds to the noise of each
    (Efron and Tibshirani 1993, chapter 13).
    """
    rng = np.random.default_rng(seed)
    scores = {name: {"macro_f1": np.empty(draws), "accuracy": np.empty(draws)} for name in predictions}
    for i in range(draws):
        drawn = rng.integers(len(labels), size=len(labels))
        for name, predicted in predictions.items():
            confusion = confusion_counts(labels[drawn], predicted[drawn], num_labels)
            scores[name]["macro_f1"][i] = macro_f1(confusion)
            scores[name]["accuracy"][i] = np.trace(confusion) / len(labels)
    return scores


def paired_bootstrap(labels, predicted, baseline, num_labels, draws=DRAWS, seed=0):
    """95 % interval of macro-F1(predicted) - macro-F1(baseline): the percentile interval of redrawn texts.

    labels, predicted, baseline: (N,) class ids
    """
    scores = bootstrap(np.asarray(labels), {"new": np.asarray(predicted), "old": np.asarray(baseline)}, num_labels,
                       draws, seed)
    return interval(scores["new"]["macro_f1"] - scores["old"]["macro_f1"])


@torch.inference_mode()
def latencies(models, rows, batch_size, count, repeats=3):
    """Milliseconds per batch, the models taking turns on the same texts: {name: (repeats * count,)}.

    models: {name: OpenModel, or FromText}    rows: {name: the encoded texts, for FromText the strings themselves}
    `count` batches of texts of like length, spread over all lengths, are timed. Each timed call follows one of the
    same model that is not, as on a server that does nothing else: the caches are its own, not the model's before.
    """
    rng = random.Random(0)  # shuffles the order of the models in each round
    order = np.argsort([len(row) for row in next(iter(rows.values()))], kind="stable")
    starts = np.linspace(0, max(0, len(order) - batch_size), count).astype(int)
    times = {name: [] for name in models}
    for start in [starts[count // 2], *starts]:  # the first one warms the processor up
        chosen = order[start:start + batch_size]
        batch_of = {name: model.batch([rows[name][row] for row in chosen]) for name, model in models.items()}
        for _ in range(repeats):
            for name in rng.sample(list(models), len(models)):
                models[name].logits(batch_of[name])
                synchronize()
                begin = time.perf_counter()
                models[name].logits(batch_of[name])
                synchronize()
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: np.array(values[repeats:]) for name, values in times.items()}


def score_all(model, texts, batch_size, max_length):
    """The Answers of a model to all texts."""
    start = time.perf_counter()
    rows, cut_texts = model.encode(texts, max_length)
    tokenisation_us = 1e6 * (time.perf_counter() - start) / len(texts)
    with EnergyMeter() as meter:
        logits = model.score(rows, batch_size)
    return Answers(rows, cut_texts, logits, tokenisation_us, meter.joules)


def difference(labels, predicted, baseline, num_labels):
    """How a model differs from the baseline: {"difference", "low", "high"} of macro-F1, and "p_value"."""
    low, high = paired_bootstrap(labels, predicted, baseline, num_labels)
    new = macro_f1(confusion_counts(labels, predicted, num_labels))
    old = macro_f1(confusion_counts(labels, baseline, num_labels))
    return {"difference": new - old, "low": low, "high": high, "p_value": mcnemar(labels, predicted, baseline)}


def default_baseline(models):
    """The name of the largest file; an exported graph only if there is nothing else."""
    candidates = [model for model in models if isinstance(model.model, torch.nn.Module)] or models
    return max(candidates, key=lambda model: model.bytes).name


def compare(models, data, split=None, baseline=None, batch_size=32, max_length=None, timed=64, quick=False,
            references=None, predicates=None):
    """Score and time models on the same texts; returns Results and writes nothing.

    models: a list of OpenModel (evaluation/opening.py), all with data.label_names
    split: "test" or "validation"; None: test, where the data has one
    baseline: the name of the model that the others are compared with; None: the largest file
    timed: how many texts are timed one by one, and 1/8 as many batches of 32
    quick: leave out what takes a process or a pass of its own: cold start, memory, robustness, other threads
    references: rows of references.py; None: all that can be had    predicates: more slices, {name: text -> bool}
    """
    split = split or ("test" if data.test else "validation")
    texts = getattr(data, split).texts
    labels = np.array(getattr(data, split).labels)
    baseline = baseline or default_baseline(models)
    by_name = {model.name: model for model in models}
    references = reference_models(data) if references is None else references
    by_name |= {model.name: model for model in references if model.name not in by_name}

    # 1. Score
    answers = {name: score_all(model, texts, batch_size, max_length) for name, model in by_name.items()}
    rows = {name: said.rows for name, said in answers.items()}

    # 2. Time
    clock = partial(speeds, baseline=baseline, texts=texts, rows=rows, max_length=max_length)
    speed = clock(by_name, timed=timed)
    other_threads = {} if quick else time_other_threads(by_name, baseline, partial(clock, timed=max(4, timed // 8)))

    # 3. Compare with the baseline, on the same redrawn texts
    draws = bootstrap(labels, {name: said.predicted for name, said in answers.items()}, len(data.label_names))
    scores = {name: score_columns(said, draws[name], labels, data.label_names) for name, said in answers.items()}
    slices = slices_of(texts, data.train.texts, predicates)
    mean_tokens = float(np.mean([len(row) for row in rows[baseline]]))

    # 4. One row a model
    results = []
    for name, model in by_name.items():
        columns = scores[name] | speed[name] | {"other_threads": other_threads.get(name)}
        columns |= difference_columns(scores[name], scores[baseline], draws[name], draws[baseline],
                                      answers[name].predicted, answers[baseline].predicted, labels)
        columns |= hurt_columns(answers[name], answers[baseline], texts, labels, data.label_names, slices)
        columns |= folder_columns(model, folder_names(models), mean_tokens)
        if not quick:
            columns |= full_columns(model, answers[name], texts, labels, data, split, batch_size, max_length)
        results.append(ModelResult(is_baseline=name == baseline, **size_columns(model), **columns))
    longest = max(text_length(model.model, max_length) for model in models)
    found = Results(data.name, data.fingerprint, split, len(texts), longest, data.label_names, hardware(),
                    judge(results), mean_tokens, measured=now())
    found.warnings = warnings_of(found)
    return found


def speeds(by_name, baseline, texts, rows, timed, max_length):
    """{name: the columns of times} with the threads that are in use: of the models alone, and from raw strings."""
    both = dict(by_name)
    rows = {name: rows[name] for name in by_name}
    for name, model in by_name.items():
        both[name, "text"] = FromText(model, max_length)
        rows[name, "text"] = texts
    one = latencies(both, rows, 1, timed)
    many = latencies(both, rows, 32, max(4, timed // 8))
    return {name: speed_columns(name, baseline, one, many, min(32, len(texts))) for name in by_name}


def measure_cascade(small, large, data, max_drop, batch_size=32, max_length=None, timed=64):
    """Choose the threshold of a cascade and measure it; returns what cascade.json says and writes nothing.

    small, large: OpenModel    max_drop: macro-F1 that the cascade may lose against large where the threshold is chosen
    """
    choosing, measuring, texts = choosing_and_measuring(data)
    num_labels = len(data.label_names)

    # 1. The threshold, on texts of its own
    rows = range(len(choosing))
    small_ids, _ = small.encode(choosing.texts, max_length)
    large_ids, _ = large.encode(choosing.texts, max_length)
    small_logits = score_rows(small, small_ids, batch_size, rows)
    large_logits = score_rows(large, large_ids, batch_size, rows)
    threshold, share, chosen_f1 = choose_threshold(small_logits, large_logits, choosing.labels, max_drop)
    large_f1 = macro_f1(confusion_counts(np.array(choosing.labels), large_logits.argmax(-1).numpy(), num_labels))

    # 2. The scores, on the other texts
    small_ids, _ = small.encode(measuring.texts, max_length)
    large_ids, _ = large.encode(measuring.texts, max_length)
    ask_small = partial(score_rows, small, small_ids, batch_size)
    ask_large = partial(score_rows, large, large_ids, batch_size)
    rows = range(len(measuring))
    labels = np.array(measuring.labels)
    predicted, to_large = cascade_predict(ask_small, ask_large, rows, threshold)
    predicted = {"large": ask_large(rows).argmax(-1).numpy(), "small": ask_small(rows).argmax(-1).numpy(),
                 "cascade": predicted.numpy()}
    to_large = to_large.numpy()

    # 3. The times, one by one and in bulk
    lengths = [len(row) for row in large_ids]
    alone = spread_rows(lengths, to_large, timed)
    bulk = spread_rows(lengths, to_large, BULK_TEXTS)
    one = times_in_turn(partial(score_ready, small, ready_batches(small, small_ids, alone)),
                        partial(score_ready, large, ready_batches(large, large_ids, alone)),
                        [[row] for row in alone], threshold)
    many = times_in_turn(ask_small, ask_large, [bulk], threshold)

    rows = []
    for name, answer in predicted.items():
        rows.append({"name": name, "macro_f1": macro_f1(confusion_counts(labels, answer, num_labels)),
                     "accuracy": float((answer == labels).mean()),
                     **difference(labels, answer, predicted["large"], num_labels), **time_columns(name, one, many)})
    return {"models": {"small": small.folder, "large": large.folder}, "data": data.name,
            "fingerprint": data.fingerprint, "texts": texts, "max_drop": max_drop, "threshold": threshold,
            "share_small": float((~to_large).mean()),
            "chosen": {"texts": len(choosing), "share_small": share, "macro_f1": chosen_f1, "large": large_f1},
            "bytes": {"small": small.bytes, "large": large.bytes}, "rows": rows, "batch_size": batch_size,
            "ms_sum_of_parts": float(np.mean(one["small"] + to_large[alone] * one["large"])),
            "timed_alone": len(alone), "timed_in_bulk": len(bulk), "hardware": hardware()}


def open_texts(label_names, data, test, data_dir="data", text=None, label=None):
    """The Dataset to score, with the label ids of the models; what a user should know is printed.

    label_names: the models'    test: a labelled file of the user's own, all of whose rows are scored; None: `data`
    """
    if test is None and Path(data).is_dir() and not files_called(Path(data), STEMS["train"]):
        test = next(iter(files_called(Path(data), STEMS["test"])), None)  # a folder that only has a test file
    if test is None:
        return align_labels(open_data(data, data_dir, text, label), label_names)
    split, notes = load_test_file(str(test), label_names, text, label)
    print(f"test file: {test}, {len(split):,} texts")
    for note in notes:
        print(f"  {note}")
    nothing = Split([], [])
    return Dataset(Path(test).name, list(label_names), nothing, nothing, split, notes, "none",
                   fingerprint({"test": (split.texts, split.labels)}))


def parse_args(argv):
    parser = parser_for(__doc__)
    parser.add_argument("models", nargs="+", metavar="FOLDER", help="model folders; other files are left out")
    parser.add_argument("--out", required=True, help="the folder for report.html, results.md, results.csv, "
                        "results.json and the pictures")
    parser.add_argument("--baseline", help="the model that the others are compared with (default: the "
                        "largest file that is not an exported graph)")
    parser.add_argument("--timed", type=positive_int, default=64,
                        help="texts timed at batch 1; an eighth as many batches of 32")
    parser.add_argument("--test", metavar="FILE", help="in place of --data: a labelled file of your own, all of whose "
                        "rows are scored, whichever classes occur in it")
    parser.add_argument("--quick", action="store_true", help="leave out what takes a process or a pass of its own for "
                        "each model: cold start, memory, zipped size, other threads, damaged texts, batch mates, "
                        "temperature")
    parser.add_argument("--references", action=argparse.BooleanOptionalAction, default=True, help="rows for the most "
                        "frequent class, TF-IDF and, where it is installed, fastText, trained on the training texts")
    parser.add_argument("--slices", metavar="FILE.py", help="more slices: a Python file of functions text -> True or "
                        "False, whose names become rows")
    parser.add_argument("--gate", metavar="CONDITIONS", type=budget, help='exit with 3 if a model other than the '
                        'baseline misses one, for example "macro_f1>=0.97*baseline ms_1<=2 size_mb<=5" (default: no '
                        f"condition); words: {', '.join(WORDS)}")
    parser.add_argument("--gate-on", choices=["interval", "point"], default="interval",
                        help="what a score must reach: with the lower end of its 95 %% interval, or as it is")
    add_common_flags(parser, data_required=False)
    args = parser.parse_args(argv)
    if (args.data is None) == (args.test is None):
        parser.error("give --data, or --test FILE, and not both")
    refuse_idle_flags(parser, vars(args), [
        ("gate_on", args.gate is not None, "there is no --gate"),
        ("references", args.test is None, "--test FILE has no training texts")])
    if args.gate == []:
        parser.error('--gate is empty; write for example "keep>=0.97"')
    if args.quick and any(condition.word == "memory_mb" for condition in args.gate or []):
        parser.error("--quick does not measure memory: leave it out, or memory_mb")
    return args


def parse_cascade_args(argv):
    parser = parser_for(__doc__, prog="evaluate.py cascade")
    parser.add_argument("small", metavar="SMALL", help="the model that answers where it is confident")
    parser.add_argument("large", metavar="LARGE", help="the model that answers the rest")
    parser.add_argument("--out", required=True, help="the folder for cascade.md and cascade.json")
    parser.add_argument("--max-drop", type=unit_interval, default=0.005, help="macro-F1 that the cascade may lose "
                        "against LARGE where its threshold is chosen, 0 to 1; 0.005 is half a point")
    parser.add_argument("--timed", type=positive_int, default=64, help="texts timed at batch 1")
    add_common_flags(parser)
    return parser.parse_args(argv)


def parse_predict_args(argv):
    parser = parser_for(__doc__, prog="evaluate.py predict")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label")
    parser.add_argument("--model", required=True, help="a model folder or a Hub id")
    parser.add_argument("--input", help="a CSV / TSV / JSONL file, or one text a line; default: standard input")
    parser.add_argument("--text", help="the column of the text in --input (default: guessed)")
    parser.add_argument("--out", help="the JSONL file to write (default: standard output)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="texts per forward pass")
    parser.add_argument("--max-length", type=positive_int, help="tokens kept of a text (default: as many as the model "
                        "was trained with, else 128)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(argv)


def main(argv=None):
    """Returns Results, or for `cascade` what cascade.json says, or for `predict` how many rows had no text."""
    argv = sys.argv[1:] if argv is None else [str(arg) for arg in argv]
    if argv[:1] == ["predict"]:
        return main_predict(argv[1:])
    if argv[:1] == ["cascade"]:
        return main_cascade(argv[1:])
    if argv[:1] in (["card"], ["push"]):
        return main_card(argv)
    args = parse_args(argv)

    # The models and the data
    predicates = read_predicates(args.slices) if args.slices else {}
    folders = model_folders(args.models)
    names = short_names(folders)
    if args.baseline and args.baseline not in names:
        raise UserError(f"--baseline {args.baseline} is not one of {', '.join(names)}")
    models = open_models(folders, names, args.device)
    label_names = models[0].model.config.label_names
    data = open_texts(label_names, args.data, args.test, args.data_dir, args.text, args.label)
    Path(args.out).mkdir(parents=True, exist_ok=True)  # fails before the work, not after it

    # The numbers
    print(f"scoring and timing {len(models)} models ...")
    results = compare(models, data, baseline=args.baseline, batch_size=args.batch_size, max_length=args.max_length,
                      timed=args.timed, quick=args.quick, references=None if args.references else [],
                      predicates=predicates)
    if args.gate:
        results.gate = check_gate(results, args.gate, args.gate_on)

    # The files
    notes = write_metrics(results)
    files = write_report(results, args.out)
    print("\n" + results_table(results) + "\n")
    print("\n".join(remarks(results) + notes))
    print(f"{args.out}: {', '.join(files)}")
    if results.gate and results.gate["missed"]:
        raise BudgetMissed("; ".join(results.gate["missed"]))
    return results


def main_cascade(argv):
    """Measure a small model that leaves the texts of which it is unsure to a large one."""
    args = parse_cascade_args(argv)
    folders = model_folders([args.small, args.large])
    if len(folders) < 2:
        raise UserError("a cascade needs two model folders, SMALL and LARGE")
    small, large = open_models(folders, ["small", "large"], args.device)
    data = open_data(args.data, args.data_dir, args.text, args.label)
    data = align_labels(data, large.model.config.label_names)
    Path(args.out).mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    print("choosing the threshold, scoring and timing ...")
    result = measure_cascade(small, large, data, args.max_drop, args.batch_size, args.max_length, args.timed)
    write_cascade(result, args.out)
    print("\n" + cascade_table(result["rows"], result["timed_in_bulk"]) + "\n")
    print("\n".join(cascade_remarks(result)))
    print(f"{args.out}: cascade.md, cascade.json")
    return result


def main_predict(argv):
    """Label texts: those on the command line, of a file, or of standard input."""
    args = parse_predict_args(argv)
    if args.texts and args.input is not None:
        raise UserError("give texts or --input FILE, not both")
    check_files(args.input, args.out)
    if not args.texts and args.input is None and sys.stdin.isatty():
        raise UserError("nothing to label: give texts, --input FILE, or lines on standard input")
    classifier = Classifier(args.model, args.device, batch_size=args.batch_size, max_length=args.max_length)
    more_is_ready = None
    if args.texts:
        rows = ((i, text, None) for i, text in enumerate(args.texts))
    elif args.input is not None:
        rows = read_texts(args.input, args.text)
    else:
        lines = StreamLines(sys.stdin.buffer)
        rows = read_texts(None, args.text, lines=lines)
        more_is_ready = lines.ready
    answerer = Answerer(classifier)
    chunks = row_chunks(rows, args.batch_size, more_is_ready)
    is_complete = write_answers(answerer, chunks, args.out)
    if is_complete and answerer.without_text:
        print(f"{answerer.without_text} of the rows: no text, so \"error\" in place of a label", file=sys.stderr)
    if is_complete and answerer.cut:
        print(f"{answerer.cut} of the texts: cut at {classifier.max_length} tokens", file=sys.stderr)
    return answerer.without_text


def parse_card_args(argv):
    parser = parser_for(inspect.cleandoc(main_card.__doc__), prog=f"evaluate.py {argv[0]}")
    parser.add_argument("folder", metavar="FOLDER", help="a model folder that evaluate.py has measured")
    if argv[0] == "push":
        parser.add_argument("repo_id", metavar="ORG/NAME", help="the repository on the Hub; it is made if need be")
        parser.add_argument("--private", action="store_true", help="if it is made: only its owner sees it")
    parser.add_argument("--license", metavar="NAME", help='as the Hub spells it: "apache-2.0" (default: none)')
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's error, too")
    return parser.parse_args(argv[1:])


def main_card(argv):
    """Write a model card into a model folder (card), and upload both to the Hugging Face Hub (push).

    The card is README.md: scores with intervals, size, milliseconds and the machine, the slices that lose most, and the
    commands that make the folder again, from run.json and metrics.json.

        python evaluate.py card runs/demo/student --license apache-2.0
        python evaluate.py push runs/demo/student org/name
    """
    args = parse_card_args(argv)
    path = write_card(args.folder, args.license)
    print(f"{path} is written")
    if argv[0] == "push":
        print(push(args.folder, args.repo_id, args.private))
    return str(path)


if __name__ == "__main__":
    run_script(main)
