"""The losses on inner tensors against loops by hand, and what InnerLosses makes of them."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.data.batching import make_batch
from pocketbert.distillation.inner import (
    InnerLosses,
    InnerWeights,
    attention_loss,
    attention_scores,
    hidden_loss,
    layer_map,
    relation_loss,
)
from pocketbert.models.hooks import record_outputs
from small_models import random_model


def softmax(row, temperature=1.0):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_layer_map_spreads_the_student_over_the_teacher():
    assert layer_map(4, 12) == [0, 3, 6, 9, 12]
    assert layer_map(4, 6) == [0, 2, 3, 5, 6]  # 1.5, 3, 4.5, 6 with halves rounded up
    for N in range(1, 13):
        assert layer_map(N, N) == list(range(N + 1))
        for M in range(1, N):
            blocks = layer_map(M, N)
            assert blocks[0] == 0 and blocks[-1] == N and blocks == sorted(set(blocks)), (M, N)


@pytest.mark.parametrize("depths", [(4, 3), (0, 3)])
def test_student_that_is_deeper_than_its_teacher_or_empty_is_an_error(depths):
    with pytest.raises(ValueError, match="cannot be mapped"):
        layer_map(*depths)


# ---- InnerLosses ---------------------------------------------------------------------------------------

BATCH = make_batch([[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]], [0, 1, 2], [0, 1, 2], 0)


def inner_loss(student, teacher, **weights):
    return InnerLosses(student, teacher, InnerWeights(**weights))(student, teacher, BATCH)[1]


@torch.no_grad()
def recorded(model):
    with record_outputs(model) as outputs:
        model(BATCH.input_ids, BATCH.attention_mask, all_tokens=True)
    return outputs


def test_inner_losses_of_a_model_against_itself_are_zero():
    model = random_model()
    assert inner_loss(model, model, hidden=1, attention=1, relations=1).item() == pytest.approx(0, abs=1e-5)


def test_inner_losses_are_the_weighted_sum_of_their_parts():
    student, teacher = random_model(seed=1), random_model(seed=2)
    hidden = inner_loss(student, teacher, hidden=1)
    attention = inner_loss(student, teacher, attention=1)
    relations = inner_loss(student, teacher, relations=1)
    assert min(hidden, attention, relations) > 0.01
    torch.testing.assert_close(inner_loss(student, teacher, hidden=2, attention=3, relations=4),
                               2 * hidden + 3 * attention + 4 * relations)


def test_student_logits_are_those_of_a_plain_forward_pass():
    student, teacher = random_model(seed=1), random_model(seed=2)
    logits, _ = InnerLosses(student, teacher, InnerWeights(hidden=1))(student, teacher, BATCH)
    torch.testing.assert_close(logits, student(BATCH.input_ids, BATCH.attention_mask))


def test_hidden_part_is_the_loss_of_all_blocks_and_of_the_first_token_of_the_last_block():
    student, teacher = random_model(seed=1), random_model(seed=2)
    ours, theirs = recorded(student)["hidden"], recorded(teacher)["hidden"]
    by_hand = sum(hidden_loss(ours[i], theirs[i], BATCH.attention_mask) for i in range(3))
    by_hand += F.mse_loss(ours[3][:, 0], theirs[3][:, 0])
    torch.testing.assert_close(inner_loss(student, teacher, hidden=1), by_hand)


def test_attention_part_is_the_loss_of_all_blocks_and_of_the_first_query_of_the_last_block():
    student, teacher = random_model(seed=1), random_model(seed=2)

    def block_scores(model):
        outputs = recorded(model)
        return [attention_scores(outputs["query"][i], outputs["key"][i], 4) for i in (1, 2, 3)]
    ours, theirs = block_scores(student), block_scores(teacher)
    by_hand = sum(attention_loss(ours[i], theirs[i], BATCH.attention_mask) for i in range(2))
    by_hand += attention_loss(ours[2][:, :, :1], theirs[2][:, :, :1], BATCH.attention_mask)
    torch.testing.assert_close(inner_loss(student, teacher, attention=1), by_hand)


def test_relation_part_is_the_mean_over_query_key_and_value_of_the_last_block():
    student, teacher = random_model(seed=1), random_model(seed=2)
    ours, theirs = recorded(student), recorded(teacher)
    by_hand = sum(relation_loss(ours[kind][3], theirs[kind][3], BATCH.attention_mask, 4)
                  for kind in ("query", "key", "value")) / 3
    torch.testing.assert_close(inner_loss(student, teacher, relations=1), by_hand)


def test_projection_is_the_only_parameter_and_only_where_the_widths_differ():
    narrow, wide = random_model(heads=2), random_model(heads=4)
    projection, = InnerLosses(narrow, wide, InnerWeights(hidden=1)).parameters()
    assert projection.shape == (32, 16)
    assert not list(InnerLosses(wide, wide, InnerWeights(hidden=1)).parameters())
    assert not list(InnerLosses(narrow, wide, InnerWeights(attention=1, relations=1)).parameters())


def test_relation_heads_that_do_not_divide_the_query_are_refused_before_the_training():
    with pytest.raises(ValueError, match="does not divide 32"):
        InnerLosses(random_model(), random_model(), InnerWeights(relations=1, relation_heads=5))


def test_all_losses_of_a_narrower_and_shallower_student_are_finite_and_reach_every_matrix():
    student, teacher = random_model(layers=2, heads=2), random_model(layers=3, heads=4)
    losses = InnerLosses(student, teacher, InnerWeights(hidden=1, attention=1, relations=1, relation_heads=4))
    logits, loss = losses(student, teacher, BATCH)
    (loss + logits.sum()).backward()
    assert loss.isfinite()
    for name, parameter in [*student.named_parameters(), *losses.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # Row t of the relations does not change when a constant is added to all keys.
        assert parameter.grad.abs().sum() > 0 or "key.bias" in name, name
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
