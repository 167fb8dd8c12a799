"""What the tests of pruning share."""

import pytest
import torch


@pytest.fixture
def uneven_masks():
    """A function of a model of three layers: (head_mask, ffn_mask) that differ from layer to layer.

    Layer 0 keeps one head, layer 1 all of them, layer 2 about half; the neurons are random.
    """
    def make(model, seed=0):
        torch.manual_seed(seed)
        heads = [torch.ones(layer.attention.num_heads) for layer in model.layers]
        heads[0][1:] = 0
        heads[2][::2] = 0
        return heads, [(torch.rand(layer.ffn.up.out_features) < 0.4).float() for layer in model.layers]
    return make
