"""The page of one of five published systems: its authors' numbers, ours beside them, and what was wrong there.

    python benchmarks/systems/report.py friends --runs runs/systems/friends

Reads what the authors published from NAME.toml beside this file, and what `make NAME` measured from the reports of
evaluate.py below --runs. Writes docs/results/NAME.md and .json. A row whose model is not there is not in the table: the
page names it below, with the published number alone.

The published metric is computed from the confusion matrix, which also gives its interval: to draw N texts again with
replacement is to draw the counts of the matrix from a multinomial distribution.
"""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from pocketbert.cli import parser_for, run_script  # noqa: E402
from pocketbert.errors import UserError  # noqa: E402
from pocketbert.evaluation.metrics import t_interval  # noqa: E402
from pocketbert.evaluation.tables import difference_cell, markdown_table  # noqa: E402
from pocketbert.files import read_json, write_json, write_text  # noqa: E402
from pocketbert.hardware import hardware_line  # noqa: E402
from pocketbert.models.recipes import RECIPES  # noqa: E402
from pocketbert.provenance import git_commit  # noqa: E402

SYSTEMS = sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


# ---- the metrics that were published, of confusion matrices (..., C, C) [true, predicted] ---------------------

def class_f1(confusion):
    """(..., C): the F1 of each class, 0 where a class is neither a true nor a predicted label."""
    both = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return 2 * np.diagonal(confusion, axis1=-2, axis2=-1) / np.maximum(both, 1)


def accuracy(confusion):
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def macro_f1(confusion):
    return class_f1(confusion).mean(axis=-1)


def weighted_f1(confusion):
    """Each class counts as often as it occurs: sklearn's average="weighted"."""
    texts = confusion.sum(axis=-1)
    return (class_f1(confusion) * texts).sum(axis=-1) / texts.sum(axis=-1)


METRICS = {"accuracy": accuracy, "macro-F1": macro_f1, "weighted F1": weighted_f1}


def with_interval(metric, confusion, draws=2000, seed=0):
    """(value, low, high): a metric of one confusion matrix, and its 95 % bootstrap interval over the texts."""
    counts = np.array(confusion)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(counts.sum(), counts.ravel() / counts.sum(), size=draws).reshape(draws, *counts.shape)
    low, high = np.quantile(METRICS[metric](drawn), [0.025, 0.975])
    return float(METRICS[metric](counts)), float(low), float(high)


# ---- what was measured -----------------------------------------------------------------------------------------

def read_report(folder):
    """What evaluate.py wrote into `folder`, as far as a page needs it; None if there is no report.

    The only function that knows the names in results.json.
    """
    path = folder / "results.json"
    if not path.exists():
        return None
    results = read_json(path)
    models = {}
    for row in results["models"]:
        difference = {"macro-F1": [row["difference"], row["low"], row["high"]],
                      "accuracy": [row[f"accuracy_difference{end}"] for end in ("", "_low", "_high")]}
        models[row["name"]] = {
            "folder": row["folder"], "confusion": row["confusion"],
            "difference": None if row["is_baseline"] else difference,
            "mb": (row["bytes"] + row["tokenizer_bytes"]) / 1e6, "ms": row["ms_1"], "faster": row["speedup_1"],
            "ms_32": row["ms_32"], "faster_32": row["speedup_32"]}
    return {"data": results["data"], "split": results["split"], "texts": results["texts"],
            "hardware": results["hardware"], "models": models,
            "baseline": next(row["name"] for row in results["models"] if row["is_baseline"])}


def weights_of(folder):
    """Which pretrained weights a model comes from, by the run.json of its folder and of those before it.

    A reference of evaluate.py, such as counting words, has no folder.
    """
    if not folder:
        return "none"
    run = read_json(Path(folder) / "run.json")
    name = run.get("student") or run["arguments"]["model"]
    kind = name.partition(":")[0]
    if kind == "teacher":
        return f"{weights_of(run['teachers'][0])}, {name.partition(':')[2].replace('=', ' ')}"
    if kind in RECIPES:
        words = run["arguments"].get("words")
        return f"none ({kind})" + (f", words of {Path(words).name}" if words else "")
    if (Path(name) / "run.json").exists():
        return weights_of(name)
    return Path(name).name if Path(name).is_dir() else name


