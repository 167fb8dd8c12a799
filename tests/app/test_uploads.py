"""A file comes back with labels: every row, in order."""

import csv
import io
import json

import pytest

from pocketbert.app import uploads
from pocketbert.app.uploads import columns_of, guess_column, label_rows, labelled_file, read_rows, time_left, uploaded
from pocketbert.errors import UserError
from pocketbert.models.classifier import Classifier
from pocketbert.models.folder import save_model
from small_models import TEXTS, random_model


@pytest.fixture
def classifier(tmp_path, tokenizer):
    save_model(random_model(), tokenizer, tmp_path / "model", run={})
    return Classifier(tmp_path / "model", "cpu")


def labelled(classifier, name, data, column=None):
    with uploaded(name, data) as path:
        columns = columns_of(path)
        rows = read_rows(path, column or guess_column(columns))
        answers = list(label_rows(classifier, rows))[-1][1]
    return *labelled_file(path.suffix[1:], rows, answers), answers


def table(data, delimiter=","):
    return list(csv.DictReader(io.StringIO(data.decode()), delimiter=delimiter))


def test_every_row_of_a_csv_file_comes_back_in_order_with_its_columns(classifier):
    lines = ["id;tweet;predicted"] + [f'{i};"{text}, {i}";x' for i, text in enumerate(TEXTS * 60)]
    ending, data, answers = labelled(classifier, "my tweets.CSV", "\n".join(lines).encode(), "tweet")
    rows = table(data)
    assert ending == "csv" and [int(row["id"]) for row in rows] == list(range(360))
    expected = classifier([f"{text}, {i}" for i, text in enumerate(TEXTS * 60)])
    assert [row["predicted_2"] for row in rows] == [answer["label"] for answer in expected]
    assert all(row["predicted"] == "x" for row in rows)
    for row, answer in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(answer["score"], abs=1e-5)


def test_a_damaged_row_keeps_its_place(classifier):
    _, data, _ = labelled(classifier, "a.csv", b"text,x\nso good,1\nhalf a row\nso bad,2\n")
    assert [(row["text"], bool(row["predicted"]), bool(row["error"])) for row in table(data)] == [
        ("so good", True, False), ("", False, True), ("so bad", True, False)]
    _, data, _ = labelled(classifier, "a.jsonl", b'{"text": "so good", "n": 1}\n{broken\n{"text": null}\n"plain"\n')
    rows = [json.loads(line) for line in data.splitlines()]
    assert [row.get("n") for row in rows] == [1, None, None, None]
    assert ["error" in row for row in rows] == [False, True, True, False]
    assert set(rows[0]["probability"]) == set(classifier.label_names)


def test_plain_lines_and_tsv(classifier):
    ending, data, _ = labelled(classifier, "a.txt", "so good\n\nschön, ja\n".encode())
    assert ending == "csv" and [row["text"] for row in table(data)] == ["so good", "", "schön, ja"]
    ending, data, _ = labelled(classifier, "a.tsv", b"n\tsentence\n1\tso good\n2\tso bad\n")
    assert ending == "tsv" and [row["sentence"] for row in table(data, "\t")] == ["so good", "so bad"]


def test_the_columns_of_a_file_and_the_one_that_is_probably_the_text(tmp_path):
    for name, content, columns in (("a.csv", "id;tweet\n1;x\n", ["id", "tweet"]), ("b.csv", "text\nx\n", ["text"]),
                                   ("c.tsv", "a,b\ttext\n1\tx\n", ["a,b", "text"]), ("d.txt", "a,b\n", []),
                                   ("e.jsonl", '"x"\n{"utt": "x"}\n', ["utt"]),
                                   ("f.csv", "sep=;\na;b\n1;2\n", ["a", "b"]),
                                   ("g.csv", "", [])):
        (tmp_path / name).write_text(content)
        assert columns_of(tmp_path / name) == columns, name
    assert guess_column(["id", "Tweet"]) == "Tweet" and guess_column(["a", "b"]) == "a" and guess_column([]) is None


def test_uploads_are_bounded_and_only_the_ending_of_their_name_is_used(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_MB", 1)
    monkeypatch.setattr(uploads, "MOST_ROWS", 10)
    with pytest.raises(UserError, match="2 MB"), uploaded("a.csv", b"x" * 2_000_000):
        pass
    for name in ("a.exe", "a.csv.gz", "noending", ""):
        with pytest.raises(UserError, match="ends in"), uploaded(name, b""):
            pass
    with pytest.raises(UserError, match="more than 10 rows"), uploaded("a.txt", b"x\n" * 11) as path:
        read_rows(path, None)
    with uploaded("../../etc/evil.csv", b"text\nx\n") as path:
        assert path.name == "upload.csv" and path.exists()
    assert not path.exists()


def test_errors_speak_of_the_file_by_the_name_that_it_had():
    with pytest.raises(UserError, match="^tweets.json is not valid JSON"), uploaded("tweets.json", b"[1, 2") as path:
        read_rows(path, "text")


def test_progress_counts_rows_and_the_time_left_is_in_proportion(classifier):
    rows = [({"text": text}, text, None) for text in TEXTS * 100]
    assert [done for done, _ in label_rows(classifier, rows)] == [256, 512, 600]
    assert time_left(10, 100, 300) == "20 s left" and time_left(100, 1, 10) == "15 min left"
