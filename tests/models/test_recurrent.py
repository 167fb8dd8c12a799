"""All models without attention: alone = in a batch, gradients everywhere, the folder rebuilds them to the bit."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.models.folder import save_model
from pocketbert.models.recipes import build_recurrent
from pocketbert.models.recurrent import recurrent_model
from pocketbert.models.recurrent_config import RecurrentConfig
from pocketbert.models.sequence import reversed_order
from pocketbert.models.stored import format_class, replace_module, replace_stored_modules
from pocketbert.training.optim import freeze_layers, set_dropout
from small_models import LABELS, RECURRENT, random_recurrent

each_kind = pytest.mark.parametrize("recipe", RECURRENT.values(), ids=RECURRENT)


@each_kind
def test_text_alone_equals_text_in_a_padded_batch(recipe, padded_batch):
    model, (input_ids, attention_mask) = random_recurrent(recipe), padded_batch
    together = model(input_ids, attention_mask)
    assert together.std(dim=0).min() > 0.01  # texts differ, so that a mix-up shows
    for ids, length, logits in zip(input_ids, attention_mask.sum(1), together, strict=True):
        torch.testing.assert_close(model(ids[None, :length])[0], logits, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(model(ids[None], (torch.arange(9)[None] < length).long())[0], logits,
                                   atol=1e-6, rtol=1e-6)
    noise = torch.where(attention_mask.bool(), input_ids, torch.randint(5, 60, input_ids.shape))
    torch.testing.assert_close(model(noise, attention_mask), together, atol=1e-6, rtol=1e-6)


@each_kind
def test_order_of_the_batch_does_not_matter(recipe, padded_batch):
    model, order = random_recurrent(recipe), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(*(x[order] for x in padded_batch)), model(*padded_batch)[order],
                               atol=1e-6, rtol=1e-6)


@each_kind
def test_text_of_one_token_has_finite_logits_and_gradients(recipe):
    logits = random_recurrent(recipe)(torch.tensor([[7]]), torch.tensor([[1]]))
    logits.sum().backward()
    assert logits.shape == (1, 3) and logits.isfinite().all()


@each_kind
def test_gradients_reach_every_parameter(recipe, padded_batch):
    model = random_recurrent(recipe).train()
    set_dropout(model, 0.1)
    F.cross_entropy(model(*padded_batch), torch.tensor([0, 1, 2, 0])).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


@pytest.mark.parametrize("recipe", [RECURRENT["xlstm"], RECURRENT["rwkv"]])
def test_blocks_read_to_the_right_and_to_the_left_in_turn(recipe):
    model, x = random_recurrent(recipe), torch.randn(1, 7, 8, requires_grad=True)
    order = reversed_order(torch.tensor([[True] * 6 + [False]]))
    for layer, first, last in zip(model.layers, (0, 5), (5, 0), strict=True):
        y = layer(x, order)
        sees = [torch.autograd.grad(y[0, t].square().sum(), x, retain_graph=True)[0][0].abs().amax(-1) > 0
                for t in (first, last)]
        assert sees[0].nonzero().flatten().tolist() == [first]  # the first token read knows itself alone,
        assert sees[1].tolist() == [True] * 6 + [False]  # the last one read all of the text and no padding


@each_kind
def test_dropout_and_freeze_flags_work(recipe, padded_batch):
    model = random_recurrent(recipe)
    set_dropout(model, 0.0)
    freeze_layers(model, 1)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {"embeddings.word.weight"} | {f"layers.0.{n}" for n, _ in model.layers[0].named_parameters()} <= frozen
    assert not [name for name in frozen if name.startswith(("layers.1", "head"))]
    evaluated = model.eval()(*padded_batch)
    torch.testing.assert_close(model.train()(*padded_batch), evaluated)  # dropout 0: nothing random is left
    assert model.config.to_hf()["hidden_dropout"] == 0.0
    for part in [model.embeddings, model.head] + [model.layers[1]] * (not recipe.startswith("bag")):
        set_dropout(model, 0.0)
        for module in part.modules():
            module.dropout = 0.5
        assert not torch.allclose(model(*padded_batch), model(*padded_batch))


@each_kind
def test_bf16_autocast_is_near_float32(recipe, padded_batch):
    model = random_recurrent(recipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(*padded_batch)
        logits.sum().backward()
    torch.testing.assert_close(logits.float(), model(*padded_batch), atol=0.1, rtol=0.1)


def order_task(recipe):
    """32 texts of 6 to 9 tokens: is word 5 before word 6?  For the bag: is it there at all?"""
    generator = torch.Generator().manual_seed(0)
    texts, labels = [], []
    for n in range(32):
        text = torch.randint(7, 20, (6 + n % 4,), generator=generator).tolist()
        i, j = sorted(torch.randperm(len(text), generator=generator)[:2].tolist())
        text[i], text[j] = ((5, 6), (6, 5))[n // 4 % 2]
        if recipe.startswith("bag") and n // 4 % 2:
            text[j] = 7
        texts.append(text)
        labels.append(n // 4 % 2)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    return torch.tensor([text + [0] * (9 - len(text)) for text in texts]), mask, torch.tensor(labels)


@pytest.mark.parametrize("recipe", [
    "lstm:embedding=16,hidden=16", "gru:embedding=16,hidden=16", "xlstm:embedding=16,hidden=16,heads=2,layers=1",
    "xlstm:embedding=16,hidden=16,heads=2", "rwkv:embedding=16,hidden=16", "cnn:embedding=16,hidden=16,width=9",
    "bag:ngrams=1,embedding=16,hidden=16"])
def test_every_kind_learns_32_texts_by_heart_by_their_order(recipe):
    input_ids, mask, labels = order_task(recipe)
    torch.manual_seed(0)
    model = build_recurrent(recipe, 20, 0, ["before", "after"]).train()
    set_dropout(model, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = F.cross_entropy(model(input_ids, mask), labels)
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (model.eval()(input_ids, mask).argmax(-1) == labels).all()


def rebuild(config, tensors):
    """As load_model does: shapes from config.json on the meta device, numbers from the file."""
    config = RecurrentConfig.from_hf(json.loads(json.dumps(config)))
    with torch.device("meta"):
        model = recurrent_model(config)
        replace_stored_modules(model, config.stored_formats, "config.json")
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    return model.eval()


@each_kind
def test_config_and_tensors_rebuild_the_same_model_to_the_bit(recipe, padded_batch):
    model = random_recurrent(recipe)
    model.config.hf, model.config.max_length, model.config.hidden_dropout = {"text_cleaning": "cardiff"}, 77, 0.45
    again = rebuild(model.config.to_hf(), model.state_dict())
    assert torch.equal(again(*padded_batch), model(*padded_batch))
    assert again.config.to_hf() == model.config.to_hf()
    assert (again.config.max_length, again.config.label_names) == (77, LABELS)
    assert again.config.hf["text_cleaning"] == "cardiff" and again.device == torch.device("cpu")


@each_kind
def test_int8_model_is_rebuilt_to_the_bit_and_near_the_float_model(recipe, padded_batch):
    model = random_recurrent(recipe)
    expected = model(*padded_batch)
    for name, module in list(model.named_modules()):
        form = {nn.Linear: "int8_linear", nn.Embedding: "int8_embedding"}.get(type(module))
        if form and not name.startswith("head."):
            replace_module(model, name, format_class(form).from_float(module))
            model.config.stored_formats[name] = form
    assert "embeddings.word" in model.config.stored_formats
    again = rebuild(model.config.to_hf(), model.state_dict())
    assert torch.equal(again(*padded_batch), model(*padded_batch))
    torch.testing.assert_close(again(*padded_batch), expected, atol=0.1, rtol=0.1)


def test_transformers_refuses_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    for recipe in RECURRENT.values():
        (tmp_path / "config.json").write_text(json.dumps(random_recurrent(recipe).config.to_hf()))
        with pytest.raises(ValueError, match="pocketbert-"):
            transformers.AutoConfig.from_pretrained(tmp_path)


def test_opening_a_folder_of_any_kind_does_not_import_torchs_compiler(tmp_path, tokenizer):
    """It takes seconds. Arithmetic on the meta device imports it."""
    for kind, recipe in RECURRENT.items():
        save_model(random_recurrent(recipe), tokenizer, tmp_path / kind, run={})
    program = ("import sys\nfrom pocketbert.models.folder import load_model\n"
               f"for kind in {list(RECURRENT)}:\n"
               "    load_model(sys.argv[1] + '/' + kind)\n"
               "    assert 'torch._dynamo' not in sys.modules, kind\n")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
