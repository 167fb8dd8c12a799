"""cascade.py: the threshold against brute force, the cascade against its two models, `evaluate.py --cascade`."""

import json
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

import evaluate
from pocketbert.cli import run_script
from pocketbert.data.batching import batches
from pocketbert.data.splits import Split, text_key
from pocketbert.evaluation.cascade import (
    ALL_TO_LARGE,
    cascade_predict,
    cascade_table,
    choose_threshold,
    confidence,
    halves,
    spread_rows,
    times_in_turn,
)
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from small_models import LABELS, TEXTS, random_model


def two_models(seed, texts=45, classes=4, levels=None):
    """(small logits, large logits, labels): both right more often than not; few levels make many equal confidences."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=texts)
    right = np.eye(classes)[labels]
    small, large = (rng.normal(size=(texts, classes)) + lift * right for lift in (1.0, 2.5))
    if levels:
        small = np.round(small * levels) / levels
    return torch.tensor(small, dtype=torch.float32), torch.tensor(large, dtype=torch.float32), labels


def macro(labels, predicted):
    return f1_score(labels, predicted, average="macro", zero_division=0)


def by_threshold(small, large, threshold):
    """The labels of the cascade, in one line."""
    return torch.where(small.double().softmax(-1).amax(-1) >= threshold, small.argmax(-1), large.argmax(-1)).numpy()


# --- the threshold ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("max_drop", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("seed, levels", [(0, None), (1, None), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_threshold_is_the_lowest_that_brute_force_allows(seed, levels, max_drop):
    small, large, labels = two_models(seed, levels=levels)
    certain = confidence(small).numpy()
    candidates = [*np.unique(certain).tolist(), ALL_TO_LARGE]
    assert len(candidates) == 46 if levels is None else len(candidates) < 42  # ties are tested with levels
    good = [t for t in candidates
            if macro(labels, by_threshold(small, large, t)) >= macro(labels, large.argmax(-1)) - max_drop - 1e-12]
    threshold, share, score = choose_threshold(small, large, labels, max_drop)
    assert threshold == min(good) and share == (certain >= threshold).mean()
    assert score == pytest.approx(macro(labels, by_threshold(small, large, threshold)), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_max_drop_0_never_loses_on_the_choosing_texts(seed):
    small, large, labels = two_models(seed)
    threshold, _, score = choose_threshold(small, large, labels, 0)
    assert score >= macro(labels, large.argmax(-1)) - 1e-12
    assert macro(labels, by_threshold(small, large, threshold)) == pytest.approx(score)


def test_max_drop_1_leaves_every_text_to_the_small_model():
    small, large, labels = two_models(0)
    assert choose_threshold(small, large, labels, 1) == (
        confidence(small).min().item(), 1.0, pytest.approx(macro(labels, small.argmax(-1))))


def test_a_perfect_small_model_takes_every_text_and_a_useless_one_none():
    small, large, labels = two_models(0)
    perfect = small + 20 * torch.eye(4)[labels]
    assert choose_threshold(perfect, large, labels, 0)[1:] == (1.0, 1.0)
    assert choose_threshold(large, large, labels, 0)[1] == 1.0  # as good is good enough
    wrong = torch.eye(4)[(labels + 1) % 4] * torch.linspace(1, 9, 45)[:, None]
    assert choose_threshold(wrong, 20 * torch.eye(4)[labels], labels, 0) == (ALL_TO_LARGE, 0.0, 1.0)


def test_confident_texts_that_float32_cannot_tell_apart_get_thresholds_of_their_own():
    logits = torch.tensor([[20.0, 0], [25.0, 0]])
    assert logits.softmax(-1).amax(-1).unique().numel() == 1 and confidence(logits).unique().numel() == 2


# --- the cascade ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.9, ALL_TO_LARGE, confidence(two_models(0)[0])[30].item()])
def test_cascade_labels_are_those_of_the_two_models_joined_at_the_threshold(threshold):
    logits = dict(zip(("small", "large"), two_models(0)[:2], strict=True))
    rows, asked = [7, 3, 40, 11, 12, 30, 8], []

    def score(name, some):
        asked.append((name, some))
        return logits[name][some]
    labels, doubtful = cascade_predict(score, rows, threshold)
    assert labels.tolist() == by_threshold(*logits.values(), threshold)[rows].tolist()
    left = [row for row in rows if confidence(logits["small"])[row] < threshold]
    assert asked == [("small", rows), *([("large", left)] if left else [])]  # the large model sees the doubtful alone
    assert [row for row, doubt in zip(rows, doubtful, strict=True) if doubt] == left


def test_what_is_not_a_number_is_left_to_the_large_model():
    logits = {"small": torch.full((1, 2), torch.nan), "large": torch.tensor([[0.0, 1.0]])}
    assert cascade_predict(lambda name, rows: logits[name][rows], [0], 0.0)[0].tolist() == [1]


# --- which texts choose, which measure --------------------------------------------------------------------

def test_halves_share_no_text_keep_every_row_and_the_classes_shares():
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(200)] + ["Text 0", " text 1 ", "text 2", "text 2"]  # copies, as text_key has it
    split = Split(texts, rng.choice(3, len(texts), p=[0.6, 0.3, 0.1]).tolist())
    one, other = halves(split)
    assert not {*map(text_key, one.texts)} & {*map(text_key, other.texts)}
    rows = Counter(zip(one.texts + other.texts, one.labels + other.labels, strict=True))
    assert rows == Counter(zip(split.texts, split.labels, strict=True))
    for label in range(3):
        assert abs(one.labels.count(label) - other.labels.count(label)) <= 6
    assert halves(split) == (one, other)


def test_one_text_cannot_both_choose_and_measure():
    with pytest.raises(ValueError, match="1 validation text cannot both"):
        halves(Split(["a", "A"], [0, 1]))


# --- times ------------------------------------------------------------------------------------------------

def test_timed_rows_have_the_splits_share_of_doubtful_texts_and_its_mean_length():
    rng = np.random.default_rng(0)
    lengths, doubtful = rng.integers(3, 60, size=1000), rng.random(1000) < 0.25
    rows = spread_rows(lengths, doubtful, 64)
    assert len(set(rows)) == 64 and doubtful[rows].mean() == pytest.approx(doubtful.mean(), abs=1 / 64)
    for route in (True, False):
        mine = [row for row in rows if doubtful[row] == route]
        assert lengths[mine].mean() == pytest.approx(lengths[doubtful == route].mean(), abs=2)
    assert sorted(spread_rows([5, 4, 3], [0, 1, 0], 64)) == [0, 1, 2]


def test_cascade_costs_the_small_model_and_where_it_doubts_the_large_one_too(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("pocketbert.hardware.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    logits = {"small": torch.tensor([[9.0, 0], [0.1, 0], [0, 9.0]]), "large": torch.zeros(3, 2)}

    def score(name, rows):
        clock[0] += {"small": 0.001, "large": 0.010}[name] * len(rows)
        return logits[name][rows]
    times = times_in_turn(score, [[0], [1], [2], [0, 1, 2]], threshold=0.9)
    np.testing.assert_allclose(times["small"], [1, 1, 1, 3])
    np.testing.assert_allclose(times["large"], [10, 10, 10, 30])
    np.testing.assert_allclose(times["cascade"], [1, 11, 1, 13])


# --- evaluate.py --cascade --------------------------------------------------------------------------------

WORDS = {"negative": "late again not good", "neutral": "the shop opens when", "positive": "lovely love so much"}


def rows_of(count, seed):
    """Texts of a class's words and of all words, so that labels can be learned, but not always told."""
    rng, everything = np.random.default_rng(seed), " ".join([*WORDS.values(), *TEXTS]).split()
    for i in range(count):
        own, other = WORDS[LABELS[i % 3]].split(), rng.integers(1, 9)
        yield " ".join([*rng.choice(own, rng.integers(1, 4)), *rng.choice(everything, other), str(i)]), LABELS[i % 3]


