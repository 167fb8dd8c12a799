"""Training while single weights become zero: gradual magnitude, movement, soft movement, RigL.

A method is an object that the training loop calls around each step of the optimizer:

    loss.backward()
    sparsifier.before_step()
    optimizer.step()
    sparsifier.after_step()     # from here on every weight whose mask is False is zero
"""

import math

import torch

from pocketbert.errors import UserError
from pocketbert.pruning.weights import keep_highest, masks_from_scores

# ---- the formulas ------------------------------------------------------------------------------------------

def cubic_sparsity(step, start, end, initial=0.0, final=0.9):
    """Prune fast while many weights are redundant, slowly when few are left (Zhu and Gupta 2017, arXiv:1710.01878).

        s(t) = final + (initial - final) * (1 - (t - start) / (end - start))^3,   start <= t <= end       (eq. 1)
    """
    progress = min(1.0, max(0.0, (step - start) / max(1, end - start)))
    return final + (initial - final) * (1 - progress) ** 3


def movement_gradient(weight_gradient, weight):
    """dL/dS = dL/dW' * W (Sanh et al. 2020, arXiv:2005.07683, eq. 3), for W' = W * mask(S).

    "Straight-through": the backward pass takes the mask's step for the identity, as if W' were W * S. A gradient step
    then raises S where training moves a weight away from zero, also where the weight is masked now, so that it can
    come back.
    """
    return weight_gradient * weight


def cosine_fraction(step, end, alpha=0.3):
    """The share of the active weights that RigL exchanges: alpha / 2 * (1 + cos(pi t / T)), 0 from T on."""
    return alpha / 2 * (1 + math.cos(math.pi * min(step / end, 1)))


def drop_and_grow(weight, mask, gradient, fraction):
    """RigL's exchange at a fixed number of weights (Evci et al. 2020, arXiv:1911.11134, algorithm 1).

    Drop the `fraction` of the active weights with the smallest |weight|. Grow as many of all others (those just
    dropped included), the ones with the largest |gradient|, from 0.    Returns (new weight, new mask).
    """
    active = int(mask.sum())
    exchanged = round(fraction * active)
    kept = keep_highest(weight.abs().masked_fill(~mask, -1).reshape(1, -1), active - exchanged).view_as(mask)
    grown = keep_highest(gradient.abs().masked_fill(kept, -1).reshape(1, -1), exchanged).view_as(mask)
    return weight.masked_fill(~kept, 0), kept | grown


class Schedule:
    """Counts the steps of the optimizer and says at which of them a method makes new masks.

    From a tenth of the training to three quarters of it, every `every` steps; the rest is recovery. (The two shares
    are from experience, not from a paper.)
    """

    def __init__(self, num_steps, every):
        self.step = 0
        self.start = round(0.1 * num_steps)
        self.end = max(1, round(0.75 * num_steps))
        self.every = every

    def is_due(self):
        in_time = self.start <= self.step <= self.end
        return in_time and (self.step % self.every == 0 or self.step == self.end)

    def is_over(self):
        return self.step >= self.end

    def ramp(self, final=1.0):
        """From 0 at the start to `final` at the end, by the cubic schedule."""
        return cubic_sparsity(self.step, self.start, self.end, final=final)


# ---- the methods -------------------------------------------------------------------------------------------

class FixedMasks:
    """What is zero stays zero: fine-tuning after one-shot pruning. Also the interface of the methods below.

    modules: {name: module} from `prunable`    masks: {name: (out, in) bool}, True keeps a weight
    """

    schedule = None  # a Schedule, in the methods that have one
    scores = None  # MovementScores, likewise

    def __init__(self, modules, masks):
        self.weights = {name: modules[name].weight for name in masks}
        self.masks = dict(masks)

    def at_target(self):
        """Is the requested sparsity reached? Before that, a validation score says nothing about the result."""
        return True

    def before_step(self):
        """Between loss.backward() and optimizer.step()."""

    def after_step(self):
        """After optimizer.step()."""
        self.zero_masked()

    def state_dict(self):
        """What a checkpoint keeps."""
        return {"masks": self.masks, "step": self.schedule and self.schedule.step,
                "scores": self.scores and self.scores.state_dict()}

    def load_state_dict(self, state):
        self.masks = {name: mask.to(self.weights[name].device) for name, mask in state["masks"].items()}
        if self.schedule:
            self.schedule.step = state["step"]
        if self.scores:
            self.scores.load_state_dict(state["scores"])

    @torch.no_grad()
    def zero_masked(self):
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.masks[name], 0)


