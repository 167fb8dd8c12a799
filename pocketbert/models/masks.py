"""The attention mask of a batch."""

import torch


def full_mask(input_ids, attention_mask=None):
    """The attention mask as a tensor: (B, T) int64, 1 for text and 0 for padding.

    Batches and models write None for a batch without padding; this is the one place that turns it into ones.
    """
    return torch.ones_like(input_ids) if attention_mask is None else attention_mask
