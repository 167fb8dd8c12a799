"""The pictures of report.html and front.html as SVG text: numbers in, a string out, without a library.

Colours and fonts come from the page's style sheet (page_style.py), so the pictures follow its light and dark modes.
Every picture has a <title> and a <desc> for readers who do not see it. Names are words from elsewhere and are escaped.
"""

import math
import unicodedata

from pocketbert.evaluation.page_parts import clean

WIDTH, HEIGHT = 450, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 142, 12, 46      # margins; the names of points and lines stand in the right one
NAMES_AT = 132              # where the names of rows end in the pictures that have rows
NAME = 16                   # small letters of a name in a picture
LABEL_GAP = 15              # between the baselines of two names


def picture(name, width, height, title, description, body, kind=""):
    """One <svg>. name: unique on the page    title, description: the text alternative"""
    classes = f' class="{kind}"' if kind else ""
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-desc"{classes}>'
            f'<title id="{name}-title">{clean(title)}</title><desc id="{name}-desc">{clean(description)}</desc>'
            f"{body}</svg>")


def text(x, y, words, anchor="start", kind="label"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{clean(words)}</text>'


def line(x1, y1, x2, y2, kind="grid"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def circle(x, y, radius, kind, tip=""):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{kind}"><title>{clean(tip)}</title></circle>'


def short(name):
    """A name cut in its middle: the ends of "student-onnx" and "student-onnx-int8" tell them apart."""
    name = str(name)
    if sum(map(width_of, name)) <= NAME:
        return name
    half = len(name) // 2
    start, end = name[:half][:NAME], name[half:][-NAME:]
    while sum(map(width_of, start + end)) > NAME - 1:
        if len(start) > len(end):
            start = start[:-1]
        else:
            end = end[1:]
    return f"{start}…{end}"


def width_of(character):
    """About its width, where a small letter has 1."""
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 1.6 if character in "mwMW@%" else 1.2 if character.isupper() else 1


def polyline(places, kind):
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" class="{kind}"/>'


# ---- axes ------------------------------------------------------------------------------------------------

def linear_ticks(low, high, count=5):
    """At most about `count` round numbers between low and high."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / count))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low, high):
    """The powers of ten between low and high, and 2 and 5 times these (or 3 times) where that leaves at most six."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0 ** power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= 6:
            break
    return ticks


def spread(values, share=0.08):
    """(low, high) with some room on both sides."""
    low, high = min(values), max(values)
    room = share * (high - low) or 0.05 * abs(high) or 0.01
    return low - room, high + room


def scale(low, high, start, end):
    """The function from a value to its place between start and end."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def apart(wanted, low, high, gap=LABEL_GAP):
    """Heights near the wanted ones, in the same order, at least `gap` apart; between low and high if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = list(wanted)
    last = low - gap
    for i in order:
        found[i] = last = max(wanted[i], last + gap)
    last = high + gap
    for i in reversed(order):
        found[i] = last = min(found[i], last - gap)
    return found


def frame(y_of, low, high, xlabel, ylabel):
    """Axes, horizontal grid lines and the names of the axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    body = []
    for tick in linear_ticks(low, high):
        body += [line(LEFT, y_of(tick), right, y_of(tick)), text(LEFT - 7, y_of(tick) + 4, f"{tick:g}", "end", "tick")]
    body += [line(LEFT, bottom, right, bottom, "axis"), line(LEFT, TOP, LEFT, bottom, "axis"),
             text((LEFT + right) / 2, HEIGHT - 8, xlabel, "middle", "tick"),
             f'<text transform="translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle" class="tick">'
             f"{clean(ylabel)}</text>"]
    return body


def names_beside(ends, names, kinds):
    """Names in the right margin, each with a thin line to its point. ends: [(x, y)] of the points"""
    at = WIDTH - RIGHT + 12
    body = []
    heights = apart([y for _, y in ends], TOP + 6, HEIGHT - BOTTOM)
    for (x, y), height, name, kind in zip(ends, heights, names, kinds, strict=True):
        body += [line(x + 6, y, at - 3, height, "leader"), text(at, height + 4, short(name), kind=kind)]
    return body


# ---- pictures --------------------------------------------------------------------------------------------

def scatter(name, points, xlabel, ylabel, title, description):
    """Scores against a cost on a logarithmic axis, with intervals where there are any; the Pareto front is a line.

    points: [{"name", "label", "x", "y", "low", "high", "on_front", "is_reference"}]; up and to the left is better.
    The label stands beside the point, if it is not ""; the name appears under the mouse.
    """
    bottom = HEIGHT - BOTTOM
    x_low, x_high = spread([math.log10(point["x"]) for point in points])
    low, high = spread([value for point in points for value in (point["low"], point["high"])])
    log_x = scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    y_of = scale(low, high, bottom, TOP)
    body = frame(y_of, low, high, xlabel, ylabel)
    for tick in log_ticks(10 ** x_low, 10 ** x_high):
        x = log_x(math.log10(tick))
        body += [line(x, TOP, x, bottom), text(x, bottom + 17, f"{tick:g}", "middle", "tick")]
    ends = [(log_x(math.log10(point["x"])), y_of(point["y"])) for point in points]
    body.append(polyline(sorted(end for end, point in zip(ends, points, strict=True) if point["on_front"]), "front"))
    named = [i for i, point in enumerate(points) if point["label"]]
    body += names_beside([ends[i] for i in named], [points[i]["label"] for i in named], ["label"] * len(named))
    for (x, y), point in zip(ends, points, strict=True):
        kind = "reference" if point["is_reference"] else "best" if point["on_front"] else "point"
        body += [line(x, y_of(point["low"]), x, y_of(point["high"]), "bar"), circle(x, y, 5, kind, point["name"])]
    return picture(name, WIDTH, HEIGHT, title, description, "".join(body))


def forest(name, rows, xlabel, title, description):
    """Differences with their 95 % intervals, one line a model; the dashed line is "no difference".

    rows: [{"name", "difference", "low", "high"}] in points
    """
    height = 28 * len(rows) + 58
    low, high = spread([value for row in rows for value in (row["low"], row["high"], 0.0)])
    x_of = scale(low, high, NAMES_AT + 12, WIDTH - 16)
    body = []
    for tick in linear_ticks(low, high):
        body += [line(x_of(tick), 8, x_of(tick), height - 44),
                 text(x_of(tick), height - 27, f"{tick:+g}" if tick else "0", "middle", "tick")]
    body.append(line(x_of(0), 4, x_of(0), height - 44, "zero"))
    for i, row in enumerate(rows):
        y = 24 + 28 * i
        kind = "worse" if row["high"] < 0 else "better" if row["low"] > 0 else "point"
        body += [text(NAMES_AT, y + 4, short(row["name"]), "end"),
                 line(x_of(row["low"]), y, x_of(row["high"]), y, "interval"),
                 circle(x_of(row["difference"]), y, 5.5, kind, row["name"])]
    body.append(text((NAMES_AT + WIDTH) / 2, height - 8, xlabel, "middle", "tick"))
    return picture(name, WIDTH, height, title, description, "".join(body))


def reliability_diagram(name, bins, title, description):
    """Accuracy of each bin of confidence against the diagonal; the area of a dot is its share of the texts."""
    size, edge, top = 190, 30, 8
    span = size - edge - 8
    total = sum(row["texts"] for row in bins)
    x_of = scale(0, 1, edge, edge + span)
    y_of = scale(0, 1, top + span, top)
    body = [f'<rect x="{edge}" y="{top}" width="{span}" height="{span}" class="frame"/>',
            line(x_of(0), y_of(0), x_of(1), y_of(1), "zero")]
    for tick in (0, 0.5, 1):
        body += [text(x_of(tick), size - 6, f"{tick:g}", "middle" if tick < 1 else "end", "tick"),
                 text(edge - 5, y_of(tick) + 4, f"{tick:g}", "end", "tick")]
    for row in bins:
        if row["texts"]:
            x, y = x_of(row["confidence"]), y_of(row["accuracy"])
            tip = f"{row['texts']} texts: confidence {row['confidence']:.2f}, accuracy {row['accuracy']:.2f}"
            body += [line(x, y, x, y_of(row["confidence"]), "bar"),
                     circle(x, y, 2 + 8 * math.sqrt(row["texts"] / total), "point", tip)]
    return picture(name, size, size, title, description, "".join(body), "small")


def curves(name, lines, ylabel, title, description):
    """One line a model against the epoch. lines: [{"name", "values"}]"""
    longest = max(len(each["values"]) for each in lines)
    low, high = spread([value for each in lines for value in each["values"]])
    x_of = scale(0.7, longest + 0.3, LEFT, WIDTH - RIGHT)
    y_of = scale(low, high, HEIGHT - BOTTOM, TOP)
    body = frame(y_of, low, high, "epoch", ylabel)
    for epoch in range(1, longest + 1, math.ceil(longest / 9)):
        body.append(text(x_of(epoch), HEIGHT - BOTTOM + 17, str(epoch), "middle", "tick"))
    ends = []
    for i, each in enumerate(lines):
        places = [(x_of(epoch), y_of(value)) for epoch, value in enumerate(each["values"], 1)]
        body.append(polyline(places, f"curve c{i % 8}"))
        body += [circle(x, y, 3, f"dot c{i % 8}", each["name"]) for x, y in places]
        ends.append(places[-1])
    body += names_beside(ends, [each["name"] for each in lines], [f"coloured c{i % 8}" for i in range(len(lines))])
    return picture(name, WIDTH, HEIGHT, title, description, "".join(body))


def shares(name, rows, title, description):
    """Each row a bar of full width, cut by the shares of its parts. rows: [{"name", "parts": [values]}]"""
    height = 26 * len(rows) + 10
    body = []
    for i, row in enumerate(rows):
        x_of = scale(0, sum(row["parts"]), NAMES_AT + 12, WIDTH - 8)
        y = 6 + 26 * i
        done = 0
        body.append(text(NAMES_AT, y + 13, short(row["name"]), "end"))
        for k, value in enumerate(row["parts"]):
            body.append(f'<rect x="{x_of(done):.1f}" y="{y}" width="{x_of(done + value) - x_of(done):.1f}" height="18" '
                        f'class="part c{k % 8}"/>')
            done += value
    return picture(name, WIDTH, height, title, description, "".join(body))
