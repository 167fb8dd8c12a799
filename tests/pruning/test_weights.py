"""Single weights: exact counts, scores by hand, the same bits from the file."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from pocketbert.data.batching import batches
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.size import file_bytes
from pocketbert.models.sparse import SparseLinear, to_dense
from pocketbert.models.stored import pack_bits, to_float
from pocketbert.pruning.weights import (
    PARTS,
    apply_masks,
    input_norms,
    magnitude_scores,
    masks_from_scores,
    n_of_m_masks,
    prunable,
    random_scores,
    sparsity_of,
    store_sparse,
    wanda_scores,
)
from small_models import TEXTS, random_model

FAMILIES = ["bert", "roberta", "distilbert"]
LABELS = [2, 1, 1, 0, 2, 1]


@pytest.fixture
def texts(tokenizer):
    """Two padded batches of three texts."""
    return list(batches(tokenizer(TEXTS, 20), LABELS, 3, tokenizer.pad_id))


def odd_scores():
    """Shapes that no power of two divides, and many ties."""
    torch.manual_seed(0)
    return {"a": torch.randint(0, 4, (7, 13)).float(), "b": torch.randn(5, 3), "c": torch.zeros(11, 1)}


def zeros_of(mask):
    return int((~mask).sum())


# --- masks ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_encoders_matrices_are_pruned_unless_asked(family):
    model = random_model(family=family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_masks(model, masks_from_scores(magnitude_scores(model), 0.7))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"layers.{i}.{part}.weight" for i in range(3) for part in (
        "attention.query", "attention.key", "attention.value", "attention.output", "ffn.up", "ffn.down")}
    assert sparsity_of(model) == pytest.approx(0.7, abs=1e-4)
    assert {"embeddings.word", "head.out"} <= set(prunable(model, include=PARTS))
    assert sparsity_of(model, include=PARTS) < 0.7


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999, 1])
def test_counts_are_exact_at_odd_shapes_and_with_ties(share):
    scores = odd_scores()
    assert sum(map(zeros_of, masks_from_scores(scores, share, "global").values())) == round(share * 117)
    for name, mask in masks_from_scores(scores, share, "layer").items():
        assert zeros_of(mask) == round(share * scores[name].numel())
    for name, mask in masks_from_scores(scores, share, "row").items():
        assert (~mask).sum(dim=1).tolist() == [round(share * scores[name].shape[1])] * len(mask)


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_what_goes_never_scores_higher_than_what_stays_and_ties_keep_the_first(scope):
    scores = odd_scores()
    masks = masks_from_scores(scores, 0.5, scope)
    groups = {"global": [(torch.cat([s.flatten() for s in scores.values()]),
                          torch.cat([m.flatten() for m in masks.values()]))],
              "layer": [(scores[n].flatten(), masks[n].flatten()) for n in scores],
              "row": [pair for n in scores for pair in zip(scores[n], masks[n], strict=True)]}[scope]
    for score, mask in groups:
        best = score.argsort(descending=True, stable=True)[:int(mask.sum())]
        assert torch.equal(mask.nonzero().flatten(), best.sort().values)


def test_masked_model_is_the_model_with_zeroed_weights(texts):
    model, by_hand = random_model(), random_model()
    masks = masks_from_scores(magnitude_scores(model), 0.6, "layer")
    apply_masks(model, masks)
    for name in masks:
        weight = by_hand.get_submodule(name).weight.data
        threshold = weight.abs().flatten().sort().values[round(0.6 * weight.numel())]
        weight[weight.abs() < threshold] = 0
    assert torch.equal(model(texts[0].input_ids, texts[0].attention_mask),
                       by_hand(texts[0].input_ids, texts[0].attention_mask))
    assert not any(torch.signbit(model.get_submodule(name).weight[~mask]).any() for name, mask in masks.items())


def test_random_scores_are_shaped_like_the_weights_and_differ_between_draws():
    model = random_model()
    one, two = random_scores(model), random_scores(model)
    assert all(one[n].shape == m.weight.shape for n, m in prunable(model).items())
    assert not torch.equal(one["layers.0.ffn.up"], two["layers.0.ffn.up"])


@pytest.mark.parametrize("n, m, columns", [(2, 4, 12), (1, 4, 8), (2, 4, 11), (3, 4, 5)])
def test_n_of_m_pattern_holds_in_every_group(n, m, columns):
    torch.manual_seed(0)
    scores = torch.randint(0, 3, (9, columns)).float()
    mask = n_of_m_masks({"a": scores}, n, m)["a"]
    for start in range(0, columns, m):
        group, kept = scores[:, start:start + m], mask[:, start:start + m]
        assert (kept.sum(dim=1) == min(n, group.shape[1])).all()
        assert (group.masked_fill(~kept, math.inf).amin(dim=1) >= group.masked_fill(kept, -math.inf).amax(dim=1)).all()


def test_impossible_requests_are_a_clear_error():
    with pytest.raises(ValueError, match="share of weights that goes"):
        masks_from_scores(odd_scores(), 90)
    with pytest.raises(ValueError, match="5:4"):
        n_of_m_masks(odd_scores(), 5, 4)
    with pytest.raises(ValueError, match="NaN"):
        masks_from_scores({"a": torch.tensor([[1.0, math.nan]])}, 0.5)
    with pytest.raises(ValueError, match="prune embeddings by magnitude"):
        wanda_scores(random_model(), [], include=["embeddings"])


# --- Wanda ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_wanda_equals_a_computation_by_hand_text_by_text(family, tokenizer):
    """No hooks, no padding: each layer's inputs written out for one text at a time."""
    model, ids = random_model(family=family), tokenizer(TEXTS, 20)
    scores = wanda_scores(model, list(batches(ids, LABELS, 4, model.config.pad_token_id)))
    squares = {name: torch.zeros(module.in_features) for name, module in prunable(model).items()}
    with torch.no_grad():
        for row in ids:
            x = model.embeddings(torch.tensor([row]))
            for i, layer in enumerate(model.layers):
                a, last = layer.attention, i == len(model.layers) - 1
                q, k, v = (a.split_heads(part(x)) for part in (a.query, a.key, a.value))
                context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
                y = layer.attention_norm(x + a.output(context))
                neurons = layer.ffn.activation(layer.ffn.up(y))
                for part, seen in {"attention.query": x, "attention.key": x, "attention.value": x,
                                   "attention.output": context, "ffn.up": y, "ffn.down": neurons}.items():
                    if last and part not in ("attention.key", "attention.value"):
                        seen = seen[:, :1]  # the last layer answers for the first token alone
                    squares[f"layers.{i}.{part}"] += seen[0].square().sum(dim=0)
                x = layer.ffn_norm(y + layer.ffn.down(neurons))
    for name, module in prunable(model).items():
        torch.testing.assert_close(scores[name], module.weight.detach().abs() * squares[name].sqrt(),
                                   rtol=1e-4, atol=1e-5)


