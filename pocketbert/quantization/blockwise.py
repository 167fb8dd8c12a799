"""Block-wise quantization to a code book: shared by NF4 and 8-bit optimizers."""

import torch
import torch.nn.functional as F

from pocketbert.models.stored import lookup


def middles(numbers):
    return (numbers[:-1] + numbers[1:]) / 2


def nearest(values, book):
    """The index, as uint8, of the number in the ascending code book that is next to each value."""
    return torch.bucketize(values, middles(book), out_int32=True).byte()


def dynamic_map():
    """256 numbers in [-1, 1] with more digits the larger they are (Dettmers 2016, arXiv:1511.04561), ascending.

    +- 10^(i - 6) times the middles of 2^i equal parts of [0.1, 1], i = 0 ... 6; and 0 and 1. QLoRA's code for scales.
    """
    positive = torch.cat([10 ** (i - 6) * middles(torch.linspace(0.1, 1, 2 ** i + 1)) for i in range(7)])
    return torch.cat([positive, -positive, torch.tensor([0.0, 1.0])]).sort().values


def quantize_blocks(values, book, size):
    """(n,) -> codes uint8 (n,), absmax float32 (blocks,): the number of the book next to value / max|block|."""
    blocks = F.pad(values, (0, -len(values) % size)).view(-1, size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]  # times 1/x, not /x: to bitsandbytes' last bit
    return nearest(scaled.flatten()[:len(values)], book), absmax


def dequantize_blocks(codes, absmax, book, size):
    return lookup(book, codes) * absmax.repeat_interleave(size)[:len(codes)]
