"""Reading tables: each trap of a real file in small, and no row is lost without a note."""

import gzip
import io
import json
import sys

import pytest

from data_utils import load_dataset, unlabelled_texts
from pocketbert.data.tables import read_texts
from pocketbert.errors import UserError
from small_tables import jsonl, load_own, many, write


def test_quoted_tweets_keep_their_commas_line_breaks_and_doubled_quotes(tmp_path):
    body = 'text,label\n"a, b\r\r\nsecond line\r\r\n","pos"\r\n"she said ""hi""",neg\r\n' + many()
    texts, notes, _ = load_own(tmp_path, body)
    assert texts["a, b\r\r\nsecond line\r\r\n"] == "pos" and texts['she said "hi"'] == "neg" and len(texts) == 22
    assert "left out" not in notes


def test_line_separators_of_unicode_do_not_cut_a_row(tmp_path):
    text = "one\u2028two\x0bthree\x85four\x1cfive"
    rows = [{"text": text, "label": "pos"}] + [{"text": f"t{i}", "label": "pn"[i % 2]} for i in range(10)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert text in load_own(tmp_path, content, "mine.jsonl")[0]
    text += "\rsix"                                        # JSON would write \\r, a TSV file holds the character
    assert text in load_own(tmp_path, f"text\tlabel\n{text}\tpos\n" + many().replace(",", "\t"), "mine.tsv")[0]


def test_every_left_out_csv_row_is_counted_with_its_first_line(tmp_path):
    body = ('text,label\n"two\nlines",pos\n  ,pos\nno label, \ntoo,many,fields\ntoo few\n'
            '"junk" after,pos\n\n,neg\n' + many())
    texts, notes, _ = load_own(tmp_path, body)
    assert len(texts) == 21
    assert "2 rows of mine.csv with an empty text (first: line 4): left out" in notes
    assert "1 row of mine.csv with no label (first: line 5): left out" in notes
    assert "1 row of mine.csv with more fields than columns (first: line 6): left out" in notes
    assert "1 row of mine.csv with fewer fields than columns (first: line 7): left out" in notes
    assert "1 row of mine.csv with broken CSV quotes or line ends (first: line 8): left out" in notes
    assert "1 row of mine.csv with nothing on the line (first: line 9): left out" in notes


def test_an_unclosed_quote_stops_with_the_line_where_it_opened(tmp_path):
    with pytest.raises(ValueError, match="line 23: a quote opens here"):
        load_own(tmp_path, "text,label\n" + many() + 'fine,pos\n"never closed,pos\n' + many())
    with pytest.raises(ValueError, match="line 4: a quote opens here"):        # the row starts on line 2
        load_own(tmp_path, 'a,text,label\n"x\ny\nz","open,pos\n' + many())
    with pytest.raises(ValueError, match="line 2: a quote opens here"):        # closed by the next row's quote
        load_own(tmp_path, 'text,label\n"swallows,pos\n"the next, row",neg\n' + many())


def test_a_quote_in_a_tsv_is_text(tmp_path):
    body = 'sentence\tlabel\n"open quote and no end\t1\nhe said "no" \t0\n' + "".join(
        f"s{i}\t{i % 2}\n" for i in range(9))
    texts, notes, _ = load_own(tmp_path, body, "mine.tsv")
    assert texts['"open quote and no end'] == "1" and texts['he said "no" '] == "0" and len(texts) == 11
    assert "left out" not in notes


def test_texts_beyond_the_limit_of_the_csv_module_are_read(tmp_path):
    assert "x" * 200_000 in load_own(tmp_path, f"text,label\n{'x' * 200_000},pos\n" + many())[0]


def test_a_csv_with_semicolons_is_found_by_its_columns(tmp_path):
    texts, _, _ = load_own(tmp_path, "id;tweet;mood\n" + "".join(f"{i};a, b {i};{'up' if i % 2 else 'down'}\n"
                                                                for i in range(10)), text="tweet", label="mood")
    assert texts["a, b 3"] == "up" and len(texts) == 10


def test_bad_json_lines_are_counted_by_reason(tmp_path):
    good = [{"text": f"t{i}", "label": i % 2} for i in range(10)]
    bad = '[1]\n7\nnull\n{"text": 5, "label": 1}\n{"text": "x", "label": [1]}\n{"text": "y"}\n{oops\n\n'
    texts, notes, _ = load_own(tmp_path, jsonl(good) + bad + "[" * 100_000 + "\n", "mine.jsonl")
    assert len(texts) == 10
    for expected in ("3 rows of mine.jsonl without a JSON object (first: line 11)", "whose text is not a",
                     "with an unknown label (first: line 15, '[1]')", "with no label (first: line 16)",
                     "2 rows of mine.jsonl with invalid JSON (first: line 17)", "with nothing on the line"):
        assert expected in notes, expected


def test_gzip_and_a_json_array_are_read_and_a_cut_gzip_is_an_error(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(10)]
    packed = gzip.compress(json.dumps(rows).encode())
    assert len(load_own(tmp_path, packed, "mine.json.gz")[0]) == 10
    with pytest.raises(ValueError, match="damaged gzip"):
        load_own(tmp_path, packed[:-12], "mine.json.gz")


def test_columns_are_guessed_only_if_there_is_one_candidate(tmp_path):
    body = "review,label,label_text\n" + "".join(f"r{i},{i % 2},{'good' if i % 2 else 'bad'}\n" for i in range(10))
    assert load_own(tmp_path, body)[2].label_names == ["bad", "good"]
    for header in ("text,tweet,label", "text,label,class", "a,b,label", "text,b,c"):
        with pytest.raises(ValueError, match=f"which columns .* It has {header.replace(',', ', ')}") as error:
            load_own(tmp_path, header + "\n1,2,3\n")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="two columns .*'text'"):
        load_own(tmp_path, "text,text,label\n1,2,3\n")


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


