"""The log: the best weights, patience, the time limit, a loss that is not finite."""

import pytest
import torch
from torch import nn

from pocketbert.errors import TrainingDiverged
from pocketbert.training.log import TrainingLog, copy_weights

SCORES = [0.2, 0.9, 0.4, 0.5, 0.6]


def train(log, model, scores=SCORES, batches=1, counts=lambda epoch: True):
    """A training whose epoch sets the weight to its number and scores what `scores` says. Returns the epochs."""
    epochs = []
    for epoch in log.epochs():
        model.weight.data.fill_(epoch)
        for _ in log.progress(range(batches), total=batches):
            log.batch(torch.tensor(float(epoch)))
        log.end_epoch(model, {"macro_f1": scores[epoch - 1], "accuracy": 0.5}, counts(epoch))
        epochs.append(epoch)
    log.restore_best(model)
    return epochs


def test_log_keeps_the_weights_of_the_best_epoch_and_stops_after_patience():
    model = nn.Linear(1, 1)
    log = TrainingLog(epochs=9, patience=2)
    assert train(log, model) == [1, 2, 3, 4]
    assert model.weight.item() == 2 and [row["loss"] for row in log.history] == [1, 2, 3, 4]


def test_epochs_that_do_not_count_cannot_be_the_best():
    model = nn.Linear(1, 1)
    assert train(TrainingLog(epochs=5, patience=9), model, counts=lambda epoch: epoch > 2) == [1, 2, 3, 4, 5]
    assert model.weight.item() == 5


def test_weights_from_before_the_training_stay_where_no_epoch_is_better():
    model = nn.Linear(1, 1)
    model.weight.data.fill_(7)
    log = TrainingLog(epochs=2, patience=9)
    log.start_over(model, {"macro_f1": 0.95})
    train(log, model)
    assert model.weight.item() == 7


def test_log_ends_the_epoch_and_the_training_when_the_minutes_are_over(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("pocketbert.training.log.time.monotonic", lambda: now[0])
    log = TrainingLog(epochs=5, patience=9, minutes=1)
    seen = []
    for _ in log.epochs():
        for batch in log.progress(range(10), total=10):
            now[0] += 25
            seen.append(batch)
            log.batch(torch.tensor(1.0))
        log.end_epoch(nn.Linear(1, 1), {"macro_f1": 0.5, "accuracy": 0.5})
    assert (log.epoch, seen) == (1, [0, 1, 2]) and "--minutes 1 are over" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_loss_that_is_not_finite_ends_the_training_within_ten_batches(bad):
    log = TrainingLog(epochs=1, patience=1)
    losses = [1.0] * bad + [float("nan")] * 20
    seen = 0
    with pytest.raises(TrainingDiverged, match="the loss is nan .* lower --lr"):
        for _ in log.epochs():
            for loss in log.progress(losses, total=len(losses)):
                log.batch(torch.tensor(loss))
                seen += 1
    assert seen <= bad + 10


def test_losses_are_read_once_in_ten_batches(monkeypatch):
    reads = []
    real = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: reads.append(1) or real(tensor))
    log = TrainingLog(epochs=1, patience=1)
    for _ in log.epochs():
        for _ in log.progress(range(100), total=100):
            log.batch(torch.tensor(1.0))
    assert len(reads) == 11  # ten, and the last one of the epoch


def test_what_is_frozen_is_not_copied_with_the_best_weights():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    assert set(copy_weights(model)) == {"1.weight", "1.bias", "2.weight", "2.bias"}
