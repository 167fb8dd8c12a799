"""quantize.py export --format web without node and Chromium; tests/release/test_browser.py has the rest."""

import re
import shutil
from html.parser import HTMLParser

import pytest

import quantize
from pocketbert import Classifier
from pocketbert.data.tokenizer import Tokenizer
from pocketbert.errors import UserError
from pocketbert.files import read_json
from pocketbert.models.folder import save_model
from pocketbert.quantization import web
from small_models import TEXTS, random_recurrent


@pytest.fixture
def browser_folder(tmp_path, monkeypatch):
    """A copy of browser/ whose node_modules holds stand-ins."""
    folder = tmp_path / "browser"
    shutil.copytree(web.BROWSER, folder, ignore=shutil.ignore_patterns("node_modules"))
    for path in web.RUNTIME.values():
        (folder / "node_modules" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "node_modules" / path).write_text("0123456789")
    monkeypatch.setattr(web, "BROWSER", folder)
    monkeypatch.setattr(web.shutil, "which", lambda name: None)  # no node
    return folder


@pytest.fixture
def student(tmp_path, tokenizer):
    save_model(random_recurrent("cnn:embedding=8,hidden=8", tokenizer.vocab_size), tokenizer, tmp_path / "cnn", run={})
    return str(tmp_path / "cnn")


def export(student, out, *flags):
    return quantize.main(["export", "--model", student, "--out", str(out), "--format", "web", *flags])


def test_the_folder_has_all_that_the_page_needs_and_is_a_model_folder(browser_folder, student, tmp_path, capsys):
    out = tmp_path / "web"
    export(student, out, "--max-length", "9")
    names = {path.name for path in out.iterdir()}
    assert names == {"model.onnx", "tokenizer.json", "config.json", "run.json", *web.PAGE, *web.RUNTIME}
    config = read_json(out / "config.json")
    assert (config["runtime"], config["text_length"], config["text_cleaning"]) == ("onnx-int8", 9, "none")
    own = sum((out / name).stat().st_size for name in names - {"run.json", *web.RUNTIME})
    assert web.page_bytes(out) == (own, 30)
    printed = capsys.readouterr().out
    assert f"page: {own / 1e6:.2f} MB for the model and the page" in printed
    assert "not compared, because node is not installed" in printed and "http.server --directory" in printed
    for name in web.RUNTIME:
        (out / name).unlink()  # no part of the model
    assert len(Classifier(str(out))(TEXTS)) == len(TEXTS)


class Links(HTMLParser):
    """found: every src and href; inline: text of scripts and styles, and attributes with code."""

    def __init__(self):
        super().__init__()
        self.found, self.inline, self.tag = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.found += [value for name, value in attrs if name in ("src", "href")]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]

    def handle_data(self, data):
        if self.tag in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag):
        self.tag = None


def test_the_page_names_files_of_its_folder_alone():
    links = Links()
    links.feed((web.BROWSER / "index.html").read_text())
    assert links.inline == [] and set(links.found) - {"data:,"} == {"style.css", "page.js"}
    shipped = {*web.PAGE, *web.RUNTIME, "model.onnx", "tokenizer.json", "config.json"}
    for name in ("page.js", "pocketbert.js", "tokens.js"):
        code = re.sub(r"^//.*$", "", (web.BROWSER / name).read_text(), flags=re.MULTILINE)
        assert "http" not in re.sub(r'"http"', "", code)
        assert set(re.findall(r'"(?:\./)?([\w-]+\.(?:js|wasm|onnx|json))"', code)) <= shipped


def test_javascript_cleans_what_export_lets_pass():
    cleaners = re.search(r"const CLEANERS = {(.*)}", (web.BROWSER / "tokens.js").read_text())[1]
    assert re.findall(r"(\w+):", cleaners) == list(web.CLEANINGS)


def test_without_node_modules_one_line_says_what_to_run(browser_folder, student, tmp_path):
    shutil.rmtree(browser_folder / "node_modules" / "@huggingface")
    with pytest.raises(UserError, match="^--format web needs tokenizers.min.mjs from npm: run `make web`") as error:
        export(student, tmp_path / "web")
    assert "\n" not in str(error.value) and not (tmp_path / "web").exists()


def test_a_cleaning_or_a_vocabulary_that_only_python_has_is_refused(browser_folder, tokenizer):
    assert web.page_files(tokenizer)
    with pytest.raises(UserError, match="exist in Python only"):
        web.page_files(Tokenizer(tokenizer.backend, cleaning="bertweet"))
    beyond = Tokenizer(tokenizer.backend)
    beyond.vocab_size -= 1
    with pytest.raises(UserError, match="exist in Python only"):
        web.page_files(beyond)


@pytest.mark.parametrize("found, printed", [
    ([], "those of Python, for each of 20 texts"), (["so g"], "WARNING: 1 of 20 texts .* 'so g'")])
def test_token_ids_are_compared_before_the_work(found, printed, browser_folder, student, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantize, "different_ids", lambda tokenizer, texts, length: [*found][:len(texts)])
    monkeypatch.setattr(quantize, "HARD_TEXTS", TEXTS + ["a"] * 14)
    export(student, tmp_path / "web")
    assert re.search(printed, capsys.readouterr().out.split("time / fp32")[0])
