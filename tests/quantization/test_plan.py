"""Plans: which matrix gets which format; sensitivity; the bytes of each part."""

import pytest
import torch
from torch import nn

from pocketbert.data.batching import batches
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.models.size import file_bytes
from pocketbert.models.sparse import SparseLinear
from pocketbert.models.stored import replace_module
from pocketbert.quantization.clusters import share_weights
from pocketbert.quantization.plan import METHODS, PLAN_FORMATS, parse_plan, sparse_to_float, store_all, store_matrix
from pocketbert.quantization.sensitivity import divergence, keep_sensitive, sensitivity
from pocketbert.quantization.sizes import bytes_table, cluster_bits, fp32_bytes, tensor_bytes
from small_models import RECURRENT, quantized, random_model, random_recurrent

PLANS = ["embeddings=fp16,encoder=bf16,head=fp16", "embeddings=int8-weights,encoder=int8-weights",
         "embeddings=int4,encoder=int8", "embeddings=int4,encoder=gptq,head=int8-weights", "embeddings=nf4,encoder=nf4",
         "embeddings=clusters,encoder=clusters", "embeddings=int4,encoder=fp16,layers.0=int8,layers.1=nf4"]


@pytest.mark.parametrize("make", [random_model, lambda: random_recurrent(RECURRENT["cnn"])], ids=["bert", "cnn"])
@pytest.mark.parametrize("plan", PLANS)
def test_every_format_gives_the_same_bits_after_loading(make, plan, tmp_path, tokenizer, padded_batch):
    texts = list(batches([[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]] * 8, None, 6, 0))
    model = quantized(make(), plan, texts)
    before = model(*padded_batch)
    save_model(model, tokenizer, tmp_path / "m", run={})
    assert torch.equal(load_model(tmp_path / "m")[0](*padded_batch), before)


def test_every_format_of_a_plan_can_be_stored():
    module = nn.Linear(16, 8)
    for format_name in set(PLAN_FORMATS) - {"fp32"}:
        assert store_matrix(module, format_name, group_size=8).dequantize().shape == (8, 16)
    with pytest.raises(ValueError, match="'int3' is not one of"):
        store_matrix(module, "int3")
    for plan in METHODS.values():
        assert parse_plan(plan, random_model())


def test_later_parts_of_a_plan_override_earlier_ones():
    formats = parse_plan("encoder=int8,layers.1=int4,layers.1.ffn.up=fp32", random_model())
    assert formats["layers.0.ffn.up"] == "int8" and formats["layers.1.ffn.down"] == "int4"
    assert "layers.1.ffn.up" not in formats and not any(name.startswith(("head", "embeddings")) for name in formats)


@pytest.mark.parametrize("plan, message", [("encoder=int3", "int3"), ("decoder=int8", "'decoder' names no matrix"),
                                           ("embeddings=gptq", "is an embedding"), ("layers.1", "not PART=FORMAT")])
def test_impossible_plan_is_a_one_line_error(plan, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_plan(plan, random_model())
    assert "\n" not in str(error.value)


def test_sparse_matrices_of_a_plan_become_float_and_the_others_stay_sparse(padded_batch):
    model = random_model()
    for name in ("layers.0.ffn.up", "layers.1.ffn.up"):
        sparse = SparseLinear.from_float(model.get_submodule(name))
        replace_module(model, name, sparse)
        model.config.stored_formats[name] = sparse.format
    floats, found = sparse_to_float(model, ["layers.0.ffn.up", "layers.0.ffn.down"])
    assert list(found) == ["layers.0.ffn.up"] and isinstance(found["layers.0.ffn.up"], SparseLinear)
    assert isinstance(floats.layers[0].ffn.up, nn.Linear) and isinstance(floats.layers[1].ffn.up, SparseLinear)
    assert list(floats.config.stored_formats) == ["layers.1.ffn.up"] and len(model.config.stored_formats) == 2
    assert torch.equal(floats(*padded_batch), model(*padded_batch))


# --- sensitivity -----------------------------------------------------------------------------------------

def test_divergence_is_the_kl_of_the_fp32_probabilities_in_nats():
    reference = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]).log() + 3.0  # logits may be shifted
    assert divergence(reference, logits) == pytest.approx(0.5 * 0.25 * torch.log(torch.tensor(2.0)).item(), abs=1e-6)
    assert divergence(reference, reference) == 0


