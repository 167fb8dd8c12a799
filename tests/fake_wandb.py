"""A module in place of wandb, which notes what it is told."""

import sys
import types
from pathlib import Path

import pytest


class FakeWandb(types.ModuleType):
    Settings = staticmethod(dict)
    plot = types.SimpleNamespace(confusion_matrix=lambda **options: "plot")

    def __init__(self):
        super().__init__("wandb")
        self.runs = []
        self.errors = types.SimpleNamespace(Error=RuntimeError)

    def init(self, **options):
        self.runs.append(types.SimpleNamespace(options=options, steps=[], files=[], finished=False))
        run = self.runs[-1]
        run.log = lambda values, step=None: run.steps.append((step, values))
        run.log_artifact = lambda artifact: run.files.extend(artifact.files)
        run.finish = lambda: setattr(run, "finished", True)
        return run

    class Artifact:
        def __init__(self, name, type):
            self.files = [name]

        def add_file(self, path):
            self.files.append(Path(path).name)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake
