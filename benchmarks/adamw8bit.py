"""What a step of AdamW with 8-bit states costs beside torch's, and how many bytes its states take.

The optimizers take turns, each on weights of its own with a fixed gradient.

    python benchmarks/adamw8bit.py

Writes docs/results/adamw8bit.md and adamw8bit.json.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line, time_interleaved
from pocketbert.provenance import provenance
from pocketbert.training.optim import OPTIMIZERS

ROOT = Path(__file__).resolve().parents[1]


def state_bytes(optimizer):
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values()
               if isinstance(value, torch.Tensor) and value.dim())


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--weights", type=positive_int, default=4_000_000, help="how many each has")
    parser.add_argument("--steps", type=positive_int, default=20, help="timed steps of each")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    optimizers = {}
    for name in ("adamw", "adamw8bit"):
        weight = torch.nn.Parameter(torch.randn(args.weights) * 0.05)
        weight.grad = torch.randn(args.weights) * 1e-3
        optimizers[name] = OPTIMIZERS[name]([weight], lr=1e-4)
    times = time_interleaved({name: optimizer.step for name, optimizer in optimizers.items()}, args.steps)
    found = {name: {"ns_per_weight": float(np.median(times[name])) * 1e6 / args.weights,
                    "bytes_per_weight": state_bytes(optimizer) / args.weights}
             for name, optimizer in optimizers.items()}
    rows = [["optimizer", "ns a weight and step", "bytes of state a weight"]]
    rows += [[name, f"{row['ns_per_weight']:.1f}", f"{row['bytes_per_weight']:.2f}"] for name, row in found.items()]
    run = provenance("benchmarks/adamw8bit.py", vars(args), argv)
    page = ["# AdamW with 8-bit states", "", markdown_table(rows, "lrr"), "",
            f"Medians of {args.steps} steps in turn on {args.weights:,} weights. {hardware_line()}; commit "
            f"{run['commit']}."]
    write_text("\n".join(page) + "\n", Path(args.out) / "adamw8bit.md")
    write_json({"optimizers": found, "run": run}, Path(args.out) / "adamw8bit.json")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
