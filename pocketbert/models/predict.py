"""Scoring: token ids -> logits."""

import torch

from pocketbert.data.batching import batches
from pocketbert.errors import TrainingDiverged

DEFAULT_LENGTH = 128  # tokens kept of a text by a model that does not say what it was trained with


def text_length(model, asked=None):
    """How many tokens of a text the model reads, special tokens included.

    asked: --max-length; None: as many as the model was trained with (text_length in its config.json), else 128. Never
    more than the model has positions for.
    """
    return min(asked or model.config.text_length or DEFAULT_LENGTH, model.config.max_length)


@torch.inference_mode()
def predict(model, ids, batch_size, pad_id, **masks):
    """Logits (N, num_labels) for N lists of token ids, scored in batches of like length, returned in order.

    Logits that are not finite are an error: their softmax would be no probability.
    """
    model.eval()
    logits = torch.empty(len(ids), len(model.config.label_names))
    for batch in batches(ids, None, batch_size, pad_id):
        batch = batch.to(model.device)
        logits[batch.index] = model(batch.input_ids, batch.attention_mask, **masks).float().cpu()
    if not logits.isfinite().all():
        raise TrainingDiverged("the model's logits are NaN or infinite: training has diverged (lower --lr), or the "
                               "weights are damaged")
    return logits
