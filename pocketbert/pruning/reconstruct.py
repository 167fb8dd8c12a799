"""Repair a pruned model without training: mask rearrangement and least-squares reconstruction (Kwon et al. 2022)."""

import math
from dataclasses import dataclass

import torch

from pocketbert.models.masks import full_mask


def rearrange_mask(mask, gradients):
    """Exchange units within one layer until the predicted rise of the loss is smallest, by the full Fisher matrix.

        rise ~ 1/2 (1 - m)^T F (1 - m) = 1/2 E_x ( sum of the gradients of the pruned units )^2,   F = E_x g g^T

    Fisher importance is the diagonal of F. The full matrix also knows pairs: units whose gradients cancel can be pruned
    together, units that do the same cannot (Kwon et al. 2022, arXiv:2204.09656, section 4.2). Greedy: prune every kept
    unit once, and each time take back the pruned unit that lowers the rise most.
    mask: (units,)    gradients: (N, units)    Returns a mask with as many ones.
    """
    fisher = (gradients.T @ gradients / len(gradients)).double()
    pruned = mask == 0
    if not pruned.any() or pruned.all():
        return mask.clone()
    diagonal = fisher.diagonal()
    row_sums = fisher[:, pruned].sum(dim=1)  # row_sums[i] = sum of F[i, j] over the pruned units j
    for candidate in (~pruned).nonzero().flatten()[diagonal[~pruned].argsort()].tolist():
        pruned[candidate] = True
        row_sums = row_sums + fisher[:, candidate]
        relief = torch.where(pruned, 2 * row_sums - diagonal, -math.inf)  # how much the rise falls if i comes back
        back = int(relief.argmax())
        pruned[back] = False
        row_sums = row_sums - fisher[:, back]
    return (~pruned).to(mask.dtype)


def rearrange_masks(masks, gradients):
    """rearrange_mask for every layer.    masks: (head_mask, ffn_mask)    gradients: from mask_gradients"""
    head_mask, ffn_mask = masks
    head_gradients, ffn_gradients = gradients
    return ([rearrange_mask(mask, g) for mask, g in zip(head_mask, head_gradients, strict=True)],
            [rearrange_mask(mask, g) for mask, g in zip(ffn_mask, ffn_gradients, strict=True)])


def least_squares(linear, inputs, targets, damping):
    """Change a linear layer's weights so that it maps `inputs` (rows, in) as close to `targets` (rows, out) as it can.

        min over W, b of  || X W^T + b - Y ||^2 + damping * mean(diag X^T X) * || W - W_old ||^2

    The damping keeps the old weights where the inputs do not determine new ones. Solved exactly, by the normal
    equations. Kwon et al. (section 4.3) solve for one factor per unit; the whole matrix has the same kind of equations
    and a smaller error.    Returns the relative squared error before and after.
    """
    if inputs.device.type == "mps":  # has no float64
        inputs, targets = inputs.cpu(), targets.cpu()
    X = torch.cat([inputs, torch.ones(len(inputs), 1, device=inputs.device)], dim=1).double()  # the last column: b
    old = torch.cat([linear.weight.detach(), linear.bias.detach()[:, None]], dim=1).to(X).T   # (in + 1, out)
    residual = targets.double() - X @ old
    gram = X.T @ X
    gram.diagonal().add_(damping * gram.diagonal()[:-1].mean())
    change = torch.linalg.solve(gram, X.T @ residual)
    scale = targets.double().square().sum()
    new = (old + change).T.to(linear.weight)
    linear.weight.data, linear.bias.data = new[:, :-1].contiguous(), new[:, -1].contiguous()
    return (residual.square().sum() / scale).item(), ((residual - X @ change).square().sum() / scale).item()


@dataclass
class BatchState:
    """One batch between two blocks of the pruned and of the original model.

    pruned, original: (B, T, hidden), the hidden states of the two models so far
    is_token: (B, T) bool, False for padding
    """

    pruned: torch.Tensor
    original: torch.Tensor
    is_token: torch.Tensor

    def tokens(self, x):
        """(B, Q, width) of the first Q tokens of each text -> (tokens, width), without padding."""
        return x[self.is_token[:, :x.shape[1]]]


@torch.no_grad()
def reconstruct(model, original, batches, damping=0.01):
    """Solve for the output matrix of every block of a pruned model, from the first layer to the last, in place.

    The target is the residual sum of the original model on the same texts:

        x + output(units(x))  ~  x_original + block_original(x_original)

    Each block reads the states that the repaired blocks below it really produce, and so corrects their errors too. No
    labels are needed.    Returns [(relative squared error before, after)], attention and FFN of each layer.
    """
    model.eval()
    states = [start(model, original, batch) for batch in batches]
    errors = []
    for i, (layer, original_layer) in enumerate(zip(model.layers, original.layers, strict=True)):
        inputs = []
        for state in states:
            key_mask = state.is_token[:, None, None, :]
            queries = model.layer_queries(i, state.pruned)
            original_queries = original.layer_queries(i, state.original)
            inputs.append(layer.attention.context(state.pruned, queries, key_mask))
            state.original = original_queries + original_layer.attention(state.original, original_queries, key_mask)
            state.pruned = queries
        errors.append(solve(layer.attention.output, inputs, states, damping))
        normalize(states, layer.attention_norm, original_layer.attention_norm)

        inputs = []
        for state in states:
            inputs.append(layer.ffn.intermediate(state.pruned))
            state.original = state.original + original_layer.ffn(state.original)
        errors.append(solve(layer.ffn.down, inputs, states, damping))
        normalize(states, layer.ffn_norm, original_layer.ffn_norm)
    return errors


def start(model, original, batch):
    """The state of a batch below the first layer."""
    mask = full_mask(batch.input_ids, batch.attention_mask)
    return BatchState(model.embeddings(batch.input_ids), original.embeddings(batch.input_ids), mask.bool())


def solve(output, inputs, states, damping):
    """Fit a block's output matrix to the residual sums in `original`, and add its result to the states in `pruned`.

    inputs: what the output matrix reads, (B, Q, units) per batch    Returns the relative squared error before, after.
    """
    rows = torch.cat([state.tokens(x) for state, x in zip(states, inputs, strict=True)])
    targets = torch.cat([state.tokens(state.original - state.pruned) for state in states])
    errors = least_squares(output, rows, targets, damping)
    for state, x in zip(states, inputs, strict=True):
        state.pruned = state.pruned + output(x)
    return errors


def normalize(states, norm, original_norm):
    """The LayerNorm behind a block, in both models."""
    for state in states:
        state.pruned = norm(state.pruned)
        state.original = original_norm(state.original)
