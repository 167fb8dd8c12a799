"""train.py: what a training writes, repeats and refuses."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

import train
from data_utils import load_dataset
from model_utils import open_model
from pocketbert.data.splits import Dataset, Split
from pocketbert.errors import TrainingDiverged, UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from script_runs import train_argv
from small_models import LABELS, random_model


def test_training_learns_and_its_folder_gives_the_same_predictions(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "out", epochs=12, patience=12))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["validation"]["macro_f1"] > 0.9 and len(run["history"]) >= 1
    assert run["data"]["fingerprint"] and run["command"].startswith("python train.py --model scratch")
    model, tokenizer = load_model(tmp_path / "out")
    logits = predict(model, tokenizer(["so awful", "so great"], 16), 2, tokenizer.pad_id)
    assert [model.config.label_names[i] for i in logits.argmax(-1)] == ["negative", "positive"]


def test_main_returns_what_run_json_says(mine, tmp_path):
    run = train.main(train_argv(mine, tmp_path / "out", epochs=1))
    assert json.loads(json.dumps(run)) == json.loads((tmp_path / "out" / "run.json").read_text())


def test_the_next_command_quotes_a_folder_with_a_blank(mine, tmp_path, capsys):
    folder = tmp_path / "my out"
    train.main(train_argv(mine, folder, epochs=1))
    assert f"prune.py --model '{folder}' --data" in capsys.readouterr().out


def test_negative_seed_is_refused(mine, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(train_argv(mine, tmp_path / "out", seed=-1))
    assert "--seed: -1 is below 0" in capsys.readouterr().err


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
    with pytest.raises(UserError, match="negative, neutral, positive"):
        train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m"))
    assert not (tmp_path / "out").exists()
    train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m", **{"new-head": ""}, epochs=1))
    assert load_model(tmp_path / "out")[0].config.label_names == LABELS


def test_nameless_labels_are_not_matched_by_the_alphabet_but_replaced_with_a_new_head(mine, tmp_path, tokenizer):
    save_model(random_model(label_names=["LABEL_0", "LABEL_1", "LABEL_2"]), tokenizer, tmp_path / "m", run={})
    with pytest.raises(UserError, match="would be a guess.*--new-head"):
        train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m", epochs=1))
    train.main(train_argv(mine, tmp_path / "out", model=tmp_path / "m", **{"new-head": ""}, epochs=1))
    assert load_model(tmp_path / "out")[0].config.label_names == LABELS


def test_labels_follow_the_models_order_by_name(tokenizer, tmp_path):
    save_model(random_model(label_names=["POSITIVE", "NEGATIVE", "NEUTRAL"]), tokenizer, tmp_path / "m", run={})
    split = Split(["a", "b", "c"], [0, 1, 2])
    data = Dataset("x", LABELS, split, split, None, [], "publisher", "")
    _, _, aligned = open_model(str(tmp_path / "m"), data)
    assert aligned.train.labels == [1, 2, 0] and aligned.label_names == ["POSITIVE", "NEGATIVE", "NEUTRAL"]


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


def weights_after(folder):
    return torch.cat([tensor.flatten() for tensor in load_model(folder)[0].state_dict().values()])


def test_focal_loss_is_the_formula_worked_out_with_plain_numbers():
    logits, labels, weights = torch.tensor([[2.0, 0.0], [0.5, 1.0]]), torch.tensor([0, 0]), torch.tensor([3.0, 1.0])
    p = [math.exp(2) / (math.exp(2) + 1), math.exp(0.5) / (math.exp(0.5) + math.exp(1))]
    expected = sum((1 - x) ** 2 * -math.log(x) for x in p) / 2
    assert train.focal_loss(logits, labels, weights, gamma=2).item() == pytest.approx(expected)
    mixed = torch.tensor([0, 1])
    expected = (3 * (1 - p[0]) * -math.log(p[0]) + p[1] * -math.log(1 - p[1])) / 4
    assert train.focal_loss(logits, mixed, weights, gamma=1).item() == pytest.approx(expected)


def test_focal_loss_with_gamma_0_is_the_cross_entropy_and_a_tiny_gamma_is_close_to_it():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(9, 3), torch.randint(3, (9,)), torch.rand(3)
    expected = F.cross_entropy(logits, labels, weights)
    assert train.focal_loss(logits, labels, weights, gamma=0).equal(expected)
    torch.testing.assert_close(train.focal_loss(logits, labels, weights, gamma=1e-9), expected)


@pytest.mark.parametrize("flag, value", [("focal-gamma", 2), ("layer-decay", 0.5), ("sampling", "balanced")])
def test_the_flag_changes_what_is_learned(flag, value, mine, tmp_path):
    folders = [tmp_path / "without", tmp_path / "with"]
    train.main(train_argv(mine, folders[0], epochs=1))
    train.main(train_argv(mine, folders[1], epochs=1, **{flag: value}))
    assert (folders[0] / "model.safetensors").read_bytes() != (folders[1] / "model.safetensors").read_bytes()


def test_new_versions_are_trained_on_and_validation_stays_as_it_is(mine, tmp_path, monkeypatch):
    seen = []
    real = train.batches
    monkeypatch.setattr(train, "batches", lambda ids, labels, *args, **options: seen.append((len(ids), labels)) or real(
        ids, labels, *args, **options))
    plain = train.main(train_argv(mine, tmp_path / "plain", epochs=1))
    more = train.main(train_argv(mine, tmp_path / "more", epochs=1, augment=2, **{"augment-classes": "negative"}))
    (_, labels), (count, more_labels) = seen
    assert more_labels[:96] == labels and set(more_labels[96:]) == {0} and 96 < count == len(more_labels) <= 96 + 64
    assert more["data"] == plain["data"]


@pytest.mark.parametrize("flags, message", [
    ({"augment-classes": "all"}, "--augment-classes does nothing here: it wants --augment"),
    ({"augment-with": "delete"}, "--augment-with does nothing here: it wants --augment"),
    ({"sampling": "balanced", "balance": 0.5}, "drop --balance")])
def test_flags_for_rare_classes_that_would_do_nothing_are_refused(flags, message, mine, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(train_argv(mine, tmp_path / "x", **flags))
    assert message in capsys.readouterr().err


def test_the_model_to_start_from_is_never_overwritten(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "m", epochs=1))
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(OSError, match="is the model to start from"):
        train.main(train_argv(mine, tmp_path / "m" / ".." / "m", model=tmp_path / "m"))
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_no_two_seeds_share_the_order_of_an_epoch(mine, tmp_path, monkeypatch):
    orders = []
    real = train.batches
    monkeypatch.setattr(train, "batches", lambda *args, **options: orders.append(
        [batch.index for batch in real(*args, **options)]) or real(*args, **options))
    for seed in (0, 1):
        train.main(train_argv(mine, tmp_path / str(seed), seed=seed, epochs=3))
    assert len({str(order) for order in orders}) == len(orders) == 6


@pytest.fixture
def sgd(monkeypatch):
    """Plain SGD in AdamW's place: the step is lr * gradient, so its size and its direction can be seen."""
    monkeypatch.setitem(train.OPTIMIZERS, "adamw", lambda groups, lr: torch.optim.SGD(
        [group | {"weight_decay": 0.0} for group in groups], lr=lr))


