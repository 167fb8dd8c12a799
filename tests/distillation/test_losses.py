"""Each loss, weight and projection against a computation by hand, or an equality that its paper promises."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill import kd_loss
from pocketbert.distillation.ensemble import (
    calibrate_temperature,
    combine_teachers,
    confidence_weights,
    entropy_weights,
    given_weights,
    validation_weights,
)
from pocketbert.distillation.inner import attention_loss, attention_scores, hidden_loss, layer_map, relation_loss
from pocketbert.distillation.losses import decoupled_kd_loss, logit_mse_loss, soft_target_loss, split_at_target
from pocketbert.models.hooks import record_outputs
from pocketbert.models.svd import narrow_table
from small_models import random_model

STUDENT = torch.tensor([[1.0, 0.0, -1.0, 0.3], [0.5, 0.5, 2.0, -0.7]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 3.0, 0.5]])
GOLD = torch.tensor([0, 1])
SURE = 50.0 * torch.eye(4)[:2]


def softmax(row, temperature=1.0):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_teachers(teachers=3, texts=200, labels=3, seed=0, sharpness=2.0):
    """Logits (teachers, texts, labels) and labels that they get right more often than not."""
    gold = torch.randint(0, labels, (texts,), generator=torch.Generator().manual_seed(seed))
    return sharpness * (F.one_hot(gold, labels) + random_tensor(teachers, texts, labels, seed=seed)), gold


# ---- 1. soft targets -----------------------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_target_loss_is_the_soft_part_of_kd_loss_to_the_last_bit(temperature):
    assert torch.equal(soft_target_loss(STUDENT, TEACHER, temperature),
                       kd_loss(STUDENT, TEACHER, GOLD, temperature, alpha=1.0))


def test_soft_target_loss_at_temperature_1_is_cross_entropy_minus_the_teachers_entropy():
    p = F.softmax(TEACHER, dim=-1)
    cross_entropy, entropy = F.cross_entropy(STUDENT, p), -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(soft_target_loss(STUDENT, TEACHER, 1.0), cross_entropy - entropy)


def test_logit_mse_equals_plain_numbers():
    total = 0.0
    for s, t in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        total += sum((a - sum(s) / 4 - b + sum(t) / 4) ** 2 for a, b in zip(s, t, strict=True)) / 2 / 4
    assert logit_mse_loss(STUDENT, TEACHER).item() == pytest.approx(total / 2, rel=1e-6)


def test_logit_mse_does_not_see_a_number_added_to_all_logits_of_a_text():
    shifted = TEACHER + torch.tensor([[100.0], [-7.0]])
    torch.testing.assert_close(logit_mse_loss(STUDENT, shifted), logit_mse_loss(STUDENT, TEACHER), rtol=1e-5, atol=1e-5)


def test_logit_mse_is_what_soft_target_loss_becomes_at_high_temperature():
    student, teacher = STUDENT.double(), TEACHER.double()
    torch.testing.assert_close(soft_target_loss(student, teacher, 1e4), logit_mse_loss(student, teacher),
                               rtol=1e-3, atol=0)


def by_hand_tckd_nckd(student, teacher, label, temperature):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    others = [i for i in range(len(p)) if i != label]
    tckd = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
    nckd = kl([p[i] / (1 - p[label]) for i in others], [q[i] / (1 - q[label]) for i in others])
    return tckd, nckd, p[label]


def test_decoupled_loss_equals_plain_numbers():
    total = 0.0
    for s, t, label in zip(STUDENT.tolist(), TEACHER.tolist(), GOLD.tolist(), strict=True):
        tckd, nckd, _ = by_hand_tckd_nckd(s, t, label, 4.0)
        total += 4.0 ** 2 * (0.5 * tckd + 3.0 * nckd)
    loss = decoupled_kd_loss(STUDENT, TEACHER, GOLD, 4.0, tckd_weight=0.5, nckd_weight=3.0)
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


@pytest.mark.parametrize("row", [0, 1])
def test_with_weight_1_minus_p_target_decoupled_loss_is_hintons(row):
    """The paper's identity, KL = TCKD + (1 - p_t) NCKD, text by text because p_t differs."""
    student, teacher, gold = STUDENT[row:row + 1], TEACHER[row:row + 1], GOLD[row:row + 1]
    p_target = F.softmax(teacher / 2.0, dim=-1)[0, gold[0]].item()
    loss = decoupled_kd_loss(student, teacher, gold, 2.0, tckd_weight=1.0, nckd_weight=1 - p_target)
    torch.testing.assert_close(loss, soft_target_loss(student, teacher, 2.0))