def write_csv(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


@pytest.fixture(scope="module")
def here(tmp_path_factory, tokenizer):
    """runs/small (1 layer), runs/large (3, better), runs/mail (other labels), data/ with a test split, mine.csv."""
    here = tmp_path_factory.mktemp("cascade")
    for name, rows in (("train", rows_of(90, 0)), ("validation", rows_of(90, 1)), ("test", rows_of(120, 2))):
        write_csv(here / "data" / f"{name}.csv", rows)
    write_csv(here / "mine.csv", rows_of(400, 3))
    texts, labels = zip(*rows_of(90, 4), strict=True)
    for name, options, steps in (("small", {"layers": 1, "seed": 1}, 20), ("large", {"layers": 3, "seed": 2}, 60)):
        model = random_model(std=0.05, **options).train()
        adam = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
        batch = next(batches(tokenizer(list(texts), 40), [*map(LABELS.index, labels)], len(texts), tokenizer.pad_id))
        for _ in range(steps):
            torch.nn.functional.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels).backward()
            adam.step()
            adam.zero_grad()
        save_model(model.eval(), tokenizer, here / "runs" / name, run={})
    save_model(random_model(label_names=["ham", "spam", "eggs"]), tokenizer, here / "runs" / "mail", run={})
    return here


def run(here, *flags):
    evaluate.main(["--cascade", here / "runs" / "small", here / "runs" / "large", "--timed", 8, "--bootstrap", 50,
                   "--device", "cpu", *flags])


@pytest.fixture(scope="module")
def result(here):
    run(here, "--data", here / "data", "--out", here / "out", "--max-drop", "0.01")
    return json.loads((here / "out" / "cascade.json").read_text())


