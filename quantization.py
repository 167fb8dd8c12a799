"""Fewer bits a weight: the arithmetic that chooses the numbers which the forms of layers.py store.

    layer = store_groups(linear, bits=4, group_size=64)                     round to nearest
    moments = input_moments(model, texts, names)                            what the inputs of each matrix look like
    layer = store_groups(linear, bits=4, group_size=64, hessian=moments[name])                 GPTQ
    layer = store_clusters(linear, 16)                                      k-means: 16 values a matrix

Weights are shared or rounded; activations stay fp32. The clusters can be trained further (`ClusteredWeights`), as in
Deep Compression (Han et al. 2015, arXiv:1510.00149): prune, share, train the shared values, Huffman code.
"""


import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import layers
from encoder import listen

# 1. Rounding to a grid: groups of columns ----------------------------------------------------------------


def float16_above(x):
    """The smallest float16 that is not below x, element for element."""
    half = x.half()
    # The neighbour of a float is its bit pattern plus 1; towards zero, minus 1.
    neighbour = (half.view(torch.int16) + torch.where(x > 0, 1, -1).to(torch.int16)).view(torch.float16)
    return torch.where(half.float() < x, neighbour, half)


def group_grid(groups, bits):
    """The grid of each group of weights (..., size): 2^bits points from `low` in steps of `scale`, both (...,) float16.

        scale = (max - low) / (2^bits - 1),    low = min

    Both are rounded so that the grid still reaches from the smallest weight to the largest: then no weight is farther
    than scale / 2 from a point. A range too small for float16 gets its smallest step, 2^-24; a group of zeros, or of
    any other one float16, gets the step 0 and is exact.
    """
    if not groups.abs().max() <= 65504:  # also true for NaN
        raise ValueError(f"weights up to {groups.abs().max():.3g} do not fit a grid in float16 (at most 65504): "
                         "store this matrix as nf4, clusters or bfloat16")
    low = -float16_above(-groups.amin(dim=-1))
    return float16_above((groups.amax(dim=-1) - low.float()) / (2 ** bits - 1)), low


def nearest_codes(weight, scale, low, bits):
    """The points of the grid next to the weights: round((w - low) / scale), uint8. scale, low: float32, broadcast."""
    return ((weight - low) / scale.clamp(min=2 ** -24)).round().clamp(0, 2 ** bits - 1).byte()


def round_to_nearest(weight, bits, group_size):
    """(rows, columns) -> codes uint8 (rows, columns), scale and low float16 (rows, groups). No data needed.

        w ~ low[group] + scale[group] * code,    |error| <= scale / 2

    A group is `group_size` consecutive columns of one row; the last one of a row may be shorter.
    """
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % group_size), mode="replicate")  # copies move neither minimum nor maximum
    scale, low = group_grid(padded.view(rows, -1, group_size), bits)
    return nearest_codes(weight, *layers.spread(scale, low, group_size, columns), bits), scale, low


def input_moments(model, texts, names):
    """{name: H (in, in) float64}: H = 2 / N * sum x x^T over the N real tokens that reach each named nn.Linear.

    texts: batches with .input_ids and .attention_mask; a few hundred texts do. One pass for all matrices.
    H is the Hessian of the layer's squared output error |x W^T - x Q^T|^2 for each row of W.
    """
    if others := [name for name in names if not isinstance(model.get_submodule(name), nn.Linear)]:
        raise ValueError(f"{others[0]} is no float nn.Linear: it has no inputs to gather moments of")
    sums, counts = dict.fromkeys(names, 0), dict.fromkeys(names, 0)

    def hear(name, x):
        sums[name] = sums[name] + (x.float().T @ x.float()).double()
        counts[name] += len(x)

    listen(model, texts, {name: model.get_submodule(name) for name in names}, hear)
    if not all(counts.values()):
        raise ValueError("no texts to calibrate with: give a few hundred")
    return {name: 2 / counts[name] * sums[name] for name in names}


