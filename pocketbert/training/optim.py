"""What AdamW needs to fine-tune: parameter groups, a schedule, dropout and frozen layers.

The optimizer and the scheduler are objects with torch's interface, made in the scripts:

    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, weight_decay=0.01), lr=1e-4)
    scheduler = warmup_then_decay(optimizer, num_steps=1000, warmup=0.1)
"""

import math
from functools import partial

import torch

from pocketbert.errors import UserError
from pocketbert.training.adamw8bit import AdamW8bit, PagedAdamW8bit
from pocketbert.training.distributed import refuse_several
from pocketbert.training.row_adamw import RowAdamW

OPTIMIZERS = {  # --optimizer
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adamw8bit": AdamW8bit,
    "paged-adamw8bit": PagedAdamW8bit,
    "row-adamw": RowAdamW,
}


def check_optimizer(name, device):
    """A UserError if an optimizer is of no use on this device."""
    if name == "row-adamw" and device.type != "cpu":
        raise UserError(f"--optimizer {name} saves the time that a CPU spends on rows that no text reads; on "
                        f"{device.type} take --optimizer adamw")
    if name == "row-adamw":
        refuse_several(f"--optimizer {name}", "each would read other rows; take --optimizer adamw")
    if name == "paged-adamw8bit" and device.type != "cuda":
        raise UserError(f"--optimizer {name} moves states between a GPU and the computer's memory; on {device.type} "
                        "they stay in one memory: take --optimizer adamw8bit")


def parameter_groups(model, weight_decay, lr=None, layer_decay=1.0):
    """Two groups for the optimizer: matrices are decayed, biases and LayerNorms (all vectors) are not.

    Frozen parameters are in neither, so the optimizer holds no state for them. With layer_decay below 1 each depth of
    the model has two groups of its own, whose learning rate falls with the distance from the head (Howard and Ruder
    2018, arXiv:1801.06146, section 3.2):

        lr(head) = lr,    lr(layer i of L) = lr * layer_decay^(L - i),    lr(embeddings) = lr * layer_decay^(L + 1)
    """
    if layer_decay == 1:
        return two_groups(model.parameters(), weight_decay)
    by_distance = {}
    for name, parameter in model.named_parameters():
        by_distance.setdefault(distance_from_head(name, len(model.layers)), []).append(parameter)
    return [group | {"lr": lr * layer_decay ** distance} for distance, parameters in sorted(by_distance.items())
            for group in two_groups(parameters, weight_decay) if group["params"]]


def two_groups(parameters, weight_decay):
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [{"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0}]


def distance_from_head(name, num_layers):
    """0 for the head (and what stands beside the layers), 1 for the last layer, num_layers + 1 for the embeddings."""
    part, _, rest = name.partition(".")
    if part == "embeddings":
        return num_layers + 1
    return num_layers - int(rest.partition(".")[0]) if part == "layers" else 0


def warmup_then_decay(optimizer, num_steps, warmup):
    """A scheduler: the learning rate rises linearly to its peak and falls linearly to zero.

        lr(t) = peak * min(t / warmup_steps, (num_steps + 1 - t) / (num_steps - warmup_steps)),    t = 1 ... num_steps

    warmup: share of the steps until the peak, 0 to 1.
    """
    num_steps = max(1, num_steps)
    warmup_steps = round(warmup * num_steps)

    def factor(t):  # counts from 0
        rise = (t + 1) / max(1, warmup_steps)
        fall = max(0, num_steps - t) / max(1, num_steps - warmup_steps)
        return min(rise, fall)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def steps_per_epoch(num_texts, batch_size, accumulate):
    """How many steps the optimizer makes in an epoch: ceil(ceil(texts / batch size) / accumulated batches)."""
    return math.ceil(math.ceil(num_texts / batch_size) / accumulate)


def set_dropout(model, dropout):
    """Replace every dropout rate of the model, in place. None: leave them as they are."""
    if dropout is None:
        return
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = dropout
    model.config.hidden_dropout = model.config.attention_dropout = model.config.classifier_dropout = dropout


def freeze_layers(model, num_layers):
    """Train neither the embeddings nor the first `num_layers` layers. 0: train everything."""
    if num_layers > len(model.layers):
        raise UserError(f"--freeze {num_layers}: the model has {len(model.layers)} layers")
    if num_layers:
        for part in (model.embeddings, *model.layers[:num_layers]):
            part.requires_grad_(False)


def clip_grad_norm_(parameters, max_norm):
    """Scale all gradients in place so that their common norm is at most max_norm; returns the norm before.

    torch.nn.utils.clip_grad_norm_, with two differences: a sparse gradient (row_adamw.py) counts like the dense one
    that it stands for, and on a CPU short gradients are left alone, where torch multiplies each number by 1.
    """
    grads = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # rows that occur twice are added before they are squared
            grads.append(parameter.grad.values())
        elif parameter.grad is not None:
            grads.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(grads)
    if norm.device.type != "cpu" or not norm <= max_norm:  # reading it would make a GPU wait
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
