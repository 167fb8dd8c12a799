"""The first screen of report.html: the verdict in a sentence, what went wrong, all models, and which one to ship."""

from pocketbert.evaluation.page_parts import (
    MAJORITY,
    NOT_MEASURED,
    baseline,
    brackets,
    cell,
    counted,
    heading,
    interval,
    name_of,
    note,
    number,
    others,
    section,
    sorted_cell,
    table,
    verdict_cell,
    words,
)

LIMITS_MB = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)     # of the table "which one to ship"
GOOD_ENOUGH = 0.95          # the lower end of what is kept: the first sentence is about the smallest such model
AS_GOOD = 0.005             # macro-F1: of models that are so close, the smaller is the one to ship
HEAD = ["model", "verdict", "macro-F1 [95 %]", "kept, %", "difference, points [95 %]", "MB", "x smaller",
        "ms, one text", "x faster, one text", "x faster, 32 texts", "texts a second", "memory, MB"]


def header(results):
    """What a manager reads: one sentence, what it rests on, and what went wrong."""
    return (f"<header><h1>{words(results['data'].value)}: {number(results['texts'], 'count')} "
            f"{words(results['split'].value)} texts, {len(results['label_names'].value)} classes</h1>"
            f"{verdict(results)}{note(what_it_rests_on(results))}{gate_box(results)}{warning_box(results)}</header>")


def headline_model(results):
    """The model of the first sentence: the smallest that surely keeps GOOD_ENOUGH, else the best; None: no other."""
    good = [model for model in others(results) if (model["keep_low"].value or 0) >= GOOD_ENOUGH]
    if good:
        return min(good, key=lambda model: model["size_mb"].value)
    return max(others(results), key=lambda model: model["macro_f1"].value, default=None)


def verdict(results):
    """The first sentence, and another one about the smallest model if that is not the same."""
    base = baseline(results)
    first = headline_model(results)
    lines = [sentence(first, base)]
    smallest = min(others(results), key=lambda model: model["size_mb"].value, default=None)
    if smallest != first:
        lines.append(f"The smallest, {sentence(smallest, base)}")
    return "".join(f'<p class="verdict">{line}</p>' for line in lines)


def sentence(model, base):
    if model is None:
        score = interval(base["macro_f1"], base["f1_low"], base["f1_high"], "score")
        return f"<b>{name_of(base)}</b> has macro-F1 {score}."
    keep = brackets(model["keep_low"], model["keep_high"], "percent")
    return (f"<b>{name_of(model)}</b> is {times(model['speedup_1'], 'faster')} and "
            f"{times(model['times_smaller'], 'smaller')}; it keeps <b>{number(model['keep'], 'percent')}&nbsp;%</b> of "
            f"the macro-F1 of {name_of(base)} {keep}.")


def times(ratio, word):
    """<b>13 x faster</b>; below 1 the ratio speaks for itself: 0.8 x as fast."""
    if (ratio.value or 1) < 1:
        word = {"faster": "as fast", "smaller": "as small"}[word]
    return f"<b>{number(ratio, 'factor')} x {word}</b>"


def what_it_rests_on(results):
    """The small print of the first sentence."""
    sentences = ["Brackets are 95 % intervals: on other texts of the same kind the number would most likely lie there.",
                 "Speed is that of one text at a time; size is the files with the tokenizer.",
                 f"Timed on {words(results['hardware']['processor'].value)} with "
                 f"{counted(results['hardware']['threads'], 'thread')}."]
    if headline_model(results) is not None:
        sentences.append(f"The first sentence is about the smallest model of which the interval's lower end is at "
                         f"least {100 * GOOD_ENOUGH:.0f}&nbsp;%; if there is none, about the best one.")
    if results["split"].value != "test":
        sentences.append("There is no labelled test file: the best epoch of each model was chosen on these texts, so "
                         "the scores are slightly optimistic.")
    return " ".join(sentences)


