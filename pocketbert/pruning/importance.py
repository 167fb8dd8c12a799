"""Importance of attention heads and FFN neurons: the gradients of the masks, and three scores to compare with.

`mask_gradients` computes what Fisher and gradient importance (both in prune.py) average. The other scores are here.
Every score is a function of (model, gradients) that returns two lists, heads and neurons, with a vector per layer.
"""

import torch
import torch.nn.functional as F


def mask_gradients(model, batches, own_predictions=False):
    """dL(x)/dmask of every text x by itself: ([(N, heads) per layer], [(N, neurons) per layer]).

    Every text has its own copy of the masks, so one backward pass gives a gradient per text. A mask shared by the
    batch would give the sum, in which gradients of opposite signs cancel.
    own_predictions: use the model's own predictions as labels, so that no labels are needed
    """
    head_gradients, ffn_gradients = [], []
    model.eval()  # the gradients of the model in use: no dropout
    for batch in batches:
        B = len(batch.input_ids)
        head_mask = [torch.ones(B, layer.attention.num_heads, device=model.device, requires_grad=True)
                     for layer in model.layers]
        ffn_mask = [torch.ones(B, layer.ffn.up.out_features, device=model.device, requires_grad=True)
                    for layer in model.layers]
        logits = model(batch.input_ids, batch.attention_mask, head_mask, ffn_mask)
        labels = logits.argmax(-1) if own_predictions else batch.labels
        # The sum, because the mean would divide each text's gradient by the size of its batch.
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, head_mask + ffn_mask)
        head_gradients.append(gradients[:len(model.layers)])
        ffn_gradients.append(gradients[len(model.layers):])
    return ([torch.cat(layer).cpu() for layer in zip(*head_gradients, strict=True)],
            [torch.cat(layer).cpu() for layer in zip(*ffn_gradients, strict=True)])


def taylor_importance(model, gradients):
    """|E_x dL(x)/dmask|: first-order change of the mean loss (Molchanov et al. 2017, arXiv:1611.06440).

    At a minimum of the loss it is close to zero for every unit, and mostly noise.
    """
    return [[g.mean(dim=0).abs() for g in part] for part in gradients]


def magnitude_importance(model, gradients):
    """The 2-norm of the weights that pruning the unit removes. It uses no texts."""
    heads, neurons = [], []
    for layer in model.layers:
        attention, head_size = layer.attention, layer.attention.head_size
        rows = sum(matrix.weight.detach().unflatten(0, (-1, head_size)).square().sum(dim=(1, 2))
                   for matrix in (attention.query, attention.key, attention.value))
        columns = attention.output.weight.detach().unflatten(1, (-1, head_size)).square().sum(dim=(0, 2))
        heads.append((rows + columns).sqrt().cpu())
        up, down = layer.ffn.up.weight.detach(), layer.ffn.down.weight.detach()
        neurons.append((up.square().sum(dim=1) + down.square().sum(dim=0)).sqrt().cpu())
    return heads, neurons


def random_importance(model, gradients):
    """Random numbers: the control. A score that is not better than this one says nothing about the model."""
    return ([torch.rand(layer.attention.num_heads) for layer in model.layers],
            [torch.rand(layer.ffn.up.out_features) for layer in model.layers])
