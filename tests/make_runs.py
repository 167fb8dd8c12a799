"""Calls of make on a small dataset, for the tests of the chain."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = ["teacher", "pruned", "int8", "pruned-int8", "student", "student-alone", "cnn", "pocket"]
SETTINGS = {"MODEL": "scratch:layers=2,hidden=16,heads=2,vocab=200", "STUDENT": "teacher:layers=0",
            "TRAIN_FLAGS": "--epochs 6 --lr 1e-2 --batch-size 8 --dropout 0",
            "PRUNE_FLAGS": "--heads 0.5 --ffn 0.5 --epochs 1 --lr 5e-3 --samples 64",
            "DISTILL_FLAGS": "--epochs 2 --lr 5e-3 --batch-size 8", "POCKET": "cnn:vocab=200,hidden=8,embedding=8",
            "POCKET_FLAGS": "--epochs 2 --lr 5e-3 --batch-size 8", "EVALUATE_FLAGS": "--timed 4 --quick"}


def make(data, *targets, python=sys.executable, environment=None, **variables):
    """Call make with RUNS beside the data, in a process group of its own.

    -o: `.venv/.installed` counts as up to date, so no test ever installs anything. The environment is cleared of
    what make would take for settings of its own (DATA, MODEL, and MAKEFLAGS when `make test` runs the tests).
    """
    settings = SETTINGS | {"DATA": data, "RUNS": data.parent / "runs", "PYTHON": python} | variables  # None: not given
    given = [f"{key}={value}" for key, value in settings.items() if value is not None]
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LD_LIBRARY_PATH") if key in os.environ}
    command = ["make", "-C", ROOT, "--no-print-directory", "-j2", "-o", ".venv/.installed", *targets, *given]
    return subprocess.run(command, capture_output=True, text=True, start_new_session=True,
                          env=kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | (environment or {}))
