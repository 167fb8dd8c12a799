"""The arithmetic of few bits: bounds, GPTQ against rounding, k-means against scikit-learn, gradients of centroids."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.quantization.clusters import ClusteredMatrix, ClusteredWeights, gather_codebook, store_clusters
from pocketbert.quantization.gptq import gptq, input_hessians, layer_error, store_groups
from pocketbert.quantization.groups import GroupMatrix, float16_above, group_grid, nearest_codes, round_to_nearest
from pocketbert.quantization.kmeans import initial_centroids, kmeans
from small_models import random_model

SHAPES = [(1, 1), (3, 5), (7, 130), (16, 64)]


def weights(rows=7, columns=130, seed=0):
    torch.manual_seed(seed)
    return 0.05 * torch.randn(rows, columns)


def linear(weight):
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight.data = weight.clone()
    return module


# --- round to nearest ------------------------------------------------------------------------------------

def test_float16_above_is_the_next_float16_not_below():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1000) * 10.0 ** torch.randint(-9, 5, (1000,)), torch.tensor([0.0, -0.0, 65504.0, 1.0])])
    above = float16_above(x)
    assert (above.float() >= x).all() and torch.equal(above[-4:].float(), x[-4:])
    below = np.nextafter(above.numpy(), np.float16(-np.inf)).astype(np.float32)
    assert (below < x.numpy()).all()


@pytest.mark.parametrize("rows, columns", SHAPES)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [1, 7, 64, 1000])
def test_rounding_error_is_at_most_half_a_step_also_at_the_ends_of_the_grid(rows, columns, bits, group_size):
    weight = weights(rows, columns) + 0.3
    codes, scale, low = round_to_nearest(weight, bits, group_size)
    assert codes.shape == weight.shape and scale.shape == low.shape == (rows, math.ceil(columns / group_size))
    assert int(codes.max()) < 2 ** bits and scale.dtype == low.dtype == torch.float16
    step = scale.float().repeat_interleave(group_size, dim=1)[:, :columns]
    stored = GroupMatrix.from_codes(linear(weight), codes, scale, low, bits, group_size).dequantize()
    assert ((stored - weight).abs() <= step / 2 + 1e-6).all()
    # and the step is not wider than the group needs, but for float16's 11 digits and smallest number
    for group, s in zip(weight.split(group_size, dim=1), scale.T, strict=True):
        spread = (group.amax(dim=1) - group.amin(dim=1)) * (1 + 2 ** -9) + 2 ** -10 * group.abs().amax(dim=1)
        assert (s.float() <= spread / (2 ** bits - 1) + 2 ** -24).all()


def test_a_group_has_its_own_grid_and_the_last_one_may_be_shorter():
    weight = weights(2, 10)
    weight[:, 4:8] *= 1000
    _, scale, _ = round_to_nearest(weight, 4, 4)
    assert scale.shape == (2, 3) and (scale[:, 1] > 50 * scale[:, [0, 2]].amax(dim=1)).all()
    _, alone, _ = round_to_nearest(weight[:, 8:], 4, 4)
    assert torch.equal(scale[:, 2:], alone)


def test_more_bits_and_smaller_groups_bring_smaller_errors():
    module = linear(weights(40, 256))
    def error(bits, size):
        return (store_groups(module, bits, size).dequantize() - module.weight).square().mean().item()
    assert error(2, 64) > 3 * error(3, 64) > 9 * error(4, 64) > 2000 * error(8, 64)
    assert error(4, 256) > error(4, 64) > error(4, 16)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 65504.0, -65504.0, 1e-3])
def test_constant_groups_are_kept_and_zeros_are_exact(value):
    layer = store_groups(linear(torch.full((2, 5), value)), 4, 4)
    torch.testing.assert_close(layer.dequantize(), torch.full((2, 5), value), rtol=2 ** -14, atol=0)
    assert value != 0 or not layer.dequantize().any() and not layer.scale.any()


def test_ranges_below_float16_keep_the_bound_of_its_smallest_step():
    weight = torch.tensor([[1e-9, -1e-9, 3e-8, 0.0], [0.5, 0.5 + 1e-7, 0.5, 0.5], [1e-30, 0, 0, 0]])
    layer = store_groups(linear(weight), 4, 4)
    assert (layer.dequantize() - weight).abs().max() <= 2 ** -25 and torch.isfinite(layer.dequantize()).all()


@pytest.mark.parametrize("value", [65505.0, 1e6, math.nan, math.inf, -math.inf])
def test_weights_beyond_float16_or_not_finite_are_refused(value):
    weight = weights()
    weight[2, 3] = value
    with pytest.raises(ValueError, match="do not fit a grid in float16"):
        round_to_nearest(weight, 4, 64)
    weight[2, 3] = 65504
    assert torch.isfinite(store_groups(linear(weight), 2, 64).dequantize()).all()


# --- GPTQ ------------------------------------------------------------------------------------------------

def correlated(columns, samples=2000, seed=0):
    """Inputs that are mixtures of fewer sources, as hidden states are, and their H."""
    torch.manual_seed(seed)
    x = torch.randn(samples, columns // 4) @ torch.randn(columns // 4, columns) + 0.3 * torch.randn(samples, columns)
    return x, 2 / samples * (x.T @ x).double()


@pytest.mark.parametrize("bits, group_size", [(2, 64), (3, 32), (4, 64), (4, 1000), (8, 64)])
@pytest.mark.parametrize("columns", [64, 130])
def test_gptq_beats_rounding_where_inputs_are_correlated(bits, group_size, columns):
    module, (_, H) = linear(weights(24, columns)), correlated(columns)
    rounded, compensated = (store_groups(module, bits, group_size, h) for h in (None, H))
    assert compensated.format == rounded.format
    errors = [layer_error(module.weight, layer.dequantize(), H) for layer in (compensated, rounded)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("diagonal", [torch.ones(130), torch.arange(1, 131), torch.arange(130) % 3],
                         ids=["identity", "diagonal", "inputs that are 0"])
def test_gptq_is_rounding_where_inputs_are_uncorrelated(diagonal):
    weight = weights()
    ours = gptq(weight, torch.diag(diagonal), 3, 32)
    for one, other in zip(ours, round_to_nearest(weight, 3, 32), strict=True):
        assert torch.equal(one, other)


def test_gptq_is_the_papers_algorithm_one_column_at_a_time():
    """Solved anew after every column, without Cholesky: the best move of the columns that are left (Frantar, eq. 2)."""
    weight, (_, H) = weights(40, 12), correlated(12)
    input_sizes = torch.logspace(-2, 1, 12)
    H = input_sizes[:, None] * H * input_sizes
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(12)
    W, codes = weight.double().clone(), torch.empty(40, 12, dtype=torch.uint8)
    for j in range(12):
        if j % 4 == 0:
            scale, low = (t.double() for t in group_grid(W[:, j:j + 4].float(), 4))
        codes[:, j] = nearest_codes(W[:, j], scale, low, 4)
        inverse = torch.linalg.inv(damped[j:, j:])
        error = (W[:, j] - (low + scale * codes[:, j])) / inverse[0, 0]
        W[:, j:] -= error[:, None] * inverse[0]
    assert torch.equal(gptq(weight, H, 4, 4)[0], codes)


def test_weights_of_an_input_that_is_always_0_are_rounded_to_nearest_and_change_no_other():
    weight, (_, H) = weights(5, 16), correlated(16)
    wide, wide_H = torch.cat([weight, weights(5, 16, seed=1)], dim=1), F.pad(H, (0, 16, 0, 16))
    wide_H.diagonal()[16:] = 0
    codes, scale, low = gptq(wide, wide_H, 4, 16, damping=0.01)
    rounded = round_to_nearest(wide[:, 16:], 4, 16)
    for one, other in zip((codes[:, 16:], scale[:, 1:], low[:, 1:]), rounded, strict=True):
        assert torch.equal(one, other)
    others = gptq(weight, H, 4, 16, damping=0.005)  # the mean of the diagonal is half as large there
    assert torch.equal(codes[:, :16], others[0])
    for same in gptq(weight, torch.zeros(16, 16), 4, 16)[:1]:
        assert torch.equal(same, round_to_nearest(weight, 4, 16)[0])


def test_gptq_changes_neither_weight_nor_hessian_and_gives_the_same_twice():
    weight, (_, H) = weights(), correlated(130)
    before = weight.clone(), H.clone()
    one, two = gptq(weight, H, 4, 64), gptq(weight, H, 4, 64)
    assert torch.equal(weight, before[0]) and torch.equal(H, before[1])
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("hessian", [-torch.eye(130), torch.full((130, 130), math.nan)])
def test_impossible_hessian_is_a_clear_error(hessian):
    with pytest.raises(ValueError, match="Hessian"):
        gptq(weights(), hessian, 4, 64)


def test_layer_error_is_the_relative_squared_error_of_the_outputs():
    weight, (x, H) = weights(24, 64), correlated(64)
    approximation = weight + 0.01 * torch.randn(24, 64)
    outputs, off = x @ weight.T, x @ (weight - approximation).T
    assert layer_error(weight, approximation, H) == pytest.approx(
        float(off.square().sum() / outputs.square().sum()), rel=1e-4)
    assert layer_error(weight, weight, H) == 0 and layer_error(weight, 0 * weight, H) == 1


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_hessians_of_a_padded_batch_are_those_of_the_texts_one_by_one(family, padded_batch):
    model = random_model(family=family)
    names = ["layers.0.attention.query", "layers.1.ffn.down", "layers.2.attention.output", "layers.2.attention.key",
             "head.out"]
    ids, mask = padded_batch
    together = input_hessians(model, [SimpleNamespace(input_ids=ids, attention_mask=mask)], names)
    alone = [SimpleNamespace(input_ids=row[None, :n], attention_mask=torch.ones(1, n, dtype=torch.long))
             for row, n in zip(ids, mask.sum(dim=1).tolist(), strict=True)]
    one_by_one = input_hessians(model, alone, names)
    for name in names:
        torch.testing.assert_close(together[name], one_by_one[name], rtol=1e-4, atol=2e-5)
        assert together[name].dtype == torch.float64
    # by hand for the first matrix: all 22 real tokens; and for the last layer's queries: the four first ones
    x = model.embeddings(ids)[mask.bool()].double()
    torch.testing.assert_close(together[names[0]], 2 / 22 * x.T @ x, rtol=1e-4, atol=2e-5)
    assert torch.linalg.matrix_rank(together["layers.2.attention.output"], rtol=1e-5) == 4
    assert torch.linalg.matrix_rank(together["layers.2.attention.key"], rtol=1e-5) > 4
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hessians_without_inputs_are_a_clear_error(padded_batch):
    with pytest.raises(ValueError, match="embeddings.word"):
        input_hessians(random_model(), [], ["embeddings.word"])
    with pytest.raises(ValueError, match="no texts"):
        input_hessians(random_model(), [], ["layers.0.ffn.up"])


# --- k-means ---------------------------------------------------------------------------------------------

def inertia(values, centroids):
    return (values.double()[:, None] - centroids.double()).square().amin(dim=1).sum().item()


def heavy_tailed(count=3000, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count) * torch.exp(0.5 * torch.randn(count))


@pytest.mark.parametrize("k", [2, 5, 16])
def test_kmeans_is_scikit_learns_from_the_same_starting_points(k):
    cluster = pytest.importorskip("sklearn.cluster")
    torch.manual_seed(0)
    values = torch.rand(3000)  # no cluster is empty at the start: those are moved by another rule there
    start = initial_centroids(values.sort().values, k)
    theirs = cluster.KMeans(k, init=start[:, None].numpy(), n_init=1, max_iter=1000, tol=0).fit(
        values.double()[:, None].numpy())
    ours, _ = kmeans(values, k, iterations=1000)
    expected = torch.from_numpy(theirs.cluster_centers_[:, 0]).sort().values.float()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 16, 200])
def test_every_iteration_lowers_the_inertia_until_each_centroid_is_the_mean_of_its_nearest(k):
    values = heavy_tailed()
    errors = [inertia(values, kmeans(values, k, iterations)[0]) for iterations in range(12)]
    assert all(after <= before * (1 + 1e-6) for before, after in zip(errors[:-1], errors[1:], strict=True))
    assert k == 1 or errors[-1] < errors[0]
    centroids, indices = kmeans(values, k, iterations=2000)
    assert torch.equal(centroids, centroids.sort().values) and centroids.dtype == torch.float32
    assert indices.dtype == torch.uint8 and centroids.shape == (k,)
    nearest = (values[:, None] - centroids).abs().argmin(dim=1)
    assert (nearest != indices).float().mean() < 1e-3  # ties
    means = torch.zeros(k).index_add(0, nearest, values) / torch.bincount(nearest, minlength=k)
    torch.testing.assert_close(centroids, means, rtol=1e-4, atol=1e-5)  # also says that no cluster is empty


def test_starting_points_are_evenly_spaced_from_the_smallest_to_the_largest_value():
    assert initial_centroids(torch.arange(101.0) ** 2, 5).tolist() == [0, 2500, 5000, 7500, 10000]


def test_empty_clusters_move_to_where_the_error_is():
    """One value far out leaves all but two of the evenly spaced centroids without values."""
    values = torch.cat([torch.randn(500).abs(), torch.tensor([1000.0])])
    centroids, indices = kmeans(values, 8)
    assert (torch.bincount(indices, minlength=8) > 0).all() and inertia(values, centroids) < 20


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0], [1.0, 1.0, 5.0, -3.0], [0.0, 0.0], [0.0] * 9 + [7.0]])
def test_fewer_different_values_than_clusters_are_all_exact(values):
    values = torch.tensor(values)
    centroids, indices = kmeans(values, 6)
    assert torch.equal(centroids[indices.long()], values) and centroids.shape == (6,)


@pytest.mark.parametrize("k", [2, 16, 256])
def test_zeros_of_a_pruned_matrix_stay_exactly_zero_and_do_not_change_the_other_centroids(k):
    values = heavy_tailed(4000).view(40, 100)
    zeros = values.abs() < values.abs().flatten().kthvalue(3600).values
    values[zeros] = 0
    centroids, indices = kmeans(values, k)
    assert not centroids[indices.long()][zeros].any() and int((centroids == 0).sum()) == 1
    assert indices.shape == values.shape and torch.equal(centroids, centroids.sort().values)
    alone, _ = kmeans(values[~zeros], k - 1)
    assert torch.equal(centroids[centroids != 0], alone)
    assert not store_clusters(linear(values), k).dequantize()[zeros].any()


def test_few_zeros_are_values_like_others():
    values = heavy_tailed(1000)
    values[:20] = 0
    assert (kmeans(values, 16)[0] != 0).all()


def test_kmeans_gives_the_same_twice_and_leaves_the_random_generator_alone():
    values = heavy_tailed()
    state = torch.random.get_rng_state()
    one = kmeans(values, 16)
    two = kmeans(values, 16)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("k", [0, 257, -1])
def test_impossible_number_of_clusters_is_a_clear_error(k):
    with pytest.raises(ValueError, match="1 to 256"):
        kmeans(heavy_tailed(), k)


# --- fine-tuned centroids --------------------------------------------------------------------------------

def test_gradient_of_the_codebook_is_that_of_autograd():
    torch.manual_seed(0)
    codebook = torch.randn(16, dtype=torch.float64, requires_grad=True)
    indices, gradient = torch.randint(0, 15, (30, 40), dtype=torch.uint8), torch.randn(30, 40, dtype=torch.float64)
    ours, = torch.autograd.grad(gather_codebook(codebook, indices), codebook, gradient)
    theirs, = torch.autograd.grad(codebook[indices.long()], codebook, gradient)
    torch.testing.assert_close(ours, theirs)
    assert ours[15] == 0 and ours.dtype == torch.float64  # a cluster without weights
    assert torch.equal(gather_codebook(codebook, indices), codebook[indices.long()])


def test_gradient_of_many_small_numbers_loses_no_digits():
    codebook, indices = torch.zeros(2, requires_grad=True), torch.zeros(1_000_000, dtype=torch.uint8)
    gradient = torch.full((1_000_000,), 0.1)
    gradient[0] = 1e5
    ours, = torch.autograd.grad(gather_codebook(codebook, indices), codebook, gradient)
    assert ours[0].item() == pytest.approx(gradient.double().sum().item(), rel=1e-7)


@pytest.mark.parametrize("is_table", [False, True], ids=["linear", "table"])
def test_clustered_weights_compute_and_learn_like_a_layer_with_tied_weights(is_table):
    weight = weights(20, 30)
    module = nn.Embedding.from_pretrained(weight, freeze=False) if is_table else linear(weight)
    codebook, indices = kmeans(weight, 8)
    ours, tied = ClusteredWeights(module, codebook, indices), codebook.clone().requires_grad_()
    x = torch.tensor([[3, 3, 19], [0, 1, 2]]) if is_table else torch.randn(4, 30)
    W = tied[indices.long()]
    theirs = F.embedding(x, W) if is_table else F.linear(x, W, module.bias)
    assert torch.equal(ours(x), theirs) and torch.equal(ours.weight, W)
    ours(x).square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(ours.codebook.grad, tied.grad)
    names = {name for name, _ in ours.named_parameters()}
    assert names == ({"codebook"} if is_table else {"codebook", "bias"})
    assert is_table or ours.bias is module.bias


@pytest.mark.parametrize("is_table", [False, True], ids=["linear", "table"])
def test_trained_centroids_fit_better_keep_zeros_and_are_stored_as_they_are(is_table):
    weight = weights(20, 30)
    zeros = weight.abs() < 0.05
    weight[zeros] = 0
    module = nn.Embedding.from_pretrained(weight, freeze=False) if is_table else linear(weight)
    layer = ClusteredWeights(module, *kmeans(weight, 5))
    x = torch.arange(20) if is_table else torch.randn(200, 30)
    target = module(x).detach() * 1.3 + 0.02
    optimizer, losses = torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.1), []
    for _ in range(40):
        loss = F.mse_loss(layer(x), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0] and not layer.weight[zeros].any()
    stored = layer.to_stored()
    assert isinstance(stored, ClusteredMatrix) and torch.equal(stored.dequantize(), layer.weight)
    assert torch.equal(stored(x), layer(x)) and not stored.codebook.requires_grad
    before = stored.codebook.clone()
    layer.codebook.data += 1
    assert torch.equal(stored.codebook, before)  # no memory is shared


def test_store_clusters_is_kmeans_and_nothing_else():
    weight = weights()
    codebook, indices = kmeans(weight, 16)
    layer = store_clusters(linear(weight), 16)
    assert torch.equal(layer.dequantize(), codebook[indices.long()]) and layer.format.startswith("clusters:16:")
