"""Where a model runs, in which precision, and with which random numbers."""

import contextlib
import random

import numpy as np
import torch

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
