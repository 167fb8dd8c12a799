"""Unstructured sparsity: which single weights may become zero, and how to train while they do.

    scores = magnitude_scores(model)              {name: how much each weight matters}
    masks = masks_from_scores(scores, 0.5)        {name: True stays, False goes}
    apply_masks(model, masks)                     one shot; or little by little, in any training loop:

    sparsifier = GradualMagnitude(prunable(model), steps, sparsity=0.9)
    for batch in ...:
        loss.backward()
        sparsifier.before_step()    # movement pruning and RigL look at the gradient, also of zeroed weights
        optimizer.step(loss)
        sparsifier.after_step()     # new masks if they are due; what is pruned is exactly zero again

The weights are really zero after every step: there is nothing to bake in and nothing extra in the state dict.
`sparsity` is the share that goes. Zeros save bytes (`store_sparse`), not time: dense kernels multiply by them.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

import layers
from encoder import listen


def prunable(model, embeddings=False, head=False):
    """{name: module} whose weights may go: the encoder's matrices. LayerNorms and biases never, the rest if asked."""
    modules = {name: module for name, module in model.named_modules()
               if isinstance(module, nn.Linear) and (head or not name.startswith("head."))
               or isinstance(module, nn.Embedding) and embeddings}
    if not modules:
        raise ValueError("there are no fp32 matrices to prune: start from the fp32 parent; of an LSTM or GRU, whose "
                         "matrices are torch's own, prune the words: --also embeddings")
    return modules


def sparsity_of(model, **asked):
    """The share of zeros among the weights that may be pruned."""
    weights = [module.weight for module in prunable(model, **asked).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


# 1. How much does each weight matter?  model, texts -> {name: scores like the weight} --------------------

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
        raise ValueError(f"Wanda has no activations for {tables[0]}: prune embeddings by magnitude")
    squares = dict.fromkeys(modules, 0)

    def hear(name, x):
        squares[name] = squares[name] + x.double().square().sum(dim=0)

    listen(model, texts, modules, hear)
    return {name: total.sqrt().float() for name, total in squares.items()}


# 2. Which ones stay?  scores -> {name: mask}, True stays -------------------------------------------------

def keep_highest(scores, keep):
    """A mask (rows, n) of exactly the `keep` highest scores of each row; of equal scores the first ones stay."""
    if scores.isnan().any():
        raise ValueError("the scores hold NaN: are the weights, or the texts' activations, still finite?")
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
        raise ValueError(f"sparsity {sparsity} is not between 0 and 1: it is the share of weights that goes")

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
        raise ValueError(f"{n}:{m} is not a pattern: n of every m stay, 0 < n <= m")

    def pattern(s):
        padded = F.pad(s, (0, -s.shape[1] % m), value=-math.inf)
        return keep_highest(padded.reshape(-1, m), n).view_as(padded)[:, :s.shape[1]]

    return {name: pattern(s) for name, s in scores.items()}


@torch.no_grad()
def apply_masks(model, masks):
    """Write zeros where the masks are False, in place."""
    for name, mask in masks.items():
        model.get_submodule(name).weight.masked_fill_(~mask, 0)  # weight * mask would leave -0.0, which is stored


# 3. How do the others adapt?  The formulas of sparse training --------------------------------------------

def cubic_sparsity(step, start, end, initial=0.0, final=0.9):
    """Prune fast while many weights are idle, slowly when few are left (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1).

        s(t) = final + (initial - final) * (1 - (t - start) / (end - start))^3,   start <= t <= end
    """
    progress = min(1.0, max(0.0, (step - start) / max(1, end - start)))
    return final + (initial - final) * (1 - progress) ** 3


def movement_gradient(weight_gradient, weight):
    """dL/dS = dL/dW' * W (Sanh et al. 2020, arXiv:2005.07683, eq. 3), for W' = W * mask(S).

    "Straight-through": the mask's step is taken for the identity, as if W' were W * S. A gradient step then raises
    S where training moves a weight away from zero, also where it is masked now, so that it can come back.
    """
    return weight_gradient * weight


def cosine_fraction(step, end, alpha=0.3):
    """Which share of the living weights RigL exchanges: alpha / 2 * (1 + cos(pi t / T)), 0 from T on."""
    return alpha / 2 * (1 + math.cos(math.pi * min(step / end, 1)))


def drop_and_grow(weight, mask, gradient, fraction):
    """RigL's exchange at a fixed number of weights (Evci et al. 2020, arXiv:1911.11134, algorithm 1).

    drop the `fraction` of the living weights with the smallest |weight|; grow as many of all others (those just
    dropped included), with the largest |gradient|, from 0.    Returns (new weight, new mask).
    """
    living, exchanged = int(mask.sum()), round(fraction * int(mask.sum()))
    kept = keep_highest(weight.abs().masked_fill(~mask, -1).reshape(1, -1), living - exchanged).view_as(mask)
    grown = keep_highest(gradient.abs().masked_fill(kept, -1).reshape(1, -1), exchanged).view_as(mask)
    return weight.masked_fill(~kept, 0), kept | grown


# Sparse training: one small object a method, the same two calls in the loop ------------------------------

class FixedMasks:
    """What is zero stays zero: fine-tuning after pruning in one shot. Without masks it does nothing."""

    def __init__(self, modules, masks):
        self.weights = {name: modules[name].weight for name in masks}
        self.masks = masks

    def at_target(self):
        """Is the asked sparsity reached? Before, a good validation score says nothing about the result."""
        return True

    def before_step(self):
        """Between loss.backward() and the optimizer."""

    @torch.no_grad()
    def after_step(self):
        """After the optimizer: zeros where the masks are False."""
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.masks[name], 0)


