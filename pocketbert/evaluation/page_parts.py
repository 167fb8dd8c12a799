"""Numbers, foreign words, cells and tables of report.html.

A `Place` is a value of results.json together with where it stands, and every measured number is written with its place:

    results = Place(results_dict)
    number(results["models"][2]["keep"], "percent")  ->  <span data-at="/models/2/keep" data-as="percent">99.2</span>

So a test compares each number on the page with the file. What was not measured is a Place of None and is written as a
dash. Words that come from elsewhere (labels, texts, names, paths) pass through `words`; all other arguments are HTML.
"""

import math
import re
from dataclasses import dataclass
from html import escape

KINDS = {  # how a number is written -> a function of its value
    "score": lambda x: f"{x:.4f}",
    "score3": lambda x: f"{x:.3f}",
    "points": lambda x: f"{100 * x:+.1f}" if abs(x) >= 0.0005 else "0.0",
    "percent": lambda x: f"{100 * x:.1f}",
    "percent0": lambda x: f"{100 * x:.0f}",
    "p": lambda x: f"{x:.3f}" if x >= 0.001 else "<0.001",
    "ms": lambda x: f"{x:.3f}" if x < 0.1 else f"{x:.2f}" if x < 10 else f"{x:,.1f}" if x < 100 else f"{x:,.0f}",
    "mb": lambda x: f"{x:,.2f}" if x >= 0.1 else f"{x:.3f}",
    "mb_of_bytes": lambda x: f"{x / 1e6:,.2f}" if x >= 1e5 else f"{x / 1e6:.3f}",
    "mflops": lambda x: f"{x / 1e6:,.1f}" if x >= 1e5 else f"{x / 1e6:.4f}",
    "factor": lambda x: f"{x:,.0f}" if x >= 10 else f"{x:.1f}" if x >= 2 else f"{x:.2f}",
    "count": lambda x: f"{x:,.0f}",
    "plain": lambda x: f"{x:.2f}",
}
NOT_MEASURED = "–"
MAJORITY = "majority"       # the name of the reference that always gives the most frequent class
NAME_LENGTH = 80            # characters of a name or a label that are shown
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")  # not allowed in HTML


@dataclass(frozen=True)
class Place:
    """A value of results.json; path is its JSON pointer (RFC 6901). A place that does not exist has the value None."""

    value: object
    path: str = ""

    def __getitem__(self, key):
        is_there = (0 <= key < len(self.value) if isinstance(self.value, list) else
                    isinstance(self.value, dict) and key in self.value)
        step = str(key).replace("~", "~0").replace("/", "~1")
        return Place(self.value[key] if is_there else None, f"{self.path}/{step}")

    def __iter__(self):
        """The places of a list, or the keys of a dictionary."""
        values = self.value or []
        return (self[i] for i in range(len(values))) if isinstance(values, list) else iter(values)

    def __bool__(self):
        return bool(self.value)


def number(place, kind):
    """A measured number as HTML."""
    value = place.value
    if not isinstance(value, (int, float)) or math.isnan(value):
        return NOT_MEASURED
    return f'<span data-at="{clean(place.path)}" data-as="{kind}">{escape(KINDS[kind](value))}</span>'


def brackets(low, high, kind):
    """An interval: [0.931, 0.953]"""
    return f"[{number(low, kind)}, {number(high, kind)}]"


def interval(place, low, high, kind, short_kind=None):
    """A number and its interval: 0.9421 [0.931, 0.953]. short_kind: how the interval is written, if otherwise"""
    return f'{number(place, kind)} <span class="soft">{brackets(low, high, short_kind or kind)}</span>'


def counted(place, noun):
    """A count with its noun: 1 thread, 2 threads"""
    return f"{number(place, 'count')} {noun}{'' if place.value == 1 else 's'}"


def clean(text):
    """Text that may stand in HTML, also between the quotes of an attribute."""
    return escape(UNSEEN.sub("\ufffd", str(text)))


def short(text, length):
    text = str(text)
    return text if len(text) <= length else text[:length - 1] + "…"


