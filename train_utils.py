"""What every training loop shares and nobody needs to read twice.

The loops themselves stand in train.py, prune.py and distill.py, each with its own loss. Here are the flags,
the optimizer with its schedule, the log that keeps the best weights, scoring, tracking and provenance.
"""

import argparse
import contextlib
import datetime
import hashlib
import math
import platform
import random
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from tqdm import tqdm

import recurrent
from data_utils import align_labels, batches, load_dataset, take
from file_utils import read_json
from hub_utils import repository
from measure_utils import MODEL_FILES, hardware, time_interleaved
from model_utils import RECIPES, load_model, model_from_scratch
from sparsity import to_dense

# ---------------------------------------------------------------------------------------------------------
# Flags
# ---------------------------------------------------------------------------------------------------------


def parser_for(doc):
    """An ArgumentParser whose help is the script's docstring and shows every default; a wrong flag is one line."""
    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action):
            return action.help if action.default in (None, []) else super()._get_help_string(action)

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            self.exit(2, f"{self.prog}: error: {message} (see --help)\n")
    return Parser(description=doc, formatter_class=Formatter, allow_abbrev=False)


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def whole_number(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def number_between(low, high):
    def number(text):
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value
    return number


fraction, not_negative = number_between(0, 1), number_between(0, math.inf)


def add_common_flags(parser, data_required=True):
    """Flags that mean the same in every verb."""
    parser.add_argument("--data", required=data_required, help="a registered dataset (demo, "
                        "tweet_sentiment_extraction, corona_tweets, sst2, emotion, goemotions, massive, imdb), "
                        "a CSV / TSV / JSONL file, or a folder of train/validation/test files")
    parser.add_argument("--data-dir", default="data", help="where registered datasets lie, as DATA_DIR/NAME/")
    parser.add_argument("--text", help="the column of the text in a file of yours (default: guessed)")
    parser.add_argument("--label", help="the column of the label in a file of yours (default: guessed)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="texts per forward pass")
    parser.add_argument("--max-length", type=positive_int, default=128,
                        help="tokens kept of a text, special tokens included")
    parser.add_argument("--seed", type=int, default=0, help="of weights, dropout and shuffling")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_training_flags(parser, epochs, lr):
    """Flags of the three verbs that train."""
    parser.add_argument("--epochs", type=whole_number, default=epochs, help="passes over the training texts")
    parser.add_argument("--lr", type=not_negative, default=lr,
                        help="peak learning rate: 2e-5 for a base model, 1e-4 for MiniLM, 1e-3 from scratch")
    parser.add_argument("--weight-decay", type=not_negative, default=0.01, help="on matrices only")
    parser.add_argument("--warmup", type=fraction, default=0.1, help="share of the steps until the peak")
    parser.add_argument("--accumulate", type=positive_int, default=1, help="batches per step of the optimizer")
    parser.add_argument("--max-grad-norm", type=not_negative, default=1.0, help="clip the gradients' norm; 0: off")
    parser.add_argument("--dropout", type=number_between(0, 0.9), help="replaces the model's own (0: off)")
    parser.add_argument("--freeze", type=whole_number, default=0, 
                        help="train neither the embeddings nor the first N layers; 0: train all")
    parser.add_argument("--patience", type=positive_int, default=3,
                        help="stop after so many epochs without a better validation macro-F1")
    parser.add_argument("--max-train", type=positive_int, help="a stratified subset of so many training rows")
    parser.add_argument("--minutes", type=not_negative, default=0, help="stop training after this long; 0: no limit")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None,
                        help="mixed precision (default: on a GPU that has it)")
    parser.add_argument("--wandb", choices=["online", "offline", "disabled"], default="disabled",
                        help="track the run with Weights & Biases")


def refuse_idle_flags(parser, args, rules):
    """A flag that was given and would change nothing is an error: silence would look like an effect.

    rules: (flag, is it wanted?, why it does nothing when it is not)
    """
    for flag, wanted, why in rules:
        if getattr(args, flag) != parser.get_default(flag) and not wanted:
            parser.error(f"--{flag.replace('_', '-')} does nothing here: {why}")


def run_script(main):
    """Run a verb's main; an error of the user's becomes one line on stderr and exit code 1, unless --debug."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
    except (ValueError, OSError, FloatingPointError) as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}")


# ---------------------------------------------------------------------------------------------------------
# Before the loop
# ---------------------------------------------------------------------------------------------------------

def pick_device(name, quiet=False):
    """'auto' is the first GPU if there is one. The choice is printed."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"--device {name} does not work here: {str(error).splitlines()[0]}") from None
    if not quiet:
        print(f"device: {name}" + (f" ({torch.get_num_threads()} threads)" if name == "cpu" else ""))
    return torch.device(name)


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def open_data(args, label_names=None):
    """The dataset that --data names, its notes printed, its labels in the order of `label_names` if given."""
    data = load_dataset(args.data, args.data_dir, text=args.text, label=args.label)
    print(f"data: {data.name}, {len(data.train):,} training and {len(data.validation):,} validation texts "
          f"(validation: {data.validation_origin}), {len(data.label_names)} labels")
    for note in data.notes:
        print(f"  {note}")
    if getattr(args, "max_train", None) and args.max_train < len(data.train):
        data.train = take(data.train, args.max_train, seed=args.seed)
        print(f"  --max-train: a stratified subset of {len(data.train):,} training texts")
    return align_labels(data, label_names) if label_names else data


def open_model(name, data, args, words=None, **options):
    """A model ready to train on `data`: a recipe (`scratch:...`, `lstm`, ...), a folder or a Hub id.

    words: for a recurrent recipe, the model whose tokenizer it takes and whose word vectors it starts from.
    Returns (model, tokenizer, data with the labels in the model's order).
    """
    kind = name.split(":")[0]
    if words and kind not in recurrent.KINDS:
        raise ValueError(f"--words {words} goes with {', '.join(recurrent.KINDS)}; {name} has words of its own")
    if kind in RECIPES:
        if given := [flag for flag, value in options.items() if value]:
            raise ValueError(f"--{given[0].replace('_name', '').replace('_', '-')} does not go with {name}: a model "
                             "from scratch has a head and a tokenizer of its own")
        if words:
            source, tokenizer = load_model(words, label_names=data.label_names)
            model = recurrent.build(name, tokenizer.vocab_size, tokenizer.pad_id, data.label_names)
            recurrent.start_from(model, word_table(source)[:tokenizer.vocab_size])
        else:
            model, tokenizer = model_from_scratch(name, data.train.texts, data.label_names)
    else:
        model, tokenizer = load_model(name, label_names=data.label_names, **options)
        model = to_dense(model)
    prepare_for_training(model, args)
    data = align_labels(data, model.config.label_names)
    model.config.label_names = list(data.label_names)  # LABEL_0, LABEL_1 ... get the names that the data has
    return model, tokenizer, data


def word_table(model):
    """The word vectors (V, d) of a model in floats, in whatever form they are stored."""
    if not hasattr(model, "embeddings"):
        raise ValueError("an exported graph has no word table to read: name the folder that it was exported from")
    word = model.embeddings.word
    return word.weight.detach() if isinstance(word, torch.nn.Embedding) else word.dequantize()


def prepare_for_training(model, args):
    """Apply --dropout and --freeze."""
    if model.config.stored_forms:
        raise ValueError("a quantized model cannot be trained: train its fp32 parent")
    if args.dropout is not None:
        for module in model.modules():
            if hasattr(module, "dropout"):
                module.dropout = args.dropout
        model.config.hidden_dropout = model.config.attention_dropout = model.config.classifier_dropout = args.dropout
    if args.freeze > len(model.layers):
        raise ValueError(f"--freeze {args.freeze}: the model has {len(model.layers)} layers")
    if args.freeze:
        for part in (model.embeddings, *model.layers[:args.freeze]):
            part.requires_grad_(False)


def data_flags(args):
    """The flags with which another verb finds the same data, for the command that a script proposes next."""
    given = [("--data", args.data), ("--data-dir", args.data_dir if args.data_dir != "data" else None),
             ("--text", args.text), ("--label", args.label)]
    return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in given if value)


