"""Weights & Biases, and the place for another tracker: a class with the same three methods.

    tracker = start_tracking("offline", out="runs/demo/teacher", settings={"lr": 1e-4})
    tracker.log({"train/loss": 0.7})
    tracker.finish()
"""

from pathlib import Path

from pocketbert.errors import UserError


class NoTracker:
    """Tracks nothing: --wandb disabled."""

    def log(self, values):
        """values: {name: number} at this moment."""

    def log_confusion(self, labels, predicted, label_names):
        """The confusion matrix of the validation texts."""

    def finish(self):
        """The run has ended."""


class WandbTracker(NoTracker):
    """One Weights & Biases run with the settings as its configuration. Offline runs lie beside --out."""

    def __init__(self, mode, out, settings):
        import wandb  # slow to import, so only on demand
        self.wandb = wandb
        folder = Path(out).parent
        folder.mkdir(parents=True, exist_ok=True)
        try:  # finish_previous: a trial of search.py that was cut short must not go on in the next one's run
            self.run = wandb.init(project="pocketbert", name=Path(out).name, mode=mode, config=settings,
                                  dir=str(folder), settings=wandb.Settings(silent=True), reinit="finish_previous")
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {mode}: {error}; try --wandb offline") from None

    def log(self, values):
        self.run.log(values)

    def log_confusion(self, labels, predicted, label_names):
        plot = self.wandb.plot.confusion_matrix(y_true=labels, preds=predicted, class_names=label_names)
        self.run.log({"validation/confusion_matrix": plot})

    def finish(self):
        self.run.finish()


def start_tracking(mode, out, settings):
    """mode: "online", "offline" or "disabled"    settings: {flag: value}"""
    return NoTracker() if mode == "disabled" else WandbTracker(mode, out, settings)
