"""data_utils: each trap of a real file in small, each claim able to fail."""

import gzip
import io
import json
import sys
from collections import Counter

import pytest
import torch

from data_utils import load_dataset, unlabelled_texts
from pocketbert.data.batching import batches
from pocketbert.data.datasets import EKMAN, EMOTIONS
from pocketbert.data.labels import align_labels
from pocketbert.data.splits import SPLIT_SEED, VALIDATION_ROWS, Dataset, Split, split_validation, take
from pocketbert.data.tables import read_texts


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def all_texts(dataset):
    """Every text that was read from a train file, with its label name."""
    return {text: dataset.label_names[label] for part in (dataset.train, dataset.validation)
            for text, label in zip(part.texts, part.labels, strict=True)}


def load_csv(tmp_path, content, name="mine.csv", **columns):
    dataset = load_dataset(str(write(tmp_path / name, content)), **columns)
    return all_texts(dataset), "\n".join(dataset.notes), dataset


def many(n=20):
    return "".join(f"plain text {i},{'pos' if i % 2 else 'neg'}\n" for i in range(n))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def repository(name, repo_type="model"):
        raise OSError("the network is off")
    monkeypatch.setattr("pocketbert.data.datasets.repository", repository)


# Reading

def test_quoted_tweets_keep_their_commas_line_breaks_and_doubled_quotes(tmp_path):
    body = 'text,label\n"a, b\r\r\nsecond line\r\r\n","pos"\r\n"she said ""hi""",neg\r\n' + many()
    texts, notes, _ = load_csv(tmp_path, body)
    assert texts["a, b\r\r\nsecond line\r\r\n"] == "pos" and texts['she said "hi"'] == "neg" and len(texts) == 22
    assert "left out" not in notes


