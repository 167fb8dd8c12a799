"""run.json: how a folder came to be, so that it can be made again and its numbers be believed."""

import datetime
import hashlib
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from pocketbert.files import sha256
from pocketbert.hardware import hardware
from pocketbert.memory import peak_megabytes


def code_digest():
    """The SHA-256 of the project's source files, names included: two runs with the same one ran the same code."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *root.glob("pocketbert/**/*.py")]):
        digest.update(f"{path.relative_to(root)} {sha256(path)} ".encode())
    return digest.hexdigest()


def git_commit():
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                              text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # unpacked from an archive


def now():
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def provenance(script, arguments, argv, parent=None, data=None, **more):
    """The dictionary for run.json: everything needed to make the folder again and to believe its numbers.

    script: "train.py"    arguments: {flag: value}    argv: the command line after the script, None: this process's own
    parent: from models.folder.parent_of    data: the Dataset    more: what the script has to say
    """
    argv = sys.argv[1:] if argv is None else argv
    run = {"script": script, "command": shlex.join(["python", script, *map(str, argv)]),
           "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
           "parent": parent}
    if data is not None:
        run["data"] = {"name": data.name, "fingerprint": data.fingerprint, "train": len(data.train),
                       "validation": len(data.validation), "validation_origin": data.validation_origin}
    packages = ("torch", "tokenizers", "safetensors", "numpy", "scikit-learn")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return run | more | {"hardware": hardware(), "peak_memory_mb": peak_megabytes(), "versions": versions,
                         "commit": git_commit(), "finished": now()}
