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


def code_cells(book):
    """A table that finds the nearest number without a search: first (65536,) uint8, limit (65536,) float32.

    The upper 16 bits of a float32 (sign, exponent, 7 bits of the fraction) are the number of its cell. Cells are so
    narrow that at most one midpoint of the book lies in each:

        code = first[cell] + (value > limit[cell])

    On a CPU much faster than the binary search among the midpoints of 256 numbers.
    """
    middles = midpoints(book)
    bits = torch.arange(65536, dtype=torch.int32, device=book.device) << 16
    ends = torch.stack([bits, bits | 0xFFFF]).view(torch.float32)
    ends = ends.where(~ends.isnan().any(dim=0), 0.0)  # infinity and what is no number
    low = torch.bucketize(ends.amin(dim=0), middles)
    high = torch.bucketize(ends.amax(dim=0), middles)
    if (high - low > 1).any():
        raise ValueError("two midpoints of the code book lie in one cell")
    limit = F.pad(middles, (0, 1), value=torch.inf)[low]
    return low.byte(), limit


def nearest_by_cells(values, first, limit):
    """What `nearest` returns, for float32 values and the table that code_cells has made of the book."""
    cells = (values.view(torch.int32) >> 16) & 0xFFFF
    above = values > limit.index_select(0, cells)
    return first.index_select(0, cells) + above.view(torch.uint8)


def dynamic_map(signed=True):
    """256 numbers in [-1, 1], ascending, spaced more finely near 0 (Dettmers 2016, arXiv:1511.04561).

    They are +- 10^(i - 6) times the middles of 2^i equal parts of [0.1, 1], for i = 0 ... 6, and 0 and 1.
    Without signs the numbers are in [0, 1], and the parts are 2^(i + 1).
    """
    extra = 0 if signed else 1
    positive = torch.cat([10 ** (i - 6) * midpoints(torch.linspace(0.1, 1, 2 ** (i + extra) + 1)) for i in range(7)])
    negative = -positive if signed else positive[:0]
    return torch.cat([positive, negative, torch.tensor([0.0, 1.0])]).sort().values


def quantize_blocks(values, book, size, cells=None):
    """(n,) -> codes uint8 (n,) and absmax float32 (blocks,), the largest absolute value of each block of `size`.

    cells: code_cells(book), for the same codes in less time
    """
    blocks = F.pad(values, (0, -len(values) % size)).view(-1, size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]  # times 1/x, not /x: equal to bitsandbytes' last bit
    scaled = scaled.flatten()[:len(values)]
    return nearest_by_cells(scaled, *cells) if cells else nearest(scaled, book), absmax


def dequantize_blocks(codes, absmax, book, size):
    """The inverse: codes (n,) uint8, absmax (blocks,) -> (n,) float32."""
    return lookup(book, codes) * absmax.repeat_interleave(size)[:len(codes)]