def test_second_term_of_the_decoupled_loss_is_exactly_zero_for_two_labels():
    student, teacher = STUDENT[:, :2], TEACHER[:, :2]
    assert decoupled_kd_loss(student, teacher, GOLD, 2.0, tckd_weight=0.0, nckd_weight=8.0) == 0
    torch.testing.assert_close(decoupled_kd_loss(student, teacher, GOLD, 2.0), soft_target_loss(student, teacher, 2.0))


@pytest.mark.parametrize("sign", [1, -1])
def test_decoupled_loss_and_its_gradient_are_finite_for_logits_of_50(sign):
    student = (sign * SURE).requires_grad_()
    loss = decoupled_kd_loss(student, SURE, GOLD, 1.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert split_at_target(SURE, GOLD)[0][0, 1].item() == pytest.approx(math.log(3) - 50)


def test_text_without_a_label_has_the_teachers_best_label_as_its_target():
    student, best = STUDENT.flip(0), TEACHER.argmax(-1)
    assert best.tolist() == [0, 2] and student.argmax(-1).tolist() == [2, 0]
    assert torch.equal(decoupled_kd_loss(student, TEACHER, torch.tensor([0, -1])),
                       decoupled_kd_loss(student, TEACHER, best))


SOFT_LOSSES = [soft_target_loss, logit_mse_loss, lambda s, t, *T: decoupled_kd_loss(s, t, GOLD, *T)]


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=["kl", "mse", "dkd"])
def test_soft_loss_of_a_perfect_student_is_zero_and_the_teacher_gets_no_gradient(loss):
    student, teacher = (TEACHER.clone().requires_grad_() for _ in range(2))
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6 and teacher.grad is None


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=["kl", "mse", "dkd"])
def test_doubling_the_batch_does_not_change_a_soft_loss(loss):
    if loss not in SOFT_LOSSES[:2]:
        def loss(s, t):
            return decoupled_kd_loss(s, t, GOLD.repeat(len(s) // 2))
    torch.testing.assert_close(loss(STUDENT.repeat(2, 1), TEACHER.repeat(2, 1)), loss(STUDENT, TEACHER))


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=["kl", "mse", "dkd"])
def test_other_label_lists_are_an_error(loss):
    with pytest.raises(ValueError, match="same label list"):
        loss(STUDENT, TEACHER[:, :3])


def test_temperature_0_is_an_error():
    with pytest.raises(ValueError, match="temperature"):
        soft_target_loss(STUDENT, TEACHER, 0.0)


# ---- 2. inner tensors ----------------------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
B, T = MASK.shape
REAL = [(b, t) for b, t in itertools.product(range(B), range(T)) if MASK[b, t]]


def with_other_padding(x, dims):
    """The same tensor with other numbers wherever one of the token dimensions is padding."""
    x = x.clone()
    for dim in dims:
        x.movedim(dim, 1)[~MASK.bool()] = 1e4
    return x


def test_hidden_loss_equals_a_loop_over_real_tokens():
    student, teacher, projection = random_tensor(B, T, 4), random_tensor(B, T, 6, seed=1), nn.Linear(4, 6)
    weight, bias, s, t = (x.detach().double().numpy() for x in (projection.weight, projection.bias, student, teacher))
    expected = np.mean([(weight @ s[b, i] + bias - t[b, i]) ** 2 for b, i in REAL])
    assert hidden_loss(student, teacher, MASK, projection).item() == pytest.approx(expected, rel=1e-5)


def test_hidden_loss_trains_the_projection_and_needs_none_for_equal_widths():
    student, teacher, projection = random_tensor(B, T, 4), random_tensor(B, T, 4, seed=1), nn.Linear(4, 4)
    hidden_loss(student, teacher, MASK, projection).backward()
    assert projection.weight.grad.abs().sum() > 0
    assert hidden_loss(teacher, teacher, MASK) == 0
    with pytest.raises(ValueError, match="projection"):
        hidden_loss(random_tensor(B, T, 3), teacher, MASK)


def test_attention_scores_equal_a_loop():
    query, key = random_tensor(B, T, 6), random_tensor(B, T, 6, seed=1)
    scores = attention_scores(query, key, num_heads=2)
    for b, h, i, j in itertools.product(range(B), range(2), range(T), range(T)):
        one_head = slice(3 * h, 3 * h + 3)
        assert scores[b, h, i, j].item() == pytest.approx(
            (query[b, i, one_head] @ key[b, j, one_head]).item() / math.sqrt(3), abs=1e-5)


@pytest.mark.parametrize("student_heads", [2, 4])
def test_attention_loss_equals_a_loop_head_by_head_or_over_the_mean_of_the_heads(student_heads):
    student, teacher = random_tensor(B, student_heads, T, T), random_tensor(B, 2, T, T, seed=1)
    s, t = student.double().numpy(), teacher.double().numpy()
    if student_heads != 2:
        s, t = s.mean(axis=1, keepdims=True), t.mean(axis=1, keepdims=True)
    expected = np.mean([(s[b, :, i, j] - t[b, :, i, j]) ** 2 for b, i in REAL for j in range(T) if MASK[b, j]])
    assert attention_loss(student, teacher, MASK).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("student_width", [6, 12])
def test_relation_loss_equals_a_loop_whatever_the_student_width(student_width):
    student, teacher, heads = random_tensor(B, T, student_width), random_tensor(B, T, 6, seed=1), 3

    def relation(x, b, head, row):
        size = x.shape[-1] // heads
        y = x[b, :, head * size:head * size + size].tolist()
        keys = [y[j] for j in range(T) if MASK[b, j]]
        return softmax([sum(a * c for a, c in zip(y[row], key, strict=True)) / math.sqrt(size) for key in keys])

    expected = np.mean([kl(relation(teacher, b, head, row), relation(student, b, head, row))
                        for b, row in REAL for head in range(heads)])
    assert relation_loss(student, teacher, MASK, heads).item() == pytest.approx(expected, rel=1e-4)


def test_relation_loss_of_equal_inputs_is_zero_and_turning_all_vectors_changes_nothing():
    """Relations are scalar products within a head, so a rotation of that head's vectors is invisible."""
    x = random_tensor(B, T, 4)
    rotation = torch.linalg.qr(random_tensor(4, 4, seed=2)).Q
    assert relation_loss(x, x, MASK, 2).item() == pytest.approx(0, abs=1e-6)
    assert relation_loss(x @ rotation, x, MASK, 1).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("heads", [0, 4, 5])
def test_relation_heads_that_do_not_divide_a_width_are_an_error(heads):
    with pytest.raises(ValueError, match="relation heads"):
        relation_loss(random_tensor(B, T, 8), random_tensor(B, T, 6), MASK, heads)


FEATURES = {"hidden": (hidden_loss, (B, T, 6), [1], ()), "attention": (attention_loss, (B, 2, T, T), [2, 3], ()),
            "relation": (relation_loss, (B, T, 6), [1], (3,))}


@pytest.fixture(params=FEATURES)
def feature(request):
    """(loss of two tensors, student's tensor, teacher's tensor, their token dimensions)."""
    loss, shape, dims, more = FEATURES[request.param]
    return lambda s, t, mask=MASK: loss(s, t, mask, *more), random_tensor(*shape), random_tensor(*shape, seed=1), dims


def test_what_stands_at_padding_changes_neither_loss_nor_gradient(feature):
    loss, student, teacher, dims = feature
    values, gradients = [], []
    for s, t in ((student, teacher), (with_other_padding(student, dims), with_other_padding(teacher, dims))):
        s = s.clone().requires_grad_()
        values.append(loss(s, t))
        values[-1].backward()
        gradients.append(s.grad)
    assert torch.equal(*values) and values[0] > 0
    assert torch.equal(*gradients) and gradients[0].isfinite().all()
    assert all((gradients[0].movedim(dim, 1)[~MASK.bool()] == 0).all() for dim in dims)


def test_more_padding_changes_no_feature_loss(feature):
    loss, student, teacher, dims = feature
    wider = [F.pad(x, [0, 3 if dims == [2, 3] else 0, 0, 3], value=5.0) for x in (student, teacher)]
    torch.testing.assert_close(loss(*wider, F.pad(MASK, [0, 3])), loss(student, teacher))


def test_no_gradient_flows_into_the_teachers_features(feature):
    loss, student, teacher, _ = feature
    student.requires_grad_(), teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_texts_cut_by_another_tokenizer_are_an_error(feature):
    loss, student, teacher, dims = feature
    with pytest.raises(ValueError, match="tokenizer"):
        loss(student, teacher.narrow(dims[0], 0, T - 1))


# ---- 3. layer maps and capture -------------------------------------------------------------------------

def test_uniform_map_spreads_the_student_over_the_teacher_and_last_takes_its_end():
    assert layer_map(4, 12) == [0, 3, 6, 9, 12]
    assert layer_map(4, 6) == [0, 2, 3, 5, 6]  # 1.5, 3, 4.5, 6 with halves rounded up
    assert layer_map(4, 12, "last") == [0, 9, 10, 11, 12]
    for kind, N in itertools.product(("uniform", "last"), range(1, 13)):
        assert layer_map(N, N, kind) == list(range(N + 1))
        for M in range(1, N):
            blocks = layer_map(M, N, kind)
            assert blocks[0] == 0 and blocks[-1] == N and blocks == sorted(set(blocks)), (M, N, kind)


@pytest.mark.parametrize("wrong", [(4, 3, "uniform"), (0, 3, "last"), (2, 3, "random")])
def test_impossible_layer_map_is_an_error(wrong):
    with pytest.raises(ValueError):
        layer_map(*wrong)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_captured_tensors_are_those_of_the_blocks_run_by_hand(padded_batch, family):
    model = random_model(family=family)
    input_ids, attention_mask = padded_batch
    with torch.no_grad(), record_outputs(model) as inner:
        logits = model(input_ids, attention_mask)
    torch.testing.assert_close(logits, model(input_ids, attention_mask))
    key_mask = attention_mask.bool()[:, None, None, :]
    x = model.embeddings(input_ids)
    torch.testing.assert_close(inner["hidden"][0], x)
    for block, layer in enumerate(model.layers, start=1):
        for kind in ("query", "key", "value"):
            torch.testing.assert_close(inner[kind][block], getattr(layer.attention, kind)(x))
        x = layer(x, key_mask)
        torch.testing.assert_close(inner["hidden"][block], x)
    assert inner["query"][3].shape == inner["hidden"][3].shape == (4, 9, 32)  # the last block too, for all tokens


def test_captured_scores_are_those_of_the_models_attention(padded_batch):
    """softmax(scores) V, after the output matrix, is what the block's attention gives."""
    model = random_model()
    with torch.no_grad(), record_outputs(model, [1, 2]) as inner:
        model(*padded_batch)
        attention = model.layers[1].attention
        scores = attention_scores(inner["query"][2], inner["key"][2], attention.num_heads)
        key_mask = padded_batch[1].bool()[:, None, None, :]
        weights = scores.masked_fill(~key_mask, -torch.inf).softmax(-1)
        context = (weights @ attention.split_heads(inner["value"][2])).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.output(context),
                                   attention(inner["hidden"][1], inner["hidden"][1], key_mask))


