"""From names of folders to open models: everything that can be wrong with a folder is found before the work."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pocketbert.data.batching import make_batch
from pocketbert.data.encoding import encode
from pocketbert.data.tokenizer import Tokenizer
from pocketbert.errors import UserError
from pocketbert.files import read_json
from pocketbert.hub import Folder
from pocketbert.models.device import pick_device
from pocketbert.models.folder import load_model
from pocketbert.models.opening import text_length
from pocketbert.models.predict import predict
from pocketbert.models.size import count_parameters, file_bytes
from pocketbert.models.weight_paths import ADAPTER_CONFIG, is_adapter


@dataclass
class OpenModel:
    """A model that can be scored, and what a report says about its folder."""

    name: str
    folder: str
    model: torch.nn.Module              # or an exported graph
    tokenizer: Tokenizer
    bytes: int                          # of the weight files
    tokenizer_bytes: int
    history: list | None                # per epoch, from run.json

    is_reference = False                # references.py has models that are no folders and the same methods

    @property
    def device(self):
        return self.model.device

    @property
    def parameters(self):
        return count_parameters(self.model)

    def encode(self, texts, max_length):
        """(token ids of the texts, how many texts were cut). max_length: see predict.text_length"""
        return encode(self.tokenizer, texts, text_length(self.model, max_length))

    def batch(self, rows):
        """All these token ids as one batch on the model's device."""
        return make_batch(rows, None, list(range(len(rows))), self.tokenizer.pad_id).to(self.device)

    def logits(self, batch):
        return self.model(batch.input_ids, batch.attention_mask)

    def score(self, rows, batch_size):
        """Logits (N, num_labels) of N lists of token ids."""
        return predict(self.model, rows, batch_size, self.tokenizer.pad_id)


@dataclass
class FromText:
    """A model that is timed from raw strings to labels, as a server computes them: tokenise, pad, run, choose."""

    model: OpenModel                    # or a reference
    max_length: int | None

    def batch(self, texts):
        return texts

    def logits(self, texts):
        rows, _ = self.model.encode(texts, self.max_length)
        return self.model.logits(self.model.batch(rows)).argmax(-1).tolist()


def model_folders(names):
    """The model folders among the names. A shell's runs/* names other files too: each is left out with a line."""
    folders = []
    for name in names:
        if not Path(name).exists():
            raise FileNotFoundError(f"{name}: no such folder; train a model first: python train.py --help")
        if (Path(name) / "config.json").exists() or (Path(name) / ADAPTER_CONFIG).exists():
            folders.append(name.rstrip("/"))
        else:
            print(f"{name} is not a model folder: left out")
    if not folders:
        raise UserError("none of these is a model folder (config.json, model.safetensors, tokenizer.json)")
    return folders


def short_names(folders):
    """The last part of each path, where these differ; else the paths."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(folders) else list(folders)


def runs_on_cpu_only(config):
    """Is this config.json of an exported graph, or of a model with compressed matrices?"""
    return bool(config.get("runtime") or config.get("stored_forms"))


def open_models(folders, names, device):
    """[OpenModel], all on one device and of one task.

    folders: paths    names: what the report calls them    device: as in --device
    """
    device = pick_device(device)
    configs = [Path(folder) / "config.json" for folder in folders]  # a folder of peft has none, and is no such model
    if device.type != "cpu" and any(runs_on_cpu_only(read_json(path)) for path in configs if path.exists()):
        device = torch.device("cpu")
        print("compressed models run on the CPU only: all models are scored and timed there")
    models = [open_one(folder, name, device) for folder, name in zip(folders, names, strict=True)]
    expected = models[0].model.config.label_names
    for model in models:
        labels = model.model.config.label_names
        if labels != expected:
            raise UserError(f"{model.name} has the labels {', '.join(labels)}, the first model {', '.join(expected)}: "
                            "evaluate models of one task at a time")
    return models


def open_one(folder, name, device):
    size = file_bytes(folder)
    if is_adapter(Folder(folder, Path(folder))):
        print(f"{name} is a LoRA adapter: its megabytes are those of its base model and its own")
    run = Path(folder) / "run.json"
    history = read_json(run).get("history") if run.exists() else None
    model, tokenizer = load_model(folder)
    model.to(device)
    return OpenModel(name, str(folder), model, tokenizer, size["model"], size["tokenizer"], history)