def measure_row(row, table, reports):
    """Our numbers for a row of NAME.toml, or None if one of its models was not run.

    With `seeds`, a list of models, the value is their mean and the interval that over the seeds; otherwise the interval
    is that over the texts. Size and time are those of the model `run`.
    """
    report = reports[row.get("report", table["report"])]
    names = row.get("seeds", [row["run"]])
    if report is None or not set(names) <= set(report["models"]):
        return None
    model = report["models"][row["run"]]
    value, low, high = with_interval(table["metric"], model["confusion"])
    if len(names) > 1:
        metric = METRICS[table["metric"]]
        value, low, high = t_interval([float(metric(np.array(report["models"][name]["confusion"]))) for name in names])
    kept = {key: model[key] for key in model if key != "folder"}
    return {"value": value, "low": low, "high": high, "weights": weights_of(model["folder"]), **kept}


def table_rows(table, runs):
    """(the main report of a table of NAME.toml, its rows with our numbers, its rows that were not run)."""
    reports = {name: read_report(runs / name) for name in
               {table["report"], *(row["report"] for row in table["rows"] if "report" in row)}}
    done = []
    missing = []
    for row in table["rows"]:
        ours = measure_row(row, table, reports)
        if ours is None:
            missing.append(row)
            continue
        reference = next((other.get("published") for other in table["rows"]
                          if other["run"] == reports[table["report"]]["baseline"]), None)
        loss = None
        if ours["difference"] and None not in (reference, row.get("published")):
            loss = row["published"] - reference
        done.append({**row, "published_loss": loss, "ours": ours})
    report = reports[table["report"]]
    return report and {key: report[key] for key in report if key != "models"}, done, missing


def gain_rows(gains, runs):
    """What a teacher was worth: the paired difference of student and control over the seeds, with its interval.

    gains: [{"student", "control", "metric", "published"}]; the first two are folders of distill.py below `runs`, and
    the scores of the control's seeds stand in the run.json of the student that was trained with --control.
    """
    rows = []
    for gain in gains:
        paths = [runs / gain[role] / "run.json" for role in ("student", "control")]
        if not all(path.exists() for path in paths):
            continue
        student, control = (read_json(path)["seeds"] for path in paths)
        key = {"accuracy": "accuracy", "macro-F1": "macro_f1"}[gain["metric"]]
        differences = [one[key] - other[key] for one, other in zip(student["student"], control["alone"], strict=True)]
        mean, low, high = t_interval(differences)
        rows.append({**gain, "seeds": len(differences), "mean": mean, "low": low, "high": high})
    return rows


# ---- the page --------------------------------------------------------------------------------------------------

def number(value):
    return "" if value is None else f"{value:.4f}".rstrip("0").ljust(5, "0")


def markdown_rows(rows, metric):
    """The cells of one table. metric: of our losses"""
    cells = [["model", "published", "their loss", "ours [95 %]", "our loss [95 %]", "their size", "our MB",
              "their time", "our ms (x faster)", "weights here", "what was wrong there"]]
    for row in rows:
        ours = row["ours"]
        batch = "_32" if row.get("batch") == 32 else ""
        loss = "" if row["published_loss"] is None else f"{100 * row['published_loss']:+.1f}"
        our_loss = "baseline" if ours["difference"] is None else difference_cell(*ours["difference"][metric])
        cells.append([row["name"], number(row.get("published")), loss,
                      f"{ours['value']:.4f} [{ours['low']:.3f}, {ours['high']:.3f}]", our_loss,
                      row.get("size", ""), f"{ours['mb']:.2f}", row.get("time", ""),
                      f"{ours['ms' + batch]:.2f} ({ours['faster' + batch]:.2f})", ours["weights"],
                      row.get("wrong", "")])
    return markdown_table(cells, "lrrrrrrrrll")


def table_lines(table, report, rows, missing):
    """The section of one table."""
    lines = [f"## {table['heading']}", "", table["about"].strip(), ""]
    if rows:
        metric = "accuracy" if table["metric"] == "accuracy" else "macro-F1"
        lines += [markdown_rows(rows, metric), "",
                  f"Published: {table['metric']} on {table['texts']}. Ours: {table['metric']} on {report['texts']:,} "
                  f"{report['split']} texts of `{report['data']}`. Losses are in points: theirs of this metric, ours "
                  f"of {metric} on the same texts, each against the row of `{report['baseline']}`. MB: files of model "
                  f"and tokenizer. ms: the model's median for one text. {hardware_line(report['hardware'])}.", ""]
    if missing:
        lines += ["Not run here, so without a number of ours:", ""]
        for row in missing:
            value = f" ({number(row['published'])})" if row.get("published") else ""
            lines.append(f"- {row['name']}{value}" + (f": {row['wrong']}" if row.get("wrong") else ""))
        lines.append("")
    return lines


