"""A report in which everything was measured, for the tests of the page."""

from small_results import result_of, results_of

WILD = ["<script>window.broken = 1</script>", "\"'><img src=x onerror=alert(1)>", "\u202eright to left \u05d0\u05d1",
        "long " * 2000, "\U0001f600 \U0001f1e9\U0001f1ea", "&lt;b&gt; &amp;", "\x00 \x1b[31m \udc80 \uffff", "~a/b\\c"]


def full_results(names=("teacher", "student", "int8"), label_names=("a", "b"), texts=("some text",)):
    """Results of models of which everything was measured; the first name is the baseline, two references are last."""
    label_names = list(label_names)
    models = []
    for i, name in enumerate(names):
        models.append(full_model(name, i, label_names, texts, names[0]))
    for name, score, size in (("tf-idf", 0.7, 5_000_000), ("majority", 0.2, 1)):
        models.append(result_of(name, "", label_names=label_names, is_reference=True, macro_f1=score, bytes=size,
                                f1_low=score - 0.02, f1_high=score + 0.02, verdict="worse", history=None))
    results = results_of(*models, label_names=label_names)
    results.warnings = [f"{names[-1]} answers one class for every text"]
    results.gate = {"conditions": ["keep>=0.9"], "on": "interval", "models": [names[-1]],
                    "missed": [f"{names[-1]} misses keep>=0.9: it has 0.8"]}
    results.mean_tokens = 21.25
    results.measured = "2026-01-01T00:00:00+00:00"
    return results


def full_model(name, i, label_names, texts, base):
    """The i-th row, with numbers of its own. base: also the name of a slice"""
    classes = range(len(label_names))
    scores = {
        "macro_f1": 0.8 - 0.01 * i, "f1_low": 0.78 - 0.01 * i, "f1_high": 0.82 - 0.01 * i, "detectable": 0.012,
        "difference": -0.01 * i, "low": -0.01 * i - 0.008, "high": -0.01 * i + 0.009,
        "keep": 1 - 0.0125 * i, "keep_low": 0.99 - 0.0125 * i, "keep_high": 1.01 - 0.0125 * i,
        "accuracy_difference": -0.009 * i, "accuracy_difference_low": -0.009 * i - 0.01,
        "accuracy_difference_high": -0.009 * i + 0.01, "p_value": 0.01 * i, "p_value_holm": 0.02 * i, "p_f1": 0.01,
        "p_f1_holm": 0.0004, "verdict": ["baseline", "these texts cannot tell", "worse"][min(i, 2)],
        "per_class": {label: {"precision": 0.5, "recall": 0.5, "f1": 0.7 - 0.03 * i + 0.001 * k, "texts": 5 + k}
                      for k, label in enumerate(label_names)},
        "confusion": [[90 if row == column else row + column + i for column in classes] for row in classes],
        "history": [{"epoch": e, "loss": 1 / e, "macro_f1": 0.5 + 0.1 * e - 0.02 * i} for e in (1, 2, 3)]}
    answers = {
        "flips": {"broken": 7 * i, "fixed": 3 * i, "of": 40, "examples": [
            {"text": text, "label": label_names[0], "baseline": label_names[0], "model": label_names[-1],
             "confidence": 0.9 - 0.01 * i} for text in texts if i]},
        "slices": {title: {"texts": 10 + 30 * k, "accuracy": 0.7, "difference": -0.01 * i, "low": -0.01 * i - 0.02,
                           "high": -0.01 * i + 0.02} for k, title in enumerate(["hashtags", "emoji", base])},
        "robustness": {"typos": {"texts": 40, "changed": 30, "macro_f1": 0.7, "difference": -0.05 * i}},
        "batch_mates": {"texts": 40, "labels_changed": 0.025 * i, "largest_logit_difference": 0.1},
        "same_label_as_baseline": 1 - 0.03 * i, "probability_loyalty": 1 - 0.04 * i,
        "reliability": [{"texts": 20, "confidence": 0.6, "accuracy": 0.55},
                        {"texts": 0, "confidence": None, "accuracy": None}],
        "ece": 0.05, "temperature": 1.3, "ece_refitted": 0.02}
    costs = {
        "bytes": 90_000_000 // (i + 1) ** 3, "tokenizer_bytes": 400_000, "zipped_bytes": 8e7, "flops": 4e8 / (i + 1),
        "bytes_by_part": {"embeddings": 4e7, "encoder": 4e7, "head": 1e6 + i, "header": 100.0},
        "ms_1": 12.0 / (i + 1), "speedup_1": i + 1.0, "ms_1_p99": 15.0, "ms_1_from_text": 13.0 / (i + 1),
        "ms_32": 200.0 / (i + 1), "speedup_32": i + 1.0, "ms_32_p99": 300.0, "ms_32_from_text": 210.0 / (i + 1),
        "texts_per_second": 150.0 * (i + 1), "cold_start_ms": 900.0 - i, "peak_memory_mb": 400.0 - i,
        "joules_per_1000_texts": 40.5,
        "other_threads": {"threads": 2, "ms_1": 7.0 + i, "ms_32": 90.0, "speedup_1": 1.0, "speedup_32": 1.1,
                          "texts_per_second": 300.0}}
    return result_of(name, f"runs/{name}", i == 0, label_names, **scores, **answers, **costs,
                     commands=["git checkout 0123456", f"python train.py --out runs/{name}"])
