"""Heads and neurons that add nothing are found, whatever their matrices look like."""

import pytest
import torch

from pocketbert.evaluation.zeros import idle_units, zero_weights
from pocketbert.models.lora import add_lora, store_base
from small_models import random_model


def with_one_idle_head():
    model = random_model()
    attention = model.layers[0].attention
    with torch.no_grad():
        attention.value.weight[:attention.head_size] = 0
        attention.value.bias[:attention.head_size] = 0
        model.layers[1].ffn.down.weight[:, :2] = 0
    return model


@pytest.mark.parametrize("form", ["dense", "adapter", "adapter on NF4"])
def test_idle_heads_and_neurons_are_counted_in_dense_models_and_beside_adapters(form):
    model = with_one_idle_head()
    if form == "adapter on NF4":
        store_base(model)
    if form != "dense":
        add_lora(model, "query,value", rank=2, alpha=4, dropout=0.0)
    assert idle_units(model) == (1, 2) and 0 < zero_weights(model) < 0.2


def test_an_adapter_that_adds_to_an_idle_head_makes_it_work():
    model = with_one_idle_head()
    add_lora(model, "value", rank=2, alpha=4, dropout=0.0)
    torch.nn.init.ones_(model.layers[0].attention.value.lora_B)
    assert idle_units(model) == (0, 2)
