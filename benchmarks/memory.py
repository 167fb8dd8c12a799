"""What memory each way of fine-tuning needs, what it takes in time, and what it scores.

Four things lie in memory while a model is trained. For P weights in fp32, of which p are trained:

    weights        4 P bytes; of a matrix in NF4 about 0.52 bytes a weight
    gradients      4 p
    states         8 p of AdamW; 2.03 p of AdamW with 8-bit states
    activations    what the backward pass needs of the forward pass: grows with texts times tokens, not with p

Each row of the table is `train.py` in a process of its own. Its peak memory is measured (the process's resident memory,
or what tensors occupy on a GPU). In another process the four kinds are counted, tensor by tensor, on one batch, and
their difference from the row it is compared with is what the peak should have fallen by.

    python benchmarks/memory.py --model sentence-transformers/all-MiniLM-L6-v2 --data tweet_sentiment_extraction

Writes docs/results/memory.md, memory.json and memory.png.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from pocketbert.cli import nonnegative_float, parser_for, positive_int, run_script
from pocketbert.errors import UserError
from pocketbert.evaluation.plots import figure_file
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import read_json, write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.memory import peak_bytes
from pocketbert.models.device import pick_device
from pocketbert.models.folder import load_model
from pocketbert.models.lora import add_lora, store_base
from pocketbert.models.stored import decode_in_each_call
from pocketbert.provenance import provenance
from pocketbert.training.optim import OPTIMIZERS, clip_grad_norm_, parameter_groups

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6
KINDS = ("weights", "gradients", "states", "activations")


@dataclass
class Way:
    """A way to train: flags of train.py, and the way that it is compared with."""

    name: str
    beside: str | None = None
    flags: list[str] = field(default_factory=list)


LORA = ["--lora-rank", "8"]
NF4 = ["--lora-base", "nf4"]
ADAM8 = ["--optimizer", "adamw8bit"]
CHECKPOINTING = ["--checkpointing"]

WAYS = [
    Way("full"),
    Way("full, 8-bit AdamW", "full", ADAM8),
    Way("full, checkpointing", "full", CHECKPOINTING),
    Way("LoRA", "full", LORA),
    Way("QLoRA", "LoRA", LORA + NF4),
    Way("QLoRA, 8-bit AdamW", "QLoRA", LORA + NF4 + ADAM8),
    Way("QLoRA, 8-bit AdamW, checkpointing", "QLoRA, 8-bit AdamW", LORA + NF4 + ADAM8 + CHECKPOINTING),
]

PUBLISHED = """A published table of a DistilBERT at batch size 8 (no script there trains): 24 GB as it is, 6 GB with
4-bit QLoRA, 5.5 GB with LoRA beside it, 4.8 GB with flash attention, 3.0 GB with all, "8 x less". The weights,
gradients and AdamW states of DistilBERT's 67 M weights are 16 bytes each in fp32, 1.1 GB together; the rest of 24 GB
would have to be activations. And NF4 is for matrices: the word vectors, 36 % of that model, stay as they are."""


class LiveTensors(TorchDispatchMode):
    """Inside `with`: knows the memory of all tensors that operators have made and that are still alive."""

    def __init__(self, known):
        super().__init__()
        self.live = WeakIdKeyDictionary()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, operator, types, inputs=(), named_inputs=None):
        made = operator(*inputs, **(named_inputs or {}))
        tree_map_only(torch.Tensor, self.note, made)
        return made

    def note(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:  # a view of a weight is no memory of its own
            self.live[storage] = storage.nbytes()

    def bytes(self):
        return sum(self.live.values())


def tensor_bytes(tensors):
    """The memory of tensors, each storage counted once."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def count_kinds(folder, flags, batch_size, tokens):
    """{kind: bytes} of one step as train.py makes it, on random tokens; "start": the process before it opens the model.

    folder: of the model that full fine-tuning has made    flags: of a Way
    """
    start = peak_bytes()
    options = train.parse_args(["--model", folder, "--data", "demo", "--out", "nowhere", *flags])
    model, tokenizer = load_model(folder)
    if options.lora_rank:
        if options.lora_base == "nf4":
            store_base(model)
            decode_in_each_call(model)
        add_lora(model, options.lora_targets, options.lora_rank, options.lora_alpha, options.lora_dropout, 0)
    model.checkpointing = options.checkpointing
    model.to(pick_device("auto", quiet=True)).train()
    optimizer = OPTIMIZERS[options.optimizer](parameter_groups(model, 0.01), lr=1e-5)
    weights = [*model.parameters(), *model.buffers()]
    ids = torch.randint(tokenizer.vocab_size, (batch_size, tokens)).to(model.device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=model.device)
    with LiveTensors([*weights, ids, labels]) as live:
        loss = F.cross_entropy(model(ids, torch.ones_like(ids)), labels)
    activations = live.bytes()
    loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return {"start": start, "weights": tensor_bytes(weights), "gradients": tensor_bytes(gradients),
            "states": tensor_bytes(states), "activations": activations}


def counted_in_a_process(way, args_of_count):
    argv = [sys.executable, __file__, "--count", json.dumps(way.flags), *args_of_count]
    run = subprocess.run(argv, capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"{way.name}: {run.stderr.strip()[-500:]}")
    return json.loads(run.stdout.splitlines()[-1])


