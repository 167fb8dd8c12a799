"""The report of evaluate.py: statistics on pairs of models, the table, the pictures. Numbers in, files out."""

import csv
import math
import os
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

# ---------------------------------------------------------------------------------------------------------
# Is the difference real?
# ---------------------------------------------------------------------------------------------------------

def macro_f1(confusion):
    """Macro-F1 of confusion matrices (..., classes, classes) [true, predicted], as sklearn computes it:
    the mean of 2 TP / (2 TP + FP + FN) over the classes that occur among the true or the predicted labels."""
    true_positive = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)  # 2 TP + FP + FN
    f1 = np.divide(2 * true_positive, total, out=np.zeros(total.shape), where=total > 0)
    return f1.sum(axis=-1) / (total > 0).sum(axis=-1)


def confusion_matrix(labels, predicted, num_labels):
    """(classes, classes) counts: row = true class, column = predicted class."""
    pairs = np.asarray(labels) * num_labels + np.asarray(predicted)
    return np.bincount(pairs, minlength=num_labels ** 2).reshape(num_labels, num_labels)


def paired_bootstrap(labels, predicted, baseline, num_labels, draws=2000, seed=0):
    """95 % interval of macro-F1(predicted) - macro-F1(baseline), both scored on the same redrawn texts.

    Drawing the texts once for both models removes what the texts' difficulty adds to the noise
    (Efron and Tibshirani 1993, chapter 13: the percentile interval).
    """
    labels, predicted, baseline = map(np.asarray, (labels, predicted, baseline))
    rng, differences = np.random.default_rng(seed), np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(len(labels), size=len(labels))
        differences[i] = (macro_f1(confusion_matrix(labels[drawn], predicted[drawn], num_labels))
                          - macro_f1(confusion_matrix(labels[drawn], baseline[drawn], num_labels)))
    return tuple(float(x) for x in np.quantile(differences, (0.025, 0.975)))


# Student's t: 97.5 % quantiles for 1, 2, 3 ... degrees of freedom; normal from 30 on.
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
               2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 1.960]


