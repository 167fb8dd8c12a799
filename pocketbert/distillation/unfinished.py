"""A command of several trainings (--seeds, --control) that can be interrupted and goes on where it stopped.

    folder = unfinished_folder("runs/demo/student")                 # runs/demo/.student.unfinished
    results = read_results(folder, settings, ["student", "alone"])  # {"student": [], "alone": []} at first
    ...                                                             # after each training:
    write_results(folder, settings, results)
    ...                                                             # at the end:
    remove_unfinished(folder)

Beside the results, the folder holds the models of the first seed. The model folders that the command was asked for,
whose run.json says that it is finished, are written at the end.
"""

import hashlib
import json
import shutil
from pathlib import Path

from pocketbert.files import read_json, write_json


def unfinished_folder(out):
    """Where a command that writes the folder `out` keeps what is done so far."""
    out = Path(out).resolve()
    return out.with_name(f".{out.name}.unfinished")


def digest_of(texts):
    """The SHA-256 of a list of strings."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def weights_digest(model):
    """The SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_results(folder, settings, roles):
    """{role: [the scores of each seed that is done]} of an interrupted command with the same settings.

    settings: {name: value} of everything that decides what is trained. An interrupted command with other settings is
    removed, and a printed line says which of them differ.
    """
    path = folder / "results.json"
    if not path.exists():
        return {role: [] for role in roles}
    stored = read_json(path)
    settings = json.loads(json.dumps(settings))  # as they would be read back: tuples become lists
    names = [name for name in {**settings, **stored["settings"]} if settings.get(name) != stored["settings"].get(name)]
    if names:
        print(f"{folder} holds an interrupted run with other settings ({', '.join(names)}): it is removed, and this "
              "run starts from the beginning")
        remove_unfinished(folder)
        return {role: [] for role in roles}
    num_done = sum(len(scores) for scores in stored["results"].values())
    print(f"going on with an interrupted run: {num_done} trainings are done ({folder})")
    return stored["results"]


def write_results(folder, settings, results):
    """Keep the results so far. They are written in one step: a process killed here leaves the earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json({"settings": settings, "results": results}, folder / "results.json")


def remove_unfinished(folder):
    """The command is finished, or is not to be continued. The results go first: without them nothing is continued."""
    (folder / "results.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
