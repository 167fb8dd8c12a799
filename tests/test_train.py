"""What the loops share: the optimizer and its schedule, the log, scoring, the search, one small training."""

import argparse
import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

import search
import train
from data_utils import load_dataset
from model_utils import open_model
from pocketbert.cli import run_script
from pocketbert.data.splits import Dataset, Split
from pocketbert.evaluation.metrics import scores
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.training.log import TrainingLog
from pocketbert.training.optim import Optimizer
from small_models import LABELS, TEXTS, random_model


def arguments(**changes):
    return argparse.Namespace(**{"lr": 0.1, "weight_decay": 0.01, "warmup": 0.2, "accumulate": 1, "max_grad_norm": 1.0,
                                 "epochs": 5, "patience": 2, "minutes": 0, "wandb": "disabled", "dropout": None,
                                 "freeze": 0, "out": "x"} | changes)


@pytest.fixture
def mine(tmp_path):
    """A CSV of 120 rows whose label is told by one word."""
    rows = [f"{text} {word} {i},{label}" for i in range(20) for text in TEXTS[:2]
            for word, label in zip(("awful", "perhaps", "great"), LABELS, strict=True)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows).replace('"', "") + "\n")
    return tmp_path / "mine.csv"


def train_argv(mine, out, **flags):
    flags = {"model": "scratch:layers=1,hidden=16,heads=2,vocab=200", "data": mine, "out": out, "epochs": 3,
             "lr": 1e-2, "batch-size": 16} | flags
    return [str(part) for flag, value in flags.items() for part in (f"--{flag}", value) if part != ""]


# --- optimizer ---------------------------------------------------------------------------------------------

def test_schedule_warms_up_to_the_peak_and_decays_to_zero():
    model = nn.Linear(2, 2)
    optimizer, rates = Optimizer(model, arguments(), num_batches=10), []
    for _ in range(10):
        rates.append(optimizer.adamw.param_groups[0]["lr"])
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        optimizer.step(loss)
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1]) and max(rates) == pytest.approx(0.1)
    assert all(a > b for a, b in zip(rates[2:], rates[3:], strict=False)) and rates[-1] > 0
    assert optimizer.adamw.param_groups[0]["lr"] == 0


def test_only_matrices_are_decayed():
    model = random_model()
    optimizer = Optimizer(model, arguments(), num_batches=1)
    decayed, spared = (group["params"] for group in optimizer.adamw.param_groups)
    assert all(p.dim() == 2 for p in decayed) and all(p.dim() == 1 for p in spared)
    assert optimizer.adamw.param_groups[1]["weight_decay"] == 0
    assert sum(p.numel() for p in decayed + spared) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("batch_sizes", [[4, 4], [4, 4, 4]])
