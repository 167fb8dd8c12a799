"""Forward hooks: the inputs and outputs of a model's modules while batches run through it."""

from contextlib import contextmanager
from functools import partial

import torch


@torch.no_grad()
def record_inputs(model, batches, modules, on_input):
    """Run the batches, and call on_input(name, x) with the inputs of each of the modules.

    batches: with .input_ids and .attention_mask    modules: {name: one of the model's nn.Linear}
    x: (tokens, in features); padding is left out, so that it enters no statistic.
    """
    attention_mask = None

    def hook(name, module, inputs):
        x = inputs[0]
        if attention_mask is not None and x.dim() == 3:  # (B, Q, in), of the first Q tokens of each text
            x = x[attention_mask[:, :x.shape[1]].bool()]
        on_input(name, x.flatten(0, -2))

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(partial(hook, name)))
        model.eval()
        for batch in batches:
            attention_mask = batch.attention_mask
            model(batch.input_ids, attention_mask)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_outputs(model, blocks=None):
    """Keep the outputs of these blocks in the forward passes inside `with`; gradients flow through them.

        with record_outputs(student, [0, 2]) as outputs:
            logits = student(input_ids, attention_mask, all_tokens=True)
        outputs["hidden"][2], outputs["query"][2], outputs["key"][2], outputs["value"][2]     # each (B, T, width)
        outputs["hidden"][0]                                                                  # the embeddings

    blocks: 0 for the embeddings, i for model.layers[i - 1]; None: all    outputs: kind -> block -> the latest tensor
    An encoder's last block computes the first token alone unless the model is called with all_tokens=True. The other
    tokens' outputs were never trained: of the last block compare the first token, or the keys and values.
    """
    depth = len(model.layers)
    blocks = sorted(range(depth + 1) if blocks is None else set(blocks))
    if blocks and not 0 <= blocks[0] <= blocks[-1] <= depth:
        raise ValueError(f"blocks {blocks}: this model has the blocks 1 to {depth}, and 0 for its embeddings")
    outputs = {"hidden": {}, "query": {}, "key": {}, "value": {}}

    def hook(kind, block, module, inputs, output):
        outputs[kind][block] = output

    handles = []
    try:
        for block in blocks:
            module = model.layers[block - 1] if block else model.embeddings
            handles.append(module.register_forward_hook(partial(hook, "hidden", block)))
            for kind in ("query", "key", "value") if block else ():
                projection = getattr(module.attention, kind)
                handles.append(projection.register_forward_hook(partial(hook, kind, block)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
