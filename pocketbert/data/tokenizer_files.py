"""Read the tokenizer of a checkpoint from any of the five layouts in which tokenizers are published.

    files                        method                published by, for example
    tokenizer.json               any                   most checkpoints since 2020; `save_model` writes this one
    vocab.txt                    WordPiece             BERT, DistilBERT, MiniLM, TinyBERT
    vocab.json, merges.txt       byte-level BPE        RoBERTa, Cardiff NLP's Twitter models
    vocab.txt, bpe.codes         BPE on words          BERTweet
    sentencepiece.bpe.model      Unigram               XLM-R, CamemBERT, Cardiff NLP's multilingual models

Beside each of them, added_tokens.json or tokenizer_config.json may add tokens, and tokenizer_config.json may say
whether text is lower-cased; it wins over tokenizer.json. The ids must be those of `transformers`, which the tests
compare.
"""

import json
import struct
from contextlib import contextmanager
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from pocketbert.data.tokenizer import ROBERTA_SPECIALS, Tokenizer, add_specials, bert_backend
from pocketbert.data.tweets import default_cleaning
from pocketbert.errors import UserError

CAMEMBERT_FIRST = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
SPECIAL_NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
MOST_PLACEHOLDERS = 10_000  # a larger gap between the ids of added tokens is a damaged file


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
    backend = bert_backend(vocab)
    backend.normalizer = bert_normalizer(options)
    return backend


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


def read_bertweet(vocab_path, codes_path, added):
    """BERTweet's vocab.txt and bpe.codes -> (backend, number of real ids).

    The ids of vocab.txt start at 4, after <s> <pad> </s> <unk>, and "goo@@" is a piece that continues a word. bpe.codes
    marks the end of a word instead: "goo" continues, "good</w>" ends. A piece that merging produces on its way but that
    vocab.txt lacks gets an id above the real ones, and Tokenizer turns it into <unk>.
    added: {id: AddedToken} of further files; their ids are real
    """
    ids = {token: i for i, token in enumerate(ROBERTA_SPECIALS[:4])}
    for line in read_lines(vocab_path):
        piece, _count = line.strip().rsplit(" ", 1)
        ids[piece] = len(ids)
    ids.setdefault("<mask>", len(ids))
    whole = {token: ids[token] for token in ROBERTA_SPECIALS}  # these are never split
    whole |= {token.content: i for i, token in added.items()}
    num_real = max([*ids.values(), *whole.values()]) + 1
    merges = [tuple(line.split()[:2]) for line in read_lines(codes_path)]
    pieces = {piece: i for piece, i in ids.items() if piece not in whole}
    symbols = [piece[:-2] if piece.endswith("@@") and len(piece) > 2 else piece + "</w>" for piece in pieces]
    symbols += [symbol for a, b in merges for symbol in (a, b, a + b)]
    vocab = dict(whole)
    next_id = num_real
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
    return add_roberta_specials(backend), num_real


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


def read_sentencepiece(path, camembert=False):
    """XLM-R's sentencepiece.bpe.model, which is a Unigram model despite its name: pieces with log-probabilities.

    The file begins with <unk> <s> </s>, but fairseq has put ids of its own before them. XLM-R's are <s> <pad> </s>
    <unk> 0..3, so all other ids are larger by one than in the file. CamemBERT's are <s>NOTUSED <pad> </s>NOTUSED <unk>
    <unk>NOTUSED 0..4, and the <s> </s> of the file follow: all ids are larger by four.
    """
    pieces = []
    charsmap = b""
    for field, value in protobuf_fields(Path(path).read_bytes()):
        if field == 1:                                           # SentencePiece: 1 = piece, 2 = score
            piece = dict(protobuf_fields(value))
            pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0]))
        elif field == 3:                                         # NormalizerSpec: 2 = precompiled_charsmap
            charsmap = dict(protobuf_fields(value)).get(2, b"")
    if [piece for piece, _ in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise UserError("it does not begin with <unk> <s> </s>, as XLM-R's does")
    first = CAMEMBERT_FIRST if camembert else ROBERTA_SPECIALS[:4]
    vocab = [(token, 0.0) for token in first] + pieces[1 if camembert else 3:] + [("<mask>", 0.0)]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=3))
    if charsmap:
        backend.normalizer = normalizers.Precompiled(charsmap)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    if camembert:
        backend.add_special_tokens(["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"])
    return add_roberta_specials(backend)


# ---- what other files change -----------------------------------------------------------------------------

