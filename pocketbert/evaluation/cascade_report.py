"""Which texts choose a cascade's threshold, which measure it, how long it takes, and cascade.md and cascade.json.

A cascade's latency is bimodal (the small model only, or both), so means are compared: the median sees one mode and
the 95th percentile the other.
"""

import random
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pocketbert.data.batching import make_batch
from pocketbert.data.splits import SPLIT_SEED, Split, select, take, text_key
from pocketbert.errors import UserError
from pocketbert.evaluation.cascade import cascade_predict
from pocketbert.evaluation.tables import difference_cell, markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line, time_interleaved
from pocketbert.models.predict import predict

BULK_TEXTS = 1000           # batches are timed on so many texts of the split


# ---- which texts -----------------------------------------------------------------------------------------

def halves(split):
    """Two halves of a split, each with its share of every class, the same in every run.

    A text that occurs twice goes to one half with all its copies, as in splits.split_validation.
    """
    label_of = {}
    for text, label in zip(split.texts, split.labels, strict=True):
        label_of.setdefault(text_key(text), label)
    if len(label_of) < 2:
        raise UserError(f"{len(label_of)} validation text cannot both choose a threshold and measure it")
    different = Split(list(label_of), list(label_of.values()))
    first_half = set(take(different, len(different) // 2, SPLIT_SEED).texts)
    in_first = [text_key(text) in first_half for text in split.texts]
    return (select(split, [row for row, first in enumerate(in_first) if first]),
            select(split, [row for row, first in enumerate(in_first) if not first]))


def choosing_and_measuring(data):
    """(texts that choose the threshold, texts that measure the cascade, the sentence that says so)."""
    if data.test:
        return data.validation, data.test, (
            f"The threshold is chosen on {len(data.validation):,} validation texts of {data.name}, everything else is "
            f"measured on {len(data.test):,} test texts.")
    choosing, measuring = halves(data.validation)
    return choosing, measuring, (
        f"{data.name} has no labelled test file: one half of the validation texts ({len(choosing):,}) chooses the "
        f"threshold, the other ({len(measuring):,}) measures. Scores are slightly optimistic: the best epoch of each "
        "model was chosen on both halves.")


# ---- how long it takes -----------------------------------------------------------------------------------

def score_rows(model, ids, batch_size, rows):
    """Logits of an OpenModel for some rows of ids, in batches."""
    return predict(model.model, [ids[row] for row in rows], batch_size, model.tokenizer.pad_id)


def score_ready(model, ready, rows):
    """Logits of an OpenModel for one row, whose batch was made beforehand: its time is the model's alone."""
    batch = ready[rows[0]]
    return model.model(batch.input_ids, batch.attention_mask)


def ready_batches(model, ids, rows):
    """{row: its batch of one text}, on the model's device. One text needs no padding, so no pad_id."""
    return {row: make_batch(ids, None, [row], pad_id=0).to(model.model.device) for row in rows}


def spread_rows(lengths, to_large, count):
    """`count` rows, evenly over both routes and over the lengths in each: their mean time is that of the split."""
    order = np.lexsort((lengths, to_large))
    count = min(count, len(lengths))
    return order[((np.arange(count) + 0.5) * len(order) / count).astype(int)].tolist()


@torch.inference_mode()
def times_in_turn(small, large, groups, threshold):
    """{"small", "large", "cascade"}: milliseconds for each group of rows, the median of three; the three take turns.

    small, large: functions from rows to logits
    """
    rng = random.Random(0)  # shuffles the order of the three in each round
    times = {"small": [], "large": [], "cascade": []}
    for rows in groups:
        calls = {"small": partial(small, rows), "large": partial(large, rows),
                 "cascade": partial(cascade_predict, small, large, rows, threshold)}
        for name, values in time_interleaved(calls, repeats=3, warmup=1, rng=rng).items():
            times[name].append(np.median(values))
    return {name: np.array(values) for name, values in times.items()}


def time_columns(name, one, bulk):
    """The columns of times of "small", "large" or "cascade"; one, bulk: from times_in_turn."""
    return {
        "ms_mean": float(one[name].mean()),
        "ms_median": float(np.median(one[name])),
        "ms_p95": float(np.quantile(one[name], 0.95)),
        "speedup_1": float(one["large"].mean() / one[name].mean()),
        "bulk_seconds": float(bulk[name].sum() / 1000),
        "speedup_bulk": float(bulk["large"].sum() / bulk[name].sum()),
    }


# ---- the page --------------------------------------------------------------------------------------------

def cascade_table(rows, bulk_texts):
    """One row each for the large model, the small one and the cascade; bulk_texts: how many the bulk held."""
    cells = [["model", "macro-F1", "accuracy", "difference [95 %]", "McNemar p", "ms mean / median / p95",
              "texts/s in bulk", "x faster alone / in bulk"]]
    for row in rows:
        is_baseline = row["name"] == "large"
        cells.append([
            row["name"], f"{row['macro_f1']:.4f}", f"{row['accuracy']:.4f}",
            "baseline" if is_baseline else difference_cell(row["difference"], row["low"], row["high"]),
            "" if is_baseline else f"{row['p_value']:.3f}",
            f"{row['ms_mean']:.2f} / {row['ms_median']:.2f} / {row['ms_p95']:.2f}",
            f"{bulk_texts / row['bulk_seconds']:,.0f}", f"{row['speedup_1']:.2f} / {row['speedup_bulk']:.2f}"])
    return markdown_table(cells, "lrrrrrrr")


def remarks(result):
    """The sentences below the table, warnings last. result: what cascade.json says."""
    chosen = result["chosen"]
    files = [f"{folder} ({result['bytes'][name]:,} bytes)" for name, folder in result["models"].items()]
    lines = [
        result["texts"],
        f"Threshold {result['threshold']:.4f}: small answers {100 * result['share_small']:.1f} % of the measured "
        f"texts. Where it was chosen: {100 * chosen['share_small']:.1f} %, macro-F1 {chosen['macro_f1']:.4f}; large "
        f"has {chosen['large']:.4f} there. Both stay in memory: {' and '.join(files)}.",
        f"Times: {hardware_line(result['hardware'])}; {result['timed_alone']} texts one by one and "
        f"{result['timed_in_bulk']:,} in batches of {result['batch_size']}, the three in turn; \"x faster\" compares "
        "means. Without tokenisation; where the two tokenizers differ, a cascade needs both."]
    return lines + [f"WARNING: {words}." for words in warnings_of(result)]


def warnings_of(result):
    """What makes this cascade useless, in words."""
    row_of = {row["name"]: row for row in result["rows"]}
    share = result["chosen"]["share_small"]
    if share == 0:
        yield "the large model answers everything, no threshold is good enough"
    if share == 1:
        yield "the small model alone is good enough, it needs no cascade"
    if -row_of["cascade"]["difference"] > result["max_drop"]:
        yield "the drop on the measured texts is above --max-drop"
    if result["bytes"]["small"] >= result["bytes"]["large"]:
        yield "small has no smaller file than large"
    for name in ("small", "cascade"):
        slow = []
        if row_of[name]["speedup_1"] <= 1:
            slow.append("one by one")
        if row_of[name]["speedup_bulk"] <= 1:
            slow.append("in bulk")
        if slow:
            yield f"{name} is no faster than large {' and '.join(slow)}"


def write_cascade(result, out):
    """Write cascade.json and, last, cascade.md into the folder `out`."""
    table = cascade_table(result["rows"], result["timed_in_bulk"])
    write_json(result, Path(out) / "cascade.json")
    page = ["# Cascade", "", table, "", *[f"- {line}" for line in remarks(result)]]
    write_text("\n".join(page) + "\n", Path(out) / "cascade.md")
