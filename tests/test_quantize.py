"""quantize.py, quantize.py cluster and quantize.py export: from a model folder to a smaller one, with what was lost."""

import itertools
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import evaluate
import prune
import quantize
from data_utils import batches, open_data
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.models.size import count_parameters, file_bytes
from pocketbert.models.sparse import SparseLinear
from pocketbert.quantization.clusters import share_weights
from pocketbert.quantization.graph import GRAPH_FILES
from pocketbert.quantization.plan import METHODS, parse_plan
from pocketbert.training.optim import set_dropout
from small_models import LABELS, TEXTS, quantized, random_model

PLANS = ["embeddings=fp16,encoder=bf16,head=fp16", "embeddings=int8-weights,encoder=int8-weights",
         "embeddings=int4,encoder=int8", "embeddings=int4,encoder=gptq,head=int8-weights", "embeddings=nf4,encoder=nf4",
         "embeddings=clusters,encoder=clusters", "embeddings=int4,layers.0=int8,layers.1.ffn=nf4,layers.2=fp16"]


@pytest.fixture
def teacher(tmp_path, tokenizer):
    """(model folder, data file)"""
    vocab = max(tokenizer.vocab_size, 60)
    save_model(random_model(vocab_size=vocab), tokenizer, tmp_path / "teacher", run={})
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 6)))
    return str(tmp_path / "teacher"), str(tmp_path / "mine.csv")


def prune_weights(teacher, sparsity):
    """The folder of the teacher with so many zeros."""
    folder, data = teacher
    prune.main(["weights", "--model", folder, "--out", folder + "-p", "--data", data, "--sparsity", sparsity,
                "--method", "magnitude"])
    return folder + "-p"


def test_run_json_is_what_main_returns(teacher, tmp_path):
    folder, data = teacher
    out = tmp_path / "out"
    for argv in (["--method", "nf4"], ["cluster", "--epochs", "1"]):
        run = quantize.main([*argv, "--model", folder, "--out", str(out), "--data", data])
        saved = json.loads((out / "run.json").read_text())
        assert {name: saved[name] for name in run} == json.loads(json.dumps(run))  # saving adds hashes
        assert run["validation"] == run["quantization"]["validation"] and "macro_f1" in run["validation"]
        assert run["command"].startswith("python quantize.py " + argv[0])


def test_torch_aos_numbers_are_compared_with_those_by_hand(teacher, tmp_path, capsys):
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--force"])
    assert "int8: torch.ao's numbers are those of quantize_int8 in 18 of 18 matrices" in capsys.readouterr().out
    model = random_model()
    small = quantized(model)
    small.layers[0].ffn.up.weight[0, 0] += 1
    quantize.check_int8(model, small)
    assert "in 17 of 18 matrices" in capsys.readouterr().out


KINDS = {  # flags of prune.py, and the plans that such a model gets
    "dense": ([], PLANS),
    "pruned": (["--heads", "0.5", "--ffn", "0.4"], PLANS[2:6:2]),
    "vocabulary": (["--vocab", "1"], PLANS[2:6:2]),
    "sparse": (["weights", "--sparsity", "0.6", "--method", "magnitude"], PLANS[2:6:2] + [PLANS[5]])}


@pytest.mark.parametrize("kind", KINDS)
def test_every_plan_of_every_kind_of_model_loads_and_is_evaluated(kind, teacher, tmp_path):
    folder, data = teacher
    flags, plans = KINDS[kind]
    if flags:
        prune.main([*flags, "--model", folder, "--out", folder + "-p", "--data", data])
        folder += "-p"
    outs = []
    for plan in plans:
        out = str(tmp_path / f"out{len(outs)}")
        group_size = ["--group-size", "8"] if "int4" in plan or "nf4" in plan else []
        quantize.main(["--model", folder, "--out", out, "--data", data, "--plan", plan, "--force", *group_size])
        assert file_bytes(out)["model"] < file_bytes(folder)["model"]
        model, _ = load_model(out)
        assert count_parameters(model) >= count_parameters(load_model(folder)[0])  # a sparse parent counts non-zeros
        outs.append(out)
    evaluate.main([folder, *outs, "--data", data, "--timed", "2", "--quick", "--out", str(tmp_path / "r")])


# --- what is printed about the result --------------------------------------------------------------------

