"""Rows in chunks, texts that are cut before they are tokenised, and a stream that knows whether more is there."""

import io
import os

import pytest

from pocketbert.data.chunks import CHUNK_CHARACTERS
from pocketbert.data.encoding import LONG_TEXT, encode, start_of
from pocketbert.data.tables import read_texts
from pocketbert.evaluation.answers import row_chunks
from pocketbert.evaluation.stream import StreamLines


def rows_of(texts):
    return ((i, text, None) for i, text in enumerate(texts))


# --- chunks -----------------------------------------------------------------------------------------------

def test_rows_are_read_chunk_by_chunk_and_not_all_at_once():
    rows = rows_of(["a"] * 200)
    assert len(next(row_chunks(rows, batch_size=1))) == 64 and len(list(rows)) == 200 - 64


def test_chunk_of_long_texts_ends_early():
    half = "x" * (CHUNK_CHARACTERS // 2)
    chunks = list(row_chunks(rows_of([half, half, "short", half * 3, "last"]), batch_size=1))
    assert [[len(text) // len(half) for _, text, _ in chunk] for chunk in chunks] == [[1, 1], [0, 3], [0]]


def test_chunk_ends_where_no_more_input_is_ready():
    ready = iter([True, False, True, True, False])
    chunks = row_chunks(rows_of("abcde"), 1, lambda: next(ready))
    assert ["".join(text for _, text, _ in chunk) for chunk in chunks] == ["ab", "cde"]


# --- a stream ---------------------------------------------------------------------------------------------

@pytest.fixture
def pipe():
    """(StreamLines of a pipe, a function that writes into it and, with None, closes it)."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as file:
        yield StreamLines(file), lambda data: os.close(write_end) if data is None else os.write(write_end, data)


def test_stream_is_ready_when_a_whole_line_or_the_end_is_there(pipe):
    lines, write = pipe
    assert not lines.ready()
    write(b"half")
    assert not lines.ready()
    write(b" a line\nnext\n")
    assert lines.ready() and next(lines) == "half a line\n"
    assert lines.ready() and next(lines) == "next\n"
    write(b"\n  \n")
    assert not lines.ready()                # JSONL's blank lines are no rows: after them one would wait
    write(b"no line break")
    assert not lines.ready()
    write(None)
    assert lines.ready() and list(lines) == ["\n", "  \n", "no line break"]


def test_stream_gives_the_lines_of_the_bytes_whatever_their_length():
    data = b"\xef\xbb\xbfbom\r\n\n" + b"x" * 200_000 + b"\n\xff\xe2\x80\xa8 caf\xc3\xa9\n" + b"y" * 70_000
    expected = [line.decode("utf-8", "surrogateescape") for line in data[3:].splitlines(keepends=True)]
    assert list(StreamLines(io.BytesIO(data))) == expected
    assert list(StreamLines(io.BytesIO(b""))) == [] and StreamLines(io.BytesIO(b"")).ready()


def test_rows_of_a_stream_arrive_before_it_ends(pipe):
    lines, write = pipe
    rows = read_texts(None, "post", lines=lines)
    chunks = row_chunks(rows, 1, lines.ready)
    write(b'{"post": "one"}\n\n')
    assert [text for _, text, _ in next(chunks)] == ["one"]
    write(b'{"post": "two"}\n{"post": "three"}\n{"po')
    assert [text for _, text, _ in next(chunks)] == ["two", "three"]
    write(b'st": "four"}')
    write(None)
    assert [text for _, text, _ in next(chunks)] == ["four"] and list(chunks) == []


# --- long texts -------------------------------------------------------------------------------------------

LONG_TEXTS = {
    "words": "the train is late again " * 5000,
    "one word": "x" * 100_000,
    "blanks first": " " * 100_000 + "good film",
    "runs of blanks": ("late   " + " " * 500 + "bus ") * 500,
    "tabs and line breaks": "a\tb\nc\x1cd\x85e " * 5000,
    "no blank": "the\ttrain\tis\tlate\n" * 5000,
    "characters of two": "caf\u00e9 \U0001f600 e\u0301 \u4e2d\u6587 " * 4000,
    "mentions": "@ann see https://t.co/x (555) 123 4567 . . . . don't cannot " * 1500,
    "dots": ". " * 40_000,
    "chinese": "\u4e2d\u6587\u5b57" * 20_000,
    "hyphens": "a-b" * 20_000,
    "a word too long for WordPiece after many short ones": "late-" * 900 + "x" * 90_000,
    "a cut inside a word that WordPiece does not know": "late-" * 813 + "x" * 120 + " film" * 9000,
}


@pytest.mark.parametrize("name", LONG_TEXTS)
@pytest.mark.parametrize("max_length", [3, 40, 128])
def test_ids_of_the_start_are_those_of_the_whole_text(name, max_length, any_tokenizer):
    text = LONG_TEXTS[name]
    ids, cut = encode(any_tokenizer, [text, "short"], max_length)
    assert ids == any_tokenizer([text, "short"], max_length)
    assert cut == sum(len(row) > max_length for row in any_tokenizer([text, "short"], 10 ** 6))


def test_a_text_of_a_megabyte_is_tokenised_from_a_few_kilobytes(tokenizer):
    text = "the train is late again " * 50_000
    start = start_of(text, tokenizer, 128)
    assert text.startswith(start) and len(start) < LONG_TEXT * 128
    assert start_of("short text", tokenizer, 128) == "short text"
    assert len(start_of("\u4e2d\u6587\u5b57" * 300_000, tokenizer, 128)) == LONG_TEXT * 128


def test_texts_of_more_than_max_length_tokens_are_counted(tokenizer):
    texts = ["late", "late late", "late late late", "late late late late"]
    length = len(tokenizer(["late late late"], 100)[0])
    assert encode(tokenizer, texts, length) == (tokenizer(texts, length), 1)
    assert encode(tokenizer, texts, length - 1) == (tokenizer(texts, length - 1), 2)


def byte_level():
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    from pocketbert.data.tokenizer import ROBERTA_SPECIALS, Tokenizer
    from pocketbert.data.tokenizer_files import add_roberta_specials
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=ROBERTA_SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator([text[:2000] for text in LONG_TEXTS.values()], trainer)
    return Tokenizer(add_roberta_specials(backend))


def with_cleaning(tokenizer, cleaning):
    from pocketbert.data.tokenizer import Tokenizer
    return Tokenizer(tokenizer.backend, {}, cleaning)


@pytest.fixture(params=["wordpiece", "byte-level BPE", "cardiff", "bertweet"], scope="module")
def any_tokenizer(request, tokenizer):
    if request.param == "wordpiece":
        return tokenizer
    backend = byte_level()
    return backend if "BPE" in request.param else with_cleaning(backend, request.param)
