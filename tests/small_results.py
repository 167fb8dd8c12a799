"""Reports that were never measured, with plausible numbers."""

import torch

from pocketbert.evaluation.results import ModelResult, Results


def result_of(name, folder="x", is_baseline=False, label_names=("a", "b"), **changes):
    """A ModelResult with plausible numbers."""
    size = len(label_names)
    per_class = {label: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "texts": 5} for label in label_names}
    values = {"parameters": 1234, "bytes": 5_000_000, "tokenizer_bytes": 1000, "macro_f1": 0.8, "accuracy": 0.81,
              "cross_entropy": 0.4, "per_class": per_class, "confusion": torch.ones(size, size).long().tolist(),
              "f1_low": 0.7, "f1_high": 0.9, "answers_one_class": False, "difference": -0.02, "low": -0.03,
              "high": -0.01, "p_value": 0.03, "same_label_as_baseline": 0.9, "ms_1": 2.0, "ms_1_p95": 3.0,
              "speedup_1": 1.5, "ms_32": 20.0, "ms_32_p95": 25.0, "speedup_32": 1.4, "texts_per_second": 1600.0,
              "tokenisation_us": 30.0, "cut_texts": 0, "history": [{"loss": 1.0, "macro_f1": 0.5}]}
    return ModelResult(name=name, folder=str(folder), is_baseline=is_baseline, **values | changes)


def results_of(*models, split="test", label_names=("a", "b")):
    """Results of ModelResults; the first is the baseline, if none is."""
    if not any(model.is_baseline for model in models):
        models[0].is_baseline = True
    hardware = {"processor": "cpu", "instructions": ["avx2"], "cores": 2, "threads": 1, "torch": "2"}
    return Results("mine", "0" * 12, split, 40, 128, list(label_names), hardware, list(models))
