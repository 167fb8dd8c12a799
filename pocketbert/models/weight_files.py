"""The files that hold a model's tensors: what they declare, what is in them.

    model.safetensors        one file, or shards that model.safetensors.index.json lists
    pytorch_model.bin        the same as pickles; they are read with weights_only=True, so no code in them is run

Nothing here trusts a file: it may be cut off, damaged, made by somebody who wants code to run, or something else.
"""

import zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pocketbert.errors import UserError
from pocketbert.models.weight_paths import refuse_pointer

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put in front of every name


def damaged(path, error):
    """The error for a file that its library cannot read."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return UserError(f"{path} is cut off or damaged ({reason}); fetch it again")


def declared_shapes(paths):
    """{name: shape} of all tensors, from the headers alone: a safetensors file says its shapes at its start.

    The shapes are compared with config.json before a model is built. A pickle has no header; its tensors are read.
    """
    shapes = {}
    for path in paths:
        refuse_pointer(path)
        if path.suffix == ".safetensors":
            shapes |= safetensors_shapes(path)
        else:
            shapes |= {name: tuple(tensor.shape) for name, tensor in read_pickle(path).items()}
    return unwrapped(shapes)


def safetensors_shapes(path):
    """{name: shape} of one safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no dict)
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from None


def read_tensors(paths):
    """{name: tensor} of all files."""
    tensors = {}
    for path in paths:
        tensors |= read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    return unwrapped(tensors)


def read_safetensors(path):
    """{name: tensor} of one safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise damaged(path, error) from None


def read_pickle(path):
    """{name: tensor} of one pickle. A pickle that holds more than tensors could run code and is not loaded."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle makes torch raise errors of any kind
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(f"{path} is damaged, or a pickle that holds more than tensors and could run code: not "
                            "loaded; get model.safetensors instead") from None
        raise damaged(path, error) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise UserError(f"{path} is not a state dict of tensors; get the weights as model.safetensors")
    return tensors


def unwrapped(named):
    """The same values under the names of the bare model, if a wrapper's name is in front of all of them."""
    for wrapper in WRAPPERS * 2:  # also one inside the other
        if named and all(str(name).startswith(wrapper) for name in named):
            named = {name.removeprefix(wrapper): value for name, value in named.items()}
    return named


def write_safetensors(tensors, path):
    """Write a file of tensors, which others may read who may read its folder's other files."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk
        raise OSError(f"{path.parent.parent} could not be written ({error}); what was there is still there") from None
    path.chmod((path.parent / "config.json").stat().st_mode)  # save_file makes it readable for its owner alone
