"""Which text belongs to which slice, a user's own predicates, and the damages of robustness.py."""

import numpy as np
import pytest

from pocketbert.errors import UserError
from pocketbert.evaluation.robustness import damaged, no_emoji, no_punctuation, typos
from pocketbert.evaluation.slices import PREDICATES, rare_words, read_predicates, slice_scores, slices_of


@pytest.mark.parametrize("name, inside, outside", [
    ("hashtags", "so #good", "no. 5 # 6"), ("emoji", "nice \U0001f600", "nice"),
    ("emoji", "nice :-)", "at 12:30 (noon)"), ("emoji", "<3", "1 < 3"),
    ("negation", "I don't like it", "I like it"), ("negation", "NEVER again", "nevertheless"),
    ("links", "see http://t.co/x", "see http"), ("upper case", "WHAT a DAY", "What a Day"),
    ("upper case", "LOVE it", "OK"), ("script not Latin", "\u043f\u0440\u0438\u0432\u0435\u0442 ok", "hi \U0001f600")])
def test_predicate(name, inside, outside):
    assert PREDICATES[name](inside) and not PREDICATES[name](outside)


def test_rare_words_are_those_that_the_training_texts_have_at_most_twice():
    predicate = rare_words(["the cat sat"] * 3 + ["a zebra", "a Zebra"])
    assert predicate("the zebra sat") and not predicate("the cat sat") and not predicate("!!")


def test_quarters_of_the_lengths_hold_every_text_once():
    texts = ["x" * (1 + i % 37) for i in range(200)]
    found = slices_of(texts)
    quarters = [found[name] for name in ("shortest quarter", "second quarter", "third quarter", "longest quarter")]
    assert (np.sum(quarters, axis=0) == 1).all()
    assert max(len(text) for text, inside in zip(texts, quarters[0], strict=True) if inside) < 11
    assert "hashtags" not in found  # empty slices are left out


def test_slice_scores_by_hand():
    labels = np.array([0, 0, 1, 1])
    rows = slice_scores({"all": np.ones(4, bool), "first": np.array([True, False, False, False])}, labels,
                        predicted=np.array([0, 1, 1, 0]), baseline=np.array([0, 0, 1, 0]))
    assert rows["all"]["texts"] == 4
    assert rows["all"]["accuracy"] == 0.5 and rows["all"]["difference"] == -0.25
    half_width = 1.96 * np.std([0, -1, 0, 0]) / 2
    assert (rows["all"]["low"], rows["all"]["high"]) == (pytest.approx(-0.25 - half_width),
                                                        pytest.approx(-0.25 + half_width))
    assert rows["first"] == {"texts": 1, "accuracy": 1, "difference": 0, "low": 0, "high": 0}


def test_functions_of_a_file_are_slices(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from os.path import join\nimport re\n\n"
                    "def a_question(text):\n    return re.search(r'\\?$', text)\n\n"
                    "def _helper(text):\n    return 1 / 0\n")
    found = read_predicates(str(path))
    assert list(found) == ["a question"]
    assert slices_of(["why?", "so"], predicates=found)["a question"].tolist() == [True, False]


@pytest.mark.parametrize("code, words", [
    ("x = 1", "defines no function"), ("def f(:", "SyntaxError"), ("import nothing_here", "ModuleNotFoundError"),
    ("def long(text): return text[99]", "the slice long fails on 'hello': IndexError")])
def test_a_fault_in_the_users_file_is_one_line(code, words, tmp_path):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=words):
        slices_of(["hello"], predicates=read_predicates(str(tmp_path / "mine.py")))


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_predicates(str(tmp_path / "gone.py"))


def test_damages_by_hand():
    assert no_punctuation("Well, @you #tag: don't!") == "Well @you #tag dont"
    assert no_emoji("nice \U0001f600 day :-) ok").split() == ["nice", "day", "ok"]
    text = " ".join(["weather"] * 200)
    slipped = [word for word in typos(text).split() if word != "weather"]
    assert typos(text) == typos(text) and 20 < len(slipped) < 60 and len(typos(text).split()) == 200
    assert all(abs(len(word) - 7) <= 1 and word[0] == "w" for word in slipped)
    assert typos("a of the") == "a of the"  # short words stay


def test_a_damage_that_changes_no_text_is_left_out():
    found = damaged(["plain words", "some MORE"])
    assert "no emoji" not in found and found["lower case"] == (["plain words", "some more"], 1)
