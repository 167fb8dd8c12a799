"""One training, killed with -9 again and again: does it end with the weights of an undisturbed one?

A tiny encoder is trained on the demo data with a checkpoint every few steps. Once it runs undisturbed. Then the same
command is started, killed (its whole process group, up to 0.6 s after a checkpoint), started again, killed again ...
and after the last kill it may end. Its weights must be bit-identical.

    python benchmarks/resume.py --kills 20

Writes docs/results/resume.md and resume.json.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.errors import UserError
from pocketbert.files import sha256, write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ["train.py", "--model", "scratch:layers=2,hidden=64", "--data", "demo", "--epochs", "6", "--lr", "1e-3",
           "--dropout", "0.1", "--patience", "6"]


def start(out, every, log):
    argv = [sys.executable, *COMMAND, "--checkpoint-steps", str(every), "--out", str(out)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def kill_in(process, checkpoint, seconds):
    """Kill a training so many seconds after it has written its next checkpoint. False: it ended before."""
    before = modified(checkpoint)
    while modified(checkpoint) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def modified(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--kills", type=positive_int, default=20, help="of the one training")
    parser.add_argument("--every", type=positive_int, default=10, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where resume.md and resume.json go")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with open(folder / "log.txt", "w+", encoding="utf-8") as log:
            if start(folder / "whole", args.every, log).wait():
                raise UserError(f"the undisturbed training fails: {Path(log.name).read_text()[-500:]}")
            killed = 0
            process = start(folder / "killed", args.every, log)
            while killed < args.kills and kill_in(process, folder / ".killed.unfinished" / "checkpoint.pt",
                                                  rng.uniform(0, 0.6)):
                killed += 1
                process = start(folder / "killed", args.every, log)
            code = process.wait()
        went_on = (folder / "log.txt").read_text(encoding="utf-8").count("going on with an interrupted run")
        same = sha256(folder / "whole" / "model.safetensors") == sha256(folder / "killed" / "model.safetensors")
        left = sorted(path.name for path in folder.iterdir())
    found = {"kills": killed, "went_on": went_on, "exit_code": code, "same_weights": same, "left": left,
             "every": args.every}
    run = provenance("benchmarks/resume.py", vars(args), argv)
    page = ["# One training, killed again and again", "",
            f"`python {' '.join(COMMAND)} --checkpoint-steps {args.every}`, killed with -9 {killed} times "
            f"({went_on} times it said that it goes on from a checkpoint), ends with exit code {code} and with "
            f"{'the same' if same else 'OTHER'} bits in model.safetensors as an undisturbed run. Left behind: "
            f"{', '.join(set(left) - {'whole', 'killed', 'log.txt'}) or 'nothing'}.", "",
            f"{hardware_line()}; commit {run['commit']}."]
    write_text("\n".join(page) + "\n", Path(args.out) / "resume.md")
    write_json(found | {"run": run}, Path(args.out) / "resume.json")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
