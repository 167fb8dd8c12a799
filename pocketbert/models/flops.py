"""How much arithmetic one text costs: floating-point operations of all matrix products, read off the model as it runs.

A multiplication and an addition are two operations. Additions of vectors, activations and LayerNorms are not counted:
together they are below 2 % in an encoder. int8 counts as if it were floats, a sparse or clustered matrix as the dense
one, because that is what is multiplied.
"""

import math
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def linear_dynamic_flops(x_shape, *_, out_shape, **__):
    """2 * rows * in * out of torch.ao's int8 matrix product."""
    return 2 * math.prod(x_shape) * out_shape[-1]


@torch.inference_mode()
def flops(model, length):
    """Floating-point operations for one text of `length` tokens; None for an exported graph.

    torch's counter sees no fused kernels, so attention and the recurrent cells run as plain matrix products here. The
    first call is not counted: stored matrices are unpacked in it.
    """
    if not isinstance(model, torch.nn.Module):
        return None
    ids = torch.ones(1, max(1, round(length)), dtype=torch.int64, device=model.device)
    mapping = {torch.ops.quantized.linear_dynamic: linear_dynamic_flops}
    model(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TF32, which nobody asked for
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
                model(ids)
    return counter.get_total_flops()
