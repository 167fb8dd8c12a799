"""What make remakes and why, the names it can handle, interrupted chains, and what `make clean` removes."""

import json
import shutil

import pytest

from make_runs import STEPS, make

# In place of Python: writes down its arguments and leaves the file that the script would leave last. DIES: the step
# that is killed before it writes; INTERRUPTED: the one during which Ctrl-C arrives, just after it has written.
STUB = """#!/bin/sh
verb=$1
printf '%s\\n' "$@" "" >> "$ARGUMENTS"
while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done
step=$(basename "$out")
echo "$step" >> "$CALLS"
[ "$step" = "$DIES" ] && kill -9 $$
mkdir -p "$out"
if [ $verb = evaluate.py ]; then touch "$out/results.md"; else touch "$out/run.json"; fi
[ "$step" = "$INTERRUPTED" ] && kill -INT 0
exit 0
"""


@pytest.fixture
def chain(mine):
    """A function that calls make with the stub for Python and returns (exit code, the steps made, in order).

    chain.arguments(): the words of each command line of the last call
    """
    (mine.parent / "python").write_text(STUB)
    (mine.parent / "python").chmod(0o755)
    calls = mine.parent / "calls"
    arguments = mine.parent / "arguments"

    def call(dies="", interrupted="", data=mine, **variables):
        calls.write_text("")
        arguments.write_text("")
        environment = {"CALLS": str(calls), "ARGUMENTS": str(arguments), "DIES": dies, "INTERRUPTED": interrupted}
        done = make(data, "all", python=mine.parent / "python", environment=environment, **variables)
        call.stderr = done.stderr
        return done.returncode, calls.read_text().split()

    call.arguments = lambda: [command.split("\n") for command in arguments.read_text().rstrip("\n").split("\n\n")]
    return call


# ---- what is made, and again -------------------------------------------------------------------------------

def test_each_step_is_made_once_and_after_what_it_needs(chain):
    code, made = chain()
    assert code == 0 and sorted(made) == sorted([*STEPS, "report"])
    assert made[0] == "teacher" and made[-1] == "report" and made.index("pruned") < made.index("pruned-int8")
    assert chain() == (0, [])


@pytest.mark.parametrize("gone, remade", [
    ("int8", {"int8", "report"}), ("pruned", {"pruned", "pruned-int8", "report"}), ("student", {"student", "report"}),
    ("cnn", {"cnn", "pocket", "report"}), ("report", {"report"}), ("teacher", {*STEPS, "report"})])
def test_a_deleted_folder_is_made_again_with_what_depends_on_it(gone, remade, chain, mine):
    chain()
    shutil.rmtree(mine.parent / "runs" / gone)
    code, made = chain()
    assert code == 0 and set(made) == remade and len(made) == len(remade)


@pytest.mark.parametrize("changed, remade", [
    ({"STUDENT": "teacher:layers=1"}, {"student", "student-alone", "report"}),
    ({"POCKET": "cnn:hidden=9"}, {"cnn", "pocket", "report"}),
    ({"UNLABELLED": "a.txt b.txt"}, {"cnn", "pocket", "report"}),
    ({"PRUNE_FLAGS": "--heads 0.4"}, {"pruned", "pruned-int8", "report"}),
    ({"QUANTIZE_FLAGS": "--engine x86"}, {"int8", "pruned-int8", "report"}),
    ({"EVALUATE_FLAGS": "--timed 8"}, {"report"}), ({"MODEL": "scratch:layers=3"}, {*STEPS, "report"})])
def test_a_changed_setting_remakes_what_it_touches_and_no_more(changed, remade, chain):
    chain()
    code, made = chain(**changed)
    assert code == 0 and set(made) == remade and len(made) == len(remade)
    assert chain(**changed) == (0, [])


def test_a_changed_data_file_remakes_everything(chain, mine):
    chain()
    mine.write_text(mine.read_text() + "one more,neutral\n")
    assert set(chain()[1]) == {*STEPS, "report"}


def test_a_changed_file_in_a_folder_of_data_remakes_everything(chain, mine):
    folder = mine.parent / "my data"
    folder.mkdir()
    shutil.copy(mine, folder / "train.csv")
    runs = mine.parent / "runs"
    assert len(chain(data=folder, RUNS=runs)[1]) == len(STEPS) + 1 and chain(data=folder, RUNS=runs) == (0, [])
    shutil.copy(mine, folder / "test.csv")
    assert len(chain(data=folder, RUNS=runs)[1]) == len(STEPS) + 1


def test_a_maximum_length_that_is_given_once_reaches_every_step(chain):
    chain(MAX_LENGTH="64")
    commands = chain.arguments()
    assert len(commands) == len(STEPS) + 1
    assert all(command[command.index("--max-length") + 1] == "64" for command in commands)


# ---- names -------------------------------------------------------------------------------------------------

NAMES = ["two words.csv", "train(1).csv", "q&a.csv", "it's.csv", 'say "hi".csv', "a;b.csv", "50%.csv", "a$b.csv",
         "a$$b.csv", "a#b.csv", "a:b.csv", "x=y.csv", "[1]*.csv", "back\\slash.csv", "line\nbreak.csv", "-n.csv",
         "~.csv"]
