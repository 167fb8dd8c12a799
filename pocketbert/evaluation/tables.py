"""The table of results: Markdown that lines up in a terminal, and CSV."""

import csv
import os
from pathlib import Path

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


def results_table(results):
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
