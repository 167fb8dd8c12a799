"""Masks and cuts: a zero in a mask, a tensor that is gone and a weight set to zero are one and the same model."""

import json
import re

import pytest
import torch
import torch.nn.functional as F

import distill
import evaluate
import prune
import quantize
import train
from pocketbert.data.batching import batches
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.size import file_bytes
from pocketbert.models.surgery import check_sliced_equals_masked, slice_model
from pocketbert.pruning.choose import keep_most_important, keep_within, least_harmful_layers
from pocketbert.pruning.cost import byte_cost, latency_cost, mac_cost
from pocketbert.pruning.importance import (
    IMPORTANCE,
    fisher_importance,
    gradient_importance,
    magnitude_importance,
    mask_gradients,
)
from pocketbert.pruning.reconstruct import rearrange_mask, reconstruct
from small_models import LABELS, TEXTS, random_model

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


def test_magnitude_importance_of_a_head_is_the_norm_of_the_weights_that_its_cut_removes():
    model = random_model()
    heads, neurons = magnitude_importance(model, None)
    a, rows = model.layers[1].attention, slice(2 * 8, 3 * 8)
    removed = [a.query.weight[rows], a.key.weight[rows], a.value.weight[rows], a.output.weight[:, rows]]
    torch.testing.assert_close(heads[1][2], torch.cat([part.flatten() for part in removed]).norm().detach())
    ffn = model.layers[0].ffn
    torch.testing.assert_close(neurons[0][7], torch.cat([ffn.up.weight[7], ffn.down.weight[:, 7]]).norm().detach())


def test_budget_keeps_the_globally_best_but_one_in_every_layer():
    importance = [torch.tensor([9., 8., 7.]), torch.tensor([6., 5.]), torch.tensor([0.1, 0.2, 0.3, 0.05])]
    masks = keep_most_important(importance, 5)
    assert [mask.tolist() for mask in masks] == [[1, 1, 1], [1, 0], [0, 0, 1, 0]]
    for keep in range(3, 10):
        masks = keep_most_important(importance, keep)
        assert sum(int(mask.sum()) for mask in masks) == keep and all(mask.sum() >= 1 for mask in masks)


def test_budget_below_one_unit_a_layer_is_an_error():
    with pytest.raises(ValueError, match="each layer needs at least one"):
        keep_most_important([torch.ones(3), torch.ones(3)], 1)


def test_cut_of_a_cut_model_still_equals_its_mask_and_survives_the_folder(tmp_path, tokenizer, padded_batch):
    model = random_model()
    once = slice_model(model, *some_masks(model))
    masks = ([torch.ones(1), torch.tensor([1., 0, 0, 1]), torch.tensor([0., 1])],
             [(torch.arange(layer.ffn.up.out_features) % 2 == 0).float() for layer in once.layers])
    twice = slice_model(once, *masks)
    with torch.no_grad():
        torch.testing.assert_close(twice(*padded_batch), once(*padded_batch, *masks), atol=1e-5, rtol=1e-5)
        save_model(twice, tokenizer, tmp_path / "m", run={})
        assert torch.equal(load_model(tmp_path / "m")[0](*padded_batch), twice(*padded_batch))
    assert twice.config.num_heads == [1, 2, 1]


def test_frozen_layers_stay_frozen_when_they_are_cut():
    model = random_model()
    model.layers[0].requires_grad_(False)
    smaller = slice_model(model, *some_masks(model))
    assert not any(t.requires_grad for t in smaller.layers[0].parameters())
    assert all(t.requires_grad for t in smaller.layers[1].parameters())


def test_a_wrong_cut_is_noticed(padded_batch):
    model = random_model()
    head_mask, ffn_mask = some_masks(model)
    other_heads = [mask.flip(0) for mask in head_mask]
    wrong = slice_model(model, other_heads, ffn_mask)
    batch = next(iter(batches([[2, 9, 3]], [0], 1, 0)))
    with pytest.raises(AssertionError, match="differ from the masked"):
        check_sliced_equals_masked(wrong, model, head_mask, ffn_mask, batch)


