"""A small dataset and the command lines of small trainings, for the tests that run a script."""

import pytest

from small_models import LABELS, TEXTS


@pytest.fixture
def mine(tmp_path):
    """A CSV of 120 rows whose label is told by one word."""
    rows = [f"{text} {word} {i},{label}" for i in range(20) for text in TEXTS[:2]
            for word, label in zip(("awful", "perhaps", "great"), LABELS, strict=True)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows).replace('"', "") + "\n")
    return tmp_path / "mine.csv"


def train_argv(mine, out, **flags):
    """The command line of a training of a second."""
    flags = {"model": "scratch:layers=1,hidden=16,heads=2,vocab=200", "data": mine, "out": out, "epochs": 3,
             "lr": 1e-2, "batch-size": 16} | flags
    return [str(part) for flag, value in flags.items() for part in (f"--{flag}", value) if part != ""]