class GradualMagnitude(FixedMasks):
    """Prune the smallest weights little by little while the others learn (Zhu and Gupta 2017, arXiv:1710.01878).

    The schedule runs from a tenth of the steps to three quarters, the rest is recovery (practice, not the paper's).
    modules: from `prunable`    steps: batches of the whole training    every: batches between two new masks
    """

    def __init__(self, modules, steps, sparsity, scope="global", every=10):
        super().__init__(modules, {name: torch.ones_like(m.weight, dtype=torch.bool) for name, m in modules.items()})
        if frozen := [name for name, weight in self.weights.items() if not weight.requires_grad]:
            raise ValueError(f"{frozen[0]} is frozen: sparse training moves every pruned matrix (--freeze 0)")
        self.sparsity, self.scope, self.every = sparsity, scope, every
        self.step, self.start, self.end = 0, round(0.1 * steps), max(1, round(0.75 * steps))

    def at_target(self):
        return self.step >= self.end

    @torch.no_grad()
    def after_step(self):
        """After the optimizer: new masks if they are due, and zeros where they are False."""
        self.step += 1
        if self.start <= self.step <= self.end and (self.step % self.every == 0 or self.step == self.end):
            self.masks = self.new_masks()
        super().after_step()

    def new_masks(self):
        sparsity = cubic_sparsity(self.step, self.start, self.end, final=self.sparsity)
        return masks_from_scores(self.scores(), sparsity, self.scope)

    def scores(self):
        return {name: weight.abs() for name, weight in self.weights.items()}


class Movement(GradualMagnitude):
    """Keep the weights that training moves away from zero (Sanh et al. 2020, arXiv:2005.07683), hard masks.

        W' = W * top_k(S),    dL/dS = dL/dW' * W,    dL/dW = dL/dW' where the mask is True, else 0

    The model holds W', so loss.backward() gives dL/dW' of every weight; W and S are kept here. S has an Adam of its
    own, with a constant learning rate and no decay. The paper starts S at 0 and trains for 10 epochs and more; a short
    run from a fine-tuned model would then prune blindly before S has learnt, and collapses (demo, 300 steps: macro-F1
    0.17 against 0.86). So S starts at head_start * |W| / mean|W|, the order of magnitude pruning; 0 is the paper's.
    """

    def __init__(self, modules, steps, sparsity, scope="layer", every=10, score_lr=1e-2, head_start=1.0):
        super().__init__(modules, steps, sparsity, scope, every)
        self.dense = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.S = {name: (head_start * W.abs() / W.abs().mean()).requires_grad_() for name, W in self.dense.items()}
        self.adam = torch.optim.Adam(self.S.values(), lr=score_lr)

    def before_step(self):
        if self.step < self.end:
            for name, weight in self.weights.items():
                self.S[name].grad = movement_gradient(weight.grad, self.dense[name]) + self.penalty(name)
            self.adam.step()

    def penalty(self, name):
        return 0

    @torch.no_grad()
    def after_step(self):
        for name, weight in self.weights.items():  # only living weights learn; those that come back are as they were
            self.dense[name] = torch.where(self.masks[name], weight, self.dense[name])
            weight.copy_(self.dense[name])
        super().after_step()

    def scores(self):
        return {name: S.detach() for name, S in self.S.items()}


