"""Is a model good enough? The conditions of budget.py, asked of a report, for use in CI.

    evaluate.py ... --gate "macro_f1>=0.97*baseline ms_1<=2 size_mb<=5"

A score counts with the lower end of its 95 % interval (on="interval"), so that a model which was lucky on these texts
does not pass; on="point" takes the score as it is. Costs are medians and file sizes, which have no interval.
"""

from pocketbert.evaluation.budget import SCORES

FIELDS = {  # word -> the field of ModelResult
    "keep": "keep", "macro_f1": "macro_f1", "accuracy": "accuracy", "ms_1": "ms_1", "ms_32": "ms_32",
    "texts_per_s": "texts_per_second", "size_mb": "size_mb", "memory_mb": "peak_memory_mb"}
RATIOS = {"keep": "keep", "macro_f1": "keep", "accuracy": "accuracy_keep"}  # a score / the baseline's
LOW = {"keep": "keep_low", "macro_f1": "f1_low", "accuracy": "accuracy_low", "accuracy_keep": "accuracy_keep_low"}


def missed(model, baseline, conditions, on="interval"):
    """A line for each condition that a ModelResult misses. conditions: of budget.parse_budget"""
    lines = []
    for condition in conditions:
        is_share = condition.of_baseline and condition.word in SCORES
        field = (RATIOS if is_share else FIELDS)[condition.word]
        point = getattr(model, field)
        value = getattr(model, LOW[field]) if on == "interval" and field in LOW else point
        unit = 1 if is_share else getattr(baseline, field)
        if value is None or condition.of_baseline and unit is None:
            lines.append(f"{model.name} misses {condition}: not measured")
        elif condition.violation({condition.word: value}, {condition.word: unit}) > 0:
            words = f"it has {point:.4g}"
            if value != point:
                words += f", the lower end of its 95 % interval is {value:.4g}"
            if condition.of_baseline and not is_share:
                words += f", asked is {condition.number * unit:.4g}"
            lines.append(f"{model.name} misses {condition}: {words}")
    return lines


def check_gate(results, conditions, on="interval"):
    """{"conditions", "on", "models", "missed": [lines]} of all models but the baseline and the references.

    A report on one model alone checks that one.
    """
    models = [model for model in results.models if not model.is_baseline and not model.is_reference]
    models = models or [results.baseline]
    lines = []
    for model in models:
        lines += missed(model, results.baseline, conditions, on)
    return {"conditions": [str(condition) for condition in conditions], "on": on,
            "models": [model.name for model in models], "missed": lines}
