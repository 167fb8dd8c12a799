"""Sparse training: the papers' formulas by hand or by autograd; the requested sparsity, reached and kept."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.data.batching import batches
from pocketbert.errors import UserError
from pocketbert.pruning.sparse_training import (
    TRAINED,
    FixedMasks,
    Movement,
    RigL,
    SoftMovement,
    cosine_fraction,
    cubic_sparsity,
    drop_and_grow,
)
from pocketbert.pruning.weights import apply_masks, magnitude_scores, masks_from_scores, prunable, sparsity_of
from small_models import TEXTS, random_model

LABELS = [2, 1, 1, 0, 2, 1]


@pytest.fixture
def texts(tokenizer):
    """Two padded batches of three texts."""
    return list(batches(tokenizer(TEXTS, 20), LABELS, 3, tokenizer.pad_id))


def test_cubic_schedule_by_hand():
    s = [cubic_sparsity(t, 100, 300, 0.1, 0.9) for t in range(0, 401, 50)]
    assert s[:3] == pytest.approx([0.1] * 3)                       # before and at the start
    assert s[4] == pytest.approx(0.9 - 0.8 * 0.5 ** 3)             # 0.8: half of the time, seven eighths of the way
    assert s[6:] == pytest.approx([0.9] * 3)                       # at the end and after
    assert s == sorted(s)


def straight_through(scores, mask):
    """The mask in the forward pass, the identity in the backward pass."""
    return scores + (mask.float() - scores).detach()


@pytest.mark.parametrize("soft", [False, True])
def test_movements_score_gradient_is_the_straight_through_gradient_of_autograd(soft, texts):
    """Ours, from the masked model's own gradient, against autograd through W * mask(S) on a model of its own."""
    model, batch = random_model(), texts[0]
    modules = prunable(model)
    method = SoftMovement(modules, 10, strength=3.0) if soft else Movement(modules, 10, 0.5)
    method.schedule.step = 5
    W = {name: module.weight.detach().clone() for name, module in modules.items()}
    torch.manual_seed(1)
    for name, S in method.scores.S.items():
        S.data.normal_()
        method.masks[name] = S.detach() > 0.3
    apply_masks(model, method.masks)
    F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels).backward()
    S = {name: method.scores.S[name].detach().clone().requires_grad_() for name in W}
    method.before_step()

    masked = {f"{name}.weight": W[name] * straight_through(S[name], method.masks[name]) for name in W}
    logits = torch.func.functional_call(random_model(), masked, (batch.input_ids, batch.attention_mask))
    loss = F.cross_entropy(logits, batch.labels)
    if soft:
        loss = loss + 3.0 * method.schedule.ramp() * torch.stack([torch.sigmoid(s).mean() for s in S.values()]).mean()
    loss.backward()
    for name in W:
        torch.testing.assert_close(method.scores.S[name].grad, S[name].grad, rtol=1e-4, atol=1e-7)
    name = "layers.0.ffn.up"
    assert method.scores.S[name].grad[~method.masks[name]].abs().sum() > 0  # masked weights can come back


