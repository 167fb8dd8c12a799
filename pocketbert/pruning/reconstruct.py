"""Make up for the pruned units without training: mask rearrangement and least-squares reconstruction."""

import math

import torch


def rearrange_mask(mask, gradients):
    """Swap units within one layer until the loss rises least, by the whole Fisher matrix and not its diagonal.

        rise ~ 1/2 (1 - m)^T F (1 - m) = 1/2 E_x ( sum of the gradients of the pruned units )^2,   F = E_x g g^T

    Units whose gradients cancel may go together; twins may not (Kwon et al. 2022, section 4.2). Greedy: offer every
    kept unit for pruning, and take back the pruned unit whose return lowers the sum most.
    mask: (units,)    gradients: (N, units)    Returns a mask with as many ones.
    """
    fisher = (gradients.T @ gradients / len(gradients)).double()
    pruned = mask == 0
    if not pruned.any() or pruned.all():
        return mask.clone()
    diagonal, toward = fisher.diagonal(), fisher[:, pruned].sum(dim=1)  # toward[i] = sum of F[i, pruned]
    for offered in (~pruned).nonzero().flatten()[diagonal[~pruned].argsort()].tolist():
        pruned[offered] = True
        toward = toward + fisher[:, offered]
        relief = torch.where(pruned, 2 * toward - diagonal, -math.inf)  # by how much the sum falls if i comes back
        back = int(relief.argmax())
        pruned[back] = False
        toward = toward - fisher[:, back]
    return (~pruned).to(mask.dtype)


def least_squares(linear, inputs, targets, damping):
    """Move a linear layer's weights to where it maps `inputs` (rows, in) closest to `targets` (rows, out).

        min over W, b of  || X W^T + b - Y ||^2 + damping * mean(diag X^T X) * || W - W_old ||^2

    The damping holds on to the old weights where the inputs say nothing. Solved exactly, by normal equations.
    Kwon et al. (section 4.3) solve for one factor a unit; with all of the matrix free, the same equations fit better.
    Returns the relative error before and after.
    """
    if inputs.device.type == "mps":  # has no float64
        inputs, targets = inputs.cpu(), targets.cpu()
    X = torch.cat([inputs, torch.ones(len(inputs), 1, device=inputs.device)], dim=1).double()  # the bias is a weight
    old = torch.cat([linear.weight.detach(), linear.bias.detach()[:, None]], dim=1).to(X).T   # (in + 1, out)
    residual = targets.double() - X @ old
    gram = X.T @ X
    gram.diagonal().add_(damping * gram.diagonal()[:-1].mean())
    change = torch.linalg.solve(gram, X.T @ residual)
    scale = targets.double().square().sum()
    new = (old + change).T.to(linear.weight)
    linear.weight.data, linear.bias.data = new[:, :-1].contiguous(), new[:, -1].contiguous()
    return (residual.square().sum() / scale).item(), ((residual - X @ change).square().sum() / scale).item()


@torch.no_grad()
def reconstruct(model, original, texts, damping=0.01):
    """Refit the output matrix of every block of a cut model, from below, in place, so that the sums
    x + attention(x) and x + ffn(x) come closest to the original model's on the same texts.

    Each block sees what the refitted blocks below it really deliver, so it also makes up for their errors. Labels
    are not needed. Returns [(relative error before, after)] for attention and FFN of each layer.
    """
    depth, errors = len(model.layers), []
    states = [(model.embeddings(b.input_ids), original.embeddings(b.input_ids),
               torch.ones_like(b.input_ids) if b.attention_mask is None else b.attention_mask) for b in texts]
    for i, (small, full) in enumerate(zip(model.layers, original.layers, strict=True)):
        for block in ("attention", "ffn"):
            inputs, sums, residuals, rows = [], [], [], []
            for x, x_full, mask in states:
                key_mask = mask.bool()[:, None, None, :]
                width = 1 if i == depth - 1 else x.shape[1]  # the last layer: the first token only
                if block == "attention":
                    inputs.append(small.attention.context(x, x[:, :width], key_mask))
                    sums.append(x_full[:, :width] + full.attention(x_full, x_full[:, :width], key_mask))
                else:
                    inputs.append(small.ffn.intermediate(x[:, :width]))
                    sums.append(x_full[:, :width] + full.ffn(x_full[:, :width]))
                residuals.append(x[:, :width])
                rows.append(mask[:, :width].bool())  # no equations for padding
            output = small.attention.output if block == "attention" else small.ffn.down
            targets = [s - r for s, r in zip(sums, residuals, strict=True)]
            errors.append(least_squares(output, torch.cat([x[r] for x, r in zip(inputs, rows, strict=True)]),
                                        torch.cat([y[r] for y, r in zip(targets, rows, strict=True)]), damping))
            norm, full_norm = getattr(small, f"{block}_norm"), getattr(full, f"{block}_norm")
            states = [(norm(r + output(x)), full_norm(s), mask) for x, r, s, (_, _, mask)
                      in zip(inputs, residuals, sums, states, strict=True)]
    return errors
