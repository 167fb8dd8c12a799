"""Block-wise quantization with a code book: shared by NF4 and 8-bit optimizers.

    code = index of the number in the book that is nearest to value / max|block|
    value ~ book[code] * max|block|
"""

import torch
import torch.nn.functional as F

from pocketbert.models.stored import lookup


def midpoints(numbers):
    """The middle between each number and the next: (n,) -> (n - 1,)."""
    return (numbers[:-1] + numbers[1:]) / 2


def nearest(values, book):
    """The index, uint8, of the number in the ascending code book that is nearest to each value."""
    return torch.bucketize(values, midpoints(book), out_int32=True).byte()


def dynamic_map():
    """256 numbers in [-1, 1], ascending, spaced more finely near 0 (Dettmers 2016, arXiv:1511.04561).

    They are +- 10^(i - 6) times the middles of 2^i equal parts of [0.1, 1], for i = 0 ... 6, and 0 and 1.
    """
    positive = torch.cat([10 ** (i - 6) * midpoints(torch.linspace(0.1, 1, 2 ** i + 1)) for i in range(7)])
    return torch.cat([positive, -positive, torch.tensor([0.0, 1.0])]).sort().values


def quantize_blocks(values, book, size):
    """(n,) -> codes uint8 (n,) and absmax float32 (blocks,), the largest absolute value of each block of `size`."""
    blocks = F.pad(values, (0, -len(values) % size)).view(-1, size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]  # times 1/x, not /x: equal to bitsandbytes' last bit
    return nearest(scaled.flatten()[:len(values)], book), absmax


def dequantize_blocks(codes, absmax, book, size):
    """The inverse: codes (n,) uint8, absmax (blocks,) -> (n,) float32."""
    return lookup(book, codes) * absmax.repeat_interleave(size)[:len(codes)]
