"""report.html: every number is that of results.json, other people's words stay words, and nothing is fetched.

tests/release/test_report_page.py opens it in a browser.
"""

import base64
import hashlib
import json
import re

import pytest

from page_reader import PageReader
from pocketbert.evaluation.html import write_page
from pocketbert.evaluation.page_parts import KINDS, Place
from pocketbert.evaluation.page_scores import front_names
from pocketbert.evaluation.page_style import DARK, LIGHT
from pocketbert.evaluation.page_summary import headline_model
from small_pages import WILD, full_results
from small_results import result_of, results_of

NEEDED = {"name", "is_baseline", "is_reference", "macro_f1", "size_mb"}     # without these there is no report


@pytest.fixture(scope="module")
def results():
    return full_results().as_dict()


@pytest.fixture(scope="module")
def page(results):
    return PageReader(write_page(results))


def lookup(value, pointer):
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def test_every_number_is_that_of_results_json(results, page):
    assert len(page.numbers) > 200
    assert not [number for number in page.numbers if number[2] != KINDS[number[1]](lookup(results, number[0]))]


def test_no_cell_holds_a_digit_that_is_neither_a_measured_number_nor_a_name(page):
    assert not page.loose


def test_page_is_made_again_from_the_file_alone(results):
    assert write_page(json.loads(json.dumps(results))) == write_page(results)


def test_nothing_is_fetched_and_every_link_leads_to_a_place_on_the_page(page):
    inside = [address.removeprefix("#") for address in page.addresses if address.startswith("#")]
    assert [address for address in page.addresses if not address.startswith("#")] == ["data:,"]
    assert len(inside) == 12 and set(inside) <= set(page.ids)
    assert not re.search(r"url\(|@import", page.texts["style"][0])


def test_ids_are_unique_and_tables_can_scroll(page):
    assert len(page.ids) == len(set(page.ids)) and page.tables_without_a_box == 0


def test_policy_allows_this_style_and_this_script_and_nothing_else(results, page):
    text = write_page(results)
    assert len(page.texts["style"]) == len(page.texts["script"]) == 1
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.texts[kind][0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in text
    assert "default-src 'none'" in text and "style" not in page.attributes
    assert not [name for name in page.attributes if name.startswith("on")]


@pytest.mark.parametrize("word", WILD, ids=range(len(WILD)))
def test_words_from_elsewhere_stay_words(word):
    page = write_page(full_results(["base", word, word + "2"], [word, "b"], [word]).as_dict())
    page.encode("utf-8")
    reader = PageReader(page)
    assert len(reader.texts["script"]) == 1 and not [name for name in reader.attributes if name.startswith("on")]
    shown = re.sub("[\x00-\x08\x1b\udc80\uffff]", "\ufffd", word)
    assert any(words.removesuffix("…") and shown.startswith(words.removesuffix("…")) for words in reader.words)
    assert len(reader.ids) == len(set(reader.ids)) and not reader.loose


def test_ten_models_with_sixty_classes_and_long_texts_stay_below_three_megabytes():
    texts = ["long " * 2000] * 10
    results = full_results([f"model-{i}" for i in range(10)], [f"class {i}" for i in range(60)], texts)
    assert len(write_page(results.as_dict()).encode()) < 3e6


def test_a_quick_report_shows_dashes_and_leaves_out_what_was_not_measured():
    page = PageReader(write_page(results_of(result_of("base"), result_of("other")).as_dict()))
    assert "–" in page.cells and not {"calibration", "rebuild", "slices", "flips"} & set(page.ids)


def test_a_report_on_one_model_has_a_sentence_and_no_differences():
    text = write_page(results_of(result_of("alone")).as_dict())
    assert "<bdi>alone</bdi></b> has macro-F1" in text and 'id="difference"' not in text


@pytest.mark.parametrize("key", sorted(set(full_results().as_dict()["models"][0]) - NEEDED))
def test_a_file_without_a_field_of_the_models_is_still_a_page(results, key):
    models = [{name: value for name, value in model.items() if name != key} for model in results["models"]]
    PageReader(write_page(results | {"models": models}))


def test_first_sentence_is_about_the_smallest_model_that_surely_keeps_95_percent(results):
    assert headline_model(Place(results))["name"].value == "int8"       # its keep_low is 0.965
    models = [model | {"keep_low": 0.949} if model["name"] == "int8" else model for model in results["models"]]
    assert headline_model(Place(results | {"models": models}))["name"].value == "student"
    models = [model | {"keep_low": 0.5} for model in results["models"]]
    assert headline_model(Place(results | {"models": models}))["name"].value == "student"  # the best one


def test_what_to_ship_is_the_smallest_of_the_models_that_are_within_half_a_point():
    models = [result_of("large", bytes=9_000_000, macro_f1=0.800, is_baseline=True),
              result_of("small", bytes=4_000_000, macro_f1=0.7951), result_of("tiny", bytes=1_000_000, macro_f1=0.7949)]
    text = write_page(results_of(*models).as_dict())
    ship = PageReader(text[text.index('<section id="ship"'):text.index('<section id="front"')])
    assert [words for words in ship.words if words in ("large", "small", "tiny")] == ["tiny", "small"]


def test_front_holds_the_models_that_no_other_beats():
    models = [{"name": name, "size_mb": size, "macro_f1": score}
              for name, size, score in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 2, 0.6), ("d", 2, 0.6), ("e", 9, 0.6))]
    assert front_names(list(Place(models)), "size_mb") == {"a", "c", "d"}


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(palette):
    """At least 4.5 to 1, also on the strongest colour of a heat map and on a shaded row."""
    colours = dict(re.findall(r"--(\w+): ([^;]+);", palette))
    paper = rgb(colours["paper"])
    heats = [[0.54 * float(c) / 255 + 0.46 * p for c, p in zip(colours[tone].split(","), paper, strict=True)]
             for tone in ("bad", "good")]
    pairs = [(name, paper) for name in ("ink", "soft", "blue", "red", "green", *(f"c{i}" for i in range(8)))]
    pairs += [(name, rgb(colours["panel"])) for name in ("ink", "soft", "red", "green")]
    pairs += [("ink", heat) for heat in heats]
    assert not [(name, behind) for name, behind in pairs if contrast(rgb(colours[name]), behind) < 4.5]


def rgb(colour):
    digits = colour.removeprefix("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    return [int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4)]


def contrast(a, b):
    """(L1 + 0.05) / (L2 + 0.05) of the relative luminances (WCAG 2.2)."""
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)
