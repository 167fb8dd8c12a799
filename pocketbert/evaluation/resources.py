"""What a model takes besides milliseconds: its cold start, its memory, its energy.

Memory and the cold start are measured in a process of its own for each model (first_answer.py): in one process the
models share the libraries, and what one of them has freed another one uses.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pocketbert.errors import UserError

PACKAGES = Path(__file__).parent.parent.parent  # of pocketbert: the child finds it from any working directory
RAPL = "/sys/class/powercap"
COLD_TEXTS = 256            # scored in the process whose memory is read


def start_cold(folder, texts, max_length):
    """{"cold_start_ms", "peak_memory_mb"} of a model folder: a fresh process opens it and answers.

    cold_start_ms: from the start of Python to the first answer, the files being in the disk's cache
    peak_memory_mb: resident memory at its highest, in 10^6 bytes; torch itself, where it is used, takes some 250
    """
    command = [sys.executable, "-m", "pocketbert.evaluation.first_answer", folder, str(max_length)]
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    lines = "".join(json.dumps(text) + "\n" for text in texts[:COLD_TEXTS]).encode()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=os.environ | {"PYTHONPATH": path}) as process:
        begin = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # the child has died, which is said below
            process.stdin.write(lines)
            process.stdin.close()
        answer = process.stdout.readline()
        cold_start_ms = 1000 * (time.perf_counter() - begin)
        peak = process.stdout.readline()
        problem = process.stderr.read().decode(errors="replace").strip().splitlines()
    if not answer or not peak:
        raise UserError(f"{folder} does not answer in a process of its own: {problem[-1] if problem else 'killed'}")
    return {"cold_start_ms": cold_start_ms, "peak_memory_mb": int(peak) / 1e6}


class EnergyMeter:
    """Joules that the processor used inside `with`, from the counters of RAPL (Intel and AMD, Linux).

        with EnergyMeter() as meter:
            ...
        meter.joules        # None where the machine does not let us read them; mostly only root may

    The counters are of the whole processor, other programs included, and start again at a largest value.
    """

    def __init__(self, root=RAPL):
        self.packages = [path for path in sorted(Path(root).glob("*-rapl:*")) if path.name.count(":") == 1]
        self.joules = None

    def read(self):
        """[microjoules of each processor], or None."""
        try:
            return [int((package / "energy_uj").read_text()) for package in self.packages] or None
        except (OSError, ValueError):
            return None

    def __enter__(self):
        self.before = self.read()
        return self

    def __exit__(self, *_):
        after = self.read()
        if not self.before or not after:
            return
        total = 0
        for package, start, end in zip(self.packages, self.before, after, strict=True):
            if end < start:  # the counter started again
                end += int((package / "max_energy_range_uj").read_text())
            total += end - start
        self.joules = total / 1e6
