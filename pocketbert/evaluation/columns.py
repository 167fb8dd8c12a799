"""The columns of a report, group by group: each function returns fields of ModelResult (results.py)."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pocketbert.evaluation.agreement import flips, probability_loyalty
from pocketbert.evaluation.calibration import ece, fit_temperature, reliability
from pocketbert.evaluation.differences import detectable, holm, interval, p_of_draws, verdict
from pocketbert.evaluation.lineage import find_parent, parent_names, read_run, rebuild_commands
from pocketbert.evaluation.metrics import mcnemar, quality
from pocketbert.evaluation.resources import start_cold
from pocketbert.evaluation.robustness import batch_mates, robustness
from pocketbert.evaluation.slices import slice_scores
from pocketbert.evaluation.zeros import idle_units, zero_weights
from pocketbert.models.flops import flops
from pocketbert.models.opening import text_length
from pocketbert.models.size import bytes_by_part, zipped_bytes

VALIDATION_TEXTS = 1000     # that fit a temperature: one number needs no more


@dataclass
class Answers:
    """What one model said to all texts."""

    rows: list                          # the encoded texts
    cut_texts: int
    logits: torch.Tensor                # (N, num_labels)
    tokenisation_us: float              # per text
    joules: float | None                # that scoring took

    @property
    def predicted(self):
        return self.logits.argmax(-1).numpy()


def size_columns(model):
    """Name, folder, bytes and parameters of an OpenModel or a reference."""
    return {"name": model.name, "folder": model.folder, "history": model.history, "bytes": model.bytes,
            "tokenizer_bytes": model.tokenizer_bytes, "parameters": model.parameters}


def score_columns(answers, draws, labels, label_names):
    """Scores with their intervals, and calibration. draws: redrawn scores of this model, see evaluate.bootstrap"""
    f1_low, f1_high = interval(draws["macro_f1"])
    accuracy_low, accuracy_high = interval(draws["accuracy"])
    bins = reliability(answers.logits, labels)
    return {**quality(answers.logits, labels, label_names), "f1_low": f1_low, "f1_high": f1_high,
            "accuracy_low": accuracy_low, "accuracy_high": accuracy_high, "reliability": bins, "ece": ece(bins),
            "answers_one_class": len(set(answers.predicted.tolist())) == 1, "logits": answers.logits,
            "cut_texts": answers.cut_texts, "tokenisation_us": answers.tokenisation_us}


def difference_columns(row, base, draws, base_draws, predicted, base_predicted, labels):
    """How a model differs from the baseline.

    row, base: score_columns of the two    draws, base_draws: their scores on the same redrawn texts
    """
    differences = draws["macro_f1"] - base_draws["macro_f1"]
    low, high = interval(differences)
    keep_low, keep_high = interval(draws["macro_f1"] / np.maximum(base_draws["macro_f1"], 1e-9))
    accuracy_low, accuracy_high = interval(draws["accuracy"] - base_draws["accuracy"])
    return {
        "difference": row["macro_f1"] - base["macro_f1"], "low": low, "high": high,
        "keep": row["macro_f1"] / max(base["macro_f1"], 1e-9), "keep_low": keep_low, "keep_high": keep_high,
        "accuracy_difference": row["accuracy"] - base["accuracy"],
        "accuracy_difference_low": accuracy_low, "accuracy_difference_high": accuracy_high,
        "accuracy_keep": row["accuracy"] / max(base["accuracy"], 1e-9),
        "accuracy_keep_low": interval(draws["accuracy"] / np.maximum(base_draws["accuracy"], 1e-9))[0],
        "p_value": mcnemar(labels, predicted, base_predicted), "p_f1": p_of_draws(differences),
        "detectable": detectable(differences), "same_label_as_baseline": float((predicted == base_predicted).mean())}


def judge(models):
    """The ModelResults in the order of the table, with their verdicts.

    The p-values of all models but the references are corrected for the number of these models.
    """
    others = [model for model in models if not model.is_baseline]
    tested = [model for model in others if not model.is_reference]
    mcnemar_p = holm({model.name: model.p_value for model in tested})
    f1_p = holm({model.name: model.p_f1 for model in tested})
    for model in others:
        model.p_value_holm = mcnemar_p.get(model.name, model.p_value)
        model.p_f1_holm = f1_p.get(model.name, model.p_f1)
        model.verdict = verdict(model.low, model.high, model.p_f1_holm)
    return sorted(models, key=lambda model: (not model.is_baseline, model.is_reference, -model.bytes))


def hurt_columns(answers, base, texts, labels, label_names, slices):
    """Which texts changed, and on which slices the score differs. base: the baseline's Answers"""
    return {"flips": flips(texts, labels, answers.logits, base.logits, label_names),
            "probability_loyalty": probability_loyalty(answers.logits, base.logits),
            "slices": slice_scores(slices, labels, answers.predicted, base.predicted)}