# TSV files with and without quoting

def tsv(rows):
    return "text\tlabel\n" + rows + "".join(f"plain text {i}\t{'pos' if i % 2 else 'neg'}\n" for i in range(20))


def test_a_tsv_of_pandas_is_read_back_as_it_was_written(tmp_path):
    """What to_csv(sep="\\t") makes of a line break, a tab, a quote, and a quotation of the whole text."""
    wanted = {'two\nlines, "quoted" word': "pos", "with\ta tab": "neg", 'she said "hi"': "pos", '"all of it"': "neg",
              'a 5" disk': "pos", "\nstarts with a line break": "neg"}
    rows = "".join('"' + text.replace('"', '""') + f'"\t{label}\n' for text, label in wanted.items())
    texts, notes, _ = load_own(tmp_path, tsv(rows), "mine.tsv")
    assert texts | wanted == texts and len(texts) == 26
    assert "2 rows of mine.tsv span several lines, at most 2 (first: line 2): used" in notes
    assert "6 rows of mine.tsv with a field in quotes (first: line 2): read as in a CSV file" in notes
    path = write(tmp_path / "in.tsv", tsv(rows))
    assert [text for _, text, _ in read_texts(path)][:6] == list(wanted)


def test_a_tsv_in_which_all_is_in_quotes_loses_them(tmp_path):
    body = '"text"\t"label"\n' + "".join(f'"t {i}"\t"{"pn"[i % 2]}"\n' for i in range(10))
    assert load_own(tmp_path, body, "mine.tsv")[2].label_names == ["n", "p"]


def test_stray_quotes_of_a_tsv_swallow_no_rows(tmp_path):
    rows = '"an open quote\tpos\nand one that ends here"\tneg\n"a quotation", he said\tpos\n"a title"\tneg\n'
    texts, notes, _ = load_own(tmp_path, tsv(rows), "mine.tsv")
    assert texts['"an open quote'] == "pos" and texts['and one that ends here"'] == "neg"
    assert texts['"a quotation", he said'] == "pos" and texts['"a title"'] == "neg" and len(texts) == 24
    assert notes == ""


# What is wrong with whole files

def test_rows_that_a_stray_quote_has_swallowed_are_told_by_their_number_of_lines(tmp_path):
    body = 'text,label\nfirst,pos\n"stray,pos\nsecond,neg\nthird,neg\nfourth",pos\n' + many()
    texts, notes, _ = load_own(tmp_path, body)
    assert len(texts) == 22 and "1 row of mine.csv spans 4 lines (first: line 3): used" in notes


@pytest.mark.parametrize("again", ["text,label\n", "\ufefftext,label\r\n", "Text, Label\n"])
def test_a_header_that_comes_again_is_left_out_and_counted(tmp_path, again):
    texts, notes, dataset = load_own(tmp_path, "text,label\n" + many() + again + "more,pos\n")
    assert len(texts) == 21 and dataset.label_names == ["neg", "pos"]
    assert "1 row of mine.csv that repeats the header (first: line 22): left out" in notes
    path = write(tmp_path / "in.tsv", "text\tlabel\na\tb\ntext\tlabel\nc\td\n")
    assert [text for _, text, _ in read_texts(path)] == ["a", None, "c"]


