"""What a candidate scores and costs, beside its teacher, on the half of the validation texts that chooses.

The milliseconds of models that were measured at different moments cannot be compared on a busy machine, so each model
takes turns with the teacher, and its milliseconds are

    (teacher's median of the first measurement) * median over the texts of (model's time / teacher's time)
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from pocketbert.data.splits import Split
from pocketbert.evaluation.budget import SCORES
from pocketbert.evaluation.metrics import quality
from pocketbert.evaluation.opening import OpenModel, open_one
from pocketbert.evaluation.resources import start_cold
from pocketbert.models.opening import text_length

TIMED = 48  # single texts, and an eighth as many batches of 32
CPU = torch.device("cpu")


@dataclass
class Bench:
    """The teacher, the texts, and what the teacher scores and costs on them."""

    teacher: OpenModel
    texts: Split
    label_names: list[str]
    latencies: object  # evaluate.latencies
    bootstrap: object  # evaluate.paired_bootstrap
    wants_memory: bool = False  # does the budget bound the memory of a process?
    ids: list | None = None  # the teacher's token ids
    predicted: np.ndarray | None = None  # the teacher's answers
    row: dict | None = None  # the teacher's own


def make_bench(folder, texts, label_names, latencies, bootstrap, wants_memory):
    """The Bench of a teacher's folder."""
    bench = Bench(open_one(folder, "teacher", CPU), texts, label_names, latencies, bootstrap, wants_memory)
    bench.ids, _ = bench.teacher.encode(texts.texts, None)
    bench.predicted = bench.teacher.score(bench.ids, 32).argmax(-1).numpy()
    bench.row = row_of(bench.teacher, "fp32", bench)
    return bench


def measure(folder, form, bench):
    """The row of a model folder: what it is, scores, costs. form: the name of its format, for the table"""
    return row_of(open_one(folder, "model", CPU), form, bench)


def row_of(model, form, bench):
    begin = time.perf_counter()
    ids, _ = model.encode(bench.texts.texts, None)
    tokenisation_ms = 1000 * (time.perf_counter() - begin) / len(ids)
    logits = model.score(ids, 32)
    labels = np.array(bench.texts.labels)
    score = quality(logits, labels, bench.label_names)
    teacher_f1 = max((bench.row or score)["macro_f1"], 1e-9)
    low, _ = bench.bootstrap(labels, logits.argmax(-1).numpy(), bench.predicted, len(bench.label_names))
    row = {"form": form, "folder": model.folder, "macro_f1": score["macro_f1"], "accuracy": score["accuracy"],
           "keep": score["macro_f1"] / teacher_f1, "keep_low": (teacher_f1 + low) / teacher_f1,
           **costs_of(model, ids, bench)}
    return row | {"texts_per_s": 1000 / (row["ms_32"] / min(32, len(ids)) + tokenisation_ms)}


def costs_of(model, ids, bench):
    """{"size_mb", "ms_1", "ms_32"} of an OpenModel."""
    costs = {"size_mb": (model.bytes + model.tokenizer_bytes) / 1e6}
    if bench.wants_memory:
        length = text_length(model.model, None)
        costs["memory_mb"] = start_cold(model.folder, bench.texts.texts, length)["peak_memory_mb"]
    both = {"teacher": bench.teacher, "model": model}
    ids_of_both = {"teacher": bench.ids, "model": ids}
    for batch_size, count in ((1, TIMED), (32, TIMED // 8)):
        times = bench.latencies(both, ids_of_both, batch_size, count)
        teacher_ms = float(np.median(times["teacher"]))
        if bench.row:
            teacher_ms = bench.row[f"ms_{batch_size}"]
        ratio = float(np.median(times["model"] / times["teacher"]))
        costs[f"ms_{batch_size}"] = teacher_ms * ratio
    return costs


def meets_costs(row, conditions, bench):
    """Does a row meet those conditions of a budget that are about costs, which training does not change?"""
    costs = [condition for condition in conditions if condition.word not in SCORES]
    return all(condition.violation(row, bench.row) <= 0 for condition in costs)