def encode(tokenizer, split, args, model):
    """The token ids of a split's texts, no longer than --max-length or the model's positions."""
    return tokenizer(split.texts, min(args.max_length, model.config.max_length))


def autocast(device, bf16=None):
    """bfloat16 for the forward pass where the GPU has it; parameters and gradients stay fp32."""
    if bf16 is None:
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


# ---------------------------------------------------------------------------------------------------------
# Inside the loop
# ---------------------------------------------------------------------------------------------------------

class Optimizer:
    """AdamW with warm-up, linear decay, clipping and accumulation behind one `step(loss)`.

        lr(t) = peak * min(t / warmup_steps, (steps + 1 - t) / (steps - warmup_steps)),    t = 1 ... steps

    Biases and LayerNorms (all vectors) are not decayed. `step` is called once a batch, after loss.backward();
    it averages the gradients of `accumulate` batches, clips their global norm and moves the weights.
    """

    def __init__(self, model, args, num_batches):
        trained = [p for p in model.parameters() if p.requires_grad]
        self.accumulate, self.max_grad_norm = args.accumulate, args.max_grad_norm
        self.trained, self.num_batches, self.batch, self.pending = trained, num_batches, 0, 0
        groups = [{"params": [p for p in trained if p.dim() > 1], "weight_decay": args.weight_decay},
                  {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0}]
        fused = trained[0].device.type in ("cpu", "cuda")
        self.adamw = torch.optim.AdamW(groups, lr=args.lr, fused=fused)
        steps = max(1, math.ceil(num_batches / args.accumulate))
        warmup = round(args.warmup * steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, lambda t: min(
            (t + 1) / max(1, warmup), max(0, steps - t) / max(1, steps - warmup)))

    def step(self, loss):
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at batch {self.batch + 1}: lower --lr "
                                     f"(now {self.schedule.get_last_lr()[0]:.2g}) or train without --bf16")
        self.batch, self.pending = self.batch + 1, self.pending + 1
        if self.pending < self.accumulate and self.batch < self.num_batches:
            return
        if self.pending > 1:
            torch._foreach_div_([p.grad for p in self.trained if p.grad is not None], self.pending)
        if self.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
        self.adamw.step()
        self.schedule.step()
        self.adamw.zero_grad()
        self.pending = 0


