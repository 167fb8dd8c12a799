"""The report says so when a step does not help: numbers that look like a gain and are none.

Each function yields sentences about one ModelResult; `reference` is the row that it is measured against: its parent, if
that is in the same report, else the baseline.
"""

SLOWER = 0.95               # a speedup below this is reported; between it and 1 the difference is noise of the machine
FASTER = 1.05               # a speedup below this saves no time
MANY_ZEROS = 0.3            # sparsity from which on a reader expects a gain


def warnings_of(results):
    """All warnings of a report, model by model."""
    by_name = {model.name: model for model in results.models}
    found = []
    for model in results.models:
        if model.is_reference:
            continue
        twin = by_name.get(model.parent, results.baseline)
        found += [*one_class(model), *not_cut(model), *idle_zeros(model, twin), *slow_int8(model, twin),
                  *batch_mates(model)]
    return found


def one_class(model):
    if model.answers_one_class:
        yield f"{model.name} answers one class for every text"


def not_cut(model):
    parts = []
    if model.idle_heads:
        parts.append(f"{model.idle_heads:,} attention heads")
    if model.idle_neurons:
        parts.append(f"{model.idle_neurons:,} neurons")
    if parts:
        yield (f"{model.name} multiplies {' and '.join(parts)} by zeros: masked but not cut out, so no bytes and no "
               "time are saved; prune.py cuts")


def idle_zeros(model, twin):
    if model.sparsity >= MANY_ZEROS and max(speedups(model, twin)) < FASTER:
        yield (f"{100 * model.sparsity:.0f} % of the weights of {model.name} are zero, which saves no time here: "
               f"{max(speedups(model, twin)):.2f} x the speed of {twin.name}")


def slow_int8(model, twin):
    if model is twin or not any("int8" in form for form in model.formats) or any("int8" in f for f in twin.formats):
        return
    slow = [f"{ratio:.2f} x at batch {batch}" for batch, ratio in zip((1, 32), speedups(model, twin), strict=True)
            if ratio < SLOWER]
    if slow:
        yield (f"int8 is slower than fp32 on this processor: {model.name} has {' and '.join(slow)} of the speed of "
               f"{twin.name}")


def batch_mates(model):
    changed = (model.batch_mates or {}).get("labels_changed", 0)
    if changed:
        yield (f"{model.name} gives {100 * changed:.1f} % of the texts another label in a batch of 32 than alone")


def speedups(model, twin):
    """(batch 1, batch 32): twin's time / model's time, both measured in turn."""
    return model.speedup_1 / twin.speedup_1, model.speedup_32 / twin.speedup_32
