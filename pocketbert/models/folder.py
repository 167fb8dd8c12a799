"""The folder in which every model of this project travels.

A model folder is config.json, model.safetensors (or the files of an exported graph), tokenizer.json and, written last,
run.json:

    model, tokenizer = load_model("runs/demo/teacher")     # or a Hugging Face folder, or a Hub id
    logits = model(input_ids, attention_mask)
    save_model(model, tokenizer, "runs/copy", run={"script": "copy.py"})

The networks are in encoder.py, recurrent.py, cnn.py and bag.py; exported graphs in quantization/graph.py. What can be
opened without torch is in opening.py, and classifier.py is the call for an application.
"""

import hashlib
import os
import shutil
from pathlib import Path
from pkgutil import resolve_name

from safetensors import SafetensorError
from safetensors.torch import save_file

from pocketbert.errors import UserError
from pocketbert.files import UNFINISHED, read_json, replacing_files, sha256, write_json
from pocketbert.hub import Folder, repository
from pocketbert.models.config import EncoderConfig
from pocketbert.models.hashes import checking_hashes, hash_files
from pocketbert.models.hf_names import to_hf_name
from pocketbert.models.opening import graph_paths, load_graph, open_folder, open_tokenizer, read_config
from pocketbert.models.recipes import RECIPES
from pocketbert.models.size import MODEL_FILES, count_parameters
from pocketbert.models.weight_files import declared_shapes, weight_paths
from pocketbert.models.weights import has_head, load_weights, our_names

FOLDER_FILES = ("config.json", *MODEL_FILES, "tokenizer.json", "run.json", "metrics.json")


# ---- reading ---------------------------------------------------------------------------------------------

def load_model(name, label_names=None, new_head=False, tokenizer_name=None, cleaning=None):
    """Open a model folder, a local Hugging Face folder or a Hub id (`org/name` or `org/name@revision`).

    Returns (model in eval mode on the CPU, tokenizer). A checkpoint without a classification head gets a new one for
    `label_names`, and a printed line says so; `new_head=True` replaces the head that is there.
    tokenizer_name: another folder or Hub id to take the tokenizer from    cleaning: see data/tweets.py, CLEANERS
    A folder that is damaged, or whose files do not belong together, is a UserError of one line.
    """
    find, hf, hashes = open_folder(name)
    if new_head:
        hf = without_head(hf)
    config = read_config(hf, f"{name}/config.json")
    if hf.get("runtime"):
        model = load_graph(find, config, hashes, resolve_name("pocketbert.quantization.runtime:open_runtime"))
    else:
        paths = weight_paths(find)
        with checking_hashes(paths, hashes):
            model = load_weights(name, config, paths, label_names, new_head)
    tokenizer = open_tokenizer(repository(tokenizer_name) if tokenizer_name else find, config, cleaning, name, hashes)
    return model, tokenizer


def is_pretrained_only(name):
    """Is this a checkpoint without a classification head, to be fine-tuned first? Reads no weights."""
    find, hf, _ = open_folder(name)
    config = read_config(hf, f"{name}/config.json")
    if hf.get("runtime"):
        return False
    shapes, _ = our_names(declared_shapes(weight_paths(find)), config)
    return not has_head(shapes, config)


def without_head(hf):
    """A config.json without what it says of its classification head."""
    of_the_head = ("id2label", "label2id", "num_labels", "problem_type")
    return {key: value for key, value in hf.items() if key not in of_the_head}


# ---- writing ---------------------------------------------------------------------------------------------

def is_ours(folder):
    """May save_model write into this folder: is it new, empty, or a model folder that save_model has written?

    A folder without run.json is ours where a save was interrupted, or where make has removed run.json of a step that
    was stopped: then config.json names our text cleaning.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return True
    if (folder / "run.json").exists() or (folder / UNFINISHED).is_dir():
        return True
    try:
        return "text_cleaning" in read_json(folder / "config.json")
    except UserError:  # not there, or no JSON
        return False


def check_out(folder, sources=()):
    """Raise before the work, not after it, when `folder` could not be written, holds somebody's other files, or is
    one of the models (`sources`: names of folders or on the Hub) that the work starts from."""
    folder = Path(folder)
    if any(name and Path(name).is_dir() and folder.resolve() == Path(name).resolve() for name in sources):
        raise FileExistsError(f"--out {folder} is the model to start from, which would be lost; name another folder")
    if folder.is_symlink() and not folder.exists():
        raise FileExistsError(f"--out {folder} is a link to {os.readlink(folder)}, which does not exist; make that "
                              "folder, or name another one")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out {folder} is a file; name a folder")
    if not is_ours(folder):
        raise FileExistsError(f"--out {folder} holds files but no run.json, so it is no model folder of ours "
                              "and is left alone; name another folder")
    here = folder.absolute()
    existing = next(path for path in (here, *here.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"--out {folder}: {existing} is no folder that can be written to")


def save_model(model, tokenizer, folder, run, graph=None):
    """Write a model folder. A process that is killed at any moment leaves the old folder or the new one, or one that
    load_model refuses as unfinished: never a mixture (see files.replacing_files).

    run: the dictionary for run.json, of provenance.provenance; the hashes of the files are put into it
    graph: (form, folder) of an exported graph, which takes the place of model.safetensors (see quantization/graph.py)
    """
    folder = Path(folder)
    check_out(folder)
    config = model.config.to_hf() | {"text_cleaning": tokenizer.cleaning}
    if graph:
        config |= graph_keys(config, graph[0], model)
    with replacing_files(folder, FOLDER_FILES, last="run.json") as staging:
        write_json(config, staging / "config.json")
        if graph:
            copy_graph(*graph, staging)
        else:
            write_tensors(model, staging / "model.safetensors")
        tokenizer.save(staging)
        run.update(hash_files(staging))
        write_json(run, staging / "run.json")


def graph_keys(config, form, model):
    """What config.json says of an exported graph."""
    return {"model_type": "pocketbert", "base_model_type": config.get("base_model_type", config["model_type"]),
            "architectures": ["PocketBertGraph"], "runtime": form, "num_parameters": count_parameters(model)}


def copy_graph(form, source, folder):
    """Copy the files of an exported graph."""
    for name in resolve_name("pocketbert.quantization.graph:graph_files")(form):
        shutil.copyfile(Path(source) / name, folder / name)


def write_tensors(model, path):
    """Write model.safetensors, with Hugging Face's names for an encoder."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        file_name = to_hf_name(name, model.config.family) if isinstance(model.config, EncoderConfig) else name
        tensors[file_name] = tensor.detach().cpu().contiguous()
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk
        raise OSError(f"{path.parent.parent} could not be written ({error}); what was there is still there") from None
    path.chmod((path.parent / "config.json").stat().st_mode)  # save_file makes it readable for its owner alone


def parent_of(name):
    """Where a model comes from, for run.json: its name and the hash of the files that load_model reads.

    {"name": "org/model", "sha256": "...", "commit": "..."}; of several files, the hash of their hashes in a row. A
    recipe has no hash; only a model of the Hub has a commit.
    """
    if name.split(":")[0] in RECIPES:
        return {"name": name}
    find = repository(name)
    config = find("config.json")
    form = read_json(config).get("runtime") if config else None
    hashes = [sha256(path) for path in (graph_paths(find, form) if form else weight_paths(find))]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    parent = {"name": name, "sha256": digest}
    if not isinstance(find, Folder):
        parent["commit"] = find.commit
    return parent