@torch.no_grad()
def gptq(weight, hessian, bits, group_size, damping=0.01):
    """GPTQ (Frantar et al. 2022, arXiv:2210.17323, algorithm 1): round, and let the later columns make up for it.

    Rounding column j leaves the error e in the output. Since inputs are correlated, moving the columns to its right,
    which are not rounded yet, cancels the most of it, in closed form:

        W[:, j:] -= e * U[j, j:],    e = (W[:, j] - Q[:, j]) / U[j, j],    U^T U = (H + damping * mean(diag H) I)^-1

    with U upper triangular (Cholesky). hessian: from input_moments. Returns what round_to_nearest returns, with the
    same number of bits and a smaller `layer_error`; where H is diagonal there is nothing to cancel: the same codes.

    Columns go from left to right, in blocks of one group; a group's grid is made when its turn comes, for the weights
    as they are by then. The paper's later option to start with the loudest columns would need grids made beforehand,
    since a group of our form is consecutive columns. An input that never spoke (H_jj = 0) is rounded to nearest;
    the reference sets its weights to 0, but another text may use it.
    """
    W, H = weight.detach().float().clone(), hessian.double().clone()
    diagonal = H.diagonal()
    silent = diagonal == 0
    diagonal += damping * diagonal.mean() + silent  # the 1 for silent inputs makes H invertible, and changes no other
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        U = torch.linalg.cholesky(inverse, upper=True).float()
    except torch.linalg.LinAlgError:
        raise ValueError(f"the Hessian is not positive definite with damping {damping}: raise it, or calibrate with "
                         "more texts") from None
    codes, scales, lows = torch.empty_like(W, dtype=torch.uint8), [], []
    for start in range(0, W.shape[1], group_size):
        block = slice(start, start + group_size)
        w, u, errors = W[:, block].T.contiguous(), U[block, block], []  # (columns, rows): a column lies together
        scale, low = group_grid(W[:, block], bits)
        scales.append(scale)
        lows.append(low)
        scale, low = scale.float(), low.float()
        for j in range(len(w)):
            code = nearest_codes(w[j], scale, low, bits)
            codes[:, start + j] = code
            errors.append((w[j] - (low + scale * code)) / u[j, j])
            w[j + 1:] -= u[j, j + 1:, None] * errors[-1]
        W[:, block.stop:] -= torch.stack(errors, dim=1) @ U[block, block.stop:]  # the columns of later blocks, at once
    return codes, torch.stack(scales, dim=1), torch.stack(lows, dim=1)


@torch.no_grad()
def layer_error(weight, approximation, hessian):
    """tr(E H E^T) / tr(W H W^T), E = W - Q: the squared error of a layer's outputs, bias apart, over their square."""
    W, E, H = weight.double(), weight.double() - approximation.double(), hessian.double()
    return float(((E @ H) * E).sum() / ((W @ H) * W).sum())


def store_groups(module, bits=4, group_size=64, hessian=None):
    """The GroupMatrix of an nn.Linear or nn.Embedding: GPTQ with a Hessian, round to nearest without."""
    weight = module.weight.detach().float()
    chosen = (round_to_nearest(weight, bits, group_size) if hessian is None
              else gptq(weight, hessian, bits, group_size))
    return layers.GroupMatrix.from_codes(module, *chosen, bits, group_size)


# 2. Sharing values: k-means -------------------------------------------------------------------------------


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
        raise ValueError(f"init {init!r} is not one of linear, density, kmeans++")
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
    edges = torch.searchsorted(ordered, layers.middles(centroids).float(), right=True)
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
        raise ValueError(f"{k} clusters: 1 to 256 are possible")
    values = layers.finite(values.detach().float())
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
    return centroids, layers.nearest(values, centroids)


class GatherCodebook(torch.autograd.Function):
    """W = C[index]. Its gradient: each centroid collects those of its weights, dL/dC_k = sum of dL/dW_i, index_i = k.

    autograd finds the same; written out, it is the paper's formula, and the sums can be taken in float64: half a
    million small numbers added up in float32 lose two digits.
    """

    @staticmethod
    def forward(ctx, codebook, indices):
        ctx.save_for_backward(indices)
        ctx.k = len(codebook)
        return layers.lookup(codebook, indices)

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
        self.table, self.bias = isinstance(module, nn.Embedding), getattr(module, "bias", None)
        trained = getattr(getattr(module, "weight", None), "requires_grad", True)  # --freeze holds for clusters too
        self.codebook = nn.Parameter(codebook.clone(), requires_grad=trained)
        self.register_buffer("indices", indices)
        self.register_buffer("free", (codebook != 0).float())

    @property
    def weight(self):
        return gather_codebook(self.codebook * self.free, self.indices)

    def forward(self, x):
        if self.table:  # only the rows that are looked up
            return gather_codebook(self.codebook * self.free, self.indices[x])
        return F.linear(x, self.weight, self.bias)

    def to_stored(self):
        """The ClusteredMatrix with these numbers."""
        return layers.ClusteredMatrix.from_codes(self, (self.codebook * self.free).detach(), self.indices)


def store_clusters(module, k=16, init="linear"):
    """The ClusteredMatrix of an nn.Linear or nn.Embedding, without training."""
    return ClusteredWeights(module, *kmeans(module.weight, k, init)).to_stored()
