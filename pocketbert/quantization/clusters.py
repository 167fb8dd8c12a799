"""Weights that share K values: k-means, entropy coding, training of the centroids."""

import math
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.stored import StoredMatrix, finite, lookup, pack_bits, pack_codes, unpack_codes
from pocketbert.quantization.blockwise import middles, nearest


def initial_centroids(ordered, k, init, seed=0):
    """k starting points for ascending values (n,) float32, in float64. Deep Compression compares the first two.

    linear: evenly between smallest and largest, so that the few large weights have centroids of their own;
    density: the values at evenly spaced ranks;    kmeans++: each new one is a value, drawn with a probability
    proportional to its squared distance from the nearest so far (Arthur and Vassilvitskii 2007), of at most 65,536
    values at evenly spaced ranks.
    """
    ends = ordered[[0, -1]].double()
    if init == "linear":
        return torch.linspace(0, 1, k, dtype=torch.float64) * (ends[1] - ends[0]) + ends[0]
    if init == "density":
        return ordered[((torch.arange(k) + 0.5) / k * len(ordered)).long()].double()
    if init != "kmeans++":
        raise UserError(f"init {init!r} is not one of linear, density, kmeans++")
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.linspace(0, len(ordered) - 1, min(len(ordered), 65536), dtype=torch.float64)  # 2^24 values and more
    values = ordered[ranks.long()].double()
    centroids = [values[torch.randint(len(values), (1,), generator=generator)]]
    distance = (values - centroids[0]).square()
    for _ in range(k - 1):
        total = distance.cumsum(dim=0)
        drawn = torch.searchsorted(total, total[-1:] * torch.rand(1, dtype=torch.float64, generator=generator))
        centroids.append(values[drawn.clamp(max=len(values) - 1)])
        distance = torch.minimum(distance, (values - centroids[-1]).square())
    return torch.cat(centroids).sort().values


def lloyd_step(centroids, ordered, sums, squares):
    """Each value to its nearest centroid, each centroid to the mean of its values: (k,) float64 -> (k,), ascending.

    On a line a cluster is an interval. With the cumulative sums of the ascending values (and of their squares) a step
    is k binary searches and k differences, however many values there are.
    A centroid without values goes to the upper end of the cluster with the largest squared error; two, to the two.
    """
    edges = torch.searchsorted(ordered, middles(centroids).float(), right=True)
    edges = F.pad(F.pad(edges, (1, 0)), (0, 1), value=len(ordered))  # cluster i is ordered[edges[i]:edges[i + 1]]
    counts, totals = edges.diff(), sums[edges].diff()
    means = torch.where(counts > 0, totals / counts.clamp(min=1), centroids)
    if (counts == 0).any():
        worst = (squares[edges].diff() - totals * means).argsort(descending=True)[:int((counts == 0).sum())]
        means[counts == 0] = ordered[edges[worst + 1] - 1].double()
    return means.sort().values


@torch.no_grad()
def kmeans(values, k, init="linear", iterations=300, seed=0):
    """1-D k-means: values (...) -> centroids (k,) float32, ascending, and the index of each value's, uint8 (...).

    All values take part in all iterations, which end when nothing moves. If more values are exactly 0 than an average
    cluster holds (a pruned matrix), one centroid is 0 and the others are for the values that are not: what is pruned
    stays pruned.
    """
    if not 1 <= k <= 256:
        raise UserError(f"{k} clusters: 1 to 256 are possible")
    values = finite(values.detach().float())
    zeros = values == 0
    if k > 1 and not zeros.all() and int(zeros.sum()) * k > values.numel():
        others, _ = kmeans(values[~zeros], k - 1, init, iterations, seed)
        centroids = F.pad(others, (0, 1)).sort().values
    else:
        ordered = torch.from_numpy(np.sort(values.cpu().numpy(), axis=None))  # several times faster than torch's
        sums, squares = (F.pad(powers.cumsum(dim=0), (1, 0)) for powers in (ordered.double(), ordered.double() ** 2))
        centroids, before = initial_centroids(ordered, k, init, seed), None
        while iterations and not (before is not None and torch.equal(centroids, before)):
            centroids, before, iterations = lloyd_step(centroids, ordered, sums, squares), centroids, iterations - 1
        centroids = centroids.float().to(values.device)
    return centroids, nearest(values, centroids)


