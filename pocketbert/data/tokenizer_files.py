"""Read the tokenizer of a checkpoint from any of the five layouts in which tokenizers are published.

    files                        method                published by, for example
    tokenizer.json               any                   most checkpoints since 2020; `save_model` writes this one
    vocab.txt                    WordPiece             BERT, DistilBERT, MiniLM, TinyBERT
    vocab.json, merges.txt       byte-level BPE        RoBERTa, Cardiff NLP's Twitter models
    vocab.txt, bpe.codes         BPE on words          BERTweet
    sentencepiece.bpe.model      Unigram               XLM-R, Cardiff NLP's multilingual models

The ids must be those of `transformers`, which the tests compare.
"""

import json
import struct
from contextlib import contextmanager
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from pocketbert.data.tokenizer import ROBERTA_SPECIALS, Tokenizer, add_specials, bert_backend
from pocketbert.data.tweets import default_cleaning
from pocketbert.errors import UserError


@contextmanager
def reading(*paths):
    """Turn any error that a broken file causes, in Python or in the library, into one line that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:         # `tokenizers` raises nothing more precise
        names = " or ".join(str(path) for path in paths)
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{names} is broken ({type(error).__name__}: {reason}): "
                         "delete it and download it again") from error


def read_text(path):
    return Path(path).read_text(encoding="utf-8")


def read_lines(path):
    """Lines end at "\n" only: real vocabularies hold U+0085 and U+2028, at which str.splitlines would split."""
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def add_roberta_specials(backend):
    return add_specials(backend, ROBERTA_SPECIALS, "<s> $A </s>", "<s> $A </s> </s> $B </s>")


def read_wordpiece(vocab_path, options):
    """BERT's vocab.txt: one piece per line, whose id is the line number. Uncased unless `options` say otherwise."""
    vocab = {piece: i for i, piece in enumerate(read_lines(vocab_path))}
    if missing := [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocab]:
        raise UserError(f"no {', '.join(missing)} in it")
    return bert_backend(vocab, lowercase=options.get("do_lower_case", True),
                        strip_accents=options.get("strip_accents"),
                        chinese_chars=options.get("tokenize_chinese_chars", True))


