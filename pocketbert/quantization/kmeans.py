"""k-means of single numbers: the K values that stand for all weights of a matrix.

    minimise over the centroids c:    sum_i min_k (w_i - c_k)^2                        (Lloyd 1982)
"""

import numpy as np
import torch
import torch.nn.functional as F

from pocketbert.models.stored import finite
from pocketbert.quantization.blockwise import midpoints, nearest


def initial_centroids(ordered, k):
    """k starting points for ascending values (n,) float32: evenly spaced from the smallest to the largest, float64.

    Deep Compression found this start better than random values or equal shares (Han et al. 2016, arXiv:1510.00149,
    section 3.2): the few large weights, which matter most, get centroids of their own.
    """
    smallest, largest = ordered[[0, -1]].double()
    return torch.linspace(0, 1, k, dtype=torch.float64) * (largest - smallest) + smallest


def lloyd_step(centroids, ordered, sums, squares):
    """Assign each value to its nearest centroid, then move each centroid to the mean of its values.

    centroids: (k,) float64, ascending    ordered: the ascending values (n,) float32    -> (k,), ascending
    sums, squares: (n + 1,) float64, cumulative sums of the values and of their squares, from 0

    On a line a cluster is an interval, so a step is k binary searches and k differences of cumulative sums, however
    many values there are. A centroid without values moves to the upper end of the cluster with the largest squared
    error; two such centroids move to the two worst clusters, and so on.
    """
    edges = torch.searchsorted(ordered, midpoints(centroids).float(), right=True)
    edges = F.pad(F.pad(edges, (1, 0)), (0, 1), value=len(ordered))  # cluster i is ordered[edges[i]:edges[i + 1]]
    counts = edges.diff()
    totals = sums[edges].diff()
    means = torch.where(counts > 0, totals / counts.clamp(min=1), centroids)
    empty = counts == 0
    if empty.any():
        errors = squares[edges].diff() - totals * means
        worst = errors.argsort(descending=True)[:int(empty.sum())]
        means[empty] = ordered[edges[worst + 1] - 1].double()
    return means.sort().values


def lloyd(values, k, iterations):
    """Lloyd's algorithm on all values (n,) float32 until no centroid moves -> (k,) float32, ascending."""
    ordered = torch.from_numpy(np.sort(values.cpu().numpy(), axis=None))  # several times faster than torch's sort
    sums = F.pad(ordered.double().cumsum(dim=0), (1, 0))
    squares = F.pad((ordered.double() ** 2).cumsum(dim=0), (1, 0))
    centroids = initial_centroids(ordered, k)
    for _ in range(iterations):
        moved = lloyd_step(centroids, ordered, sums, squares)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.float().to(values.device)


@torch.no_grad()
def kmeans(values, k, iterations=300):
    """1-D k-means: values (...) -> centroids (k,) float32, ascending, and the index of each value's, uint8 (...).

    Exact zeros of a pruned matrix stay zero: if there are more of them than an average cluster holds, one centroid is
    0 and the other k - 1 are fitted to the values that are not.
    """
    if not 1 <= k <= 256:
        raise ValueError(f"{k} clusters: 1 to 256 are possible")
    values = finite(values.detach().float())
    zeros = values == 0
    many_zeros = int(zeros.sum()) * k > values.numel() and not zeros.all()
    if k > 1 and many_zeros:
        centroids = F.pad(lloyd(values[~zeros], k - 1, iterations), (0, 1)).sort().values
    else:
        centroids = lloyd(values, k, iterations)
    return centroids, nearest(values, centroids)
