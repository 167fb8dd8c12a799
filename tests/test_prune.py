"""prune.py and prune.py weights, as they are called from the command line."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import distill
import evaluate
import prune
import quantize
import train
from data_utils import batches, load_dataset
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.size import file_bytes
from pocketbert.pruning.cost import mac_cost
from small_models import LABELS, TEXTS, random_model, small_config

FAMILIES = ["bert", "roberta", "distilbert"]


@pytest.fixture
def make_teacher(tokenizer, tmp_path):
    """A function: (model folder, data file) of a small random model."""
    def make(family="bert", **options):
        model = random_model(family=family, vocab_size=max(tokenizer.vocab_size, 60), **options)
        save_model(model, tokenizer, tmp_path / "teacher", run={})
        rows = [f"{text} {i},{LABELS[i % 3]}" for i, text in enumerate(TEXTS * 6)]
        (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
        return str(tmp_path / "teacher"), str(tmp_path / "mine.csv")
    return make


@pytest.fixture
def run(make_teacher, tmp_path):
    """A function: prune a small random model with these flags. Returns (run.json, the new folder)."""
    def prune_it(*flags, family="bert", program=(), **options):
        folder, data = make_teacher(family, **options)
        out = str(tmp_path / "out")
        argv = [*program, "--model", folder, "--out", out, "--data", data, *map(str, flags)]
        return prune.main(argv), out
    return prune_it


@pytest.mark.parametrize("flags, heads, neurons", [(["--heads", 0.5, "--ffn", 0.25], [10, 8, 6], [54, 36, 18]),
                                                   (["--flops", 0.6], None, None)])
def test_pruning_in_steps_takes_equal_parts_and_recovers_after_each(flags, heads, neurons, run):
    result, out = run(*flags, "--steps", 3, "--epochs", 1, "--patience", 9)
    steps = result["pruning"]["steps"]
    assert len(result["history"]) == 3 and len(steps) == 3
    assert steps[-1]["heads"] == load_model(out)[0].config.num_heads
    if heads:
        assert [sum(step["heads"]) for step in steps] == heads
        assert [sum(step["neurons"]) for step in steps] == neurons
    else:  # each step spends a third of what goes, as far as whole heads and 8 of 24 neurons allow
        cost = mac_cost(small_config(), 10)
        spent = [cost.total(step["heads"], step["neurons"]) / cost.total([4] * 3, [24] * 3) for step in steps]
        assert spent[0] > spent[1] > spent[2] and spent[0] == pytest.approx(1 - 0.4 / 3, abs=0.1)


@pytest.mark.parametrize("importance", list(prune.IMPORTANCE))
def test_it_keeps_what_it_was_asked_to_keep(importance, run, capsys):
    _, out = run("--heads", 0.5, "--ffn", 0.25, "--importance", importance, "--steps", 2, "--epochs", 1)
    config = load_model(out)[0].config
    assert sum(config.num_heads) == 6 and sum(config.intermediate_sizes) == 18
    assert "with masks" in capsys.readouterr().out


WAYS = [["--flops", "0.6", "--refit"], ["--layers", "2"], ["--layers", "0,2", "--flops", "0.7"], ["--vocab", "1"],
        ["--size-mb", "0.06"]]
WEIGHTS = [["--sparsity", "0.5", "--method", "wanda"], ["--sparsity", "0.5", "--method", "2:4"],
           ["--sparsity", "0.8", "--epochs", "2", "--teacher", "self"],
           ["--sparsity", "0.8", "--method", "magnitude", "--include", "head"],
           ["--method", "soft-movement", "--strength", "1", "--epochs", "2"]]
PROGRAMS = [((), flags) for flags in WAYS] + [(("weights",), flags) for flags in WEIGHTS]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("program, flags", PROGRAMS)
def test_every_way_to_prune_ends_in_a_folder_that_loads(family, program, flags, run):
    result, out = run(*flags, family=family, program=program)
    model, tokenizer = load_model(out)
    assert torch.isfinite(model(torch.tensor(tokenizer(["a good day"], 20)))).all()
    assert result == json.loads((Path(out) / "run.json").read_text())
    assert result["validation"]["macro_f1"] >= 0 and result["command"].split()[2:3] == [*program, "--model"][:1]
    if "--size-mb" in flags:
        assert file_bytes(out)["model"] <= 1e6 * float(flags[1])


@pytest.mark.parametrize("program, flags", [
    ((), ["--vocab", "1", "--layers", "0,2", "--flops", "0.7"]),
    (("weights",), ["--sparsity", "0.6", "--method", "magnitude", "--include", "embeddings", "head"])])
def test_pruned_model_goes_on_through_the_other_verbs(program, flags, run, make_teacher, tmp_path):
    _, out = run(*flags, program=program)
    folder, data = make_teacher()
    quantize.main(["--model", out, "--out", out + "-int8", "--force"])
    for role in (["--teacher", out, "--student", "scratch:layers=1,hidden=16,heads=2,vocab=60"],
                 ["--teacher", folder, "--student", out]):
        distill.main([*role, "--data", data, "--out", str(tmp_path / "student"), "--epochs", "1"])
    evaluate.main([folder, out, out + "-int8", str(tmp_path / "student"), "--data", data, "--timed", "2", "--quick",
                   "--out", str(tmp_path / "report")])
    table = (tmp_path / "report" / "results.md").read_text()
    assert all(f"| {name} " in table for name in ("teacher", "out", "out-int8", "student"))


IDLE = [
    ([], ["--vocab", "1", "--steps", "4"], "--steps does nothing here"),
    ([], ["--heads", "0.5", "--keep-characters", "seen"], "--keep-characters does nothing here"),
    ([], ["--heads", "0.5", "--vocab-texts", "a.txt"], "--vocab-texts does nothing here"),
    ([], ["--layers", "2", "--refit"], "--refit does nothing here"),
    ([], ["--vocab", "1", "--samples", "9"], "--samples does nothing here"),
    ([], ["--flops", "0.5", "--scope", "layer"], "--scope does nothing here"),
    ([], ["--flops", "0.5", "--latency", "0.5"], "give one"),
    ([], ["--layers", "two"], "neither a number of layers nor a list"),
    ([], [], "say what stays"),
    ([], ["--heads", "0.5", "--lr", "1e-3", "--warmup", ".5", "--patience", "9", "--wandb", "offline", "--bf16"],
     "--lr, --warmup, --patience, --bf16, --wandb"),
    ([], ["--heads", "0.5", "--teacher", "self"], "nothing is trained without --epochs"),
    (["weights"], ["--sparsity", "0.5", "--method", "wanda", "--lr", "1e-3", "--freeze", "1"], "--lr, --freeze"),
    (["weights"], ["--sparsity", "0.5", "--method", "magnitude", "--samples", "9"], "--samples does nothing here"),
    (["weights"], ["--sparsity", "0.5", "--epochs", "1", "--strength", "4"], "--strength does nothing here"),
    (["weights"], ["--method", "soft-movement", "--epochs", "1", "--sparsity", "0.5"], "has no --sparsity"),
    (["weights"], ["--sparsity", "0.7", "--method", "2:4"], "wants --sparsity 0.5"),
    (["weights"], ["--sparsity", "0.7"], "give it --epochs"),
    (["weights"], ["--method", "wanda"], "say which share of the weights goes"),
    (["weights"], ["--sparsity", "0.7", "--epochs", "1", "--freeze", "1"], "does not go with --freeze"),
    (["weights"], ["--heads", "0.5"], "unrecognized arguments"),
    ([], ["--sparsity", "0.5"], "unrecognized arguments")]


@pytest.mark.parametrize("program, flags, message", IDLE)
def test_flags_that_would_do_nothing_are_refused(program, flags, message, capsys):
    with pytest.raises(SystemExit):
        prune.parse_args([*program, "--model", "a", "--out", "b", "--data", "demo", *flags])
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("method", ["gradual", "movement", "rigl"])
def test_sparse_training_ends_at_the_requested_sparsity_although_a_denser_epoch_was_better(method, run):
    """The learning rate is so high that the untouched model of the first epoch is the best one."""
    result, out = run("--sparsity", 0.8, "--method", method, "--epochs", 3, "--lr", 0.5, program=["weights"])
    assert result["pruning"]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    weights = load_model(out)[0]
    assert weights.config.stored_formats


@pytest.mark.parametrize("program, flags", [([], ["--layers", "0,1,2"]),
                                            (["weights"], ["--sparsity", 0, "--method", "magnitude"])])
def test_recovery_with_teacher_self_learns_the_models_own_probabilities(program, flags, run, tmp_path):
    """Nothing is pruned and the learning rate is 0: the loss is the entropy of the probabilities, and without
    --teacher it is the cross-entropy with the labels."""
    flags = [*flags, "--epochs", 1, "--lr", 0, "--dropout", 0, "--batch-size", 64]
    on_labels, _ = run(*flags, program=program)
    on_answers, out = run(*flags, "--teacher", "self", program=program)
    model, tokenizer = load_model(out)
    train_split = load_dataset(str(tmp_path / "mine.csv")).train
    with torch.no_grad():
        log_p = torch.cat([model(torch.tensor(tokenizer([text], 128))) for text in train_split.texts]).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean().item()
    cross_entropy = F.nll_loss(log_p, torch.tensor(train_split.labels)).item()
    assert on_answers["history"][0]["loss"] == pytest.approx(entropy, abs=1e-4)
    assert on_labels["history"][0]["loss"] == pytest.approx(cross_entropy, abs=1e-4)
    assert abs(entropy - cross_entropy) > 0.1


def test_recovery_with_lora_changes_the_targets_and_the_head_alone_and_leaves_a_dense_folder(run, make_teacher):
    before = load_model(make_teacher()[0])[0].state_dict()
    _, out = run("--layers", "0,1,2", "--epochs", 1, "--lr", 1e-2, "--lora-rank", 2, "--lora-targets", "up")
    after = load_model(out)[0].state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if "ffn.up.weight" in name or name.startswith("head.")}


def test_bag_of_ngrams_keeps_its_vocabulary_because_its_hashes_depend_on_it(make_teacher, tmp_path):
    _, data = make_teacher()
    train.main(["--model", "bag:ngrams=2,buckets=50", "--out", str(tmp_path / "bag"), "--data", data, "--epochs", "1"])
    with pytest.raises(UserError, match="bag of n-grams"):
        prune.main(["--model", str(tmp_path / "bag"), "--out", str(tmp_path / "o"), "--data", data, "--vocab", "1"])


def test_a_model_without_heads_is_sent_to_the_flags_that_suit_it(make_teacher, tmp_path):
    _, data = make_teacher()
    train.main(["--model", "bag:hidden=8,embedding=8", "--out", str(tmp_path / "bag"), "--data", data, "--epochs", "1"])
    with pytest.raises(UserError, match="neither heads nor layers"):
        prune.main(["--model", str(tmp_path / "bag"), "--out", str(tmp_path / "o"), "--data", data, "--heads", "0.5"])


def test_a_quantized_model_is_sent_to_its_parent(make_teacher, tmp_path):
    folder, data = make_teacher()
    quantize.main(["--model", folder, "--out", str(tmp_path / "int8"), "--force"])
    for argv in (["--heads", "0.5"], ["--vocab", "1"]):
        with pytest.raises(UserError, match="prune its fp32 parent"):
            prune.main(["--model", str(tmp_path / "int8"), "--out", str(tmp_path / "o"), "--data", data, *argv])


def without_its_head(folder):
    """Make a pretrained checkpoint of a model folder: no classification matrix, no labels."""
    tensors = load_file(f"{folder}/model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")},
              f"{folder}/model.safetensors")
    config = json.loads(Path(folder, "config.json").read_text())
    Path(folder, "config.json").write_text(json.dumps({key: value for key, value in config.items()
                                                       if key not in ("id2label", "label2id")}))
    Path(folder, "run.json").unlink()


def test_the_vocabulary_of_a_checkpoint_is_pruned_before_it_is_fine_tuned(make_teacher, tmp_path, capsys):
    folder, data = make_teacher()
    before, tokenizer = load_model(folder)
    without_its_head(folder)
    out = str(tmp_path / "words")
    run = prune.main(["--model", folder, "--out", out, "--data", data, "--vocab", "1"])
    assert run["pruning"]["vocabulary"]["tokens_after"] < before.config.vocab_size and "validation" not in run
    assert "macro-F1" not in capsys.readouterr().out
    after, smaller_tokenizer = load_model(out)
    after.head.load_state_dict(before.head.state_dict())
    [text] = TEXTS[:1]
    with torch.no_grad():
        expected = before(torch.tensor(tokenizer([text], 32)))
        torch.testing.assert_close(after(torch.tensor(smaller_tokenizer([text], 32))), expected, rtol=0, atol=0)
    train.main(["--model", out, "--out", str(tmp_path / "tuned"), "--data", data, "--epochs", "1"])


@pytest.mark.parametrize("flags", [["--heads", "0.5"], ["--vocab", "1", "--ffn", "0.5"],
                                   ["--vocab", "1", "--epochs", "1"]])
def test_a_checkpoint_without_a_head_is_fine_tuned_before_anything_else(flags, make_teacher, tmp_path):
    folder, data = make_teacher()
    without_its_head(folder)
    with pytest.raises(UserError, match="no classification head; fine-tune it first"):
        prune.main(["--model", folder, "--out", str(tmp_path / "o"), "--data", data, *flags])


def test_tokens_of_further_texts_are_kept(run, tmp_path):
    (tmp_path / "more.txt").write_text("shop bus nine film\n" * 30)
    few, _ = run("--vocab", 20)
    more, _ = run("--vocab", 20, "--vocab-texts", tmp_path / "more.txt")
    assert more["pruning"]["vocabulary"]["tokens_after"] > few["pruning"]["vocabulary"]["tokens_after"]


def test_without_time_left_later_steps_prune_but_do_not_train(run, capsys):
    result, out = run("--heads", 0.5, "--steps", 3, "--epochs", 5, "--minutes", 1e-9)
    assert len(result["history"]) == 1 and sum(load_model(out)[0].config.num_heads) == 6
    assert capsys.readouterr().out.count("are over: no recovery") == 2


@pytest.mark.parametrize("program, flags", [([], ["--layers", "0,1,2"]),
                                            (["weights"], ["--sparsity", 0, "--method", "magnitude"])])
def test_seeds_do_not_share_their_shuffles(program, flags, run, monkeypatch):
    """The second epoch of one seed is not the first epoch of the next one."""
    seen = []
    monkeypatch.setattr(prune, "batches", lambda *args, shuffle_seed=None: (
        seen.append(shuffle_seed), batches(*args, shuffle_seed=shuffle_seed))[1])
    for seed in (0, 1):
        run(*flags, "--epochs", 2, "--seed", seed, program=program)
    trained = [seed for seed in seen if seed is not None]
    assert len(set(trained)) == len(trained) == 4
