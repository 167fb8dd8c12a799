"""Single weights: scores, masks, and a model whose matrices are stored sparse."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.hooks import record_inputs
from pocketbert.models.sparse import SparseLinear
from pocketbert.models.stored import replace_module

PARTS = ("embeddings", "head")  # are pruned only if they are included by name


def prunable(model, include=()):
    """{name: module} of the matrices whose weights can be pruned: those of the encoder. Never LayerNorms and biases.

    include: of PARTS, what is pruned besides
    """
    modules = {}
    for name, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding) and "embeddings" in include
        is_matrix = isinstance(module, nn.Linear) and ("head" in include or not name.startswith("head."))
        if is_table or is_matrix:
            modules[name] = module
    if not modules:
        raise UserError("there are no fp32 matrices to prune: start from the fp32 parent; of an LSTM or GRU, whose "
                        "matrices are torch's own, prune the word vectors: --include embeddings")
    return modules


def sparsity_of(model, include=()):
    """The share of zeros among the weights that can be pruned."""
    weights = [module.weight for module in prunable(model, include).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


# ---- scores: (model, batches, include) -> {name: a score for each weight} ----------------------------------

def random_scores(model, batches=None, include=()):
    """Random numbers: the control."""
    return {name: torch.rand_like(module.weight.detach()) for name, module in prunable(model, include).items()}


def magnitude_scores(model, batches=None, include=()):
    """|W_ij|: small weights contribute little. It ignores the inputs, and is hard to beat if training follows."""
    return {name: module.weight.detach().abs() for name, module in prunable(model, include).items()}


def wanda_scores(model, batches, include=()):
    """|W_ij| * ||X_j||_2: a small weight on a large input matters too (Sun et al. 2023, arXiv:2306.11695, eq. 1).

    batches: of token ids; 128 texts are enough. Compare the scores within each output row (scope "row"), because
    y_i is a sum over j. No labels, no gradients and no training are needed.
    """
    modules = prunable(model, include)
    norms = input_norms(model, batches, modules)  # (in,) each
    return {name: module.weight.detach().abs() * norms[name] for name, module in modules.items()}


def input_norms(model, batches, modules):
    """{name: (in,)}: the 2-norm of each input feature of each matrix over all tokens, padding left out."""
    tables = [name for name, module in modules.items() if not isinstance(module, nn.Linear)]
    if tables:
        raise UserError(f"Wanda has no activations for {tables[0]}: prune embeddings by magnitude")
    squares = dict.fromkeys(modules, 0)

    def add_squares(name, x):
        x = x.cpu() if x.device.type == "mps" else x  # has no float64
        squares[name] = squares[name] + x.double().square().sum(dim=0)

    record_inputs(model, batches, modules, add_squares)
    return {name: squares[name].sqrt().to(module.weight.device, torch.float32) for name, module in modules.items()}


# ---- masks: True keeps a weight, False makes it zero --------------------------------------------------------

def keep_highest(scores, keep):
    """A mask (rows, n) of exactly the `keep` highest scores of each row; of equal scores the first ones stay."""
    if scores.isnan().any():
        raise UserError("the scores hold NaN: are the weights, or the texts' activations, still finite?")
    threshold = scores.kthvalue(scores.shape[1] - max(keep, 1) + 1, dim=1, keepdim=True).values
    higher, tied = scores > threshold, scores == threshold
    places_left = keep - higher.sum(dim=1, keepdim=True)
    return higher | tied & (tied.cumsum(dim=1, dtype=torch.int32) <= places_left)


def masks_from_scores(scores, sparsity, scope="global"):
    """Masks that drop the lowest scores: exactly round(sparsity * n) of every n weights that are ranked together.

    scope: "global" ranks the weights of all matrices together, "layer" those of one matrix, "row" those of one
    output neuron (Wanda).
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity} is not between 0 and 1: it is the share of weights that goes")

    def keep_share(rows):
        return keep_highest(rows, rows.shape[1] - round(sparsity * rows.shape[1]))

    if scope == "row":
        return {name: keep_share(s) for name, s in scores.items()}
    if scope == "layer":
        return {name: keep_share(s.reshape(1, -1)).view_as(s) for name, s in scores.items()}
    assert scope == "global", scope
    mask = keep_share(torch.cat([s.flatten() for s in scores.values()])[None])[0]
    parts = mask.split([s.numel() for s in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def n_of_m_masks(scores, n=2, m=4):
    """In every m consecutive inputs of a row the n with the highest scores stay (Mishra et al. 2021, arXiv:2104.08378).

    GPUs since Ampere have kernels for 2:4, CPUs have none. The last group of a row may be shorter and keeps up to n.
    """
    if not 0 < n <= m:
        raise ValueError(f"{n}:{m} is not a pattern: n of every m stay, 0 < n <= m")

    def pattern(s):
        padded = F.pad(s, (0, -s.shape[1] % m), value=-math.inf)
        return keep_highest(padded.reshape(-1, m), n).view_as(padded)[:, :s.shape[1]]

    return {name: pattern(s) for name, s in scores.items()}


ONE_SHOT = {"magnitude": magnitude_scores, "wanda": wanda_scores, "random": random_scores}


def one_shot_masks(method, model, batches, sparsity, include=()):
    """The masks of a method of ONE_SHOT, or of "2:4", which has a sparsity of 0.5."""
    if method == "2:4":
        return n_of_m_masks(magnitude_scores(model, include=include), n=2, m=4)
    scope = "row" if method == "wanda" else "global"
    return masks_from_scores(ONE_SHOT[method](model, batches, include), sparsity, scope)


@torch.no_grad()
def apply_masks(model, masks):
    """Write zeros where the masks are False, in place."""
    for name, mask in masks.items():
        model.get_submodule(name).weight.masked_fill_(~mask, 0)  # weight * mask would leave -0.0, which is stored


def store_sparse(model):
    """A copy whose matrices are stored as bitmap + values where that takes fewer bytes; the logits are the same."""
    model = copy.deepcopy(model).eval()
    for name, linear in prunable(model, include=PARTS).items():
        sparse = SparseLinear.from_float(linear)
        if sparse.bitmap.numel() + 4 * sparse.values.numel() < 4 * linear.weight.numel():
            replace_module(model, name, sparse)
            model.config.stored_formats[name] = f"sparse_linear:{sparse.values.numel()}"
    return model
