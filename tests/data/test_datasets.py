"""The registered datasets and folders of files, from local files and from the Hub."""

import gzip

import pytest

from data_utils import load_dataset
from pocketbert.data.datasets import EKMAN, EMOTIONS
from pocketbert.data.splits import Split
from small_tables import all_texts, jsonl, many, write


def test_a_folder_takes_dev_or_val_and_a_test_without_labels_is_not_used(tmp_path):
    write(tmp_path / "train.csv", "text,label\n" + many())
    write(tmp_path / "dev.jsonl", jsonl([{"text": "d", "label": "pos"}]))
    write(tmp_path / "test.tsv", "id\ttext\n1\thello\n")
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.train), len(dataset.validation), dataset.test) == (20, 1, None)
    assert dataset.validation_origin == "publisher" and "the test file has no labelled row: not used" in dataset.notes
    write(tmp_path / "val.csv", "text,label\na,pos\n")
    with pytest.raises(ValueError, match="at most one validation"):
        load_dataset(str(tmp_path))


def test_an_unknown_name_is_one_line_with_a_suggestion():
    with pytest.raises(FileNotFoundError, match="did you mean 'emotion'.*corona_tweets") as error:
        load_dataset("emotions")
    assert "\n" not in str(error.value)


def test_a_registered_set_that_is_nowhere_says_which_file_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError, match="corona_tweets.Corona_NLP_train.csv.*not on the Hub") as error:
        load_dataset("corona_tweets", tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(OSError, match="sst2.train.tsv or train.jsonl in SetFit/sst2@.*the network is off"):
        load_dataset("sst2", tmp_path)
    with pytest.raises(ValueError, match="no variant 'ekmann'"):
        load_dataset("goemotions:ekmann", tmp_path)


def test_corona_labels_have_their_order(tmp_path):
    names = ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"]
    rows = "".join(f"{i},{i},,16-03-2020,tweet {i},{names[-1 - i % 5]}\r\n" for i in range(50))
    write(tmp_path / "corona_tweets/Corona_NLP_train.csv",
          "UserName,ScreenName,Location,TweetAt,OriginalTweet,Sentiment\r\n" + rows + "9,9,,d,odd one,Furious\r\n")
    dataset = load_dataset("corona_tweets", tmp_path)
    assert dataset.label_names == names and all_texts(dataset)["tweet 0"] == "Extremely Positive"
    assert any("with an unknown label (first: line 52, 'Furious'): left out" in note for note in dataset.notes)


def test_sst2_ids_are_names_and_the_unlabelled_test_of_glue_is_not_used(tmp_path):
    write(tmp_path / "sst2/train.tsv", "sentence\tlabel\nso good \t1\nso bad \t0\n")
    write(tmp_path / "sst2/dev.tsv", "sentence\tlabel\nfine \t1\n")
    write(tmp_path / "sst2/test.tsv", "index\tsentence\n0\twho knows\n")
    dataset = load_dataset("sst2", tmp_path)
    assert dataset.train == Split(["so good ", "so bad "], [1, 0]) and dataset.label_names == ["negative", "positive"]
    assert dataset.test is None and "the test file has no labelled row: not used" in dataset.notes
    write(tmp_path / "sst2/test.tsv", "sentence\tlabel\nlabelled\t0\n")
    assert load_dataset("sst2", tmp_path).test == Split(["labelled"], [0])


def test_emotion_is_split_at_the_last_semicolon(tmp_path):
    write(tmp_path / "emotion/train.txt", "i feel; well; fine;joy\ni feel low;sadness\nno separator\n")
    write(tmp_path / "emotion/val.txt", "ok;joy\n")
    dataset = load_dataset("emotion", tmp_path)
    assert dataset.train == Split(["i feel; well; fine", "i feel low"], [1, 0])
    assert "1 row of train.txt with fewer fields than columns (first: line 3): left out" in dataset.notes


def test_several_emotions_become_the_group_of_most_and_ties_go_to_the_first(tmp_path):
    def ids(*names):
        return ",".join(str(EMOTIONS.index(name)) for name in names)
    rows = {'a "quote': ids("fear", "joy", "love"), "tie": ids("sadness", "joy"), "one": ids("neutral")}
    body = "".join(f"{text}\t{labels}\tid\n" for text, labels in rows.items())
    for name in ("train", "dev"):
        write(tmp_path / f"goemotions/{name}.tsv", body)
    ekman, full = load_dataset("goemotions:ekman", tmp_path), load_dataset("goemotions", tmp_path)
    assert [ekman.label_names[i] for i in ekman.train.labels] == ["joy", "sadness", "neutral"]
    assert [full.label_names[i] for i in full.train.labels] == ["fear", "sadness", "neutral"]
    assert len(full.label_names) == 28 and ekman.label_names == [
        "anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral"]
    assert any("ties go to the first listed" in note for note in ekman.notes)
    assert sorted(" ".join(EKMAN.values()).split()) == sorted(EMOTIONS)


def massive_rows(partition, intents):
    return [{"partition": partition, "intent": intent, "utt": f"{partition} {i}"} for i, intent in enumerate(intents)]


def test_massive_reads_three_files_or_one_and_a_class_may_be_absent_from_dev(tmp_path):
    train, dev, test = (massive_rows("train", ["b", "a", "c"]), massive_rows("dev", ["c"]), massive_rows("test", ["b"]))
    train[0]["utt"] = "none"
    for name, rows in {"train": train, "dev": dev, "test": test}.items():
        write(tmp_path / f"massive/de-DE_{name}.jsonl", jsonl(rows))
    write(tmp_path / "massive/en-US.jsonl", jsonl(test + train + dev + massive_rows("heldout", ["a", "a"])))
    three, one = load_dataset("massive:de-DE", tmp_path), load_dataset("massive", tmp_path)
    for dataset in (three, one):
        assert dataset.label_names == ["a", "b", "c"] and dataset.train.texts[0] == "none"
        assert (dataset.train.labels, dataset.validation.labels, dataset.test.labels) == ([1, 0, 2], [2], [1])
    assert three.fingerprint == one.fingerprint
    assert "2 rows of en-US.jsonl with an unknown partition (first: line 6): left out" in one.notes


def test_imdb_folders_are_read_and_unsup_is_counted(tmp_path):
    for i in range(10):
        write(tmp_path / f"imdb/train/{'pos' if i % 2 else 'neg'}/{i}_1.txt", f"review {i}")
    write(tmp_path / "imdb/train/unsup/0_0.txt", "no label")
    write(tmp_path / "imdb/test/neg/0_1.txt", "bad film")
    dataset = load_dataset("imdb", tmp_path)
    assert all_texts(dataset)["review 3"] == "positive" and len(all_texts(dataset)) == 10
    assert dataset.test == Split(["bad film"], [0])
    assert any(note.startswith("1 row of train in unsup/") for note in dataset.notes)


def test_the_demo_needs_no_files():
    dataset = load_dataset("demo")
    assert dataset.label_names == ["negative", "neutral", "positive"] and len(dataset.test) > 0
    assert dataset.fingerprint == load_dataset("demo").fingerprint


@pytest.mark.parametrize("name, row, expected", [
    ("tweet_sentiment_extraction", {"label": 1, "label_text": "neutral"}, "neutral"),
    ("imdb", {"label": 1, "label_text": "spelt otherwise"}, "positive"),
    ("emotion", {"label": 0}, "sadness"),
    ("goemotions", {"label": [27], "label_text": ["neutral"]}, "neutral"),
    ("massive:de-DE", {"label": "alarm_set", "label_text": "alarm_set", "lang": "de"}, "alarm_set")])
def test_the_files_of_the_hub_are_read_at_a_pinned_revision(tmp_path, monkeypatch, name, row, expected):
    other = {"massive:de-DE": {"label": "other", "label_text": "other"}, "goemotions": {"label": [3]}}.get(
        name, {"label": 0})
    rows = [{"text": f"t{i}", **row} for i in range(9)] + [{"text": f"u{i}", **other} for i in range(9)]
    if name == "emotion":
        rows += [{"text": "x", "label": 5}]

    def repository(repo, repo_type):
        assert repo_type == "dataset" and len(repo.split("@")[1]) == 40

        def find(file):
            assert "{" not in file
            if not file.startswith("train"):
                return None
            content = jsonl(rows).encode()
            return write(tmp_path / "hub" / file, gzip.compress(content) if file.endswith(".gz") else content)
        return find

    monkeypatch.setattr("pocketbert.data.datasets.repository", repository)
    dataset = load_dataset(name, tmp_path)
    assert all_texts(dataset)["t0"] == expected and any("read from the Hub" in note for note in dataset.notes)
