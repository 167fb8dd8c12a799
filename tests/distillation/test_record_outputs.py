"""record_outputs gives the tensors that the blocks compute, and leaves no hook behind."""

import pytest
import torch

from pocketbert.distillation.inner import attention_scores, relation_loss
from pocketbert.models.hooks import record_outputs
from small_models import random_model


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_recorded_tensors_are_those_of_the_blocks_run_by_hand(padded_batch, family):
    model = random_model(family=family)
    input_ids, attention_mask = padded_batch
    with torch.no_grad(), record_outputs(model) as outputs:
        logits = model(input_ids, attention_mask, all_tokens=True)
    torch.testing.assert_close(logits, model(input_ids, attention_mask))
    key_mask = attention_mask.bool()[:, None, None, :]
    x = model.embeddings(input_ids)
    torch.testing.assert_close(outputs["hidden"][0], x)
    for block, layer in enumerate(model.layers, start=1):
        for kind in ("query", "key", "value"):
            torch.testing.assert_close(outputs[kind][block], getattr(layer.attention, kind)(x))
        x = layer(x, x, key_mask)
        torch.testing.assert_close(outputs["hidden"][block], x)
    assert outputs["query"][3].shape == outputs["hidden"][3].shape == (4, 9, 32)  # the last block too, for all tokens


def test_recorded_scores_are_those_of_the_models_attention(padded_batch):
    """softmax(scores) V, after the output matrix, is what the block's attention gives."""
    model = random_model()
    with torch.no_grad(), record_outputs(model, [1, 2]) as outputs:
        model(*padded_batch)
        attention = model.layers[1].attention
        scores = attention_scores(outputs["query"][2], outputs["key"][2], attention.num_heads)
        key_mask = padded_batch[1].bool()[:, None, None, :]
        weights = scores.masked_fill(~key_mask, -torch.inf).softmax(-1)
        context = (weights @ attention.split_heads(outputs["value"][2])).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.output(context),
                                   attention(outputs["hidden"][1], outputs["hidden"][1], key_mask))


def test_gradients_flow_through_recorded_tensors_into_the_blocks_below_them(padded_batch):
    model = random_model()
    with record_outputs(model, [2]) as outputs:
        model(*padded_batch)
    assert outputs["hidden"].keys() == outputs["value"].keys() == {2}
    relation_loss(outputs["value"][2], torch.randn(4, 9, 32), padded_batch[1], 4).backward()
    assert model.layers[0].ffn.up.weight.grad.abs().sum() > 0
    assert model.layers[1].attention.value.weight.grad.abs().sum() > 0 and model.layers[2].ffn.up.weight.grad is None


def test_after_recording_the_model_has_no_hooks_left_even_after_an_error(padded_batch):
    model = random_model()
    with pytest.raises(RuntimeError, match="ours"), record_outputs(model) as outputs:
        raise RuntimeError("ours")
    model(*padded_batch)
    assert not any(outputs.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("blocks", [[4], [-1], [0, 7]])
def test_blocks_that_the_model_has_not_are_an_error(blocks):
    with pytest.raises(ValueError, match="1 to 3"), record_outputs(random_model(), blocks):
        pass
