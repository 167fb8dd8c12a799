"""The distillation loss against a computation by hand, and the whole command."""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import distill
import train
from data_utils import load_dataset
from distill import DistillationData, kd_loss, new_texts, same_steps
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.quantization.export import export_graph
from pocketbert.training.unfinished import Unfinished
from small_models import LABELS, TEXTS, random_model

STUDENT = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
GOLD = torch.tensor([0, 2])


# ---- kd_loss -------------------------------------------------------------------------------------------

def softmax(row, temperature):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


def test_loss_equals_the_formula_worked_out_with_plain_numbers():
    temperature, alpha, total = 3.0, 0.7, 0.0
    for student, teacher, label in zip(STUDENT.tolist(), TEACHER.tolist(), GOLD.tolist(), strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        kl = sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))
        ce = -math.log(softmax(student, 1.0)[label])
        total += alpha * temperature ** 2 * kl + (1 - alpha) * ce
    assert kd_loss(STUDENT, TEACHER, GOLD, temperature, alpha).item() == pytest.approx(total / 2, rel=1e-6)


def test_alpha_0_is_cross_entropy_whatever_the_teacher_says():
    assert torch.equal(kd_loss(STUDENT, TEACHER, GOLD, 4.0, alpha=0.0), F.cross_entropy(STUDENT, GOLD))


def test_alpha_1_ignores_the_labels():
    assert torch.equal(kd_loss(STUDENT, TEACHER, GOLD, 2.0, 1.0), kd_loss(STUDENT, TEACHER, 2 - GOLD, 2.0, 1.0))