ATTACKS = ["a & touch HACKED & .csv", "$(touch HACKED).csv", "`touch HACKED`.csv", "';touch HACKED;'.csv",
           '";touch HACKED;".csv', "$(shell touch HACKED).csv", "a;touch HACKED;.csv", "a|touch HACKED|.csv"]


@pytest.mark.parametrize("name", NAMES + ATTACKS)
def test_a_data_file_may_have_any_name_and_no_part_of_it_is_run(name, chain, mine):
    data = mine.parent / name
    shutil.copy(mine, data)
    code, made = chain(data=data)
    assert code == 0 and len(made) == len(STEPS) + 1, chain.stderr
    arguments = (mine.parent / "arguments").read_text()
    assert arguments.count(f"\n--data\n{data}\n--data-dir\n") == len(STEPS) + 1
    assert chain(data=data) == (0, [])
    shutil.copy(mine, mine.parent / "new.csv")
    data.write_text(mine.read_text() + "one more,neutral\n")
    assert len(chain(data=data)[1]) == len(STEPS) + 1
    assert not list(mine.parent.rglob("HACKED"))


@pytest.mark.parametrize("name, runs", [("two words.csv", "runs/two_words"), ("q&a;x.csv", "runs/q_a_x"),
                                        ("a$b#c.csv", "runs/a_b_c"), ("sub dir/", "runs/sub_dir"), (".", "runs/data"),
                                        ("massive:de-DE", "runs/massive_de-DE"), ("mine.csv", "runs/mine")])
def test_the_folder_of_a_chain_is_named_after_its_data_in_plain_characters(name, runs, mine):
    done = make(mine.parent / "x", "help", DATA=name, RUNS=None)
    assert done.stdout.rstrip().endswith(f"RUNS={runs}")


@pytest.mark.parametrize("variable", ["MODEL", "STUDENT", "TEXT", "LABEL", "DATA_DIR", "MAX_LENGTH"])
def test_other_names_are_passed_as_they_are_too(variable, chain, mine):
    name = "it's $(touch HACKED) `touch HACKED`; \"a\" & $b"
    code, made = chain(**{variable: name})
    assert code == 0 and len(made) == len(STEPS) + 1
    assert any(name in command for command in chain.arguments()) and not list(mine.parent.rglob("HACKED"))


def test_the_chain_of_a_file_with_a_difficult_name_trains(mine):
    data = mine.parent / "it's (1) & q;a $b 50% #.csv"
    shutil.copy(mine, data)
    done = make(data, "teacher", TRAIN_FLAGS="--epochs 1")
    run = json.loads((mine.parent / "runs" / "teacher" / "run.json").read_text())
    assert done.returncode == 0 and run["arguments"]["data"] == str(data)


# ---- interrupted chains ------------------------------------------------------------------------------------

@pytest.mark.parametrize("dies, rest", [("teacher", {*STEPS, "report"}), ("pruned-int8", {"pruned-int8", "report"}),
                                        ("report", {"report"})])
def test_a_killed_chain_goes_on_where_it_stopped(dies, rest, chain):
    code, made = chain(dies=dies)
    assert code != 0 and "report" not in made[:-1]
    code, more = chain()
    assert code == 0 and sorted([*made, *more]) == sorted([*STEPS, "report", dies]) and dies in more
    assert set(more) <= rest | {"student", "student-alone", "cnn", "pocket"}  # these may not have had their turn


@pytest.mark.parametrize("step", ["teacher", "pruned-int8", "report"])
def test_a_folder_that_was_finished_when_ctrl_c_came_stays(step, chain, mine):
    code, made = chain(interrupted=step)
    assert code != 0 and step in made
    assert (mine.parent / "runs" / step / ("results.md" if step == "report" else "run.json")).exists()
    code, more = chain()
    assert code == 0 and step not in more and {*made, *more} == {*STEPS, "report"}


# ---- make clean --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("runs", ["", "/", ".", "..", "./", "a/..", "-x", "two words", "$HOME", "~", "a;b"])
@pytest.mark.parametrize("target", ["clean", "all"])
def test_a_folder_for_the_chain_that_is_none_of_its_own_is_refused_in_one_line(target, runs, mine):
    done = make(mine, target, RUNS=runs)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "RUNS=" in line


def test_clean_leaves_files_of_the_user_and_folders_that_are_not_ours(mine):
    runs = mine.parent / "runs"
    (runs / "teacher").mkdir(parents=True)
    (runs / "teacher" / "run.json").write_text('{"script": "train.py"}')
    (runs / "teacher" / "notes.txt").write_text("mine")
    (runs / "student").mkdir()
    (runs / "student" / "config.json").write_text("of somebody else: no run.json")
    (runs / "report").mkdir()
    (runs / "report" / "results.csv").write_text("of somebody else: no results.md")
    done = make(mine, "clean")
    left = sorted(str(path.relative_to(runs)) for path in runs.rglob("*") if path.is_file())
    assert left == ["report/results.csv", "student/config.json", "teacher/notes.txt"]
    assert done.returncode == 0 and "other files" in done.stdout
