"""int8: the numbers of torch.ao and of the rounding by hand, the promised bytes, an engine for each layer."""

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import quantize
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.size import count_parameters, file_bytes
from pocketbert.quantization.int8 import (
    Int8Embedding,
    Int8Linear,
    overflows,
    pick_engine,
    set_engine,
    without_notices,
)
from small_models import edit_config, quantized, random_model

ENGINES = [engine for engine in torch.backends.quantized.supported_engines if engine not in ("none", "qnnpack")]


@pytest.fixture
def linear():
    torch.manual_seed(0)
    linear = nn.Linear(40, 24)
    linear.weight.data[3] *= 30  # one row of large weights: with one scale a matrix it would round the others to 0
    return linear


@pytest.mark.parametrize("spoil", [lambda w: None, lambda w: w[3].mul_(30), lambda w: w[5].zero_(),
                                   lambda w: w.mul_(1e-9), lambda w: w.copy_(w.half())])
def test_int8_by_hand_is_bit_for_bit_torch_aos(spoil):
    torch.manual_seed(0)
    linear = nn.Linear(384, 200)
    with torch.no_grad():
        spoil(linear.weight)
    theirs = Int8Linear.from_float(linear)
    weight_int8, scale = quantize.quantize_int8(linear.weight.detach())
    assert weight_int8.dtype == torch.int8 and torch.equal(weight_int8, theirs.weight)
    assert torch.equal(scale, theirs.scale)


def test_int8_by_hand_is_within_half_a_step_row_by_row(linear):
    weight = linear.weight.detach()
    weight_int8, scale = quantize.quantize_int8(weight)
    error = (weight_int8 * scale[:, None] - weight).abs()
    assert (error <= 0.5 * scale[:, None] * 1.001).all()
    assert scale[3] > 10 * scale.median()  # the row of large weights has a scale of its own


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
    levels = 127 if overflows(pick_engine()) else 255
    scale = (x.max() - x.min()) / levels
    zero_point = (-x.min() / scale).round()
    codes = (x / scale + zero_point).round().clamp(0, levels) - zero_point
    by_hand = (codes @ ours.weight.float().T) * scale * ours.scale + ours.bias
    step = scale * ours.scale * 127  # one unit of one activation: a tie may be rounded the other way
    assert ((ours(x) - by_hand).abs() <= 1.01 * step).all()
    assert (ours(x) - by_hand).abs().median() < 1e-4


def test_int8_embedding_equals_torch_ao():
    torch.manual_seed(0)
    table = nn.Embedding(50, 16)
    ours = Int8Embedding.from_float(table)
    table.qconfig = torch.ao.quantization.float_qparams_weight_only_qconfig
    theirs = without_notices(lambda: torch.ao.nn.quantized.Embedding.from_float(table))
    ids = torch.randint(0, 50, (3, 9))
    torch.testing.assert_close(ours(ids), theirs(ids), atol=1e-6, rtol=1e-5)
    assert ((ours.dequantize() - table.weight).abs() <= 0.5 * ours.scale[:, None] * 1.001).all()


def test_embedding_row_of_equal_numbers_is_exact():
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


def damage_tensors(folder, spoil):
    """Change the tensors of a folder, whose run.json knows no hash of them."""
    stored = load_file(folder / "model.safetensors")
    spoil(stored)
    save_file(stored, folder / "model.safetensors")
    (folder / "run.json").write_text("{}")


UP = "bert.encoder.layer.0.intermediate.dense"


def change(name, function):
    return lambda tensors: tensors.update({name: function(tensors[name])})


@pytest.mark.parametrize("spoil", [
    change(f"{UP}.weight", lambda t: t[:-1].clone()), change(f"{UP}.weight", lambda t: t.to(torch.int16)),
    lambda tensors: tensors.pop(f"{UP}.scale")], ids=["shape", "dtype", "missing"])
