"""Weights & Biases, and the place for another tracker: a class with the same four methods.

    tracker = start_tracking("offline", out="runs/demo/teacher", settings={"lr": 1e-4})
    tracker.log({"train/loss": 0.7}, step=1)
    tracker.finish("runs/demo/teacher")

`id` names the run. Checkpoints keep it (log.py), so an interrupted training goes on in its run and in its curves: what
is logged twice, between the last checkpoint and the kill, has the step of the first time, and is dropped.
docs/guide/train.md shows TensorBoard as the example.
"""

import secrets
from functools import cached_property
from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.models.folder import FOLDER_FILES
from pocketbert.training.distributed import rank


class NoTracker:
    """Tracks nothing: --wandb disabled."""

    id = None

    def log(self, values, step):
        """values: {name: number} after so many batches."""

    def log_confusion(self, labels, predicted, label_names):
        """The confusion matrix of the validation texts."""

    def finish(self, folder):
        """The run has ended and has written this model folder; None: it has written none."""


class WandbTracker(NoTracker):
    """One Weights & Biases run with the settings as its configuration. Offline runs lie beside --out."""

    def __init__(self, mode, out, settings):
        self.mode = mode
        self.out = Path(out)
        self.settings = settings
        self.id = secrets.token_hex(4)

    @cached_property
    def run(self):
        """Started by the first `log`, when it is known whether a checkpoint names an earlier run."""
        import wandb  # slow to import, so only on demand
        self.out.parent.mkdir(parents=True, exist_ok=True)
        try:  # finish_previous: a trial of search.py that was cut short must not go on in the next one's run
            return wandb.init(project="pocketbert", name=self.out.name, group=self.settings["wandb_group"],
                              id=self.id, resume="allow", mode=self.mode, config=self.settings,
                              dir=str(self.out.parent), settings=wandb.Settings(silent=True), reinit="finish_previous")
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {self.mode}: {error}; try --wandb offline") from None

    def log(self, values, step):
        self.run.log(values, step=step)

    def log_confusion(self, labels, predicted, label_names):
        import wandb
        plot = wandb.plot.confusion_matrix(y_true=labels, preds=predicted, class_names=label_names)
        self.run.log({"validation/confusion_matrix": plot})

    def finish(self, folder):
        import wandb
        if folder and self.settings["wandb_artifact"]:
            artifact = wandb.Artifact(self.out.name, type="model")
            for path in sorted(Path(folder).iterdir()):
                if path.name in FOLDER_FILES:  # other files there are the user's
                    artifact.add_file(str(path))
            self.run.log_artifact(artifact)
        self.run.finish()


def start_tracking(mode, out, settings):
    """mode: "online", "offline" or "disabled"    settings: {flag: value}"""
    return NoTracker() if mode == "disabled" or rank() else WandbTracker(mode, out, settings)
