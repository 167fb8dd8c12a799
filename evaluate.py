"""Measure models side by side: quality, bytes, milliseconds, each with its uncertainty. Or label new texts.

    python evaluate.py runs/demo/* --data demo --out runs/report
    python evaluate.py --cascade runs/demo/student runs/demo/teacher --data demo --out runs/cascade --max-drop 0.005
    python evaluate.py predict --model runs/demo/student "not a fan of the new app, sadly"
    python evaluate.py predict --model runs/demo/student --input tweets.csv --text text --out labels.jsonl

The rules of the table (they are what makes a difference believable):
- the test split is touched here and nowhere else; without a labelled test file the validation texts are scored,
  and the table says so;
- size is the file's bytes; times are medians of runs in which the models take turns, on real texts without
  padding to a maximum, tokenisation apart;
- every difference from the baseline comes with a paired bootstrap interval (in points of macro-F1) and
  McNemar's exact p-value. An interval that contains 0 means: these texts cannot tell the two apart.
"""

import contextlib
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from data_utils import encode, open_data
from pocketbert.cli import add_common_flags, parser_for, positive_int, run_script, unit_interval
from pocketbert.data.tables import read_texts
from pocketbert.evaluation.cascade import measure_cascade
from pocketbert.evaluation.metrics import confusion_matrix, macro_f1, mcnemar, paired_bootstrap, quality
from pocketbert.evaluation.plots import plot_confusions, plot_histories, plot_scores
from pocketbert.evaluation.tables import per_class_table, results_table, write_csv
from pocketbert.evaluation.timing import latencies
from pocketbert.files import read_json, write_json, write_text
from pocketbert.hardware import hardware, hardware_line
from pocketbert.models.device import pick_device
from pocketbert.models.folder import load_model
from pocketbert.models.predict import predict
from pocketbert.models.size import count_parameters, file_bytes


def model_folders(names):
    """The model folders among the names; others (a shell's runs/* names everything) are passed over with a line."""
    folders = [name.rstrip("/") for name in names if (Path(name) / "config.json").exists()]
    for name in names:
        if not Path(name).exists():
            raise FileNotFoundError(f"{name}: no such folder; train a model first: python train.py --help")
        if name.rstrip("/") not in folders:
            print(f"{name} is no model folder: passed over")
    if not folders:
        raise ValueError("none of these is a model folder (config.json, model.safetensors, tokenizer.json)")
    return folders


def on_cpu_only(config):
    """Is this config.json of an exported graph, or of a model with compressed matrices?"""
    return bool(config.get("runtime") or config.get("stored_forms"))


def open_models(folders, args):
    """({name: model}, {name: tokenizer}) of {name: folder}, all on one device, all of one task."""
    device = pick_device(args.device)
    if device.type != "cpu" and any(on_cpu_only(read_json(Path(f) / "config.json")) for f in folders.values()):
        device = torch.device("cpu")
        print("compressed models run on the CPU only: all models are scored and timed there")
    models, tokenizers = {}, {}
    for name, folder in folders.items():
        models[name], tokenizers[name] = load_model(folder)
        models[name].to(device)
        names, first = models[name].config.label_names, next(iter(models.values())).config.label_names
        if names != first:
            raise ValueError(f"{name} has the labels {', '.join(names)}, the first model {', '.join(first)}: "
                             "evaluate models of one task at a time")
    return models, tokenizers


