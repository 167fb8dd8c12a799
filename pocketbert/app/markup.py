"""What the page shows, as HTML: cards with bars, tables, coloured words. Every text, label and name is escaped."""

import re
from html import escape

FOR, AGAINST = "59, 130, 246", "234, 88, 12"    # blue and orange: told apart with any colour vision
MOST_LABELS = 6         # bars of a card

STYLE = """<style>
.stMainBlockContainer { padding-top: 2.5rem; }
.pb-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .8rem; }
.pb-card { border: 1px solid #8886; border-radius: .6rem; padding: .7rem .9rem; }
.pb-card h4 { margin: 0; padding: 0; font-size: .95rem; overflow-wrap: anywhere; }
.pb-small { opacity: .75; font-size: .85rem; overflow-wrap: anywhere; }
.pb-answer { font-size: 1.35rem; font-weight: 600; margin: .3rem 0; overflow-wrap: anywhere; }
.pb-bar { display: grid; grid-template-columns: minmax(4.5rem, 40%) 1fr 3rem; gap: .5rem; align-items: center;
          font-size: .85rem; font-variant-numeric: tabular-nums; }
.pb-bar > span:first-child { overflow-wrap: anywhere; }
.pb-bar > span:last-child { text-align: right; }
.pb-track { background: #8883; border-radius: .3rem; height: .6rem; }
.pb-track > i { display: block; height: 100%; border-radius: .3rem; background: rgb(59, 130, 246); }
.pb-scroll { overflow-x: auto; }
.pb-scroll table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 0; }
.pb-scroll th, .pb-scroll td { border: 0; border-bottom: 1px solid #8884; padding: .3rem .6rem; text-align: right;
          vertical-align: top; }
.pb-scroll th { white-space: nowrap; }
.pb-scroll th:first-child, .pb-scroll td:first-child { text-align: left; min-width: 8rem; overflow-wrap: anywhere; }
.pb-scroll.pb-text th, .pb-scroll.pb-text td { text-align: left; }
@media (max-width: 500px) { .pb-scroll th, .pb-scroll td { padding: .3rem; } .pb-scroll th { white-space: normal; } }
.pb-words { line-height: 2; overflow-wrap: anywhere; }
.pb-words span { border-radius: .25rem; padding: .1rem .2rem; }
</style>"""


def plain(text):
    """A text for a widget that reads Markdown: each sign that could be markup is escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def megabytes(size):
    """1234567 -> "1.23 MB"."""
    return f"{size / 1e6:.2f} MB"


def bar(name, probability):
    """One line: a name, a bar, a probability."""
    return (f'<div class="pb-bar"><span>{escape(name)}</span><span class="pb-track">'
            f'<i style="width: {100 * probability:.1f}%"></i></span><span>{probability:.3f}</span></div>')


def card(title, about, answer, probabilities):
    """A model's answer to one text.

    about: a line of small print    answer: the label    probabilities: {name: p}; the largest MOST_LABELS are shown
    """
    names = list(probabilities)
    if len(names) > MOST_LABELS:
        names = sorted(names, key=probabilities.get, reverse=True)[:MOST_LABELS]
    bars = "".join(bar(name, probabilities[name]) for name in names)
    more = f'<div class="pb-small">and {len(probabilities) - len(names)} more</div>' if len(names) < len(
        probabilities) else ""
    return (f'<div class="pb-card"><h4>{escape(title)}</h4><div class="pb-small">{escape(about)}</div>'
            f'<div class="pb-answer">{escape(answer)}</div>{bars}{more}</div>')


def problem_card(title, problem):
    """A model that could not be asked."""
    return (f'<div class="pb-card" role="alert"><h4>{escape(title)}</h4>'
            f'<div class="pb-small">{escape(problem)}</div></div>')


def cards(parts):
    """Cards side by side where there is room, below each other where there is none."""
    return f'<div class="pb-cards">{"".join(parts)}</div>'


def table(rows, texts=False):
    """rows: lists of texts, the first one is the heading    texts: all columns hold texts; numbers go right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return (f'<div class="pb-scroll{" pb-text" if texts else ""}" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def coloured(text, spans, scores):
    """A text whose words are blue where they speak for the label and orange where against; the strongest is darkest.

    spans: (start, end) of each word    scores: one number a word, which a pointer over the word shows, too
    """
    largest = max((abs(score) for score in scores), default=0) or 1
    parts = []
    end = 0
    for (start, stop), score in zip(spans, scores, strict=True):
        colour = FOR if score > 0 else AGAINST
        strength = 0.75 * abs(score) / largest
        parts.append(f'{escape(text[end:start])}<span style="background: rgba({colour}, {strength:.2f})" '
                     f'title="{score:+.2f}">{escape(text[start:stop])}</span>')
        end = stop
    return f'<div class="pb-words">{"".join(parts)}{escape(text[end:])}</div>'
