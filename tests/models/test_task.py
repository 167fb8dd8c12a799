"""Models of another task are refused, and config.json says what is true of the folder that it lies in."""

import json

import pytest
import torch
import transformers

from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from small_models import edit_config, random_model


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize("changes, complaint", [
    ({"problem_type": "regression"}, "regression"), ({"problem_type": "multi_label_classification"}, "one label"),
    ({"problem_type": 3}, "problem_type is 3"), ({"id2label": {"0": "LABEL_0"}}, "regression")])
def test_model_of_another_task_is_refused_in_one_line_that_names_the_way_out(changes, complaint, hf_folder):
    folder = change(hf_folder("bert")[0], **changes)
    with pytest.raises(UserError, match=complaint) as error:
        load_model(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    if changes != {"problem_type": 3}:
        assert "--new-head" in str(error.value)
        model, _ = load_model(folder, label_names=["a", "b"], new_head=True)
        assert model.config.label_names == ["a", "b"]


@pytest.mark.parametrize("changes, complaint", [
    ({"is_decoder": True}, "left to right"), ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantized by bitsandbytes")])
def test_model_that_would_answer_otherwise_in_transformers_is_refused(changes, complaint, hf_folder):
    with pytest.raises(UserError, match=complaint):
        load_model(change(hf_folder("bert")[0], **changes))


def test_what_was_true_of_the_parent_alone_is_not_in_the_childs_config(hf_folder, tmp_path, padded_batch):
    folder = change(hf_folder("bert")[0], problem_type="multi_label_classification", num_labels=5, pruned_heads={},
                    dtype="float16", torch_dtype="float16", auto_map={"AutoModel": "evil.py"})
    model, tokenizer = load_model(folder, label_names=["a", "b"], new_head=True)
    save_model(model, tokenizer, tmp_path / "child", run={})
    config = json.loads((tmp_path / "child" / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification" and config["dtype"] == "float32"
    assert not {"torch_dtype", "num_labels", "pruned_heads", "auto_map", "quantization_config"} & set(config)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "child").eval()
    assert theirs.dtype == torch.float32 and theirs.config.num_labels == 2
    with torch.no_grad():
        torch.testing.assert_close(theirs(*padded_batch).logits, model(*padded_batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes, complaint", [
    ({"id2label": {"0": "other", "1": "good", "2": "other"}}, "labels 0 and 2 have the same name 'other'"),
    ({"id2label": {"0": "a", "1": 5, "2": "b"}}, "label 1 is 5"),
    ({"id2label": {"0": "a", "1": None}}, "label 1 is None")])
def test_labels_without_a_name_of_their_own_are_refused(changes, complaint, tmp_path, tokenizer):
    save_model(random_model(), tokenizer, tmp_path / "m", run={})
    edit_config(tmp_path / "m", **changes)
    with pytest.raises(UserError, match=complaint):
        load_model(tmp_path / "m")
