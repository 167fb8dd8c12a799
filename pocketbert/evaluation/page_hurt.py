"""The part of report.html about single answers: classes, slices, flips, confusion, calibration, damaged texts."""

from pocketbert.evaluation.page_parts import (
    baseline,
    cell,
    figure,
    folded,
    grid,
    heading,
    name_of,
    note,
    number,
    number_table,
    section,
    table,
    tint,
    words,
    worth_a_column,
)
from pocketbert.evaluation.svg import reliability_diagram

FEW_TEXTS = 30              # a slice with fewer is grey
STRONGEST = 0.06            # a difference of so many points, in fractions, has the strongest colour
MATRIX_CLASSES = 8          # above, a confusion matrix is a list of the most frequent mistakes
MISTAKES = 10
HEAD_LENGTH = 32            # characters of a name at the head of a column, and of a label beside a text
TEXT_LENGTH = 600           # characters of a text that are shown


def column_names(models):
    return [name_of(model, HEAD_LENGTH) for model in models]


# ---- classes ---------------------------------------------------------------------------------------------

def class_section(results):
    """F1 of each class, and who is taken for whom."""
    base = baseline(results)
    models = worth_a_column(results)
    rows = []
    for label in results["label_names"]:
        was = base["per_class"][label.value]
        row = [heading(words(label.value)), cell(number(was["texts"], "count"))]
        for model in models:
            now = model["per_class"][label.value]["f1"]
            row.append(cell(number(now, "score"), kind=tint((now.value or 0) - (was["f1"].value or 0), 2 * STRONGEST)))
        rows.append(row)
    tiles = [confusion(results, model) for model in models if not model["is_reference"]]
    return section("classes", "Which classes got hurt?", note(
        "F1 of each class; red is below the baseline, green above, strongest at 12 points."),
        table(["class", "texts", *column_names(models)], rows),
        "<h3>Confusion: what each class is taken for</h3>", note("Rows: the true class. Columns: the answer. In % of "
                                                                 "the texts of the true class."), grid(tiles, "tiles"))


def confusion(results, model):
    """The matrix of one model in per cent of the true class; with many classes, its most frequent mistakes."""
    names = [words(name.value, 24) for name in results["label_names"]]
    if len(names) > MATRIX_CLASSES:
        return figure(f"<b>{name_of(model)}</b>{mistakes(model, names)}")
    body = []
    for row, name in enumerate(names):
        cells = []
        for column, share in enumerate(model["confusion_share"][row]):
            value = share.value if row == column else -share.value
            cells.append(cell(number(share, "percent0"), kind=tint(value, 1)))
        body.append(f"<tr><th scope=row>{name}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    return figure(f'<b>{name_of(model)}</b><div class="scroll" tabindex="0"><table class="confusion"><thead><tr>'
                  f"<td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>")


def mistakes(model, names):
    """The most frequent mistakes of a model with many classes."""
    found = [(count.value, row, column) for row, counts in enumerate(model["confusion"])
             for column, count in enumerate(counts) if row != column and count]
    rows = [[heading(names[row]), cell(names[column], kind="left"),
             cell(number(model["confusion"][row][column], "count"))]
            for _, row, column in sorted(found, reverse=True)[:MISTAKES]]
    return table(["true class", "taken for", "texts"], rows)


# ---- slices and damages ----------------------------------------------------------------------------------

def slice_section(results):
    """A heat map: accuracy of each model on each slice, minus the baseline's on the same texts."""
    base = baseline(results)
    models = [model for model in worth_a_column(results) if not model["is_baseline"]]
    rows = []
    for name in base["slices"]:
        was = base["slices"][name]
        is_small = was["texts"].value < FEW_TEXTS
        row = [heading(words(name), "few" if is_small else ""), cell(number(was["texts"], "count")),
               cell(number(was["accuracy"], "percent"))]
        for model in models:
            row.append(slice_cell(model["slices"][name], is_small))
        rows.append(row)
    if not rows or not models:
        return damage_part(results) and section("slices", "Which texts got hurt?", damage_part(results))
    head = ["slice", "texts", f"{name_of(base)}, accuracy %", *column_names(models)]
    return section("slices", "Which texts got hurt?", note(
        f"Accuracy on each slice minus that of {name_of(base)} on the same texts, in points. <b>Bold</b>: the 95 % "
        "interval of this one difference leaves out 0; of many slices, one in twenty does so by chance. <i>Italic</i>: "
        f"fewer than {FEW_TEXTS} texts."), table(head, rows), damage_part(results))


