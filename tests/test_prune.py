"""Masks and cuts: a zero in a mask, a tensor that is gone and a weight set to zero are one and the same model."""

import pytest
import torch
import torch.nn.functional as F
from conftest import LABELS, TEXTS, random_model

import prune
import pruning
from data_utils import batches
from model_utils import load_model, save_model

FAMILIES = ["bert", "roberta", "distilbert"]


def some_masks(model, seed=0):
    """Uneven masks: layer 0 keeps one head, layer 1 all of them, layer 2 about half; neurons at random."""
    torch.manual_seed(seed)
    heads = [torch.ones(layer.attention.num_heads) for layer in model.layers]
    heads[0][1:] = 0
    heads[2][::2] = 0
    return heads, [(torch.rand(layer.ffn.up.out_features) < 0.4).float() for layer in model.layers]


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_model_equals_masked_model(family, padded_batch):
    model = random_model(family=family)
    head_mask, ffn_mask = some_masks(model)
    smaller = pruning.cut(model, head_mask, ffn_mask)
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


def test_gradient_importance_is_the_mean_over_texts_of_each_texts_own_absolute_gradient():
    model = random_model()
    ids = [[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]]
    labels = [0, 2, 1]
    gradients = pruning.mask_gradients(model, list(batches(ids, labels, 3, pad_id=0)))
    heads, neurons = pruning.gradient_importance(model, gradients)
    by_hand, squares = torch.zeros(3, 4), torch.zeros(3, 4)
    for row, label in zip(ids, labels, strict=True):  # one text at a time, one mask for all
        head_mask = torch.ones(3, 4, requires_grad=True)
        F.cross_entropy(model(torch.tensor([row]), head_mask=head_mask), torch.tensor([label])).backward()
        by_hand += head_mask.grad.abs()
        squares += head_mask.grad.square()
    torch.testing.assert_close(torch.stack(heads), F.normalize(by_hand, dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.stack(pruning.fisher_importance(model, gradients)[0]), squares / 3,
                               atol=1e-6, rtol=1e-4)
    assert all(len(n) == 24 and (n >= 0).all() for n in neurons)


def test_magnitude_importance_of_a_head_is_the_norm_of_the_weights_that_its_cut_removes():
    model = random_model()
    heads, neurons = pruning.magnitude_importance(model, None)
    a, rows = model.layers[1].attention, slice(2 * 8, 3 * 8)
    removed = [a.query.weight[rows], a.key.weight[rows], a.value.weight[rows], a.output.weight[:, rows]]
    torch.testing.assert_close(heads[1][2], torch.cat([part.flatten() for part in removed]).norm().detach())
    ffn = model.layers[0].ffn
    torch.testing.assert_close(neurons[0][7], torch.cat([ffn.up.weight[7], ffn.down.weight[:, 7]]).norm().detach())


def test_budget_keeps_the_globally_best_but_one_in_every_layer():
    importance = [torch.tensor([9., 8., 7.]), torch.tensor([6., 5.]), torch.tensor([0.1, 0.2, 0.3, 0.05])]
    masks = pruning.keep_most_important(importance, 5)
    assert [mask.tolist() for mask in masks] == [[1, 1, 1], [1, 0], [0, 0, 1, 0]]
    for keep in range(3, 10):
        masks = pruning.keep_most_important(importance, keep)
        assert sum(int(mask.sum()) for mask in masks) == keep and all(mask.sum() >= 1 for mask in masks)


def test_budget_below_one_unit_a_layer_is_an_error():
    with pytest.raises(ValueError, match="each layer needs at least one"):
        pruning.keep_most_important([torch.ones(3), torch.ones(3)], 1)


def test_cut_of_a_cut_model_still_equals_its_mask_and_survives_the_folder(tmp_path, tokenizer, padded_batch):
    model = random_model()
    once = pruning.cut(model, *some_masks(model))
    masks = ([torch.ones(1), torch.tensor([1., 0, 0, 1]), torch.tensor([0., 1])],
             [(torch.arange(layer.ffn.up.out_features) % 2 == 0).float() for layer in once.layers])
    twice = pruning.cut(once, *masks)
    with torch.no_grad():
        torch.testing.assert_close(twice(*padded_batch), once(*padded_batch, *masks), atol=1e-5, rtol=1e-5)
        save_model(twice, tokenizer, tmp_path / "m", run={})
        assert torch.equal(load_model(tmp_path / "m")[0](*padded_batch), twice(*padded_batch))
    assert twice.config.heads_per_layer == [1, 2, 1]


def test_a_wrong_cut_is_noticed(padded_batch):
    model = random_model()
    head_mask, ffn_mask = some_masks(model)
    other_heads = [mask.flip(0) for mask in head_mask]
    wrong = pruning.cut(model, other_heads, ffn_mask)
    batch = next(iter(batches([[2, 9, 3]], [0], 1, 0)))
    with pytest.raises(AssertionError, match="differ from the masked"):
        pruning.check_cut_equals_masked(wrong, model, head_mask, ffn_mask, batch)


@pytest.mark.parametrize("importance", list(pruning.IMPORTANCE))
def test_prune_script_keeps_what_it_was_asked_to_keep(importance, tmp_path, tokenizer, capsys):
    save_model(random_model(), tokenizer, tmp_path / "teacher", run={})
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 10)))
    prune.main(list(map(str, ["--model", tmp_path / "teacher", "--out", tmp_path / "pruned", "--data",
                              tmp_path / "mine.csv", "--heads", 0.5, "--ffn", 0.25, "--importance", importance,
                              "--steps", 2, "--epochs", 1])))
    model, _ = load_model(tmp_path / "pruned")
    assert sum(model.config.heads_per_layer) == 6 and sum(model.config.neurons_per_layer) == 18
    assert "with masks" in capsys.readouterr().out
