"""rebuild.sh: the commands that make a model again, from the raw data to its folder.

    bash rebuild.sh NEW_FOLDER

The commands are those that were run, with the folders that they write renamed below NEW_FOLDER. The same code, data and
versions of the packages on the same kind of processor give the same bytes in model and tokenizer.
"""

import shlex
from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.files import read_json

HEADER = """#!/usr/bin/env bash
# Makes this model again, from the raw data:  bash {script} NEW_FOLDER
# Run it in the folder of the project, or set POCKETBERT to that folder; PYTHON is the interpreter.
set -euo pipefail
NEW=$(mkdir -p "${{1:?name a new folder}}" && cd "$1" && pwd)
cd "${{POCKETBERT:-$PWD}}"
PYTHON=${{PYTHON:-python}}
"""


def commands_to(folder):
    """[(script, command line)] that made a folder, its parents first, as far as run.json files are there.

    A parent that was not made here (a checkpoint from elsewhere) ends the chain.
    """
    run_path = Path(folder) / "run.json"
    if not run_path.is_file():
        return []
    run = read_json(run_path)
    if "command" not in run:
        return []
    parent = (run.get("parent") or {}).get("name", "")
    [_, script, *argv] = shlex.split(run["command"])
    return [*(commands_to(parent) if Path(parent).is_dir() else []), (script.removesuffix(".py"), argv)]


def rebuild_script(commands, name="rebuild.sh"):
    """The text of the script. commands: [(script, command line with --out)]; the last one makes the model."""
    places = {}
    lines = []
    for number, (script, argv) in enumerate(commands, 1):
        out = value_of(argv, "--out")
        last = number == len(commands)
        places[out] = "$NEW/model" if last else f"$NEW/{number}-{Path(out).name}"
        lines.append(" ".join(['"$PYTHON"', f"{script}.py", *(place(word, places) for word in argv)]))
    return HEADER.format(script=name) + "\n".join(lines) + "\n"


def value_of(argv, flag):
    if flag not in argv:
        raise UserError(f"{shlex.join(argv)} names no {flag}: it cannot be repeated")
    return argv[argv.index(flag) + 1]


def place(word, places):
    """A word of a command line, quoted for the shell; a folder that is made anew gets its new name."""
    return f'"{places[word]}"' if word in places else shlex.quote(word)
