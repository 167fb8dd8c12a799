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

from pocketbert.errors import UserError
from pocketbert.files import UNFINISHED, read_json, replacing_files, sha256, write_json
from pocketbert.hub import Folder, repository
from pocketbert.models.adapter import attach, read_adapter, write_adapter
from pocketbert.models.config import EncoderConfig
from pocketbert.models.hashes import check_hashes, checking_hashes, hash_files
from pocketbert.models.hf_names import to_hf_name
from pocketbert.models.lora import is_adapted, merge_lora, store_base
from pocketbert.models.opening import graph_paths, load_graph, open_folder, open_tokenizer, read_config
from pocketbert.models.recipes import RECIPES
from pocketbert.models.size import MODEL_FILES, count_parameters
from pocketbert.models.weight_files import declared_shapes, write_safetensors
from pocketbert.models.weight_paths import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    adapter_path,
    base_of,
    is_adapter,
    weight_paths,
)
from pocketbert.models.weights import has_head, load_weights, our_names

FOLDER_FILES = ("config.json", *MODEL_FILES, ADAPTER_CONFIG, ADAPTER_WEIGHTS[0], "tokenizer.json", "run.json",
                "metrics.json")


# ---- reading ---------------------------------------------------------------------------------------------

def load_model(name, label_names=None, new_head=False, tokenizer_name=None, cleaning=None):
    """Open a model folder, a local Hugging Face folder or a Hub id (`org/name` or `org/name@revision`).

    Returns (model in eval mode on the CPU, tokenizer). A checkpoint without a classification head gets a new one for
    `label_names`, and a printed line says so; `new_head=True` replaces the head that is there.
    tokenizer_name: another folder or Hub id to take the tokenizer from    cleaning: see data/tweets.py, CLEANERS
    A LoRA adapter is opened on its base model. A folder that is damaged, or whose files do not belong together, is a
    UserError of one line.
    """
    find = repository(name)
    hf, hashes = open_folder(find)
    if new_head:
        hf = without_head(hf)
    config = read_config(hf, f"{name}/config.json") if hf else None  # refused before weights are fetched
    if not hf.get("runtime") and is_adapter(find):
        return load_adapter(find, hf, hashes, label_names, new_head, tokenizer_name, cleaning)
    if hf.get("runtime"):
        model = load_graph(find, config, hashes, resolve_name("pocketbert.quantization.runtime:open_runtime"))
    else:
        paths = weight_paths(find)
        with checking_hashes(paths, hashes):
            model = load_weights(name, config, paths, label_names, new_head)
    tokenizer = open_tokenizer(repository(tokenizer_name) if tokenizer_name else find, config, cleaning, name, hashes)
    return model, tokenizer


def load_adapter(find, hf, hashes, label_names=None, new_head=False, tokenizer_name=None, cleaning=None):
    """(model, tokenizer) of a LoRA adapter: its base model with the adapter merged into it. On a base in NF4 the
    adapter stays beside the matrices, see lora.merge_lora.

    find, hf, hashes: its repository, and what open_folder says of it; the others as in load_model
    """
    base = base_of(find)
    base_hf, base_hashes = open_folder(base)
    check_base(find, base)
    hf = hf or base_hf
    config = read_config(without_head(hf) if new_head else hf, f"{find.name}/config.json")
    if not isinstance(config, EncoderConfig):
        raise UserError(f"{find.name} is a LoRA adapter, and its base model {base.name} is no encoder")
    formats = config.stored_formats
    config.stored_formats = {}
    check_hashes([find(ADAPTER_CONFIG), adapter_path(find)], hashes)
    adapter = read_adapter(find(ADAPTER_CONFIG), adapter_path(find), config.family)
    num_labels = len(adapter.tensors.get("head.out.weight", config.label_names))
    if num_labels != len(config.label_names):  # peft keeps no names of labels
        config.label_names = [f"LABEL_{i}" for i in range(num_labels)]
    paths = weight_paths(base)
    with checking_hashes(paths, base_hashes):
        model = load_weights(find.name, config, paths, label_names, new_head, adapter.others())
    if formats:
        store_base(model)
    if formats != config.stored_formats:
        raise UserError(f"{find.name}/config.json: stored_forms is not what train.py --lora-base nf4 writes")
    attach(model, adapter, find.name)
    merge_lora(model)
    source, source_hashes = (find, hashes) if find("tokenizer.json") else (base, base_hashes)
    if tokenizer_name:
        source, source_hashes = repository(tokenizer_name), {}
    return model.eval(), open_tokenizer(source, config, cleaning, find.name, source_hashes)


