"""The history of one training run and its best weights."""

import math
import time

import numpy as np
from tqdm import tqdm

from pocketbert.training.tracking import start_wandb


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