class TrainingLog:
    """The diary of one run: a line an epoch, the history for run.json, the best weights, when to stop.

        for epoch in log.epochs():
            for batch in log.progress(...): ...
            log.add(epoch, scores(...))          # inside the loop over batches: log.batch(loss)
        log.restore_best()
    """

    def __init__(self, model, args, after_epoch=None):
        self.model, self.args, self.after_epoch = model, args, after_epoch
        self.history, self.best, self.best_weights, self.since_best = [], -1.0, None, 0
        self.started = time.monotonic()
        self.deadline = self.started + 60 * args.minutes if args.minutes else math.inf
        self.out_of_time = False
        self.tracker = start_wandb(args)

    def epochs(self):
        """1, 2, ... until --epochs, --patience or --minutes says stop."""
        for epoch in range(1, self.args.epochs + 1):
            yield epoch
            if self.since_best >= self.args.patience:
                print(f"stopped: no better validation macro-F1 for {self.args.patience} epochs")
                return
            if self.out_of_time:
                print(f"stopped: --minutes {self.args.minutes:g} are over")
                return

    def progress(self, training_batches, total):
        """The batches with a progress bar; ends early when the time is up."""
        self.losses = []
        bar = tqdm(training_batches, total=total, disable=None, leave=False, unit="batch")
        for batch in bar:
            yield batch
            if time.monotonic() > self.deadline:
                self.out_of_time = True
                break

    def batch(self, loss):
        self.losses.append(loss.item())
        if self.tracker and len(self.losses) % 10 == 1:
            self.tracker.log({"train/loss": self.losses[-1]})

    def add(self, epoch, scores, counts=True):
        """Record an epoch: print it, keep the weights if they are the best so far and count (prune.py)."""
        row = {"epoch": epoch, "loss": float(np.mean(self.losses)), **scores,
               "seconds": round(time.monotonic() - self.started, 1)}
        self.history.append(row)
        better = counts and scores["macro_f1"] > self.best
        print(f"epoch {epoch}/{self.args.epochs} | loss {row['loss']:.4f} | validation macro-F1 "
              f"{scores['macro_f1']:.4f} accuracy {scores['accuracy']:.4f} | {row['seconds']:.0f} s"
              + (" *" if better else ""), flush=True)
        if better:
            self.best, self.since_best = scores["macro_f1"], 0
            self.best_weights = copy_weights(self.model)
        elif counts:
            self.since_best += 1
        if self.tracker:
            self.tracker.log({"epoch": epoch, **{f"validation/{k}": v for k, v in scores.items()}})
        if self.after_epoch:
            self.after_epoch(epoch, scores)

    def start_over(self, model, scores=None):
        """From now on `model` is in training; as it stands it scores `scores` (None: does not count)."""
        self.model, self.best, self.since_best = model, scores["macro_f1"] if scores else -1.0, 0
        self.best_weights = copy_weights(model) if scores else None

    def restore_best(self):
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def finish(self, logits=None, labels=None, label_names=None):
        """Close the tracker, with the validation confusion matrix."""
        if not self.tracker:
            return
        import wandb
        if logits is not None:
            self.tracker.log({"validation/confusion_matrix": wandb.plot.confusion_matrix(
                y_true=list(map(int, labels)), preds=logits.argmax(-1).tolist(), class_names=label_names)})
        self.tracker.finish()


