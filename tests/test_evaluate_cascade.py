"""`evaluate.py cascade` as a user runs it."""

import json
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

import evaluate
from pocketbert.cli import run_script
from pocketbert.data.batching import batches
from pocketbert.evaluation.cascade import choose_threshold, confidence
from pocketbert.evaluation.cascade_report import cascade_table
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from small_models import LABELS, TEXTS, random_model


def macro(labels, predicted):
    return f1_score(labels, predicted, average="macro", zero_division=0)


def by_threshold(small, large, threshold):
    """The labels of the cascade, in one line."""
    return torch.where(small.double().softmax(-1).amax(-1) >= threshold, small.argmax(-1), large.argmax(-1)).numpy()


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
    return evaluate.main(["cascade", here / "runs" / "small", here / "runs" / "large", "--timed", 8, "--device", "cpu",
                          *flags])


@pytest.fixture(scope="module")
def result(here):
    result = run(here, "--data", here / "data", "--out", here / "out", "--max-drop", "0.01")
    assert json.loads((here / "out" / "cascade.json").read_text()) == result  # main returns what the file says
    return result


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
    evaluate.main(["cascade", here / "runs" / "large", here / "runs" / "small", "--data", here / "data", "--timed", 4,
                   "--out", here / "swapped", "--device", "cpu"])
    assert "WARNING: small has no smaller file" in capsys.readouterr().out


@pytest.mark.parametrize("flags, words", [
    (["cascade", "runs/small", "runs/mail"], "large has the labels ham, spam, eggs, the first model negative"),
    (["cascade", "runs/small", "gone"], "gone: no such folder"),
    (["cascade", "runs/small", "data"], "a cascade needs two model folders"),
    (["cascade", "runs/small", "runs/large", "runs/mail"], "unrecognized arguments: runs/mail"),
    ([], "the following arguments are required: FOLDER"),
    (["runs/small", "--max-drop", "0"], "unrecognized arguments: --max-drop"),
    (["cascade", "runs/small", "runs/large", "--max-drop", "1.5"], "1.5 is not between 0 and 1"),
    (["cascade", "runs/small", "runs/large", "--baseline", "large"], "unrecognized arguments: --baseline")])
def test_users_error_is_one_line_and_writes_nothing(flags, words, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.argv", ["evaluate.py", *flags, "--data", "data", "--out", "none", "--device", "cpu"])
    with pytest.raises(SystemExit) as error:
        run_script(evaluate.main)
    said = error.value.code if isinstance(error.value.code, str) else capsys.readouterr().err
    assert "error: " in said and words in said and "\n" not in said.strip() and not (here / "none").exists()
