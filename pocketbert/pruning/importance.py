"""How important is each attention head and each FFN neuron?"""

import torch
import torch.nn.functional as F


def mask_gradients(model, texts, own_predictions=False):
    """dL(x)/dmask of every text x on its own: ([(N, heads) a layer], [(N, neurons) a layer]).

    Each text gets its own copy of the masks, so one backward pass gives the gradients text by text; summed over
    a batch they would cancel. own_predictions: take the model's own answers for labels, so that none are needed.
    """
    heads, neurons = [], []
    model.eval()  # the gradients of the model that will be used: no dropout
    for batch in texts:
        B = len(batch.input_ids)
        head_mask = [torch.ones(B, layer.attention.num_heads, device=model.device, requires_grad=True)
                     for layer in model.layers]
        ffn_mask = [torch.ones(B, layer.ffn.up.out_features, device=model.device, requires_grad=True)
                    for layer in model.layers]
        logits = model(batch.input_ids, batch.attention_mask, head_mask, ffn_mask)
        labels = logits.argmax(-1) if own_predictions else batch.labels
        # The sum, not the mean, so that every text's gradient is its own and not 1/B of it.
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, head_mask + ffn_mask)
        heads.append(gradients[:len(model.layers)])
        neurons.append(gradients[len(model.layers):])
    return ([torch.cat(layer).cpu() for layer in zip(*heads, strict=True)],
            [torch.cat(layer).cpu() for layer in zip(*neurons, strict=True)])


def gradient_importance(model, gradients):
    """E_x |dL(x)/dmask| (Michel et al. 2019, arXiv:1905.10650, section 4.1).

    The absolute value comes before the mean: a head that helps one text and harms the next is not unimportant.
    The paper then scales each layer to norm 1. Left out: a norm over 12 heads and one over 1,536 neurons make numbers
    that no budget can compare; as they are, all are in nats.
    """
    return [[g.abs().mean(dim=0) for g in part] for part in gradients]


def fisher_importance(model, gradients):
    """E_x (dL(x)/dmask)^2, the diagonal of the Fisher information (Kwon et al. 2022, section 4.1).

    Near a minimum the loss rises by about 1/2 (1 - mask)^T F (1 - mask), so heads and neurons of all layers are
    measured in the same unit: nats.
    """
    return [[g.square().mean(dim=0) for g in part] for part in gradients]


def taylor_importance(model, gradients):
    """|E_x dL(x)/dmask|: how much the mean loss would change, to first order (Molchanov et al. 2017, arXiv:1611.06440).

    At a minimum it is small for all units, and mostly noise: compare it with the two above.
    """
    return [[g.mean(dim=0).abs() for g in part] for part in gradients]


def magnitude_importance(model, gradients):
    """The norm of the weights that a cut would remove: cheap, and blind to what the texts need."""
    heads, neurons = [], []
    for layer in model.layers:
        a, size = layer.attention, layer.attention.head_size
        rows = sum(part.weight.detach().unflatten(0, (-1, size)).square().sum(dim=(1, 2))
                   for part in (a.query, a.key, a.value))
        columns = a.output.weight.detach().unflatten(1, (-1, size)).square().sum(dim=(0, 2))
        heads.append((rows + columns).sqrt().cpu())
        up, down = layer.ffn.up.weight.detach(), layer.ffn.down.weight.detach()
        neurons.append((up.square().sum(dim=1) + down.square().sum(dim=0)).sqrt().cpu())
    return heads, neurons


def random_importance(model, gradients):
    """Dice: the control. A method that does not beat this one has learnt nothing about the model."""
    return ([torch.rand(layer.attention.num_heads) for layer in model.layers],
            [torch.rand(layer.ffn.up.out_features) for layer in model.layers])


IMPORTANCE = {"fisher": fisher_importance, "gradient": gradient_importance, "taylor": taylor_importance,
              "magnitude": magnitude_importance, "random": random_importance}
