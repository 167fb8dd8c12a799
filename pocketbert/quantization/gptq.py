"""GPTQ: rounding column by column, in which later columns compensate for the errors of earlier ones."""

import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.hooks import record_inputs
from pocketbert.quantization.groups import GroupMatrix, group_grid, nearest_codes, round_to_nearest


def input_hessians(model, batches, names):
    """{name: H (in, in) float64}: H = 2 / N * sum x x^T over the N real tokens that reach each named nn.Linear.

    batches: with .input_ids and .attention_mask; a few hundred texts are enough. One pass for all matrices.
    H is the Hessian of the layer's squared output error |x W^T - x Q^T|^2 for each row of W.
    """
    for name in names:
        if not isinstance(model.get_submodule(name), nn.Linear):
            raise ValueError(f"{name} is not a float nn.Linear: it has no Hessian of its inputs")
    sums = dict.fromkeys(names, 0)
    counts = dict.fromkeys(names, 0)

    def add(name, x):
        sums[name] = sums[name] + (x.float().T @ x.float()).double()
        counts[name] += len(x)

    record_inputs(model, batches, {name: model.get_submodule(name) for name in names}, add)
    if not all(counts.values()):
        raise UserError("no texts to calibrate with: give a few hundred")
    return {name: 2 / counts[name] * sums[name] for name in names}


def inverse_factor(hessian, damping):
    """U (in, in) float32, upper triangular, with U^T U = (H + damping * mean(diag H) I)^-1 (Cholesky).

    An input that is always 0 (H_jj = 0) gets H_jj = 1, which makes H invertible and changes no other column.
    """
    H = hessian.double().clone()
    diagonal = H.diagonal()
    always_zero = diagonal == 0
    diagonal += damping * diagonal.mean() + always_zero
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        return torch.linalg.cholesky(inverse, upper=True).float()
    except torch.linalg.LinAlgError:
        raise UserError(f"the Hessian is not positive definite with damping {damping}: calibrate with more texts "
                        "(--samples)") from None


@torch.no_grad()
def gptq(weight, hessian, bits, group_size, damping=0.01):
    """GPTQ (Frantar et al. 2022, arXiv:2210.17323, algorithm 1): round, and compensate in the later columns.

    Rounding column j leaves an error e in the output. Because inputs are correlated, a change of the columns to its
    right, which are not rounded yet, cancels most of it. The best change has a closed form:

        W[:, j:] -= e * U[j, j:],    e = (W[:, j] - Q[:, j]) / U[j, j],    U from `inverse_factor`

    hessian: from input_hessians. Returns what round_to_nearest returns, with the same number of bits and a smaller
    `layer_error`. Where H is diagonal there is nothing to cancel, and the codes are those of round_to_nearest.

    Columns are rounded from left to right, in blocks of one group. The grid of a group is made when its turn comes,
    for the weights as they are then. The paper's option to start with the columns of the largest inputs would need all
    grids beforehand, because a group here is consecutive columns. The weights of an input that is always 0 in the
    calibration texts are rounded to nearest; the reference code sets them to 0, but another text may use them.
    """
    W = weight.detach().float().clone()
    U = inverse_factor(hessian, damping)
    codes = torch.empty_like(W, dtype=torch.uint8)
    scales = []
    lows = []
    for start in range(0, W.shape[1], group_size):
        block = slice(start, start + group_size)
        scale, low = group_grid(W[:, block], bits)
        scales.append(scale)
        lows.append(low)
        scale = scale.float()
        low = low.float()
        w = W[:, block].T.contiguous()  # (columns, rows): a column is contiguous
        u = U[block, block]
        errors = []
        for j in range(len(w)):
            code = nearest_codes(w[j], scale, low, bits)
            codes[:, start + j] = code
            error = (w[j] - (low + scale * code)) / u[j, j]
            w[j + 1:] -= u[j, j + 1:, None] * error
            errors.append(error)
        W[:, block.stop:] -= torch.stack(errors, dim=1) @ U[block, block.stop:]  # the columns of later blocks, at once
    return codes, torch.stack(scales, dim=1), torch.stack(lows, dim=1)


@torch.no_grad()
def layer_error(weight, approximation, hessian):
    """tr(E H E^T) / tr(W H W^T), E = W - Q: squared error of a layer's outputs relative to their squares, no bias."""
    W = weight.double()
    E = W - approximation.double()
    H = hessian.double()
    return float(((E @ H) * E).sum() / ((W @ H) * W).sum())


def store_groups(module, bits=4, group_size=64, hessian=None):
    """The GroupMatrix of an nn.Linear or nn.Embedding: GPTQ with a Hessian, round to nearest without."""
    weight = module.weight.detach().float()
    if hessian is None:
        codes, scale, low = round_to_nearest(weight, bits, group_size)
    else:
        codes, scale, low = gptq(weight, hessian, bits, group_size)
    return GroupMatrix.from_codes(module, codes, scale, low, bits, group_size)


def gptq_gain(model, stored, hessians, group_size):
    """A line that compares the output errors of GPTQ with those of rounding to nearest, matrix by matrix.

    stored: {name: stored module}    hessians: {name: H} of those in gptq
    """
    ours = []
    rounded = []
    for name, hessian in hessians.items():
        module = model.get_submodule(name)
        ours.append(layer_error(module.weight, stored[name].dequantize(), hessian))
        nearest = store_groups(module, 4, group_size)
        rounded.append(layer_error(module.weight, nearest.dequantize(), hessian))
    better = sum(one < other for one, other in zip(ours, rounded, strict=True))
    return (f"gptq: mean relative error of the outputs {sum(ours) / len(ours):.5f}, rounded to nearest "
            f"{sum(rounded) / len(rounded):.5f}; smaller in {better} of {len(ours)} matrices")
