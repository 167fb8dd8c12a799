"""Repair without training: rearranged masks and least-squares reconstruction."""

import torch

from pocketbert.data.batching import Batch, batches
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


def test_padding_has_no_part_in_the_reconstruction():
    """Texts of many lengths in padded batches give the weights that the same texts give one at a time."""
    model = random_model(layers=3, heads=4, neurons=32, std=0.2)
    torch.manual_seed(0)
    ids = [torch.randint(5, 60, (n,)).tolist() for n in torch.randint(2, 20, (48,)).tolist()]
    ids = [ids[i] for i in torch.randperm(48)]
    pad_id = 17  # not a vector of zeros: padding that entered would matter
    rows = [torch.tensor(row) for row in ids]
    padded = []
    for start in range(0, 48, 12):  # unsorted, so that there is much padding
        lengths = torch.tensor([len(row) for row in rows[start:start + 12]])
        input_ids = torch.nn.utils.rnn.pad_sequence(rows[start:start + 12], batch_first=True, padding_value=pad_id)
        mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
        padded.append(Batch(input_ids, mask, None, list(range(start, start + 12))))
    alone = list(batches(ids, None, 1, pad_id))
    masks = [torch.tensor([1., 1, 1, 0])] * 3, [(torch.arange(32) < 20).float()] * 3
    one, two = slice_model(model, *masks), slice_model(model, *masks)
    errors = reconstruct(one, model, padded), reconstruct(two, model, alone)
    torch.testing.assert_close(torch.tensor(errors[0]), torch.tensor(errors[1]), rtol=1e-3, atol=1e-6)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, two.state_dict()[name], rtol=1e-3, atol=1e-3)
