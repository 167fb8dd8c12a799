"""A checkpoint: all that the rest of a training depends on, so that it ends as if it had never been interrupted.

The batches of an epoch are a function of (seed, epoch), so the position is two numbers: the epoch, and how many of its
steps are done. With the weights, the moments of the optimizer, the schedule, the random numbers of dropout, the history
and the best weights so far, the run goes on bit for bit (on a CPU; the sums of a GPU depend on their order).

A checkpoint is written between two steps. Ctrl-C inside a step is noted, and heard when the step is done.
"""

import random
import signal
import sys
import threading
import time

import numpy as np
import torch

from pocketbert.training.distributed import from_all_ranks, in_any_process, rank

SECONDS = 30  # between two checkpoints, unless --checkpoint-steps is given
SHARE = 0.02  # of the training's time that checkpoints may take, unless --checkpoint-steps is given


def random_states():
    """The states of all generators of random numbers, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "numpy": [name, torch.from_numpy(keys.copy()), *rest],
            "torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_states(states):
    """Go on with the random numbers where random_states has left them."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state_all(states["cuda"])


class Checkpoints:
    """Writes a checkpoint of `objects` whenever one is due, and reads the one that is there.

    unfinished: where it lies    objects: everything with a state_dict that training changes
    part: which training of the command it is (distill.py: which seed)    notes: what the script wants to find again
    """

    def __init__(self, unfinished, objects, part, notes):
        self.unfinished = unfinished
        self.every = unfinished.every
        self.objects = objects
        self.part = part
        self.notes = notes
        self.steps = 0  # since the last checkpoint
        self.written = time.monotonic()
        self.cost = 0.0  # seconds of the last one

    def restore(self):
        """Load the checkpoint of this training, if there is one. Returns whether there was."""
        found = self.unfinished.checkpoint
        if not found or found["part"] != self.part:
            return False
        for thing, state in zip(self.objects, found["states"], strict=True):
            thing.load_state_dict(state)
        set_random_states(found["random"][rank()])
        self.unfinished.checkpoint = None  # the trainings that follow start from their beginning
        return True

    def is_due(self):
        if self.every is not None:
            return self.steps >= self.every
        return in_any_process(time.monotonic() - self.written > max(SECONDS, self.cost / SHARE))

    def step(self):
        """A step of the optimizer is done."""
        self.steps += 1
        if self.is_due():
            self.write()

    def write(self):
        started = time.monotonic()
        self.unfinished.write_checkpoint({"part": self.part, "notes": self.notes,
                                          "random": from_all_ranks(random_states()),
                                          "states": [thing.state_dict() for thing in self.objects]})
        self.steps = 0
        self.written = time.monotonic()
        self.cost = self.written - started


class DeferredSignals:
    """Inside `with`: the first Ctrl-C (or SIGTERM) is noted in `asked` and the step goes on; the second is as usual.

    Signals that are ignored, as in a shell's background, stay so. Only the main thread can do this; others do nothing.
    """

    def __init__(self):
        self.asked = False
        self.before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self.note)
        return self

    def note(self, number, frame):
        self.asked = True
        if rank() == 0:
            print("\nstopping after this step; Ctrl-C again: at once", file=sys.stderr)
        self.__exit__()

    def __exit__(self, *error):
        while self.before:
            number, handler = self.before.popitem()
            signal.signal(number, handler or signal.SIG_DFL)
