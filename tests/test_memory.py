"""The peak memory of a process."""

import subprocess
import sys
from pathlib import Path

from pocketbert.memory import peak_bytes, peak_megabytes
from pocketbert.provenance import provenance

PROGRAM = ("from pocketbert.memory import peak_bytes; before = peak_bytes(); text = b'x' * {}; del text; "
           "print(before, peak_bytes())")


def test_the_peak_is_that_of_the_process_alone_and_counts_what_was_freed_again():
    held = b"x" * 300_000_000  # of the parent: must not count
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(100_000_000)], cwd=Path(__file__).parents[1],
                         capture_output=True, text=True, check=True)
    before, peak = map(int, run.stdout.split())
    assert before < 100_000_000 and 95_000_000 < peak - before < 120_000_000 and held


def test_run_json_has_the_peak_in_megabytes():
    assert abs(peak_megabytes()["process"] - peak_bytes() / 1e6) < 1
    assert provenance("train.py", {}, [])["peak_memory_mb"]["process"] > 50
