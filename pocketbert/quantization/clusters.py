"""Weights that share K values: training the values, entropy coding the indices (Deep Compression).

    W = codebook[indices]        codebook: (K,) float32, from kmeans    indices: whole numbers below K, Huffman coded

Han et al. 2016, arXiv:1510.00149.
"""

import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.stored import (
    StoredMatrix,
    lookup,
    pack_bits,
    pack_codes,
    replace_module,
    unpack_codes,
)
from pocketbert.quantization.kmeans import kmeans


class GatherCodebook(torch.autograd.Function):
    """W = codebook[indices], with the gradient of the paper's section 3.3:

        dL/dcodebook[k] = sum of dL/dW[i] over all i with indices[i] = k

    autograd computes the same. Written out, the sums can be taken in float64: half a million small numbers added up
    in float32 lose two digits.
    """

    @staticmethod
    def forward(ctx, codebook, indices):
        ctx.save_for_backward(indices)
        ctx.k = len(codebook)
        return lookup(codebook, indices)

    @staticmethod
    def backward(ctx, gradient):
        indices, = ctx.saved_tensors
        sums = torch.bincount(indices.flatten(), weights=gradient.flatten().double(), minlength=ctx.k)
        return sums.to(gradient.dtype), None


gather_codebook = GatherCodebook.apply


class ClusteredWeights(nn.Module):
    """An nn.Linear or nn.Embedding whose weights share K values, for training these values.

        W = codebook[indices],    trained: codebook (K,) and the bias; the indices are fixed

    A centroid that is 0 stays 0. If the weight of the float layer is frozen, so is the codebook.
    module: the float layer that is replaced    codebook, indices: from kmeans(module.weight, K)
    """

    def __init__(self, module, codebook, indices):
        super().__init__()
        self.is_embedding = isinstance(module, nn.Embedding)
        self.bias = getattr(module, "bias", None)
        self.codebook = nn.Parameter(codebook.clone(), requires_grad=module.weight.requires_grad)
        self.register_buffer("indices", indices)
        self.register_buffer("nonzero", (codebook != 0).float())

    @property
    def weight(self):
        return gather_codebook(self.codebook * self.nonzero, self.indices)

    def forward(self, x):
        if self.is_embedding:  # gather only the rows that are looked up
            return gather_codebook(self.codebook * self.nonzero, self.indices[x])
        return F.linear(x, self.weight, self.bias)

    def to_stored(self):
        """The ClusteredMatrix with these values and indices."""
        return ClusteredMatrix.from_codes(self, (self.codebook * self.nonzero).detach(), self.indices)


def share_weights(model, names, k):
    """Replace the named nn.Linear and nn.Embedding of a model by ClusteredWeights with K values each, in place."""
    for name in names:
        module = model.get_submodule(name)
        codebook, indices = kmeans(module.weight, k)
        replace_module(model, name, ClusteredWeights(module, codebook, indices))


def store_clusters(module, k=16):
    """The ClusteredMatrix of an nn.Linear or nn.Embedding, without training."""
    codebook, indices = kmeans(module.weight, k)
    return ClusteredWeights(module, codebook, indices).to_stored()


def whole_bits(num_clusters):
    """Bits of an index before entropy coding: 4 or 8, so that a byte holds whole indices."""
    return 4 if num_clusters <= 16 else 8


def encode_clusters(codebook, indices):
    """Centroids (K,) and the index of each weight's (n,) -> uint8 (bytes,), entropy coded.

        deflate( bitmap of the weights that are not 0, if the code book has a 0 | packed indices of those weights )

    Deflate's Huffman code gives frequent bytes short codes; its search for repetitions, which weights do not have, is
    off. Without the bitmap a zero would take half a bit or more. Bits a weight for normal weights, and in brackets the
    entropy of their indices:

        K = 16:  3.78 (3.76)     half of the weights 0: 2.82 (2.80)     nine tenths: 0.84 (0.82)
        K = 256: 7.18 (7.13)                            4.66 (4.63)                  1.18 (1.17)
    """
    indices = indices.flatten()
    bitmap = indices.new_empty(0, dtype=torch.uint8)
    if (codebook == 0).any():
        nonzero = lookup(codebook, indices) != 0
        indices = indices[nonzero]
        bitmap = pack_bits(nonzero)
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    stream = coder.compress(bitmap.cpu().numpy().tobytes())
    stream += coder.flush(zlib.Z_SYNC_FLUSH)  # the bitmap and the indices get a Huffman code each
    packed = pack_codes(indices.byte(), whole_bits(len(codebook)))
    stream += coder.compress(packed.cpu().numpy().tobytes())
    stream += coder.flush()
    return torch.frombuffer(bytearray(stream), dtype=torch.uint8).to(codebook.device)


def inflate(stream, largest):
    """Decompress uint8 (bytes,) -> uint8 (bytes,), at most `largest` of them; an error if the stream is damaged."""
    coder = zlib.decompressobj()
    try:
        payload = coder.decompress(stream.cpu().numpy().tobytes(), max_length=largest)
    except zlib.error as error:
        raise UserError(f"damaged: the cluster indices do not unpack ({error})") from None
    if not coder.eof or coder.unused_data:
        raise UserError("damaged: the cluster indices are cut off or too long")
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)


def decode_clusters(codebook, stream, count):
    """The inverse of encode_clusters -> indices uint8 (count,)."""
    payload = inflate(stream, largest=2 * count + 2)
    nonzero = torch.ones(count, dtype=torch.bool)
    if (codebook == 0).any():
        bitmap_bytes = math.ceil(count / 8)
        nonzero = unpack_codes(payload[:bitmap_bytes], 1, count).bool()
        payload = payload[bitmap_bytes:]
    codes = unpack_codes(payload, whole_bits(len(codebook)), int(nonzero.sum()))
    if len(codes) and int(codes.max()) >= len(codebook):
        raise UserError(f"damaged: cluster index {int(codes.max())}, but there are {len(codebook)} clusters")
    zero = int((codebook == 0).int().argmax())
    return torch.full((count,), zero, dtype=torch.uint8).masked_scatter_(nonzero, codes).to(codebook.device)


class ClusteredMatrix(StoredMatrix):
    """The stored format: a code book and, for each weight, an index into it.

        w = codebook[index],    index: Huffman coded, see `encode_clusters`

    The number of bytes depends on the weights, so the format carries it: "clusters:K:BYTES". Exact zeros stay zero if
    the code book has a 0, and cost a fraction of a bit where they are many.
    """

    kind = "clusters"

    def __init__(self, module, num_clusters, num_bytes):
        if not 1 <= num_clusters <= 256:
            raise UserError(f"clusters:{num_clusters}: 1 to 256 clusters")
        super().__init__(module, num_clusters, num_bytes)
        self.add_buffers(module.weight.device, codebook=(num_clusters, torch.float32),
                         indices=(num_bytes, torch.uint8))

    @classmethod
    def from_codes(cls, module, codebook, indices):
        """codebook: (K,) in any order    indices: (rows, columns)"""
        stream = encode_clusters(codebook, indices)
        return cls.filled(module, len(codebook), len(stream), codebook=codebook, indices=stream)

    def dequantize(self):
        indices = decode_clusters(self.codebook, self.indices, self.num_weights)
        return lookup(self.codebook, indices).view(self.shape)