def train_in_a_process(way, folder, flags):
    """run.json of a training."""
    argv = [sys.executable, str(ROOT / "train.py"), *flags, *way.flags, "--out", str(folder)]
    run = subprocess.run(argv, capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"{way.name}: {run.stderr.strip()[-500:]}")
    return read_json(folder / "run.json")


def row_of(way, kinds, run, texts):
    """The numbers of a way. texts: how many an epoch has"""
    history = run["history"]
    memory = run["peak_memory_mb"]
    return {"beside": way.beside, "flags": way.flags, "counted_mb": {kind: kinds[kind] / MB for kind in KINDS},
            "start_mb": kinds["start"] / MB, "peak_mb": memory.get("gpu") or memory["process"],
            "texts_per_s": texts * len(history) / history[-1]["seconds"], "macro_f1": run["validation"]["macro_f1"]}


def table_of(found):
    """The rows as lines of a Markdown table."""
    lines = [["training", *(f"{kind}, MB" for kind in KINDS), "peak, MB", "beside", "should be less by, MB",
              "is less by, MB", "texts/s", "macro-F1"]]
    for name, row in found.items():
        counted = row["counted_mb"]
        fall = ["", "", ""]
        if row["beside"]:
            other = found[row["beside"]]
            fall = [row["beside"], f"{sum(other['counted_mb'].values()) - sum(counted.values()):,.0f}",
                    f"{other['peak_mb'] - row['peak_mb']:,.0f}"]
        lines.append([name, *(f"{counted[kind]:,.1f}" for kind in KINDS), f"{row['peak_mb']:,.0f}", *fall,
                      f"{row['texts_per_s']:,.0f}", f"{row['macro_f1']:.4f}"])
    return markdown_table(lines, "lrrrrrlrrrr")


def draw(found, path):
    """The four kinds as stacked bars; a mark where the measured peak is, without what the process had at its start."""
    with figure_file(path, figsize=(8, 0.5 * len(found) + 1.5)) as (_, axes):
        axis = axes[0, 0]
        names = list(found)[::-1]
        left = [0.0] * len(names)
        for kind in KINDS:
            widths = [found[name]["counted_mb"][kind] for name in names]
            axis.barh(names, widths, left=left, label=kind)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        peaks = [found[name]["peak_mb"] - found[name]["start_mb"] for name in names]
        axis.plot(peaks, names, "k|", markersize=14, label="measured peak, less the process's start")
        axis.set_xlabel("MB")
        axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=5, fontsize=8)


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the checkpoint: a folder or a Hub id")
    parser.add_argument("--data", default="demo", help="as in train.py")
    parser.add_argument("--data-dir", default="data", help="as in train.py")
    parser.add_argument("--max-train", type=positive_int, default=8000, help="texts to train on")
    parser.add_argument("--epochs", type=positive_int, default=2)
    parser.add_argument("--batch-size", type=positive_int, default=32)
    parser.add_argument("--tokens", type=positive_int, default=48, help="of the batch on which the kinds are counted, "
                        "and kept of each text")
    parser.add_argument("--lr", type=nonnegative_float, default=1e-4, help="of full fine-tuning")
    parser.add_argument("--lora-lr", type=nonnegative_float, default=2e-3, help="of LoRA and QLoRA")
    parser.add_argument("--count", help="flags of a way: print its kinds and end (used by this script itself)")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    args = parser.parse_args(argv)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    if args.count:
        print(json.dumps(count_kinds(args.model, json.loads(args.count), args.batch_size, args.tokens)))
        return None
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for way in WAYS:
            lr = args.lora_lr if "--lora-rank" in way.flags else args.lr
            run = train_in_a_process(way, Path(scratch) / way.name, [
                "--model", args.model, "--data", args.data, "--data-dir", args.data_dir, "--max-train",
                str(args.max_train), "--epochs", str(args.epochs), "--batch-size", str(args.batch_size),
                "--max-length", str(args.tokens), "--lr", str(lr)])
            kinds = counted_in_a_process(way, ["--model", str(Path(scratch) / "full"), "--tokens", str(args.tokens),
                                               "--batch-size", str(args.batch_size)])
            found[way.name] = row_of(way, kinds, run, run["data"]["train"])
            print(f"{way.name}: peak {found[way.name]['peak_mb']:,.0f} MB, macro-F1 {found[way.name]['macro_f1']:.4f}")
    run = provenance("benchmarks/memory.py", vars(args), argv)
    page = ["# The memory of training", "", table_of(found), "",
            f"{Path(args.model).name}, {args.max_train:,} texts of {args.data}, batches of {args.batch_size} texts "
            f"of at most {args.tokens} tokens, {args.epochs} epochs, one seed. The first four columns are counted on a "
            f"batch of {args.tokens} tokens; the peak is that of the process of train.py, or of the GPU's tensors "
            "where there is one. A process has more than the four: what it starts with, the data, what validation and "
            f"saving take, and what the allocator keeps. Texts/s: validation included. {hardware_line()}; "
            f"commit {run['commit']}.", "", "![memory](memory.png)", "",
            PUBLISHED]
    write_text("\n".join(page) + "\n", Path(args.out) / "memory.md")
    write_json({"ways": found, "run": run}, Path(args.out) / "memory.json")
    draw(found, Path(args.out) / "memory.png")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
