"""Flags that mean the same in every script, and how a script ends when the user made a mistake."""

import argparse
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from pocketbert.errors import BudgetMissed, ProcessLost, UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and every default that is a value."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, []) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A wrong flag is one line, without the usage: the sub-commands have dozens of flags."""

    def error(self, message):
        let_the_first_speak()
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parser_for(doc, prog=None):
    """An ArgumentParser whose description is a script's docstring."""
    return Parser(prog=prog, description=doc, formatter_class=HelpFormatter, allow_abbrev=False)


# ---- types of numbers: each names the value that it refuses ----------------------------------------------

def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def nonnegative_int(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def number_between(low, high):
    """The type of a number from low to high, both included."""
    def number(text):
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value
    return number


unit_interval = number_between(0, 1)
nonnegative_float = number_between(0, math.inf)


# ---- shared flags ----------------------------------------------------------------------------------------

def add_common_flags(parser, data_required=True):
    """The data, and how a model runs."""
    parser.add_argument("--data", required=data_required, help="a registered dataset (demo, "
                        "tweet_sentiment_extraction, corona_tweets, sst2, emotion, goemotions, massive, "
                        "multilingual_sentiment, imdb), "
                        "a CSV / TSV / JSONL file, or a folder of train/validation/test files")
    parser.add_argument("--data-dir", default="data", help="where registered datasets lie, as DATA_DIR/NAME/")
    parser.add_argument("--text", help="the column of the text in a file of yours (default: guessed)")
    parser.add_argument("--label", help="the column of the label in a file of yours (default: guessed)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="texts per forward pass")
    parser.add_argument("--max-length", type=positive_int,
                        help="tokens kept of a text, special tokens included (default: as many as the model was "
                        "trained with, else 128)")
    parser.add_argument("--seed", type=nonnegative_int, default=0, help="of weights, dropout and shuffling")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's error, too")


OPTIMIZERS = {  # the classes are in training/optim.py
    "adamw": "8 bytes of state a weight", "adamw8bit": "2 bytes",
    "paged-adamw8bit": "these in the computer's memory, brought to the GPU by parts"}
ROW_ADAMW = {"row-adamw": "adamw that updates of a large word table the rows that are read"}


def add_training_flags(parser, epochs, lr, optimizers=OPTIMIZERS):
    """The optimizer, its schedule, and when to stop."""
    parser.add_argument("--epochs", type=nonnegative_int, default=epochs, help="passes over the training texts")
    parser.add_argument("--lr", type=nonnegative_float, default=lr,
                        help="peak learning rate: 2e-5 for a base model, 1e-4 for MiniLM, 1e-3 from scratch")
    parser.add_argument("--optimizer", choices=list(optimizers), default="adamw",
                        help="; ".join(f"{name}: {what}" for name, what in optimizers.items()))
    parser.add_argument("--weight-decay", type=nonnegative_float, default=0.01, help="on matrices only")
    parser.add_argument("--warmup", type=unit_interval, default=0.1, help="share of the steps until the peak")
    parser.add_argument("--accumulate", type=positive_int, default=1, help="batches per step of the optimizer")
    parser.add_argument("--max-grad-norm", type=nonnegative_float, default=1.0, help="clip the gradients' norm; 0: off")
    parser.add_argument("--dropout", type=number_between(0, 0.9), help="replaces the model's own (0: off)")
    parser.add_argument("--freeze", type=nonnegative_int, default=0,
                        help="train neither the embeddings nor the first N layers; 0: train all")
    parser.add_argument("--patience", type=positive_int, default=3,
                        help="stop after so many epochs without a better validation macro-F1")
    parser.add_argument("--max-train", type=positive_int, help="a stratified subset of so many training rows")
    parser.add_argument("--minutes", type=nonnegative_float, default=0,
                        help="stop training after this long; 0: no limit")
    parser.add_argument("--checkpoint-steps", type=nonnegative_int, metavar="N",
                        help="steps between two checkpoints, from which the same command goes on after Ctrl-C or a "
                        "kill: .NAME.unfinished beside --out, four times the model's size (BERT-base: 1.8 GB); 0: none "
                        "(default: one in 30 s, and at most 2 %% of the time)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None,
                        help="mixed precision (default: on a GPU that has it)")
    parser.add_argument("--wandb", choices=["online", "offline", "disabled"], default="disabled",
                        help="track the run with Weights & Biases")
    parser.add_argument("--wandb-group", metavar="NAME", help="the group of the run there (default: none)")
    parser.add_argument("--wandb-artifact", action="store_true", help="upload the model folder there, too")


LORA_TARGETS = ("query", "key", "value", "output", "up", "down")  # the matrices of a layer, see models/lora.py


def lora_targets(text):
    """The type of --lora-targets: "query,value" or "all"."""
    if text != "all" and not set(text.split(",")) <= set(LORA_TARGETS):
        raise argparse.ArgumentTypeError(f"{text} is neither all nor a list of {', '.join(LORA_TARGETS)}")
    return text


def add_lora_flags(parser, merged):
    """LoRA. merged: does the script write a merged model? Otherwise an adapter folder, on a base of any format."""
    written = "the folder holds the merged model" if merged else "the folder holds the adapter, not the model"
    parser.add_argument("--lora-rank", type=nonnegative_int, default=0,
                        help="train two matrices of this rank beside each target, and the head, nothing else; "
                        f"{written}; 8 to 64, with 5 to 20 times the --lr; 0: train all weights")
    parser.add_argument("--lora-alpha", type=nonnegative_float, default=16.0,
                        help="the adapter counts alpha / rank times")
    parser.add_argument("--lora-dropout", type=number_between(0, 0.9), default=0.05,
                        help="on the adapter's input; 0: off")
    parser.add_argument("--lora-targets", type=lora_targets, default="query,value",
                        help=f"the matrices of a layer with an adapter: some of {', '.join(LORA_TARGETS)}, or all")
    if not merged:
        parser.add_argument("--lora-base", choices=["fp32", "nf4"], default="fp32",
                            help="how the frozen matrices are held: fp32, or nf4 (QLoRA): an eighth of the memory, "
                            "more time")


def tracking_rules(given):
    """Rules for refuse_idle_flags: the flags that do nothing without --wandb."""
    return [(flag, given["wandb"] != "disabled", "it goes with --wandb online or offline")
            for flag in ("wandb_group", "wandb_artifact")]


def lora_rules(given):
    """Rules for refuse_idle_flags: the flags that do nothing without --lora-rank."""
    flags = [flag for flag in given if flag.startswith("lora_") and flag != "lora_rank"]
    return [(flag, given["lora_rank"], "it goes with --lora-rank") for flag in flags]


def refuse_idle_flags(parser, given, rules):
    """A flag that was given and would change nothing is an error: silence would look like an effect.

    given: {flag: value}, vars() of the parsed arguments    rules: (flag, is it used?, why it is not)
    """
    for flag, used, why in rules:
        if given[flag] != parser.get_default(flag) and not used:
            parser.error(f"--{flag.replace('_', '-')} does nothing here: {why}")


def data_flags(data, data_dir, text, label):
    """The flags with which another script finds the same data, for the command that a script proposes next."""
    given = [("--data", data), ("--data-dir", data_dir if data_dir != "data" else None),
             ("--text", text), ("--label", label)]
    return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in given if value)


def later_process():
    """Is this one of several processes that torchrun has started, but not the first, which speaks for all?"""
    return os.environ.get("RANK", "0") != "0"


def let_the_first_speak(seconds=20):
    """A later process waits before it tells an error: the first one mostly has the same, and torchrun then ends all."""
    if later_process():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(seconds)


def run_script(main, distributed=False):
    """Run a script's main. A user's error becomes one line on stderr and exit code 1, or 3 if no model meets a budget;
    with --debug it keeps its traceback. distributed: may torchrun start it as several processes?"""
    if later_process():
        sys.stdout = open(os.devnull, "w")
    try:
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes != "1" and not distributed:
            raise UserError(f"torchrun has started {processes} processes and this is for one; torchrun is for train.py "
                            "and distill.py")
        main()
    except KeyboardInterrupt as stop:
        if not later_process():
            print(f"\ninterrupted: {str(stop) or 'a model folder is written when a script has finished'}",
                  file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        if not isinstance(error, ProcessLost):
            let_the_first_speak()
        line = f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}"
        if isinstance(error, BudgetMissed):
            print(line, file=sys.stderr)
            sys.exit(3)
        sys.exit(line)
