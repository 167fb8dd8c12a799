"""LoRA and QLoRA: equal to peft, mergeable, nothing but the adapter and the head moves, and adapters go both ways."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.adapter import HEAD_MODULES, adapter_of
from pocketbert.models.folder import load_model, parent_of, save_adapter, save_model
from pocketbert.models.hf_names import to_hf_name
from pocketbert.models.lora import LoraLinear, add_lora, check_adaptable, decode_base, merge_lora, store_base
from pocketbert.models.size import file_bytes
from pocketbert.models.stored import decode_in_each_call
from pocketbert.training.optim import parameter_groups
from small_models import FAMILIES, LABELS, TEXTS, random_model, random_recurrent


def adapted(model, targets="query,value", dropout=0.0, nf4=False):
    """The model with adapters whose B is not zero."""
    if nf4:
        store_base(model)
        decode_in_each_call(model)
    add_lora(model, targets, 4, 16.0, dropout)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data = 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def base(tmp_path, tokenizer):
    """A function that writes the base of a family and returns its folder."""
    def write(family="bert"):
        save_model(random_model(family=family, std=0.1), tokenizer, tmp_path / "base", run={})
        return tmp_path / "base"
    return write


def write_adapter_of(model, tokenizer, folder, base):
    adapter = adapter_of(model)
    merge_lora(model)
    save_adapter(adapter, model.config, tokenizer, folder, {"parent": parent_of(str(base))})


# ---- the layer ---------------------------------------------------------------------------------------------

def test_a_new_adapter_leaves_the_logits_as_they_are(padded_batch):
    model = random_model()
    before = model(*padded_batch)
    add_lora(model, "all", 4, 16.0, 0.0)
    torch.testing.assert_close(model(*padded_batch), before, atol=1e-6, rtol=1e-6)  # frozen: another kernel of torch


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_model_equals_the_adapter(family, padded_batch):
    model = adapted(random_model(family=family, std=0.1), "all")
    before = model(*padded_batch)
    merge_lora(model)
    torch.testing.assert_close(model(*padded_batch), before, atol=1e-6, rtol=1e-6)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_moves_the_adapters_and_the_head_and_no_other_bit(padded_batch):
    model = random_model()
    add_lora(model, "query,down", 2, 16.0, 0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-2)
    model.train()
    for _ in range(3):
        nn.functional.cross_entropy(model(*padded_batch), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if ".lora_" in name or name.startswith("head.")}
    assert len(optimizer.state) == len(moved)


def test_frozen_layers_get_no_adapter():
    model = random_model()
    add_lora(model, "value", 2, 16.0, 0.0, first_layer=2)
    adapters = [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    assert adapters == ["layers.2.attention.value"]


def test_models_without_pretrained_matrices_are_refused():
    with pytest.raises(UserError, match="new and random"):
        check_adaptable(random_model(), "scratch:layers=2")
    with pytest.raises(UserError, match="is for encoders"):
        check_adaptable(random_recurrent("gru"), "runs/gru")


# ---- peft --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_pefts(family, base, padded_batch):
    ours = adapted(load_model(base(family))[0], "all")
    hf = transformers.AutoModelForSequenceClassification.from_pretrained(base(family))
    names = [name for name, module in ours.named_modules() if isinstance(module, LoraLinear)]
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=16, lora_dropout=0.0, modules_to_save=HEAD_MODULES[family],
                        target_modules=[to_hf_name(f"{name}.weight", family)[:-7] for name in names])
    theirs = get_peft_model(hf, config).eval()
    twins = dict(theirs.named_parameters())
    pairs = []
    for name in names:
        for half in ("lora_A", "lora_B"):
            twin = twins[f"base_model.model.{to_hf_name(f'{name}.weight', family)[:-7]}.{half}.default.weight"]
            parameter = getattr(ours.get_submodule(name), half)
            twin.data.copy_(parameter)
            pairs.append((parameter, twin))
    labels = torch.tensor([0, 1, 2, 0])
    logits = ours(*padded_batch), theirs(*padded_batch).logits
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
    for one in logits:
        nn.functional.cross_entropy(one, labels).backward()
    for parameter, twin in pairs:
        torch.testing.assert_close(parameter.grad, twin.grad, atol=1e-5, rtol=1e-4)
    assert any(parameter.grad.abs().max() > 1e-3 for parameter, _ in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_ours_and_we_read_what_it_writes(family, base, tmp_path, tokenizer, padded_batch):
    folder = base(family)
    model = adapted(load_model(folder)[0], "all")
    model.head.out.weight.data += 1  # a head that is not the base's
    write_adapter_of(model, tokenizer, tmp_path / "ours", folder)
    expected = model(*padded_batch)
    hf = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    theirs = PeftModel.from_pretrained(hf, tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(*padded_batch).logits, expected, atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "config.json").exists()
    again, _ = load_model(tmp_path / "theirs")
    assert torch.equal(again(*padded_batch), expected) and again.config.label_names == LABELS


# ---- the folder --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("nf4", [False, True], ids=["fp32", "nf4"])
def test_adapter_folder_gives_the_logits_before_saving_bit_for_bit(nf4, base, tmp_path, tokenizer, padded_batch):
    folder = base()
    model = adapted(load_model(folder)[0], nf4=nf4)
    write_adapter_of(model, tokenizer, tmp_path / "a", folder)
    again, again_tokenizer = load_model(tmp_path / "a")
    with torch.inference_mode():
        assert torch.equal(again(*padded_batch), model(*padded_batch))
    assert again_tokenizer(TEXTS, 16) == tokenizer(TEXTS, 16) and again.config.label_names == LABELS
    assert bool(again.config.stored_formats) is nf4


def test_the_head_is_in_the_file_and_the_base_is_not(base, tmp_path, tokenizer):
    folder = base()
    write_adapter_of(adapted(load_model(folder)[0]), tokenizer, tmp_path / "a", folder)
    names = set(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    assert {f"base_model.model.{name}.{leaf}" for name in ("classifier", "bert.pooler.dense")
            for leaf in ("weight", "bias")} < names
    assert len(names) == 4 + 3 * 2 * 2  # the head; three layers, two targets, A and B
    sizes = file_bytes(folder), file_bytes(tmp_path / "a")
    own = (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    assert sizes[1]["model"] == sizes[0]["model"] + own


def test_adapter_on_another_base_is_refused(base, tmp_path, tokenizer):
    folder = base()
    write_adapter_of(adapted(load_model(folder)[0]), tokenizer, tmp_path / "a", folder)
    save_model(random_model(seed=1, std=0.1), tokenizer, folder, run={})
    with pytest.raises(UserError, match="trained on other weights"):
        load_model(tmp_path / "a")


def test_folders_that_were_moved_together_still_open(base, tmp_path, tokenizer, padded_batch):
    folder = base()
    model = adapted(load_model(folder)[0])
    write_adapter_of(model, tokenizer, tmp_path / "a", folder)
    (tmp_path / "new").mkdir()
    folder.rename(tmp_path / "new" / "base")
    (tmp_path / "a").rename(tmp_path / "new" / "a")
    assert torch.equal(load_model(tmp_path / "new" / "a")[0](*padded_batch), model(*padded_batch))


@pytest.mark.parametrize("key, value", [("use_dora", True), ("peft_type", "IA3"), ("bias", "all"), ("r", 3)])
def test_adapter_that_would_be_computed_wrongly_is_refused(key, value, base, tmp_path, tokenizer):
    folder = base()
    write_adapter_of(adapted(load_model(folder)[0]), tokenizer, tmp_path / "a", folder)
    (tmp_path / "a" / "run.json").unlink()
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "a")
    assert "\n" not in str(error.value)


def test_adapter_on_nf4_is_not_saved_as_a_model_before_it_is_merged(tmp_path, tokenizer, padded_batch):
    model = adapted(random_model(std=0.1), nf4=True)
    before = model(*padded_batch)
    with pytest.raises(UserError, match="merge"):
        save_model(model, tokenizer, tmp_path / "m", run={})
    decode_base(model)
    merge_lora(model)
    save_model(model, tokenizer, tmp_path / "m", run={})
    torch.testing.assert_close(load_model(tmp_path / "m")[0](*padded_batch), before, atol=1e-4, rtol=0)


# ---- memory ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("checkpointing", [False, True])
def test_qlora_keeps_no_dense_matrix_for_the_backward_pass(checkpointing, padded_batch):
    model = adapted(random_model(), "all", nf4=True).train()
    model.checkpointing = checkpointing
    dense = {module.base.shape for module in model.modules() if isinstance(module, LoraLinear)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        logits = model(*padded_batch)
    own = {parameter.data_ptr() for parameter in model.parameters()}  # the head's are there anyway
    new = {tuple(tensor.shape) for tensor in kept if tensor.data_ptr() not in own}
    assert new and not new & (dense | {shape[::-1] for shape in dense})
    logits.sum().backward()
    assert all(module.base.dense is None for module in model.modules() if isinstance(module, LoraLinear))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "qlora"])
def test_checkpointing_gives_the_same_gradients_with_dropout(lora, padded_batch):
    gradients = []
    for checkpointing in (False, True):
        model = random_model(hidden_dropout=0.2, attention_dropout=0.2)
        model = (adapted(model, dropout=0.2, nf4=True) if lora else model).train()
        model.checkpointing = checkpointing
        torch.manual_seed(7)
        nn.functional.cross_entropy(model(*padded_batch), torch.tensor([0, 1, 2, 0])).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
