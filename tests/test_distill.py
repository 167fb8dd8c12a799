"""The distillation loss against a computation by hand, and what surrounds it."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import distill
from distill import kd_loss
from pocketbert.distillation.cache import cached_logits, open_teachers, teacher_logits
from pocketbert.distillation.ensemble import (
    calibrate_temperature,
    combine,
    combine_teachers,
    confidence_weights,
    entropy_weights,
    validation_weights,
)
from pocketbert.distillation.inner import InnerLosses
from pocketbert.evaluation.metrics import t_interval
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.hooks import record_outputs
from pocketbert.models.recipes import student_of_teacher
from pocketbert.models.surgery import narrow
from small_models import LABELS, TEXTS, random_model

STUDENT = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
GOLD = torch.tensor([0, 2])


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


@pytest.mark.parametrize("wrong", [dict(temperature=0.0), dict(alpha=1.5), dict(alpha=-0.1)])
def test_impossible_temperature_or_alpha_is_an_error(wrong):
    with pytest.raises(ValueError):
        kd_loss(STUDENT, TEACHER, GOLD, **wrong)


def test_other_label_lists_are_an_error():
    with pytest.raises(ValueError, match="same label list"):
        kd_loss(STUDENT, TEACHER[:, :2], GOLD)


def test_teacher_is_asked_once_for_each_text_whatever_the_order(tmp_path):
    asked = []

    def teacher(texts):
        asked.extend(texts)
        return torch.tensor([[float(len(text)), 0.0] for text in texts])

    cache = tmp_path / "logits.safetensors"
    first = cached_logits(cache, ["a", "bb", "a"], teacher)
    second = cached_logits(cache, ["ccc", "bb", "\ud800"], teacher)
    assert first.tolist() == [[1, 0], [2, 0], [1, 0]] and second.tolist() == [[3, 0], [2, 0], [1, 0]]
    assert asked == ["a", "bb", "ccc", "\ud800"]


def test_student_of_all_the_teachers_layers_is_the_teacher(padded_batch):
    teacher = random_model()
    assert torch.equal(student_of_teacher("teacher:layers=0,1,2", teacher)(*padded_batch), teacher(*padded_batch))


def test_student_of_some_layers_has_these_and_leaves_the_teacher_alone():
    teacher = random_model()
    student = student_of_teacher("teacher:layers=0,2", teacher)
    assert len(teacher.layers) == 3 and student.config.num_heads == [4, 4]
    assert torch.equal(student.layers[1].ffn.up.weight, teacher.layers[2].ffn.up.weight)
    student.layers[1].ffn.up.weight.data.zero_()
    assert teacher.layers[2].ffn.up.weight.abs().sum() > 0


@pytest.mark.parametrize("recipe", ["teacher:layers=0,9", "teacher:layers=", "teacher:layers=2,0", "teacher:depth=3",
                                    "teacher:layers=0,-1"])
def test_impossible_layers_are_an_error_that_says_what_is_possible(recipe):
    with pytest.raises(ValueError, match="from 0 to 2"):
        student_of_teacher(recipe, random_model())




def test_text_without_a_label_has_the_soft_term_only():
    labels = torch.tensor([0, -1])
    both = kd_loss(STUDENT, TEACHER, labels, 2.0, 0.4)
    soft = kd_loss(STUDENT, TEACHER, labels, 2.0, 1.0)
    torch.testing.assert_close(both, 0.4 * soft + 0.6 * F.cross_entropy(STUDENT[:1], GOLD[:1]) / 2)
    assert kd_loss(STUDENT, TEACHER, torch.tensor([-1, -1]), 2.0, 0.0).item() == 0  # no label, no NaN


def test_narrower_student_with_a_permutation_for_a_projection_is_its_teacher(padded_batch):
    """Permuting the hidden numbers everywhere changes nothing: no matrix, bias or gain was forgotten."""
    for family in ("bert", "roberta", "distilbert"):
        teacher = random_model(family=family)
        permutation = torch.eye(32)[torch.randperm(32)]
        student = narrow(teacher, permutation)
        torch.testing.assert_close(student(*padded_batch), teacher(*padded_batch), atol=1e-5, rtol=1e-4)


def test_interval_over_seeds_equals_scipys():
    from scipy.stats import t
    values = [0.79, 0.80, 0.82, 0.805]
    mean, low, high = t_interval(values)
    half = t.ppf(0.975, 3) * torch.tensor(values).double().std().item() / 2
    assert (mean, low, high) == pytest.approx((0.80375, 0.80375 - half, 0.80375 + half), rel=1e-3)
    assert math.isnan(t_interval([0.8])[1])


# The whole command --------------------------------------------------------------------------------------

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
    distill.main(["--teacher", *(str(folder / name) for name in teachers), "--data", str(folder / "mine.csv"),
                  "--out", str(folder / "out"), "--epochs", "1", *map(str, flags)])
    model, tokenizer = load_model(folder / "out")
    assert torch.isfinite(model(torch.tensor(tokenizer(["a good day"], 20)))).all()
    return model, json.loads((folder / "out" / "run.json").read_text())


@pytest.mark.parametrize("student", ["scratch:layers=1,hidden=16,heads=2,vocab=60", "teacher:layers=0,2",
                                     "teacher:layers=1:hidden=16", "lstm:hidden=8", "gru:hidden=8", "xlstm:hidden=8",
                                     "rwkv:hidden=8", "bag:ngrams=2,buckets=64"])
def test_every_kind_of_student_learns_from_two_teachers_of_two_families(folder, student):
    model, run_json = run(folder, "--student", student, "--weights", "confidence", teachers=("teacher", "other"))
    assert model.config.label_names == LABELS and len(run_json["teachers"]) == 2


@pytest.mark.parametrize("flags", [["--hidden", 1, "--attention", 1, "--relations", 1, "--relation-heads", 4],
                                   ["--loss", "mse"], ["--loss", "decoupled"], ["--augment", 2]])
def test_every_loss_and_augmentation_trains(folder, flags):
    run(folder, "--student", "teacher:layers=0,2", *flags)


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


def test_teachers_whose_labels_are_ordered_differently_are_aligned_by_name(folder, tokenizer):
    from pocketbert.distillation.cache import open_teachers, teacher_logits
    args = distill.parse_args(["--teacher", "a", "--student", "b", "--data", "demo", "--out", str(folder / "out")])
    answers = teacher_logits(open_teachers([str(folder / "teacher"), str(folder / "other")]), TEXTS, args, "cpu")
    other, tokenizer = load_model(folder / "other")
    alone = torch.cat([other(torch.tensor(tokenizer([text], 128))) for text in TEXTS])
    torch.testing.assert_close(answers[1], alone.flip(1), atol=1e-5, rtol=1e-4)


def test_control_has_as_many_steps_and_no_teacher(folder, monkeypatch):
    """With twice as many texts for the student, the control has twice the epochs, and no unlabelled text."""
    seen = []
    monkeypatch.setattr(distill, "train_student", lambda student, ids, labels, teacher_logits, validate, args, alpha,
                        *rest: seen.append((len(ids), labels, args.epochs, args.patience, alpha))
                        or distill.TrainingLog(student, args))
    run(folder, "--student", "bag:ngrams=1", "--augment", 1, "--unlabelled", folder / "more.txt", "--control",
        "--epochs", 2, "--patience", 1)
    (texts, labels, epochs, patience, alpha), (alone_texts, alone_labels, alone_epochs, alone_patience, none) = seen
    assert len(labels) == texts > len(alone_labels) == alone_texts
    assert 0 <= alone_epochs * alone_texts - epochs * texts < alone_texts and (epochs, patience) == (2, 1)
    assert alone_patience * alone_texts >= patience * texts
    assert labels == alone_labels + [-1] * (texts - alone_texts) and (alpha, none) == (0.5, 0.0)
    assert json.loads((folder / "out-alone" / "run.json").read_text())["control"]


def test_seeds_are_told_one_by_one_and_the_first_ones_model_is_kept(folder, capsys):
    _, run_json = run(folder, "--student", "bag", "--control", "--seeds", 2)
    assert [len(scores) for scores in run_json["seeds"].values()] == [2, 2]
    assert run_json["validation"] == run_json["seeds"]["student"][0]
    assert "difference" in capsys.readouterr().out


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


def test_inner_losses_are_the_sum_of_their_parts_and_zero_against_oneself(padded_batch):
    from pocketbert.data.batching import make_batch
    from pocketbert.distillation.inner import attention_loss, attention_scores, hidden_loss, relation_loss
    batch = make_batch([[2, 7, 9, 3], [2, 30, 3], [2, 8, 41, 6, 3]], [0, 1, 2], [0, 1, 2], 0)
    student, teacher = random_model(seed=1), random_model(seed=2)

    def value(model, **weights):
        args = argparse.Namespace(**{"hidden": 0, "attention": 0, "relations": 0, "layer_map": "uniform",
                                     "relation_heads": None} | weights)
        losses = InnerLosses(model, teacher, args)
        with losses.listen(model) as inner:
            model(batch.input_ids, batch.attention_mask)
            return losses(model, inner, batch)
    assert value(teacher, hidden=1, attention=1, relations=1) == pytest.approx(0, abs=1e-5)
    parts = [value(student, **{name: 1}) for name in ("hidden", "attention", "relations")]
    assert all(part > 0.01 for part in parts)
    total = value(student, hidden=2, attention=3, relations=4)
    torch.testing.assert_close(total, 2 * parts[0] + 3 * parts[1] + 4 * parts[2])
    with record_outputs(student) as ours, record_outputs(teacher) as theirs:
        student(batch.input_ids, batch.attention_mask)
        teacher(batch.input_ids, batch.attention_mask)
    mask = batch.attention_mask
    by_hand = sum(hidden_loss(ours["hidden"][i], theirs["hidden"][i], mask) for i in range(3))
    by_hand += F.mse_loss(ours["hidden"][3][:, 0], theirs["hidden"][3][:, 0])  # of the last block the head reads this
    torch.testing.assert_close(parts[0], by_hand)
    scores = [[attention_scores(block["query"][i], block["key"][i], 4) for block in (ours, theirs)] for i in (1, 2, 3)]
    by_hand = sum(attention_loss(*pair, mask) for pair in scores[:2])
    by_hand += attention_loss(*(block[:, :, :1] for block in scores[2]), mask)
    torch.testing.assert_close(parts[1], by_hand)
    torch.testing.assert_close(parts[2], sum(relation_loss(ours[kind][3], theirs[kind][3], mask, 4)
                                             for kind in ("query", "key", "value")) / 3)


def test_inner_losses_are_part_of_the_loss_that_is_trained(folder):
    losses = [run(folder, "--student", "teacher:layers=0,1", "--lr", 0, *flags)[1]["history"][0]["loss"]
              for flags in ([], ["--hidden", 1])]
    assert losses[1] > losses[0] + 0.1


def test_a_boastful_teacher_is_calibrated_before_it_is_heard():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (200,))
    good = 2 * F.one_hot(labels, 3) + torch.randn(200, 3)
    bad = F.one_hot(labels, 3) + torch.randn(200, 3)
    plain = combine(torch.stack([good, bad]), torch.stack([good, bad]), labels, labels, "mean", 2.0)
    loud = combine(torch.stack([good, 10 * bad]), torch.stack([good, 10 * bad]), labels, labels, "mean", 2.0)
    torch.testing.assert_close(loud, plain, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("weights", ["validation", "confidence", "entropy", "mean"])
def test_each_way_to_weigh_teachers_is_the_one_that_its_name_says(weights):
    torch.manual_seed(0)
    labels, (answers, on_validation) = torch.randint(-1, 3, (50,)), 3 * torch.randn(2, 2, 50, 3)
    gold = torch.randint(0, 3, (50,))
    heat = torch.stack([calibrate_temperature(row, gold) * torch.ones(()) for row in on_validation])
    cool, cool_validation = answers / heat.view(2, 1, 1), on_validation / heat.view(2, 1, 1)
    shares = {"validation": validation_weights(cool_validation, gold), "mean": torch.tensor([0.5, 0.5]),
              "confidence": confidence_weights(cool, labels),
              "entropy": entropy_weights(cool)}[weights]
    torch.testing.assert_close(combine(answers, on_validation, labels, gold, weights, 3.0),
                               combine_teachers(cool, shares, 3.0))


@pytest.mark.parametrize("flags, expected", [([], 2.0), (["--temperature", 5], 5.0), (["--loss", "mse"], math.inf)])
def test_teachers_are_combined_at_the_temperature_of_the_loss(folder, monkeypatch, flags, expected):
    seen = []
    monkeypatch.setattr(distill, "combine", lambda *args: seen.append(args[-1]) or combine(*args))
    run(folder, "--student", "bag", *flags, teachers=("teacher", "other"))
    assert seen == [expected]


def test_each_text_learns_what_the_teacher_says_of_it(folder):
    """A student that is its teacher has nothing to learn, provided that no text is held against another's answer."""
    _, run_json = run(folder, "--student", "teacher:layers=0,1,2", "--alpha", 1, "--dropout", 0, "--augment", 1,
                      "--lr", 0)
    assert run_json["history"][0]["loss"] == pytest.approx(0, abs=1e-5)


