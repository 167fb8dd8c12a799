"""int8: the numbers of torch.ao, the bytes that were promised, the same bits in a fresh process."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import evaluate
import prune
import quantize
from pocketbert.data.batching import batches
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.models.size import count_parameters, file_bytes
from pocketbert.quantization.graph import GRAPH_FILES
from pocketbert.quantization.int8 import Int8Embedding, Int8Linear, overflows, pick_engine, without_notices
from pocketbert.quantization.plan import keep_worst, parse_plan, sensitivity, store_all
from small_models import LABELS, TEXTS, quantized, random_model


@pytest.fixture
def linear():
    torch.manual_seed(0)
    linear = nn.Linear(40, 24)
    linear.weight.data[3] *= 30  # one loud row: with one scale a matrix it would silence the others
    return linear


def test_int8_linear_is_bit_identical_to_torch_ao_with_its_seven_bits(linear, monkeypatch):
    monkeypatch.setattr("pocketbert.quantization.int8.overflows", lambda engine: True)
    ours = Int8Linear.from_float(linear)
    theirs = without_notices(lambda: torch.ao.quantization.quantize_dynamic(
        nn.Sequential(linear), {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}))
    x = torch.randn(5, 7, 40)
    assert torch.equal(ours(x), theirs(x))


def test_eight_bit_activations_are_multiplied_without_overflow_or_not_used(linear):
    """Whole numbers by hand: what the kernel must give with the bits that it chose."""
    ours, x = Int8Linear.from_float(linear), torch.randn(5, 40)
    levels = 127 if overflows(torch.backends.quantized.engine) else 255
    scale = (x.max() - x.min()) / levels
    zero_point = (-x.min() / scale).round()
    codes = (x / scale + zero_point).round().clamp(0, levels) - zero_point
    by_hand = (codes @ ours.weight.float().T) * scale * ours.scale + ours.bias
    step = scale * ours.scale * 127  # one unit of one activation: a tie may be rounded the other way
    assert ((ours(x) - by_hand).abs() <= 1.01 * step).all()
    assert (ours(x) - by_hand).abs().median() < 1e-4


def test_int8_weights_are_within_half_a_step_of_the_float_weights_row_by_row(linear):
    ours = Int8Linear.from_float(linear)
    error = (ours.dequantize() - linear.weight).abs()
    assert (error <= 0.5 * ours.scale[:, None] * 1.001).all()
    assert ours.scale[3] > 10 * ours.scale.median()  # per channel: the loud row has a scale of its own


def test_int8_embedding_equals_torch_ao():
    torch.manual_seed(0)
    table = nn.Embedding(50, 16)
    ours = Int8Embedding.from_float(table)
    table.qconfig = torch.ao.quantization.float_qparams_weight_only_qconfig
    theirs = without_notices(lambda: torch.ao.nn.quantized.Embedding.from_float(table))
    ids = torch.randint(0, 50, (3, 9))
    torch.testing.assert_close(ours(ids), theirs(ids), atol=1e-6, rtol=1e-5)
    assert ((ours.dequantize() - table.weight).abs() <= 0.5 * ours.scale[:, None] * 1.001).all()


def test_row_of_equal_numbers_survives():
    table = nn.Embedding(2, 4)
    table.weight.data[0], table.weight.data[1] = 0.0, 3.0
    torch.testing.assert_close(Int8Embedding.from_float(table).dequantize(), table.weight.detach())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_every_encoder_matrix_and_table_is_int8_and_the_head_and_the_two_token_types_are_not(family):
    model = quantized(random_model(family=family))
    for name, module in model.named_modules():
        assert not isinstance(module, nn.Embedding) or name == "embeddings.token_type"
        assert not isinstance(module, nn.Linear) or name.startswith("head.")
    assert count_parameters(model) == count_parameters(random_model(family=family))


def test_fresh_process_computes_the_same_bits(tmp_path, tokenizer, padded_batch):
    model = quantized(random_model())
    save_model(model, tokenizer, tmp_path / "int8", run={})
    torch.save(padded_batch, tmp_path / "batch.pt")
    script = f"""
import sys, torch
sys.path.insert(0, {str(Path(quantize.__file__).parent)!r})
from model_utils import load_model
model, _ = load_model({str(tmp_path / "int8")!r})
torch.save(model(*torch.load({str(tmp_path / "batch.pt")!r})), {str(tmp_path / "logits.pt")!r})"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), model(*padded_batch))


