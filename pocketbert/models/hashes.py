"""The hashes of a model folder's own files, so that a damaged or half-copied folder never answers.

save_model writes into run.json

    "files"        {name: SHA-256} of config.json, the weights and tokenizer.json
    "checksums"    {name: checksum} of the weights, see `checksum`: six times as fast as SHA-256

and load_model compares: the small files before it reads them, the weights in a second thread while it reads them.
This finds damage and mixed-up files. It is no protection from somebody who also edits run.json.
"""

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pocketbert.errors import UserError
from pocketbert.files import read_json, sha256
from pocketbert.hub import Folder
from pocketbert.models.config_values import naming, text_map
from pocketbert.models.size import MODEL_FILES

CHUNK = 1 << 20  # bytes


def checksum(path):
    """SHA-256 of the row and column sums of a file, and of its end.

    Each megabyte is a matrix of 256 rows and 512 columns of unsigned 64-bit numbers, summed modulo 2^64. One wrong
    number changes a row and a column. Two that cancel in a row stand in different columns, so a damage that is not
    seen has to change four numbers at the corners of a rectangle by the same amount. BERT-base takes 0.05 s, its
    SHA-256 0.32 s.
    """
    digest = hashlib.sha256()
    data = np.memmap(path, np.uint8, mode="r") if Path(path).stat().st_size else np.zeros(0, np.uint8)
    end = len(data) // CHUNK * CHUNK
    for start in range(0, end, CHUNK):
        numbers = data[start:start + CHUNK].view(np.uint64).reshape(256, 512)
        digest.update(numbers.sum(axis=1).tobytes())
        digest.update(numbers.sum(axis=0).tobytes())
    digest.update(data[end:].tobytes())
    return digest.hexdigest()


def hash_files(folder):
    """What run.json says of the files in a folder: {"files": ..., "checksums": ...}"""
    paths = sorted(Path(folder).iterdir())
    return {"files": {path.name: sha256(path) for path in paths},
            "checksums": {path.name: checksum(path) for path in paths if path.name in MODEL_FILES}}


def saved_hashes(find):
    """{path: (function, its value)} of a folder that save_model has written; {} for any other.

    Files of the Hub have no entry: its library has compared them when it fetched them.
    """
    run = find("run.json") if isinstance(find, Folder) else None
    if run is None:
        return {}
    with naming(run):
        values = read_json(run)
        digests = text_map(values, "files")
        sums = text_map(values, "checksums")
    for name in digests:
        if find(name) is None:
            raise FileNotFoundError(f"{find.name} has no {name}, which run.json names: copy the whole folder again")
    return {find(name): (checksum, sums[name]) if name in sums else (sha256, digest)
            for name, digest in digests.items()}


def check_hashes(paths, hashes):
    """Raise a UserError for the first of the files that is not the one that was saved.

    hashes: of `saved_hashes`; a file without an entry is not checked.
    """
    for path in paths:
        if path not in hashes:
            continue
        function, value = hashes[path]
        if function(path) != value:
            raise UserError(f"{path} is not the file that was saved: its hash differs from the one in run.json; it is "
                            'damaged (copy it again), or edited (then remove "files" from run.json)')


@contextlib.contextmanager
def checking_hashes(paths, hashes):
    """Check the files in a second thread while the block inside `with` reads them. A wrong file is an error at the end,
    also in the place of an error that the block raises about it."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        check = pool.submit(check_hashes, paths, hashes)
        try:
            yield
        except UserError:
            check.result()
            raise
        check.result()
