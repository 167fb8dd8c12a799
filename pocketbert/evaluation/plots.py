"""The pictures of a report."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np


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