def test_teacher_that_was_trained_again_or_cleans_texts_otherwise_is_asked_again(folder, tokenizer):
    args = distill.parse_args(["--teacher", "a", "--student", "b", "--data", "demo", "--out", str(folder / "out")])

    def answers(seed, cleaning):
        tokenizer.cleaning = cleaning
        save_model(random_model(seed=seed, vocab_size=max(tokenizer.vocab_size, 60)), tokenizer, folder / "t", run={})
        return teacher_logits(open_teachers([str(folder / "t")]), ["@ann is late", "so good"], args, "cpu")
    first, again, retrained, cleaned = answers(3, "none"), answers(3, "none"), answers(4, "none"), answers(3, "cardiff")
    assert torch.equal(first, again) and len(list((folder / "teacher_logits").iterdir())) == 3
    assert not torch.allclose(first, retrained) and not torch.allclose(first[:, 0], cleaned[:, 0])


def test_student_and_control_start_from_the_same_weights_and_each_seed_from_others(folder, monkeypatch):
    starts = []
    monkeypatch.setattr(distill, "train_student", lambda student, ids, labels, teacher_logits, validate, args, *rest:
                        starts.append(student.head.out.weight.clone()) or distill.TrainingLog(student, args))
    run(folder, "--student", "gru:hidden=8", "--control", "--seeds", 2)
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[2], starts[3])
    assert not torch.equal(starts[0], starts[2])


