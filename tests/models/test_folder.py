"""The encoder against `transformers`, and the model folder: what is saved is what is loaded."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pocketbert.models.config import EncoderConfig
from pocketbert.models.encoder import Encoder, init_weights
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.hf_names import from_hf_name, to_hf_name
from pocketbert.models.recipes import model_from_scratch
from small_models import LABELS, TEXTS, random_model, small_config

FAMILIES = ["bert", "roberta", "distilbert"]


def reference(config):
    """The model of `transformers` with the same sizes and random weights."""
    shared = {"vocab_size": 60, "pad_token_id": config.pad_token_id, "max_position_embeddings": 40, "num_labels": 3}
    if config.family == "distilbert":
        hf = transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=24, **shared)
        kind = transformers.DistilBertForSequenceClassification
    else:
        kinds = {"bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
                 "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification)}
        make, kind = kinds[config.family]
        hf = make(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24,
                  type_vocab_size=config.type_vocab_size, initializer_range=0.3, **shared)
    torch.manual_seed(3)
    model = kind(hf).eval()
    for tensor in model.parameters():
        tensor.data += 0.2 * torch.randn_like(tensor)
    return model


@pytest.fixture
def hf_folder(tmp_path, tokenizer):
    """A function that writes a Hugging Face folder of random weights and returns (folder, their model)."""
    def write(family, **options):
        theirs = reference(small_config(family))
        theirs.save_pretrained(tmp_path / family, **options)
        tokenizer.save(tmp_path / family)
        return tmp_path / family, theirs
    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers_padded_and_unpadded(family, hf_folder, padded_batch):
    folder, theirs = hf_folder(family)
    model, _ = load_model(folder)
    input_ids, attention_mask = padded_batch
    input_ids = input_ids + theirs.config.pad_token_id * (attention_mask == 0)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids, attention_mask), theirs(input_ids, attention_mask).logits,
                                   atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(input_ids[:1]), theirs(input_ids[:1]).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_dense_folder_loads_in_transformers_with_the_same_logits(family, tmp_path, tokenizer, padded_batch):
    model = random_model(family=family)
    save_model(model, tokenizer, tmp_path / "m", run={})
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(LABELS))
    input_ids, attention_mask = padded_batch
    input_ids = input_ids + model.config.pad_token_id * (attention_mask == 0)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids, attention_mask), theirs.eval()(input_ids, attention_mask).logits,
                                   atol=1e-5, rtol=1e-5)


def test_pruned_folder_is_refused_by_transformers_instead_of_filled_with_random_numbers(tmp_path, tokenizer):
    config = small_config(num_heads=[4, 2, 1], intermediate_sizes=[24, 3, 9])
    save_model(init_weights(Encoder(config)), tokenizer, tmp_path / "m", run={})
    with pytest.raises((ValueError, KeyError)):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_folder_loads_with_identical_logits(family, tmp_path, tokenizer, padded_batch):
    torch.manual_seed(0)
    config = small_config(family, num_heads=[4, 2, 1], intermediate_sizes=[24, 3, 9])
    model = init_weights(Encoder(config), std=0.3).eval()
    save_model(model, tokenizer, tmp_path / "m", run={})
    again, _ = load_model(tmp_path / "m")
    assert torch.equal(model(*padded_batch), again(*padded_batch))


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


def test_every_tensor_name_survives_the_way_to_hugging_face_and_back():
    for family in FAMILIES:
        for name in random_model(family=family).state_dict():
            assert from_hf_name(to_hf_name(name, family), family) == name


def test_text_longer_than_the_positions_is_an_error_that_names_the_limit():
    model = random_model(family="roberta")
    assert model.config.max_length == 38  # 40 rows, and RoBERTa's first position is 2
    with pytest.raises(ValueError, match="--max-length 38"):
        model(torch.full((1, 39), 5))


# --- broken input ---------------------------------------------------------------------------------------

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


def break_sizes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 25}))


def break_form(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"stored_forms": {"layers.0.ffn.up": "int3"}}))


@pytest.mark.parametrize("damage", [break_nothing_there, break_config, break_truncated, break_empty_weights,
                                    break_pickle, break_cut_pickle, break_weights_gone, break_family, break_sizes,
                                    break_form])
def test_damaged_folder_is_a_one_line_error_that_names_it(damage, hf_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = hf_folder("bert")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not Path("evil-was-here").exists()


# --- writing ----------------------------------------------------------------------------------------------

def test_saving_over_an_old_folder_replaces_it_and_keeps_other_peoples_files(tmp_path, tokenizer):
    save_model(random_model(seed=0), tokenizer, tmp_path / "m", run={"n": 1})
    (tmp_path / "m" / "notes.txt").write_text("mine")
    (tmp_path / "m" / "metrics.json").write_text("{}")  # of the old model: must go
    save_model(random_model(seed=1), tokenizer, tmp_path / "m", run={"n": 2})
    assert json.loads((tmp_path / "m" / "run.json").read_text()) == {"n": 2}
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json", "model.safetensors", "notes.txt", "run.json", "tokenizer.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_folder_that_is_not_ours_is_never_written_into(tmp_path, tokenizer):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(FileExistsError, match="left alone"):
        save_model(random_model(), tokenizer, tmp_path / "photos", run={})
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def die_at(moment):
    """An audit hook that lets `moment` file operations pass and ends the process at the next one."""
    count = iter(range(moment))

    def hook(event, _):
        if event.split(".")[0] in ("open", "os", "shutil", "ctypes") and next(count, None) is None:
            os._exit(9)
    return hook


def test_a_kill_at_any_file_operation_leaves_the_old_folder_or_the_new_one(tmp_path, tokenizer):
    """Child processes save a second model over a first; the n-th one dies, as by kill -9, at file operation n."""
    models = [random_model(seed=0), random_model(seed=1)]
    save_model(models[0], tokenizer, tmp_path / "m", run={"n": 0})
    found = []
    for moment in range(200):
        child = os.fork()
        if child == 0:
            sys.addaudithook(die_at(moment))
            save_model(models[1], tokenizer, tmp_path / "m", run={"n": 1})
            os._exit(0)
        _, status = os.waitpid(child, 0)
        which = json.loads((tmp_path / "m" / "run.json").read_text())["n"]
        model, _ = load_model(tmp_path / "m")
        assert all(map(torch.equal, model.parameters(), models[which].parameters()))
        found.append(which)
        if status == 0:
            break
        save_model(models[0], tokenizer, tmp_path / "m", run={"n": 0})
    assert found[0] == 0 and found[-1] == 1 and 10 < len(found) < 200  # it died early, late, and then not at all


def test_scratch_recipe_has_the_sizes_it_names():
    model, tokenizer = model_from_scratch("scratch:layers=2,hidden=16,heads=2,vocab=60", TEXTS, LABELS)
    assert (len(model.layers), model.config.hidden_size, model.config.intermediate_sizes) == (2, 16, [64, 64])
    assert model.embeddings.word.num_embeddings == tokenizer.vocab_size <= 60
    with pytest.raises(ValueError, match="depth=3"):
        model_from_scratch("scratch:depth=3", TEXTS, LABELS)


def test_config_survives_the_round_trip():
    for family in FAMILIES:
        config = small_config(family, num_heads=[4, 1, 2])
        again = EncoderConfig.from_hf(json.loads(json.dumps(config.to_hf())))
        again.hf = {}
        assert again == config