def gate_box(results):
    gate = results["gate"]
    if not gate:
        return ""
    asked = words(" ".join(gate["conditions"].value), 300)
    counts = ("the lower end of a score's interval counts" if gate["on"].value == "interval"
              else "scores count as they are")
    if not gate["missed"]:
        names = words(", ".join(gate["models"].value or []), 300)
        return f'<div class="box good"><b>Gate passed</b> by {names}: {asked} ({counts}).</div>'
    lines = "".join(f"<li>{words(line.value, 300)}</li>" for line in gate["missed"])
    return f'<div class="box bad"><b>Gate missed</b>: {asked} ({counts})<ul>{lines}</ul></div>'


def warning_box(results):
    if not results["warnings"]:
        return ""
    lines = "".join(f"<li>{words(warning.value, 300)}</li>" for warning in results["warnings"])
    return f'<div class="box bad"><b>What did not help</b><ul>{lines}</ul></div>'


# ---- the tables ------------------------------------------------------------------------------------------

def table_section(results):
    """All models, references last; a click on a heading sorts."""
    models = list(results["models"])
    kinds = ["baseline" if model["is_baseline"] else "reference" if model["is_reference"] else "" for model in models]
    about = ["A click on a heading sorts. MB: weights and tokenizer, as files, in 10<sup>6</sup> bytes. Milliseconds: "
             "medians of the model alone. Texts a second: from raw strings, in batches of 32. Memory: the peak of a "
             "process that runs this model alone."]
    if any(model["is_reference"] for model in models):
        about.append("Grey rows are references that cost next to nothing, trained on the same texts: the most frequent "
                     "class (majority) and models of word counts. A network should beat them.")
    return section("table", "All models", table(HEAD, [model_row(model) for model in models], sortable=True,
                                                kinds=kinds), note(" ".join(about)))


def model_row(model):
    difference = cell("" if model["is_baseline"] else interval(model["difference"], model["low"], model["high"],
                                                               "points"), model["difference"].value)
    score = interval(model["macro_f1"], model["f1_low"], model["f1_high"], "score", "score3")
    costs = [sorted_cell(model[key], kind) for key, kind in (
        ("size_mb", "mb"), ("times_smaller", "factor"), ("ms_1", "ms"), ("speedup_1", "factor"),
        ("speedup_32", "factor"), ("texts_per_second", "count"), ("peak_memory_mb", "count"))]
    if model["name"].value == MAJORITY:  # which costs nothing: a million times smaller, a thousand times faster
        costs = [cell(NOT_MEASURED)] * len(costs)
    return [heading(name_of(model)), verdict_cell(model), cell(score, model["macro_f1"].value),
            sorted_cell(model["keep"], "percent"), difference, *costs]


def ship_section(results):
    """For each limit of size the smallest of the best models below it; limits with the same answer share a line."""
    answers = {}  # path of the best model -> (its place, [limits])
    candidates = [model for model in results["models"] if model["name"].value != MAJORITY]
    largest = max(model["size_mb"].value for model in candidates)
    for limit in LIMITS_MB:
        inside = [model for model in candidates if model["size_mb"].value <= limit]
        if inside:
            enough = max(model["macro_f1"].value for model in inside) - AS_GOOD
            best = min((model for model in inside if model["macro_f1"].value >= enough),
                       key=lambda model: model["size_mb"].value)
            answers.setdefault(best.path, (best, []))[1].append(f"{limit:g}")
        if limit >= largest:
            break
    rows = []
    for best, limits in answers.values():
        rows.append([heading(f"at most {' or '.join([', '.join(limits[:-1])] * (len(limits) > 1) + limits[-1:])} MB"),
                     cell(f"<b>{name_of(best)}</b>{' (reference)' if best['is_reference'] else ''}", kind="left wrap"),
                     cell(number(best["size_mb"], "mb")), cell(number(best["macro_f1"], "score")),
                     cell(interval(best["keep"], best["keep_low"], best["keep_high"], "percent")),
                     cell(number(best["ms_1"], "ms")), cell(number(best["speedup_1"], "factor")), verdict_cell(best)])
    head = ["if it may weigh", "ship", "MB", "macro-F1", "kept, % [95 %]", "ms, one text", "x faster, one text",
            "verdict"]
    return section("ship", "Which one to ship?", table(head, rows), note(
        f"The smallest model within {100 * AS_GOOD:g} points of the highest macro-F1 below each size. The best of many "
        "is a little lucky: where the intervals of two lines overlap, prefer the smaller or the faster model."))
