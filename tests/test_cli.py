"""Flags, their errors, and how a script ends."""

import pytest

from pocketbert.cli import add_training_flags, data_flags, parser_for, refuse_idle_flags, run_script
from pocketbert.errors import UserError


def test_users_error_is_one_line_without_traceback(monkeypatch):
    def main():
        raise UserError("no such\nthing")
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as error:
        run_script(main)
    assert error.value.code == "train.py: error: no such thing"


def test_programming_error_keeps_its_traceback(monkeypatch):
    def main():
        raise ValueError("not enough values to unpack (expected 3, got 2)")
    monkeypatch.setattr("sys.argv", ["prune.py"])
    with pytest.raises(ValueError, match="unpack"):
        run_script(main)


def test_debug_shows_the_traceback_of_a_users_error(monkeypatch):
    def main():
        raise UserError("no such thing")
    monkeypatch.setattr("sys.argv", ["train.py", "--debug"])
    with pytest.raises(UserError):
        run_script(main)


def test_interrupted_script_says_that_nothing_was_saved(capsys):
    def main():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as error:
        run_script(main)
    assert error.value.code == 130 and "interrupted: a model folder is written when" in capsys.readouterr().err


def test_idle_flag_is_refused_with_its_reason(capsys):
    parser = parser_for("x")
    add_training_flags(parser, epochs=0, lr=1e-4)
    args = parser.parse_args(["--lr", "1e-3"])
    refuse_idle_flags(parser, vars(args), [("lr", True, ""), ("warmup", False, "")])
    with pytest.raises(SystemExit):
        refuse_idle_flags(parser, vars(args), [("lr", args.epochs, "give --epochs")])
    assert "--lr does nothing here: give --epochs" in capsys.readouterr().err


def test_proposed_command_quotes_what_a_shell_would_cut():
    assert data_flags("my file.csv", "data", "tweet", None) == "--data 'my file.csv' --text tweet"
    assert data_flags("sst2", "elsewhere", None, None) == "--data sst2 --data-dir elsewhere"
