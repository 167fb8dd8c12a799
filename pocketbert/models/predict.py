"""Scoring: token ids -> logits."""

import torch

from pocketbert.data.batching import batches


@torch.inference_mode()
def predict(model, ids, batch_size, pad_id, **masks):
    """Logits (N, num_labels) for N lists of token ids, scored in batches of like length, returned in order."""
    model.eval()
    logits = torch.empty(len(ids), len(model.config.label_names))
    for batch in batches(ids, None, batch_size, pad_id):
        batch = batch.to(model.device)
        logits[batch.index] = model(batch.input_ids, batch.attention_mask, **masks).float().cpu()
    return logits
