"""int8: the numbers of torch.ao, the bytes that were promised, the same bits in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import random_model
from safetensors.torch import load_file, save_file
from torch import nn

import layers
import quantize
from measure_utils import count_parameters, file_bytes
from model_utils import load_model, save_model


@pytest.fixture
def linear():
    torch.manual_seed(0)
    linear = nn.Linear(40, 24)
    linear.weight.data[3] *= 30  # one loud row: with one scale a matrix it would silence the others
    return linear


def test_int8_linear_is_bit_identical_to_torch_ao(linear):
    ours = layers.Int8Linear.from_float(linear)
    theirs = layers.quiet(lambda: torch.ao.quantization.quantize_dynamic(
        nn.Sequential(linear), {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}))
    x = torch.randn(5, 7, 40)
    assert torch.equal(ours(x), theirs(x))


def test_int8_weights_are_within_half_a_step_of_the_float_weights_row_by_row(linear):
    ours = layers.Int8Linear.from_float(linear)
    error = (ours.dequantize() - linear.weight).abs()
    assert (error <= 0.5 * ours.scale[:, None] * 1.001).all()
    assert ours.scale[3] > 10 * ours.scale.median()  # per channel: the loud row has a scale of its own


def test_int8_embedding_equals_torch_ao():
    torch.manual_seed(0)
    table = nn.Embedding(50, 16)
    ours = layers.Int8Embedding.from_float(table)
    table.qconfig = torch.ao.quantization.float_qparams_weight_only_qconfig
    theirs = layers.quiet(lambda: torch.ao.nn.quantized.Embedding.from_float(table))
    ids = torch.randint(0, 50, (3, 9))
    torch.testing.assert_close(ours(ids), theirs(ids), atol=1e-6, rtol=1e-5)
    assert ((ours.dequantize() - table.weight).abs() <= 0.5 * ours.scale[:, None] * 1.001).all()


def test_row_of_equal_numbers_survives():
    table = nn.Embedding(2, 4)
    table.weight.data[0], table.weight.data[1] = 0.0, 3.0
    torch.testing.assert_close(layers.Int8Embedding.from_float(table).dequantize(), table.weight.detach())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_every_encoder_matrix_and_table_is_int8_and_the_head_is_not(family):
    model = quantize.quantize_dynamic(random_model(family=family), layers.pick_engine())
    for name, module in model.named_modules():
        assert not isinstance(module, nn.Embedding)
        assert not isinstance(module, nn.Linear) or name.startswith("head.")
    assert count_parameters(model) == count_parameters(random_model(family=family))


def test_fresh_process_computes_the_same_bits(tmp_path, tokenizer, padded_batch):
    model = quantize.quantize_dynamic(random_model(), layers.pick_engine())
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
    model = quantize.quantize_dynamic(random_model(), layers.pick_engine())
    save_model(model, tokenizer, tmp_path / "int8", run={})
    stored = load_file(tmp_path / "int8" / "model.safetensors")
    up = "bert.encoder.layer.0.intermediate.dense"
    assert stored[f"{up}.weight"].dtype == torch.int8 and stored[f"{up}.scale"].shape == (24,)
    total = sum(t.numel() * t.element_size() for t in stored.values())
    assert 0 <= file_bytes(tmp_path / "int8")["model"] - total < 16_000  # the rest is the header with the names


@pytest.mark.parametrize("damage", ["shape", "dtype", "missing"])
def test_damaged_int8_tensors_are_a_one_line_error(damage, tmp_path, tokenizer):
    save_model(quantize.quantize_dynamic(random_model(), layers.pick_engine()), tokenizer, tmp_path / "int8", run={})
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
    save_model(quantize.quantize_dynamic(random_model(), layers.pick_engine()), tokenizer, tmp_path / "int8", run={})
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    (tmp_path / "int8" / "config.json").write_text(json.dumps(config | {"int8_engine": "tpu"}))
    model, _ = load_model(tmp_path / "int8")
    assert torch.isfinite(model(*padded_batch)).all() and "tpu is not available" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--engine tpu"):
        layers.pick_engine("tpu")


def test_activation_scale_is_shared_by_the_batch_and_the_flip_counter_sees_it(monkeypatch):
    """The known weakness of dynamic int8: a loud batch mate moves a text's logits; alone it has its own scale."""
    model = quantize.quantize_dynamic(random_model(std=1.0), layers.pick_engine())
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
