"""4-bit NormalFloat with double quantization (QLoRA)."""

import math

import torch

from pocketbert.errors import UserError
from pocketbert.models.stored import StoredMatrix, finite, pack_codes, unpack_codes
from pocketbert.quantization.blockwise import dequantize_blocks, dynamic_map, quantize_blocks

# The 16 numbers of NF4 are quantiles of the normal distribution, scaled to [-1, 1] and including 0, so that normal
# weights use each about equally often (Dettmers et al. 2023, arXiv:2305.14314, appendix E).
NF4_LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0])


class NF4Matrix(StoredMatrix):
    """4-bit NormalFloat with double quantization: the format of QLoRA (arXiv:2305.14314, section 3).

        w ~ NF4[code] * absmax[block],    absmax ~ offset + dynamic_map[absmax_code] * absmax_scale[its block of 256]

    A block is `block_size` consecutive weights of the flattened matrix. bits a weight for blocks of 64:
    4 + 8 / 64 + 32 / (64 * 256) = 4.127. The numbers are those of bitsandbytes.
    """

    kind = "nf4"

    def __init__(self, module, block_size):
        if block_size <= 0:
            raise UserError(f"nf4:{block_size}: the block size must be at least 1")
        super().__init__(module, block_size)
        num_bytes = math.ceil(self.num_weights / 2)
        blocks = math.ceil(self.num_weights / block_size)
        self.add_buffers(module.weight.device, codes=(num_bytes, torch.uint8), absmax=(blocks, torch.uint8),
                         absmax_scale=(math.ceil(blocks / 256), torch.float32), offset=(1, torch.float32))

    @classmethod
    def from_float(cls, module, block_size=64):
        weight = finite(module.weight.detach().float()).flatten()
        codes, absmax = quantize_blocks(weight, NF4_LEVELS.to(weight.device), block_size)
        # All maxima are positive; their differences from the mean use both halves of the dynamic map.
        offset = absmax.mean()
        absmax, absmax_scale = quantize_blocks(absmax - offset, dynamic_map().to(weight.device), 256)
        return cls.filled(module, block_size, codes=pack_codes(codes, 4), absmax=absmax, absmax_scale=absmax_scale,
                          offset=offset.view(1))

    def dequantize(self):
        codes = unpack_codes(self.codes, 4, self.num_weights)
        device = codes.device
        absmax = dequantize_blocks(self.absmax, self.absmax_scale, dynamic_map().to(device), 256) + self.offset
        block_size, = self.numbers
        return dequantize_blocks(codes, absmax, NF4_LEVELS.to(device), block_size).view(self.shape)
