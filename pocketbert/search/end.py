"""The end of `search.py pareto`: which model is chosen, what its front scores on the other half, the files."""

import csv
import io
import shutil
from pathlib import Path

from pocketbert.errors import BudgetMissed
from pocketbert.evaluation.budget import violations
from pocketbert.evaluation.plots import plot_scores
from pocketbert.evaluation.tables import difference_cell, markdown_table
from pocketbert.files import replacing_files, write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.models.folder import FOLDER_FILES
from pocketbert.search.front import cheapest, front_of
from pocketbert.search.page import front_page
from pocketbert.search.rebuild import rebuild_script, steps_to

MOST = 12  # models that are measured again at the end


def choose(rows, conditions, baseline):
    """The cheapest row inside the budget, or None."""
    inside = [row for row in rows if not violations(conditions, row, baseline)]
    return cheapest(inside) if inside else None


def to_measure_again(rows, chosen):
    """The front, thinned to MOST models of all sizes; the chosen one is always in it."""
    front = front_of(rows)
    if len(front) > MOST:
        front = [front[round(i * (len(front) - 1) / (MOST - 1))] for i in range(MOST)]
    if chosen and chosen not in front:
        front.append(chosen)
    return sorted(front, key=lambda row: row["size_mb"])


def nearest(rows, conditions, baseline, count=3):
    """[(row, what it misses)], those first whose worst condition is missed by least."""
    missed = [(row, violations(conditions, row, baseline)) for row in rows]
    return sorted(missed, key=lambda pair: max(pair[1].values()))[:count]


def explain_miss(rows, conditions, baseline, search_again):
    """The BudgetMissed that names the nearest models and what stands in their way."""
    if not rows:
        return BudgetMissed(f"no candidate could be trained inside the budget's costs; {search_again}")
    lines = []
    for row, missed in nearest(rows, conditions, baseline):
        why = ", ".join(f"{condition} by {by:.1%}" for condition, by in missed.items())
        lines.append(f"{row['folder']} misses {why}")
    return BudgetMissed(f"no model is inside the budget. Nearest: {'; '.join(lines)}. {search_again}")


def front_rows(front, results):
    """What front.csv says of each model: scores of the half that chose, then those of the half that reports."""
    by_folder = {model.folder: model for model in results.models}
    [baseline] = [model for model in results.models if model.is_baseline]
    rows = []
    for row in front:
        model = by_folder[row["folder"]]
        rows.append({
            "model": Path(row["folder"]).name, "size_mb": row["size_mb"], "ms_1": model.ms_1, "ms_32": model.ms_32,
            "speedup_1": model.speedup_1, "speedup_32": model.speedup_32, "keep_chosen_on": row["keep"],
            "keep": model.macro_f1 / baseline.macro_f1, "macro_f1": model.macro_f1, "accuracy": model.accuracy,
            "difference": model.difference, "low": model.low, "high": model.high, "folder": row["folder"]})
    return rows


def front_table(rows):
    """front.csv for the eye."""
    table = [["model", "MB", "ms batch 1", "x faster 1 / 32", "keep, where chosen", "keep", "macro-F1",
              "difference [95 %]"]]
    for row in rows:
        table.append([row["model"], f"{row['size_mb']:.2f}", f"{row['ms_1']:.3f}",
                      f"{row['speedup_1']:.1f} / {row['speedup_32']:.1f}", f"{row['keep_chosen_on']:.1%}",
                      f"{row['keep']:.1%}", f"{row['macro_f1']:.4f}",
                      difference_cell(row["difference"], row["low"], row["high"])])
    return markdown_table(table, "l" + "r" * (len(table[0]) - 1))


def write_front(rows, all_rows, results, out):
    """front.csv, front.png and front.html. all_rows: of every model that was measured"""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(file.getvalue(), out / "front.csv")
    plot_scores(results, "bytes_mb", "MB of the model file", out / "front.png")
    about = (f"Scores and times of {len(all_rows)} models on the half of the validation texts that chooses. "
             "Green in the picture, shaded in the table: no other model is at least as good in score, size and time at "
             "once. "
             f"{len(rows)} models and the teacher were measured again on the other half: front.csv. "
             f"{hardware_line(results.hardware)}.")
    write_text(front_page(all_rows, front_of(all_rows), f"Small models for {results.data}", about), out / "front.html")


def keep_best(row, found, out):
    """Copy a model folder to OUT/best, with rebuild.sh and what was found about it."""
    folder = Path(row["folder"])
    best = out / "best"
    with replacing_files(best, (*FOLDER_FILES, "rebuild.sh", "pareto.json"), last="run.json") as staging:
        for name in FOLDER_FILES:
            if (folder / name).is_file() and name != "run.json":
                shutil.copyfile(folder / name, staging / name)
        write_text(rebuild_script(steps_to(folder)), staging / "rebuild.sh")
        write_json(found, staging / "pareto.json")
        shutil.copyfile(folder / "run.json", staging / "run.json")
    return best
