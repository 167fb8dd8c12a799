"""Files and folders that are written as a whole: a reader, or a run after a crash, never meets half of one.

A file is written under a temporary name beside its place, flushed to the disk and renamed, which the file system does
in one step. A folder has no such step. Therefore one of its files is the last: it is removed first and written last,
so the others belong together whenever it is there (see `replacing_files`).
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
from pathlib import Path

from pocketbert.errors import UserError

UNFINISHED = ".unfinished_save"  # lies in a folder from before its first file is replaced until after the last one


def read_json(path):
    """The object of a JSON file, as a dictionary."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except PermissionError:
        raise PermissionError(f"{path} may not be read by you: chmod +r {path}") from None
    except RecursionError:
        raise UserError(f"{path} is not readable JSON (nested too deeply); fetch or write it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); fetch or write it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__} where an object is expected")
    return value


def sha256(path):
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(text, path):
    """Write a text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value, path):
    """Write a JSON file in one step."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)


def fsync(path):
    """Wait until the disk holds a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_running(pid):
    """Does a process with this number exist?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def remove_leftovers(path):
    """Remove the temporary files that killed processes left beside `path`; those of running ones stay."""
    for leftover in path.parent.glob(f".tmp.*.{glob.escape(path.name)}"):
        pid = leftover.name.split(".")[2]
        if pid.isdigit() and not is_running(int(pid)):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path):
    """Write a file in one step. Yields the path of a temporary file, which takes the place of `path` at the end.

        with replacing("out/logits.npz") as temporary:
            numpy.savez(temporary, ...)

    An error inside `with` removes the temporary file and leaves what `path` held before. A symbolic link is followed:
    the file that it points to is replaced, not the link. The temporary file has the same suffix, which some writers
    take for the format.
    """
    path = Path(os.path.realpath(path))
    remove_leftovers(path)
    temporary = path.with_name(f".tmp.{os.getpid()}.{path.name}")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(folder, last):
    """Was a save into this folder interrupted, so that its files may be of two different models?"""
    return (Path(folder) / UNFINISHED).is_dir() and not (Path(folder) / last).is_file()


@contextlib.contextmanager
def replacing_files(folder, names, last):
    """Write several files of a folder so that they always belong together. Yields an empty folder to write them into.

        with replacing_files("runs/m", names=("config.json", "model.safetensors", "run.json"), last="run.json") as new:
            write_json(config, new / "config.json")
            ...

    Afterwards the folder holds the files that were written. Those of `names` that were not written are removed. All
    other files, the user's, are never touched. The steps:

        1. the new files are written into folder/.unfinished_save and flushed to the disk
        2. `last` is removed
        3. the other new files are renamed into their places
        4. `last` is renamed into its place, and .unfinished_save is removed

    A process that is killed in step 1 leaves the old files; in step 4, the new ones; between them, a folder with
    .unfinished_save and without `last`, which `is_unfinished` tells from all others. An error in step 1 (a full disk)
    removes what was written. A lock on the folder lets a second writer wait until the first one has finished.
    """
    folder = Path(folder)
    was_there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        was_unfinished = is_unfinished(folder, last)
        staging = empty_folder(folder / UNFINISHED)
        try:
            yield staging
            written = sorted(path.name for path in staging.iterdir())
            assert last in written, (last, written)
            for name in written:
                fsync(staging / name)
        except BaseException:
            empty_folder(staging)
            if not was_unfinished:  # otherwise the mark must stay
                staging.rmdir()
            if not was_there:
                with contextlib.suppress(OSError):  # somebody has put a file there meanwhile
                    folder.rmdir()
            raise
        rename_into(staging, folder, written, names, last)


@contextlib.contextmanager
def locked(folder):
    """Wait until no other process is inside `with locked(folder)`. The lock of a process that is killed is released."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def rename_into(staging, folder, written, names, last):
    """Steps 2 to 4 of `replacing_files`."""
    (folder / last).unlink(missing_ok=True)
    fsync(folder)  # before any other file changes
    for name in set(names) - set(written):
        (folder / name).unlink(missing_ok=True)
    for name in written:
        if name != last:
            os.replace(staging / name, folder / name)
    fsync(folder)
    os.replace(staging / last, folder / last)
    staging.rmdir()
    fsync(folder)


def empty_folder(folder):
    """Make the folder if it is not there, and remove what is in it; never the folder itself, which may be a mark."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return folder


def move_files(source, folder, names, last):
    """Move the files in `names` from one folder to another, as `replacing_files` does; both on the same disk."""
    with replacing_files(folder, names, last) as staging:
        for name in names:
            if (Path(source) / name).exists():
                os.replace(Path(source) / name, staging / name)
