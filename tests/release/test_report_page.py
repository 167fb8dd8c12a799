"""report.html in a real browser: Chromium without a window, at the widths of a phone and of a desk.

A page beside the report shows it in frames of these widths and writes down what it finds there.
"""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from pocketbert.evaluation.html import write_page
from pocketbert.evaluation.page_parts import KINDS
from small_pages import WILD, full_results

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBE = """<!doctype html><meta charset="utf-8"><body><pre id="found"></pre>
<iframe src="report.html" width="390"></iframe><iframe src="report.html" width="1280"></iframe>
<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    page.querySelectorAll("details").forEach(each => each.open = true);
    const cut = [...page.querySelectorAll("svg text")].filter(text => {
      const box = text.getBoundingClientRect(), picture = text.closest("svg").getBoundingClientRect();
      return box.left < picture.left - 1 || box.right > picture.right + 1;
    });
    const table = page.querySelector("#table table"), buttons = table.querySelectorAll("button");
    const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
    const sorted = {};
    for (const column of [0, 5]) {
      buttons[column].click();
      sorted[column] = names();
      buttons[column].click();
      sorted[-column || "again"] = names();
    }
    return {width: root.clientWidth, overflow: root.scrollWidth, cut: cut.map(text => text.textContent), sorted,
            broken: frame.contentWindow.broken === 1,
            numbers: [...page.querySelectorAll("[data-at]")].map(e => [e.dataset.at, e.dataset.as, e.textContent])};
  });
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


def look(folder):
    """(what PROBE found, one dictionary a width; the lines of the console) of the report in a folder."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert browser, f"this test needs one of {', '.join(BROWSERS)}: apt install chromium"
    (folder / "probe.html").write_text(PROBE, encoding="utf-8")
    command = [browser, "--headless", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr",
               f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium's sandbox refuses root
    done = subprocess.run([*command, (folder / "probe.html").as_uri()], capture_output=True, text=True, check=True)
    found = re.search('<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    return json.loads(html.unescape(found)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module", params=["plain", "wild"])
def seen(request, tmp_path_factory):
    """(results, what the browser found, console) of ten models with plain names, or with those of WILD."""
    folder = tmp_path_factory.mktemp("report")
    names, labels, texts = [f"student-number-{i}-int8" for i in range(10)], ["bad", "neutral", "good"], ["a text"] * 10
    if request.param == "wild":
        names, labels, texts = ["teacher", *WILD, "W" * 60], [*WILD[:5], "W" * 60], [*WILD, "W" * 500]
    results = full_results(names, labels, texts).as_dict()
    (folder / "report.html").write_text(write_page(results), encoding="utf-8")
    return (results, *look(folder))


def lookup(value, pointer):
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def test_nothing_is_wider_than_the_page_and_no_label_is_cut(seen):
    for found, width in zip(seen[1], (390, 1280), strict=True):
        assert width - 20 <= found["width"] <= width and found["overflow"] <= found["width"] and not found["cut"]


def test_console_is_empty_and_no_word_became_code(seen):
    assert not seen[2] and not any(found["broken"] for found in seen[1])


def test_every_number_that_is_shown_is_that_of_results_json(seen):
    for found in seen[1]:
        assert len(found["numbers"]) > 500
        assert not [at for at, kind, text in found["numbers"] if text != KINDS[kind](lookup(seen[0], at))]


def test_a_click_on_a_heading_sorts_and_another_one_turns_the_order(seen):
    """By name, and by MB, where the majority has no number and stays at the end when the smallest is first."""
    for found in seen[1]:
        orders = found["sorted"]
        assert len(orders["0"]) == 12 and orders["again"] == orders["0"][::-1]
        assert orders["-5"][-1] == "majority" and orders["-5"][:-1] == orders["5"][1:][::-1]


