"""Repair without training: rearranged masks and least-squares reconstruction."""

import torch

from pocketbert.data.batching import batches
from pocketbert.models.surgery import slice_model
from pocketbert.pruning.choose import keep_most_important
from pocketbert.pruning.reconstruct import rearrange_mask, reconstruct
from small_models import random_model


def test_rearranging_never_raises_the_predicted_loss_and_keeps_the_count():
    torch.manual_seed(0)
    shared = torch.randn(200, 1)
    gradients = torch.cat([torch.randn(200, 10), shared + 0.1 * torch.randn(200, 6), -shared], dim=1)  # twins, a foe
    mask = keep_most_important([gradients.square().mean(0)], 9)[0]

    def rise(m):
        return (gradients @ (1 - m)).square().mean()
    better = rearrange_mask(mask, gradients)
    assert better.sum() == mask.sum() and rise(better) < 0.9 * rise(mask)


def test_units_that_cancel_may_go_together():
    """u and -u harm alone and not together; the diagonal cannot see it, the whole matrix can."""
    torch.manual_seed(0)
    u, small = torch.randn(100, 1), 1.5 * torch.randn(100, 2)
    gradients = torch.cat([u, -u, small, 3 * torch.randn(100, 2)], dim=1)
    assert rearrange_mask(torch.tensor([0., 1, 0, 1, 1, 1]), gradients).tolist() == [0, 0, 1, 1, 1, 1]


def test_refit_lowers_the_error_of_every_block_and_of_the_logits():
    model = random_model(layers=3, heads=4, neurons=32, std=0.2)
    torch.manual_seed(0)
    ids = [torch.randint(5, 60, (n,)).tolist() for n in torch.randint(4, 12, (64,)).tolist()]
    texts = list(batches(ids, [0] * 64, 16, pad_id=0))
    heads = [torch.tensor([1., 1, 1, 0])] * 3
    smaller = slice_model(model, heads, [(torch.arange(32) < 20).float()] * 3)

    def error(candidate):
        return sum((candidate(b.input_ids, b.attention_mask) - model(b.input_ids, b.attention_mask)).square().sum()
                   for b in texts).item()
    before = error(smaller)
    errors = reconstruct(smaller, model, texts)
    assert all(after <= before for before, after in errors) and error(smaller) < 0.5 * before


def test_refit_of_an_unpruned_model_changes_nothing(padded_batch):
    model = random_model()
    same = slice_model(model, [torch.ones(4)] * 3, [torch.ones(24)] * 3)
    reconstruct(same, model, list(batches([[2, 7, 9, 3], [2, 30, 3]], [0, 1], 2, pad_id=0)))
    torch.testing.assert_close(same(*padded_batch), model(*padded_batch), atol=1e-4, rtol=1e-4)
