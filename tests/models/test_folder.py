"""load_model: Hugging Face folders and ours, new heads, and one line for each that is broken."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, parent_of, save_model


def test_gamma_beta_prefix_and_pretraining_heads_are_read(hf_folder, padded_batch):
    folder, _ = hf_folder("bert")
    expected = load_model(folder)[0](*padded_batch)
    old = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name.removeprefix("bert.")] = tensor
    old |= {"cls.predictions.bias": torch.zeros(60), "embeddings.position_ids": torch.arange(40)[None]}
    save_file(old, folder / "model.safetensors")
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)


def test_sharded_and_pickled_weights_give_the_same_logits(hf_folder, padded_batch):
    folder, _ = hf_folder("bert")
    expected = load_model(folder)[0](*padded_batch)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    weight_map = {}
    for shard, part in (("model-1-of-2.safetensors", names[::2]), ("model-2-of-2.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)


def test_checkpoint_without_head_gets_a_new_one_and_says_so(hf_folder, capsys):
    folder, _ = hf_folder("roberta")
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("classifier")}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="no classification head"):
        load_model(folder)
    model, _ = load_model(folder, label_names=["a", "b"])
    assert model.config.label_names == ["a", "b"] and model.head.out.out_features == 2
    assert "new classification head (head.dense.bias, head.dense.weight" in capsys.readouterr().out


def test_missing_and_left_over_tensors_are_named(hf_folder):
    folder, _ = hf_folder("bert")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.7.output.dense.weight"] = tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: layers\.1\.ffn\.down\.weight; left over: layers\.7\.ffn\.down"):
        load_model(folder)


def test_config_without_model_type_is_bert(hf_folder, padded_batch):
    folder, _ = hf_folder("bert")
    expected = load_model(folder)[0](*padded_batch)
    config = json.loads((folder / "config.json").read_text())
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
            "max_position_embeddings", "type_vocab_size", "hidden_act", "id2label")
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in kept}))
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


def break_nothing_there(folder):
    (folder / "config.json").unlink()


def break_config(folder):
    (folder / "config.json").write_text('{"model_type": "bert", ')


def break_truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:len(data) // 2])


def break_empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")


def break_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")


def break_cut_pickle(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[:len(data) // 2])


def break_weights_gone(folder):
    (folder / "model.safetensors").unlink()


def break_family(folder):
    (folder / "config.json").write_text('{"model_type": "marian"}')


def break_cleaning(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"text_cleaning": "soap"}))


def break_sizes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 25}))


def break_form(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"stored_forms": {"layers.0.ffn.up": "int3"}}))


@pytest.mark.parametrize("damage", [break_nothing_there, break_config, break_truncated, break_empty_weights,
                                    break_pickle, break_cut_pickle, break_weights_gone, break_family, break_cleaning,
                                    break_sizes, break_form])
def test_damaged_folder_is_a_one_line_error_that_names_it(damage, hf_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = hf_folder("bert")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not Path("evil-was-here").exists()


# ---- folders of other kinds ------------------------------------------------------------------------------

def test_lora_adapter_that_names_no_base_is_one_line(hf_folder):
    folder, _ = hf_folder("bert")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "model.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="LoRA adapter.*base model is not here"):
            load_model(folder)
        (folder / "config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_git_lfs_pointer_is_told_to_be_fetched(name, hf_folder):
    folder, _ = hf_folder("bert")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=f"{name} is a git-lfs pointer.*git lfs pull"):
        load_model(folder)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_names_of_a_wrapped_model_are_read(wrapper, hf_folder, padded_batch):
    folder, _ = hf_folder("bert")
    expected = load_model(folder)[0](*padded_batch)
    tensors = load_file(folder / "model.safetensors")
    save_file({wrapper + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)


@pytest.mark.parametrize("weight_map", ['{"weight_map": [1]}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "{}",
                                        '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": "gone.safetensors"}}'])
def test_weight_map_that_is_no_map_is_one_line(weight_map, hf_folder):
    folder, _ = hf_folder("bert")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(weight_map)
    with pytest.raises((UserError, FileNotFoundError)) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"\x80\x02}q\x00.", b"\x80\x04\x95" + b"\xff" * 40, b"PK\x03\x04" + bytes(60),
                                     b"x", b"\x80\x02]q\x00(K\x01K\x02e.", b"\x80\x05" + b"(" * 9999 + b"."])
def test_pickle_of_anything_else_is_one_line(content, hf_folder):
    folder, _ = hf_folder("bert")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_pickle_of_the_old_format_is_read(hf_folder, padded_batch):
    folder, _ = hf_folder("bert")
    expected = load_model(folder)[0](*padded_batch)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load_model(folder)[0](*padded_batch), expected)


def test_parent_is_the_file_that_was_loaded(hf_folder, tmp_path, tokenizer):
    """A folder of the Hub may hold safetensors, a pickle and a graph; only the first is loaded."""
    folder, _ = hf_folder("bert")
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert parent_of(str(folder)) == {"name": str(folder), "sha256": digest}
    save_model(load_model(folder)[0], tokenizer, tmp_path / "child", run={})
    files = json.loads((tmp_path / "child" / "run.json").read_text())["files"]
    assert parent_of(str(tmp_path / "child"))["sha256"] == files["model.safetensors"]
    assert parent_of("gru:hidden=8") == {"name": "gru:hidden=8"}


def test_tokenizer_that_makes_its_library_panic_is_one_line(hf_folder):
    folder, _ = hf_folder("bert")
    words = json.loads((folder / "tokenizer.json").read_text())
    specials = words["post_processor"]["special_tokens"]
    specials["[CLX]"] = specials.pop("[CLS]")  # one bit: the template names a token that is not there
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="tokenizer") as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
