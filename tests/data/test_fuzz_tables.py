"""The fuzzer of benchmarks/: its oracle tells right from wrong, and a small run finds no fault."""

import pytest

from benchmarks import fuzz_tables
from benchmarks.fuzz_tables import FAULTS, distance, is_right, outcome
from small_tables import write

ROWS = {"so great w001x\tpos", "so sad w002x\tneg", "two\nlines w003x\tpos"}


@pytest.mark.parametrize("pair, changed, right", [
    (("so great w001x", "pos"), 0, True), (("so great w001x", "neg"), 0, False), (("so great", "pos"), 0, False),
    (("so gre@t w001x", "pos"), 1, True), (("so gre@t w001x", "pos"), 0, False),
    (("so great w001x,pos\nso sad w002x", "neg"), 5, False),
    (("tw\nlines w003x", "pos"), 0, True), (("two\nlines", "pos"), 0, False)])
def test_the_oracle_tells_right_pairs_from_wrong_ones(pair, changed, right):
    assert is_right(pair, ROWS, changed) is right


def test_the_distance_is_that_of_levenshtein():
    assert [distance(a, b, 5) for a, b in (("", "abc"), ("kitten", "sitting"), ("abc", "abc"))] == [3, 3, 0]
    assert distance("abcdef", "uvwxyz", 2) == 3


def test_a_row_that_is_read_wrongly_or_missing_without_a_note_is_a_fault(tmp_path):
    rows = [[f"text w{i:03}x", "pos" if i % 2 else "neg"] for i in range(20)]
    body = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
    path = write(tmp_path / "mine.csv", body)
    assert outcome(path, rows, 0, [])[0] == "all rows right"
    assert outcome(path, [["other w000x", "neg"], *rows[1:]], 0, [])[0] == "wrong pair, no note"
    path = write(tmp_path / "shorter.csv", body.replace("text w003x,pos\n", ",\n"))
    assert outcome(path, rows, 0, [])[0] == "left out or repaired, with a note"       # and the word is not there
    path = write(tmp_path / "joined.csv", body.replace("text w003x,pos\n", "").replace("w004x,neg", "w004x w003x,neg"))
    assert outcome(path, rows, 0, [])[0] == "wrong pair, no note"


def test_a_small_run_finds_no_fault(tmp_path):
    results = fuzz_tables.run(tables=len(fuzz_tables.DAMAGES) * len(fuzz_tables.FORMATS), seed=1, folder=tmp_path)
    assert [result for result in results if result["outcome"] in FAULTS] == []
    assert {result["outcome"] for result in results} >= {"all rows right", "refused in one line"}
