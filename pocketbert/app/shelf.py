"""The models of the page: which folders may be opened, and each of them opened once for all sessions.

What a visitor sends is only ever a key: a folder is opened if its name is one of those that were found below the roots,
so no ".." and no absolute path leads anywhere. Any other name must be a Hub id, and no folder of this machine.
"""

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketbert.errors import UserError
from pocketbert.evaluation.opening import OpenModel
from pocketbert.files import read_json
from pocketbert.hub import Folder, HubRepository, repository
from pocketbert.models.classifier import Classifier
from pocketbert.models.size import file_bytes
from pocketbert.models.weight_paths import ADAPTER_CONFIG, base_of, is_adapter
from pocketbert.quantization.runtime import Runtime

DEPTH = 6               # folders below a root that are searched
MOST_FOLDERS = 500      # model folders that are listed
QUICK_MS = 20           # a call below this is timed REPEATS times
REPEATS = 5


@dataclass
class Model:
    """An open model, and what the page says of it."""

    name: str
    classifier: Classifier
    bytes: int                  # of the weight files
    tokenizer_bytes: int
    folder: str
    history: list | None        # per epoch, from run.json

    @property
    def network(self):
        """The model of torch, or an exported graph that is called like one."""
        inner = self.classifier.model
        if hasattr(inner, "model"):
            return inner.model
        graph = Runtime(inner)
        graph.num_parameters = inner.num_parameters
        return graph

    def for_comparison(self):
        """The same as an OpenModel, which evaluate.compare takes; nothing is loaded again."""
        return OpenModel(self.name, self.folder, self.network, self.classifier.tokenizer, self.bytes,
                         self.tokenizer_bytes, self.history)


@dataclass
class Answers:
    """probabilities: (texts, num_labels)    ms: of the call, tokenisation and model    cut: texts cut at max_length"""

    label_names: list
    probabilities: np.ndarray
    ms: float
    cut: int


def ask(model, texts):
    """The Answers of a Model to a list of texts. Several threads may ask one model.

    A call that takes less than QUICK_MS is repeated, for the median: one late thread would double its time.
    """
    times = []
    while not times or len(times) < REPEATS and max(times) < QUICK_MS:
        start = time.perf_counter()
        probabilities, cut = model.classifier.probabilities(texts)
        times.append(1000 * (time.perf_counter() - start))
    return Answers(model.classifier.label_names, probabilities, float(np.median(times)), cut)


# ---- which folders ---------------------------------------------------------------------------------------

def find_folders(roots):
    """{name: path} of the model folders below the roots, sorted. Links to folders are not followed.

    A name begins with the last part of its root, "runs/demo/teacher"; where two roots end alike, with the whole root.
    """
    ends = [Path(root).resolve().name for root in roots]
    found = {}
    for root, end in zip(roots, ends, strict=True):
        start = Path(end if ends.count(end) == 1 else root)
        for path, folders, files in os.walk(root):
            below = Path(path).relative_to(root)
            folders[:] = [f for f in folders if not f.startswith(".") and len(below.parts) < DEPTH]
            if "config.json" in files or ADAPTER_CONFIG in files:
                found[str(start / below)] = Path(path)
            if len(found) == MOST_FOLDERS:
                break
    return dict(sorted(found.items()))


def is_below(path, roots):
    """Does a path lie below one of the roots when all links are resolved?"""
    real = os.path.realpath(path)
    return any(os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root) for root in roots)


def check_inside(find, roots):
    """Raise a UserError if a folder, one of its files or its base model lies elsewhere.

    find: of hub.repository
    """
    if isinstance(find, Folder):
        for path in [find.path, *find.path.iterdir()]:
            if not is_below(path, roots):
                raise UserError(f"{find.name}: {path.name} leads out of the folders that this page may open")
    if is_adapter(find):
        base = base_of(find)
        if isinstance(base, Folder):
            if not isinstance(find, Folder) or not is_below(base.path, roots):
                raise UserError(f"{find.name} is a LoRA adapter, and its base model {base.path.name} is not below the "
                                "folders that this page may open: start the page with that folder, too")
            check_inside(base, roots)


# ---- open once -------------------------------------------------------------------------------------------

class Shelf:
    """The open models, shared by all sessions; the one that was not used for longest goes when there are too many.

    roots: folders below which models may be opened    hub: may models of the Hub be fetched?
    device: as --device    most: open models
    """

    def __init__(self, roots, hub=True, device="auto", most=8):
        self.roots = [str(root).rstrip("/") or "/" for root in roots]
        self.hub = hub
        self.device = device
        self.most = most
        self.models = OrderedDict()         # (name, when its files were written) -> Model
        self.lock = threading.Lock()        # of the two dictionaries
        self.opening = {}                   # name -> the lock of whoever opens it
        self.measuring = threading.Lock()   # one comparison at a time: two would disturb each other's times

    def names(self):
        """The names of the folders that can be opened now."""
        return list(find_folders(self.roots))

    def repository(self, name):
        """Where the files of a name are (hub.repository); a UserError for what may not be opened."""
        folder = find_folders(self.roots).get(name)
        if folder is not None:
            return Folder(name, folder)
        if os.path.lexists(os.path.expanduser(name)):
            raise UserError(f"{name} is no model folder below {', '.join(self.roots)}")
        if not self.hub:
            raise UserError(f"{name} is no model folder below {', '.join(self.roots)}, and this page fetches nothing "
                            "from the Hub")
        find = repository(name)
        assert isinstance(find, HubRepository), name
        return find

    def open(self, name):
        """The Model of a name. Who asks for a model that is being opened waits for it."""
        find = self.repository(name)
        key = (name, stamp(find))
        with self.lock:
            lock = self.opening.setdefault(name, threading.Lock())
        with lock:
            with self.lock:
                if key in self.models:
                    self.models.move_to_end(key)
                    return self.models[key]
            check_inside(find, self.roots)
            model = open_model(name, find, self.device)
            with self.lock:
                for old in [old for old in self.models if old[0] == name]:
                    del self.models[old]
                self.models[key] = model
                while len(self.models) > self.most:
                    self.models.popitem(last=False)
        return model


def stamp(find):
    """When the files of a folder were last written: a model that was trained again is opened again. "" for the Hub."""
    if not isinstance(find, Folder):
        return ""
    return max(path.stat().st_mtime_ns for path in find.path.iterdir() if path.is_file())


def open_model(name, find, device):
    """A Model that has answered once, so that its first times are no longer than the others.

    What is wrong with a folder is said with the name by which visitors know it, not with its path on this machine.
    """
    place = str(find.path) if isinstance(find, Folder) else name
    try:
        classifier = Classifier(place, device)
        folder = Path(place) if isinstance(find, Folder) else find("config.json").parent
        size = file_bytes(folder)
        history = read_json(folder / "run.json").get("history") if (folder / "run.json").exists() else None
        classifier.probabilities(["a first text"])
    except (UserError, OSError) as error:
        raise UserError(str(error).replace(place, name)) from error
    return Model(name, classifier, size["model"], size["tokenizer"], str(folder), history)
