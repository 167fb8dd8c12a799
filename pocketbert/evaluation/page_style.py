"""The shell of report.html and front.html: style sheet, script and security policy, and `document` that joins them.

A page loads nothing from elsewhere. Its content security policy lets the browser apply this style sheet and run this
script alone (by their hashes), whatever stands in a text or a label.
"""

import base64
import hashlib

from pocketbert.evaluation.page_parts import clean

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
DARK = """--paper: #14181e; --ink: #e4e8ee; --soft: #a3aebb; --line: #323a45; --panel: #1c222a; --blue: #6fb0f5;
  --red: #f08a75; --green: #6fcb95; --bad: 235, 95, 75; --good: 70, 180, 120; --c0: #6fb0f5; --c1: #f2a06a;
  --c2: #6fcb95; --c3: #ee8fc6; --c4: #b7a2f2; --c5: #d9bd55; --c6: #5fcbd6; --c7: #d79b8c;"""
LIGHT = """--paper: #fff; --ink: #1c2430; --soft: #566172; --line: #dde2e8; --panel: #f4f6f9; --blue: #2563a8;
  --red: #b0392a; --green: #24703f; --bad: 205, 70, 50; --good: 50, 140, 90; --c0: #2563a8; --c1: #b8501a;
  --c2: #2b7a4b; --c3: #a8327a; --c4: #7153bd; --c5: #806400; --c6: #0d737c; --c7: #8c4a3b;"""
HEAT = "".join(f".{tone}{level} {{ background: rgba(var(--{tone}), {0.09 * level:.2f}); }}\n"
               for tone in ("bad", "good") for level in range(1, 7))
LINES = "".join(f".c{i} {{ --c: var(--c{i}); }} " for i in range(8))

STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
@media print {{ :root {{ color-scheme: light; {LIGHT} }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0 auto; padding: 28px 24px 72px; max-width: 1240px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 {FONT}; overflow-wrap: anywhere; }}
svg text {{ font-family: {FONT}; }}
""" + """
h1 { font-size: 15px; font-weight: 600; color: var(--soft); margin: 0 0 10px; }
h2 { font-size: 21px; margin: 52px 0 6px; line-height: 1.25; }
h3 { font-size: 16px; margin: 26px 0 4px; }
p { margin: 6px 0 12px; max-width: 82ch; }
.verdict { font-size: 27px; line-height: 1.3; font-weight: 400; margin: 0 0 14px; max-width: 46ch; }
.soft, figcaption { color: var(--soft); font-size: 13.5px; } .verdict + .verdict { font-size: 18px; max-width: 70ch; }
td .soft { font-size: inherit; white-space: nowrap; }
.box { border-left: 4px solid var(--blue); background: var(--panel); padding: 10px 16px; margin: 14px 0; }
.box.bad { border-color: var(--red); } .box.good { border-color: var(--green); }
.box ul { margin: 4px 0; padding-left: 20px; }
nav { margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 8px; font-size: 14px; }
nav a { border: 1px solid var(--line); border-radius: 999px; padding: 3px 13px; text-decoration: none; }
nav a:hover { border-color: var(--blue); }
a { color: var(--blue); } :focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; min-width: 50%; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; line-height: 1.25; overflow-wrap: break-word; }
thead th { border-bottom: 2px solid var(--line); font-size: 13px; max-width: 10em; min-width: 4.4em; }
th:first-child, td:first-child, .left { text-align: left; }
tbody th { vertical-align: top; line-height: inherit; max-width: 20em; min-width: 8.2em; }
td { white-space: nowrap; } td.wrap { white-space: normal; min-width: 17em; }
td.verb { white-space: normal; min-width: 8em; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
th button:hover { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.reference { color: var(--soft); } tr.reference th { font-weight: 400; }
tr.baseline td, tr.baseline th, tr.chosen td, tr.chosen th { background: var(--panel); }
.worse { color: var(--red); } .better, .same { color: var(--green); } .sure { font-weight: 700; }
.few { color: var(--soft); font-style: italic; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 8px 32px; }
.tiles { display: flex; flex-wrap: wrap; gap: 18px 28px; } .tiles figure { margin: 0; max-width: 100%; }
.tiles.small figure { width: 190px; }
figure { margin: 10px 0; } figure b, .key b { color: var(--ink); }
.confusion { font-size: 13px; min-width: 0; } .confusion td { text-align: center; border: 0; }
.confusion tbody th, .confusion thead th { border: 0; font-weight: 400; color: var(--soft); min-width: 0;
  max-width: 9em; padding: 6px; } .confusion thead th { text-align: center; min-width: 4.4em; }
svg { width: 100%; max-width: 530px; height: auto; display: block; } svg.small { max-width: 190px; }
svg text { font-size: 13px; fill: var(--ink); } svg text.tick { fill: var(--soft); }
svg.small text.tick { font-size: 11px; }
.key { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13.5px; color: var(--soft); }
.key span::before { content: ""; display: inline-block; width: 11px; height: 11px; margin-right: 6px;
  background: var(--c); }
line.grid { stroke: var(--line); } line.axis, rect.frame { stroke: var(--soft); fill: none; }
line.zero { stroke: var(--soft); stroke-dasharray: 4 4; } line.bar { stroke: var(--soft); opacity: .75; }
line.interval { stroke: var(--ink); stroke-width: 2; } line.leader { stroke: var(--soft); opacity: .45; }
polyline { fill: none; } polyline.front { stroke: var(--green); stroke-width: 2; stroke-dasharray: 6 4; }
circle { fill: var(--blue); } circle.best, circle.better { fill: var(--green); } circle.worse { fill: var(--red); }
circle.reference { fill: var(--paper); stroke: var(--soft); stroke-width: 1.5; }
polyline.curve { stroke: var(--c); stroke-width: 2; } circle.dot { fill: var(--c); } rect.part { fill: var(--c); }
svg text.coloured { fill: var(--c); }
pre { background: var(--panel); padding: 12px 14px; font: 12.5px/1.55 ui-monospace, Menlo, Consolas, monospace;
  margin: 8px 0; white-space: pre-wrap; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; }
details { border-bottom: 1px solid var(--line); padding: 7px 0; } summary { cursor: pointer; }
dl { display: grid; grid-template-columns: minmax(9em, max-content) 1fr; gap: 4px 18px; font-size: 14px;
  margin: 10px 0; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 640px) { body { padding: 18px 14px 48px; } .verdict { font-size: 21px; } h2 { margin-top: 40px; }
  table { font-size: 13.5px; } th, td { padding: 6px 8px; }
  .scroll table:not(.confusion) tr > :first-child { position: sticky; left: 0; background: var(--paper);
    width: 36vw; min-width: 36vw; max-width: 36vw; white-space: normal; overflow-wrap: anywhere;
    font-size: 12.5px; border-right: 1px solid var(--line); }
  .scroll table tr.baseline > :first-child, .scroll table tr.chosen > :first-child { background: var(--panel); }
  td.wrap { min-width: 62vw; } .tiles.small { gap: 16px; } .tiles.small figure { width: calc(50% - 8px); }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; } }
@page { size: A4; margin: 12mm; }
@media print { body { font-size: 10pt; padding: 0; max-width: none; } nav { display: none; }
  table { font-size: 7.4pt; min-width: 0; } th, td { padding: 2.5px 4px; white-space: normal; }
  thead th { font-size: 7.2pt; } td, tbody th { white-space: normal; overflow-wrap: normal; } td.wrap { min-width: 0; }
  td.verb { min-width: 0; } .soft, figcaption { font-size: 8.6pt; } td .soft { font-size: inherit; }
  .verdict + .verdict { font-size: 11pt; } tbody th { min-width: 0; } .confusion { font-size: 7.4pt; }
  .verdict { font-size: 16pt; } h2 { font-size: 13pt; margin-top: 18pt; } h3 { font-size: 11pt; }
  h2, h3, summary, h2 + .soft, h3 + .soft { break-after: avoid; }
  pre { font-size: 7.4pt; } .confusion td { min-width: 30px; padding: 6px; }
  figure, tr, .box, svg, .scroll { break-inside: avoid; } .scroll { overflow: visible; } details { border: 0; }
  svg { max-width: 90mm; } svg.small { max-width: 36mm; } .tiles.small figure { width: 36mm; }
  .grid { grid-template-columns: 1fr 1fr; gap: 4mm; } .tiles { gap: 4mm; } .key { font-size: 8.6pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
""" + HEAT + LINES + "\n"

SCRIPT = """
for (const head of document.querySelectorAll("table.sort thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const isDown = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const order = (a, b) => isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) || a.localeCompare(b) : a - b;
    [...body.rows].sort((a, b) => (isDown ? -1 : 1) * order(key(a), key(b))).forEach(row => body.append(row));
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => each.open = true));
"""


def document(title, body):
    """A whole page. title: words from elsewhere    body: HTML"""
    policy = (f"default-src 'none'; style-src {digest(STYLE)}; script-src {digest(SCRIPT)}; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{clean(title)}</title><style>{STYLE}</style></head>\n<body>\n'
            f"{body}\n<script>{SCRIPT}</script>\n</body></html>\n")


def digest(text):
    """The source of a policy that allows this text: 'sha256-...'"""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