def copy_weights(model):
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def start_wandb(args):
    """A Weights & Biases run with the arguments as its configuration, or None. Offline runs land beside --out."""
    if args.wandb == "disabled":
        return None
    import wandb  # slow to import, so only on demand
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    try:  # finish_previous: a trial of search.py that was cut short must not go on in the next one's run
        return wandb.init(project="pocketbert", name=Path(args.out).name, mode=args.wandb, config=vars(args),
                          dir=str(Path(args.out).parent), settings=wandb.Settings(silent=True),
                          reinit="finish_previous")
    except wandb.errors.Error as error:
        raise ValueError(f"--wandb {args.wandb}: {error}; try --wandb offline") from None


# ---------------------------------------------------------------------------------------------------------
# Scoring
# ---------------------------------------------------------------------------------------------------------

@torch.inference_mode()
def predict(model, ids, batch_size, pad_id, **masks):
    """Logits (N, num_labels) for N lists of token ids, scored in batches of like length, returned in order."""
    model.eval()
    logits = torch.empty(len(ids), len(model.config.label_names))
    for batch in batches(ids, None, batch_size, pad_id):
        batch = batch.to(model.device)
        logits[batch.index] = model(batch.input_ids, batch.attention_mask, **masks).float().cpu()
    return logits


@torch.inference_mode()
def time_ratio(model, baseline, ids, batch_size, pad_id, repeats=20):
    """Median of (baseline's time / model's time), the two taking turns on one batch of texts of median length."""
    ids = sorted(ids, key=len)
    start = max(0, len(ids) // 2 - batch_size // 2)
    batch = next(iter(batches(ids[start:start + batch_size], None, batch_size, pad_id))).to(model.device)
    times = time_interleaved({"model": lambda: model(batch.input_ids, batch.attention_mask),
                              "baseline": lambda: baseline(batch.input_ids, batch.attention_mask)}, repeats)
    return float(np.median(times["baseline"] / times["model"]))


def scores(logits, labels):
    """{"macro_f1", "accuracy", "cross_entropy"} of logits (N, C) against N labels; macro-F1 as in sklearn."""
    predicted = logits.argmax(-1).numpy()
    return {"macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
            "accuracy": float(accuracy_score(labels, predicted)),
            "cross_entropy": float(torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels)))}


# ---------------------------------------------------------------------------------------------------------
# Provenance: what run.json says
# ---------------------------------------------------------------------------------------------------------

def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def parent_of(name):
    """Where a model came from: its name and, for files, the hash of its weights."""
    if name.split(":")[0] in RECIPES:
        return {"name": name}
    find = repository(name)
    for weights in (*reversed(MODEL_FILES), "pytorch_model.bin"):  # OpenVINO's numbers are in its .bin
        if path := find(weights):
            return {"name": name, "sha256": sha256(path)}
        if path := find(f"{weights}.index.json"):  # in shards
            shards = sorted(set(read_json(path)["weight_map"].values()))
            together = "".join(sha256(find(shard)) for shard in shards)
            return {"name": name, "sha256": hashlib.sha256(together.encode()).hexdigest()}
    return {"name": name, "sha256": None}


def git_commit():
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                              text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # unpacked from an archive


def provenance(script, args, argv, parent=None, data=None, **more):
    """The dictionary for run.json: everything needed to make the folder again and to believe its numbers."""
    argv = sys.argv[1:] if argv is None else argv
    run = {"script": script, "command": shlex.join(["python", script, *map(str, argv)]),
           "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
           "parent": parent_of(parent) if parent else None}
    if data is not None:
        run["data"] = {"name": data.name, "fingerprint": data.fingerprint, "train": len(data.train),
                       "validation": len(data.validation), "validation_origin": data.validation_origin}
    packages = ("torch", "tokenizers", "safetensors", "numpy", "scikit-learn")
    return run | more | {
        "hardware": hardware(), "versions": {"python": platform.python_version(),
                                             **{name: version(name) for name in packages}},
        "commit": git_commit(), "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
