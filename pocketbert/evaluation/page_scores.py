"""The part of report.html about scores: against size and time, how sure the differences are, and the training."""

from pocketbert.evaluation.page_parts import (
    MAJORITY,
    baseline,
    cell,
    figure,
    folders,
    grid,
    heading,
    interval,
    name_of,
    note,
    others,
    section,
    sorted_cell,
    table,
    verdict_cell,
    words,
)
from pocketbert.evaluation.svg import curves, forest, scatter


def front_names(models, cost):
    """Names of the models of which no other is both cheaper and better."""
    costs = [(model[cost].value, -model["macro_f1"].value) for model in models]
    return {model["name"].value for model, (x, y) in zip(models, costs, strict=True)
            if not any(other != (x, y) and other[0] <= x and other[1] <= y for other in costs)}


def front_section(results):
    """Score against size and against latency."""
    pictures = [front_picture(results, "size_mb", "MB of weights and tokenizer", "size"),
                front_picture(results, "ms_1", "ms for one text", "latency")]
    return section("front", "Score against size and time", note(
        "Up and to the left is better. Bars are 95 % intervals; the dashed green line is the Pareto front; rings are "
        "references."), grid(pictures)) if any(pictures) else ""


def front_picture(results, cost, xlabel, what):
    """Macro-F1 against a cost, a key of the models; "" if none has it."""
    models = [model for model in results["models"] if model["name"].value != MAJORITY and model[cost].value]
    front = front_names(models, cost)
    points = []
    for model in models:
        name, score = model["name"].value, model["macro_f1"].value
        points.append({"name": name, "label": name, "x": model[cost].value, "y": score,
                       "low": model["f1_low"].value or score, "high": model["f1_high"].value or score,
                       "on_front": name in front, "is_reference": model["is_reference"].value})
    names = ", ".join(str(point["name"]) for point in points if point["on_front"])
    said = f"On the Pareto front: {names}. The numbers stand in the table of all models."
    return "" if not points else figure(
        scatter(f"front-{what}", points, xlabel, "macro-F1", f"Macro-F1 against {what}", said),
        f"Score against {what}. Nothing is both better and cheaper than <b>{words(names, 400)}</b>.")


def difference_section(results):
    """How sure the differences are: intervals, p-values, and what could have been seen."""
    models = others(results)
    if not models:
        return ""
    base = baseline(results)
    rows = []
    for model in models:
        found = {key: model[key].value for key in ("difference", "low", "high")}
        if None not in found.values():
            rows.append({"name": model["name"].value, **{key: 100 * value for key, value in found.items()}})
    said = "; ".join(f"{row['name']} {row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]" for row in rows)
    drawn = rows and figure(forest("forest", rows, "macro-F1 minus the baseline's, in points",
                                   f"Differences in macro-F1 from {base['name'].value}, with 95 % intervals", said))
    head = ["model", "macro-F1, points [95 %]", "accuracy, points [95 %]", "p, macro-F1 (Holm)", "McNemar p",
            "McNemar p (Holm)", "would have shown, points", "verdict"]
    return section("difference", f"How sure is the difference from {name_of(base)}?",
                   grid([drawn or "", f"<div>{how_sure(models)}</div>"]),
                   table(head, [difference_row(model) for model in models], sortable=True))


def difference_row(model):
    accuracy = interval(model["accuracy_difference"], model["accuracy_difference_low"],
                        model["accuracy_difference_high"], "points")
    return [heading(name_of(model)),
            cell(interval(model["difference"], model["low"], model["high"], "points"), model["difference"].value),
            cell(accuracy, model["accuracy_difference"].value), sorted_cell(model["p_f1_holm"], "p"),
            sorted_cell(model["p_value"], "p"), sorted_cell(model["p_value_holm"], "p"),
            sorted_cell(model["detectable"], "percent"), verdict_cell(model)]


def how_sure(models):
    """What the words of the verdicts mean."""
    many = f", also after Holm's correction for {len(models)} comparisons" if len(models) > 1 else ""
    return ("<p>All models answer the same texts. These are drawn again 2,000 times, with replacement, and the "
            "interval holds 95 % of the differences (paired bootstrap). McNemar's test asks whether two models are "
            "right equally often.</p>"
            f"<p><b>worse</b>, <b>better</b>: the interval leaves out 0{many}.<br>"
            "<b>same within X points</b>: the whole interval lies within X, at most one point.<br>"
            "<b>these texts cannot tell</b>: neither; more texts would.<br>"
            "<b>would have shown</b>: the smallest true difference that so many texts reveal in 80 % of such samples. "
            "Smaller ones may be there and not show.</p>")


def training_section(results):
    """Validation scores and losses against the epoch."""
    pictures = []
    for key, title in (("macro_f1", "Validation macro-F1"), ("loss", "Training loss")):
        lines = []
        for model in folders(results):
            values = [epoch[key].value for epoch in model["history"]]
            if values and all(isinstance(value, (int, float)) for value in values):
                lines.append({"name": model["name"].value, "values": values})
        if lines:
            said = "; ".join(f"{each['name']} {each['values'][-1]:.4g} after epoch {len(each['values'])}"
                             for each in lines)
            pictures.append(figure(curves(f"curve-{key}", lines, title, f"{title} of each epoch", said),
                                   f"{title} of each epoch"))
    return section("training", "Training", note("Losses of different objectives cannot be compared."),
                   grid(pictures)) if pictures else ""