class GradualMagnitude(FixedMasks):
    """Prune the smallest weights step by step while the others learn (Zhu and Gupta 2017, arXiv:1710.01878).

    num_steps: of the optimizer in the whole training    every: steps between two new masks
    """

    def __init__(self, modules, num_steps, sparsity, every=10):
        super().__init__(modules, all_true(modules))
        self.sparsity = sparsity
        self.schedule = Schedule(num_steps, every)

    def at_target(self):
        return self.schedule.is_over()

    def after_step(self):
        self.schedule.step += 1
        if self.schedule.is_due():
            scores = {name: weight.detach().abs() for name, weight in self.weights.items()}
            self.masks = masks_from_scores(scores, self.schedule.ramp(self.sparsity))
        self.zero_masked()


class Movement(FixedMasks):
    """Keep the weights that training moves away from zero (Sanh et al. 2020, arXiv:2005.07683), hard masks.

        W' = W * top_k(S),    dL/dS = dL/dW' * W,    dL/dW = dL/dW' where the mask is True, else 0

    The paper starts S at 0 and trains for 10 epochs or more. A short run from a fine-tuned model would then prune
    before S has learnt anything (demo, 300 steps: macro-F1 0.17 against 0.86). So S starts at
    head_start * |W| / mean|W|, which is the order of magnitude pruning; head_start=0 is the paper's.
    """

    def __init__(self, modules, num_steps, sparsity, every=10, score_lr=1e-2, head_start=1.0):
        super().__init__(modules, all_true(modules))
        self.sparsity = sparsity
        self.schedule = Schedule(num_steps, every)
        self.scores = MovementScores(self.weights, score_lr, head_start)

    def at_target(self):
        return self.schedule.is_over()

    def before_step(self):
        if not self.schedule.is_over():
            self.scores.step(self.weights)

    def after_step(self):
        self.scores.unmask(self.weights, self.masks)
        self.schedule.step += 1
        if self.schedule.is_due():
            scores = {name: S.detach() for name, S in self.scores.S.items()}
            self.masks = masks_from_scores(scores, self.schedule.ramp(self.sparsity))
        self.zero_masked()


class SoftMovement(FixedMasks):
    """Movement pruning with a threshold in place of a count: mask = sigmoid(S) > tau (the paper's section 4.2).

        loss + strength * (mean over the matrices of mean sigmoid(S))

    The penalty pulls all scores down, and the loss holds up those that it needs. tau and the penalty rise by the cubic
    schedule. There is no budget: strength and score_lr * num_steps decide how much goes.
    """

    def __init__(self, modules, num_steps, strength=400.0, tau=0.1, every=10, score_lr=1e-2, head_start=1.0):
        super().__init__(modules, all_true(modules))
        self.strength = strength
        self.tau = tau
        self.schedule = Schedule(num_steps, every)
        self.scores = MovementScores(self.weights, score_lr, head_start)

    def at_target(self):
        return self.schedule.is_over()

    def penalty_gradient(self, S):
        """d(penalty)/dS = strength * sigmoid'(S) / (numbers in S * matrices)"""
        p = torch.sigmoid(S.detach())
        return self.strength * self.schedule.ramp() * p * (1 - p) / (p.numel() * len(self.weights))

    def before_step(self):
        if not self.schedule.is_over():
            self.scores.step(self.weights, self.penalty_gradient)

    def after_step(self):
        self.scores.unmask(self.weights, self.masks)
        self.schedule.step += 1
        if self.schedule.is_due():
            threshold = self.tau * self.schedule.ramp()
            self.masks = {name: torch.sigmoid(S.detach()) > threshold for name, S in self.scores.S.items()}
        self.zero_masked()


