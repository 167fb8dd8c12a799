"""Files that are written as a whole or not at all."""

import json
import os
import subprocess
import sys

import pytest

from pocketbert.errors import UserError
from pocketbert.files import (
    UNFINISHED,
    is_unfinished,
    move_files,
    read_json,
    replacing,
    replacing_files,
    write_json,
    write_text,
)

NAMES = ("a.txt", "b.txt", "last.txt")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_survives_the_round_trip(tmp_path):
    write_json({"text": "naïve \u2028", "n": [1, None]}, tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"text": "naïve \u2028", "n": [1, None]}
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content, reason", [
    ("", "Expecting value"), ("{", "not readable JSON"), ("[1]", "JSON list where an object"), ("3", "JSON int"),
    ("\xff", "not readable JSON"), ("[" * 100_000, "nested too deeply"), ('{"a":' * 100_000, "nested too deeply"),
    ('{"n": ' + "9" * 5000 + "}", "not readable JSON")])
def test_broken_json_is_one_line_that_names_the_file(content, reason, tmp_path):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=reason) as error:
        read_json(tmp_path / "x.json")
    assert str(tmp_path / "x.json") in str(error.value) and "\n" not in str(error.value)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text("old", tmp_path / "x.csv")
    with pytest.raises(OSError, match="disk is full"), replacing(tmp_path / "x.csv") as temporary:
        temporary.write_text("half")
        raise OSError("the disk is full")
    assert (tmp_path / "x.csv").read_text() == "old" and names(tmp_path) == ["x.csv"]


def test_temporary_file_has_the_suffix_and_lies_beside_its_place(tmp_path):
    with replacing(tmp_path / "x.npz") as temporary:
        assert temporary.suffix == ".npz" and temporary.parent == tmp_path and temporary.name.startswith(".")
        temporary.write_text("new")
    assert names(tmp_path) == ["x.npz"]


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_and_of_other_files_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [f".tmp.{os.getppid()}.x[1].csv", f".tmp.{dead.pid}.x1.csv", ".tmp.notes.x[1].csv"]
    for name in (*kept, f".tmp.{dead.pid}.x[1].csv"):
        (tmp_path / name).write_text("")
    write_text("new", tmp_path / "x[1].csv")
    assert names(tmp_path) == sorted([*kept, "x[1].csv"])


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "there" / "y")
    write_text("new", tmp_path / "x")
    assert (tmp_path / "x").is_symlink() and (tmp_path / "there" / "y").read_text() == "new"


def write_all(folder, content, written=NAMES):
    with replacing_files(folder, NAMES, last="last.txt") as new:
        for name in written:
            (new / name).write_text(content)


def test_files_that_were_not_written_again_go_and_those_of_others_stay(tmp_path):
    write_all(tmp_path / "m", "old")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    write_all(tmp_path / "m", "new", written=("a.txt", "last.txt"))
    assert names(tmp_path / "m") == ["a.txt", "last.txt", "notes.txt"]
    assert (tmp_path / "m" / "a.txt").read_text() == "new" and not is_unfinished(tmp_path / "m", "last.txt")


def test_an_error_before_the_last_file_leaves_the_old_files(tmp_path):
    write_all(tmp_path / "m", "old")
    with pytest.raises(OSError), replacing_files(tmp_path / "m", NAMES, last="last.txt") as new:
        (new / "a.txt").write_text("new")
        raise OSError
    assert names(tmp_path / "m") == list(NAMES) and (tmp_path / "m" / "a.txt").read_text() == "old"


def test_an_error_in_a_new_folder_leaves_no_folder(tmp_path):
    with pytest.raises(OSError), replacing_files(tmp_path / "m", NAMES, last="last.txt"):
        raise OSError
    assert names(tmp_path) == []


def test_an_error_while_an_interrupted_save_is_repeated_keeps_its_mark(tmp_path):
    write_all(tmp_path, "old")
    (tmp_path / "last.txt").unlink()
    (tmp_path / UNFINISHED).mkdir()
    with pytest.raises(OSError), replacing_files(tmp_path, NAMES, last="last.txt"):
        raise OSError
    assert is_unfinished(tmp_path, "last.txt")


def test_a_link_to_a_folder_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "m").symlink_to("there")
    write_all(tmp_path / "m", "new")
    assert (tmp_path / "m").is_symlink() and names(tmp_path / "there") == list(NAMES)


def test_two_writers_leave_the_files_of_one_of_them(tmp_path):
    """Eight processes write ten times each; every file of the folder has the content of the same one."""
    children = []
    for n in range(8):
        child = os.fork()
        if child == 0:
            for _ in range(10):
                write_all(tmp_path / "m", str(n))
            os._exit(0)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    assert names(tmp_path / "m") == list(NAMES)
    assert len({(tmp_path / "m" / name).read_text() for name in NAMES}) == 1


def test_moved_files_take_the_place_of_those_in_the_other_folder(tmp_path):
    write_all(tmp_path / "trial", "new", written=("a.txt", "last.txt"))
    write_all(tmp_path / "best", "old")
    move_files(tmp_path / "trial", tmp_path / "best", NAMES, last="last.txt")
    assert names(tmp_path / "best") == ["a.txt", "last.txt"] and names(tmp_path / "trial") == []
    assert json.dumps([(tmp_path / "best" / name).read_text() for name in ("a.txt", "last.txt")]) == '["new", "new"]'
