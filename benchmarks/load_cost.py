"""What does it cost that load_model checks the hashes of a folder?

    python benchmarks/load_cost.py        # a BERT-base of random weights; writes docs/results/load_cost.md and .json

The folder is opened by new Python processes, in turn with the hashes in its run.json and without them; the import of
torch is part of the time, as for every user. Processor seconds (user and system, all threads) tell the cost even where
other programs run; the wall clock tells what a user waits for, since the check runs in a second thread.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from model_utils import save_model  # noqa: E402
from pocketbert.cli import parser_for, positive_int, run_script  # noqa: E402
from pocketbert.data.tokenizer import train_wordpiece  # noqa: E402
from pocketbert.evaluation.tables import markdown_table  # noqa: E402
from pocketbert.files import read_json, write_json, write_text  # noqa: E402
from pocketbert.hardware import hardware_line  # noqa: E402
from pocketbert.models.config import EncoderConfig  # noqa: E402
from pocketbert.models.encoder import Encoder, init_weights  # noqa: E402
from pocketbert.provenance import provenance  # noqa: E402

PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from model_utils import load_model; load_model(sys.argv[2])"


def open_once(folder):
    """(processor seconds, wall seconds) of a new process that opens the folder."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(ROOT), str(folder)])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start


def measure(folder, repeats):
    """{"with hashes": [(processor seconds, wall seconds), ...], "without": [...]}, the two in turn."""
    run = read_json(folder / "run.json")
    runs = {"with hashes": run, "without": {key: run[key] for key in run if key not in ("files", "checksums")}}
    seconds = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, content in runs.items():
            write_json(content, folder / "run.json")
            found = open_once(folder)
            if i:  # the first pair fills the cache of files
                seconds[name].append(found)
    return seconds


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--repeats", type=positive_int, default=15, help="how often each is opened")
    parser.add_argument("--out", default="docs/results", help="the folder to write to")
    args = parser.parse_args(argv)
    tokenizer = train_wordpiece([f"word{i} and other words" for i in range(30_000)], vocab_size=30_000)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bert-base"
        model = init_weights(Encoder(EncoderConfig(label_names=["a", "b"])))
        save_model(model, tokenizer, folder, run={"made": "here"})
        megabytes = (folder / "model.safetensors").stat().st_size / 1e6
        seconds = measure(folder, args.repeats)
    rows = [["run.json", "processor s: lowest", "median", "wall s: lowest", "median"]]
    for name, pairs in seconds.items():
        columns = list(zip(*pairs, strict=True))
        rows.append([name, *(f"{value:.2f}" for column in columns
                             for value in (min(column), statistics.median(column)))])
    run = provenance("benchmarks/load_cost.py", vars(args), argv)
    text = "\n\n".join(["# The cost of checking the hashes of a folder",
                        f"A new process opens a BERT-base of {megabytes:.0f} MB, {args.repeats} times each, in turn.",
                        markdown_table(rows, "lrrrr"),
                        f"`{run['command']}`, commit {str(run['commit'])[:7]}, {hardware_line()}."])
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(run | {"seconds": seconds}, out / "load_cost.json")
    write_text(text + "\n", out / "load_cost.md")
    print(text)
    return run


if __name__ == "__main__":
    run_script(main)