def test_sensitivity_ranks_the_coarser_format_first_and_leaves_the_model_as_it_was():
    model = random_model()
    before = [id(module) for module in model.modules()]
    stored = store_all(model, {"layers.0.ffn.up": "fp16", "layers.1.ffn.up": "clusters"}, num_clusters=2)
    ids = [[2, i, 59 - i, 3] for i in range(5, 55)]
    ranking = sensitivity(model, stored, lambda m: predict(m, ids, 10, 0), torch.zeros(50, dtype=torch.int64))
    assert [name for name, *_ in ranking] == ["layers.1.ffn.up", "layers.0.ffn.up"]
    assert ranking[0][1] > 100 * abs(ranking[1][1])
    assert [id(module) for module in model.modules()] == before


def test_matrices_are_kept_in_the_order_of_the_ranking_until_the_score_is_good_enough():
    model = random_model()
    names = [f"layers.{i}.ffn.up" for i in range(3)]
    stored = store_all(model, dict.fromkeys(names, "nf4"))
    macro_f1 = {0: 0.8, 1: 0.795, 2: 0.75, 3: 0.7}
    ranking = [(f"layers.{i}.ffn.up", 1.0, 0.0) for i in (2, 0, 1)]

    def validate(candidate):
        return {"macro_f1": macro_f1[len(candidate.config.stored_formats)]}
    left, kept = keep_sensitive(model, stored, ranking, 0.01, validate)
    assert kept == ["layers.2.ffn.up", "layers.0.ffn.up"] and list(left) == ["layers.1.ffn.up"]
    left, kept = keep_sensitive(model, stored, ranking, 1.0, validate)
    assert not kept and list(left) == names and list(stored) == names
    macro_f1[0] = 0.1  # nothing is good enough: all are kept, and it ends
    left, kept = keep_sensitive(model, stored, ranking, -1.0, validate)
    assert len(kept) == 3 and not left


# --- bytes -----------------------------------------------------------------------------------------------

def test_bytes_of_each_part_are_those_of_its_tensors_and_together_those_of_the_file(tmp_path, tokenizer):
    model = random_model()
    small = quantized(model, "embeddings=int8,encoder=nf4", group_size=64)
    assert tensor_bytes(model, "head") == 4 * (32 * 32 + 32 + 3 * 32 + 3)
    # words and positions in a byte each, with scale and zero point a row; two token types and the LayerNorm in fp32
    assert tensor_bytes(small, "embeddings") == 100 * 32 + 100 * 8 + 2 * 32 * 4 + 2 * 32 * 4
    save_model(small, tokenizer, tmp_path / "small", run={})
    together = sum(tensor_bytes(small, part) for part in ("embeddings", "encoder", "head"))
    assert 0 < file_bytes(tmp_path / "small")["model"] - together < 16_000  # the header with the names
    save_model(model, tokenizer, tmp_path / "fp32", run={})
    assert fp32_bytes(model, tokenizer) == file_bytes(tmp_path / "fp32")["model"]


def test_table_of_bytes_shows_megabytes_before_and_after_and_counts_the_formats():
    model = random_model(vocab_size=20_000)
    small = quantized(model, "embeddings=int8,layers.0=nf4,layers.1=nf4", group_size=64)
    embeddings, encoder, head = bytes_table(small, model)
    assert embeddings.split() == ["embeddings", "2.57", "MB", "->", "0.80", "MB", "2", "int8_embedding"]
    assert encoder.endswith("12 nf4") and head.endswith("as it was")
    before, after = (tensor_bytes(m, "encoder") / 1e6 for m in (model, small))
    assert f"{before:.2f} MB" in encoder and f"{after:.2f} MB" in encoder


def test_bits_of_clusters_are_those_in_the_file_and_those_of_plain_indices():
    model = random_model()
    share_weights(model, ["layers.0.ffn.up", "layers.0.ffn.down"], 5)
    clustered = [model.get_submodule(f"layers.0.ffn.{name}").to_stored() for name in ("up", "down")]
    weights = 2 * 24 * 32
    stored = sum(8 * (module.codebook.numel() * 4 + module.indices.numel()) for module in clustered)
    assert cluster_bits(clustered) == (pytest.approx(stored / weights), pytest.approx(3 + 2 * 5 * 32 / weights))
