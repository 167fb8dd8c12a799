"""Encodings: marks, Windows files, single broken bytes."""

import pytest

from pocketbert.errors import UserError
from small_tables import load_own, many


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_with_a_mark_and_utf8_are_read(tmp_path, encoding):
    texts, notes, _ = load_own(tmp_path, ("text,label\r\ncafé – “ok” 🙂,pos\r\n" + many()).encode(encoding))
    assert texts["café – “ok” 🙂"] == "pos" and len(texts) == 21 and notes == ""


def test_one_broken_row_is_repaired_and_does_not_turn_the_others_into_mojibake(tmp_path):
    body = "text,label\ncafé,pos\nnaïve,neg\ntypewriter \ufffd,neg\n".encode() + b"don\xc2,pos\n" + many().encode()
    texts, notes, _ = load_own(tmp_path, body)
    assert texts["café"] == "pos" and texts["don\ufffd"] == "pos" and len(texts) == 24
    assert notes == ("1 row of mine.csv with bytes that are not valid text, replaced by U+FFFD "
                     "(first: line 5): used")


def test_a_file_from_windows_is_read_as_cp1252_and_says_so(tmp_path):
    texts, notes, _ = load_own(tmp_path, ("text,label\ncafé “ok” €,pos\n" + many()).encode("cp1252"))
    assert texts["café “ok” €"] == "pos" and "lines are read as cp1252" in notes


def test_a_second_mark_and_the_one_of_an_appended_file_are_no_text(tmp_path):
    texts, notes, _ = load_own(tmp_path, "\ufeff\ufefftext,label\n" + many() + "\ufefflast,pos\n")
    assert texts["last"] == "pos" and len(texts) == 21 and notes == ""


def test_a_table_put_together_from_two_encodings_is_read_line_by_line(tmp_path):
    body = b"text,label\n" + "naïve café,pos\n".encode() + "ça va,pos\nécole,neg\n".encode("cp1252")
    texts, notes, _ = load_own(tmp_path, body + many().encode())
    assert {"naïve café", "ça va", "école"} <= set(texts)
    assert "not UTF-8 (2 of the 3 lines beyond ASCII): these lines are read as cp1252" in notes


def test_a_utf16_file_whose_bytes_are_shifted_is_refused_and_a_broken_character_is_counted(tmp_path):
    whole = ("text,label\n" + many()).encode("utf-16")
    with pytest.raises(UserError, match="damaged in line 7"):
        load_own(tmp_path, whole[:200] + whole[201:])
    lone = whole + "x".encode("utf-16-le") + b"\x00\xd8" + ",pos\n".encode("utf-16-le")
    texts, notes, _ = load_own(tmp_path, lone)
    assert texts["x\ufffd"] == "pos" and "1 row of mine.csv with bytes that are not valid text" in notes
