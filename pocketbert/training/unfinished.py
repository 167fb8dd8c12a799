"""What a training has done so far, beside its --out, so that the same command goes on after Ctrl-C, a kill or a crash.

    unfinished = Unfinished("runs/demo/teacher", vars(args), data, model, tokenizer)    # runs/demo/.teacher.unfinished
    log.resume(unfinished, model, optimizer, scheduler)     # checkpoint.py: checkpoints from which the loop goes on
    ...
    unfinished.remove()                                     # at the end, after save_model

The folder belongs to one command. settings.json holds all that decides what is trained: the flags, hashes of the data,
of the model before its training and of this project's code, and torch's version. What a run with other settings has
left is removed, and a printed line says which of them differ. Model folders, whose run.json says that they are
finished, are written at the end alone.
"""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import torch

from pocketbert.files import read_json, replacing, write_json
from pocketbert.provenance import code_digest
from pocketbert.training.distributed import check_same_settings, from_rank_0, rank_0_only, world_size

# May change: they do not decide what is trained.
FREE_FLAGS = ("debug", "wandb", "wandb_group", "wandb_artifact", "checkpoint_steps")


def digest_of(value):
    """The SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def weights_digest(model):
    """The SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class Unfinished:
    """out: the model folder that the command writes    arguments: {flag: value}, vars() of the parsed arguments
    data: the Dataset    model, tokenizer: as they are before the training    more: what else decides what is trained
    """

    def __init__(self, out, arguments, data, model, tokenizer, **more):
        out = Path(out).resolve()
        self.folder = out.with_name(f".{out.name}.unfinished")
        self.every = arguments["checkpoint_steps"]
        flags = {f"--{name.replace('_', '-')}": value for name, value in arguments.items() if name not in FREE_FLAGS}
        settings = flags | {"data": data.fingerprint, "model": weights_digest(model),
                            "tokenizer": digest_of([tokenizer.backend.to_str(), tokenizer.cleaning]),
                            "code": code_digest(), "torch": torch.__version__,
                            "processes": world_size()} | more
        self.settings = json.loads(json.dumps(settings))  # as they are read back: tuples become lists
        check_same_settings(self.settings)
        self.remove_others()
        self.checkpoint = from_rank_0(self.read_checkpoint)

    @rank_0_only
    def remove_others(self):
        """Remove what a run with other settings has left."""
        if not (self.folder / "settings.json").exists():
            return self.remove()  # what a kill has left of a removal
        stored = read_json(self.folder / "settings.json")
        names = [name for name in {**self.settings, **stored} if self.settings.get(name) != stored.get(name)]
        if names:
            print(f"{self.folder} holds an interrupted run with other settings ({', '.join(names)}): it is removed, "
                  "and this run starts from the beginning")
            self.remove()

    def read_checkpoint(self):
        """What write_checkpoint has written, or None."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            print(f"{path} is damaged ({str(error).splitlines()[0]}): this training starts from the beginning")
            return None

    def notes(self):
        """What the script has given to log.resume as notes; {} if there is no checkpoint."""
        return self.checkpoint["notes"] if self.checkpoint else {}

    @rank_0_only
    def write_checkpoint(self, checkpoint):
        """Write it in one step. A full disk does not end the training, which goes on without a new checkpoint."""
        try:
            self.make()
            with replacing(self.folder / "checkpoint.pt") as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            print(f"no checkpoint could be written: {str(error).splitlines()[0]} ({self.folder})")

    def read_results(self, roles):
        """{role: [the scores of each seed that is done]} (distill.py)."""
        return from_rank_0(self.results_on_disk, roles)

    def results_on_disk(self, roles):
        path = self.folder / "results.json"
        if not path.exists():
            return {role: [] for role in roles}
        results = read_json(path)
        num_done = sum(len(scores) for scores in results.values())
        print(f"going on with an interrupted run: {num_done} trainings are done ({self.folder})")
        return results

    @rank_0_only
    def write_results(self, results):
        self.make()
        write_json(results, self.folder / "results.json")

    def make(self):
        """Make the folder, with its settings before anything that belongs to them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "settings.json").exists():
            write_json(self.settings, self.folder / "settings.json")

    @rank_0_only
    def remove(self):
        """The command is finished, or is not to be continued. The settings go first: without them nothing is."""
        (self.folder / "settings.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