def t_interval(values):
    """(mean, low, high): the 95 % interval of the mean of a few runs, mean +- t * s / sqrt(n); one run: no width."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values[0]), math.nan, math.nan
    half = T_QUANTILES[min(len(values) - 1, len(T_QUANTILES)) - 1] * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def mcnemar(labels, predicted, baseline):
    """Exact p-value that two models are right equally often, from the texts on which only one is right."""
    labels, predicted, baseline = map(np.asarray, (labels, predicted, baseline))
    only_new = int(((predicted == labels) & (baseline != labels)).sum())
    only_old = int(((predicted != labels) & (baseline == labels)).sum())
    n = only_new + only_old  # twice the smaller tail of Binomial(n, 1/2)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(only_new, only_old) + 1)) / 2 ** n)


# ---------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------

COLUMNS = {  # heading -> how a row of results becomes a cell
    "model": lambda r: r["name"],
    "parameters": lambda r: f"{r['parameters']:,}",
    "MB": lambda r: f"{r['bytes'] / 1e6:.2f}",
    "+ tokenizer": lambda r: f"{r['tokenizer_bytes'] / 1e6:.2f}",
    "macro-F1": lambda r: f"{r['macro_f1']:.4f}",
    "accuracy": lambda r: f"{r['accuracy']:.4f}",
    "difference [95 %]": lambda r: ("baseline" if r["is_baseline"] else
                                    f"{100 * r['difference']:+.1f} [{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]"),
    "McNemar p": lambda r: "" if r["is_baseline"] else f"{r['p_value']:.3f}",
    "ms batch 1 (p95)": lambda r: f"{r['ms_1']:.2f} ({r['ms_1_p95']:.2f})",
    "ms batch 32 (p95)": lambda r: f"{r['ms_32']:.1f} ({r['ms_32_p95']:.1f})",
    "x faster 1 / 32": lambda r: f"{r['speedup_1']:.2f} / {r['speedup_32']:.2f}",
    "texts/s": lambda r: f"{r['texts_per_second']:,.0f}",
}


def table(results):
    """The results as lines of a Markdown table whose columns also line up in a terminal."""
    cells = [list(COLUMNS)] + [[cell(row) for cell in COLUMNS.values()] for row in results]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]

    def line(row):
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        return "| " + " | ".join([row[0].ljust(widths[0]), *padded[1:]]) + " |"
    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def per_class_table(results, label_names):
    """F1 of each class for each model, and how many texts the class has."""
    lines = ["| class | texts | " + " | ".join(row["name"] for row in results) + " |",
             "|---|---:|" + "---:|" * len(results)]
    for name in label_names:
        f1 = [f"{row['per_class'][name]['f1']:.4f}" for row in results]
        lines.append(f"| {name.replace('|', chr(92) + '|')} | {results[0]['per_class'][name]['texts']:,} | "
                     + " | ".join(f1) + " |")
    return "\n".join(lines)


def write_csv(results, path):
    """Every plain number of every result, one row a model."""
    fields = [key for key, value in results[0].items() if not isinstance(value, (dict, list))]
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)
    os.replace(temporary, path)


# ---------------------------------------------------------------------------------------------------------
# The pictures
# ---------------------------------------------------------------------------------------------------------

def save_figure(figure, path):
    """Write a picture and forget the figure."""
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def new_figure(*args, **options):
    plt.switch_backend("Agg")  # draws into files and needs no screen
    return plt.subplots(*args, **options)


def colours(names):
    """A colour for each model, the same in every picture."""
    return {name: plt.cm.tab10(i % 10) for i, name in enumerate(names)}


def plot_scores(results, key, xlabel, path):
    """Macro-F1 with its own 95 % interval against a cost, one point a model: up and to the left is better."""
    figure, axes = new_figure(figsize=(7, 4.2))
    colour_of = colours([row["name"] for row in results])
    for row in results:
        axes.errorbar(row[key], row["macro_f1"], yerr=[[row["macro_f1"] - row["f1_low"]],
                                                       [row["f1_high"] - row["macro_f1"]]],
                      fmt="o", markersize=8, capsize=3, color=colour_of[row["name"]], label=row["name"])
    axes.set(xscale="log", xlabel=xlabel, ylabel="macro-F1 (bars: 95 % of the texts' luck)")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.FuncFormatter(
        lambda x, _: f"{x:g}" if f"{x:e}"[0] in "2357" else ""))
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save_figure(figure, path)


def plot_confusions(results, label_names, path):
    """One confusion matrix a model, in per cent of the true class."""
    columns = min(3, len(results))
    rows = math.ceil(len(results) / columns)
    size = max(3.2, 0.34 * len(label_names))
    figure, axes = new_figure(rows, columns, figsize=(columns * size, rows * size), squeeze=False,
                                layout="constrained")
    for ax in axes.flat[len(results):]:
        ax.axis("off")
    ticks = range(len(label_names))
    for ax, row in zip(axes.flat, results, strict=False):
        counts = np.array(row["confusion"], dtype=float)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=100)
        ax.set_title(f"{row['name']} ({row['macro_f1']:.3f})", fontsize=10)
        ax.set_xticks(ticks, label_names, rotation=45 if len(label_names) <= 8 else 90, ha="right", fontsize=7)
        ax.set_yticks(ticks, label_names, fontsize=7)
        if len(label_names) <= 10:
            for i in ticks:
                for j in ticks:
                    ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8,
                            color="white" if share[i, j] > 55 else "black")
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("true (rows add up to 100 %)", fontsize=9)
    save_figure(figure, path)


def plot_histories(histories, path):
    """Training loss and validation macro-F1 against the epoch: {name: history of run.json, None if untrained}."""
    figure, (left, right) = new_figure(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, colour in colours(histories).items():
        if not (history := histories[name]):
            continue
        epochs = range(1, len(history) + 1)
        left.plot(epochs, [row["loss"] for row in history], "o-", color=colour, label=name)
        right.plot(epochs, [row["macro_f1"] for row in history], "o-", color=colour, label=name)
    left.set(xlabel="epoch", ylabel="training loss (each run's own)")
    right.set(xlabel="epoch", ylabel="validation macro-F1")
    for ax in (left, right):
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save_figure(figure, path)