def test_file_holds_one_byte_a_weight_and_a_scale_a_row(tmp_path, tokenizer):
    model = quantized(random_model())
    save_model(model, tokenizer, tmp_path / "int8", run={})
    stored = load_file(tmp_path / "int8" / "model.safetensors")
    up = "bert.encoder.layer.0.intermediate.dense"
    assert stored[f"{up}.weight"].dtype == torch.int8 and stored[f"{up}.scale"].shape == (24,)
    total = sum(t.numel() * t.element_size() for t in stored.values())
    assert 0 <= file_bytes(tmp_path / "int8")["model"] - total < 16_000  # the rest is the header with the names


@pytest.mark.parametrize("damage", ["shape", "dtype", "missing"])
def test_damaged_int8_tensors_are_a_one_line_error(damage, tmp_path, tokenizer):
    save_model(quantized(random_model()), tokenizer, tmp_path / "int8", run={})
    path, name = tmp_path / "int8" / "model.safetensors", "bert.encoder.layer.0.intermediate.dense.weight"
    stored = load_file(path)
    if damage == "missing":
        del stored[name.replace("weight", "scale")]
    else:
        stored[name] = stored[name][:-1].clone() if damage == "shape" else stored[name].to(torch.int16)
    save_file(stored, path)
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.up") as error:
        load_model(tmp_path / "int8")
    assert "\n" not in str(error.value)


def test_engine_that_this_machine_lacks_is_replaced_with_a_line(tmp_path, tokenizer, padded_batch, capsys):
    save_model(quantized(random_model()), tokenizer, tmp_path / "int8", run={})
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    (tmp_path / "int8" / "config.json").write_text(json.dumps(config | {"int8_engine": "tpu"}))
    model, _ = load_model(tmp_path / "int8")
    assert torch.isfinite(model(*padded_batch)).all() and "tpu is not available" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--engine tpu"):
        pick_engine("tpu")


def test_activation_scale_is_shared_by_the_batch_and_the_flip_counter_sees_it(monkeypatch):
    """The known weakness of dynamic int8: a loud batch mate moves a text's logits; alone it has its own scale."""
    model = quantized(random_model(std=1.0))
    torch.manual_seed(0)
    ids = [torch.randint(5, 60, (length,)).tolist() for length in range(3, 30)]
    _, difference = quantize.batch_mate_flips(model, ids, 16, pad_id=0)
    assert difference > 1e-3
    flips, difference = quantize.batch_mate_flips(random_model(std=1.0), ids, 16, pad_id=0)
    assert flips == 0 and difference < 1e-4
    answers = {16: torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]]),
               1: torch.tensor([[1.0, 0.0], [0.3, 0.2], [1.0, 0.9]])}
    monkeypatch.setattr(quantize, "predict", lambda model, ids, batch_size, pad_id: answers[batch_size])
    assert quantize.batch_mate_flips(None, ids[:3], 16, 0) == (1, pytest.approx(0.8))


# The plan, and every format from the command line ----------------------------------------------------------

PLANS = ["embeddings=fp16,encoder=bf16,head=fp16", "embeddings=int8-weights,encoder=int8-weights",
         "embeddings=int4,encoder=int8", "embeddings=int4,encoder=gptq,head=int8-weights", "embeddings=nf4,encoder=nf4",
         "embeddings=clusters,encoder=clusters", "embeddings=int4,layers.0=int8,layers.1.ffn=nf4,layers.2=fp16"]


@pytest.fixture
def teacher(tmp_path, tokenizer):
    """(model folder, data file)"""
    vocab = max(tokenizer.vocab_size, 60)
    save_model(random_model(vocab_size=vocab), tokenizer, tmp_path / "teacher", run={})
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 6)))
    return str(tmp_path / "teacher"), str(tmp_path / "mine.csv")


KINDS = {"dense": [], "pruned": ["--heads", "0.5", "--ffn", "0.4"], "vocabulary": ["--vocab", "1"],
         "sparse": ["--sparsity", "0.6", "--method", "magnitude"]}


@pytest.mark.parametrize("kind, plan", [*(("dense", plan) for plan in PLANS),
                                        *((kind, plan) for kind in list(KINDS)[1:] for plan in PLANS[2:6:2]),
                                        ("sparse", "embeddings=clusters,encoder=clusters")])
def test_every_plan_of_every_kind_of_model_loads_and_is_evaluated(kind, plan, teacher, tmp_path):
    folder, data = teacher
    if KINDS[kind]:
        prune.main(["--model", folder, "--out", folder + "-p", "--data", data, *KINDS[kind]])
        folder += "-p"
    out = str(tmp_path / "out")
    quantize.main(["--model", folder, "--out", out, "--data", data, "--plan", plan, "--force",
                   *(["--group-size", "8"] if "int4" in plan or "nf4" in plan else [])])
    assert file_bytes(out)["model"] < file_bytes(folder)["model"]
    model, tokenizer = load_model(out)
    assert count_parameters(model) >= count_parameters(load_model(folder)[0])  # a sparse parent counts non-zeros
    evaluate.main([folder, out, "--data", data, "--timed", "2", "--bootstrap", "20", "--out", str(tmp_path / "r")])