def read_byte_bpe(vocab_path, merges_path, options):
    """RoBERTa's vocab.json (piece -> id) and merges.txt (pairs, the most frequent first), over bytes."""
    merges = [tuple(line.split(" ")) for line in read_lines(merges_path) if not line.startswith("#version")]
    vocab = json.loads(read_text(vocab_path))
    if missing := [token for token in ROBERTA_SPECIALS[:4] if token not in vocab]:
        raise UserError(f"no {', '.join(missing)} in it")
    backend = tokenizers.Tokenizer(models.BPE(vocab, [merge for merge in merges if merge != ("",)]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return add_roberta_specials(backend)


def read_bertweet(vocab_path, codes_path):
    """BERTweet's vocab.txt and bpe.codes -> (backend, number of real ids).

    The ids of vocab.txt start at 4, after <s> <pad> </s> <unk>, and "goo@@" is a piece that continues a word. bpe.codes
    marks the end of a word instead: "goo" continues, "good</w>" ends. A piece that merging produces on its way but that
    vocab.txt lacks gets an id above the real ones, and Tokenizer turns it into <unk>.
    """
    ids = {token: i for i, token in enumerate(ROBERTA_SPECIALS[:4])}
    for line in read_lines(vocab_path):
        piece, _count = line.strip().rsplit(" ", 1)
        ids[piece] = len(ids)
    ids.setdefault("<mask>", len(ids))
    merges = [tuple(line.split()[:2]) for line in read_lines(codes_path)]
    pieces = {piece: i for piece, i in ids.items() if piece not in ROBERTA_SPECIALS}
    symbols = [piece[:-2] if piece.endswith("@@") and len(piece) > 2 else piece + "</w>" for piece in pieces]
    symbols += [symbol for a, b in merges for symbol in (a, b, a + b)]
    vocab, next_id = {token: ids[token] for token in ROBERTA_SPECIALS}, len(ids)
    for symbol in dict.fromkeys(symbols):
        if symbol not in vocab:
            piece = symbol[:-4] if symbol.endswith("</w>") else symbol + "@@"
            vocab[symbol] = pieces.get(piece, next_id)
            next_id += piece not in pieces
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    # A word is what Python's \S matches, with the newline after it, if any: so BERTweet was trained.
    word = tokenizers.Regex(r"[^\s\x1c-\x1f]+\n?")
    backend.pre_tokenizer = pre_tokenizers.Split(word, "removed", invert=True)
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return add_roberta_specials(backend), len(ids)


def protobuf_fields(data):
    """Yield (field number, value) of one protobuf message; value: int, or bytes for text and sub-messages."""
    def varint(at):
        value = shift = 0
        while data[at] & 128:
            value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        return value | data[at] << shift, at + 1

    at = 0
    while at < len(data):
        key, at = varint(at)
        field, kind = divmod(key, 8)
        if kind == 0:
            value, at = varint(at)
        else:
            size, at = varint(at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at:at + size], at + size
        if at > len(data):
            raise UserError("it ends in the middle of a field")
        yield field, value


def read_sentencepiece(path):
    """XLM-R's sentencepiece.bpe.model, which is a Unigram model despite its name: pieces with log-probabilities.

    fairseq numbers <s> <pad> </s> <unk> 0..3, where the file has <unk> <s> </s>. All other ids are larger by one.
    """
    pieces, charsmap = [], b""
    for field, value in protobuf_fields(Path(path).read_bytes()):
        if field == 1:                                           # SentencePiece: 1 = piece, 2 = score
            piece = dict(protobuf_fields(value))
            pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0]))
        elif field == 3:                                         # NormalizerSpec: 2 = precompiled_charsmap
            charsmap = dict(protobuf_fields(value)).get(2, b"")
    if [piece for piece, _ in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise UserError("it does not begin with <unk> <s> </s>, as XLM-R's does")
    vocab = [(token, 0.0) for token in ROBERTA_SPECIALS[:4]] + pieces[3:] + [("<mask>", 0.0)]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=3))
    if charsmap:
        backend.normalizer = normalizers.Precompiled(charsmap)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    return add_roberta_specials(backend)


def load_tokenizer(find, config, cleaning=None, name=""):
    """The tokenizer of a checkpoint, from whichever of the five published forms it has.

    find: file name -> its Path, or None if the checkpoint has no such file    config: parsed config.json
    cleaning: a key of CLEANERS; default: config["text_cleaning"], else what suits the model
    name: the Hub id or folder the user asked for, for that default
    """
    default = default_cleaning(name, config)
    options = {}
    if not (path := find("tokenizer.json")) and (options_path := find("tokenizer_config.json")):
        with reading(options_path):
            options = dict(json.loads(read_text(options_path)))

    if path:
        with reading(path):
            backend = tokenizers.Tokenizer.from_str(read_text(path))
    elif (codes := find("bpe.codes")) and (vocab := find("vocab.txt")):     # before WordPiece's vocab.txt
        with reading(vocab, codes):
            backend, real_ids = read_bertweet(vocab, codes)
        config, default = config | {"vocab_size": real_ids}, "bertweet"
    elif (vocab := find("vocab.json")) and (merges := find("merges.txt")):
        with reading(vocab, merges):
            backend = read_byte_bpe(vocab, merges, options)
    elif vocab := find("vocab.txt"):
        with reading(vocab):
            backend = read_wordpiece(vocab, options)
    elif path := find("sentencepiece.bpe.model"):
        with reading(path):
            backend = read_sentencepiece(path)
    else:
        raise FileNotFoundError(f"{name or 'this model'} has no tokenizer: looked for tokenizer.json, "
                                "bpe.codes + vocab.txt, vocab.json + merges.txt, vocab.txt, "
                                "sentencepiece.bpe.model")
    return Tokenizer(backend, config, cleaning or config.get("text_cleaning") or default)
