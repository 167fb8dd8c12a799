"""Rounding to a grid: a scale and a lowest value for each group of columns.

    w ~ low + scale * code,    code = 0 ... 2^bits - 1
"""

import math

import torch
import torch.nn.functional as F

from pocketbert.errors import UserError
from pocketbert.models.stored import StoredMatrix, pack_codes, unpack_codes


def float16_above(x):
    """The smallest float16 that is at least x, for each element."""
    half = x.half()
    # The bit pattern plus 1 is the neighbour away from zero; minus 1, the neighbour towards zero.
    neighbour = (half.view(torch.int16) + torch.where(x > 0, 1, -1).to(torch.int16)).view(torch.float16)
    return torch.where(half.float() < x, neighbour, half)


def group_grid(groups, bits):
    """The grid of each group of weights (..., size): 2^bits points from `low` in steps of `scale`, both (...,) float16.

        scale = (max - low) / (2^bits - 1),    low = min

    low is rounded down and scale up, so that the grid still covers all weights and none is farther than scale / 2 from
    a point. A range too small for float16 gets its smallest step, 2^-24; a group of one repeated float16 number, such
    as 0, gets the step 0 and is exact.
    """
    if not groups.abs().max() <= 65504:  # also true for NaN
        raise UserError(f"weights up to {groups.abs().max():.3g} do not fit a grid in float16 (at most 65504): "
                         "store this matrix as nf4, clusters or bfloat16")
    low = -float16_above(-groups.amin(dim=-1))
    return float16_above((groups.amax(dim=-1) - low.float()) / (2 ** bits - 1)), low


def nearest_codes(weight, scale, low, bits):
    """The grid point nearest to each weight: round((w - low) / scale), uint8. scale, low: float32, broadcast."""
    return ((weight - low) / scale.clamp(min=2 ** -24)).round().clamp(0, 2 ** bits - 1).byte()


def round_to_nearest(weight, bits, group_size):
    """(rows, columns) -> codes uint8 (rows, columns), scale and low float16 (rows, groups). Needs no data.

        w ~ low[group] + scale[group] * code,    |error| <= scale / 2

    A group is `group_size` consecutive columns of one row; the last one of a row may be shorter.
    """
    rows, columns = weight.shape
    # Padding with copies of the last column changes neither the minimum nor the maximum of the last group.
    padded = F.pad(weight, (0, -columns % group_size), mode="replicate")
    scale, low = group_grid(padded.view(rows, -1, group_size), bits)
    wide_scale, wide_low = expand_groups(scale, low, group_size, columns)
    return nearest_codes(weight, wide_scale, wide_low, bits), scale, low


def expand_groups(scale, low, group_size, columns):
    """The scale and low of each weight: twice (rows, groups) float16 -> (rows, columns) float32."""
    return [tensor.float().repeat_interleave(group_size, dim=1)[:, :columns] for tensor in (scale, low)]


class GroupMatrix(StoredMatrix):
    """Weight-only int2 ... int8: every group of columns has a grid of its own. "groups:4:64" is int4.

        w ~ low + scale * code,    code = 0 ... 2^bits - 1    bits a weight: bits + 32 / group_size

    Smaller groups have smaller errors and cost more bytes. A row's last group may be shorter. The grid need not
    contain 0, so the zeros of a pruned model become small numbers; nf4 and clusters keep them.
    """

    kind = "groups"

    def __init__(self, module, bits, group_size):
        if not (2 <= bits <= 8 and group_size > 0):
            raise UserError(f"groups:{bits}:{group_size}: bits must be 2 to 8 and the group size at least 1")
        super().__init__(module, bits, group_size)
        groups = self.shape[0], math.ceil(self.shape[1] / group_size)
        self.add_buffers(module.weight.device, codes=(math.ceil(self.num_weights * bits / 8), torch.uint8),
                         scale=(groups, torch.float16), low=(groups, torch.float16))

    @classmethod
    def from_codes(cls, module, codes, scale, low, bits, group_size):
        """From what round_to_nearest or gptq returns: codes (rows, columns), scale and low (rows, groups)."""
        return cls.filled(module, bits, group_size, codes=pack_codes(codes.flatten(), bits), scale=scale, low=low)

    def dequantize(self):
        bits, group_size = self.numbers
        codes = unpack_codes(self.codes, bits, self.num_weights).view(self.shape)
        scale, low = expand_groups(self.scale, self.low, group_size, self.shape[1])
        return low + scale * codes