@pytest.mark.parametrize("plan", PLANS)
def test_every_format_gives_the_same_bits_after_loading(plan, tmp_path, tokenizer, padded_batch):
    texts = list(batches([[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]] * 8, None, 6, 0))
    model = quantized(random_model(), plan, texts)
    before = model(*padded_batch)
    save_model(model, tokenizer, tmp_path / "m", run={})
    assert torch.equal(load_model(tmp_path / "m")[0](*padded_batch), before)


def test_later_parts_of_a_plan_overrule_earlier_ones():
    formats = parse_plan("encoder=int8,layers.1=int4,layers.1.ffn.up=fp32", random_model())
    assert formats["layers.0.ffn.up"] == "int8" and formats["layers.1.ffn.down"] == "int4"
    assert "layers.1.ffn.up" not in formats and not any(name.startswith(("head", "embeddings")) for name in formats)


@pytest.mark.parametrize("plan, message", [("encoder=int3", "int3"), ("decoder=int8", "'decoder' names no matrix"),
                                           ("embeddings=gptq", "looked up"), ("layers.1", "not PART=FORM")])
def test_impossible_plan_is_a_one_line_error(plan, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_plan(plan, random_model())
    assert "\n" not in str(error.value)


def test_sensitivity_ranks_the_coarser_format_first_and_leaves_the_model_as_it_was():
    model, args = random_model(), argparse.Namespace(group_size=8, clusters=2, init="linear")
    before = [id(module) for module in model.modules()]
    stored = store_all(model, {"layers.0.ffn.up": "fp16", "layers.1.ffn.up": "clusters"}, args)
    ids = [[2, i, 59 - i, 3] for i in range(5, 55)]
    ranking = sensitivity(model, stored, lambda m: predict(m, ids, 10, 0), torch.zeros(50, dtype=torch.int64))
    assert [name for name, *_ in ranking] == ["layers.1.ffn.up", "layers.0.ffn.up"]
    assert ranking[0][1] > 100 * abs(ranking[1][1])
    assert [id(module) for module in model.modules()] == before


def test_keeping_stops_as_soon_as_the_score_is_good_enough(monkeypatch):
    model, args = random_model(), argparse.Namespace(max_drop=0.01, keep_as="fp32", group_size=8)
    stored = dict.fromkeys(["layers.0.ffn.up", "layers.1.ffn.up", "layers.2.ffn.up"])
    monkeypatch.setattr("pocketbert.quantization.plan.with_stored", lambda model, stored, engine: stored)
    answers = {3: 0.7, 2: 0.75, 1: 0.795, 0: 0.8}
    ranking = [(f"layers.{i}.ffn.up", 1.0, 0.0) for i in (2, 0, 1)]
    left, kept = keep_worst(model, stored, args, ranking, lambda m: {
        "macro_f1": 0.8 if m is model else answers[len(m)]}, "x86")
    assert kept == ["layers.2.ffn.up", "layers.0.ffn.up"] and list(left) == ["layers.1.ffn.up"]


def test_int8_that_is_slower_is_refused_with_its_measurement_and_nothing_is_written(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "time_ratio", lambda *_: 0.8)
    with pytest.raises(ValueError, match=r"slower than fp32 here, 1\.25 x.*--force"):
        quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--method", "nf4"])  # claims no speed
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--force"])


def test_broken_int8_model_that_answers_one_class_is_called_broken(teacher, tmp_path, monkeypatch, capsys):
    def one_class(model, ids, *rest, **masks):
        logits = predict(model, ids, *rest, **masks)
        if model.config.stored_formats:
            return torch.zeros_like(logits)
        return torch.eye(3)[torch.arange(len(logits)) % 3]
    monkeypatch.setattr(quantize, "predict", one_class)
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--data", teacher[1], "--force"])
    assert "answers one class for every text" in capsys.readouterr().out


def test_fine_tuned_centroids_are_written_and_pruned_weights_stay_zero(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize.TrainingLog, "start_over", lambda *_: None)  # what it was before is not the best
    folder, data = teacher
    prune.main(["--model", folder, "--out", folder + "-p", "--data", data, "--sparsity", "0.6", "--method",
                "magnitude"])
    for epochs in ("0", "2"):
        quantize.main(["--model", folder + "-p", "--out", f"{folder}-{epochs}", "--data", data, "--method", "clusters",
                       "--epochs", epochs] + ["--lr", "1e-2", "--teacher", "self"] * (epochs != "0"))
    before, after = (load_model(f"{folder}-{epochs}")[0].layers[0].ffn.up for epochs in ("0", "2"))
    assert not torch.equal(before.codebook, after.codebook)
    zero = before.dequantize() == 0
    assert zero.float().mean() > 0.3 and (after.dequantize()[zero] == 0).all()
    run = json.loads(Path(f"{folder}-2/run.json").read_text())
    assert len(run["quantization"]["history"]) == 2


@pytest.mark.parametrize("format_name", GRAPH_FILES)
def test_exported_folder_is_a_model_folder_like_any_other(format_name, teacher, tmp_path, capsys):
    folder, data = teacher
    out = str(tmp_path / format_name)
    quantize.main(["--model", folder, "--out", out, "--data", data, "--method", format_name, "--batch-size", "1"])
    model, tokenizer = load_model(out)
    parent, _ = load_model(folder)
    ids = torch.tensor(tokenizer(["a good day"], 20))
    torch.testing.assert_close(model(ids), parent(ids), atol=3 if "int8" in format_name else 1e-4, rtol=0)
    assert count_parameters(model) == count_parameters(parent)
    evaluate.main([folder, out, "--data", data, "--timed", "2", "--bootstrap", "20", "--out", str(tmp_path / "r")])
    evaluate.main(["predict", "--model", out, "a good day"])
    assert '"label"' in capsys.readouterr().out
    with pytest.raises(ValueError, match="exported graph, which can only be run"):
        quantize.main(["--model", out, "--out", str(tmp_path / "q"), "--method", "nf4"])
    with pytest.raises(ValueError, match="exported graph, which can only be run"):
        prune.main(["--model", out, "--out", str(tmp_path / "p"), "--data", data, "--heads", "0.5"])


@pytest.mark.parametrize("flags, message", [
    (["--plan", "encoder=int4", "--method", "nf4"], "give one"), (["--method", "gptq"], "give --data"),
    (["--epochs", "1", "--data", "demo"], "--method clusters"),
    (["--method", "clusters", "--clusters", "300"], "between 2 and 256"),
    (["--keep-layers", "auto"], "give --data"),
    (["--group-size", "32"], "does nothing here"), (["--method", "nf4", "--clusters", "8"], "does nothing here"),
    (["--method", "onnx", "--engine", "x86"], "does nothing here"), (["--lr", "1e-3"], "give --epochs"),
    (["--method", "clusters", "--epochs", "1", "--data", "demo", "--keep-layers", "auto"], "before any training"),
    (["--method", "onnx", "--keep-layers", "layers.0"], "not for")])
def test_flags_that_contradict_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        quantize.parse_args(["--model", "a", "--out", "b", *flags])
    assert message in capsys.readouterr().err


def test_centroids_learn_the_fp32_models_probabilities_and_the_best_epoch_is_kept(teacher, tmp_path, monkeypatch):
    targets, restored = [], []
    monkeypatch.setattr(quantize.F, "cross_entropy", lambda logits, target, real=quantize.F.cross_entropy: (
        targets.append(target.is_floating_point()) if logits.requires_grad else None, real(logits, target))[1])
    monkeypatch.setattr(quantize.TrainingLog, "restore_best", lambda log: restored.append(log))
    for flags in ([], ["--teacher", "self"]):
        targets.clear()
        quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--data", teacher[1], "--method",
                       "clusters", "--epochs", "1", *flags])
        assert set(targets) == {bool(flags)}
    assert len(restored) == 2


def test_frozen_matrices_keep_their_centroids():
    linear = nn.Linear(8, 8).requires_grad_(False)
    assert not quantize.ClusteredWeights(linear, *quantize.kmeans(linear.weight, 4)).codebook.requires_grad
    assert quantize.ClusteredWeights(nn.Linear(8, 8), *quantize.kmeans(linear.weight, 4)).codebook.requires_grad


def test_kept_matrix_of_a_sparse_model_stays_sparse(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "keep_worst", lambda model, stored, *_: ({}, list(stored)))  # all are kept
    folder, data = teacher
    prune.main(["--model", folder, "--out", folder + "-p", "--data", data, "--sparsity", "0.9", "--method",
                "magnitude"])
    quantize.main(["--model", folder + "-p", "--out", folder + "-q", "--data", data, "--plan", "encoder=clusters",
                   "--clusters", "2", "--keep-layers", "auto", "--max-drop", "0"])
    assert file_bytes(folder + "-q")["model"] <= file_bytes(folder + "-p")["model"] + 2000  # the header's names


def test_torch_without_its_quantization_is_told_in_one_line(monkeypatch):
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    with pytest.raises(ValueError, match="no int8 kernels"):
        pick_engine()
