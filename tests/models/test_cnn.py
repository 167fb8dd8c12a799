"""The CNN: it equals torch's convolution and a loop over tokens, and sees no further than its neighbours."""

import pytest
import torch
import torch.nn.functional as F

from pocketbert.models.cnn import neighbours
from small_models import RECURRENT, random_recurrent


def layer_by_hand(layer, x):
    """A layer on the tokens of one text, one after the other: (T, hidden) -> (T, hidden)"""
    h = [F.layer_norm(token, token.shape, layer.norm.weight, layer.norm.bias) for token in x]
    zeros = torch.zeros_like(h[0])
    reach = layer.width // 2
    y = []
    for t in range(len(h)):
        seen = [h[s] if 0 <= s < len(h) else zeros for s in range(t - reach, t + reach + 1)]
        values, gate = (layer.linear.weight @ torch.cat(seen) + layer.linear.bias).chunk(2)
        y.append(x[t] + values * torch.sigmoid(gate))
    return torch.stack(y)


@pytest.mark.parametrize("recipe", ["cnn:layers=1,embedding=8,hidden=8,width=3", "cnn:layers=3,embedding=6,hidden=8",
                                    "cnn:layers=2,embedding=6,hidden=8,width=5", "cnn:embedding=8,hidden=8,width=1",
                                    "cnn:embedding=8,hidden=8,width=21"])  # wider than the texts
def test_cnn_equals_a_loop_over_tokens(recipe, padded_batch):
    model, (input_ids, attention_mask) = random_recurrent(recipe), padded_batch
    for ids, length, logits in zip(input_ids, attention_mask.sum(1), model(*padded_batch), strict=True):
        x = model.projection(model.embeddings.word.weight[ids[:length]])
        for layer in model.layers:
            x = layer_by_hand(layer, x)
        torch.testing.assert_close(model.head.out(torch.cat([x.mean(dim=0), x.amax(dim=0)])), logits,
                                   atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_linear_on_neighbours_is_torchs_convolution(width):
    h, weight, bias = torch.randn(2, 9, 4), torch.randn(6, width, 4), torch.randn(6)
    expected = F.conv1d(h.mT, weight.mT, bias, padding=width // 2).mT
    torch.testing.assert_close(F.linear(neighbours(h, width), weight.flatten(1), bias), expected, atol=1e-5, rtol=1e-5)


def test_closed_gate_lets_nothing_through_and_open_gate_all():
    model = random_recurrent(RECURRENT["cnn"])
    layer, x = model.layers[0], torch.randn(1, 4, 8)
    mask = torch.ones(1, 4, 1)
    layer.linear.weight.data[8:] = 0  # the gate is its bias alone
    layer.linear.bias.data[8:] = -100.0
    torch.testing.assert_close(layer(x, mask), x)
    layer.linear.bias.data[8:] = 100.0
    values = neighbours(layer.norm(x), 5) @ layer.linear.weight[:8].T + layer.linear.bias[:8]
    torch.testing.assert_close(layer(x, mask), x + values)


@pytest.mark.parametrize("layers, width", [(1, 3), (2, 3), (2, 5)])
def test_each_layer_sees_half_a_width_further_on_both_sides(layers, width):
    model = random_recurrent(f"cnn:layers={layers},width={width},embedding=8,hidden=8")
    x = torch.randn(1, 13, 8, requires_grad=True)
    y = x
    for layer in model.layers:
        y = layer(y, torch.ones(1, 13, 1))
    seen = torch.autograd.grad(y[0, 6].square().sum(), x)[0][0].abs().amax(dim=-1) > 0
    reach = layers * (width // 2)
    assert seen.nonzero().flatten().tolist() == list(range(6 - reach, 6 + reach + 1))


def test_text_longer_than_any_in_training_is_read():
    model = random_recurrent(RECURRENT["cnn"])
    assert model(torch.randint(5, 60, (1, model.config.max_length))).isfinite().all()