def train(model, method, texts, steps, lr=1e-2):
    """The loop of the docstring; yields after every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        batch = texts[step % len(texts)]
        F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels).backward()
        method.before_step()
        optimizer.step()
        method.after_step()
        optimizer.zero_grad()
        yield step + 1


@pytest.mark.parametrize("name", ["gradual", "movement", "rigl"])
def test_training_reaches_the_asked_sparsity_and_keeps_it_and_learns(name, texts):
    model, steps = random_model(), 60
    method = TRAINED[name](prunable(model), steps, 0.8, every=4)

    def loss():
        with torch.no_grad():
            return sum(F.cross_entropy(model(b.input_ids, b.attention_mask), b.labels).item() for b in texts)

    before, seen = loss(), []
    for _ in train(model, method, texts, steps):
        masked = torch.cat([mask.flatten() for mask in method.masks.values()])
        seen.append(1 - masked.float().mean().item())
        for key, module in prunable(model).items():
            assert not module.weight[~method.masks[key]].any()  # gone is exactly zero after every step
    assert seen[-1] == pytest.approx(0.8, abs=2e-3) and sparsity_of(model) == pytest.approx(0.8, abs=2e-3)
    assert method.at_target() and loss() < before
    if name == "rigl":
        assert max(seen) - min(seen) < 2e-3
    else:
        assert seen[4] == 0 and seen == sorted(seen) and seen[44] == seen[-1]  # ends at three quarters of the steps


def test_movement_freezes_masked_weights_and_returns_them_as_they_were(texts):
    model = random_model()
    W = model.layers[0].ffn.up.weight
    method = Movement({"a": model.layers[0].ffn.up}, 100, 0.5, every=100)
    method.masks["a"] = mask = torch.randperm(W.numel()).view_as(W) % 2 == 0  # half of them
    dense = W.detach().clone()
    for _ in train(model, method, texts, 5):
        assert not W[~mask].any()
    assert not torch.equal(W[mask], dense[mask])
    method.scores.S["a"].data = torch.where(mask, 0.0, 1.0)  # from here on the other half is wanted
    method.schedule.step = method.schedule.end - 1
    method.after_step()
    assert torch.equal(W[~mask], dense[~mask]) and not W[mask].any()


def test_movement_starts_in_the_order_of_magnitude_or_at_the_papers_zero():
    linear = nn.Linear(6, 5)
    method = Movement({"a": linear}, 10, 0.5)
    torch.testing.assert_close(method.scores.S["a"], linear.weight.abs() / linear.weight.abs().mean())
    assert not Movement({"a": linear}, 10, 0.5, head_start=0).scores.S["a"].any()


def test_movement_keeps_the_weights_with_the_highest_scores_not_the_largest():
    linear = nn.Linear(10, 10)
    method = Movement({"a": linear}, 10, 0.7)
    S = method.scores.S["a"]
    S.data = torch.randn(10, 10)
    method.schedule.step = method.schedule.end - 1
    method.after_step()
    assert int(method.masks["a"].sum()) == 30
    assert S[method.masks["a"]].min() > S[~method.masks["a"]].max()


def test_soft_mask_is_the_threshold_on_the_sigmoid_and_a_stronger_penalty_prunes_more(texts):
    linear = nn.Linear(3, 1)
    method = SoftMovement({"a": linear}, 10, tau=0.1)
    method.scores.S["a"].data = torch.tensor([[math.log(0.11 / 0.89), math.log(0.09 / 0.91), 0.0]])
    method.schedule.step = method.schedule.end - 1
    method.after_step()
    assert method.masks["a"].tolist() == [[True, False, True]]
    reached = []
    for strength in (0.0, 100.0):
        model = random_model()
        method = SoftMovement(prunable(model), 60, strength, every=5, score_lr=0.3)
        for _ in train(model, method, texts, 60):
            pass
        reached.append(sparsity_of(model))
    assert reached[0] < reached[1]


def test_rigl_drops_the_smallest_grows_the_largest_gradients_from_zero_and_keeps_the_number():
    weight = torch.tensor([[5.0, -0.1, 0.2, 3.0, 0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4 + [False] * 4])
    gradient = torch.tensor([[9.0, 0.0, 0.3, 9.0, 0.1, -7.0, 0.5, 0.2]])
    new_weight, new_mask = drop_and_grow(weight, mask, gradient, 0.5)
    assert new_mask.tolist() == [[True, False, False, True, False, True, True, False]]
    assert new_weight.tolist() == [[5.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]]
    assert weight[0, 1] == pytest.approx(-0.1)  # the inputs are left alone
    gradient[0, 2] = 0.6  # dropped, and wanted back at once: it starts anew
    new_weight, new_mask = drop_and_grow(weight, mask, gradient, 0.5)
    assert new_mask[0].nonzero().flatten().tolist() == [0, 2, 3, 5] and new_weight[0, 2] == 0
    _, same = drop_and_grow(weight, mask, gradient, 0.0)
    assert torch.equal(same, mask)
    torch.manual_seed(0)
    for fraction in (0.1, 0.33, 1.0):  # whatever the shape, even where more is dropped than was ever empty
        mask = torch.rand(7, 11) > 0.3
        _, new_mask = drop_and_grow(torch.randn(7, 11) * mask, mask, torch.randn(7, 11), fraction)
        assert new_mask.sum() == mask.sum()


def test_rigls_exchange_takes_the_place_of_a_step_and_grown_weights_have_no_moments_of_before(texts):
    model = random_model()
    modules = {"a": model.layers[0].ffn.up}
    W = modules["a"].weight
    method = RigL(modules, 100, 0.7, every=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    masks, weights = [], []
    for step in range(6):
        batch = texts[step % 2]
        F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels).backward()
        method.before_step()
        optimizer.step()
        method.after_step()
        optimizer.zero_grad()
        masks.append(method.masks["a"].clone())
        weights.append(W.detach().clone())
        if step == 3:
            assert torch.equal(masks[0], masks[3])
            assert not optimizer.state[W]["exp_avg"][~masks[3]].any()  # inactive: no moments
        if step == 4:  # the exchange
            grown, stayed = masks[4] & ~masks[3], masks[4] & masks[3]
            assert grown.any() and not weights[4][grown].any() and not optimizer.state[W]["exp_avg"][grown].any()
            assert ((weights[4] == weights[3]) | (weights[4] == 0))[stayed].all()  # dropped and grown again: 0
    assert weights[5][grown].all()  # and then they learn


def test_rigls_fraction_is_a_cosine():
    assert [cosine_fraction(t, 100, 0.3) for t in (0, 50, 100, 200)] == pytest.approx([0.3, 0.15, 0, 0])


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_matrices_are_a_users_error(name):
    model = random_model()
    model.layers[0].requires_grad_(False)
    with pytest.raises(UserError, match=r"layers\.0\.attention\.query is frozen"):
        TRAINED[name](prunable(model), 10, 0.5)


def test_fixed_masks_keep_the_zeros_of_a_one_shot_method_while_the_rest_learns(texts):
    model = random_model()
    masks = masks_from_scores(magnitude_scores(model), 0.6)
    apply_masks(model, masks)
    before = model.layers[0].ffn.up.weight.detach().clone()
    for _ in train(model, FixedMasks(prunable(model), masks), texts, 5):
        assert sparsity_of(model) == pytest.approx(0.6, abs=1e-4)
    assert not torch.equal(model.layers[0].ffn.up.weight, before)
