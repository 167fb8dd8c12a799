"""A comparison as files: report.html, results.md, .csv and .json, pictures, and metrics.json beside each model."""

import csv
import io
from pathlib import Path

from pocketbert.evaluation.html import write_page
from pocketbert.evaluation.model_warnings import SLOWER
from pocketbert.evaluation.plots import plot_confusions, plot_histories, plot_scores
from pocketbert.evaluation.tables import difference_cell, markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line

COLUMNS = {  # heading -> the cell of a ModelResult
    "model": lambda model: model.name,
    "parameters": lambda model: f"{model.parameters:,}",
    "MB": lambda model: f"{model.bytes_mb:.2f}",
    "+ tokenizer": lambda model: f"{model.tokenizer_bytes / 1e6:.2f}",
    "macro-F1": lambda model: f"{model.macro_f1:.4f}",
    "accuracy": lambda model: f"{model.accuracy:.4f}",
    "difference [95 %]": lambda model: ("baseline" if model.is_baseline
                                        else difference_cell(model.difference, model.low, model.high)),
    "verdict": lambda model: model.verdict,
    "McNemar p": lambda model: "" if model.is_baseline else f"{model.p_value:.3f}",
    "ms batch 1 (p95)": lambda model: f"{model.ms_1:.2f} ({model.ms_1_p95:.2f})",
    "ms batch 32 (p95)": lambda model: f"{model.ms_32:.1f} ({model.ms_32_p95:.1f})",
    "x faster 1 / 32": lambda model: f"{model.speedup_1:.2f} / {model.speedup_32:.2f}",
    "texts/s from text": lambda model: f"{model.texts_per_second:,.0f}",
}


NOT_IN_TABLES = {"history", "commands"}
NOT_OF_ONE_MODEL = ("models", "label_names", "warnings", "gate")


def results_table(results):
    """One row a model."""
    rows = [list(COLUMNS)]
    for model in results.models:
        rows.append([cell(model) for cell in COLUMNS.values()])
    return markdown_table(rows, "l" + "r" * (len(COLUMNS) - 1))


def per_class_table(results):
    """One row a class: how many texts it has, and its F1 for each model."""
    rows = [["class", "texts", *[model.name for model in results.models]]]
    for name in results.label_names:
        classes = [model.per_class[name] for model in results.models]
        rows.append([name, f"{classes[0]['texts']:,}", *[f"{scores['f1']:.4f}" for scores in classes]])
    return markdown_table(rows, "l" + "r" * (len(rows[0]) - 1))


def scored_texts(results):
    """Which texts were scored, in one line."""
    line = f"{results.texts:,} {results.split} texts of {results.data}"
    if results.split == "validation":
        line += (" (there is no labelled test file; scores are slightly optimistic: the best epoch was chosen on these "
                 "texts)")
    return line


def remarks(results):
    """The sentences below the table."""
    models = results.models
    others = [model for model in models if not model.is_baseline and not model.is_reference]
    lines = [f"{scored_texts(results)}.",
             f"Times: {hardware_line(results.hardware)}; medians, the models in turn; without "
             f"tokenisation (which takes {models[0].tokenisation_us:.0f} µs a text), but for texts/s."]
    cut = [f"{model.name} {model.cut_texts:,}" for model in models if model.cut_texts]
    if cut:
        lines.append(f"Texts that were cut at {results.max_length} tokens (or at the model's own limit): "
                     f"{', '.join(cut)}.")
    lines += [f"WARNING: {warning}." for warning in results.warnings]
    for batch_size in (1, 32):
        slower = [model.name for model in others if getattr(model, f"speedup_{batch_size}") < SLOWER]
        if slower:
            lines.append(f"Slower than the baseline here at batch {batch_size}: {', '.join(slower)}.")
    if others:
        fastest_1 = min(others, key=lambda model: model.ms_1)
        fastest_32 = min(others, key=lambda model: model.ms_32)
        lines.append(f"Fastest of them at batch 1: {fastest_1.name}; at batch 32: {fastest_32.name}.")
        seen = max(model.detectable for model in others)
        lines.append(f"So many texts show a true difference of {100 * seen:.1f} points of macro-F1 or more in 80 % of "
                     "such samples; smaller ones may be there and not show.")
    if len(others) > 1:
        lines.append(f"Verdicts are corrected for {len(others)} comparisons with one baseline (Holm).")
    return lines


def results_csv(results):
    """Every plain number of every model, one row a model."""
    rows = [{"split": results.split, "texts": results.texts, **model.as_dict()} for model in results.models]
    nested = {key for row in rows for key, value in row.items() if isinstance(value, (dict, list))} | NOT_IN_TABLES
    rows = [{key: value for key, value in row.items() if key not in nested} for row in rows]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write_report(results, out):
    """Write the files of a report into the folder `out`; results.md last, because make waits for it.

    Returns the names of the files.
    """
    out = Path(out)
    pictures = {"score_size.png": "Score against size", "score_latency.png": "Score against latency",
                "confusion.png": "Confusion matrices"}
    plot_scores(results, "bytes_mb", "MB of the weight file", out / "score_size.png")
    plot_scores(results, "ms_1", "ms for one text", out / "score_latency.png")
    plot_confusions(results, out / "confusion.png")
    if any(model.history for model in results.models):
        plot_histories(results, out / "training.png")
        pictures["training.png"] = "Training curves"
    write_text(results_csv(results), out / "results.csv")
    write_json(results.as_dict(), out / "results.json")
    write_text(write_page(results.as_dict()), out / "report.html")
    lines = ["# Results", "", results_table(results), "", *[f"- {line}" for line in remarks(results)], "",
            "## F1 by class", "", per_class_table(results), "",
            *[f"![{title}]({name})" for name, title in pictures.items()]]
    write_text("\n".join(lines) + "\n", out / "results.md")
    return ["report.html", "results.md", "results.csv", "results.json", *pictures]


def write_metrics(results):
    """Write metrics.json into the folder of each model: its row, the data, the hardware.

    Returns a sentence for each folder that cannot be written to: the report does not depend on it.
    """
    notes = []
    about = {key: value for key, value in results.as_dict().items() if key not in NOT_OF_ONE_MODEL}
    for model in results.models:
        if model.is_reference:
            continue
        values = {key: value for key, value in model.as_dict().items() if key not in NOT_IN_TABLES}
        try:
            write_json(about | values, Path(model.folder) / "metrics.json")
        except OSError as error:
            notes.append(f"{model.folder}/metrics.json is not written ({error.strerror or error})")
    return notes