def test_student_that_equals_its_teacher_has_no_soft_loss_and_no_gradient():
    student = TEACHER.clone().requires_grad_()
    loss = kd_loss(student, TEACHER, GOLD, 2.0, alpha=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6


def test_soft_gradient_is_t_times_the_difference_of_the_softened_probabilities():
    """d/dz T^2 KL = T (softmax(z/T) - softmax(t/T)), averaged over the batch."""
    for temperature in (1.0, 2.0, 5.0):
        student = STUDENT.clone().requires_grad_()
        kd_loss(student, TEACHER, GOLD, temperature, alpha=1.0).backward()
        difference = F.softmax(STUDENT / temperature, -1) - F.softmax(TEACHER / temperature, -1)
        torch.testing.assert_close(student.grad, temperature * difference / len(GOLD), atol=1e-6, rtol=1e-5)


def test_high_temperature_gradient_does_not_vanish_but_matches_centred_logits():
    """Hinton et al., equation 4: as T grows, T^2 KL becomes the squared difference of centred logits, over 2C."""
    student = STUDENT.double().requires_grad_()
    kd_loss(student, TEACHER.double(), GOLD, 1e3, alpha=1.0).backward()
    centred = [x - x.mean(-1, keepdim=True) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(student.grad.float(), (centred[0] - centred[1]) / 3 / len(GOLD), atol=1e-3, rtol=1e-2)


def test_no_gradient_flows_into_the_teacher():
    teacher = TEACHER.clone().requires_grad_()
    kd_loss(STUDENT.clone().requires_grad_(), teacher, GOLD).backward()
    assert teacher.grad is None


def test_text_without_a_label_has_the_soft_term_only():
    labels = torch.tensor([0, -1])
    both = kd_loss(STUDENT, TEACHER, labels, 2.0, 0.4)
    soft = kd_loss(STUDENT, TEACHER, labels, 2.0, 1.0)
    torch.testing.assert_close(both, 0.4 * soft + 0.6 * F.cross_entropy(STUDENT[:1], GOLD[:1]) / 2)
    assert kd_loss(STUDENT, TEACHER, torch.tensor([-1, -1]), 2.0, 0.0).item() == 0  # no label, no NaN


@pytest.mark.parametrize("wrong", [dict(temperature=0.0), dict(alpha=1.5), dict(alpha=-0.1)])
def test_impossible_temperature_or_alpha_is_an_error(wrong):
    with pytest.raises(ValueError):
        kd_loss(STUDENT, TEACHER, GOLD, **wrong)


def test_other_label_lists_are_an_error():
    with pytest.raises(ValueError, match="same label list"):
        kd_loss(STUDENT, TEACHER[:, :2], GOLD)


# ---- what surrounds it ---------------------------------------------------------------------------------

def test_labelled_examples_are_those_with_a_label():
    logits = torch.arange(6.0).view(3, 2)
    part = DistillationData(["a", "b", "c"], [1, 0, -1], logits, 0.9).labelled()
    assert (part.texts, part.labels) == (["a", "b"], [1, 0]) and torch.equal(part.teacher_logits, logits[:2])


@pytest.mark.parametrize("epochs, num_texts, num_labelled", [(3, 100, 100), (2, 150, 100), (3, 500, 7)])
def test_control_has_at_least_as_many_texts_to_learn_from_and_less_than_an_epoch_more(epochs, num_texts, num_labelled):
    more = same_steps(epochs, num_texts, num_labelled) * num_labelled - epochs * num_texts
    assert 0 <= more < num_labelled


# ---- the whole command ---------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path, tokenizer):
    """A folder with a teacher, a second one whose labels are in another order, and data."""
    vocab = max(tokenizer.vocab_size, 60)
    save_model(random_model(vocab_size=vocab), tokenizer, tmp_path / "teacher", run={})
    save_model(random_model(seed=1, vocab_size=vocab, family="roberta", label_names=LABELS[::-1]), tokenizer,
               tmp_path / "other", run={})
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(
        f"{text} {i},{LABELS[i % 3]}\n" for i, text in enumerate(TEXTS * 6)))
    (tmp_path / "more.txt").write_text("a long walk\n\nthe shop is late\n")
    return tmp_path


def run(folder, *flags, teachers=("teacher",)):
    """Run distill.py. Returns the student and what main returned."""
    returned = distill.main(["--teacher", *(str(folder / name) for name in teachers), "--data",
                             str(folder / "mine.csv"), "--out", str(folder / "out"), "--epochs", "1",
                             *map(str, flags)])
    model, tokenizer = load_model(folder / "out")
    assert torch.isfinite(model(torch.tensor(tokenizer(["a good day"], 20)))).all()
    return model, returned


def alone(folder):
    return json.loads((folder / "out-alone" / "run.json").read_text())


def weights(folder):
    return load_model(folder)[0].state_dict()


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_main_returns_what_run_json_says(folder):
    _, returned = run(folder, "--student", "bag", "--control")
    assert returned["script"] == "distill.py" and not returned["control"]
    assert json.loads((folder / "out" / "run.json").read_text())["validation"] == returned["validation"]


@pytest.mark.parametrize("student", ["scratch:layers=1,hidden=16,heads=2,vocab=60", "teacher:layers=0,2",
                                     "teacher:layers=1:hidden=16", "lstm:hidden=8", "gru:hidden=8", "xlstm:hidden=8",
                                     "rwkv:hidden=8", "cnn:hidden=8", "bag:ngrams=2,buckets=64"])
def test_every_kind_of_student_learns_from_two_teachers_of_two_families(folder, student):
    """With alpha 1 the loss is the distance to the teachers: it falls."""
    model, returned = run(folder, "--student", student, "--weights", "confidence", "--alpha", 1, "--epochs", 6,
                          "--patience", 6, "--lr", 5e-3, "--dropout", 0, teachers=("teacher", "other"))
    assert model.config.label_names == LABELS and len(returned["teachers"]) == 2
    assert returned["history"][-1]["loss"] < returned["history"][0]["loss"]


@pytest.mark.parametrize("flags", [["--loss", "mse"], ["--loss", "decoupled"], ["--temperature", 5], ["--alpha", 0.9],
                                   ["--hidden", 1], ["--attention", 1], ["--relations", 1],
                                   ["--relations", 1, "--relation-heads", 8]])
def test_every_loss_changes_what_is_learned(folder, flags):
    plain = run(folder, "--student", "teacher:layers=0,2")[0].state_dict()
    assert not same_weights(run(folder, "--student", "teacher:layers=0,2", *flags)[0].state_dict(), plain)


def test_inner_losses_are_part_of_the_loss_that_is_trained(folder):
    losses = [run(folder, "--student", "teacher:layers=0,1", "--lr", 0, *flags)[1]["history"][0]["loss"]
              for flags in ([], ["--hidden", 1])]
    assert losses[1] > losses[0] + 0.1


def test_student_with_lora_changes_its_targets_and_its_head_alone_and_is_saved_dense(folder):
    before = weights(folder / "teacher")
    model, _ = run(folder, "--student", "teacher:layers=0,1", "--lora-rank", 2, "--lora-targets", "query")
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {name for name in model.state_dict() if "query.weight" in name or name.startswith("head.")}


def test_projection_is_trained_with_the_student(folder):
    """The hidden loss of a narrower student falls below what a frozen projection allows: with frozen layers, only the
    projection and the head can learn."""
    flags = ["--student", "teacher:layers=0,1:hidden=16", "--freeze", 2, "--hidden", 1, "--alpha", 1, "--dropout", 0,
             "--epochs", 4, "--patience", 4, "--lr", 1e-2]
    _, returned = run(folder, *flags)
    assert returned["history"][-1]["loss"] < 0.9 * returned["history"][0]["loss"]


def test_inner_losses_work_for_a_narrower_student_and_leave_nothing_in_its_folder(folder):
    model, _ = run(folder, "--student", "teacher:layers=0,2:hidden=16", "--hidden", 1, "--relations", 1,
                   "--relation-heads", 4)
    assert model.config.hidden_size == 16 and not [name for name in model.state_dict() if "projection" in name]


def test_inner_losses_refuse_a_student_with_another_tokenizer(folder):
    with pytest.raises(ValueError, match="same tokenizer"):
        run(folder, "--student", "scratch:layers=1,hidden=16,heads=2,vocab=50", "--hidden", 1)


def test_words_of_a_recurrent_student_start_from_the_teachers(folder):
    model, _ = run(folder, "--student", "gru:hidden=8,embedding=32", "--words", folder / "teacher", "--lr", 0)
    torch.testing.assert_close(model.embeddings.word.weight, load_model(folder / "teacher")[0].embeddings.word.weight)


def test_student_that_is_its_teacher_has_nothing_to_learn(folder):
    """Every text, augmented ones included, is compared with the teacher's logits for this text."""
    _, returned = run(folder, "--student", "teacher:layers=0,1,2", "--alpha", 1, "--dropout", 0, "--augment", 1,
                      "--lr", 0)
    assert returned["history"][0]["loss"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("flags, expected", [([], 2.0), (["--temperature", 5], 5.0), (["--loss", "mse"], math.inf)])
def test_teachers_are_combined_at_the_temperature_of_the_loss(folder, monkeypatch, flags, expected):
    seen = []
    combine = distill.combine
    monkeypatch.setattr(distill, "combine", lambda *args: seen.append(args[-1]) or combine(*args))
    run(folder, "--student", "bag", *flags, teachers=("teacher", "other"))
    assert seen == [expected]


# ---- control and seeds ---------------------------------------------------------------------------------

def test_control_learns_from_the_labelled_texts_alone_for_as_many_steps(folder):
    flags = ["--student", "bag:ngrams=1", "--augment", 1, "--unlabelled", folder / "more.txt", "--control",
             "--epochs", 2, "--patience", 9]
    _, returned = run(folder, *flags)
    control = alone(folder)
    assert control["control"] and control["texts"] == control["data"]["train"] < returned["texts"]
    assert len(returned["history"]) == 2
    assert len(control["history"]) == same_steps(2, returned["texts"], control["texts"]) > 2


def test_control_does_not_depend_on_the_teacher(folder, tokenizer):
    save_model(random_model(seed=5, vocab_size=max(tokenizer.vocab_size, 60)), tokenizer, folder / "third", run={})
    controls = []
    for teacher in ("teacher", "third"):
        run(folder, "--student", "gru:hidden=8", "--control", "--epochs", 2, "--lr", 1e-2, teachers=(teacher,))
        controls.append(weights(folder / "out-alone"))
    assert same_weights(*controls)


def test_control_is_the_student_of_alpha_0(folder):
    run(folder, "--student", "gru:hidden=8", "--control", "--epochs", 2, "--lr", 1e-2)
    control = weights(folder / "out-alone")
    run(folder, "--student", "gru:hidden=8", "--alpha", 0, "--epochs", 2, "--lr", 1e-2)
    assert same_weights(weights(folder / "out"), control)


def test_student_and_control_start_from_the_same_weights_and_another_seed_from_others(folder):
    run(folder, "--student", "gru:hidden=8", "--control", "--lr", 0)
    student = weights(folder / "out")
    assert same_weights(student, weights(folder / "out-alone"))
    run(folder, "--student", "gru:hidden=8", "--seed", 1, "--lr", 0)
    assert not same_weights(student, weights(folder / "out"))


def test_no_two_epochs_of_any_seeds_have_the_same_batches(folder, monkeypatch):
    orders = []
    batches = distill.batches

    def recording(*args, **options):
        found = list(batches(*args, **options))
        orders.append([batch.index for batch in found])
        return found
    monkeypatch.setattr(distill, "batches", recording)
    run(folder, "--student", "bag", "--epochs", 3, "--seeds", 3, "--batch-size", 4)
    assert len(orders) == 9 and all(a != b for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize("flags", [["--accumulate", 2, "--max-grad-norm", 0], ["--max-grad-norm", 0.01],
                                   ["--lr", 0.2, "--epochs", 4]], ids=["accumulate", "clip", "best epoch"])
def test_control_is_the_model_that_train_py_trains(folder, flags):
    flags = ["--epochs", 2, "--lr", 1e-2, "--batch-size", 8, *flags]
    run(folder, "--student", "gru:hidden=8", "--control", *flags)
    train.main(["--model", "gru:hidden=8", "--data", str(folder / "mine.csv"), "--out", str(folder / "trained"),
                *map(str, flags)])
    trained = weights(folder / "trained")
    for name, tensor in weights(folder / "out-alone").items():
        torch.testing.assert_close(tensor, trained[name])
    if 0.2 in flags:  # otherwise keeping the last epoch would pass, too
        scores = [row["macro_f1"] for row in alone(folder)["history"]]
        assert scores.index(max(scores)) < len(scores) - 1


def test_scores_of_every_seed_are_kept_and_the_first_ones_model(folder, capsys):
    _, returned = run(folder, "--student", "bag", "--control", "--seeds", 2)
    assert [len(scores) for scores in returned["seeds"].values()] == [2, 2]
    assert returned["validation"] == returned["seeds"]["student"][0]
    assert "difference" in capsys.readouterr().out
    first = weights(folder / "out")
    run(folder, "--student", "bag")
    assert same_weights(weights(folder / "out"), first)


def test_after_epoch_is_called_for_the_first_student_only(folder):
    seen = []
    distill.main(["--teacher", str(folder / "teacher"), "--student", "bag", "--data", str(folder / "mine.csv"),
                  "--out", str(folder / "out"), "--epochs", "2", "--control", "--seeds", "2"],
                 after_epoch=lambda epoch, scores: seen.append(epoch))
    assert seen == [1, 2]


# ---- interrupted runs ----------------------------------------------------------------------------------

SEEDS = ["--student", "gru:hidden=8", "--control", "--seeds", 2, "--lr", 1e-2]


def interrupt(monkeypatch, function, after):
    """From now on distill.py is interrupted in call number `after` + 1 of one of its functions."""
    owner = Unfinished if hasattr(Unfinished, function) else distill
    original = getattr(owner, function)
    calls = []

    def interrupted(*args, **options):
        calls.append(function)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(*args, **options)
    monkeypatch.setattr(owner, function, interrupted)


def trained_in(output):
    """The trainings that a run has begun: ["student 0", "alone 0", ...]"""
    return [f"{role} {seed}" for role, seed in re.findall(r"^(student|alone), seed (\d+):", output, re.M)]


def files_of(folder):
    """What must be the same after an interruption: weights, config, tokenizer, and the numbers of run.json."""
    run_json = json.loads((folder / "run.json").read_text())
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in run_json["history"]]
    return [(folder / name).read_bytes() for name in ("model.safetensors", "config.json", "tokenizer.json")] \
        + [run_json["seeds"], run_json["validation"], history]


# Calls of TrainingLog: student 0, alone 0, student 1, alone 1; of save_model: two into the unfinished folder, then
# out-alone, then out; of Unfinished.remove: at the beginning (there is nothing) and at the end.
@pytest.mark.parametrize("function, after, trained_later", [
    ("TrainingLog", 0, ["student 0", "alone 0", "student 1", "alone 1"]),
    ("TrainingLog", 1, ["alone 0", "student 1", "alone 1"]),
    ("TrainingLog", 3, ["alone 1"]),
    ("write_results", 2, ["student 1", "alone 1"]),
    ("save_model", 1, ["alone 0", "student 1", "alone 1"]),
    ("save_model", 2, []),
    ("save_model", 3, []),
    ("remove", 1, [])])
def test_interrupted_run_goes_on_and_ends_as_if_it_had_not_been_interrupted(folder, monkeypatch, capsys, function,
                                                                            after, trained_later):
    run(folder, *SEEDS)
    expected = [files_of(folder / name) for name in ("out", "out-alone")]
    for name in ("out", "out-alone"):
        shutil.rmtree(folder / name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, function, after)
        run(folder, *SEEDS)
    assert (folder / "out" / "run.json").exists() == (function == "remove")
    capsys.readouterr()
    run(folder, *SEEDS)
    assert trained_in(capsys.readouterr().out) == trained_later
    assert [files_of(folder / name) for name in ("out", "out-alone")] == expected
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("change, what", [(["--lr", 2e-2], "--lr"), (["--seeds", 3], "--seeds"),
                                          (["--unlabelled", "more.txt"], "--unlabelled, texts")])
def test_interrupted_run_of_another_command_is_not_continued(folder, monkeypatch, capsys, change, what):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, "TrainingLog", 2)
        run(folder, *SEEDS)
    capsys.readouterr()
    monkeypatch.chdir(folder)
    run(folder, *SEEDS, *change)
    output = capsys.readouterr().out
    assert f"other settings ({what})" in output and trained_in(output)[0] == "student 0"


@pytest.mark.parametrize("change, what", [("teacher", "teachers"), ("data", "data")])
def test_interrupted_run_is_not_continued_with_another_teacher_or_other_data(folder, monkeypatch, capsys, tokenizer,
                                                                             change, what):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, "TrainingLog", 2)
        run(folder, *SEEDS)
    if change == "teacher":
        other = random_model(seed=7, vocab_size=max(tokenizer.vocab_size, 60))
        save_model(other, tokenizer, folder / "teacher", run={})
    else:
        (folder / "mine.csv").write_text((folder / "mine.csv").read_text() + "one more,neutral\n")
    capsys.readouterr()
    run(folder, *SEEDS)
    output = capsys.readouterr().out
    assert f"{what}" in re.search(r"other settings \((.*)\)", output)[1] and trained_in(output)[0] == "student 0"