def test_line_separators_of_unicode_do_not_cut_a_row(tmp_path):
    text = "one\u2028two\x0bthree\x85four\x1cfive"
    rows = [{"text": text, "label": "pos"}] + [{"text": f"t{i}", "label": "pn"[i % 2]} for i in range(10)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert text in load_csv(tmp_path, content, "mine.jsonl")[0]
    text += "\rsix"                                        # JSON would write \\r, a TSV file holds the character
    assert text in load_csv(tmp_path, f"text\tlabel\n{text}\tpos\n" + many().replace(",", "\t"), "mine.tsv")[0]


def test_every_left_out_csv_row_is_counted_with_its_first_line(tmp_path):
    body = ('text,label\n"two\nlines",pos\n  ,pos\nno label, \ntoo,many,fields\ntoo few\n'
            '"junk" after,pos\n\n,neg\n' + many())
    texts, notes, _ = load_csv(tmp_path, body)
    assert len(texts) == 21
    assert "2 rows of mine.csv with an empty text (first: line 4): left out" in notes
    assert "1 row of mine.csv with no label (first: line 5): left out" in notes
    assert "2 rows of mine.csv with a wrong number of fields (first: line 6): left out" in notes
    assert "1 row of mine.csv with broken CSV quotes or line ends (first: line 8): left out" in notes
    assert "1 row of mine.csv with nothing on the line (first: line 9): left out" in notes


def test_an_unclosed_quote_stops_with_the_line_where_it_opened(tmp_path):
    with pytest.raises(ValueError, match="line 23: a quote opens here"):
        load_csv(tmp_path, "text,label\n" + many() + 'fine,pos\n"never closed,pos\n' + many())
    with pytest.raises(ValueError, match="line 4: a quote opens here"):        # the row starts on line 2
        load_csv(tmp_path, 'a,text,label\n"x\ny\nz","open,pos\n' + many())
    with pytest.raises(ValueError, match="line 2: a quote opens here"):        # closed by the next row's quote
        load_csv(tmp_path, 'text,label\n"swallows,pos\n"the next, row",neg\n' + many())


def test_a_quote_in_a_tsv_is_text(tmp_path):
    body = 'sentence\tlabel\n"open quote and no end\t1\nhe said "no" \t0\n' + "".join(
        f"s{i}\t{i % 2}\n" for i in range(9))
    texts, notes, _ = load_csv(tmp_path, body, "mine.tsv")
    assert texts['"open quote and no end'] == "1" and texts['he said "no" '] == "0" and len(texts) == 11
    assert "left out" not in notes


def test_texts_beyond_the_limit_of_the_csv_module_are_read(tmp_path):
    assert "x" * 200_000 in load_csv(tmp_path, f"text,label\n{'x' * 200_000},pos\n" + many())[0]


def test_a_csv_with_semicolons_is_found_by_its_columns(tmp_path):
    texts, _, _ = load_csv(tmp_path, "id;tweet;mood\n" + "".join(f"{i};a, b {i};{'up' if i % 2 else 'down'}\n"
                                                                for i in range(10)), text="tweet", label="mood")
    assert texts["a, b 3"] == "up" and len(texts) == 10


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark_and_utf8_are_read(tmp_path, encoding):
    texts, notes, _ = load_csv(tmp_path, ("text,label\r\ncafé – “ok” 🙂,pos\r\n" + many()).encode(encoding))
    assert texts["café – “ok” 🙂"] == "pos" and len(texts) == 21 and notes == ""


def test_one_broken_row_is_repaired_and_does_not_turn_the_others_into_mojibake(tmp_path):
    body = "text,label\ncafé,pos\nnaïve,neg\ntypewriter \ufffd,neg\n".encode() + b"don\xc2,pos\n" + many().encode()
    texts, notes, _ = load_csv(tmp_path, body)
    assert texts["café"] == "pos" and texts["don\ufffd"] == "pos" and len(texts) == 24
    assert notes == ("1 row of mine.csv with bytes that are not valid text, replaced by U+FFFD "
                     "(first: line 5): used")


def test_a_file_from_windows_is_read_as_cp1252_and_says_so(tmp_path):
    texts, notes, _ = load_csv(tmp_path, ("text,label\ncafé “ok” €,pos\n" + many()).encode("cp1252"))
    assert texts["café “ok” €"] == "pos" and "read as cp1252" in notes


def test_bad_json_lines_are_counted_by_reason(tmp_path):
    good = [{"text": f"t{i}", "label": i % 2} for i in range(10)]
    bad = '[1]\n7\nnull\n{"text": 5, "label": 1}\n{"text": "x", "label": [1]}\n{"text": "y"}\n{oops\n\n'
    texts, notes, _ = load_csv(tmp_path, jsonl(good) + bad + "[" * 100_000 + "\n", "mine.jsonl")
    assert len(texts) == 10
    for expected in ("3 rows of mine.jsonl without a JSON object (first: line 11)", "whose text is not a",
                     "with an unknown label (first: line 15, '[1]')", "with no label (first: line 16)",
                     "2 rows of mine.jsonl with invalid JSON (first: line 17)", "with nothing on the line"):
        assert expected in notes, expected


def test_gzip_and_a_json_array_are_read_and_a_cut_gzip_is_an_error(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(10)]
    packed = gzip.compress(json.dumps(rows).encode())
    assert len(load_csv(tmp_path, packed, "mine.json.gz")[0]) == 10
    with pytest.raises(ValueError, match="damaged gzip"):
        load_csv(tmp_path, packed[:-12], "mine.json.gz")


# Columns and labels of one's own files

def test_columns_are_guessed_only_if_there_is_one_candidate(tmp_path):
    body = "review,label,label_text\n" + "".join(f"r{i},{i % 2},{'good' if i % 2 else 'bad'}\n" for i in range(10))
    assert load_csv(tmp_path, body)[2].label_names == ["bad", "good"]
    for header in ("text,tweet,label", "text,label,class", "a,b,label", "text,b,c"):
        with pytest.raises(ValueError, match=f"which columns .* It has {header.replace(',', ', ')}") as error:
            load_csv(tmp_path, header + "\n1,2,3\n")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="two columns .*'text'"):
        load_csv(tmp_path, "text,text,label\n1,2,3\n")


def test_integer_labels_are_in_numeric_order_and_others_sorted(tmp_path):
    body = "text,label\n" + "".join(f"t{i},{i % 12}\n" for i in range(60))
    assert load_csv(tmp_path, body)[2].label_names == [str(i) for i in range(12)]
    assert load_csv(tmp_path, "text,label\n" + many())[2].label_names == ["neg", "pos"]


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


# The registered sets

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
    assert "1 row of train.txt with a wrong number of fields (first: line 3): left out" in dataset.notes


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


# Splits

def test_validation_is_stratified_repeatable_and_shares_no_text_with_train():
    texts = [f"text {i}" for i in range(900)] + [f" TEXT {i} " for i in range(100)]
    train = Split(texts, [i % 10 == 0 for i in range(900)] + [i % 10 == 0 for i in range(100)])
    rest, held_out = split_validation(train)
    assert len(held_out) == 200 and len(rest) == 800 and Counter(held_out.labels)[True] == 20
    assert Counter(rest.texts + held_out.texts) == Counter(texts)
    assert not {t.strip().casefold() for t in rest.texts} & {t.strip().casefold() for t in held_out.texts}
    torch.manual_seed(SPLIT_SEED + 1)
    assert split_validation(train) == (rest, held_out)


