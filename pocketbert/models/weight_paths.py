"""Which files hold a model's tensors. No torch here.

    model.safetensors        one file, or shards that model.safetensors.index.json lists
    pytorch_model.bin        the same as pickles
    adapter_model.*          of a LoRA adapter, whose other tensors are those of the base model that it names
"""

from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.files import read_json
from pocketbert.hub import Folder, repository
from pocketbert.models.config_values import naming, text, text_map

LFS_POINTER = b"version https://git-lfs"  # what a clone holds in the place of a large file, without `git lfs pull`
ADAPTER_CONFIG = "adapter_config.json"  # of a LoRA adapter, and its tensors:
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def weight_paths(find):
    """The paths of all files with tensors of a model; of an adapter: its base's, then its own.

    find: of hub.repository
    """
    if paths := own_weight_paths(find):
        return paths
    if find(ADAPTER_CONFIG):
        return [*weight_paths(base_of(find)), adapter_path(find)]
    raise FileNotFoundError(f"{find.name} has neither model.safetensors nor pytorch_model.bin: no weights to load")


def own_weight_paths(find):
    """The paths of the weight files of a repository; [] for an adapter, and where there are none."""
    for weights in ("model.safetensors", "pytorch_model.bin"):
        if path := find(weights):
            return [path]
        if index := find(f"{weights}.index.json"):
            return shard_paths(find, index)
    return []


# ---- adapters --------------------------------------------------------------------------------------------

def is_adapter(find):
    """Is this a LoRA adapter alone, without the weights of a model?"""
    return not own_weight_paths(find) and find(ADAPTER_CONFIG) is not None


def adapter_path(find):
    """The path of an adapter's tensors."""
    path = next(filter(None, map(find, ADAPTER_WEIGHTS)), None)
    if path is None:
        raise FileNotFoundError(f"{find.name} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS[0]}: fetch it again")
    return path


def base_of(find):
    """The repository of an adapter's base model: what adapter_config.json names or, where a folder has been moved,
    the folder of that name beside the adapter."""
    with naming(find(ADAPTER_CONFIG)):
        config = read_json(find(ADAPTER_CONFIG))
        name = text(config, "base_model_name_or_path") or ""
        revision = text(config, "revision")
    if isinstance(find, Folder) and not Path(name).is_dir():
        beside = find.path.resolve().parent / Path(name).name
        name = str(beside) if name and beside.is_dir() else name
    try:
        base = repository(f"{name}@{revision}" if revision and not Path(name).is_dir() else name)
    except FileNotFoundError as error:
        raise UserError(f"{find.name} is a LoRA adapter, and its base model is not here ({error}): put the base beside "
                        f"it, or name its folder in {ADAPTER_CONFIG}") from None
    if is_adapter(base):
        raise UserError(f"{find.name} is a LoRA adapter of {name}, which is an adapter itself: merge that first")
    return base


def shard_paths(find, index):
    """The paths of the shards that an index.json lists."""
    with naming(index):
        shards = sorted(set(text_map(read_json(index), "weight_map").values()))
        if not shards:
            raise UserError("weight_map names no file")
    paths = [find(shard) for shard in shards]
    for shard, path in zip(shards, paths, strict=True):
        if path is None:
            raise FileNotFoundError(f"{find.name} lacks {shard}, which {index.name} names; fetch it again")
    return paths


def refuse_pointer(path):
    """Raise a UserError for a file that git-lfs has not fetched."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
    except PermissionError:
        raise PermissionError(f"{path} may not be read by you: chmod +r {path}") from None
    if start == LFS_POINTER:
        raise UserError(f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder")
    return path
