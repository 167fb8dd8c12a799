"""From weight files to a model: names, shapes, a new head where one is wanted, values.

What a file declares is compared with config.json before any memory is taken, and its values before the model is used.
"""

from pkgutil import resolve_name

import torch

from pocketbert.errors import UserError
from pocketbert.models.config import EncoderConfig
from pocketbert.models.config_values import check_task, naming
from pocketbert.models.device import shapes_only
from pocketbert.models.encoder import Encoder, Head, init_weights
from pocketbert.models.hf_names import NOT_OURS, from_hf_name
from pocketbert.models.recurrent import recurrent_model
from pocketbert.models.sequence import LinearHead
from pocketbert.models.stored import replace_stored_modules
from pocketbert.models.tensor_checks import check_shapes, check_values, list_names
from pocketbert.models.weight_files import declared_shapes, read_tensors


def load_weights(name, config, paths, label_names=None, new_head=False, replaced=None):
    """The model of these weight files, in eval mode on the CPU.

    name: of the folder, for messages    label_names: of a new head, if the files have none or new_head is True
    replaced: {our name: tensor} in the place of those in the files, an adapter's head
    """
    replaced = replaced or {}
    shapes, leftover = our_names(declared_shapes(paths), config)
    shapes |= {ours: tuple(tensor.shape) for ours, tensor in replaced.items()}
    needs_head = new_head or not has_head(shapes, config)
    if needs_head:
        shapes = {ours: shape for ours, shape in shapes.items() if not ours.startswith("head.out.")}
        prepare_new_head(config, label_names, name)
    else:
        with naming(f"{name}/config.json"):
            check_task(config.hf, config.label_names)
    model = empty_model(config, f"{name}/config.json")
    expected = model.state_dict()
    fresh = {ours for ours in expected if needs_head and ours.startswith("head.") and ours not in shapes}
    check_shapes({ours: tensor for ours, tensor in expected.items() if ours not in fresh}, shapes, leftover, name)

    tensors, _ = our_names(read_tensors(paths), config)
    tensors |= replaced
    tensors = {ours: in_memory(tensor, ours, config) for ours, tensor in tensors.items() if ours in shapes}
    check_values(expected, tensors, name)
    if fresh:
        tensors |= {ours: tensor for ours, tensor in head_tensors(config).items() if ours in fresh}
        print(f"new classification head ({list_names(fresh)}) for {len(label_names)} labels: "
              f"{list_names(label_names)}")
    fill(model, tensors, name)
    if config.int8_engine:
        resolve_name("pocketbert.quantization.int8:set_engine")(model, config.int8_engine)
    return model.eval()


def has_head(shapes, config):
    """Is there a classification head among these tensors ({our name: shape})?"""
    return "head.out.weight" in shapes or "head.out" in config.stored_formats


def our_names(named, config):
    """({our name: value}, names in the file that are none of ours) of {name in the file: value}."""
    if not isinstance(config, EncoderConfig):
        return dict(named), []
    ours = {}
    leftover = []
    for file_name, value in named.items():
        name = from_hf_name(file_name, config.family)
        if name is not None and name not in ours:
            ours[name] = value
        elif name is not None or not NOT_OURS.search(file_name.removeprefix(f"{config.family}.")):
            leftover.append(file_name)
    return ours, leftover


def prepare_new_head(config, label_names, name):
    """Let the config describe a new head for these labels."""
    if not label_names:
        raise UserError(f"{name} has no classification head; fine-tune it first: "
                        f"python train.py --model {name} --data DATA --out runs/teacher")
    config.label_names = list(label_names)
    config.stored_formats.pop("head.out", None)


def empty_model(config, source):
    """The model that config.json describes, shapes without numbers. source: what error messages name."""
    with shapes_only():
        model = Encoder(config) if isinstance(config, EncoderConfig) else recurrent_model(config)
        replace_stored_modules(model, config.stored_formats, source)
    return model


def head_tensors(config):
    """{our name: tensor} of a new head with random weights."""
    head = init_weights(Head(config)) if isinstance(config, EncoderConfig) else LinearHead(config)
    return {f"head.{name}": tensor for name, tensor in head.state_dict().items()}


def in_memory(tensor, name, config):
    """A copy of a tensor of the file; floats become float32, except those of a stored format.

    A copy, because tensors lie at odd addresses in the file, where some kernels round the last bit differently.
    """
    is_stored = name.rpartition(".")[0] in config.stored_formats
    as_it_is = is_stored or not tensor.is_floating_point()
    return tensor.to(tensor.dtype if as_it_is else torch.float32, copy=True)


def fill(model, tensors, name):
    """Put the tensors into an empty model."""
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except UserError as error:  # a stored format that checks its own numbers
        raise UserError(f"{name}: {error}") from None
