"""LSTM and GRU: two directions equal torch's bidirectional module."""

import pytest
import torch
from torch import nn

from small_models import random_recurrent


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("depth", [1, 2])
def test_two_directions_equal_torchs_bidirectional_module_on_each_text_alone(kind, depth, padded_batch):
    model = random_recurrent(f"{kind}:embedding=6,hidden=8,layers={depth}")
    reference = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](6, 8, depth, bidirectional=True, batch_first=True)
    reference.load_state_dict({
        name.replace("_l0", f"_l{i}") + suffix: tensor for i, layer in enumerate(model.layers)
        for suffix, rnn in (("", layer.forwards), ("_reverse", layer.backwards))
        for name, tensor in rnn.state_dict().items()})
    for ids, mask, logits in zip(*padded_batch, model(*padded_batch), strict=True):
        states = reference(model.embeddings.word(ids[None, :mask.sum()]))[0][0]
        torch.testing.assert_close(model.head.out(torch.cat([states.mean(dim=0), states.amax(dim=0)])), logits,
                                   atol=1e-6, rtol=1e-5)
