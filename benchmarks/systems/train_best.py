"""train.py with the flags that a search has found: a search may see few texts and epochs, the model all of them.

    python benchmarks/systems/train_best.py --search runs/search --model gru --data emotion --epochs 8 --out runs/gru
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train  # noqa: E402
from pocketbert.cli import run_script  # noqa: E402
from pocketbert.files import read_json  # noqa: E402

SEARCHED = ("lr", "batch_size", "weight_decay", "warmup", "dropout", "freeze")


def main(argv=None):
    """Returns what run.json says. All flags but --search go to train.py, after those of the best trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", required=True, help="the folder of a search of train.py")
    args, given = parser.parse_known_args(argv)
    best = read_json(Path(args.search) / "best" / "run.json")["arguments"]
    found = [str(part) for name in SEARCHED if best[name] is not None
             for part in (f"--{name.replace('_', '-')}", best[name])]
    return train.main([*found, *given])


if __name__ == "__main__":
    run_script(main)