def test_activation_scale_is_shared_by_the_batch_and_the_flip_counter_sees_it(monkeypatch):
    """The known weakness of dynamic int8: large activations of one text change the logits of its batch mates."""
    model = quantized(random_model(std=1.0))
    torch.manual_seed(0)
    ids = [torch.randint(5, 60, (length,)).tolist() for length in range(3, 30)]
    _, difference = quantize.batch_mate_flips(model, ids, 16, pad_id=0)
    assert difference > 1e-3
    flips, difference = quantize.batch_mate_flips(random_model(std=1.0), ids, 16, pad_id=0)
    assert flips == 0 and difference < 1e-4
    answers = {16: torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]]),
               1: torch.tensor([[1.0, 0.0], [0.3, 0.2], [1.0, 0.9]])}
    monkeypatch.setattr(quantize, "predict", lambda model, ids, batch_size, pad_id: answers[batch_size])
    assert quantize.batch_mate_flips(None, ids[:3], 16, 0) == (1, pytest.approx(0.8))


class Sleeper:
    """A model whose call takes `a_call` seconds and `a_text` for each of its texts, on a clock of the test's own."""

    device = torch.device("cpu")

    def __init__(self, clock, a_call, a_text):
        self.clock, self.a_call, self.a_text = clock, a_call, a_text

    def __call__(self, input_ids, attention_mask=None):
        self.clock.now += self.a_call + self.a_text * len(input_ids)


@pytest.mark.parametrize("small, fp32, expected", [
    ((2, 0), (1, 0), {1: 2.0, 4: 2.0}), ((1, 0), (2, 0), {1: 0.5, 4: 0.5}), ((2, 0), (0, 1), {1: 2.0, 4: 0.5})])
def test_time_over_fp32_is_2_for_a_model_that_sleeps_twice_as_long(small, fp32, expected, monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("pocketbert.hardware.time", SimpleNamespace(perf_counter=lambda: clock.now))
    ids = [[2, 7, 3], [2, 8, 9, 3]] * 10
    ratios = quantize.measure_time(Sleeper(clock, *small), Sleeper(clock, *fp32), ids, 4, pad_id=0)
    assert ratios == {size: pytest.approx(ratio) for size, ratio in expected.items()}
    assert capsys.readouterr().out == "time / fp32: " + ", ".join(
        f"{ratio:.2f} at batch {size}" for size, ratio in expected.items()) + "\n"


def test_printed_bytes_are_those_of_the_file_and_of_the_fp32_parents(teacher, tmp_path, capsys):
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "nf4"), "--method", "nf4"])
    small, fp32 = (file_bytes(folder)["model"] for folder in (tmp_path / "nf4", teacher[0]))
    assert small < 0.5 * fp32
    assert (f"{tmp_path / 'nf4'}: {small / 1e6:.2f} MB, fp32 {fp32 / 1e6:.2f} MB, {100 * small / fp32:.1f}%\n"
            in capsys.readouterr().out)


def test_proposed_command_is_quoted_and_names_both_models_and_the_data(teacher, tmp_path, capsys):
    folder, data = teacher
    out = str(tmp_path / "my out")
    quantize.main(["--model", folder, "--out", out, "--method", "nf4", "--data", data, "--text", "text"])
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(command) == ["python", "evaluate.py", folder, out, "--data", data, "--text", "text",
                                    "--out", "runs/report"]


def test_measured_loss_is_that_of_the_small_model_against_fp32(capsys):
    """Logits by hand: two of four labels change, and both were right."""
    model = SimpleNamespace(name="fp32")
    small = SimpleNamespace(name="small")
    logits = {"fp32": torch.tensor([[3.0, 0], [3, 0], [0, 3], [0, 3]]),
              "small": torch.tensor([[3.0, 0], [0, 3], [3, 0], [0, 3]])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "predict", lambda model, *_: logits[model.name])
        report = quantize.measure_loss(small, model, [[2, 3]] * 4, [0, 0, 1, 1], 32, 0)
    assert (report["fp32"]["accuracy"], report["validation"]["accuracy"]) == (1.0, 0.5)
    assert report["labels_changed"] == 2 and report["batch_mate_flips"] == 0 and report["batch_mate_texts"] == 4
    # two texts of four have their two probabilities exchanged: KL = (p - q) * log(p / q), log(p / q) = 3
    p = torch.tensor([3.0, 0]).softmax(0)[0].item()
    assert report["divergence"] == pytest.approx(0.5 * (2 * p - 1) * 3, rel=1e-5)
    printed = capsys.readouterr().out
    assert "2 of 4 labels differ from fp32; 0 of 4 labels depend on the batch" in printed
    rows = {line.split()[0]: line.split()[-1] for line in printed.splitlines()}
    assert (rows["fp32"], rows["new"]) == ("1.0000", "0.5000")


