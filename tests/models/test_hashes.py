"""A folder whose files are not those that were saved never answers, and neither does one with NaN in it."""

import json
import math
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.hashes import CHUNK, checksum
from small_models import RECURRENT, edit_config, quantized, random_model, random_recurrent


@pytest.fixture
def folder(tmp_path, tokenizer):
    save_model(random_model(), tokenizer, tmp_path / "m", run={"script": "x.py"})
    return tmp_path / "m"


def flip_a_bit(path):
    """In the middle of a number of config.json, a name of tokenizer.json, a weight."""
    data = bytearray(path.read_bytes())
    place = data.index(b": 32") + 2 if path.name == "config.json" else len(data) - 100
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_one_bit_in_any_file_is_an_error_that_names_it(name, folder):
    load_model(folder)
    flip_a_bit(folder / name)
    with pytest.raises(UserError, match=f"{name} is not the file that was saved") as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_checksum_sees_every_change_of_one_or_two_numbers_and_of_the_order(tmp_path):
    """In a file of two megabytes and an end: any bit, two bits that cancel in a sum, two words, rows or megabytes."""
    path = tmp_path / "x.bin"
    original = torch.randint(0, 256, (2 * CHUNK + 100,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    path.write_bytes(original.numpy().tobytes())
    seen = {checksum(path)}
    changes = [[(0, 5)], [(CHUNK, 6)], [(2 * CHUNK + 99, 7)],
               [(8, 9), (16, 9)], [(8, 9), (8 + 4096, 9)]]  # of the same row, of the same column
    for change in changes:
        data = original.clone()
        for sign, (place, amount) in zip((1, -1), change, strict=False):
            data[place] = (int(original[place]) + sign * amount) % 256
        path.write_bytes(data.numpy().tobytes())
        seen.add(checksum(path))
    for size in (8, 4096, CHUNK):  # exchange the first two pieces of this size
        data = torch.cat([original[size:2 * size], original[:size], original[2 * size:]])
        path.write_bytes(data.numpy().tobytes())
        seen.add(checksum(path))
    path.write_bytes(original[:-1].numpy().tobytes())
    seen.add(checksum(path))
    assert len(seen) == 1 + len(changes) + 3 + 1


def test_file_of_another_model_is_refused(folder, tmp_path, tokenizer):
    save_model(random_model(seed=1), tokenizer, tmp_path / "other", run={})
    os.replace(tmp_path / "other" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match="not the file that was saved"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_file_that_is_gone_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name}, which run.json names"):
        load_model(folder)


def test_folder_without_hashes_or_without_run_json_still_loads(folder, padded_batch):
    expected = load_model(folder)[0](*padded_batch)
    (folder / "run.json").write_text('{"script": "an older version"}')
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)
    (folder / "run.json").unlink()
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)


@pytest.mark.parametrize("run", ['{"files": 3}', '{"files": {"config.json": 3}}', "[]", '{"files":'])
def test_damaged_run_json_is_named(run, folder):
    (folder / "run.json").write_text(run)
    with pytest.raises(UserError, match="run.json"):
        load_model(folder)


def test_another_tokenizer_may_take_the_place_of_the_folders_own(folder, tmp_path, tokenizer):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    tokenizer.save(tmp_path / "words")
    load_model(folder, tokenizer_name=str(tmp_path / "words"))


def test_config_edited_by_hand_loads_after_the_hashes_are_removed(folder):
    edit_config(folder, id2label={"0": "a", "1": "b", "2": "c"})
    assert load_model(folder)[0].config.label_names == ["a", "b", "c"]


def poison(folder, value, key=None):
    """Write a value that is not finite into the largest float tensor, or into the tensor `key`."""
    tensors = load_file(folder / "model.safetensors")
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    key = key or max(floats, key=lambda name: floats[name].numel())
    floats[key].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    (folder / "run.json").unlink()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["dense", "int8", "int4", "nf4", "clusters", "fp16", "bf16", *RECURRENT])
def test_value_that_is_not_finite_is_refused_in_every_kind_of_folder(kind, value, tmp_path, tokenizer):
    if kind in RECURRENT:
        model = random_recurrent(RECURRENT[kind])
    elif kind == "dense":
        model = random_model()
    else:
        model = quantized(random_model(), f"embeddings={kind},encoder={kind}")
    save_model(model, tokenizer, tmp_path / "m", run={})
    poison(tmp_path / "m", value)
    with pytest.raises(UserError, match="NaN or infinite|not finite") as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value) and str(tmp_path / "m") in str(error.value)


def test_tensor_that_is_not_finite_is_named(folder):
    poison(folder, math.nan, key="bert.encoder.layer.1.output.dense.bias")
    with pytest.raises(UserError, match=r"layers\.1\.ffn\.down\.bias holds values that are NaN"):
        load_model(folder)


def test_float64_beyond_float32_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = torch.tensor([1e300, 0, 0], dtype=torch.float64)
    save_file(tensors, folder / "model.safetensors")
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="head.out.bias holds values"):
        load_model(folder)


# ---- nothing takes memory before it is checked -----------------------------------------------------------

@pytest.mark.parametrize("changes", [
    {"hidden_size": 99_999}, {"intermediate_size": 999_999}, {"num_hidden_layers": 999}, {"vocab_size": 9_999_999},
    {"max_position_embeddings": 9_999_999}, {"hidden_size": 99_999, "num_attention_heads": 1, "intermediate_size": 9}])
@pytest.mark.parametrize("new_head", [False, True])
def test_config_of_a_large_model_is_refused_before_memory_is_taken(changes, new_head, folder):
    """The head of hidden_size 99,999 alone would take 40 GB."""
    edit_config(folder, **changes)
    with pytest.raises(UserError, match="config.json asks for|do not fit config.json"):
        load_model(folder, label_names=["a", "b"], new_head=new_head)


@pytest.mark.parametrize("form", ["groups:4:0", "groups:4:999999999999", "groups:x", "clusters:-1", "clusters:9e9",
                                  "sparse_linear:99999999999999999999", "sparse_linear:1:2:3", "nf4:0",
                                  "int8_linear:1"])
def test_stored_format_with_impossible_numbers_is_one_line(form, folder):
    edit_config(folder, stored_forms={"layers.0.ffn.up": form})
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_header_that_declares_more_than_the_file_holds_is_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header["bert.embeddings.word_embeddings.weight"]["shape"] = [10**9, 10**9]
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="model.safetensors is cut off or damaged"):
        load_model(folder)
