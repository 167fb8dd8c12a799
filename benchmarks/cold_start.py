"""How long a new process with an exported student takes to its first answer, and how much memory.

    python benchmarks/cold_start.py --model runs/demo/pocket

Beside it, in turn, a process that only imports torch. Writes docs/results/cold_start.md and cold_start.json.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
PEAK = "from pocketbert.memory import peak_bytes; print(peak_bytes())"


def run(program):
    """(seconds, peak bytes) of a new process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", f"{program}; {PEAK}"], capture_output=True, text=True, check=True,
                          cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - start, int(done.stdout.split()[-1])


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="an exported model folder")
    parser.add_argument("--runs", type=positive_int, default=15, help="of each process")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    args = parser.parse_args(argv)
    folder = str(Path(args.model).resolve())
    programs = {"first answer": f"from pocketbert import Classifier; Classifier({folder!r})('not a fan of it, sadly')",
                "import torch": "import torch"}
    measured = {name: [] for name in programs}
    for _ in range(args.runs):
        for name, program in programs.items():
            measured[name].append(run(program))
    found = {name: dict(zip(("seconds", "peak_bytes"), np.median(values, axis=0).tolist(), strict=True))
             for name, values in measured.items()}
    rows = [["process", "seconds", "peak MB"]]
    rows += [[name, f"{row['seconds']:.2f}", f"{row['peak_bytes'] / 1e6:.0f}"] for name, row in found.items()]
    record = provenance("benchmarks/cold_start.py", vars(args), argv)
    page = ["# Cold start", "", markdown_table(rows, "lrr"), "",
            f"{args.model}: medians of {args.runs} processes, in turn, from their start to their end. "
            f"{hardware_line()}; commit {record['commit']}."]
    write_text("\n".join(page) + "\n", Path(args.out) / "cold_start.md")
    write_json({"processes": found, "run": record}, Path(args.out) / "cold_start.json")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