class GatherCodebook(torch.autograd.Function):
    """W = C[index]. Its gradient: each centroid collects those of its weights, dL/dC_k = sum of dL/dW_i, index_i = k.

    autograd finds the same; written out, it is the paper's formula, and the sums can be taken in float64: half a
    million small numbers added up in float32 lose two digits.
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
    """An nn.Linear or nn.Embedding whose weights share K values, to train those: the third step of Deep Compression.

        W = codebook[indices],    trained: codebook (K,) and the bias; indices stay

    A centroid that is 0 stays 0. module: what it stands for    codebook, indices: from kmeans(module.weight, K)
    """

    def __init__(self, module, codebook, indices):
        super().__init__()
        self.is_embedding, self.bias = isinstance(module, nn.Embedding), getattr(module, "bias", None)
        trained = getattr(getattr(module, "weight", None), "requires_grad", True)  # --freeze holds for clusters too
        self.codebook = nn.Parameter(codebook.clone(), requires_grad=trained)
        self.register_buffer("indices", indices)
        self.register_buffer("free", (codebook != 0).float())

    @property
    def weight(self):
        return gather_codebook(self.codebook * self.free, self.indices)

    def forward(self, x):
        if self.is_embedding:  # only the rows that are looked up
            return gather_codebook(self.codebook * self.free, self.indices[x])
        return F.linear(x, self.weight, self.bias)

    def to_stored(self):
        """The ClusteredMatrix with these numbers."""
        return ClusteredMatrix.from_codes(self, (self.codebook * self.free).detach(), self.indices)


def store_clusters(module, k=16, init="linear"):
    """The ClusteredMatrix of an nn.Linear or nn.Embedding, without training."""
    return ClusteredWeights(module, *kmeans(module.weight, k, init)).to_stored()


def whole_bits(num_clusters):
    """How many bits an index takes before the entropy coding: a byte holds whole indices."""
    return 4 if num_clusters <= 16 else 8


def encode_clusters(codebook, indices):
    """Centroids (K,) and the index of each weight's (n,) -> uint8 (bytes,), entropy coded.

        deflate( bitmap of the weights that are not 0, if the code book has a 0 | packed indices of those weights )

    Deflate gives frequent bytes short codes; its search for repetitions, of which there are none, is off. Without the
    bitmap a zero would take half a bit or more. Bits a weight for normal weights (and the entropy of their indices):

        K = 16: 3.79 (3.76)      half of them 0: 2.82 (2.80)      nine tenths: 0.84 (0.83)
        K = 256: 7.98 (7.97)                     4.99 (4.98)                   1.28 (1.27)
    """
    indices, bitmap = indices.flatten(), indices.new_empty(0, dtype=torch.uint8)
    if (codebook == 0).any():
        used = lookup(codebook, indices) != 0
        indices, bitmap = indices[used], pack_bits(used)
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    stream = coder.compress(bitmap.cpu().numpy().tobytes()) + coder.flush(zlib.Z_SYNC_FLUSH)  # each part its own code
    packed = pack_codes(indices.byte(), whole_bits(len(codebook)))
    stream += coder.compress(packed.cpu().numpy().tobytes()) + coder.flush()
    return torch.frombuffer(bytearray(stream), dtype=torch.uint8).to(codebook.device)


def decode_clusters(codebook, stream, count):
    """The other way round -> indices uint8 (count,)."""
    coder = zlib.decompressobj()
    try:
        payload = coder.decompress(stream.cpu().numpy().tobytes(), max_length=2 * count + 2)
    except zlib.error as error:
        raise UserError(f"damaged: the cluster indices do not unpack ({error})") from None
    if not coder.eof or coder.unused_data:
        raise UserError(f"damaged: the cluster indices of {count} weights are cut off or too long")
    payload = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    used, size = torch.ones(count, dtype=torch.bool), math.ceil(count / 8)
    if (codebook == 0).any():
        used, payload = unpack_codes(payload[:size], 1, count).bool(), payload[size:]
    codes = unpack_codes(payload, whole_bits(len(codebook)), int(used.sum()))
    if len(codes) and int(codes.max()) >= len(codebook):
        raise UserError(f"damaged: cluster index {int(codes.max())}, but there are {len(codebook)} clusters")
    zero = int((codebook == 0).int().argmax())
    return torch.full((count,), zero, dtype=torch.uint8).masked_scatter_(used, codes).to(codebook.device)


class ClusteredMatrix(StoredMatrix):
    """Weights that share K values: a code book and, for each weight, an index into it (Han et al., arXiv:1510.00149).

        w = codebook[index],    index: Huffman coded, see `encode_clusters`

    The number of bytes is known only with the weights: the form is "clusters:K:BYTES". Exact zeros stay zero if
    the code book has a 0, and cost next to nothing where they are many. quantization.kmeans finds the centroids.
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
        return finite(lookup(self.codebook, indices).view(self.shape))