def test_tensors_that_do_not_fit_are_a_one_line_error(spoil, tmp_path, tokenizer):
    save_model(quantized(random_model()), tokenizer, tmp_path / "int8", run={})
    damage_tensors(tmp_path / "int8", spoil)
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.up") as error:
        load_model(tmp_path / "int8")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tensor, value, message", [
    *((tensor, value, f"{tensor} is not finite") for tensor in ("scale", "bias", "zero_point")
      for value in (math.nan, math.inf, -math.inf)),
    ("scale", 0.0, "is not positive"), ("scale", -1e-3, "is not positive"), ("scale", 3e38, "infinite weights")])
def test_numbers_that_int8_cannot_have_are_refused_when_loaded_and_the_matrix_is_named(tensor, value, message):
    for layer in (Int8Linear.from_float(nn.Linear(40, 24)), Int8Embedding.from_float(nn.Embedding(24, 40))):
        tensors = {name: t.clone() for name, t in layer.state_dict().items()}
        if tensor in tensors:
            tensors[tensor][7] = value
            with pytest.raises(UserError, match=f"^up: damaged: .*{message}") as error:
                nn.ModuleDict({"up": layer}).load_state_dict({f"up.{name}": t for name, t in tensors.items()})
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_quantized(value):
    for module, kind in ((nn.Linear(8, 8), Int8Linear), (nn.Embedding(8, 8), Int8Embedding)):
        module.weight.data[3, 3] = value
        with pytest.raises(ValueError, match="not finite"):
            kind.from_float(module)


# --- engines ---------------------------------------------------------------------------------------------

def test_engine_that_this_machine_lacks_is_replaced_with_a_line(tmp_path, tokenizer, padded_batch, capsys):
    save_model(quantized(random_model()), tokenizer, tmp_path / "int8", run={})
    edit_config(tmp_path / "int8", int8_engine="tpu")
    model, _ = load_model(tmp_path / "int8")
    assert torch.isfinite(model(*padded_batch)).all() and "tpu is not available" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--engine tpu"):
        pick_engine("tpu")


@pytest.mark.parametrize("first, second", [("x86", "qnnpack"), ("qnnpack", "x86"), ("onednn", "qnnpack")])
def test_two_folders_of_different_engines_in_one_process_give_the_logits_that_each_gives_alone(
        first, second, tmp_path, tokenizer, padded_batch):
    if not {first, second} <= set(torch.backends.quantized.supported_engines):
        pytest.skip("this build of torch lacks an engine")
    alone = {}
    for engine in (first, second):
        model = quantized(random_model(std=1.0), engine=engine)
        alone[engine] = model(*padded_batch)
        save_model(model, tokenizer, tmp_path / engine, run={})
    assert not torch.equal(alone[first], alone[second])  # so a mix-up shows: qnnpack takes 8 bits, the others 7 or 8
    before = torch.backends.quantized.engine
    models = {engine: load_model(tmp_path / engine)[0] for engine in (first, second)}
    for engine, model in models.items():
        assert torch.equal(model(*padded_batch), alone[engine])
    assert torch.backends.quantized.engine == before  # neither loading nor running changes torch's own


def test_engine_goes_along_with_copies_pickles_and_config(padded_batch):
    model = quantized(random_model(), engine=ENGINES[-1])
    expected = model(*padded_batch)
    assert model.config.int8_engine == ENGINES[-1]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.layers[0].ffn.up.engine == ENGINES[-1] and torch.equal(twin(*padded_batch), expected)


def test_changing_the_engine_packs_again(linear):
    model = nn.Sequential(Int8Linear.from_float(linear, ENGINES[0]))
    x = torch.randn(3, 40)
    model(x)
    set_engine(model, ENGINES[-1])
    assert torch.equal(model(x), Int8Linear.from_float(linear, ENGINES[-1])(x)) and model[0].engine == ENGINES[-1]


def test_loading_new_numbers_packs_again(linear):
    torch.manual_seed(1)
    layer, other, x = Int8Linear.from_float(linear), Int8Linear.from_float(nn.Linear(40, 24)), torch.randn(3, 40)
    layer(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))


def test_torch_without_its_quantization_is_told_in_one_line(monkeypatch):
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    with pytest.raises(ValueError, match="no int8 kernels"):
        pick_engine()