def test_validation_takes_no_more_than_its_rows_and_leaves_a_class_of_one_in_train():
    train = Split([f"t{i}" for i in range(20_001)], [i % 2 for i in range(20_000)] + [2])
    rest, held_out = split_validation(train)
    assert len(held_out) == VALIDATION_ROWS and 2 in rest.labels
    with pytest.raises(ValueError, match="too few"):
        split_validation(Split(["a", "b"], [0, 1]))


def test_repeats_leaks_and_contradictions_are_counted(tmp_path):
    write(tmp_path / "train.csv", "text,label\n" + many() + "Plain text 1 ,neg\nplain text 2,neg\n")
    write(tmp_path / "validation.csv", "text,label\nPLAIN TEXT 3,pos\nnew,neg\n")
    write(tmp_path / "test.csv", "text,label\nnew,neg\nnewer,rare\n")
    notes = load_dataset(str(tmp_path)).notes
    assert "2 rows of train with a text that occurs earlier in it: used" in notes
    assert "1 text of train with more than one label: used" in notes
    assert "1 row of validation with a text that is also in train: used" in notes
    assert "1 row of test with a text that is also in validation: used" in notes
    assert "test has labels that train has not: rare" in notes


def test_the_fingerprint_changes_with_any_text_or_label(tmp_path):
    prints = {load_csv(tmp_path, "text,label\n" + many() + extra)[2].fingerprint
              for extra in ("x,pos\n", "y,pos\n", "x,neg\n", "x,pos\nx,pos\n")}
    assert len(prints) == 4


def test_take_keeps_every_class_and_the_proportions():
    split = Split([f"t{i}" for i in range(1000)], [0] * 700 + [1] * 298 + [2, 3])
    part = take(split, 100, seed=0)
    counts = Counter(part.labels)
    assert len(part) == 100 and counts[2] == counts[3] == 1 and 66 <= counts[0] <= 72
    assert len(set(part.texts)) == 100 and all(split.labels[int(t[1:])] == y for t, y in zip(part.texts, part.labels,
                                                                                          strict=True))
    assert part == take(split, 100, seed=0) != take(split, 100, seed=1)
    assert take(split, 2, seed=0).labels == [0, 1] and take(split, 5000, seed=0) is split


# Labels of a model

def small_dataset():
    split = Split(["a", "b", "c"], [0, 1, 2])
    return Dataset("d", ["negative", "neutral", "positive"], split, split, None, [], "publisher", "0")


def test_labels_are_aligned_by_name_in_any_case_and_the_models_order_wins():
    aligned = align_labels(small_dataset(), ["POSITIVE", "mixed", "NEGATIVE", "Neutral"])
    assert aligned.train.labels == aligned.validation.labels == [2, 3, 0] and aligned.test is None
    assert aligned.label_names == ["POSITIVE", "mixed", "NEGATIVE", "Neutral"]


def test_labels_the_model_lacks_are_named_and_generic_names_match_by_number():
    with pytest.raises(ValueError, match="model has not: neutral. .*train.py"):
        align_labels(small_dataset(), ["NEGATIVE", "POSITIVE"])
    assert align_labels(small_dataset(), ["LABEL_0", "LABEL_1", "LABEL_2"]).train.labels == [0, 1, 2]
    with pytest.raises(ValueError, match="model has not"):
        align_labels(small_dataset(), ["LABEL_0", "LABEL_1"])


# Batches

def random_ids(n=1003):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 99, (int(length),), generator=generator).tolist()
            for length in torch.randint(1, 60, (n,), generator=generator)]


@pytest.mark.parametrize("shuffle_seed", [None, 0])
def test_every_row_occurs_once_unchanged_and_padded_to_the_longest(shuffle_seed):
    ids, seen = random_ids(), []
    for batch in batches(ids, list(range(len(ids))), 8, pad_id=1, shuffle_seed=shuffle_seed):
        assert batch.input_ids.shape[1] == max(len(ids[row]) for row in batch.index)
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        assert mask.dtype == batch.input_ids.dtype == batch.labels.dtype == torch.int64
        for line, row in enumerate(batch.index):
            length = len(ids[row])
            assert batch.input_ids[line].tolist() == ids[row] + [1] * (batch.input_ids.shape[1] - length)
            assert mask[line].tolist() == [1] * length + [0] * (mask.shape[1] - length)
        assert batch.labels.tolist() == batch.index
        seen += batch.index
    assert sorted(seen) == list(range(len(ids)))