def test_padding_and_batching_do_not_change_wandas_norms(tokenizer):
    model, ids = random_model(), tokenizer(TEXTS, 20)
    modules = prunable(model, include=["head"])
    alone = input_norms(model, batches(ids, LABELS, 1, 0), modules)
    padded = input_norms(model, batches(ids + [[2, 3]], [*LABELS, 0], 7, 0), modules)
    two_tokens = input_norms(model, batches([[2, 3]], [0], 1, 0), modules)
    for name in modules:
        expected = (alone[name] ** 2 + two_tokens[name] ** 2).sqrt()
        torch.testing.assert_close(padded[name], expected, rtol=1e-4, atol=1e-5)
    assert not model.layers[0].ffn.up._forward_pre_hooks  # and the hooks are gone


# --- the stored format -------------------------------------------------------------------------------------

def sparse_linear(rows=7, columns=13, share=0.6, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(columns, rows)
    linear.weight.data[torch.rand(rows, columns) < share] = 0
    return linear


@pytest.mark.parametrize("rows, columns", [(7, 13), (1, 1), (8, 8), (3, 5), (1, 9)])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_packing_is_exact_at_odd_shapes(rows, columns, share):
    linear = sparse_linear(rows, columns, share)
    layer = SparseLinear.from_float(linear)
    assert torch.equal(layer.dequantize(), linear.weight) and torch.equal(to_float(layer).weight, linear.weight)
    assert len(layer.bitmap) == math.ceil(rows * columns / 8) and len(layer.values) == int((linear.weight != 0).sum())
    x = torch.randn(4, columns)
    assert torch.equal(layer(x), linear(x))


def test_bits_are_packed_lowest_first():
    assert pack_bits(torch.tensor([True, False, False, True] + [False] * 4 + [True])).tolist() == [9, 1]


def test_negative_zero_denormals_and_nan_keep_their_bits_and_only_positive_zero_is_left_out():
    linear = nn.Linear(6, 1)
    linear.weight.data = torch.tensor([[0.0, -0.0, 1e-42, -1e-45, math.nan, math.inf]])
    layer = SparseLinear.from_float(linear)
    assert layer.bitmap.tolist() == [0b111110] and len(layer.values) == 5
    assert torch.equal(layer.dequantize().view(torch.int32), linear.weight.data.view(torch.int32))


def sparse_model(share=0.9, **options):
    model = random_model(**options)
    apply_masks(model, masks_from_scores(magnitude_scores(model), share))
    return model


def test_fresh_process_computes_the_bits_of_the_masked_dense_model(tmp_path, tokenizer, padded_batch):
    dense = sparse_model()
    model = store_sparse(dense)
    assert torch.equal(model(*padded_batch), dense(*padded_batch))
    save_model(model, tokenizer, tmp_path / "sparse", run={})
    torch.save(padded_batch, tmp_path / "batch.pt")
    script = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from model_utils import load_model
model, _ = load_model({str(tmp_path / "sparse")!r})
torch.save(model(*torch.load({str(tmp_path / "batch.pt")!r}, weights_only=True)), {str(tmp_path / "logits.pt")!r})"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), dense(*padded_batch))


def test_file_has_the_computed_bytes_and_at_most_a_quarter_of_the_dense_encoder(tmp_path, tokenizer):
    dense = sparse_model(0.9, layers=2, heads=8, neurons=256)
    modules = prunable(dense).values()
    weights = sum(m.weight.numel() for m in modules)
    for name, model in (("dense", dense), ("sparse", store_sparse(dense))):
        save_model(model, tokenizer, tmp_path / name, run={})

    def encoder_bytes(name):
        return sum(t.numel() * t.element_size() for key, t in load_file(tmp_path / name / "model.safetensors").items()
                   if ".encoder.layer." in key)

    saved = sum(4 * int((m.weight == 0).sum()) - math.ceil(m.weight.numel() / 8) for m in modules)
    assert encoder_bytes("dense") - encoder_bytes("sparse") == saved
    assert saved == pytest.approx(4 * weights * (1 - 1 / 32 - 0.1), rel=1e-3)
    assert encoder_bytes("sparse") <= 0.25 * encoder_bytes("dense")
    difference = file_bytes(tmp_path / "dense")["model"] - file_bytes(tmp_path / "sparse")["model"]
    assert abs(difference - saved) < 4_000  # the header with the names


def test_matrices_that_would_grow_stay_dense_and_a_loaded_sparse_model_becomes_plain_again(tmp_path, tokenizer):
    assert not store_sparse(random_model()).config.stored_formats
    model = sparse_model()
    save_model(store_sparse(model), tokenizer, tmp_path / "sparse", run={})
    loaded, _ = load_model(tmp_path / "sparse")
    assert set(loaded.config.stored_formats) == set(prunable(model))
    with pytest.raises(ValueError, match="no fp32 matrices"):
        prunable(nn.Sequential(SparseLinear.from_float(sparse_linear())))
    plain = to_dense(loaded)
    assert not plain.config.stored_formats and loaded.config.stored_formats
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("damage", ["bit", "spare", "values", "dtype", "missing"])
def test_damaged_sparse_tensors_are_a_one_line_error(damage, tmp_path, tokenizer):
    model = sparse_model(neurons=25, head_size=7, hidden_size=33)  # 825 weights: 104 bytes, 7 spare bits
    save_model(store_sparse(model), tokenizer, tmp_path / "m", run={})
    path, up = tmp_path / "m" / "model.safetensors", "bert.encoder.layer.0.intermediate.dense"
    stored = load_file(path)
    if damage == "bit":
        stored[f"{up}.bitmap"][3] ^= 1
    elif damage == "spare":
        bitmap = stored[f"{up}.bitmap"]
        first = int(bitmap.nonzero()[0])
        bitmap[first] &= bitmap[first] - 1  # one bit moves to where no weight is: the count is still right
        bitmap[-1] |= 128
    elif damage == "values":
        stored[f"{up}.values"] = stored[f"{up}.values"][:-1].clone()
    elif damage == "dtype":
        stored[f"{up}.values"] = stored[f"{up}.values"].to(torch.int32)
    else:
        del stored[f"{up}.values"]
    save_file(stored, path)
    (tmp_path / "m" / "run.json").unlink()  # its hashes would tell the damage first
    words = {"bit": ".*damaged", "spare": ".*spare bits"}.get(damage, "")
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.up" + words) as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_cache_made_while_predicting_can_take_part_in_a_later_backward_pass(padded_batch):
    """As a teacher, or for the importance of heads: the gradient goes through the sparse layers to the masks."""
    dense = sparse_model()
    model = store_sparse(dense)
    with torch.inference_mode():
        model(*padded_batch)
    mask = torch.ones(3, 4, requires_grad=True)
    ours, = torch.autograd.grad(model(*padded_batch, head_mask=mask).sum(), mask)
    theirs, = torch.autograd.grad(dense(*padded_batch, head_mask=mask).sum(), mask)
    assert torch.equal(ours, theirs)


def test_loading_new_numbers_forgets_the_rebuilt_matrix():
    one, two = (SparseLinear.from_float(sparse_linear(seed=seed, share=0.0)) for seed in (0, 1))
    x = torch.randn(2, 13)
    assert not torch.equal(one(x), two(x))
    one.load_state_dict(two.state_dict())
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("format_name", ["sparse_linear", "sparse_linear:many", "sparse_linear:-3", "int8_linear:7"])
def test_malformed_format_is_a_one_line_error(format_name, tmp_path, tokenizer):
    save_model(store_sparse(sparse_model()), tokenizer, tmp_path / "m", run={})
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["stored_forms"]["layers.0.ffn.up"] = format_name
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "run.json").unlink()  # its hashes would tell the damage first
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.up") as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value)