def report(args):
    folders = model_folders(args.models)
    short = {folder: Path(folder).resolve().name for folder in folders}
    names = [short[folder] if len(set(short.values())) == len(folders) else folder for folder in folders]
    if args.baseline and args.baseline not in names:
        raise ValueError(f"--baseline {args.baseline} is not one of {', '.join(names)}")
    models, tokenizers = open_models(dict(zip(names, folders, strict=True)), args)
    device, label_names = models[names[0]].device, models[names[0]].config.label_names
    runs = {name: (folder, read_json(Path(folder) / "run.json") if (Path(folder) / "run.json").exists() else {})
            for name, folder in zip(names, folders, strict=True)}
    data = open_data(args, label_names)
    Path(args.out).mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    split, split_name = (data.test, "test") if data.test else (data.validation, "validation")
    labels = np.array(split.labels)
    where = f"{len(split):,} {split_name} texts of {data.name}"
    if data.test is None:
        where += " (there is no labelled test file; the models were chosen on these texts, so scores are a little kind)"
    print(f"scoring {len(models)} models on {where}")

    ids, tokenisation, logits = {}, {}, {}
    for name, model in models.items():
        start = time.perf_counter()
        ids[name] = tokenizers[name](split.texts, min(args.max_length, model.config.max_length))
        tokenisation[name] = 1e6 * (time.perf_counter() - start) / len(split)
        logits[name] = predict(model, ids[name], args.batch_size, tokenizers[name].pad_id)
    pad_ids = {name: tokenizer.pad_id for name, tokenizer in tokenizers.items()}
    print("timing, the models in turn ...")
    one = latencies(models, ids, pad_ids, 1, args.timed, device)
    many = latencies(models, ids, pad_ids, 32, max(4, args.timed // 8), device)

    sizes = {name: file_bytes(folder) for name, (folder, _) in runs.items()}
    plain = [name for name, model in models.items() if isinstance(model, torch.nn.Module)] or list(models)
    baseline = args.baseline or max(plain, key=lambda name: sizes[name]["model"])
    results = []
    for name in models:
        predicted, reference = logits[name].argmax(-1).numpy(), logits[baseline].argmax(-1).numpy()
        row = {"name": name, "is_baseline": name == baseline, "split": split_name, "texts": len(split),
               "parameters": count_parameters(models[name]), "bytes": sizes[name]["model"],
               "bytes_mb": sizes[name]["model"] / 1e6,
               "tokenizer_bytes": sizes[name]["tokenizer"], **quality(logits[name], labels, label_names)}
        row["difference"] = row["macro_f1"] - macro_f1(confusion_matrix(labels, reference, len(label_names)))
        row["low"], row["high"] = paired_bootstrap(labels, predicted, reference, len(label_names), args.bootstrap)
        # Against an all-correct "baseline" the paired interval is that of the score itself, less 1.
        low, high = paired_bootstrap(labels, predicted, labels, len(label_names), args.bootstrap)
        row["f1_low"], row["f1_high"] = 1 + low, 1 + high
        row["p_value"] = mcnemar(labels, predicted, reference)
        row["same_label_as_baseline"] = float((predicted == reference).mean())
        for batch, times in ((1, one), (32, many)):
            row |= {f"ms_{batch}": float(np.median(times[name])),
                    f"ms_{batch}_p95": float(np.quantile(times[name], 0.95)),
                    f"speedup_{batch}": float(np.median(times[baseline] / times[name]))}
        row["texts_per_second"] = 1000 * min(32, len(split)) / row["ms_32"]
        row["tokenisation_us"] = tokenisation[name]
        row["answers_one_class"] = bool(len(set(predicted.tolist())) == 1)
        results.append(row)

    results.sort(key=lambda row: (not row["is_baseline"], -row["bytes"]))
    for row in results:
        folder = Path(runs[row["name"]][0])
        write_json({"data": data.name, "fingerprint": data.fingerprint, "hardware": hardware(), **row},
                   folder / "metrics.json")
    histories = {row["name"]: runs[row["name"]][1].get("history") for row in results}
    write_report(results, label_names, where, histories, args)


def report_cascade(args):
    """Measure a small model that leaves what it doubts to a large one; the idea is in cascade.py."""
    if len(model_folders(args.cascade)) < 2:
        raise ValueError("--cascade needs two model folders, the small model's and the large one's")
    folders = dict(zip(("small", "large"), args.cascade, strict=True))
    models, tokenizers = open_models(folders, args)
    data = open_data(args, models["large"].config.label_names)
    Path(args.out).mkdir(parents=True, exist_ok=True)  # fails before the work, not after it

    def encode_for_both(split):
        return {name: encode(tokenizers[name], split, args, model) for name, model in models.items()}

    def scorer(ids):
        return lambda name, rows: predict(models[name], [ids[name][row] for row in rows], args.batch_size,
                                          tokenizers[name].pad_id)
    measure_cascade(folders, models, encode_for_both, scorer, data, args)


def notes(results, where):
    """What a reader must know beside the table."""
    lines = [f"{where}.", f"Times: {hardware_line()}; models in turn, medians; tokenisation apart "
             f"({results[0]['tokenisation_us']:.0f} µs a text)."]
    for row in results:
        if row["answers_one_class"]:
            lines.append(f"WARNING: {row['name']} answers one class for every text.")
    for batch in (1, 32):  # some percent are the machine's mood
        if slower := [row["name"] for row in results if row[f"speedup_{batch}"] < 0.95 and not row["is_baseline"]]:
            lines.append(f"Slower than the baseline here at batch {batch}: {', '.join(slower)}.")
    if len(results) > 1:
        fastest = {batch: min(results, key=lambda row: row[f"ms_{batch}"])["name"] for batch in (1, 32)}
        lines.append(f"Fastest at batch 1: {fastest[1]}; at batch 32: {fastest[32]}.")
    if same := [row["name"] for row in results if not row["is_baseline"] and row["low"] <= 0 <= row["high"]]:
        lines.append(f"These texts cannot tell from the baseline's the score of: {', '.join(same)}.")
    return lines


def write_report(results, label_names, where, histories, args):
    out, text = Path(args.out), results_table(results)
    remarks = notes(results, where)
    write_csv(results, out / "results.csv")
    pictures = {"score_size.png": "Score against size", "score_latency.png": "Score against latency",
                "confusion.png": "Confusion matrices"}
    plot_scores(results, "bytes_mb", "MB of model.safetensors", out / "score_size.png")
    plot_scores(results, "ms_1", "ms for one text", out / "score_latency.png")
    plot_confusions(results, label_names, out / "confusion.png")
    if any(histories.values()):
        plot_histories(histories, out / "training.png")
        pictures["training.png"] = "Training curves"
    page = ["# Results", "", text, "", *(f"- {line}" for line in remarks), "", "## F1 by class", "",
            per_class_table(results, label_names), ""]
    page += [f"![{title}]({name})" for name, title in pictures.items()]
    write_text("\n".join(page) + "\n", out / "results.md")  # last: it is what make waits for
    print("\n" + text + "\n")
    print("\n".join(remarks))
    print(f"{out}: results.md, results.csv, {', '.join(pictures)}")


def answers(model, tokenizer, rows, batch_size, max_length):
    """One dictionary a row, in order: {"label", "probabilities"}, or {"error"} for a row that is no text.

    rows: (row, text, problem) as read_texts yields them. Read in chunks, so any size fits into memory.
    """
    names = model.config.label_names
    rows = iter(rows)
    while chunk := list(islice(rows, 64 * batch_size)):
        texts = [text for _, text, problem in chunk if problem is None]
        ids = tokenizer(texts, min(max_length, model.config.max_length))
        probabilities = iter(predict(model, ids, batch_size, tokenizer.pad_id).softmax(-1).tolist())
        for _, _, problem in chunk:
            if problem is not None:
                yield {"error": problem}
                continue
            row = next(probabilities)
            yield {"label": names[int(np.argmax(row))],
                   "probabilities": {name: round(p, 6) for name, p in zip(names, row, strict=True)}}


@contextlib.contextmanager
def writing(name):
    """The file to write answers to: standard output, a device or pipe as it is, or a file that is there when done."""
    if name is None:
        yield sys.stdout
        return
    target = Path(name).resolve()
    if target.is_dir():
        raise ValueError(f"--out {name} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--out {name}: there is no folder {target.parent}; make it first")
    if target.exists() and not target.is_file():
        with open(target, "w", encoding="utf-8") as out:
            yield out
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            yield out
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def predict_texts(args):
    model, tokenizer = load_model(args.model)
    model.to("cpu" if on_cpu_only(model.config.hf) else pick_device(args.device, quiet=True))
    if args.texts and args.input is not None:
        raise ValueError("give texts or --input FILE, not both")
    if args.input is not None and not (Path(args.input).exists() and not Path(args.input).is_dir()):
        raise FileNotFoundError(f"--input {args.input!r} is not a file")
    if not args.texts and args.input is None and sys.stdin.isatty():
        raise ValueError("nothing to label: give texts, --input FILE, or lines on standard input")
    rows = ((i, text, None) for i, text in enumerate(args.texts)) if args.texts else read_texts(args.input, args.text)
    bad = 0
    try:
        with writing(args.out) as out:
            for answer in answers(model, tokenizer, rows, args.batch_size, args.max_length):
                bad += "error" in answer
                out.write(json.dumps(answer, ensure_ascii=not args.out) + "\n")
            out.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if bad:
        print(f"{bad} of the rows: no text, so \"error\" in place of a label", file=sys.stderr)


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else [str(arg) for arg in argv]
    parser = parser_for(__doc__)
    if argv[:1] == ["predict"]:
        parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts to label")
        parser.add_argument("--model", required=True, help="a model folder or a Hub id")
        parser.add_argument("--input", help="a CSV / TSV / JSONL file, or one text a line; default: standard input")
        parser.add_argument("--text", help="the column of the text in --input (default: guessed)")
        parser.add_argument("--out", help="the JSONL file to write (default: standard output)")
        parser.add_argument("--batch-size", type=positive_int, default=32, help="texts per forward pass")
        parser.add_argument("--max-length", type=positive_int, default=128, help="tokens kept of a text")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        args = parser.parse_args(argv[1:])
        return args, predict_texts
    parser.add_argument("models", nargs="*", metavar="FOLDER", help="model folders; others are passed over")
    parser.add_argument("--out", required=True, help="the folder for results.md, results.csv and the pictures, or for "
                        "cascade.md and cascade.json")
    parser.add_argument("--cascade", nargs=2, metavar=("SMALL", "LARGE"), help="in place of FOLDERs: measure a small "
                        "model that answers where it is confident, and leaves the rest to a large one")
    parser.add_argument("--max-drop", type=unit_interval, help="macro-F1 that the cascade may lose against LARGE "
                        "where its threshold is chosen, 0 to 1 (0.005: half a point, the default)")
    parser.add_argument("--baseline", help="the model that the others are compared with (default: the "
                        "largest file that is no exported graph)")
    parser.add_argument("--timed", type=positive_int, default=64,
                        help="texts timed at batch 1; an eighth as many batches of 32")
    parser.add_argument("--bootstrap", type=positive_int, default=2000, help="draws of the paired bootstrap")
    add_common_flags(parser)
    args = parser.parse_args(argv)
    if bool(args.models) == bool(args.cascade):
        parser.error("give the FOLDERs of the models, or --cascade SMALL LARGE, and not both")
    if args.cascade is None and args.max_drop is not None:
        parser.error("--max-drop is for --cascade")
    if args.cascade and args.baseline:
        parser.error("--baseline is for FOLDERs: a cascade is compared with its large model")
    args.max_drop = 0.005 if args.max_drop is None else args.max_drop
    return args, report_cascade if args.cascade else report


def main(argv=None):
    args, action = parse_args(argv)
    action(args)


if __name__ == "__main__":
    run_script(main)
