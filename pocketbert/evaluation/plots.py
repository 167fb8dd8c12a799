"""The pictures of a report. matplotlib is imported when the first one is drawn."""

import contextlib
import math
import warnings

import numpy as np


@contextlib.contextmanager
def figure_file(path, rows=1, columns=1, **options):
    """(figure, axes (rows, columns)) to draw on; written to `path` at the end of the with block.

    A Figure of its own, not one of pyplot's: no screen is needed, and a program that calls us keeps its own figures.
    Names of models and labels are text, whatever is in them: matplotlib would read "$" as mathematics.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # an emoji becomes a box
        figure = Figure(**options)
        yield figure, figure.subplots(rows, columns, squeeze=False)
        figure.savefig(path, dpi=130, bbox_inches="tight")


def legend_name(name):
    """matplotlib leaves names that start with "_" out of a legend."""
    return f" {name}" if name.startswith("_") else name


def colours(names):
    """{name: colour}, the same in every picture."""
    from matplotlib import colormaps
    return {name: colormaps["tab10"](i % 10) for i, name in enumerate(names)}


def format_logarithmic_axis(axis):
    """Plain numbers at 1, 2, 3, 5, 7 times the powers of ten."""
    from matplotlib.ticker import FuncFormatter
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "2357" else ""))


def plot_scores(results, cost, xlabel, path):
    """Macro-F1 with its 95 % interval against a cost, one point a model: up and to the left is better.

    cost: a field of ModelResult, "bytes_mb" or "ms_1"
    """
    colour_of = colours([model.name for model in results.models])
    with figure_file(path, figsize=(7, 4.2)) as (_, axes):
        ax = axes[0, 0]
        for model in results.models:
            below, above = model.macro_f1 - model.f1_low, model.f1_high - model.macro_f1
            ax.errorbar(getattr(model, cost), model.macro_f1, yerr=[[max(0, below)], [max(0, above)]], fmt="o",
                        markersize=8, capsize=3, color=colour_of[model.name],
                        label=legend_name(model.name))
        ax.set(xscale="log", xlabel=xlabel, ylabel="macro-F1 (bars: 95 % bootstrap interval)")
        format_logarithmic_axis(ax.xaxis)
        ax.grid(alpha=0.3, which="both")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def plot_confusions(results, path):
    """One confusion matrix a model, in per cent of the true class."""
    models = results.models
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    size = max(3.2, 0.34 * len(results.label_names))
    figsize = columns * size, rows * size
    with figure_file(path, rows, columns, figsize=figsize, layout="constrained") as (figure, axes):
        for ax in axes.flat[len(models):]:
            ax.axis("off")
        for ax, model in zip(axes.flat, models, strict=False):
            draw_confusion(ax, model, results.label_names)
        figure.supxlabel("predicted", fontsize=9)
        figure.supylabel("true (rows add up to 100 %)", fontsize=9)


def draw_confusion(ax, model, label_names):
    """One confusion matrix; the numbers are written into the cells up to 10 classes."""
    counts = np.array(model.confusion, dtype=float)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ticks = range(len(label_names))
    ax.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ax.set_title(f"{model.name} ({model.macro_f1:.3f})", fontsize=10)
    ax.set_xticks(ticks, label_names, rotation=45 if len(label_names) <= 8 else 90, ha="right", fontsize=7)
    ax.set_yticks(ticks, label_names, fontsize=7)
    if len(label_names) > 10:
        return
    for (i, j), value in np.ndenumerate(share):
        ax.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 55 else "black")


def plot_histories(results, path):
    """Training loss and validation macro-F1 against the epoch, for the models whose run.json has a history."""
    from matplotlib.ticker import MaxNLocator
    colour_of = colours([model.name for model in results.models])
    with figure_file(path, 1, 2, figsize=(10, 3.8), layout="constrained") as (_, axes):
        left, right = axes[0]
        for model in results.models:
            if not model.history:
                continue
            epochs = range(1, len(model.history) + 1)
            style = {"color": colour_of[model.name], "label": legend_name(model.name), "marker": "o"}
            left.plot(epochs, [epoch["loss"] for epoch in model.history], **style)
            right.plot(epochs, [epoch["macro_f1"] for epoch in model.history], **style)
        left.set(xlabel="epoch", ylabel="training loss (of the run's own objective)")
        right.set(xlabel="epoch", ylabel="validation macro-F1")
        for ax in (left, right):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.3)
        right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