ONE_STEP = {"epochs": 1, "dropout": 0, "warmup": 0, "lr": 1.0, "batch-size": 96}


def test_two_accumulated_batches_make_the_step_of_one_batch_of_twice_the_size(sgd, mine, tmp_path):
    free = ONE_STEP | {"max-grad-norm": 0}
    train.main(train_argv(mine, tmp_path / "one", **free))
    train.main(train_argv(mine, tmp_path / "two", **free | {"batch-size": 48, "accumulate": 2}))
    torch.testing.assert_close(weights_after(tmp_path / "one"), weights_after(tmp_path / "two"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", [0.01, 1e-4])
def test_gradients_are_clipped_to_the_asked_norm(norm, sgd, mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "start", lr=0, epochs=1))
    train.main(train_argv(mine, tmp_path / "step", **ONE_STEP | {"model": tmp_path / "start", "max-grad-norm": norm}))
    moved = (weights_after(tmp_path / "step") - weights_after(tmp_path / "start")).norm().item()
    assert moved == pytest.approx(norm, rel=0.01)


def test_max_train_takes_so_many_rows_in_proportion_to_the_classes(mine, tmp_path, capsys):
    run = train.main(train_argv(mine, tmp_path / "out", epochs=1, **{"max-train": 30}))
    assert run["data"]["train"] == 30 and "a stratified subset of 30 training texts" in capsys.readouterr().out


def test_loss_that_explodes_is_one_line_and_leaves_no_folder(mine, tmp_path):
    with pytest.raises(TrainingDiverged, match="lower --lr"):
        train.main(train_argv(mine, tmp_path / "out", lr=1e30))
    assert not (tmp_path / "out").exists()


def test_states_of_eight_bits_train_as_well(mine, tmp_path):
    flags = {"model": "scratch:layers=1,hidden=64", "epochs": 6, "lr": 3e-3}
    run = train.main(train_argv(mine, tmp_path / "out", optimizer="adamw8bit", **flags))
    assert run["validation"]["macro_f1"] > 0.9


def test_row_adamw_ends_where_adamw_does_and_is_refused_where_it_would_do_nothing(mine, tmp_path, monkeypatch):
    flags = {"epochs": 4, "dropout": 0, "lr": 1e-3}
    with pytest.raises(UserError, match="take --optimizer adamw"):
        train.main(train_argv(mine, tmp_path / "rows", optimizer="row-adamw", **flags))
    monkeypatch.setattr("pocketbert.training.row_adamw.SMALLEST_TABLE", 1)
    train.main(train_argv(mine, tmp_path / "dense", **flags))
    train.main(train_argv(mine, tmp_path / "rows", optimizer="row-adamw", **flags))
    torch.testing.assert_close(weights_after(tmp_path / "rows"), weights_after(tmp_path / "dense"), rtol=0, atol=5e-4)


def test_paged_states_without_a_gpu_are_refused_before_the_data_is_read(tmp_path):
    with pytest.raises(UserError, match="take --optimizer adamw8bit"):
        train.main(train_argv(tmp_path / "missing.csv", tmp_path / "out", optimizer="paged-adamw8bit", device="cpu"))


# ---- LoRA --------------------------------------------------------------------------------------------------

@pytest.fixture
def base(mine, tmp_path):
    train.main(train_argv(mine, tmp_path / "base", epochs=1))
    return tmp_path / "base"


@pytest.mark.parametrize("lora_base", ["fp32", "nf4"])
def test_adapter_learns_opens_with_its_score_and_merges(lora_base, base, mine, tmp_path, capsys):
    run = train.main(train_argv(mine, tmp_path / "a", model=base, epochs=20, patience=20, checkpointing="", **{
        "lora-rank": 4, "lora-base": lora_base, "lora-targets": "all", "accumulate": 2, "lr": 3e-2}))
    assert run["validation"]["macro_f1"] > 0.9 and not (tmp_path / "a" / "model.safetensors").exists()
    data = load_dataset(str(mine))
    train.main(["merge", "--model", str(tmp_path / "a"), "--out", str(tmp_path / "m")])
    assert "from the adapter's by" in capsys.readouterr().out
    logits = []
    for name in "am":
        model, tokenizer = load_model(tmp_path / name)
        ids = tokenizer(data.validation.texts, 128)
        logits.append(predict(model, ids, 16, tokenizer.pad_id))
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_lora_that_cannot_be_is_refused_in_one_line(base, mine, tmp_path, capsys):
    with pytest.raises(UserError, match="new and random"):
        train.main(train_argv(mine, tmp_path / "x", **{"lora-rank": 2}))
    for flags in ({"lora-alpha": 8}, {"lora-rank": 2, "lora-targets": "query,nonsense"}):
        with pytest.raises(SystemExit):
            train.main(train_argv(mine, tmp_path / "x", model=base, **flags))
    shown = capsys.readouterr().err
    assert "--lora-alpha does nothing here: it goes with --lora-rank" in shown and "query,nonsense is neither" in shown
    with pytest.raises(UserError, match="is no adapter"):
        train.main(["merge", "--model", str(base), "--out", str(tmp_path / "x")])