def copy_pictures(table, runs, out, system):
    """Copy the report's pictures beside the page; returns the lines that show them."""
    lines = []
    for name in table.get("pictures", []):
        picture = runs / table["report"] / name
        if picture.exists():
            copy = f"{system}_{table['report'].rpartition('/')[0].replace('/', '_')}{name}"
            shutil.copyfile(picture, Path(out) / copy)
            lines += [f"![{table['heading']}: {picture.stem}]({copy})", ""]
    return lines


def write_csv(path, rows):
    """Rows as the file that the authors exported, with what they left out: bytes, milliseconds, intervals."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "weights", *METRICS, "low", "high", "mb", "ms"])
        for row in rows:
            ours = row["ours"]
            values = [metric(np.array(ours["confusion"])) for metric in METRICS.values()]
            writer.writerow([row["run"], ours["weights"], *values, ours["low"], ours["high"], ours["mb"], ours["ms"]])


def copied_page(path):
    """The lines of a page that another benchmark wrote, one heading deeper and without its pictures."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"#{line}" if line.startswith("#") else line for line in lines if not line.startswith("![")] + [""]


def gain_lines(rows):
    """The section of the differences between students and their controls."""
    cells = [["data", "student", "metric", "published gain", "our gain [95 %]", "seeds", "so"]]
    for row in rows:
        so = "nothing can be shown" if row["low"] <= 0 <= row["high"] or row["seeds"] < 2 else "a gain"
        so = "a loss" if row["high"] < 0 else so
        interval = difference_cell(row["mean"], row["low"], row["high"])
        cells.append([row["data"], row["name"], row["metric"], f"{100 * row['published']:+.2f}", interval,
                      str(row["seeds"]), so])
    return ["## What the teacher was worth", "", "The student minus the same student without a teacher, both trained "
            "for as many steps, in points. The interval is over the seeds; the scores are of validation texts, on "
            "which the best epoch was chosen too.", "", markdown_table(cells, "lllrrrl"), ""]


def page(system, result):
    lines = [f"# {system['title']}", "", system["about"].strip(), ""]
    for table in result["tables"]:
        lines += table_lines(table["of"], table["report"], table["rows"], table["missing"]) + table["pictures"]
    if result["gains"]:
        lines += gain_lines(result["gains"])
    lines += result["pages"]
    lines += ["## What else was wrong there", "", *(f"- {line}" for line in system["also"]), ""]
    lines += ["## How it was made", "", f"- `{result['command']}`", f"- Commit {result['commit']}",
              f"- Published numbers: <{system['repository']}>"]
    if result["note"]:
        lines.append(f"- {result['note']}")
    return "\n".join([*lines, ""])


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--runs", required=True, help="the folder of its runs, made by `make SYSTEM`")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="the folder for SYSTEM.md and .json")
    parser.add_argument("--command", help="the call of make that made the runs (default: make SYSTEM)")
    parser.add_argument("--note", default="", help="a sentence about this run, such as what else the machine did")
    args = parser.parse_args(argv)
    with open(Path(__file__).parent / f"{args.system}.toml", "rb") as file:
        system = tomllib.load(file)
    runs = Path(args.runs)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    tables = []
    for table in system["tables"]:
        report, rows, missing = table_rows(table, runs)
        for file, names in table.get("csv", {}).items():
            if rows:
                write_csv((runs / table["report"]).parent / file, [row for row in rows if row["run"] in names])
        pictures = copy_pictures(table, runs, args.out, args.system) if rows else []
        tables.append({"of": table, "report": report, "rows": rows, "missing": missing, "pictures": pictures})
    if not any(table["rows"] for table in tables):
        raise UserError(f"{runs} holds no report of evaluate.py yet: `make {args.system}` makes it")
    result = {"command": args.command or f"make {args.system}", "commit": git_commit(), "note": args.note,
              "tables": tables, "gains": gain_rows(system.get("gains", []), runs),
              "pages": [line for name in system.get("pages", []) for line in copied_page(runs / name)]}
    write_text(page(system, result), Path(args.out) / f"{args.system}.md")
    write_json(result, Path(args.out) / f"{args.system}.json")
    print(f"{args.out}: {args.system}.md, {args.system}.json")
    return result


if __name__ == "__main__":
    run_script(main)
