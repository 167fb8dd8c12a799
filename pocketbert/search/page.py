"""front.html: the models of a search as a picture and a table, in one file that needs nothing from elsewhere."""

import math
from html import escape

WIDTH, HEIGHT, MARGIN = 640, 380, 56

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
.axis { stroke: currentColor; opacity: .4; }
circle { fill: #3b82c4; opacity: .55; } circle.front { fill: #d9480f; opacity: 1; }
circle:hover, circle:focus { stroke: currentColor; stroke-width: 2; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
td + td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid; }
"""

SORT = """
document.querySelectorAll("th button").forEach((button, column) => button.onclick = () => {
  const body = document.querySelector("tbody"), up = button.dataset.up = button.dataset.up === "1" ? "" : "1";
  const key = row => { const t = row.cells[column].textContent; return column ? parseFloat(t) : t; };
  [...body.rows].sort((a, b) => (key(a) < key(b) ? -1 : 1) * (up ? 1 : -1)).forEach(row => body.append(row));
});
"""

COLUMNS = {  # heading -> the cell of a row of measure.py
    "model": lambda row: row["folder"].rstrip("/").rpartition("/")[2],
    "MB": lambda row: f"{row['size_mb']:.3f}", "ms, one text": lambda row: f"{row['ms_1']:.3f}",
    "texts/s": lambda row: f"{row['texts_per_s']:.0f}", "macro-F1": lambda row: f"{row['macro_f1']:.4f}",
    "keep": lambda row: f"{100 * row['keep']:.1f} %"}


def front_page(rows, front, title, about):
    """The page. rows: of all models    front: those on the Pareto front    about: what the numbers are, a sentence"""
    heads = "".join(f"<th><button>{escape(name)}</button></th>" for name in COLUMNS)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell(row))}</td>" for cell in COLUMNS.values()) + "</tr>"
                    for row in sorted(rows, key=lambda row: row["size_mb"]))
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1><p>{escape(about)}</p>"
            f"{scatter(rows, front)}<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>"
            f"</table></div><script>{SORT}</script></html>\n")


def scatter(rows, front):
    """Keep against megabytes (logarithmic): one circle a model, those of the front in another colour."""
    x_of = axis([math.log10(row["size_mb"]) for row in rows], MARGIN, WIDTH - MARGIN)
    y_of = axis([row["keep"] for row in rows], HEIGHT - MARGIN, MARGIN)
    marks = []
    for row in sorted(rows, key=lambda row: row in front):
        label = ", ".join(cell(row) if name == "model" else f"{cell(row)} {name}" for name, cell in COLUMNS.items())
        marks.append(f'<circle tabindex=0 r=6 cx={x_of(math.log10(row["size_mb"])):.1f} cy={y_of(row["keep"]):.1f}'
                     f'{" class=front" if row in front else ""}><title>{escape(label)}</title></circle>')
    sizes = sorted({row["size_mb"] for row in rows})
    below = HEIGHT - MARGIN + 18
    ticks = "".join(f'<text x={x_of(math.log10(size)):.0f} y={below} text-anchor=middle>{size:.3g}</text>'
                    for size in {sizes[0], sizes[-1]})
    keeps = (min(row["keep"] for row in rows), max(row["keep"] for row in rows))
    ticks += "".join(f'<text x={MARGIN - 10} y={y_of(keep) + 4:.0f} text-anchor=end>{100 * keep:.1f} %</text>'
                     for keep in set(keeps))
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="Keep against megabytes, one point a model">'
            f'<path class=axis fill=none d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN + 4}H{WIDTH - MARGIN / 2}"/>{ticks}'
            f'<text x={WIDTH / 2} y={HEIGHT - 12} text-anchor=middle>MB with tokenizer (logarithmic)</text>'
            f'<text x=14 y=20>share of the teacher\'s macro-F1</text>{"".join(marks)}</svg>')


def axis(values, start, end):
    """A function from a value to its place between start and end; equal values stand in the middle."""
    low, high = min(values), max(values)
    if low == high:
        return lambda value: (start + end) / 2
    return lambda value: start + (end - start) * (value - low) / (high - low)
