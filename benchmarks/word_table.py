"""What a large word table costs in a training step, and what vocabulary pruning and AdamW by rows save.

A multilingual checkpoint has 250,000 word pieces, most of which a task never reads. Four ways to train it:

    whole table, AdamW        every row has a gradient, two averages and an update in each step
    whole table, row-adamw    only the rows that the batch has read (training/row_adamw.py)
    small table, AdamW        after `prune.py --vocab 1`
    small table, row-adamw    both

Step times: the four take turns in one process, on the same random texts. Peak memory: a process of its own for each.

    python benchmarks/word_table.py --model CHECKPOINT --pruned runs/words

Writes docs/results/word_table.md and word_table.json.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line, time_interleaved
from pocketbert.memory import peak_bytes
from pocketbert.models.folder import load_model
from pocketbert.provenance import provenance
from pocketbert.training.optim import OPTIMIZERS, clip_grad_norm_, parameter_groups

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZER_NAMES = ("adamw", "row-adamw")
LABELS = ["negative", "neutral", "positive"]
MB = 1e6


def training_step(folder, optimizer_name, texts, tokens):
    """A function that makes one step on a new batch of random texts."""
    model, tokenizer = load_model(folder, label_names=LABELS)
    model.train()
    optimizer = OPTIMIZERS[optimizer_name](parameter_groups(model, 0.01), lr=1e-5)
    if optimizer_name == "row-adamw":
        optimizer.watch(model)
    generator = torch.Generator().manual_seed(0)

    def step():
        ids = torch.randint(10, tokenizer.vocab_size, (texts, tokens), generator=generator)
        labels = torch.randint(len(LABELS), (texts,), generator=generator)
        F.cross_entropy(model(ids), labels).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def peak_mb(folder, optimizer_name, texts, tokens):
    """The peak resident memory of a process that makes three steps, in 10^6 bytes."""
    argv = [sys.executable, __file__, "--model", folder, "--only", optimizer_name, "--texts", str(texts),
            "--tokens", str(tokens)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the checkpoint with the whole table")
    parser.add_argument("--pruned", help="the folder that prune.py --vocab has made of it")
    parser.add_argument("--texts", type=positive_int, default=32, help="in a batch")
    parser.add_argument("--tokens", type=positive_int, default=30, help="of a text")
    parser.add_argument("--steps", type=positive_int, default=10, help="timed steps of each")
    parser.add_argument("--only", choices=OPTIMIZER_NAMES, help="make three steps and print the peak memory")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    args = parser.parse_args(argv)
    if args.only:
        step = training_step(args.model, args.only, args.texts, args.tokens)
        for _ in range(3):
            step()
        print(peak_bytes() / MB)
        return None
    variants = [(table, folder, name) for table, folder in (("whole", args.model), ("small", args.pruned))
                for name in OPTIMIZER_NAMES]
    memory = {f"{table} table, {name}": peak_mb(folder, name, args.texts, args.tokens)
              for table, folder, name in variants}
    times = time_interleaved({f"{table} table, {name}": training_step(folder, name, args.texts, args.tokens)
                              for table, folder, name in variants}, args.steps, warmup=2)
    slowest = times["whole table, adamw"]
    rows = [["training", "ms a step", "x faster", "peak MB", "MB less"]]
    found = {}
    for name, values in times.items():
        found[name] = {"ms": float(np.median(values)), "speedup": float(np.median(slowest / values)),
                       "peak_mb": memory[name]}
        rows.append([name, f"{found[name]['ms']:.0f}", f"{found[name]['speedup']:.2f}", f"{memory[name]:,.0f}",
                     f"{memory['whole table, adamw'] - memory[name]:,.0f}"])
    run = provenance("benchmarks/word_table.py", vars(args), argv)
    about = (f"{Path(args.model).name}, fp32, {args.texts} texts of {args.tokens} random tokens; medians of "
             f"{args.steps} steps, in turn. {hardware_line()}; commit {run['commit']}.")
    page = ["# A large word table in training", "", markdown_table(rows, "lrrrr"), "", about]
    write_text("\n".join(page) + "\n", Path(args.out) / "word_table.md")
    write_json({"variants": found, "run": run}, Path(args.out) / "word_table.json")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
