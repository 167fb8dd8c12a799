"""Search spaces in TOML: what is read, what a command line leaves open, what a trial gets."""

import optuna
import pytest

from pocketbert.errors import UserError
from pocketbert.search.space import given_flags, open_part, read_space, suggest_values, with_values

SPACE = """
lr = { low = 1e-5, high = 1e-2, log = true }
layers = { low = 1, high = 3 }
loss = ["soft", "mse"]
temperature = { low = 1.0, high = 8.0, unless = { loss = "mse", alpha = 0 } }
freeze = { low = 0, high = 11 }
bf16 = [true, false]
student.gru = { hidden = [8, 16], layers = { low = 1, high = 4 } }
student.bag = { hidden = [4] }
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.toml").write_text(SPACE)
    return read_space(tmp_path / "space.toml")


def trials(space, given, count=40, depth_of=lambda values: 12):
    """[{flag: value}] of random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest_values(study.ask(), space, given, depth_of) for _ in range(count)]


def test_values_are_in_their_ranges_and_whole_where_both_ends_are(space):
    for values in trials(open_part(space, {}), {}):
        assert 1e-5 <= values["lr"] <= 1e-2 and values["layers"] in (1, 2, 3) and values["loss"] in ("soft", "mse")
        assert isinstance(values["layers"], int) and isinstance(values["lr"], float) and "student" not in values
    rates = [values["lr"] for values in trials(open_part(space, {}), {}, 200)]
    assert 70 < sum(rate < 10 ** -3.5 for rate in rates) < 130  # logarithmic: as many below the middle as above


def test_a_flag_that_is_given_is_not_searched(space):
    given = given_flags("distill.py --loss soft --lr 1e-3 --control --student lstm:layers=2".split())
    assert given == {"loss": "soft", "lr": "1e-3", "control": "", "student": "lstm:layers=2"}
    assert set(open_part(space, given)) == {"layers", "temperature", "freeze", "bf16"}  # no sizes of lstm are there


def test_unless_leaves_a_flag_out_where_another_was_given_or_suggested(space):
    part = open_part(space, {})
    assert all(("temperature" in values) == (values["loss"] == "soft") for values in trials(part, {}))
    for given in ({"loss": "mse"}, {"alpha": "0"}, {"alpha": "0.0"}):
        assert not any("temperature" in values for values in trials(open_part(space, given), given))
    assert any("temperature" in values for values in trials(part, {"alpha": "0.5"}))


def test_sizes_that_the_recipe_leaves_open_complete_it_and_no_more_layers_are_frozen_than_it_has(space):
    def depth_of(values):
        return int(values["student"].split("layers=")[1].split(",")[0])
    given = {"student": "gru:hidden=24"}
    suggested = trials(open_part(space, given), given, depth_of=depth_of)
    assert {values["student"] for values in suggested} == {f"gru:hidden=24,layers={n}" for n in (1, 2, 3, 4)}
    assert all(values["freeze"] < depth_of(values) for values in suggested)
    assert max(values["freeze"] for values in suggested) > 0
    assert {values["student"] for values in trials(open_part(space, {"student": "bag"}), {"student": "bag"})} == {
        "bag:hidden=4"}


def test_a_command_line_gets_the_values_rounded_to_three_digits_and_switches_alone():
    words = ["--student", "gru", "--seed", "0"]
    values = {"student": "gru:hidden=8", "lr": 0.00123456, "bf16": True, "debug": False, "batch-size": 32}
    assert with_values(words, values) == ["--student", "gru:hidden=8", "--seed", "0", "--lr", "0.00123", "--bf16",
                                          "--batch-size", "32"]
    assert words[1] == "gru"


@pytest.mark.parametrize("line, message", [
    ("lr = 3", "lr = 3 is one value"), ("lr = {low = 1}", "a number for low and for high"),
    ("lr = {low = 2, high = 1}", "low above high"), ("lr = {low = 0, high = 1, log = true}", "low must be above 0"),
    ("lr = []", "no choices"), ("lr = {low = 1, high = 2, step = 1}", "has step"), ("lr = ", "not readable TOML"),
    ("student.gru.hidden = {low = 'a', high = 2}", "student.gru.hidden = .* a number")])
def test_a_space_that_cannot_be_is_refused_in_one_line(line, message, tmp_path):
    (tmp_path / "space.toml").write_text(line)
    with pytest.raises(UserError, match=message) as error:
        read_space(tmp_path / "space.toml")
    assert "space.toml" in str(error.value) and "\n" not in str(error.value)
