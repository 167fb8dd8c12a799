"""The schedule, the parameter groups, dropout and frozen layers."""

import pytest
import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.training.optim import (
    freeze_layers,
    parameter_groups,
    set_dropout,
    steps_per_epoch,
    warmup_then_decay,
)
from small_models import random_model


def rates(num_steps, warmup, peak=0.1):
    """The learning rate of every step, and the one after the last."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=peak)
    scheduler = warmup_then_decay(optimizer, num_steps, warmup)
    found = []
    for _ in range(num_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedule_warms_up_to_the_peak_and_decays_to_zero():
    assert rates(10, warmup=0.2) == pytest.approx([0.05, 0.1] + [0.1 * (10 - t) / 8 for t in range(2, 11)])


def test_schedule_without_warmup_starts_at_the_peak():
    assert rates(4, warmup=0.0) == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def test_each_layer_learns_at_a_share_of_the_rate_of_the_one_above_it():
    model = random_model()
    depth = len(model.layers)
    rate_of = {id(p): group["lr"] for group in parameter_groups(model, 0.01, lr=1.0, layer_decay=0.5)
               for p in group["params"]}
    assert len(rate_of) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        number = name.split(".")[1]
        distance = {"head": 0, "embeddings": depth + 1}.get(name.split(".")[0])
        assert rate_of[id(parameter)] == 0.5 ** (depth - int(number) if distance is None else distance), name
    decays = {group["weight_decay"] for group in parameter_groups(model, 0.01, 1.0, 0.5)
              if group["params"][0].dim() == 1}
    assert decays == {0.0}


def test_frozen_layers_have_no_state_in_the_optimizer():
    model = random_model()
    freeze_layers(model, 1)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01))
    model(torch.ones(2, 3, dtype=torch.int64)).sum().backward()
    optimizer.step()
    assert {id(p) for p in optimizer.state} <= {id(p) for p in model.parameters() if p.requires_grad}
    assert not any(p in optimizer.state for p in model.layers[0].parameters())


def test_only_matrices_are_decayed_and_frozen_parameters_are_in_no_group():
    model = random_model()
    freeze_layers(model, 1)
    decayed, spared = (group["params"] for group in parameter_groups(model, weight_decay=0.5))
    assert [group["weight_decay"] for group in parameter_groups(model, 0.5)] == [0.5, 0.0]
    assert all(p.dim() == 2 for p in decayed) and all(p.dim() == 1 for p in spared)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in decayed + spared) == trained
    assert not any(p.requires_grad for part in (model.embeddings, model.layers[0]) for p in part.parameters())


def test_more_frozen_layers_than_there_are_is_refused():
    with pytest.raises(UserError, match="--freeze 9: the model has 3 layers"):
        freeze_layers(random_model(layers=3), 9)


def test_dropout_is_replaced_everywhere_and_in_the_config():
    model = random_model()
    set_dropout(model, 0.25)
    assert {module.dropout for module in model.modules() if hasattr(module, "dropout")} == {0.25}
    assert model.config.hidden_dropout == model.config.attention_dropout == model.config.classifier_dropout == 0.25


@pytest.mark.parametrize("texts, batch_size, accumulate, steps", [(96, 32, 1, 3), (97, 32, 1, 4), (97, 32, 2, 2),
                                                                  (160, 32, 2, 3)])
def test_steps_of_an_epoch_count_the_shorter_batch_and_the_shorter_group(texts, batch_size, accumulate, steps):
    assert steps_per_epoch(texts, batch_size, accumulate) == steps