def test_scoring_goes_from_long_to_short_and_needs_no_mask_where_nothing_is_padded():
    ids = random_ids()
    widths = [batch.input_ids.shape[1] for batch in batches(ids, None, 8, pad_id=0)]
    assert widths == sorted(widths, reverse=True) and widths[0] == max(map(len, ids))
    [batch] = batches([[1, 2], [3, 4]], None, 8, pad_id=0)
    assert batch.attention_mask is None and batch.labels is None and batch.to("cpu").index == [0, 1]


def test_training_batches_differ_by_seed_pad_little_and_are_not_sorted():
    ids = random_ids()

    def epoch(seed):
        return list(batches(ids, None, 8, pad_id=0, shuffle_seed=seed))
    first = [batch.index for batch in epoch(0)]
    assert first == [batch.index for batch in epoch(0)] != [batch.index for batch in epoch(1)]
    assert {frozenset(rows) for rows in first} != {frozenset(batch.index) for batch in epoch(1)}
    widths = [batch.input_ids.shape[1] for batch in epoch(0)]
    assert widths != sorted(widths, reverse=True) and len(first) == 126
    padded = sum(batch.input_ids.numel() for batch in epoch(0))
    assert padded < 1.05 * sum(map(len, ids))                     # in random batches it would be 1.8 times


# Texts for predict

def test_each_row_to_predict_gives_one_result_and_a_bad_row_kills_no_other(tmp_path):
    path = write(tmp_path / "in.jsonl", b'{"text": "good"}\n5\nnull\n[1]\n"bare"\n{"text": null}\n{"text": " "}\n'
                                        b'{"text": "bad \xff"}\n{oops\n{"other": 1}\n{"text": "l\xc3\xa9st"}\n')
    rows = list(read_texts(path))
    assert [row for row, _, _ in rows] == list(range(11))
    assert {row: text for row, text, _ in rows if text is not None} == {
        0: "good", 4: "bare", 6: " ", 10: "lést"}  # an empty text is a text
    assert all((text is None) != (problem is None) for _, text, problem in rows)
    assert rows[1][2].startswith("line 2: the text is not a string but 5")


def test_csv_and_plain_lines_are_predicted_in_order(tmp_path):
    csv_file = write(tmp_path / "in.csv", 'id;body\n1;"two\nlines"\n2\n3;c\n')
    assert [text for _, text, _ in read_texts(csv_file, "body")] == ["two\nlines", None, "c"]
    plain = write(tmp_path / "in.txt", "\ufefffirst, line\r\n\n\"third\n")
    assert [text for _, text, _ in read_texts(plain)] == ["first, line", "", '"third']
    with pytest.raises(ValueError, match="no column for --text nope; it has id;body"):
        list(read_texts(csv_file, "nope"))


def test_texts_without_labels_come_from_a_data_set_a_file_or_a_column_of_it(tmp_path):
    csv_file = write(tmp_path / "in.csv", "id,body,mood\n1,one,x\n2,,y\n3,three,z\n")
    assert unlabelled_texts(f"{csv_file}:body") == (["one", "three"], 1)
    assert unlabelled_texts(str(write(tmp_path / "a:b.txt", "one\n\ntwo\n"))) == (["one", "two"], 1)
    demo = load_dataset("demo")
    assert unlabelled_texts("demo") == (demo.train.texts + demo.validation.texts + demo.test.texts, 0)
    with pytest.raises(ValueError, match="which column .* It has id, body, mood. Name it with .*in.csv:COLUMN"):
        unlabelled_texts(str(csv_file))
    with pytest.raises(ValueError, match="no column for .*in.csv:nope; it has id, body, mood"):
        unlabelled_texts(f"{csv_file}:nope")


def test_texts_stream_from_standard_input_line_by_line(monkeypatch):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:2] = b"a\n"
            return 2

    class Stdin:
        buffer = io.BufferedReader(Endless(), 2)
    monkeypatch.setattr(sys, "stdin", Stdin)
    stream = read_texts()
    assert [next(stream) for _ in range(3)] == [(0, "a", None), (1, "a", None), (2, "a", None)]