@pytest.mark.parametrize("again", ["label,text\n", "tweet,sentiment\n"])
def test_a_second_header_with_other_columns_is_an_error_with_its_line(tmp_path, again):
    with pytest.raises(UserError, match="line 22: a second header, with the columns"):
        load_own(tmp_path, "text,label\n" + many() + again + "more,pos\n")


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.jsonl", "mine.txt"])
@pytest.mark.parametrize("first", [0, 9])
def test_old_line_ends_are_an_error_wherever_they_begin(tmp_path, name, first):
    if name == "mine.jsonl":
        lines = jsonl([{"text": f"t{i}", "label": i % 2} for i in range(30)]).splitlines()
    else:
        delimiter = "\t" if name == "mine.tsv" else ","
        lines = [f"text{delimiter}label", *(f"t{i}{delimiter}{i % 2}" for i in range(30))]
    body = "".join(line + ("\n" if i < first else "\r") for i, line in enumerate(lines))
    with pytest.raises(UserError, match=rf"mine.* has \\r for line ends from line {first + 1} on: save it"):
        list(read_texts(write(tmp_path / name, body)))


def test_a_quoted_csv_row_may_hold_carriage_returns(tmp_path):
    texts, _, _ = load_own(tmp_path, 'text,label\r\n"a\rb,c\rd,e",pos\r\n' + many())
    assert texts["a\rb,c\rd,e"] == "pos" and len(texts) == 21


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_the_line_with_which_excel_is_told_the_delimiter_is_obeyed(tmp_path, first):
    texts, _, _ = load_own(tmp_path, f"{first}\ntext;label\n" + many().replace(",", ";") + "a, b;pos\n")
    assert texts["a, b"] == "pos" and len(texts) == 21


@pytest.mark.parametrize("column", ["labels", "target", "y", "Target"])
def test_less_usual_names_of_the_label_are_guessed_if_no_usual_one_is_there(tmp_path, column):
    assert load_own(tmp_path, f"text,{column}\n" + many())[2].label_names == ["neg", "pos"]
    body = f"text,label,{column}\n" + many().replace("\n", ",9\n")
    assert load_own(tmp_path, body)[2].label_names == ["neg", "pos"]


def test_blanks_between_delimiter_and_quote_do_not_make_the_quote_a_part_of_the_text(tmp_path):
    body = 'label, text\nneg, "so bad, really"\npos, "fine" \nneg, said "no"\npos, plain\nneg, "a" or "b"\npos,  "x"\n'
    texts, _, _ = load_own(tmp_path, body)
    assert texts == {"so bad, really": "neg", "fine": "pos", ' said "no"': "neg", " plain": "pos", ' "a" or "b"': "neg",
                     "x": "pos"}


def test_quotes_with_a_backslash_are_read_and_counted(tmp_path):
    body = 'text,label\n"he said \\"hi, you\\" to me",pos\n"all \\"end\\"",neg\n"C:\\",pos\n' + many()
    texts, notes, _ = load_own(tmp_path, body)
    assert texts['he said "hi, you" to me'] == "pos" and texts['all "end"'] == "neg" and texts["C:\\"] == "pos"
    assert len(texts) == 23
    assert '2 rows of mine.csv with \\" for a quote inside a text (first: line 2): read as a quote' in notes


def test_a_quote_inside_a_csv_field_without_quotes_is_text_and_counted(tmp_path):
    """No program writes it: it may be what is left of a quoted field."""
    body = 'text,label\na 5" disk,pos\nhalf a quotation",neg\n"a ""whole"" one",pos\n' + many()
    texts, notes, _ = load_own(tmp_path, body)
    assert texts['a 5" disk'] == "pos" and texts['half a quotation"'] == "neg" and texts['a "whole" one'] == "pos"
    assert "2 rows of mine.csv with a quote inside a field that is not in quotes (first: line 2): used" in notes


def test_what_was_left_out_is_said_even_if_another_error_follows(tmp_path):
    rows = "".join(f"t{i},neg\n" if i % 2 else f"t{i},pos,x\n" for i in range(20))
    with pytest.raises(UserError, match="'pos'.*10 rows of mine.csv with fewer fields than columns .first: line 3"):
        load_own(tmp_path, "text,label,comment\n" + rows)


def test_json_nested_too_deeply_is_one_line(tmp_path):
    with pytest.raises(UserError, match="mine.json is not valid JSON: nested too deeply"):
        load_own(tmp_path, "[" * 100_000, "mine.json")
