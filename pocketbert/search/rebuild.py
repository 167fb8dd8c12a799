"""rebuild.sh: the commands that make a model again, from the raw data to its folder.

    bash rebuild.sh NEW_FOLDER

The commands are those that were run, with the folders that they write renamed below NEW_FOLDER. The same code, data and
versions of the packages on the same kind of processor give the same bytes in model and tokenizer.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.files import read_json

HEADER = """#!/usr/bin/env bash
# Makes this model again, from the raw data:  bash rebuild.sh NEW_FOLDER
# Run it in the folder of the project, or set POCKETBERT to that folder; PYTHON is the interpreter.
set -euo pipefail
NEW=$(mkdir -p "${1:?name a new folder}" && cd "$1" && pwd)
cd "${POCKETBERT:-$PWD}"
PYTHON=${PYTHON:-python}
"""


@dataclass
class Step:
    """A command that made a folder."""

    script: str
    argv: list[str]
    names: set[str]  # how the folder is called in this command and in those that read it


def steps_to(folder, name=None):
    """The steps that made a folder, its parents first, as far as run.json files are there.

    A parent that was not made here (a checkpoint from elsewhere) ends the chain.
    name: how the command that reads the folder calls it
    """
    run_path = Path(folder) / "run.json"
    run = read_json(run_path) if run_path.is_file() else {}
    if "command" not in run:
        return []
    _, script, *argv = shlex.split(run["command"])
    if "--out" not in argv:
        raise UserError(f"{run_path}: {run['command']} names no --out: it cannot be repeated")
    parent = (run.get("parent") or {}).get("name", "")
    before = steps_to(parent, parent) if parent and Path(parent).is_dir() else []
    return [*before, Step(script, argv, {argv[argv.index("--out") + 1], str(name or folder)})]


def rebuild_script(steps):
    """The text of the script; the last step makes the model."""
    places = {}
    lines = []
    for number, step in enumerate(steps, 1):
        place = "$NEW/model" if step is steps[-1] else f"$NEW/step-{number}"
        places |= dict.fromkeys(step.names, place)
        lines.append(" ".join(['"$PYTHON"', step.script, *(quoted(word, places) for word in step.argv)]))
    return HEADER + "\n".join(lines) + "\n"


def quoted(word, places):
    """A word of a command line, for the shell; a folder that is made anew gets its new name."""
    return f'"{places[word]}"' if word in places else shlex.quote(word)