def test_what_is_held_out_or_known_is_left_out_of_further_texts(folder, capsys):
    rows = [f"{text} {i}" for i, text in enumerate(TEXTS * 6)]
    (folder / "more.txt").write_text("\n".join([*rows, "a new text", "a new text"]))
    model, run_json = run(folder, "--student", "bag", "--unlabelled", folder / "more.txt")
    assert "1 texts without a label; left out: 7 that are validation or test texts" in capsys.readouterr().out
    assert run_json["texts"] == len(rows) - 7 + 1


def test_new_version_of_a_training_text_is_no_text_that_is_held_out(folder, monkeypatch, capsys):
    validation = []
    monkeypatch.setattr(distill, "augment", lambda texts, *rest, **more: [*validation, "one more"])
    opened = distill.open_data
    monkeypatch.setattr(distill, "open_data", lambda *args: validation.append(
        (data := opened(*args)).validation.texts[0]) or data)
    run(folder, "--student", "bag", "--augment", 1)
    assert "--augment 1: 1 texts without a label; left out: 1 that" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["--student", "bag", "--unlabelled", "{0}/empty.txt"], "holds no text"),
    (["--student", "bag", "--unlabelled", "{0}"], "no file of texts"),
    (["--student", "bag", "--unlabelled", ""], "no file of texts"),
    (["--student", "bag", "--augment", "1", "--augment-ways", "mask"], "the teacher's tokenizer"),
    (["--student", "bag", "--out", "{0}/teacher"], "would be lost"),
    (["--student", "bag", "--control", "--out", "{0}/t"], "would be lost")])
