"""The record of one training: a printed line an epoch, the history for run.json, the best weights, when to stop.

    log = TrainingLog(epochs=3, patience=3, minutes=0)
    log.resume(unfinished, model, optimizer, scheduler)     # go on where an interrupted run has stopped
    for epoch in log.epochs():
        for group in log.progress(groups, total):           # a group: the batches of one step, those done left out
            for batch in group:
                ...
                log.batch(loss)
        log.end_epoch(model, scores)                        # scores: {"macro_f1", "accuracy", "cross_entropy"}
    log.restore_best(model)
"""

import contextlib
import itertools
import math
import time

import torch
from tqdm import tqdm

from pocketbert.errors import TrainingDiverged
from pocketbert.training.checkpoint import Checkpoints, DeferredSignals
from pocketbert.training.distributed import in_any_process, rank, summed
from pocketbert.training.tracking import NoTracker

CHECK_EVERY = 10  # batches; reading a loss makes a GPU wait, so few are read


class TrainingLog:
    """epochs: at most so many    patience: stop after so many epochs without a better validation macro-F1
    minutes: stop after this long, 0: no limit    tracker: see tracking.py
    after_epoch(epoch, scores): called after each epoch; may raise to end the training (search.py)
    """

    def __init__(self, epochs, patience, minutes=0.0, tracker=None, after_epoch=None):
        self.num_epochs = epochs
        self.patience = patience
        self.minutes = minutes
        self.tracker = tracker or NoTracker()
        self.after_epoch = after_epoch
        self.started = time.monotonic()
        self.history = []
        self.num_batches = 0
        self.checkpoints = None
        self.signals = DeferredSignals()
        self.start_over()

    def start_over(self, model=None, scores=None):
        """Another training begins, with the same clock and history.

        model, scores: what the weights of epoch 0 score, if they may be the best; None: they do not count.
        """
        self.epoch = 0
        self.step = 0  # how many steps of the epoch are done
        self.losses = []
        self.best = -1.0 if scores is None else scores["macro_f1"]
        self.best_weights = None if scores is None else copy_weights(model)
        self.epochs_since_best = 0

    def resume(self, unfinished, model, optimizer, scheduler, *others, part="", notes=None):
        """From now on keep checkpoints of the training; if an interrupted run has left one, go on from it.

        unfinished: of unfinished.py    others: further objects that training changes, with a state_dict
        part: which training of the command it is    notes: values that unfinished.notes() gives the next run
        """
        if unfinished.every == 0:
            return
        self.checkpoints = Checkpoints(unfinished, [self, model, optimizer, scheduler, *others], part, notes or {})
        if self.checkpoints.restore():
            self.losses = [loss.to(next(model.parameters()).device) for loss in self.losses]
            print(f"going on with an interrupted run: epoch {self.epoch}, step {self.step} ({unfinished.folder})")

    def state_dict(self):
        names = ("epoch", "step", "history", "best", "best_weights", "epochs_since_best", "num_batches")
        return {name: getattr(self, name) for name in names} | {
            "losses": torch.stack(self.losses).cpu(), "seconds": time.monotonic() - self.started,
            "tracker": self.tracker.id}

    def load_state_dict(self, state):
        for name in ("epoch", "step", "history", "best", "epochs_since_best", "num_batches"):
            setattr(self, name, state[name])
        self.best_weights = state["best_weights"] and {name: x.clone() for name, x in state["best_weights"].items()}
        self.losses = list(state["losses"])
        self.started = time.monotonic() - state["seconds"]
        self.tracker.id = state["tracker"] or self.tracker.id

    def out_of_time(self):
        return self.minutes > 0 and in_any_process(time.monotonic() - self.started > 60 * self.minutes)

    def epochs(self):
        """1, 2, ... until the number of epochs, the patience or the time is used up; a resumed run begins later."""
        with self.signals if self.checkpoints else contextlib.nullcontext():
            for epoch in range(max(1, self.epoch), self.num_epochs + 1):
                if epoch > self.epoch:
                    self.epoch = epoch
                    self.step = 0
                    self.losses = []
                yield epoch
                if self.epochs_since_best >= self.patience:
                    print(f"stopped: no better validation macro-F1 for {self.patience} epochs")
                    return
                if self.out_of_time():
                    print(f"stopped: --minutes {self.minutes:g} are over")
                    return

    def progress(self, groups, total):
        """The groups of batches that are not done yet, with a progress bar; ends early when the time is up.

        The lines after `yield` run when the loop's body is done: the optimizer has made its step.
        """
        groups = itertools.islice(groups, self.step, None)
        hidden = True if rank() else None  # None: where there is no terminal
        for group in tqdm(groups, total=total, initial=self.step, disable=hidden, leave=False, unit="step"):
            if self.step and self.out_of_time():
                break
            yield group
            self.step += 1
            if self.checkpoints:
                self.checkpoints.step()
                self.stop_if_asked()
        self.check_loss()

    def stop_if_asked(self):
        """After Ctrl-C: write a checkpoint and end the process."""
        if in_any_process(self.signals.asked):
            self.checkpoints.write()
            raise KeyboardInterrupt(f"the same command goes on from epoch {self.epoch}, step {self.step}")

    def batch(self, loss):
        """Note the loss of a batch. Every tenth is read; one that is not finite ends the training."""
        self.losses.append(summed(loss.detach()))
        self.num_batches += 1
        if len(self.losses) % CHECK_EVERY == 1:
            self.tracker.log({"train/loss": self.check_loss()}, self.num_batches)

    def check_loss(self):
        loss = self.losses[-1].item()
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at batch {len(self.losses)} of epoch {self.epoch}: "
                                   "lower --lr, or train without --bf16")
        return loss

    def end_epoch(self, model, scores, counts=True):
        """Print and keep an epoch; copy the weights if they are the best so far.

        counts=False: they cannot be the best, whatever they score (not yet as sparse as asked for, prune.py).
        """
        self.stop_if_asked()  # during validation: then it is repeated
        row = {"epoch": self.epoch, "loss": torch.stack(self.losses).double().mean().item(), **scores,
               "seconds": round(time.monotonic() - self.started, 1)}
        self.history.append(row)
        better = counts and scores["macro_f1"] > self.best
        print(f"epoch {self.epoch}/{self.num_epochs} | loss {row['loss']:.4f} | validation macro-F1 "
              f"{scores['macro_f1']:.4f} accuracy {scores['accuracy']:.4f} | {row['seconds']:.0f} s"
              + (" *" if better else ""), flush=True)
        if better:
            self.best = scores["macro_f1"]
            self.best_weights = copy_weights(model)
            self.epochs_since_best = 0
        elif counts:
            self.epochs_since_best += 1
        named = {f"validation/{name}": value for name, value in scores.items()}
        self.tracker.log({"epoch": self.epoch, **named}, self.num_batches)
        if self.after_epoch:
            self.after_epoch(self.epoch, scores)

    def restore_best(self, model):
        """Load the best weights into the model, in place."""
        if self.best_weights:
            model.load_state_dict(self.best_weights, strict=False)
        model.eval()


def copy_weights(model):
    """A copy of all that training changes, on the CPU: beside a LoRA adapter the base is not copied."""
    return {name: weight.detach().cpu().clone() for name, weight in model.named_parameters() if weight.requires_grad}
