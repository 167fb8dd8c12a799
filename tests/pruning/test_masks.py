"""Masks and slices: a zero in a mask, a sliced tensor and a weight set to zero give one and the same model."""

import pytest
import torch
import torch.nn.functional as F

from pocketbert.data.batching import batches
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.surgery import check_sliced_equals_masked, slice_model
from small_models import random_model

FAMILIES = ["bert", "roberta", "distilbert"]


@pytest.mark.parametrize("family", FAMILIES)
def test_sliced_model_equals_masked_model(family, padded_batch, uneven_masks):
    model = random_model(family=family)
    head_mask, ffn_mask = uneven_masks(model)
    smaller = slice_model(model, head_mask, ffn_mask)
    with torch.no_grad():
        masked = model(*padded_batch, head_mask, ffn_mask)
        torch.testing.assert_close(smaller(*padded_batch), masked, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(*padded_batch), masked, atol=1e-3)  # the masks did something


def test_masked_head_equals_zeroed_columns_of_the_output_matrix(padded_batch):
    model = random_model()
    head_mask = torch.ones(3, 4)
    head_mask[1, 2] = 0
    with torch.no_grad():
        masked = model(*padded_batch, head_mask=head_mask)
        model.layers[1].attention.output.weight[:, 2 * 8:3 * 8] = 0
        torch.testing.assert_close(model(*padded_batch), masked)


def test_masked_neuron_equals_a_zeroed_column_of_the_second_matrix(padded_batch):
    model = random_model()
    ffn_mask = torch.ones(3, 24)
    ffn_mask[2, 5] = 0
    with torch.no_grad():
        masked = model(*padded_batch, ffn_mask=ffn_mask)
        model.layers[2].ffn.down.weight[:, 5] = 0
        torch.testing.assert_close(model(*padded_batch), masked)


def test_masks_of_one_change_nothing(padded_batch):
    model = random_model()
    assert torch.equal(model(*padded_batch), model(*padded_batch, torch.ones(3, 4), torch.ones(3, 24)))


def test_gradients_reach_every_entry_of_both_masks(padded_batch):
    model = random_model()
    head_mask, ffn_mask = torch.ones(3, 4, requires_grad=True), torch.ones(3, 24, requires_grad=True)
    F.cross_entropy(model(*padded_batch, head_mask, ffn_mask), torch.tensor([0, 1, 2, 0])).backward()
    assert (head_mask.grad != 0).all() and (ffn_mask.grad != 0).all()


def test_mask_gradient_is_the_slope_of_the_loss(padded_batch):
    """Finite differences in float64: (L(1 + e) - L(1 - e)) / 2e."""
    model = random_model().double()
    labels = torch.tensor([0, 1, 2, 0])

    def loss(value):
        head_mask = torch.ones(3, 4, dtype=torch.float64)
        head_mask[1, 3] = value
        return F.cross_entropy(model(*padded_batch, head_mask=head_mask), labels)

    head_mask = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(model(*padded_batch, head_mask=head_mask), labels).backward()
    slope = (loss(1 + 1e-4) - loss(1 - 1e-4)) / 2e-4
    torch.testing.assert_close(head_mask.grad[1, 3], slope, atol=1e-7, rtol=1e-5)


def test_slice_of_a_sliced_model_equals_its_mask_and_survives_the_folder(tmp_path, tokenizer, padded_batch,
                                                                         uneven_masks):
    model = random_model()
    once = slice_model(model, *uneven_masks(model))
    masks = ([torch.ones(1), torch.tensor([1., 0, 0, 1]), torch.tensor([0., 1])],
             [(torch.arange(layer.ffn.up.out_features) % 2 == 0).float() for layer in once.layers])
    twice = slice_model(once, *masks)
    with torch.no_grad():
        torch.testing.assert_close(twice(*padded_batch), once(*padded_batch, *masks), atol=1e-5, rtol=1e-5)
        save_model(twice, tokenizer, tmp_path / "m", run={})
        assert torch.equal(load_model(tmp_path / "m")[0](*padded_batch), twice(*padded_batch))
    assert twice.config.num_heads == [1, 2, 1]


def test_frozen_layers_stay_frozen_when_they_are_sliced(uneven_masks):
    model = random_model()
    model.layers[0].requires_grad_(False)
    smaller = slice_model(model, *uneven_masks(model))
    assert not any(t.requires_grad for t in smaller.layers[0].parameters())
    assert all(t.requires_grad for t in smaller.layers[1].parameters())


def test_a_wrong_slice_is_noticed(uneven_masks):
    model = random_model()
    head_mask, ffn_mask = uneven_masks(model)
    other_heads = [mask.flip(0) for mask in head_mask]
    wrong = slice_model(model, other_heads, ffn_mask)
    batch = next(iter(batches([[2, 9, 3]], [0], 1, 0)))
    with pytest.raises(AssertionError, match="differ from the masked"):
        check_sliced_equals_masked(wrong, model, head_mask, ffn_mask, batch)


def test_the_check_computes_in_float64_so_that_rounding_and_errors_cannot_be_confused():
    """A right slice differs by less than 1e-12, whatever the depth; an error of 1e-6 in one weight is noticed."""
    model = random_model(layers=24)
    head_mask = [torch.tensor([1.0, 0, 1, 1])] * 24
    ffn_mask = [(torch.arange(24) % 3 > 0).float()] * 24
    sliced = slice_model(model, head_mask, ffn_mask)
    batch = next(iter(batches([[2, 9, 3], [2, 8, 7, 11, 3]], [0, 1], 2, 0)))
    assert check_sliced_equals_masked(sliced, model, head_mask, ffn_mask, batch) < 1e-12
    assert model.head.out.weight.dtype == sliced.head.out.weight.dtype == torch.float32  # both are left as they were
    sliced.head.out.bias.data[0] += 1e-6
    with pytest.raises(AssertionError, match="differ from the masked"):
        check_sliced_equals_masked(sliced, model, head_mask, ffn_mask, batch)