@pytest.mark.parametrize("importance", list(IMPORTANCE))
def test_prune_script_keeps_what_it_was_asked_to_keep(importance, tmp_path, tokenizer, capsys):
    save_model(random_model(), tokenizer, tmp_path / "teacher", run={})
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 10)))
    prune.main(list(map(str, ["--model", tmp_path / "teacher", "--out", tmp_path / "pruned", "--data",
                              tmp_path / "mine.csv", "--heads", 0.5, "--ffn", 0.25, "--importance", importance,
                              "--steps", 2, "--epochs", 1])))
    model, _ = load_model(tmp_path / "pruned")
    assert sum(model.config.num_heads) == 6 and sum(model.config.intermediate_sizes) == 18
    assert "with masks" in capsys.readouterr().out


# --- budgets, rearrangement, refit ------------------------------------------------------------------------

def test_macs_equal_a_count_of_the_multiplications_that_torch_really_does():
    """FlopCounterMode counts 2 flops a multiply-add, over all matrix products of one text of 7 tokens."""
    from torch.utils.flop_counter import FlopCounterMode
    model = random_model(num_heads=[4, 2, 3], intermediate_sizes=[24, 8, 16])
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(torch.randint(5, 60, (1, 7)))
    head = 32 * 32 + 32 * 3
    encoder = mac_cost(model.config, 7).total(model.config.num_heads, model.config.intermediate_sizes)
    assert encoder + head == counter.get_total_flops() / 2


def test_byte_cost_is_what_the_file_loses(tmp_path, tokenizer):
    model = random_model()
    before = sum(4 * p.numel() for p in model.parameters())
    cost = byte_cost(model.config, before)
    heads, neurons = some_masks(model)
    smaller = slice_model(model, heads, neurons)
    after = sum(4 * p.numel() for p in smaller.parameters())
    assert cost.total(smaller.config.num_heads, smaller.config.intermediate_sizes) == after < before


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 1.0])
def test_choice_fills_the_budget_and_never_exceeds_it(share):
    model = random_model(layers=4, heads=4, neurons=64)
    torch.manual_seed(0)
    importance = ([torch.rand(4) for _ in range(4)], [torch.rand(64) for _ in range(4)])
    cost = mac_cost(model.config, 10)
    full = cost.total([4] * 4, [64] * 4)
    heads, neurons = keep_within(importance, cost, share * full)
    spent = cost.total([int(h.sum()) for h in heads], [int(n.sum()) for n in neurons])
    one_head = cost.slopes()[0]
    assert share * full - one_head <= spent <= share * full
    assert all(h.sum() >= 1 for h in heads) and all(n.sum() >= 1 for n in neurons)
    kept, gone = neurons[0].bool(), ~neurons[0].bool()
    assert not gone.any() or importance[1][0][kept].min() > importance[1][0][gone].max()


def test_neurons_under_a_budget_are_multiples_of_what_the_processor_likes():
    model = random_model(layers=3, heads=4, neurons=64)
    importance = ([torch.rand(4) for _ in range(3)], [torch.rand(64) for _ in range(3)])
    cost = mac_cost(model.config, 10)
    _, neurons = keep_within(importance, cost, 0.5 * cost.total([4] * 3, [64] * 3), round_to=16)
    assert all(int(n.sum()) % 16 == 0 for n in neurons)


def test_impossible_budget_is_an_error_that_states_the_nearest_possible_one():
    model = random_model()
    importance = ([torch.rand(4) for _ in range(3)], [torch.rand(24) for _ in range(3)])
    cost = mac_cost(model.config, 10)
    least = cost.total([1] * 3, [1] * 3)
    with pytest.raises(ValueError, match=re.escape(f"already cost {least:,.4g} MACs")):
        keep_within(importance, cost, 0.9 * least)
    keep_within(importance, cost, least)


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


def test_refit_of_an_uncut_model_changes_nothing(padded_batch):
    model = random_model()
    same = slice_model(model, [torch.ones(4)] * 3, [torch.ones(24)] * 3)
    reconstruct(same, model, list(batches([[2, 7, 9, 3], [2, 30, 3]], [0, 1], 2, pad_id=0)))
    torch.testing.assert_close(same(*padded_batch), model(*padded_batch), atol=1e-4, rtol=1e-4)


