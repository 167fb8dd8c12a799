"""GPTQ: rounding in which the later columns make up for the earlier ones."""

import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.hooks import record_inputs
from pocketbert.quantization.groups import GroupMatrix, group_grid, nearest_codes, round_to_nearest


def input_hessians(model, texts, names):
    """{name: H (in, in) float64}: H = 2 / N * sum x x^T over the N real tokens that reach each named nn.Linear.

    texts: batches with .input_ids and .attention_mask; a few hundred texts do. One pass for all matrices.
    H is the Hessian of the layer's squared output error |x W^T - x Q^T|^2 for each row of W.
    """
    if others := [name for name in names if not isinstance(model.get_submodule(name), nn.Linear)]:
        raise UserError(f"{others[0]} is no float nn.Linear: it has no inputs to gather moments of")
    sums, counts = dict.fromkeys(names, 0), dict.fromkeys(names, 0)

    def hear(name, x):
        sums[name] = sums[name] + (x.float().T @ x.float()).double()
        counts[name] += len(x)

    record_inputs(model, texts, {name: model.get_submodule(name) for name in names}, hear)
    if not all(counts.values()):
        raise UserError("no texts to calibrate with: give a few hundred")
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
        raise UserError(f"the Hessian is not positive definite with damping {damping}: raise it, or calibrate with "
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
    return GroupMatrix.from_codes(module, *chosen, bits, group_size)
