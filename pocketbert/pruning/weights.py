"""Which single weights may become zero: scores, masks, and the file of a sparse matrix."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.hooks import record_inputs
from pocketbert.models.sparse import SparseLinear
from pocketbert.models.stored import replace_module


def prunable(model, embeddings=False, head=False):
    """{name: module} whose weights may go: the encoder's matrices. LayerNorms and biases never, the rest if asked."""
    modules = {name: module for name, module in model.named_modules()
               if isinstance(module, nn.Linear) and (head or not name.startswith("head."))
               or isinstance(module, nn.Embedding) and embeddings}
    if not modules:
        raise UserError("there are no fp32 matrices to prune: start from the fp32 parent; of an LSTM or GRU, whose "
                         "matrices are torch's own, prune the words: --also embeddings")
    return modules


def sparsity_of(model, **asked):
    """The share of zeros among the weights that may be pruned."""
    weights = [module.weight for module in prunable(model, **asked).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def random_scores(model, texts=None, **asked):
    """Dice: the control."""
    return {name: torch.rand_like(module.weight.detach()) for name, module in prunable(model, **asked).items()}


def magnitude_scores(model, texts=None, **asked):
    """|W_ij|: small weights do little. Blind to their inputs, and hard to beat once training follows."""
    return {name: module.weight.detach().abs() for name, module in prunable(model, **asked).items()}


def wanda_scores(model, texts, **asked):
    """|W_ij| * ||X_j||_2: a small weight on a loud input matters too (Sun et al. 2023, arXiv:2306.11695, eq. 1).

    texts: batches of token ids, 128 texts do. Meant to be compared within each output row (scope "row"): y_i is a
    sum over j alone. No labels, no gradient, no retraining.
    """
    modules = prunable(model, **asked)
    norms = input_norms(model, texts, modules)  # (in,) each
    return {name: module.weight.detach().abs() * norms[name] for name, module in modules.items()}


def input_norms(model, texts, modules):
    """{name: (in,)}: the 2-norm of each input feature of each matrix over all real tokens."""
    if tables := [name for name, module in modules.items() if not isinstance(module, nn.Linear)]:
        raise UserError(f"Wanda has no activations for {tables[0]}: prune embeddings by magnitude")
    squares = dict.fromkeys(modules, 0)

    def hear(name, x):
        squares[name] = squares[name] + x.double().square().sum(dim=0)

    record_inputs(model, texts, modules, hear)
    return {name: total.sqrt().float() for name, total in squares.items()}


def keep_highest(scores, keep):
    """A mask (rows, n) of exactly the `keep` highest scores of each row; of equal scores the first ones stay."""
    if scores.isnan().any():
        raise UserError("the scores hold NaN: are the weights, or the texts' activations, still finite?")
    threshold = scores.kthvalue(scores.shape[1] - max(keep, 1) + 1, dim=1, keepdim=True).values
    higher, tied = scores > threshold, scores == threshold
    seats = keep - higher.sum(dim=1, keepdim=True)
    return higher | tied & (tied.cumsum(dim=1, dtype=torch.int32) <= seats)


def masks_from_scores(scores, sparsity, scope="global"):
    """Silence the weights with the lowest scores: exactly round(sparsity * n) of every n that compete.

    scope: "global", all weights compete and layers come out uneven; "layer", those of one matrix; "row", those of
    one output neuron (Wanda).
    """
    if not 0 <= sparsity <= 1:
        raise UserError(f"sparsity {sparsity} is not between 0 and 1: it is the share of weights that goes")

    def keep_share(rows):
        return keep_highest(rows, rows.shape[1] - round(sparsity * rows.shape[1]))

    if scope in ("row", "layer"):
        return {name: keep_share(s if scope == "row" else s.reshape(1, -1)).view_as(s) for name, s in scores.items()}
    assert scope == "global", scope
    mask = keep_share(torch.cat([s.flatten() for s in scores.values()])[None])[0]
    parts = zip(scores.items(), mask.split([s.numel() for s in scores.values()]), strict=True)
    return {name: part.view_as(s) for (name, s), part in parts}


def n_of_m_masks(scores, n=2, m=4):
    """In every m consecutive inputs of a row the n with the highest scores stay (Mishra et al. 2021, arXiv:2104.08378).

    GPUs since Ampere have kernels for 2:4, CPUs have none. A row's last group may be shorter; it keeps up to n.
    """
    if not 0 < n <= m:
        raise UserError(f"{n}:{m} is not a pattern: n of every m stay, 0 < n <= m")

    def pattern(s):
        padded = F.pad(s, (0, -s.shape[1] % m), value=-math.inf)
        return keep_highest(padded.reshape(-1, m), n).view_as(padded)[:, :s.shape[1]]

    return {name: pattern(s) for name, s in scores.items()}


@torch.no_grad()
def apply_masks(model, masks):
    """Write zeros where the masks are False, in place."""
    for name, mask in masks.items():
        model.get_submodule(name).weight.masked_fill_(~mask, 0)  # weight * mask would leave -0.0, which is stored


def store_sparse(model):
    """A copy whose matrices are bitmap + values (layers.SparseLinear) where that takes fewer bytes; same logits."""
    model = copy.deepcopy(model).eval()
    for name, linear in prunable(model, embeddings=True, head=True).items():
        sparse = SparseLinear.from_float(linear)
        if sparse.bitmap.numel() + 4 * sparse.values.numel() < 4 * linear.weight.numel():
            replace_module(model, name, sparse)
            model.config.stored_formats[name] = f"sparse_linear:{sparse.values.numel()}"
    return model