class SoftMovement(Movement):
    """Movement pruning with a threshold in place of a count: mask = sigmoid(S) > tau (the paper's section 4.2).

    A penalty, strength * (mean over matrices of mean sigmoid(S)), pulls all scores down; the loss holds up those it
    needs. tau and penalty rise by the cubic schedule. There is no budget: strength and score_lr * steps decide.
    """

    def __init__(self, modules, steps, strength=400.0, tau=0.1, every=10, score_lr=1e-2, head_start=1.0):
        super().__init__(modules, steps, None, every=every, score_lr=score_lr, head_start=head_start)
        self.strength, self.tau = strength, tau

    def ramp(self):
        return cubic_sparsity(self.step, self.start, self.end, final=1.0)

    def penalty(self, name):
        p = torch.sigmoid(self.S[name].detach())
        return self.strength * self.ramp() * p * (1 - p) / (p.numel() * len(self.S))

    def new_masks(self):
        return {name: torch.sigmoid(S) > self.tau * self.ramp() for name, S in self.scores().items()}


class RigL(GradualMagnitude):
    """Sparse from the first step to the last; now and then the weakest weights change places (Evci et al. 2020).

    masks: where to start, e.g. masks_from_scores(magnitude_scores(model), 0.9). Each matrix keeps its own count.
    """

    def __init__(self, modules, steps, masks, every=50, alpha=0.3):
        super().__init__(modules, steps, sparsity=None, every=every)
        self.masks, self.alpha = dict(masks), alpha
        for name, weight in self.weights.items():
            weight.data.masked_fill_(~masks[name], 0)

    def at_target(self):
        return True

    @torch.no_grad()
    def before_step(self):
        if 0 < self.step < self.end and self.step % self.every == 0:
            fraction = cosine_fraction(self.step, self.end, self.alpha)
            for name, weight in self.weights.items():
                weight.data, self.masks[name] = drop_and_grow(weight, self.masks[name], weight.grad, fraction)

    def new_masks(self):
        return self.masks


# 4. Into the file, and back to plain matrices ------------------------------------------------------------

def store_sparse(model):
    """A copy whose matrices are bitmap + values (layers.SparseLinear) where that takes fewer bytes; same logits."""
    model = copy.deepcopy(model).eval()
    for name, linear in prunable(model, embeddings=True, head=True).items():
        sparse = layers.SparseLinear.from_float(linear)
        if sparse.bitmap.numel() + 4 * sparse.values.numel() < 4 * linear.weight.numel():
            layers.replace_module(model, name, sparse)
            model.config.stored_forms[name] = f"sparse_linear:{sparse.values.numel()}"
    return model


def to_dense(model, quiet=False):
    """The model with plain nn.Linear matrices, zeros and all, for what wants floats: training, export, cutting."""
    if not isinstance(model, nn.Module):
        raise ValueError("this is an exported graph, which can only be run: take the model that it was made from")
    sparse = [name for name, module in model.named_modules() if isinstance(module, layers.SparseLinear)]
    if not sparse:
        return model
    if not quiet:
        print(f"{len(sparse)} sparse matrices are dense from here on: their zeros may become other numbers")
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, layers.SparseLinear):
            layers.replace_module(model, name, layers.to_float(module))
            del model.config.stored_forms[name]
    return model