def test_int8_that_is_slower_is_refused_with_its_measurement_and_nothing_is_written(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "time_ratio", lambda *_: 0.8)
    with pytest.raises(ValueError, match=r"slower than fp32 here, 1\.25 x.*--force"):
        quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--method", "nf4"])  # claims no speed
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--force"])


def test_int8_is_refused_only_if_it_is_slower_at_every_batch_size(capsys):
    quantize.refuse_slow_int8({1: 1.5, 32: 0.9}, force=False)
    quantize.refuse_slow_int8({1: 1.0, 32: 1.0}, force=False)
    assert not capsys.readouterr().out
    with pytest.raises(ValueError, match=r"1\.10 x the time at best"):
        quantize.refuse_slow_int8({1: 1.5, 32: 1.1}, force=False)
    quantize.refuse_slow_int8({1: 1.5, 32: 1.1}, force=True)
    assert "WARNING: int8 is slower than fp32 here, 1.10 x" in capsys.readouterr().out


def test_broken_int8_model_that_answers_one_class_is_called_broken(teacher, tmp_path, monkeypatch, capsys):
    def one_class(model, ids, *rest, **masks):
        logits = predict(model, ids, *rest, **masks)
        if model.config.stored_formats:
            return torch.zeros_like(logits)
        return torch.eye(3)[torch.arange(len(logits)) % 3]
    monkeypatch.setattr(quantize, "predict", one_class)
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--data", teacher[1], "--force"])
    assert "answers one class for every text" in capsys.readouterr().out


# --- sparse parents, kept matrices -----------------------------------------------------------------------

@pytest.mark.parametrize("keep", [["--keep-layers", "layers.0.ffn.up,layers.2"],
                                  ["--keep-layers", "auto", "--max-drop", "0"]], ids=["named", "auto"])
def test_kept_matrix_of_a_sparse_model_stays_sparse(keep, teacher, tmp_path, last_epoch_is_best):
    """With ever rising scores --keep-layers auto keeps nothing; with ever falling ones it keeps everything."""
    folder = prune_weights(teacher, "0.9")
    if "auto" in keep:
        falling, real = itertools.count(), quantize.scores
        quantize.scores = lambda *args: real(*args) | {"macro_f1": -float(next(falling))}  # the fixture puts it back
    quantize.main(["--model", folder, "--out", str(tmp_path / "out"), "--data", teacher[1], "--plan",
                   "encoder=clusters", "--clusters", "2", *keep])
    modules = dict(load_model(tmp_path / "out")[0].named_modules())
    kept = {name for name, module in modules.items() if isinstance(module, SparseLinear)}
    assert kept == {name for name, module in load_model(folder)[0].named_modules() if isinstance(module, SparseLinear)
                    and ("auto" in keep or name == "layers.0.ffn.up" or name.startswith("layers.2."))}
    assert len(kept) == (18 if "auto" in keep else 7)


def test_named_layers_are_kept_in_fp32(teacher, tmp_path):
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "out"), "--method", "nf4",
                   "--keep-layers", "layers.0.ffn.down,layers.2"])
    formats = load_model(tmp_path / "out")[0].config.stored_formats
    assert "layers.0.ffn.up" in formats and "layers.0.ffn.down" not in formats
    assert not any(name.startswith("layers.2") for name in formats)


@pytest.mark.parametrize("argv", [["--method", "nf4"], ["cluster", "--data", "demo"], ["export", "--format", "onnx"]])
def test_quantized_parent_is_refused(argv, teacher, tmp_path):
    quantize.main(["--model", teacher[0], "--out", str(tmp_path / "nf4"), "--method", "nf4"])
    with pytest.raises(ValueError, match="is quantized already; start from its fp32 parent"):
        quantize.main([*argv, "--model", str(tmp_path / "nf4"), "--out", str(tmp_path / "out")])


# --- quantize.py cluster ---------------------------------------------------------------------------------

def cluster(folder, data, out, *flags):
    run = quantize.main(["cluster", "--model", folder, "--out", str(out), "--data", data, *flags])
    return load_model(out)[0], run


