"""Training while single weights become zero."""

import math

import torch

from pocketbert.errors import UserError
from pocketbert.pruning.weights import keep_highest, masks_from_scores


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
            raise UserError(f"{frozen[0]} is frozen: sparse training moves every pruned matrix (--freeze 0)")
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
