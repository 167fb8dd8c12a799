"""JSON files and folders that are either there or not: nothing is ever half-written.

The recipe is always the same: write beside the target, fsync, rename.
"""

import ctypes
import json
import os
import shutil
from pathlib import Path

from pocketbert.errors import UserError


def read_json(path):
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); fetch or write it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__} where an object is expected")
    return value


def write_text(text, path):
    """Atomic: a temporary file, fsync, rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    fsync(temporary)
    os.replace(temporary, path)


def write_json(value, path):
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)


def fsync(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def swap_in(staging, folder, replaced):
    """Move the finished folder `staging` to `folder` in one step.

    Of a folder that was there, the files named in `replaced` go and all others stay.
    """
    fsync(staging)
    if folder.is_dir() and any(folder.iterdir()):
        exchange(staging, folder)  # from here on `staging` is the old folder
        for path in staging.iterdir():
            if path.name not in replaced:
                path.rename(folder / path.name)
        shutil.rmtree(staging)
    else:
        os.replace(staging, folder)
    fsync(folder.parent)


def exchange(a, b):
    """Swap two folders in one step: Linux's renameat2(RENAME_EXCHANGE); elsewhere by renames, nearly as good."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        renameat2 = None
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux's headers
    if renameat2 and renameat2(here, os.fsencode(a), here, os.fsencode(b), swap) == 0:
        return
    aside = b.with_name(f".{b.name}.old.tmp")
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)