def check_base(find, base):
    """Raise a UserError if the base model of an adapter is not the one that it was trained on."""
    run = find("run.json")
    parent = read_json(run).get("parent") if run else None
    expected = parent.get("sha256") if isinstance(parent, dict) else None
    if expected and weights_hash(weight_paths(base)) != expected:
        raise UserError(f"{find.name} was trained on other weights than {base.name} holds now (their SHA-256 differs "
                        f"from the one in {run}): bring the old ones back, or train the adapter again")


def is_pretrained_only(name):
    """Is this a checkpoint without a classification head, to be fine-tuned first? Reads no weights."""
    find = repository(name)
    hf, _ = open_folder(find)
    if hf.get("runtime") or is_adapter(find):
        return False
    config = read_config(hf, f"{name}/config.json")
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


def save_model(model, tokenizer, folder, run, graph=None, beside=None):
    """Write a model folder. A process that is killed at any moment leaves the old folder or the new one, or one that
    load_model refuses as unfinished: never a mixture (see files.replacing_files).

    run: the dictionary for run.json, of provenance.provenance; the hashes of the files are put into it
    graph: (form, folder) of an exported graph, which takes the place of model.safetensors (see quantization/graph.py)
    beside: {name: path} of files to copy into the folder that are no part of the model (see quantization/web.py)
    """
    folder = Path(folder)
    check_out(folder)
    if is_adapted(model):
        raise UserError("a LoRA adapter on a base in NF4 is no model of its own: python train.py merge makes one of it")
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
        for name, path in (beside or {}).items():
            shutil.copyfile(path, staging / name)


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
    write_safetensors(tensors, path)


def save_adapter(adapter, config, tokenizer, folder, run):
    """Write the folder of a LoRA adapter, as safely as save_model does.

    adapter: of adapter.adapter_of    config: of the adapted model    run: as in save_model; its "parent" is the base
    """
    folder = Path(folder)
    check_out(folder)
    base = run["parent"]
    name = base["name"].partition("@")[0] if "commit" in base else str(Path(base["name"]).expanduser().resolve())
    with replacing_files(folder, FOLDER_FILES, last="run.json") as staging:
        write_json(config.to_hf() | {"text_cleaning": tokenizer.cleaning}, staging / "config.json")
        write_adapter(adapter, config.family, name, base.get("commit"), staging)
        tokenizer.save(staging)
        run.update(hash_files(staging))
        write_json(run, staging / "run.json")


def parent_of(name):
    """Where a model comes from, for run.json: its name and the hash of the files that load_model reads.

    {"name": "org/model", "sha256": "...", "commit": "..."}. A recipe has no hash; only a model of the Hub has a commit.
    """
    if name.split(":")[0] in RECIPES:
        return {"name": name}
    find = repository(name)
    config = find("config.json")
    form = read_json(config).get("runtime") if config else None
    parent = {"name": name, "sha256": weights_hash(graph_paths(find, form) if form else weight_paths(find))}
    if not isinstance(find, Folder):
        parent["commit"] = find.commit
    return parent


def weights_hash(paths):
    """The SHA-256 of a file; of several, that of their hashes in a row."""
    hashes = [sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