def test_finished_run_is_made_again_when_it_is_asked_for_again(folder, capsys):
    run(folder, "--student", "bag")
    capsys.readouterr()
    run(folder, "--student", "bag")
    assert trained_in(capsys.readouterr().out) == ["student 0"]


# ---- texts without a label -----------------------------------------------------------------------------

def test_new_texts_are_neither_known_nor_held_out_and_occur_once(folder):
    data = load_dataset(str(folder / "mine.csv"))
    known, held_out = data.train.texts[0], data.validation.texts[0]
    sources = [("a", ["new", known, held_out.upper()]), ("b", ["New ", "newer", f" {known}"])]
    assert new_texts(sources, data) == ["new", "newer"]


def test_what_is_held_out_or_known_is_left_out_of_further_texts(folder, capsys):
    rows = [f"{text} {i}" for i, text in enumerate(TEXTS * 6)]
    (folder / "more.txt").write_text("\n".join([*rows, "a new text", "a new text"]))
    _, returned = run(folder, "--student", "bag", "--unlabelled", folder / "more.txt")
    assert "1 texts without a label; left out: 7 that are validation or test texts" in capsys.readouterr().out
    assert returned["texts"] == len(rows) - 7 + 1


def test_masked_words_teach_a_student_with_the_teachers_tokenizer(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(distill, "augment", lambda *args, **more: seen.append((args[3], more["mask"])) or ["x [MASK]"])
    run(folder, "--student", "teacher:layers=0", "--augment", 1, "--augment-with", "mask", "swap")
    assert seen == [(["mask", "swap"], "[MASK]")]


@pytest.fixture
def exported(folder, tokenizer):
    """The teacher's folder again, as an ONNX graph."""
    model, _ = load_model(folder / "teacher")
    (folder / "graph").mkdir()
    export_graph(model, "onnx", folder / "graph")
    save_model(model, tokenizer, folder / "exported", run={}, graph=("onnx", folder / "graph"))
    return "exported"


def test_exported_teacher_augments_with_all_operations_that_need_no_word_vectors(folder, exported):
    flags = ["--student", "bag", "--augment", 1, "--augment-with", "swap", "delete", "ngram"]
    from_graph, from_torch = run(folder, *flags, teachers=[exported])[1], run(folder, *flags)[1]
    assert from_graph["texts"] == from_torch["texts"] > from_graph["data"]["train"]
    assert from_graph["history"][0]["loss"] == pytest.approx(from_torch["history"][0]["loss"], abs=1e-4)


@pytest.mark.parametrize("flags", [[], ["--augment-with", "insert"]])
def test_exported_teacher_cannot_augment_with_similar_words_and_the_error_says_what_to_do(folder, exported, flags):
    with pytest.raises(UserError, match="add --augment-with swap delete ngram, or name a PyTorch teacher first"):
        run(folder, "--student", "bag", "--augment", 1, *flags, teachers=[exported])
    assert not (folder / "teacher_logits").exists()


# ---- what is refused -----------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, message", [
    (["--student", "teacher:layers=5,1"], "rising order"), (["--student", "teacher:hidden=64"], "below the teacher's"),
    (["--student", "teacher:width=3"], "rising order"), (["--student", "teacher:layers=0", "--words", "x"], "--words")])