def test_accumulated_small_batches_make_the_step_of_one_large_batch(batch_sizes):
    """Also for the last, shorter round of an epoch (three batches, two at a time)."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.randint(0, 2, (12,))
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    small = Optimizer(models[0], arguments(accumulate=2, warmup=0), num_batches=len(batch_sizes))
    large = Optimizer(models[1], arguments(warmup=0), num_batches=math.ceil(len(batch_sizes) / 2))
    for i in range(len(batch_sizes)):
        loss = nn.functional.cross_entropy(models[0](x[4 * i:4 * i + 4]), y[4 * i:4 * i + 4])
        loss.backward()
        small.step(loss)
    for rows in (slice(0, 8), slice(8, 4 * len(batch_sizes))):
        if len(x[rows]):
            loss = nn.functional.cross_entropy(models[1](x[rows]), y[rows])
            loss.backward()
            large.step(loss)
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_nan_loss_stops_before_it_touches_the_weights():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    loss = model(torch.full((1, 2), float("nan"))).sum()
    loss.backward()
    with pytest.raises(FloatingPointError, match="lower --lr"):
        Optimizer(model, arguments(), num_batches=1).step(loss)
    assert torch.equal(model.weight, before)


# --- log, scoring ------------------------------------------------------------------------------------------

def test_log_keeps_the_weights_of_the_best_epoch_and_stops_after_patience():
    model, epochs = nn.Linear(1, 1), []
    log = TrainingLog(model, arguments(epochs=9, patience=2))
    for epoch in log.epochs():
        model.weight.data.fill_(epoch)
        for _ in log.progress([torch.tensor(1.0)], total=1):
            log.batch(torch.tensor(1.0))
        log.add(epoch, {"macro_f1": [0.2, 0.9, 0.4, 0.5, 0.6][epoch - 1], "accuracy": 0.5})
        epochs.append(epoch)
    log.restore_best()
    assert epochs == [1, 2, 3, 4] and model.weight.item() == 2 and len(log.history) == 4


def test_predictions_come_in_the_order_of_the_texts_whatever_their_length():
    model = random_model()
    ids = [[2, 7, 9, 11, 3], [2, 3], [2, 30, 3], [2] + [8] * 20 + [3]]
    together = predict(model, ids, 3, pad_id=0)
    alone = torch.cat([model(torch.tensor([row])) for row in ids]).detach()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_macro_f1_is_sklearns_macro_and_not_weighted():
    logits = torch.eye(3)[[0, 0, 0, 1, 0]]
    labels = [0, 0, 0, 1, 2]
    assert scores(logits, labels)["macro_f1"] == pytest.approx(f1_score(labels, [0, 0, 0, 1, 0], average="macro"))
    assert scores(logits, labels)["accuracy"] == pytest.approx(0.8)


# --- train.py ----------------------------------------------------------------------------------------------

def test_training_learns_and_its_folder_gives_the_same_predictions(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "out", epochs=8))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["validation"]["macro_f1"] > 0.9 and len(run["history"]) >= 1
    assert run["data"]["fingerprint"] and run["command"].startswith("python train.py --model scratch")
    model, tokenizer = load_model(tmp_path / "out")
    logits = predict(model, tokenizer(["so awful", "so great"], 16), 2, tokenizer.pad_id)
    assert [model.config.label_names[i] for i in logits.argmax(-1)] == ["negative", "positive"]


def test_same_seed_gives_the_same_weights_and_another_seed_others(mine, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.main(train_argv(mine, tmp_path / name, seed=seed, epochs=1))
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"] != weights["c"]


def test_frozen_layers_and_embeddings_do_not_move(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "a", model="scratch:layers=2,hidden=16,heads=2,vocab=200"))
    train.main(train_argv(mine, tmp_path / "b", model=tmp_path / "a", freeze=1))
    (a, _), (b, _) = load_model(tmp_path / "a"), load_model(tmp_path / "b")
    assert torch.equal(a.embeddings.word.weight, b.embeddings.word.weight)
    assert torch.equal(a.layers[0].ffn.up.weight, b.layers[0].ffn.up.weight)
    assert not torch.equal(a.layers[1].ffn.up.weight, b.layers[1].ffn.up.weight)


def test_time_limit_ends_training_and_still_writes_the_folder(mine, tmp_path, capsys):
    train.main(train_argv(mine, tmp_path / "out", epochs=5000, minutes=0.01, patience=5000))
    assert "are over" in capsys.readouterr().out and (tmp_path / "out" / "run.json").exists()


def test_dataset_with_other_labels_than_the_model_is_an_error_and_writes_nothing(mine, tmp_path, tokenizer):
    save_model(random_model(label_names=["yes", "no"]), tokenizer, tmp_path / "m", run={})
    with pytest.raises(ValueError, match="negative, neutral, positive"):
        train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m"))
    assert not (tmp_path / "out").exists()
    train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m", **{"new-head": ""}, epochs=1))
    assert load_model(tmp_path / "out")[0].config.label_names == LABELS


def test_nameless_labels_get_the_names_of_the_data(mine, tmp_path, tokenizer):
    save_model(random_model(label_names=["LABEL_0", "LABEL_1", "LABEL_2"]), tokenizer, tmp_path / "m", run={})
    train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m", epochs=1))
    assert load_model(tmp_path / "out")[0].config.label_names == LABELS


def test_labels_follow_the_models_order_by_name(tokenizer, tmp_path):
    save_model(random_model(label_names=["POSITIVE", "NEGATIVE", "NEUTRAL"]), tokenizer, tmp_path / "m", run={})
    split = Split(["a", "b", "c"], [0, 1, 2])
    data = Dataset("x", LABELS, split, split, None, [], "publisher", "")
    _, _, aligned = open_model(str(tmp_path / "m"), data, arguments())
    assert aligned.train.labels == [1, 2, 0] and aligned.label_names == ["POSITIVE", "NEGATIVE", "NEUTRAL"]


def test_users_error_is_one_line_without_traceback(monkeypatch, capsys):
    def main():
        raise ValueError("no such\nthing")
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as error:
        run_script(main)
    assert error.value.code == "train.py: error: no such thing"


def wandb_records(path):
    """The records of an offline run's file: LevelDB's log format after a header of 7 bytes, each a protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's last bytes, too few for a header
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        part += data[at + 7:at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def test_offline_wandb_run_holds_configuration_curves_and_confusion_matrix(mine, tmp_path):
    import wandb
    train.main(train_argv(mine, tmp_path / "out", wandb="offline"))
    wandb.teardown()  # its writer is a process of its own, and done when it has ended
    [path] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    keys, config = set(), {}
    for record in wandb_records(path):
        keys |= {item.key or ".".join(item.nested_key) for item in record.history.item}
        config |= {item.key: item.value_json for item in record.run.config.update}
    assert {"train/loss", "validation/macro_f1", "epoch"} <= keys
    assert any("confusion_matrix" in key for key in keys), keys
    assert config["lr"] == "0.01" and "scratch" in config["model"]


# --- search.py ---------------------------------------------------------------------------------------------

def search_argv(mine, out, trials):
    return ["train", "--trials", str(trials), "--minutes", "2", "--out", str(out), "--model",
            "scratch:layers=1,hidden=16,heads=2,vocab=200", "--data", str(mine), "--epochs", "2", "--batch-size=16"]


def test_search_keeps_the_best_model_resumes_and_respects_fixed_flags(mine, tmp_path, capsys):
    out = tmp_path / "search"
    search.main(search_argv(mine, out, trials=2))
    search.main(search_argv(mine, out, trials=4))
    printed = capsys.readouterr().out
    assert "2 trials are done" in printed and "best of 4 trials" in printed
    run = json.loads((out / "best" / "run.json").read_text())
    study = search.optuna.load_study(study_name="search", storage=f"sqlite:///{out / 'study.db'}")
    assert run["validation"]["macro_f1"] == pytest.approx(study.best_value)
    assert run["arguments"]["batch_size"] == 16 and "batch-size" not in study.best_params
    assert {"history.png", "slices.png", "epochs.png"} <= set(os.listdir(out)) and not (out / "trial").exists()


def test_search_scores_the_model_that_prune_saves_and_not_a_larger_one_on_the_way(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", model="scratch:layers=2,hidden=16,heads=2,vocab=200"))
    search.main(["prune", "--trials", "2", "--minutes", "2", "--out", str(tmp_path / "s"), "--model",
                 str(tmp_path / "teacher"), "--data", str(mine), "--heads", "0.5", "--ffn", "0.1", "--steps", "2",
                 "--epochs", "1"])
    run = json.loads((tmp_path / "s" / "best" / "run.json").read_text())
    study = search.optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}")
    assert run["validation"]["macro_f1"] == pytest.approx(study.best_value)
    assert run["pruning"]["steps"][-1]["neurons"] == load_model(tmp_path / "s" / "best")[0].config.intermediate_sizes


def test_search_with_another_command_in_the_same_folder_is_an_error(mine, tmp_path):
    search.main(search_argv(mine, tmp_path / "s", trials=1))
    with pytest.raises(ValueError, match="another --out"):
        search.main([*search_argv(mine, tmp_path / "s", trials=1), "--max-length", "16"])


def test_search_keeps_its_budget_of_minutes_even_within_an_epoch(mine, tmp_path):
    argv = search_argv(mine, tmp_path / "s", trials=50)
    argv[argv.index("--minutes") + 1] = "0.05"
    argv[argv.index("--epochs") + 1] = "100000"
    start = search.time.monotonic()
    search.main(argv)
    assert search.time.monotonic() - start < 20  # one trial would take hours


@pytest.mark.parametrize("student, depth", [("teacher:layers=0,2", 2), ("teacher:layers=1:hidden=8", 1),
                                            ("teacher:hidden=8", 3), ("gru:layers=2", 2), ("scratch:layers=4", 4)])
def test_search_freezes_no_more_layers_than_the_student_has(student, depth, mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "teacher", model="scratch:layers=3,hidden=16,heads=2,vocab=200"))
    assert search.depth_of(SimpleNamespace(student=student, teacher=[str(tmp_path / "teacher")])) == depth


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_balance_moves_the_weight_from_texts_to_classes(power):
    labels = [0] * 8 + [1] * 2 + [2] * 2
    weights = train.class_weights(labels, 3, power)
    assert weights.tolist() == pytest.approx([(4 / 8) ** power, (4 / 2) ** power, (4 / 2) ** power])
    if power == 1:  # every class has the same share of the loss
        assert len({round(float(weights[k]) * labels.count(k), 5) for k in range(3)}) == 1


def test_balanced_loss_is_the_weighted_cross_entropy(mine, tmp_path):
    losses, rows = [], mine.read_text().splitlines()
    mine.write_text("\n".join(row for i, row in enumerate(rows) if i < 40 or row.endswith(LABELS[0])))
    for balance in (0.0, 1.0):
        train.main([*train_argv(mine, tmp_path / "m"), "--lr", "0", "--epochs", "1", "--dropout", "0",
                    "--batch-size", "1000", f"--balance={balance}"])
        losses.append(json.loads((tmp_path / "m" / "run.json").read_text())["history"][0]["loss"])
    model, tokenizer = load_model(tmp_path / "m")
    data = load_dataset(str(mine))
    logits = torch.cat([model(torch.tensor(tokenizer([text], 128))) for text in data.train.texts])
    labels = torch.tensor(data.train.labels)
    weights = train.class_weights(data.train.labels, len(data.label_names), 1.0)
    assert losses == pytest.approx([torch.nn.functional.cross_entropy(logits, labels, w).item()
                                    for w in (None, weights)], abs=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-4
