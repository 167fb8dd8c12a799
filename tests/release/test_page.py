"""The page in a real browser, on a wide and on a narrow screen: type, compare, upload, download, without the mouse."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from browser import Browser, wait_for
from pocketbert.data.tokenizer import train_wordpiece
from pocketbert.models.folder import save_model
from small_models import LABELS, TEXTS, quantized, random_model

ROOT = Path(__file__).parents[2]


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a server shows runs/big and runs/int8."""
    runs = tmp_path_factory.mktemp("page") / "runs"
    tokenizer = train_wordpiece(TEXTS, vocab_size=60)
    save_model(random_model(), tokenizer, runs / "big", run={})
    save_model(quantized(random_model()), tokenizer, runs / "int8", run={})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "streamlit", "run", ROOT / "app.py", "--server.headless=true",
                               "--browser.gatherUsageStats=false", "--server.address=127.0.0.1", "--server.port",
                               str(port), "--", "--runs", runs, "--no-hub"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/_stcore/health"), "the server has not started")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.mark.parametrize("width", [1280, 390])
def test_type_compare_upload_and_download_without_an_error_in_the_console(address, tmp_path, width):
    rows = "".join(f"{text},{label}\n" for text, label in zip(TEXTS * 3, LABELS * 6, strict=True))
    (tmp_path / "mine.csv").write_text("text,label\n" + rows)
    with Browser(width, 900, tmp_path) as browser:
        browser.open(f"{address}/", ready="true")
        browser.find("button", "Label")
        browser.click("textarea")
        browser.type("the <b>train</b> is late")
        browser.press("Enter", control=True)
        browser.wait_for_text("Integrated gradients")
        wait_for(lambda: browser.evaluate("document.querySelectorAll('.pb-words').length") == 3, "no coloured words")
        assert "<b>train</b>" in browser.evaluate("document.querySelector('.pb-words').innerText")

        browser.click("button", "Compare")
        browser.wait_for_text("Baseline")
        browser.choose_file(tmp_path / "mine.csv")
        browser.wait_for_text("mine.csv")
        browser.click('button[kind="primary"]:not([disabled])', "Compare")
        browser.wait_for_text("Classes", seconds=60)

        browser.click("button", "Label a file")
        browser.wait_for_text("one text a line")
        browser.choose_file(tmp_path / "mine.csv")
        browser.wait_for_text("18 rows")
        browser.click('button[kind="primary"]:not([disabled])', "Label all rows")
        browser.click("button", "Download")
        labelled = tmp_path / "mine.labelled.csv"
        wait_for(labelled.exists, "nothing was downloaded")
        assert len(labelled.read_text().splitlines()) == 19

        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
        assert not browser.complaints(("error",))


def test_the_keyboard_is_enough_to_get_an_answer(address, tmp_path):
    with Browser(1280, 900, tmp_path) as browser:
        browser.open(f"{address}/", ready="true")
        browser.find("textarea")
        for _ in range(30):
            browser.press("Tab")
            if browser.evaluate("document.activeElement.tagName") == "TEXTAREA":
                break
        browser.type("the train is late")
        browser.press("Enter", control=True)
        browser.wait_for_text("Which words did it?")
