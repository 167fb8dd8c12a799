"""Importance: the papers' formulas, text by text."""

import pytest
import torch
import torch.nn.functional as F

from pocketbert.data.batching import batches
from pocketbert.pruning.importance import magnitude_importance, mask_gradients
from prune import IMPORTANCE, fisher_importance, gradient_importance
from small_models import random_model


def test_gradient_importance_is_the_mean_over_texts_of_each_texts_own_absolute_gradient():
    model = random_model()
    ids = [[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]]
    labels = [0, 2, 1]
    gradients = mask_gradients(model, list(batches(ids, labels, 3, pad_id=0)))
    heads, neurons = gradient_importance(model, gradients)
    by_hand, squares = torch.zeros(3, 4), torch.zeros(3, 4)
    for row, label in zip(ids, labels, strict=True):  # one text at a time, one mask for all
        head_mask = torch.ones(3, 4, requires_grad=True)
        F.cross_entropy(model(torch.tensor([row]), head_mask=head_mask), torch.tensor([label])).backward()
        by_hand += head_mask.grad.abs()
        squares += head_mask.grad.square()
    torch.testing.assert_close(torch.stack(heads), by_hand / 3, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.stack(fisher_importance(model, gradients)[0]), squares / 3,
                               atol=1e-6, rtol=1e-4)
    assert all(len(n) == 24 and (n >= 0).all() for n in neurons)


def test_magnitude_importance_of_a_head_is_the_norm_of_the_weights_that_slicing_removes():
    model = random_model()
    heads, neurons = magnitude_importance(model, None)
    a, rows = model.layers[1].attention, slice(2 * 8, 3 * 8)
    removed = [a.query.weight[rows], a.key.weight[rows], a.value.weight[rows], a.output.weight[:, rows]]
    torch.testing.assert_close(heads[1][2], torch.cat([part.flatten() for part in removed]).norm().detach())
    ffn = model.layers[0].ffn
    torch.testing.assert_close(neurons[0][7], torch.cat([ffn.up.weight[7], ffn.down.weight[:, 7]]).norm().detach())


@pytest.mark.parametrize("name", IMPORTANCE)
def test_every_importance_is_a_vector_for_each_layer_of_a_model_with_uneven_layers(name):
    model = random_model(num_heads=[4, 1, 3], intermediate_sizes=[24, 8, 16])
    gradients = mask_gradients(model, list(batches([[2, 7, 9, 3], [2, 30, 3]], [0, 1], 2, pad_id=0)))
    heads, neurons = IMPORTANCE[name](model, gradients)
    assert [len(v) for v in heads] == [4, 1, 3] and [len(v) for v in neurons] == [24, 8, 16]
    assert all((v >= 0).all() and v.isfinite().all() for v in [*heads, *neurons])


def test_label_free_gradients_are_those_of_the_models_own_predictions():
    model = random_model()
    ids = [[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]]
    with torch.no_grad():
        own = [int(model(torch.tensor([row])).argmax()) for row in ids]
    free = mask_gradients(model, list(batches(ids, [(label + 1) % 3 for label in own], 3, 0)), own_predictions=True)
    labelled = mask_gradients(model, list(batches(ids, own, 3, 0)))
    for part, other in zip(free, labelled, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, other, strict=True))
