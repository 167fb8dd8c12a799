"""Measure models side by side: quality, bytes, milliseconds, each with its uncertainty. Or label new texts.

    python evaluate.py runs/demo/* --data demo --out runs/report
    python evaluate.py runs/demo/* --test labelled.csv --out runs/report
    python evaluate.py cascade runs/demo/student runs/demo/teacher --data demo --out runs/cascade --max-drop 0.005
    python evaluate.py predict --model runs/demo/student "not a fan of the new app, sadly"
    python evaluate.py predict --model runs/demo/student --input tweets.csv --text text --out labels.jsonl

The rules of the table:
- The test split is scored here and nowhere else. Without a labelled test file the validation texts are scored, and
  the report says so. `--test FILE` scores all rows of a labelled file of your own.
- Size is the bytes of the files.
- Times are medians of runs in which the models take turns, on real texts that are not padded to a maximum length,
  without tokenisation.
- Every difference from the baseline has a paired bootstrap interval (in points of macro-F1) and McNemar's exact
  p-value. If the interval contains 0, the two models are not significantly different on these texts.
"""

import random
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_utils import Dataset, align_labels, batches, load_test_file, open_data
from model_utils import predict, text_length
from pocketbert.cli import add_common_flags, parser_for, positive_int, run_script, unit_interval
from pocketbert.data.build import fingerprint
from pocketbert.data.rows import STEMS, files_called
from pocketbert.data.splits import Split
from pocketbert.data.tables import read_texts
from pocketbert.errors import UserError
from pocketbert.evaluation.answers import Answerer, check_files, row_chunks, write_answers
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
from pocketbert.evaluation.metrics import confusion_counts, macro_f1, mcnemar, quality
from pocketbert.evaluation.opening import encode_for, model_folders, open_models, short_names
from pocketbert.evaluation.report import remarks, results_table, write_metrics, write_report
from pocketbert.evaluation.results import ModelResult, Results
from pocketbert.evaluation.stream import StreamLines
from pocketbert.hardware import hardware, synchronize
from pocketbert.models.classifier import Classifier
from pocketbert.models.size import count_parameters

DRAWS = 2000                # of the bootstrap


def paired_bootstrap(labels, predicted, baseline, num_labels, draws=DRAWS, seed=0):
    """95 % interval of macro-F1(predicted) - macro-F1(baseline): the percentile interval of redrawn texts.

    labels, predicted, baseline: (N,) class ids. Each draw takes N texts with replacement and scores both models on
    the same ones, which removes what the difficulty of the texts adds to the noise of each
    (Efron and Tibshirani 1993, chapter 13).
    """
    labels, predicted, baseline = np.asarray(labels), np.asarray(predicted), np.asarray(baseline)
    rng = np.random.default_rng(seed)
    differences = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(len(labels), size=len(labels))
        new = macro_f1(confusion_counts(labels[drawn], predicted[drawn], num_labels))
        old = macro_f1(confusion_counts(labels[drawn], baseline[drawn], num_labels))
        differences[i] = new - old
    low, high = np.quantile(differences, (0.025, 0.975))
    return float(low), float(high)