def test_latency_table_predicts_the_sum_of_its_measured_parts(monkeypatch):
    """With a clock that says 0.5 ms a head and 0.01 ms a neuron, a tenth of it in the last layer, and 10 ms in all."""
    def clock(calls, repeats):
        def ms(name):
            if name == "whole":
                return 10.0
            kind, last, count = name
            return (0.1 if last else 1.0) * {"heads": 0.5, "neurons": 0.01}[kind] * count
        return {name: [ms(name)] for name in calls}
    monkeypatch.setattr("pocketbert.pruning.cost.time_interleaved", clock)
    model = random_model(layers=3, heads=4, neurons=32)
    cost = latency_cost(model, batch_size=2, length=5)
    assert cost.total([4, 4, 4], [32, 32, 32]) == pytest.approx(10)
    assert cost.total([2, 4, 4], [32, 16, 32]) == pytest.approx(10 - 2 * 0.5 - 16 * 0.01)
    assert cost.total([4, 4, 2], [32, 32, 32]) == pytest.approx(10 - 0.1 * 2 * 0.5)


def test_least_harmful_layers_drops_the_one_that_does_nothing():
    model = random_model()
    for linear in (model.layers[1].attention.output, model.layers[1].ffn.down):
        linear.weight.data.zero_()
        linear.bias.data.zero_()
    ids = [[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]]
    with torch.no_grad():
        labels = [int(model(torch.tensor([row])).argmax()) for row in ids]
    assert least_harmful_layers(model, list(batches(ids, labels, 3, 0)), 2) == [0, 2]


def make_teacher(family, tokenizer, tmp_path):
    """(model folder, data file) of a small random model."""
    vocab = max(tokenizer.vocab_size, 60)
    save_model(random_model(family=family, vocab_size=vocab), tokenizer, tmp_path / "teacher", run={})
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 6)))
    return str(tmp_path / "teacher"), str(tmp_path / "mine.csv")