def words(text, length=NAME_LENGTH):
    """Words that come from elsewhere, cut at `length`; <bdi> keeps Arabic or Hebrew from turning what follows."""
    return f"<bdi>{clean(short(text, length))}</bdi>"


# ---- rows ------------------------------------------------------------------------------------------------

def folders(results):
    """The rows that are model folders, not references."""
    return [model for model in results["models"] if not model["is_reference"]]


def baseline(results):
    return next(model for model in results["models"] if model["is_baseline"])


def others(results):
    """The model folders that are compared with the baseline."""
    return [model for model in folders(results) if not model["is_baseline"]]


def worth_a_column(results):
    """All rows but the majority."""
    return [model for model in results["models"] if model["name"].value != MAJORITY]


def name_of(model, length=NAME_LENGTH):
    return words(model["name"].value, length)


# ---- blocks ----------------------------------------------------------------------------------------------

def section(name, title, *parts):
    """A section with a heading, which a link can name."""
    return f'<section id="{name}"><h2>{title}</h2>{"".join(parts)}</section>'


def note(content):
    """A paragraph in small print."""
    return f'<p class="soft">{content}</p>'


def figure(picture, caption=""):
    about = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{picture}{about}</figure>"


def grid(figures, kind="grid"):
    """Figures side by side where there is room."""
    return f'<div class="{kind}">{"".join(figures)}</div>'


def folded(summary, content):
    """Shown after a click, and on paper."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def cell(content, sort=None, kind=""):
    """One <td>. sort: a number by which its column is sorted; None: its text    kind: classes"""
    by = "" if sort is None else f' data-sort="{sort}"'
    return f"<td{attribute(kind)}{by}>{content}</td>"


def heading(content, kind=""):
    """The first cell of a row."""
    return f'<th scope="row"{attribute(kind)}>{content}</th>'


def attribute(kind):
    return f' class="{kind}"' if kind else ""


WORDS = {"model", "verdict", "ship", "text", "label", "its answer", "taken for"}    # headings of columns of words


def table(head, rows, sortable=False, kinds=None):
    """A table, in a box of its own that scrolls if the table is wider.

    head: of the columns    rows: lists of cells    kinds: a class for each row, or None
    """
    titles = "".join(f'<th scope="col"{attribute("left" if title in WORDS else "")}>'
                     f"{f'<button>{title}</button>' if sortable else title}</th>" for title in head)
    kinds = kinds or [""] * len(rows)
    body = "".join(f'<tr{attribute(kind)}>{"".join(row)}</tr>' for row, kind in zip(rows, kinds, strict=True))
    return (f'<div class="scroll" tabindex="0"><table{attribute("sort" if sortable else "")}><thead><tr>{titles}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>")


def number_table(models, columns, kinds=None):
    """A sortable table of numbers, one row a model; a column that no model has is left out; "" without any.

    columns: {heading: (function from a model's Place to that of the number, kind)}
    """
    columns = {title: column for title, column in columns.items()
               if any(column[0](model).value is not None for model in models)}
    rows = []
    for model in models:
        row = [heading(name_of(model))]
        for place_in, kind in columns.values():
            row.append(sorted_cell(place_in(model), kind))
        rows.append(row)
    return table(["model", *columns], rows, sortable=True, kinds=kinds) if columns else ""


def sorted_cell(place, kind):
    """A cell with a number, by which its column can be sorted."""
    return cell(number(place, kind), place.value)


def verdict_cell(model):
    verdict = model["verdict"].value or ""
    colour = verdict.split(" ")[0]
    return cell(words(verdict), kind=f"left verb {colour if colour in ('worse', 'better', 'same') else ''}".rstrip())


def tint(value, largest):
    """The class of the cell of a difference: bad1 to bad6 below 0, good1 to good6 above, by its share of `largest`."""
    level = math.ceil(6 * min(1.0, abs(value or 0) / largest) - 0.5)
    return f"{'bad' if value < 0 else 'good'}{level}" if level > 0 else ""