def test_threshold_is_chosen_on_validation_and_all_else_measured_on_test(result, here):
    models = [load_model(here / "runs" / name) for name in ("small", "large")]
    logits, labels = {}, {}
    for split in ("validation", "test"):
        lines = (here / "data" / f"{split}.csv").read_text().splitlines()[1:]
        texts, names = zip(*(line.rsplit(",", 1) for line in lines), strict=True)
        labels[split] = np.array([LABELS.index(name) for name in names])
        logits[split] = [predict(model, t(list(texts), 40), 32, t.pad_id) for model, t in models]
    threshold, share, score = choose_threshold(*logits["validation"], labels["validation"], 0.01)
    assert 0 < share < 1, "the example has become too easy or too hard to tell anything"
    assert result["threshold"] == pytest.approx(threshold, abs=1e-6)
    assert result["chosen"]["share_small"] == share and result["chosen"]["macro_f1"] == pytest.approx(score)
    small, large = logits["test"]
    expected = {"large": large.argmax(-1), "small": small.argmax(-1), "cascade": by_threshold(small, large, threshold)}
    assert result["share_small"] == pytest.approx((confidence(small) >= threshold).double().mean())
    assert [row["name"] for row in result["rows"]] == list(expected)
    for row in result["rows"]:
        assert row["macro_f1"] == pytest.approx(macro(labels["test"], expected[row["name"]]))
        assert row["accuracy"] == pytest.approx(accuracy_score(labels["test"], expected[row["name"]]))
        assert row["low"] <= row["difference"] <= row["high"]
    assert (result["rows"][0]["difference"], result["rows"][0]["p_value"], result["rows"][0]["speedup_1"]) == (0, 1, 1)
    assert "90 validation texts" in result["texts"] and "120 test texts" in result["texts"]


def test_page_and_terminal_show_share_scores_and_times(here, capsys):
    run(here, "--data", here / "data", "--out", here / "shown")
    printed, page = capsys.readouterr().out, (here / "shown" / "cascade.md").read_text()
    result = json.loads((here / "shown" / "cascade.json").read_text())
    assert result["max_drop"] == 0.005 and result["timed_alone"] == 8 and result["timed_in_bulk"] == 120
    lines = cascade_table(result["rows"], 120)
    assert len({len(line) for line in lines.splitlines()}) == 1
    for words in (printed, page):
        assert lines in words and f"small answers {100 * result['share_small']:.1f} % of" in words
        for row in result["rows"]:
            assert row["ms_mean"] > 0 and row["bulk_seconds"] > 0 and f"{row['ms_mean']:.2f} / " in words
    assert {path.name for path in (here / "shown").iterdir()} == {"cascade.md", "cascade.json"}
    assert not list((here / "runs").rglob("metrics.json"))


def test_without_a_test_file_one_half_of_validation_chooses_and_the_other_measures(here, capsys):
    run(here, "--data", here / "mine.csv", "--out", here / "halves")
    assert re.search(r"no labelled test file: one half of the validation texts \(40\).* the other \(40\) measures",
                     capsys.readouterr().out)
    result = json.loads((here / "halves" / "cascade.json").read_text())
    assert result["chosen"]["texts"] == result["timed_in_bulk"] == 40


def test_the_larger_model_as_the_small_one_is_warned_of(here, capsys):
    evaluate.main(["--cascade", here / "runs" / "large", here / "runs" / "small", "--data", here / "data", "--timed", 4,
                   "--bootstrap", 10, "--out", here / "swapped", "--device", "cpu"])
    printed = capsys.readouterr().out
    for words in ("small has no smaller file", "small is no faster than large one by one and in bulk"):
        assert f"WARNING: {words}" in printed


@pytest.mark.parametrize("flags, words", [
    (["--cascade", "runs/small", "runs/mail"], "large has the labels ham, spam, eggs, the first model negative"),
    (["--cascade", "runs/small", "gone"], "gone: no such folder"),
    (["--cascade", "runs/small", "data"], "--cascade needs two model folders"),
    (["--cascade", "runs/small", "runs/large", "runs/mail"], "not both"),
    ([], "give the FOLDERs of the models, or --cascade SMALL LARGE"),
    (["runs/small", "--max-drop", "0"], "--max-drop is for --cascade"),
    (["--cascade", "runs/small", "runs/large", "--max-drop", "1.5"], "1.5 is not between 0 and 1"),
    (["--cascade", "runs/small", "runs/large", "--baseline", "large"], "--baseline is for FOLDERs")])
def test_users_error_is_one_line_and_writes_nothing(flags, words, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.argv", ["evaluate.py", *flags, "--data", "data", "--out", "none", "--device", "cpu"])
    with pytest.raises(SystemExit) as error:
        run_script(evaluate.main)
    said = error.value.code if isinstance(error.value.code, str) else capsys.readouterr().err
    assert "error: " in said and words in said and "\n" not in said.strip() and not (here / "none").exists()
