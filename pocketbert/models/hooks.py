"""Forward hooks: the inputs and outputs of a model's modules while batches run through it."""

from contextlib import contextmanager
from functools import partial

import torch


@torch.no_grad()
def record_inputs(model, texts, modules, hear):
    """Run the texts, and call hear(name, x) with what reaches each of the modules: x (tokens, in), padding left out.

    texts: batches with .input_ids and .attention_mask    modules: {name: one of the model's nn.Linear}
    """
    attention_mask = None

    def hook(name, module, inputs):
        x = inputs[0]
        # (B, T, in) holds padding; the last layer's (B, 1, in) and the head's (B, in) are first tokens alone.
        if attention_mask is not None and x.dim() == 3 and x.shape[1] == attention_mask.shape[1]:
            x = x[attention_mask.bool()]
        hear(name, x.flatten(0, -2))

    hooks = [module.register_forward_pre_hook(partial(hook, name)) for name, module in modules.items()]
    model.eval()
    for batch in texts:
        attention_mask = batch.attention_mask
        model(batch.input_ids, attention_mask)
    for handle in hooks:
        handle.remove()


@contextmanager
def record_outputs(model, blocks=None):
    """Keep what these blocks compute in the forward passes inside `with`; gradients flow through what is kept.

        with capture(student, [0, 2]) as inner:
            logits = student(input_ids, attention_mask)
        inner["hidden"][2], inner["query"][2], inner["key"][2], inner["value"][2]     # each (B, T, width)
        inner["hidden"][0]                                                            # the embeddings

    blocks: numbers as in layer_map, None: all    inner: kind -> block -> tensor of the latest forward pass
    An encoder's last block answers for the first token alone, which is all that the head reads. Inside `with` it
    answers for all of them, so that its queries and hidden states are there too: 1/depth more work, the same
    logits. Remember that nobody has used these answers since pre-training, and in a teacher that was trained from
    scratch nobody ever did. For the last block, the first token (`[:, :1]`, of the mask too), or the keys and
    values, say more; or learn from the block before it.
    """
    depth = len(model.layers)
    blocks = sorted(range(depth + 1) if blocks is None else set(blocks))
    if blocks and not 0 <= blocks[0] <= blocks[-1] <= depth:
        raise ValueError(f"blocks {blocks}: this model has the blocks 1 to {depth}, and 0 for its embeddings")
    inner = {"hidden": {}, "query": {}, "key": {}, "value": {}}

    def keep(kind, block):
        def hook(module, inputs, output):
            inner[kind][block] = output
        return hook

    def for_all_tokens(layer, inputs, options):
        return inputs, options | {"first_only": False}

    handles = []
    try:
        for block in blocks:
            module = model.layers[block - 1] if block else model.embeddings
            handles.append(module.register_forward_hook(keep("hidden", block)))
            for kind in ("query", "key", "value") if block else ():
                handles.append(getattr(module.attention, kind).register_forward_hook(keep(kind, block)))
        if depth in blocks:
            handles.append(model.layers[-1].register_forward_pre_hook(for_all_tokens, with_kwargs=True))
        yield inner
    finally:
        for handle in handles:
            handle.remove()
