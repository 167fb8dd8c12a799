"""Where a model runs, in which precision, and with which random numbers."""

import contextlib
import random

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pocketbert.errors import UserError


def pick_device(name, quiet=False):
    """'auto' is the first GPU if there is one. The choice is printed."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--device {name} does not work here: {str(error).splitlines()[0]}") from None
    if not quiet:
        print(f"device: {name}" + (f" ({torch.get_num_threads()} threads)" if name == "cpu" else ""))
    return torch.device(name)


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def autocast(device, bf16=None):
    """bfloat16 for the forward pass where the GPU has it; parameters and gradients stay fp32."""
    if bf16 is None:
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


class SkipInit(TorchFunctionMode):
    """Inside `with SkipInit():` the functions of torch.nn.init leave a tensor as it is."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


@contextlib.contextmanager
def shapes_only():
    """Build a model whose numbers will come from a file: on the meta device, without initial values.

    Random numbers on the meta device import torch._dynamo, which takes longer than loading a small model.
    """
    with torch.device("meta"), SkipInit():
        yield