WAYS = [["--flops", "0.6", "--refit", "--round-to", "1"], ["--layers", "2"],
        ["--layers", "0,2", "--flops", "0.5", "--round-to", "1"], ["--vocab", "1"],
        ["--size-mb", "0.042", "--round-to", "1"],
        ["--sparsity", "0.5", "--method", "wanda"], ["--sparsity", "0.5", "--method", "2:4"],
        ["--sparsity", "0.8", "--epochs", "2", "--teacher", "self"],
        ["--sparsity", "0.8", "--method", "magnitude", "--also", "head"],
        ["--method", "soft-movement", "--strength", "1", "--epochs", "2"]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flags", WAYS)
def test_every_way_to_prune_ends_in_a_folder_that_loads(family, flags, tmp_path, tokenizer):
    folder, data = make_teacher(family, tokenizer, tmp_path)
    prune.main(["--model", folder, "--out", str(tmp_path / "out"), "--data", data, *flags])
    model, again = load_model(tmp_path / "out")
    if "--size-mb" in flags:
        assert file_bytes(tmp_path / "out")["model"] <= 1e6 * float(flags[1])
    assert torch.isfinite(model(torch.tensor(again(["a good day"], 20)))).all()


@pytest.mark.parametrize("flags", WAYS)
def test_pruned_model_goes_on_through_the_other_verbs(flags, tmp_path, tokenizer):
    folder, data = make_teacher("bert", tokenizer, tmp_path)
    out = str(tmp_path / "out")
    prune.main(["--model", folder, "--out", out, "--data", data, *flags])
    quantize.main(["--model", out, "--out", out + "-int8", "--force"])
    for role in (["--teacher", out, "--student", "scratch:layers=1,hidden=16,heads=2,vocab=60"],
                 ["--teacher", folder, "--student", out]):
        distill.main([*role, "--data", data, "--out", str(tmp_path / "student"), "--epochs", "1"])
    evaluate.main([folder, out, out + "-int8", str(tmp_path / "student"), "--data", data, "--timed", "2",
                   "--bootstrap", "20", "--out", str(tmp_path / "report")])
    assert (tmp_path / "report" / "results.md").exists()


@pytest.mark.parametrize("flags, message", [
    (["--vocab", "1", "--steps", "4"], "--steps does nothing here"),
    (["--vocab", "1", "--round-to", "8"], "--round-to does nothing here"),
    (["--heads", "0.5", "--characters", "seen"], "--characters does nothing here"),
    (["--heads", "0.5", "--vocab-texts", "a.txt"], "--vocab-texts does nothing here"),
    (["--layers", "2", "--refit"], "--refit does nothing here"),
    (["--flops", "0.5", "--scope", "layer"], "--scope does nothing here"),
    (["--heads", "0.5", "--teacher", "self"], "--teacher does nothing here"),
    (["--sparsity", "0.5", "--epochs", "1", "--method", "movement", "--accumulate", "2"], "--accumulate does nothing"),
    (["--sparsity", "0.5", "--method", "soft-movement"], "has no --sparsity"),
    (["--sparsity", "0.7", "--method", "2:4"], "wants --sparsity 0.5"),
    (["--flops", "0.5", "--latency", "0.5"], "give one")])
def test_a_flag_that_would_do_nothing_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        prune.parse_args(["--model", "a", "--out", "b", "--data", "demo", *flags])
    assert message in capsys.readouterr().err


def test_an_epoch_that_is_still_too_dense_is_never_the_best(tmp_path, tokenizer, monkeypatch):
    """Validation that likes the first epoch most: the result must have the asked sparsity all the same."""
    folder, data = make_teacher("bert", tokenizer, tmp_path)
    answers = iter([0.5, 0.9, 0.8, 0.1, *[0.1] * 9])
    monkeypatch.setattr(prune, "scores", lambda logits, labels, real=prune.scores: (
        real(logits, labels) | {"macro_f1": next(answers)}))
    prune.main(["--model", folder, "--out", str(tmp_path / "out"), "--data", data, "--sparsity", "0.8", "--epochs",
                "3"])
    report = json.loads((tmp_path / "out" / "run.json").read_text())["pruning"]
    assert report["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_recovery_with_teacher_self_learns_probabilities(tmp_path, tokenizer, monkeypatch):
    folder, data = make_teacher("bert", tokenizer, tmp_path)
    targets = []
    monkeypatch.setattr(prune.F, "cross_entropy", lambda logits, target, real=F.cross_entropy, **options: (
        targets.append(target.is_floating_point()) if logits.requires_grad else None,
        real(logits, target, **options))[1])
    for flags in ([], ["--teacher", "self"]):
        targets.clear()
        prune.main(["--model", folder, "--out", str(tmp_path / "out"), "--data", data, "--layers", "0,2", "--epochs",
                    "1", *flags])
        assert set(targets) == {bool(flags)}


def test_bag_of_ngrams_keeps_its_vocabulary_because_its_hashes_depend_on_it(tmp_path, tokenizer):
    _, data = make_teacher("bert", tokenizer, tmp_path)
    train.main(["--model", "bag:ngrams=2,buckets=50", "--out", str(tmp_path / "bag"), "--data", data, "--epochs", "1"])
    with pytest.raises(ValueError, match="bag of n-grams"):
        prune.main(["--model", str(tmp_path / "bag"), "--out", str(tmp_path / "o"), "--data", data, "--vocab", "1"])


def test_tokens_of_further_texts_are_kept(tmp_path, tokenizer):
    folder, data = make_teacher("bert", tokenizer, tmp_path)
    (tmp_path / "more.txt").write_text("shop bus nine film\n" * 30)
    sizes = []
    for flags in ([], ["--vocab-texts", str(tmp_path / "more.txt")]):
        prune.main(["--model", folder, "--out", str(tmp_path / "out"), "--data", data, "--vocab", "20", *flags])
        sizes.append(load_model(tmp_path / "out")[1].vocab_size)
    assert sizes[1] > sizes[0]
