"""Sparse matrices: a bitmap and the values that are not zero. Lossless, whatever the matrix."""

import copy
import math

import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.stored import StoredMatrix, pack_bits, replace_module, to_float, unpack_codes


class SparseLinear(StoredMatrix):
    """Zeros cost one bit each: a bitmap, and the values of all other weights in row order.

        bytes = n / 8 + 4 * values, against 4 n dense:    13 % at a sparsity of 0.9, no gain below 1/32

    Only +0.0 (all bits zero) is left out: -0.0 and denormals are stored as values, so that unpacking gives the same
    bits. The sizes follow from the number of values, which the format carries: "sparse_linear:NUMBER".
    """

    kind = "sparse_linear"

    def __init__(self, module, num_values):
        super().__init__(module, num_values)
        self.add_buffers(module.weight.device, values=(num_values, torch.float32),
                         bitmap=(math.ceil(math.prod(self.shape) / 8), torch.uint8))

    @classmethod
    def from_float(cls, module):
        weight = module.weight.detach().float().flatten()
        stored = weight.view(torch.int32) != 0  # the bits, because -0.0 == 0.0
        return cls.filled(module, int(stored.sum()), bitmap=pack_bits(stored), values=weight[stored])

    @property
    def num_weights(self):
        return len(self.values)

    def dequantize(self):
        stored = unpack_codes(self.bitmap, 1, math.prod(self.shape)).bool().view(self.shape)
        if int(stored.sum()) != len(self.values):
            raise UserError(f"damaged sparse matrix: the bitmap of {stored.numel()} weights counts "
                             f"{int(stored.sum())} values, there are {len(self.values)}")
        return torch.zeros(self.shape, device=self.values.device).masked_scatter_(stored, self.values)


def to_dense(model, quiet=False):
    """The model with plain nn.Linear matrices in place of sparse ones: for training, export and slicing.

    quiet: do not print that the zeros are no longer protected.
    """
    if not isinstance(model, nn.Module):
        raise UserError("this is an exported graph, which can only be run: take the model that it was made from")
    sparse = [name for name, module in model.named_modules() if isinstance(module, SparseLinear)]
    if not sparse:
        return model
    if not quiet:
        print(f"{len(sparse)} sparse matrices are dense from here on: their zeros may become other numbers")
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, SparseLinear):
            replace_module(model, name, to_float(module))
            del model.config.stored_formats[name]
    return model