def test_impossible_student_is_a_one_line_error(folder, flags, message):
    with pytest.raises(ValueError, match=message) as error:
        run(folder, *flags)
    assert "\n" not in str(error.value) and not Path(folder / "out").exists()


def test_teachers_of_different_tasks_are_refused(folder, tokenizer):
    save_model(random_model(vocab_size=60, label_names=["bad", "good"]), tokenizer, folder / "binary", run={})
    with pytest.raises(ValueError, match="binary knows the labels bad, good"):
        run(folder, "--student", "bag", teachers=("teacher", "binary"))


def test_student_with_other_labels_is_refused(folder):
    with pytest.raises(ValueError, match="labels positive, neutral, negative in this order"):
        run(folder, "--student", folder / "other")


def test_student_whose_labels_differ_only_in_case_is_trained(folder, tokenizer):
    names = [name.upper() for name in LABELS]
    save_model(random_model(seed=3, vocab_size=max(tokenizer.vocab_size, 60), label_names=names), tokenizer,
               folder / "upper", run={})
    model, _ = run(folder, "--student", folder / "upper")
    assert model.config.label_names == names


@pytest.mark.parametrize("flags, message", [
    (["--student", "bag", "--unlabelled", "{0}/empty.txt"], "holds no text"),
    (["--student", "bag", "--unlabelled", "{0}"], "no file of texts"),
    (["--student", "bag", "--unlabelled", ""], "no file of texts"),
    (["--student", "bag", "--augment", "1", "--augment-with", "mask"], "the teacher's tokenizer"),
    (["--student", "bag", "--out", "{0}/teacher"], "would be lost"),
    (["--student", "bag", "--control", "--out", "{0}/t"], "would be lost")])