def read_json(path):
    """A dictionary, or {} if there is no file."""
    if path is None:
        return {}
    with reading(path):
        return dict(json.loads(read_text(path)))


def added_tokens(find, options):
    """{id: AddedToken}: tokens that somebody added to a vocabulary, such as [USER] or HTTPURL.

    tokenizer_config.json has them as "added_tokens_decoder"; older programs wrote {token: id} into added_tokens.json.
    A token of the older kind is looked for in the normalized text, unless special_tokens_map.json calls it special.
    """
    if "added_tokens_decoder" in options:
        keys = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        return {int(i): AddedToken(**{key: token[key] for key in keys if key in token})
                for i, token in options["added_tokens_decoder"].items()}
    legacy = read_json(find("added_tokens.json"))
    if not legacy:
        return {}
    names = options | read_json(find("special_tokens_map.json"))
    special = {name["content"] if isinstance(name, dict) else name for name in map(names.get, SPECIAL_NAMES) if name}
    return {int(i): AddedToken(token, normalized=token not in special, special=token in special)
            for token, i in legacy.items()}


def add_tokens(backend, added, source):
    """Add the tokens to the backend under their ids. A gap between the ids is filled with placeholders."""
    if not added:
        return
    present = backend.get_added_tokens_decoder()
    next_id = max(backend.get_vocab().values(), default=-1) + 1
    for i, token in sorted(added.items(), key=lambda item: item[0]):
        if i in present and present[i].content == token.content:
            continue
        if backend.token_to_id(token.content) is None and next_id < i < next_id + MOST_PLACEHOLDERS:
            backend.add_tokens([f"<|reserved_token_{gap}|>" for gap in range(next_id, i)])
        backend.add_tokens([token])
        if backend.token_to_id(token.content) != i:
            raise UserError(f"{source} has the id {i} for the added token {token.content!r}, but the vocabulary gives "
                            f"it {backend.token_to_id(token.content)}: these files are of different models")
        next_id = max(next_id, i + 1)


def set_case(backend, options):
    """Lower-case, or not, as tokenizer_config.json says: with BERT's normalizer it wins over tokenizer.json."""
    is_bert = isinstance(backend.normalizer, normalizers.BertNormalizer)
    obeys = options.get("tokenizer_class") not in ("PreTrainedTokenizerFast", "TokenizersBackend")
    if is_bert and obeys and "do_lower_case" in options:
        backend.normalizer = bert_normalizer(options)


def bert_normalizer(options):
    return normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case", True), strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True))


# ---- whichever files are there ---------------------------------------------------------------------------

def load_tokenizer(find, config, cleaning=None, name=""):
    """The tokenizer of a checkpoint, from whichever of the five published forms it has.

    find: file name -> its Path, or None if the checkpoint has no such file    config: parsed config.json
    cleaning: a key of CLEANERS; default: config["text_cleaning"], else what suits the model
    name: the Hub id or folder the user asked for, for that default
    """
    default = default_cleaning(name, config)
    file = find("tokenizer.json")
    options = read_json(find("tokenizer_config.json"))
    with reading(f"a file of added tokens of {name or 'this model'}"):
        added = added_tokens(find, options)
    if file:
        with reading(file):
            backend = tokenizers.Tokenizer.from_str(read_text(file))
        set_case(backend, options)
    elif (codes := find("bpe.codes")) and (vocab := find("vocab.txt")):     # before WordPiece's vocab.txt
        with reading(vocab, codes):
            backend, num_real = read_bertweet(vocab, codes, added)
        config = config | {"vocab_size": num_real}
        default = "bertweet"
    elif (vocab := find("vocab.json")) and (merges := find("merges.txt")):
        with reading(vocab, merges):
            backend = read_byte_bpe(vocab, merges, options)
    elif vocab := find("vocab.txt"):
        with reading(vocab):
            backend = read_wordpiece(vocab, options)
    elif file := find("sentencepiece.bpe.model"):
        classes = f"{config.get('model_type')} {config.get('tokenizer_class')} {options.get('tokenizer_class')}"
        with reading(file):
            backend = read_sentencepiece(file, camembert="camembert" in classes.lower())
    else:
        raise FileNotFoundError(f"{name or 'this model'} has no tokenizer: looked for tokenizer.json, "
                                "bpe.codes + vocab.txt, vocab.json + merges.txt, vocab.txt, "
                                "sentencepiece.bpe.model")
    add_tokens(backend, added, name or "this model")
    return Tokenizer(backend, config, cleaning or config.get("text_cleaning") or default)
