"""The folder in which every model of this project travels.

A model folder is config.json, model.safetensors, tokenizer.json and, written last, run.json:

    model, tokenizer = load_model("runs/demo/teacher")     # or a Hugging Face folder, or a Hub id
    logits = model(input_ids, attention_mask)
    save_model(model, tokenizer, "runs/copy", run={"script": "copy.py"})

The networks themselves are in encoder.py.
"""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from pkgutil import resolve_name

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pocketbert.data.tokenizer_files import load_tokenizer
from pocketbert.errors import UserError
from pocketbert.files import UNFINISHED, is_unfinished, read_json, replacing_files, write_json
from pocketbert.hub import repository
from pocketbert.models.config import EncoderConfig
from pocketbert.models.device import shapes_only
from pocketbert.models.encoder import Encoder, Head, init_weights
from pocketbert.models.hf_names import NOT_OURS, from_hf_name, to_hf_name
from pocketbert.models.recipes import RECIPES
from pocketbert.models.recurrent import recurrent_model
from pocketbert.models.recurrent_config import RecurrentConfig
from pocketbert.models.sequence import LinearHead
from pocketbert.models.size import MODEL_FILES, count_parameters
from pocketbert.models.stored import replace_stored_modules
from pocketbert.provenance import sha256


def read_weight_file(path):
    """One weight file -> {name: tensor}. Pickles are read with weights_only=True: no code in them is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is damaged, or a pickle that holds more than tensors and could run code: "
                         "not loaded; get model.safetensors instead") from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is cut off or damaged ({reason}); fetch it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise UserError(f"{path} is not a state dict of tensors; get the weights as model.safetensors")
    return tensors


def read_tensors(find):
    """All tensors of a repository: model.safetensors or pytorch_model.bin, in one file or in shards."""
    for weights in ("model.safetensors", "pytorch_model.bin"):
        if path := find(weights):
            return read_weight_file(path)
        if index := find(f"{weights}.index.json"):
            tensors = {}
            for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
                path = find(shard)
                if path is None:
                    raise FileNotFoundError(f"{find.name} lacks {shard}, which {index.name} names; fetch it again")
                tensors |= read_weight_file(path)
            return tensors
    raise FileNotFoundError(f"{find.name} has neither model.safetensors nor pytorch_model.bin: no weights to load")


def list_names(names, most=6):
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_model(name, label_names=None, new_head=False, tokenizer_name=None, cleaning=None):
    """Open a model folder, a local Hugging Face folder or a Hub id (`org/name` or `org/name@revision`).

    Returns (model in eval mode on the CPU, tokenizer). A checkpoint without a classification head gets a
    new one for `label_names`, and a printed line says so; `new_head=True` replaces the head that is there.
    tokenizer_name: another folder or Hub id to take the tokenizer from; cleaning: see text_utils.CLEANERS.
    """
    if is_unfinished(name, last="run.json"):
        raise UserError(f"{name} is an interrupted save: its files may be of two models; run its command again")
    find = repository(name)
    config_path = find("config.json")
    if config_path is None:
        raise FileNotFoundError(f"{name} has no config.json: it is not a model folder")
    hf = read_json(config_path)
    kind = RecurrentConfig if str(hf.get("model_type")).startswith("pocketbert-") else EncoderConfig
    config = kind.from_hf(hf, source=f"{name}/config.json")
    if runtime := hf.get("runtime"):
        model = resolve_name("pocketbert.quantization.graph:open_runtime")(config_path.parent, runtime, config)
        model.num_parameters = hf.get("num_parameters", 0)
        return model, load_tokenizer(find, config.hf, name=name)
    tensors, fresh, leftover = {}, {}, []
    for file_name, tensor in read_tensors(find).items():
        ours = file_name if kind is not EncoderConfig else from_hf_name(file_name, config.family)
        if ours is not None:
            # A copy: tensors lie at odd addresses in the file, where some kernels round the last bit differently.
            as_it_is = not tensor.is_floating_point() or ours.rpartition(".")[0] in config.stored_formats
            tensors[ours] = tensor.to(tensor.dtype if as_it_is else torch.float32, copy=True)
        elif not NOT_OURS.search(file_name.removeprefix(f"{config.family}.")):
            leftover.append(file_name)
    if new_head or "head.out.weight" not in tensors and "head.out" not in config.stored_formats:
        if not label_names:
            raise UserError(f"{name} has no classification head; fine-tune it first: "
                             f"python train.py --model {name} --data DATA --out runs/teacher")
        config.label_names = list(label_names)
        head = init_weights(Head(config)) if kind is EncoderConfig else LinearHead(config)
        fresh = {f"head.{k}": v for k, v in head.state_dict().items()}
        fresh = {k: v for k, v in fresh.items() if k not in tensors or k.startswith("head.out.")}
        tensors |= fresh

    with shapes_only():  # the numbers come from the file
        model = Encoder(config) if kind is EncoderConfig else recurrent_model(config)
        replace_stored_modules(model, config.stored_formats, f"{name}/config.json")
    if config.int8_engine:
        resolve_name("pocketbert.quantization.int8:set_engine")(model, config.int8_engine)
    check_tensors(model.state_dict(), tensors, leftover, name)
    if fresh:
        print(f"new classification head ({list_names(fresh)}) for {len(label_names)} labels: "
              f"{list_names(label_names)}")
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except ValueError as error:  # a stored format that checks its own numbers
        raise UserError(f"{name}: {error}") from None
    tokenizer = load_tokenizer(repository(tokenizer_name) if tokenizer_name else find, config.hf,
                               cleaning=cleaning, name=name)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{name}: the tokenizer knows {tokenizer.vocab_size} tokens, the embedding only "
                         f"{config.vocab_size}; tokenizer and weights are of different models")
    return model.eval(), tokenizer


def check_tensors(expected, found, leftover, name):
    """Every tensor of the model must be there, none may be left over, all must fit; else one line names them."""
    missing = set(expected) - set(found)
    leftover = leftover + [key for key in found if key not in expected]
    if missing or leftover:
        raise UserError(f"{name}: the weights do not fit config.json: "
                         + "; ".join(([f"missing: {list_names(missing)}"] if missing else [])
                                     + ([f"left over: {list_names(leftover)}"] if leftover else [])))
    for key, tensor in found.items():
        want = expected[key]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise UserError(f"{name}: {key} is {tuple(tensor.shape)} {tensor.dtype} in the file, but config.json "
                             f"asks for {tuple(want.shape)} {want.dtype}")


FOLDER_FILES = ("config.json", *MODEL_FILES, "tokenizer.json", "run.json", "metrics.json")


def check_out(folder, sources=()):
    """Raise before the work, not after it, when `folder` could not be written, holds somebody's other files, or is
    one of the models (`sources`: names of folders or on the Hub) that the work starts from."""
    folder = Path(folder)
    if any(name and Path(name).is_dir() and folder.resolve() == Path(name).resolve() for name in sources):
        raise FileExistsError(f"--out {folder} is the model to start from, which would be lost; name another folder")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out {folder} is a file; name a folder")
    ours = (folder / "run.json").exists() or (folder / UNFINISHED).exists()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise FileExistsError(f"--out {folder} holds files but no run.json, so it is no model folder of ours "
                              "and is left alone; name another folder")
    ancestor = next(path for path in folder.absolute().parents if path.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise PermissionError(f"--out {folder}: {ancestor} is no folder that can be written to")


def save_model(model, tokenizer, folder, run, graph=None):
    """Write a model folder: everything into a temporary neighbour first, then one rename.

    A process killed at any moment leaves the old folder or the new one, never a mixture.
    run: the dictionary for run.json (see train_utils.provenance).
    graph: (format, folder) of an exported graph (quantization/graph.py), which replaces model.safetensors.
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
    def file_name(name):
        return to_hf_name(name, model.config.family) if isinstance(model.config, EncoderConfig) else name
    tensors = {file_name(name): tensor.detach().cpu().contiguous()
               for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def parent_of(name):
    """Where a model came from: its name and, for files, the hash of its weights."""
    if name.split(":")[0] in RECIPES:
        return {"name": name}
    find = repository(name)
    for weights in (*reversed(MODEL_FILES), "pytorch_model.bin"):  # OpenVINO's numbers are in its .bin
        if path := find(weights):
            return {"name": name, "sha256": sha256(path)}
        if path := find(f"{weights}.index.json"):  # in shards
            shards = sorted(set(read_json(path)["weight_map"].values()))
            together = "".join(sha256(find(shard)) for shard in shards)
            return {"name": name, "sha256": hashlib.sha256(together.encode()).hexdigest()}
    return {"name": name, "sha256": None}