def slice_cell(found, is_small):
    difference = found["difference"].value or 0
    is_sure = (found["low"].value or 0) > 0 or (found["high"].value or 0) < 0
    kinds = ["few"] * is_small + ["sure"] * is_sure + [tint(difference, STRONGEST)]
    return cell(number(found["difference"], "points"), kind=" ".join(filter(None, kinds)))


def damage_part(results):
    """What typing errors, case and lost punctuation do to each model."""
    models = [model for model in worth_a_column(results) if model["robustness"]]
    if not models:
        return ""
    first = models[0]["robustness"]
    rows = []
    for name in first:
        row = [heading(words(name)), cell(number(first[name]["changed"], "count"))]
        for model in models:
            found = model["robustness"][name]["difference"]
            row.append(cell(number(found, "points"), kind=tint(found.value or 0, STRONGEST)))
        rows.append(row)
    count = number(first[next(iter(first))]["texts"], "count")
    return "<h3>Robustness: damaged texts</h3>" + note(
        f"Macro-F1 of each model on {count} texts after the damage minus its own before it, in points. Typos: a slip "
        "in a fifth of the longer words.") + table(["damage", "texts changed", *column_names(models)], rows)


# ---- flips -----------------------------------------------------------------------------------------------

def flip_section(results):
    """What each model gets wrong that the baseline gets right, with the texts."""
    models = [model for model in worth_a_column(results) if not model["is_baseline"] and model["flips"]]
    if not models:
        return ""
    base = name_of(baseline(results))
    columns = {"right before, wrong now": (lambda model: model["flips"]["broken"], "count"),
               "wrong before, right now": (lambda model: model["flips"]["fixed"], "count"),
               "same answer, %": (lambda model: model["same_label_as_baseline"], "percent"),
               "probability loyalty, %": (lambda model: model["probability_loyalty"], "percent")}
    texts = [flip_texts(model) for model in models if model["flips"]["examples"] and not model["is_reference"]]
    return section("flips", f"What does it get wrong that {base} gets right?", number_table(models, columns), note(
        f"Of {number(results['texts'], 'count')} texts; \"before\" is {base}. Probability loyalty: 1 - the square root "
        "of the Jensen-Shannon divergence of the two models' probabilities; 100 % is the same probabilities. Below, "
        "the texts that broke, those first of which the model is most sure: no threshold would catch them."), *texts)


def flip_texts(model):
    rows = []
    for example in model["flips"]["examples"]:
        rows.append([cell(words(example["text"].value, TEXT_LENGTH), kind="left wrap"),
                     cell(words(example["label"].value, HEAD_LENGTH), kind="left"),
                     cell(words(example["model"].value, HEAD_LENGTH), kind="left"),
                     cell(number(example["confidence"], "percent0"))])
    count = number(model["flips"]["broken"], "count")
    return folded(f"<b>{name_of(model)}</b>: {count} texts that were right and are wrong now",
                  table(["text", "label", "its answer", "sure, %"], rows))


# ---- calibration -----------------------------------------------------------------------------------------

def calibration_section(results):
    """Is a probability of 0.9 right nine times out of ten?"""
    tiles = []
    for model in worth_a_column(results):
        if not model["reliability"] or model["ece"].value is None:
            continue
        error = f"error {number(model['ece'], 'percent')} %"
        if model["temperature"].value is not None:
            error += (f"<br>{number(model['ece_refitted'], 'percent')} % at temperature "
                      f"{number(model['temperature'], 'plain')}")
        step = model.path.rpartition("/")[2]
        drawn = reliability_diagram(f"reliability-{step}", model["reliability"].value,
                                    f"Reliability of {model['name'].value}: accuracy against confidence",
                                    f"Expected calibration error {100 * model['ece'].value:.1f} %")
        tiles.append(figure(drawn, f"<b>{name_of(model)}</b><br>{error}"))
    return section("calibration", "How far can a probability be trusted?", note(
        "Accuracy (up) against confidence (right) in 15 bins; a large dot holds many texts. On the dashed line a "
        "probability means what it says; below it the model is too sure. The error is the mean distance (ECE). "
        "Dividing the logits by a temperature, fitted on validation texts, changes no answer."),
        grid(tiles, "tiles small")) if tiles else ""