@torch.inference_mode()
def latencies(models, ids, batch_size, count, repeats=3):
    """Milliseconds per batch, the models taking turns on the same texts: {name: (repeats * count,)}.

    models: {name: OpenModel}    ids: {name: token ids of all texts, in the same order for each model}
    `count` batches of texts of like length, spread over all lengths, are timed after a warm-up.
    """
    rng = random.Random(0)  # shuffles the order of the models in each round
    order = np.argsort([len(row) for row in next(iter(ids.values()))], kind="stable")
    starts = np.linspace(0, max(0, len(order) - batch_size), count).astype(int)
    times = {name: [] for name in models}
    for start in [starts[count // 2]] * 3 + list(starts):  # the first three warm the processor up
        rows = order[start:start + batch_size]
        batch_of = {name: one_batch(model, [ids[name][row] for row in rows]) for name, model in models.items()}
        for name, model in models.items():
            model.model(batch_of[name].input_ids, batch_of[name].attention_mask)
        for _ in range(repeats):
            for name in rng.sample(list(models), len(models)):
                batch = batch_of[name]
                begin = time.perf_counter()
                models[name].model(batch.input_ids, batch.attention_mask)
                synchronize()
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: np.array(values[3 * repeats:]) for name, values in times.items()}


def one_batch(model, ids):
    """All token ids as one batch on the device of an OpenModel."""
    return next(batches(ids, None, len(ids), model.tokenizer.pad_id)).to(model.model.device)


def difference(labels, predicted, baseline, num_labels):
    """How a model differs from the baseline: {"difference", "low", "high"} of macro-F1, and "p_value"."""
    low, high = paired_bootstrap(labels, predicted, baseline, num_labels)
    new = macro_f1(confusion_counts(labels, predicted, num_labels))
    old = macro_f1(confusion_counts(labels, baseline, num_labels))
    return {"difference": new - old, "low": low, "high": high, "p_value": mcnemar(labels, predicted, baseline)}


def score_columns(logits, labels, label_names):
    """The columns of scores; logits (N, num_labels), labels (N,)."""
    predicted = logits.argmax(-1).numpy()
    # Against an all-correct "baseline" the paired interval is that of the score itself, minus 1.
    low, high = paired_bootstrap(labels, predicted, labels, len(label_names))
    return {**quality(logits, labels, label_names), "f1_low": 1 + low, "f1_high": 1 + high,
            "answers_one_class": len(set(predicted.tolist())) == 1}


def speed_columns(name, baseline, one, many, batch_size):
    """The columns of times; one, many: latencies() of single texts and of batches of `batch_size` texts."""
    columns = {}
    for label, times in ((1, one), (32, many)):
        columns |= {f"ms_{label}": float(np.median(times[name])),
                    f"ms_{label}_p95": float(np.quantile(times[name], 0.95)),
                    f"speedup_{label}": float(np.median(times[baseline] / times[name]))}
    return columns | {"texts_per_second": 1000 * batch_size / columns["ms_32"]}


def default_baseline(models):
    """The name of the largest file; an exported graph only if there is nothing else."""
    candidates = [model for model in models if isinstance(model.model, torch.nn.Module)] or models
    return max(candidates, key=lambda model: model.bytes).name


def compare(models, data, split=None, baseline=None, batch_size=32, max_length=None, timed=64):
    """Score and time models on the same texts; returns Results and writes nothing.

    models: a list of OpenModel (evaluation/opening.py), all with data.label_names
    split: "test" or "validation"; None: test, where the data has one
    baseline: the name of the model that the others are compared with; None: the largest file
    timed: how many texts are timed one by one, and 1/8 as many batches of 32
    """
    split = split or ("test" if data.test else "validation")
    texts = getattr(data, split)
    labels = np.array(texts.labels)
    baseline = baseline or default_baseline(models)

    # 1. Score
    ids = {}
    cut_texts = {}
    logits = {}
    tokenisation_us = {}
    for model in models:
        start = time.perf_counter()
        ids[model.name], cut_texts[model.name] = encode_for(model, texts.texts, max_length)
        tokenisation_us[model.name] = 1e6 * (time.perf_counter() - start) / len(texts)
        logits[model.name] = predict(model.model, ids[model.name], batch_size, model.tokenizer.pad_id)

    # 2. Time
    by_name = {model.name: model for model in models}
    one = latencies(by_name, ids, batch_size=1, count=timed)
    many = latencies(by_name, ids, batch_size=32, count=max(4, timed // 8))

    # 3. Compare with the baseline
    predicted = {name: rows.argmax(-1).numpy() for name, rows in logits.items()}
    results = []
    for name, model in by_name.items():
        results.append(ModelResult(
            name=name, folder=model.folder, is_baseline=name == baseline, bytes=model.bytes,
            tokenizer_bytes=model.tokenizer_bytes, parameters=count_parameters(model.model), history=model.history,
            **score_columns(logits[name], labels, data.label_names),
            **difference(labels, predicted[name], predicted[baseline], len(data.label_names)),
            same_label_as_baseline=float((predicted[name] == predicted[baseline]).mean()),
            **speed_columns(name, baseline, one, many, min(32, len(texts))),
            tokenisation_us=tokenisation_us[name], cut_texts=cut_texts[name], logits=logits[name]))
    results.sort(key=lambda model: (not model.is_baseline, -model.bytes))
    longest = max(text_length(model.model, max_length) for model in models)
    return Results(data.name, data.fingerprint, split, len(texts), longest, data.label_names, hardware(), results)


def measure_cascade(small, large, data, max_drop, batch_size=32, max_length=None, timed=64):
    """Choose the threshold of a cascade and measure it; returns what cascade.json says and writes nothing.

    small, large: OpenModel    max_drop: macro-F1 that the cascade may lose against large where the threshold is chosen
    """
    choosing, measuring, texts = choosing_and_measuring(data)
    num_labels = len(data.label_names)

    # 1. The threshold, on texts of its own
    rows = range(len(choosing))
    small_ids, _ = encode_for(small, choosing.texts, max_length)
    large_ids, _ = encode_for(large, choosing.texts, max_length)
    small_logits = score_rows(small, small_ids, batch_size, rows)
    large_logits = score_rows(large, large_ids, batch_size, rows)
    threshold, share, chosen_f1 = choose_threshold(small_logits, large_logits, choosing.labels, max_drop)
    large_f1 = macro_f1(confusion_counts(np.array(choosing.labels), large_logits.argmax(-1).numpy(), num_labels))

    # 2. The scores, on the other texts
    small_ids, _ = encode_for(small, measuring.texts, max_length)
    large_ids, _ = encode_for(large, measuring.texts, max_length)
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
    parser.add_argument("--out", required=True,
                        help="the folder for results.md, results.csv, results.json and the pictures")
    parser.add_argument("--baseline", help="the model that the others are compared with (default: the "
                        "largest file that is not an exported graph)")
    parser.add_argument("--timed", type=positive_int, default=64,
                        help="texts timed at batch 1; an eighth as many batches of 32")
    parser.add_argument("--test", metavar="FILE", help="in place of --data: a labelled file of your own, all of whose "
                        "rows are scored, whichever classes occur in it")
    add_common_flags(parser, data_required=False)
    args = parser.parse_args(argv)
    if (args.data is None) == (args.test is None):
        parser.error("give --data, or --test FILE, and not both")
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
    args = parse_args(argv)

    # The models and the data
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
                      timed=args.timed)

    # The files
    notes = write_metrics(results)
    files = write_report(results, args.out)
    print("\n" + results_table(results) + "\n")
    print("\n".join(remarks(results) + notes))
    print(f"{args.out}: {', '.join(files)}")
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


if __name__ == "__main__":
    run_script(main)
