"""Scoring: token ids -> logits."""

import torch

from pocketbert.data.batching import batches
from pocketbert.errors import NOT_FINITE, TrainingDiverged


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
        raise TrainingDiverged(NOT_FINITE)
    return logits


class OnArrays:
    """A torch model that is called with numpy arrays, as graph.Graph is.

    (input_ids, mask), both (B, T), mask True for a token -> logits (B, num_labels) float32
    """

    def __init__(self, model):
        self.model = model.eval()
        self.config = model.config

    @torch.inference_mode()
    def __call__(self, input_ids, mask):
        input_ids = torch.from_numpy(input_ids).to(self.model.device)
        attention_mask = None if mask.all() else torch.from_numpy(mask).long().to(self.model.device)
        return self.model(input_ids, attention_mask).float().cpu().numpy()