def test_impossible_wishes_are_refused_before_the_work(folder, flags, message):
    (folder / "empty.txt").write_text("\n\n")
    (folder / "teacher").rename(folder / "t-alone") if "--control" in flags else None
    name = "t-alone" if "--control" in flags else "teacher"
    before = (folder / name / "config.json").read_text()
    with pytest.raises((ValueError, FileExistsError), match=message):
        run(folder, *(flag.format(folder) for flag in flags), teachers=(name,))
    assert (folder / name / "config.json").read_text() == before


def test_masked_words_teach_a_student_with_the_teachers_tokenizer(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(distill, "augment", lambda *args, **more: seen.append((args[3], more["mask"])) or ["x [MASK]"])
    run(folder, "--student", "teacher:layers=0", "--augment", 1, "--augment-ways", "mask", "swap")
    assert seen == [(["mask", "swap"], "[MASK]")]


def test_control_of_make_which_has_the_students_flags_says_which_do_nothing(folder, capsys):
    run(folder, "--student", "teacher:layers=0", "--alpha", 0, "--loss", "mse", "--hidden", 1)
    assert "--loss, --hidden will do nothing" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["--weights", "0.7,0.3"], "2 weights for 1 teachers"), (["--weights", "entropy"], "there is one teacher"),
    (["--relation-heads", "4"], "wants --relations"), (["--relations", "1", "--layer-map", "last"], "wants --hidden"),
    (["--loss", "mse", "--temperature", "4"], "has none"), (["--augment-ways", "swap"], "wants --augment"),
    (["--temperature", "inf"], "above 0"), (["--weights", "-1"], "0 or more"),
    (["--alpha", "0", "--control"], "drop one"), (["--weights", "best"], "not one of")])
