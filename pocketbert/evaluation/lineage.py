"""How a model folder came to be: the commands that make it from raw data, read from run.json and those of its parents.

Each run.json holds its command, its parent's name and the hash of the parent's weights. The chain is followed to the
first training; a folder that is gone, or has changed since, is said in a comment.
"""

import shlex
from pathlib import Path

from pocketbert.files import read_json


def read_run(folder):
    """run.json of a folder; {} where there is none."""
    path = Path(folder) / "run.json"
    return read_json(path) if path.is_file() else {}


def parent_names(run):
    """Names of the models that a run started from: its parent, then its teachers."""
    names = [(run.get("parent") or {}).get("name"), *(run.get("teachers") or [])]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def find_parent(name, folder):
    """The folder of a parent: as its name says, or beside the child, if the runs were moved together; or None."""
    for place in (Path(name), Path(folder).resolve().parent / Path(name).name):
        if (place / "run.json").is_file():
            return place
    return None


def rebuild_commands(folder):
    """Lines of shell that make `folder`, parents first; comments say what cannot be rebuilt from here."""
    lines = []
    run = read_run(folder)
    collect(Path(folder), run, lines, seen=set())
    commit = run.get("commit")
    return ([f"git checkout {shlex.quote(str(commit))}"] if commit else []) + lines


def collect(folder, run, lines, seen):
    """Append the commands of a folder's parents and its own, each once."""
    seen.add(folder.resolve())
    for name in parent_names(run):
        parent = find_parent(name, folder)
        if parent is None:
            note = comment_on(name, run.get("parent") or {})
            if note and note not in lines:
                lines.append(note)
        elif parent.resolve() not in seen:
            parent_run = read_run(parent)
            collect(parent, parent_run, lines, seen)
            if has_changed(parent_run, run.get("parent") or {}, name):
                lines.append(f"# {name} has other weights now than those from which the next folder was made")
    lines.append(str(run.get("command") or f"# {folder} has no run.json: it is not known how it was made"))


def comment_on(name, parent):
    """A comment on a parent that is no folder here: a model of the Hub, or a folder that is gone."""
    if ":" in name or "sha256" not in parent or parent.get("name") != name:
        return None if ":" in name else f"# {name}: its run.json is not here"
    if "commit" in parent:
        return f"# {name} of the Hub, commit {parent['commit']}"
    return f"# {name}: a checkpoint without run.json, SHA-256 of its weights {parent['sha256']}"


def has_changed(parent_run, parent, name):
    """Does the parent's run.json tell other weights than the child's run.json?"""
    files = parent_run.get("files") or {}
    weights = [digest for file, digest in files.items() if file.endswith((".safetensors", ".onnx", ".xml", ".bin"))]
    return parent.get("name") == name and len(weights) == 1 and parent.get("sha256") not in (None, weights[0])