def test_impossible_wishes_are_refused_before_the_work(folder, flags, message):
    (folder / "empty.txt").write_text("\n\n")
    name = "teacher"
    if "--control" in flags:
        name = "t-alone"
        (folder / "teacher").rename(folder / name)
    before = (folder / name / "config.json").read_text()
    with pytest.raises((ValueError, FileExistsError), match=message):
        run(folder, *(flag.format(folder) for flag in flags), teachers=(name,))
    assert (folder / name / "config.json").read_text() == before


def test_alpha_0_with_the_students_flags_says_which_do_nothing(folder, capsys):
    """make trains its control with the flags of the student."""
    run(folder, "--student", "teacher:layers=0", "--alpha", 0, "--loss", "mse", "--hidden", 1)
    assert "--loss, --hidden will do nothing" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["--weights", "0.7,0.3"], "2 weights for 1 teachers"), (["--weights", "entropy"], "there is one teacher"),
    (["--relation-heads", "4"], "wants --relations"), (["--loss", "mse", "--temperature", "4"], "has none"),
    (["--augment-with", "swap"], "wants --augment"), (["--temperature", "inf"], "above 0"),
    (["--weights", "-1"], "0 or more"), (["--alpha", "0", "--control"], "drop one"),
    (["--weights", "best"], "not one of")])
def test_flags_that_would_do_nothing_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        distill.parse_args(["--teacher", "a", "--student", "b", "--out", "c", "--data", "demo", *flags])
    assert message in capsys.readouterr().err