def test_flags_that_would_do_nothing_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        distill.parse_args(["--teacher", "a", "--student", "b", "--out", "c", "--data", "demo", *flags])
    assert message in capsys.readouterr().err


def test_relation_heads_that_do_not_divide_are_refused_before_the_teacher_reads_anything(folder):
    with pytest.raises(ValueError, match="--relation-heads 5 does not divide"):
        run(folder, "--student", "teacher:layers=0,1", "--relations", 1, "--relation-heads", 5)
    assert not (folder / "teacher_logits").exists()


def test_words_of_a_quantized_model_are_numbers_not_codes(folder):
    import quantize
    from pocketbert.models.stored import word_vectors
    expected = load_model(folder / "teacher")[0].embeddings.word.weight
    for method in ("dynamic", "int4", "nf4"):
        quantize.main(["--model", str(folder / "teacher"), "--out", str(folder / method), "--method", method,
                       "--force"])
        torch.testing.assert_close(word_vectors(load_model(folder / method)[0]), expected, atol=0.2, rtol=0)


def test_exported_teacher_that_was_exported_again_is_asked_again(folder):
    import quantize
    from pocketbert.models.folder import parent_of
    hashes = set()
    for name in ("teacher", "other"):
        quantize.main(["--model", str(folder / name), "--out", str(folder / "graph"), "--method", "onnx"])
        hashes.add(parent_of(str(folder / "graph"))["sha256"])
    assert len(hashes) == 2 and None not in hashes
