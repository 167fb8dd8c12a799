"""The data of the chain."""

import pytest

from small_models import LABELS, TEXTS


@pytest.fixture
def mine(tmp_path):
    """A CSV of 300 rows whose label is told by one word."""
    words = zip(("awful", "perhaps", "great") * 100, LABELS * 100, strict=True)
    rows = [f"{TEXTS[i * 7 % 6].strip('?')} {word} {i % 9},{label}" for i, (word, label) in enumerate(words)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return tmp_path / "mine.csv"