def test_training_moves_the_centroids_and_pruned_weights_stay_zero(teacher, tmp_path):
    folder = prune_weights(teacher, "0.6")
    before, _ = cluster(folder, teacher[1], tmp_path / "0", "--lr", "0")
    after, run = cluster(folder, teacher[1], tmp_path / "12", "--epochs", "12", "--patience", "12", "--lr", "1e-2",
                         "--batch-size", "8")
    before, after = before.layers[0].ffn.up, after.layers[0].ffn.up
    assert not torch.equal(before.codebook, after.codebook)
    zero = before.dequantize() == 0
    assert zero.float().mean() > 0.3 and (after.dequantize()[zero] == 0).all()
    losses = [row["loss"] for row in run["history"]]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0] and run["quantization"]["history"] == run["history"]


@pytest.mark.parametrize("flags", [[], ["--teacher", "self"]], ids=["labels", "teacher self"])
def test_loss_is_the_cross_entropy_with_the_labels_or_with_the_fp32_models_probabilities(flags, teacher, tmp_path):
    """One batch, nothing is learned: the loss can be computed by hand."""
    small, run = cluster(*teacher, tmp_path / "out", "--lr", "0", "--dropout", "0", "--batch-size", "99", *flags,
                         "--clusters", "4")
    fp32, tokenizer = load_model(teacher[0])
    train = open_data(teacher[1]).train
    ids = tokenizer(train.texts, fp32.config.max_length)
    targets = torch.tensor(train.labels)
    if flags:
        targets = predict(fp32, ids, 99, tokenizer.pad_id).softmax(-1)
    expected = F.cross_entropy(predict(small, ids, 99, tokenizer.pad_id), targets)
    assert run["history"][0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_best_epoch_is_kept_and_epoch_0_may_be_the_best(teacher, tmp_path):
    """With a learning rate that destroys the model, the clusters before training are the best."""
    untrained, _ = cluster(*teacher, tmp_path / "0", "--lr", "0")
    small, run = cluster(*teacher, tmp_path / "big", "--epochs", "1", "--lr", "100")
    if run["history"][0]["macro_f1"] <= run["validation"]["macro_f1"]:
        assert torch.equal(small.layers[0].ffn.up.codebook, untrained.layers[0].ffn.up.codebook)
    assert run["validation"]["macro_f1"] >= max(row["macro_f1"] for row in run["history"]) - 1e-9


def test_frozen_layers_keep_their_centroids(teacher, tmp_path, last_epoch_is_best):
    before, _ = cluster(*teacher, tmp_path / "0", "--lr", "0")
    after, _ = cluster(*teacher, tmp_path / "1", "--lr", "1e-2", "--freeze", "2")
    same = [torch.equal(before.layers[i].ffn.up.codebook, after.layers[i].ffn.up.codebook) for i in range(3)]
    assert same == [True, True, False] and torch.equal(before.embeddings.word.codebook, after.embeddings.word.codebook)


@pytest.fixture
def last_epoch_is_best(monkeypatch):
    """Every score is higher than the one before, so the weights after the last step are the ones that are kept."""
    rising = itertools.count()
    real = quantize.scores
    monkeypatch.setattr(quantize, "scores", lambda *args: real(*args) | {"macro_f1": float(next(rising))})


@pytest.mark.parametrize("max_norm", [0.05, 0])
def test_training_is_the_loop_by_hand(max_norm, teacher, tmp_path, last_epoch_is_best, monkeypatch):
    """Accumulated batches, clipping and the schedule, step by step, with plain SGD, whose steps show the gradient."""
    monkeypatch.setitem(quantize.OPTIMIZERS, "adamw", lambda groups, lr: torch.optim.SGD(
        [{"params": group["params"]} for group in groups], lr=lr))
    small, _ = cluster(*teacher, tmp_path / "out", "--epochs", "2", "--batch-size", "8", "--accumulate", "2",
                       "--lr", "0.01", "--max-grad-norm", str(max_norm), "--warmup", "0.5", "--dropout", "0")
    model, tokenizer = load_model(teacher[0])
    train = open_data(teacher[1]).train
    ids = tokenizer(train.texts, model.config.max_length)
    share_weights(model, list(parse_plan(METHODS["clusters"], model)), 16)
    set_dropout(model, 0)
    parameters = list(model.parameters())
    shares = [0.5, 1.0, 2 / 2, 1 / 2]  # of --lr: 29 texts are 4 batches, so 2 steps an epoch; half of 4 are the warm-up
    step = 0
    for epoch in (1, 2):
        order = list(batches(ids, train.labels, 8, tokenizer.pad_id, shuffle_seed=(0, epoch)))
        assert len(order) == 4
        for group in (order[:2], order[2:]):
            losses = [F.cross_entropy(model.train()(b.input_ids, b.attention_mask), b.labels) for b in group]
            gradients = torch.autograd.grad(sum(losses) / 2, parameters, allow_unused=True)
            norm = torch.cat([g.flatten() for g in gradients if g is not None]).norm().item()
            clip = min(1.0, max_norm / norm) if max_norm else 1.0
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.data -= 0.01 * shares[step] * clip * gradient
            step += 1
    for name in ("embeddings.word", "layers.0.ffn.up", "layers.2.attention.value"):
        torch.testing.assert_close(small.get_submodule(name).codebook, model.get_submodule(name).codebook.detach(),
                                   rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(small.head.out.weight, model.head.out.weight, rtol=1e-4, atol=1e-6)


# --- quantize.py export ----------------------------------------------------------------------------------

@pytest.mark.parametrize("format_name", GRAPH_FILES)
def test_exported_folder_is_a_model_folder_like_any_other(format_name, teacher, tmp_path, capsys):
    folder, data = teacher
    out = str(tmp_path / format_name)
    run = quantize.main(["export", "--model", folder, "--out", out, "--data", data, "--format", format_name,
                         "--batch-size", "1"])
    assert json.loads(Path(out, "run.json").read_text())["command"] == run["command"]
    model, tokenizer = load_model(out)
    parent, _ = load_model(folder)
    ids = torch.tensor(tokenizer(["a good day"], 20))
    torch.testing.assert_close(model(ids), parent(ids), atol=3 if "int8" in format_name else 1e-4, rtol=0)
    assert count_parameters(model) == count_parameters(parent)
    evaluate.main([folder, out, "--data", data, "--timed", "2", "--quick", "--out", str(tmp_path / "r")])
    evaluate.main(["predict", "--model", out, "a good day"])
    assert '"label"' in capsys.readouterr().out
    with pytest.raises(ValueError, match="exported graph, which can only be run"):
        quantize.main(["--model", out, "--out", str(tmp_path / "q"), "--method", "nf4"])
    with pytest.raises(ValueError, match="exported graph, which can only be run"):
        prune.main(["--model", out, "--out", str(tmp_path / "p"), "--data", data, "--heads", "0.5"])


def test_sparse_parent_is_exported_dense(teacher, tmp_path):
    folder = prune_weights(teacher, "0.6")
    quantize.main(["export", "--model", folder, "--out", str(tmp_path / "onnx"), "--format", "onnx"])
    ids = torch.tensor([[2, 7, 9, 3]])
    torch.testing.assert_close(load_model(tmp_path / "onnx")[0](ids), load_model(folder)[0](ids), atol=1e-4, rtol=0)


# --- flags -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, message", [
    (["--plan", "encoder=int4", "--method", "nf4"], "give one"), (["--method", "gptq"], "give --data"),
    (["--method", "clusters", "--clusters", "300"], "between 2 and 256"), (["--keep-layers", "auto"], "give --data"),
    (["--group-size", "32"], "does nothing here"), (["--method", "nf4", "--clusters", "8"], "does nothing here"),
    (["--method", "nf4", "--engine", "x86"], "does nothing here"), (["--max-drop", "0.1"], "does nothing here"),
    (["--wandb", "online", "--bf16", "--weight-decay", "1"], "unrecognized arguments"),
    (["--method", "onnx"], "invalid choice"), (["--init", "linear"], "unrecognized arguments"),
    (["cluster", "--data", "demo", "--clusters", "1"], "between 2 and 256"),
    (["cluster", "--data", "demo", "--epochs", "0"], "--method clusters"), (["cluster"], "--data"),
    (["cluster", "--data", "demo", "--method", "nf4"], "unrecognized arguments"),
    (["export"], "--format"), (["export", "--format", "openvino-int8"], "give --data"),
    (["export", "--format", "onnx", "--samples", "9"], "does nothing here"),
    (["export", "--format", "onnx", "--engine", "x86"], "unrecognized arguments")])
def test_flags_that_contradict_or_do_nothing_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        quantize.main([*flags, "--model", "a", "--out", "b"])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--method", "nf4"], ["export", "--format", "onnx"]])
def test_kernels_for_the_cpu_refuse_another_device(argv, teacher, tmp_path):
    with pytest.raises(ValueError, match="--device cuda: .* CPU only"):
        quantize.main([*argv, "--model", teacher[0], "--out", str(tmp_path / "out"), "--device", "cuda"])