def test_gradients_flow_through_captured_tensors_into_the_blocks_below_them(padded_batch):
    model = random_model()
    with record_outputs(model, [2]) as inner:
        model(*padded_batch)
    assert inner["hidden"].keys() == inner["value"].keys() == {2}
    relation_loss(inner["value"][2], random_tensor(4, 9, 32), padded_batch[1], 4).backward()
    assert model.layers[0].ffn.up.weight.grad.abs().sum() > 0
    assert model.layers[1].attention.value.weight.grad.abs().sum() > 0 and model.layers[2].ffn.up.weight.grad is None


def test_after_capture_the_model_has_no_hooks_left_even_after_an_error(padded_batch):
    model = random_model()
    with pytest.raises(RuntimeError, match="ours"), record_outputs(model) as inner:
        raise RuntimeError("ours")
    model(*padded_batch)
    assert not any(inner.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("blocks", [[4], [-1], [0, 7]])
def test_blocks_that_the_model_has_not_are_an_error(blocks):
    with pytest.raises(ValueError, match="1 to 3"), record_outputs(random_model(), blocks):
        pass


def test_the_whole_lesson_of_a_narrower_shallower_student_is_finite_and_reaches_every_matrix(padded_batch):
    """Hidden states, attention and relations of Q, K and V, along the layer map, from a teacher of another shape."""
    teacher, student, mask = random_model(layers=3), random_model(seed=1, layers=2, heads=2), padded_batch[1]
    blocks, projection = layer_map(2, 3), nn.Linear(16, 32)
    with torch.no_grad(), record_outputs(teacher, blocks) as theirs:
        teacher(*padded_batch)
    with record_outputs(student) as ours:
        student(*padded_batch)
    loss = sum(hidden_loss(ours["hidden"][m], theirs["hidden"][g], mask, projection) for m, g in enumerate(blocks))
    for m, g in list(enumerate(blocks))[1:]:
        loss += attention_loss(attention_scores(ours["query"][m], ours["key"][m], 2),
                               attention_scores(theirs["query"][g], theirs["key"][g], 4), mask)
        loss += sum(relation_loss(ours[kind][m], theirs[kind][g], mask, 4) for kind in ("query", "key", "value"))
    loss.backward()
    matrices = [p for name, p in student.layers.named_parameters() if p.dim() == 2]
    assert loss.isfinite() and all(p.grad.abs().sum() > 0 for p in matrices)


# ---- 4. several teachers -------------------------------------------------------------------------------

@pytest.mark.parametrize("sharpness", [0.5, 2.0, 10.0])
def test_calibrated_temperature_is_the_best_of_a_grid(sharpness):
    logits, gold = random_teachers(teachers=1, sharpness=sharpness)
    grid = torch.logspace(math.log10(0.05), math.log10(20), 4000).tolist()
    best = min(grid, key=lambda temperature: F.cross_entropy(logits[0].double() / temperature, gold).item())
    assert calibrate_temperature(logits[0], gold) == pytest.approx(best, rel=0.005)


def test_calibration_undoes_a_factor_on_the_logits():
    logits, gold = random_teachers(teachers=1)
    assert calibrate_temperature(3 * logits[0], gold) == pytest.approx(3 * calibrate_temperature(logits[0], gold))


def test_temperature_of_a_teacher_without_mistakes_or_without_merit_stops_at_the_bounds():
    gold = torch.tensor([0, 1, 2])
    assert calibrate_temperature(torch.eye(3), gold) == pytest.approx(0.05)
    assert calibrate_temperature(-torch.eye(3), gold) == pytest.approx(20)


def test_given_weights_are_scaled_to_sum_1():
    torch.testing.assert_close(given_weights([1, 3], 2), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(given_weights([1] * 3, 3), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("wrong", [[1.0], [1, 2, 3], [-1, 2], [0, 0], [math.nan, 1], [math.inf, 1]])
def test_impossible_weights_are_an_error(wrong):
    with pytest.raises(ValueError, match="weights"):
        given_weights(wrong, 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_weights_equal_a_search_through_all_mixtures_of_two(seed):
    logits, gold = random_teachers(teachers=2, seed=seed)
    p = F.softmax(logits.double(), -1).gather(2, gold.expand(2, -1)[..., None])[..., 0]
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    nll = -(grid[:, None] * p[0] + (1 - grid[:, None]) * p[1]).log().mean(dim=1)
    assert validation_weights(logits, gold)[0].item() == pytest.approx(grid[nll.argmin()].item(), abs=2e-3)


def test_each_step_towards_validation_weights_lowers_the_cross_entropy():
    logits, gold = random_teachers(teachers=4)
    logits[0] *= -1  # a teacher that is worse than dice
    nll = [F.nll_loss(combine_teachers(logits, validation_weights(logits, gold, steps), 1.0), gold).item()
           for steps in range(12)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(nll)) and nll[-1] < nll[0] - 0.01


def test_validation_weights_concentrate_on_a_perfect_teacher():
    logits, gold = random_teachers(teachers=3)
    logits[1] = 30.0 * F.one_hot(gold, 3)
    assert validation_weights(logits, gold)[1] > 0.999


def test_confidence_and_entropy_weights_equal_plain_numbers():
    logits, gold = random_teachers(teachers=3, texts=5)
    by_confidence, by_entropy = confidence_weights(logits, gold), entropy_weights(logits)
    for n in range(5):
        p = [softmax(logits[k, n].tolist()) for k in range(3)]
        shares = softmax([-math.log(p[k][gold[n]]) for k in range(3)])
        entropies = [-sum(x * math.log(x) for x in p[k]) for k in range(3)]
        for k in range(3):
            assert by_confidence[k, n].item() == pytest.approx((1 - shares[k]) / 2, abs=1e-6)
            assert by_entropy[k, n].item() == pytest.approx((1 - entropies[k] / sum(entropies)) / 2, abs=1e-6)


def test_text_without_a_label_is_weighted_by_entropy():
    logits, gold = random_teachers(texts=4)
    gold[2] = -1
    weights = confidence_weights(logits, gold)
    assert torch.equal(weights[:, 2], entropy_weights(logits)[:, 2])
    assert not torch.isclose(weights[:, 0], entropy_weights(logits)[:, 0]).all()


@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_all_weights_of_every_kind_are_positive_and_sum_to_one(teachers):
    logits, gold = random_teachers(teachers)
    for sharpness in (0.0, 1.0, 1e4):  # teachers that know nothing, something, and everything for sure
        for weights in (validation_weights(sharpness * logits, gold), confidence_weights(sharpness * logits, gold),
                        entropy_weights(sharpness * logits), given_weights([2.0] * teachers, teachers)):
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(0), torch.ones(weights.shape[1:]))
            assert teachers > 1 or (weights == 1).all()


def test_one_teacher_is_the_single_teacher_path_to_the_last_bit():
    logits, gold = random_teachers(teachers=1)
    for weights in (given_weights([3], 1), confidence_weights(logits, gold), validation_weights(logits, gold)):
        assert torch.equal(combine_teachers(logits, weights, 2.0), logits[0])


@pytest.mark.parametrize("per_text", [False, True])
def test_combined_teacher_has_the_weighted_mean_of_the_softened_probabilities(per_text):
    logits, gold = random_teachers()
    weights = confidence_weights(logits, gold) if per_text else given_weights([1, 2, 3], 3)
    combined = combine_teachers(logits, weights, temperature=3.0)
    expected = sum(weights[k].view(-1, 1) * F.softmax(logits[k] / 3.0, -1) for k in range(3))
    torch.testing.assert_close(F.softmax(combined / 3.0, -1), expected)


@pytest.mark.parametrize("loss, temperature", [(soft_target_loss, 3.0), (logit_mse_loss, math.inf)])
def test_combined_teacher_gives_the_gradient_of_the_mean_not_of_the_sum_of_the_teachers_losses(loss, temperature):
    logits, _ = random_teachers(texts=6)
    weights, student = given_weights([1, 2, 3], 3), random_tensor(6, 3, seed=9).requires_grad_()
    combined = combine_teachers(logits, weights, temperature)
    one, = torch.autograd.grad(loss(student, combined, temperature), student)
    many, = torch.autograd.grad(sum(w * loss(student, z, temperature) for w, z in zip(weights, logits, strict=True)),
                                student)
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_copies_of_one_teacher_teach_what_the_one_teaches():
    """The mistake of summing teachers: here two copies would teach twice as much."""
    student, combined = STUDENT, combine_teachers(torch.stack([TEACHER, TEACHER]), given_weights([1, 1], 2), 2.0)
    torch.testing.assert_close(soft_target_loss(student, combined, 2.0), soft_target_loss(student, TEACHER, 2.0))


def test_teacher_of_weight_0_is_silent_and_sure_teachers_that_disagree_stay_finite():
    logits = torch.stack([SURE, SURE.flip(1), 2 * SURE])
    combined = combine_teachers(logits, torch.tensor([0.5, 0.5, 0.0]), 1.0)
    assert combined.isfinite().all()
    torch.testing.assert_close(F.softmax(combined, -1), (F.softmax(SURE, -1) + F.softmax(SURE.flip(1), -1)) / 2)


def test_weights_that_sum_to_the_number_of_teachers_are_an_error():
    with pytest.raises(ValueError, match="sum to 1"):
        combine_teachers(random_teachers()[0], torch.ones(3), 2.0)


# ---- 5. a narrower table -------------------------------------------------------------------------------

def test_narrow_table_is_the_best_of_its_rank():
    """Eckart and Young: the error is the root of the squares of the singular values that were dropped."""
    table, width = random_tensor(50, 8) @ random_tensor(8, 8, seed=1), 3
    narrow, projection = narrow_table(table, width)
    assert narrow.shape == (50, 3) and projection.shape == (8, 3)
    error = torch.linalg.matrix_norm(table - narrow @ projection.T)
    torch.testing.assert_close(error, torch.linalg.svdvals(table)[width:].square().sum().sqrt(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projection.T @ projection, torch.eye(3), atol=1e-5, rtol=0)
    for seed in range(20):
        other = torch.linalg.qr(random_tensor(8, 3, seed=seed)).Q
        assert torch.linalg.matrix_norm(table - table @ other @ other.T) >= error


def test_narrow_table_of_full_width_keeps_all_scalar_products():
    table = random_tensor(20, 8)
    narrow, _ = narrow_table(table, 8)
    torch.testing.assert_close(narrow @ narrow.T, table @ table.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [0, 9])
def test_impossible_width_is_an_error(width):
    with pytest.raises(ValueError, match="width 8"):
        narrow_table(random_tensor(20, 8), width)