class RigL(FixedMasks):
    """Sparse from the first step to the last; now and then the smallest weights are exchanged (Evci et al. 2020).

    It starts with the largest weights of the model, and each matrix keeps its own number of weights. As in the paper,
    only active weights have a gradient, so that one that grows has no moments of its inactive time in the optimizer,
    and the exchange takes the place of a step (here: of the pruned matrices alone).
    alpha: the share of the weights that is exchanged at first
    """

    def __init__(self, modules, num_steps, sparsity, every=50, alpha=0.3):
        refuse_frozen(modules)
        magnitudes = {name: module.weight.detach().abs() for name, module in modules.items()}
        super().__init__(modules, masks_from_scores(magnitudes, sparsity))
        self.schedule = Schedule(num_steps, every)
        self.alpha = alpha
        self.zero_masked()

    @torch.no_grad()
    def before_step(self):
        step = self.schedule.step
        if 0 < step < self.schedule.end and step % self.schedule.every == 0:
            self.exchange(cosine_fraction(step, self.schedule.end, self.alpha))
        else:
            for name, weight in self.weights.items():
                weight.grad.masked_fill_(~self.masks[name], 0)

    def exchange(self, fraction):
        for name, weight in self.weights.items():
            weight.data, self.masks[name] = drop_and_grow(weight, self.masks[name], weight.grad, fraction)
            weight.grad = None  # torch's optimizers pass over parameters without a gradient

    def after_step(self):
        self.schedule.step += 1
        self.zero_masked()


class MovementScores:
    """The scores S of movement pruning and the dense weights W; the model itself holds W' = W * mask.

    loss.backward() therefore gives dL/dW' of every weight. S has an Adam of its own, with a constant learning rate and
    no weight decay.
    """

    def __init__(self, weights, lr, head_start):
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self.S = {name: (head_start * W.abs() / W.abs().mean()).requires_grad_() for name, W in self.dense.items()}
        self.adam = torch.optim.Adam(self.S.values(), lr=lr)

    def state_dict(self):
        return {"dense": self.dense, "S": {name: S.detach() for name, S in self.S.items()},
                "adam": self.adam.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, S in self.S.items():
            S.copy_(state["S"][name])
            self.dense[name] = state["dense"][name].to(S.device).clone()
        self.adam.load_state_dict(state["adam"])

    def step(self, weights, penalty_gradient=None):
        """One step of S; before the optimizer moves the weights."""
        for name, weight in weights.items():
            S = self.S[name]
            S.grad = movement_gradient(weight.grad, self.dense[name])
            if penalty_gradient:
                S.grad += penalty_gradient(S)
        self.adam.step()

    @torch.no_grad()
    def unmask(self, weights, masks):
        """Write W into the model. The step of the optimizer counts for unmasked weights alone, so that a weight that
        comes back is as it was."""
        for name, weight in weights.items():
            self.dense[name] = torch.where(masks[name], weight, self.dense[name])
            weight.copy_(self.dense[name])


def all_true(modules):
    """Masks that keep every weight, to start from."""
    refuse_frozen(modules)
    return {name: torch.ones_like(module.weight, dtype=torch.bool) for name, module in modules.items()}


def refuse_frozen(modules):
    frozen = [name for name, module in modules.items() if not module.weight.requires_grad]
    if frozen:
        raise UserError(f"{frozen[0]} is frozen: sparse training changes every pruned matrix (--freeze 0)")


TRAINED = {"gradual": GradualMagnitude, "movement": Movement, "rigl": RigL, "soft-movement": SoftMovement}