def speed_columns(name, baseline, one, many, batch_size):
    """The columns of times.

    one, many: evaluate.latencies of single texts and of batches of `batch_size` texts
    """
    columns = {}
    for label, times in ((1, one), (32, many)):
        columns |= percentiles(f"ms_{label}", times[name])
        columns |= percentiles(f"ms_{label}_from_text", times[name, "text"])
        columns[f"speedup_{label}"] = float(np.median(times[baseline] / times[name]))
    return columns | {"texts_per_second": 1000 * batch_size / columns["ms_32_from_text"]}


def percentiles(name, times):
    """Median, 95th and 99th percentile of milliseconds: {name, name_p95, name_p99}."""
    median, p95, p99 = np.quantile(times, (0.5, 0.95, 0.99))
    return {name: float(median), f"{name}_p95": float(p95), f"{name}_p99": float(p99)}


def time_other_threads(by_name, baseline, clock):
    """{name: {"threads", "ms_1", "ms_32", "speedup_1", "speedup_32", "texts_per_second"}} with another number of
    threads: one, or all cores where one is in use. {} on one core.

    A graph keeps the threads it was opened with, and the references use one: they are left out.
    clock: a function from {name: model} to {name: the columns of times}
    """
    here = torch.get_num_threads()
    threads = 1 if here > 1 else os.cpu_count() or 1
    movable = {name: model for name, model in by_name.items()
               if not model.is_reference and isinstance(model.model, torch.nn.Module) and model.device.type == "cpu"}
    if threads == here or baseline not in movable:
        return {}
    torch.set_num_threads(threads)
    try:
        columns = clock(movable)
    finally:
        torch.set_num_threads(here)
    kept = ("ms_1", "ms_32", "speedup_1", "speedup_32", "texts_per_second")
    return {name: {"threads": threads} | {key: values[key] for key in kept} for name, values in columns.items()}


def folder_columns(model, folders, length):
    """What the folder and the weights tell. folders: {resolved path: name} of all models    length: mean tokens"""
    if model.is_reference:
        return {"is_reference": True}
    heads, neurons = idle_units(model.model)
    config = model.model.config
    forms = [config.hf["runtime"]] if config.hf.get("runtime") else config.stored_formats.values()
    parents = [find_parent(name, model.folder) for name in parent_names(read_run(model.folder))]
    names = [folders.get(path.resolve()) for path in parents if path]
    return {"formats": sorted({form.split(":")[0] for form in forms}), "idle_heads": heads, "idle_neurons": neurons,
            "sparsity": zero_weights(model.model), "flops": flops(model.model, length),
            "bytes_by_part": bytes_by_part(model.folder), "commands": rebuild_commands(model.folder),
            "parent": next((name for name in names if name and name != model.name), None)}


def full_columns(model, answers, texts, labels, data, split, batch_size, max_length):
    """The expensive columns, which --quick leaves out."""
    columns = {"robustness": robustness(model, texts, labels, answers.rows, answers.logits, batch_size,
                                       max_length),
               "batch_mates": batch_mates(model, answers.rows),
               **temperature_columns(model, answers, labels, data, split, batch_size, max_length)}
    if answers.joules is not None:
        columns["joules_per_1000_texts"] = 1000 * answers.joules / len(texts)
    if not model.is_reference:
        columns |= start_cold(model.folder, texts, text_length(model.model, max_length))
        columns["zipped_bytes"] = zipped_bytes(model.folder)
    return columns


def temperature_columns(model, answers, labels, data, split, batch_size, max_length):
    """One temperature, fitted on validation texts, and the calibration error with it on the texts of the report."""
    if split == "validation" or not len(data.validation):
        return {}
    temperature = validation_temperature(model, data, batch_size, max_length)
    return {"temperature": temperature, "ece_refitted": ece(reliability(answers.logits / temperature, labels))}


def validation_temperature(model, data, batch_size, max_length):
    """The temperature that suits VALIDATION_TEXTS validation texts best."""
    chosen = np.random.default_rng(0).permutation(len(data.validation))[:VALIDATION_TEXTS]
    rows, _ = model.encode([data.validation.texts[row] for row in chosen], max_length)
    return fit_temperature(model.score(rows, batch_size), [data.validation.labels[row] for row in chosen])


def folder_names(models):
    """{resolved path: name} of the models that have a folder."""
    return {Path(model.folder).resolve(): model.name for model in models if model.folder}
