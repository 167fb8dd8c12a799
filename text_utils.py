"""Text to token ids: clean a tweet, cut it into the pieces a model was trained on, number the pieces.

    "@ann so gooood" --clean--> "@user so gooood" --cut--> [CLS] @ user so goo ##ood [SEP] --number--> ids

A checkpoint is only as good as its tokenizer: one piece numbered differently and the model reads another
sentence, without any error. So every reader below is tested for equal ids against `transformers`.

    tokenizer = load_tokenizer(find, config)     # whichever files the checkpoint has
    ids = tokenizer(["so good", "so bad"], max_length=128)

Cutting: WordPiece (BERT; Schuster & Nakajima 2012), byte-level BPE (RoBERTa; Sennrich et al. 2016,
arXiv:1508.07909), BPE on words (BERTweet; Nguyen et al. 2020, arXiv:2005.10200), Unigram (XLM-R; Kudo 2018,
arXiv:1804.10959). The loops are those of the `tokenizers` library; this file reads the published formats.
"""

import html
import json
import os
import re
import struct
import unicodedata
from collections import Counter
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

# ---- cleaning: what the authors of a checkpoint did to its training texts ------------------------------


def clean_cardiff(text):
    """Cardiff NLP's preprocessing (the model cards of cardiffnlp/twitter-roberta-base and its relatives)."""
    words = ("@user" if word.startswith("@") and len(word) > 1 else word for word in text.split(" "))
    return " ".join("http" if word.startswith("http") else word for word in words)


# Emoji that the world calls by another name than the Unicode standard does. With these, the most
# frequent first, 437 of the 516 emoji in BERTweet's vocabulary get the name it has for them; without, 343.
EMOJI_NAMES = """
❤red_heart 😍smiling_face_with_heart-eyes ♥heart_suit 😘face_blowing_a_kiss 👌OK_hand
😁beaming_face_with_smiling_eyes ☺smiling_face 🙏folded_hands 👍thumbs_up 💯hundred_points 🙌raising_hands
🏽medium_skin_tone 🏻light_skin_tone 👏clapping_hands 😅grinning_face_with_sweat 🏼medium_light_skin_tone
🎶musical_notes 🏾medium_dark_skin_tone 💁person_tipping_hand 🤷person_shrugging 😜winking_face_with_tongue
😄grinning_face_with_smiling_eyes 😋face_savoring_food 🤦person_facepalming 😤face_with_steam_from_nose ☀sun
👊oncoming_fist 😝squinting_face_with_tongue 😆grinning_squinting_face 😃grinning_face_with_big_eyes
☹frowning_face 😓downcast_face_with_sweat 💃woman_dancing 👎thumbs_down 👉backhand_index_pointing_right
👋waving_hand 🙅person_gesturing_NO 😥sad_but_relieved_face 😛face_with_tongue 💥collision 🎄Christmas_tree
😻smiling_cat_face_with_heart-eyes 💦sweat_droplets 🥺pleading_face 👇backhand_index_pointing_down
🥰smiling_face_with_3_hearts ®registered 💫dizzy 😰anxious_face_with_sweat 💤zzz ™trade_mark 🎁wrapped_gift
❗exclamation_mark 🌚new_moon_face 🍕pizza 🏀basketball 🤪zany_face 🙋person_raising_hand ⚡high_voltage
🗣speaking_head ☝index_pointing_up 💨dashing_away ➡right_arrow 🙆person_gesturing_OK 👐open_hands
🚨police_car_light 👯people_with_bunny_ears 👈backhand_index_pointing_left 🖕middle_finger 🎅Santa_Claus
❣heavy_heart_exclamation 🏃person_running 🏿dark_skin_tone 🤩star-struck 🤞crossed_fingers 🙇person_bowing
©copyright 👽alien 🌎globe_showing_Americas 🥴woozy_face 🌍globe_showing_Europe-Africa ⚠warning
💆person_getting_massage 🤬face_with_symbols_on_mouth 🚶person_walking 👿angry_face_with_horns ❓question_mark
💵dollar_banknote ▶play_button 🔴red_circle 🤨face_with_raised_eyebrow ⬇down_arrow 🤮face_vomiting 🍆eggplant
"""
EMOJI_NAMES = {entry[0]: entry[1:] for entry in EMOJI_NAMES.split()}
NARROW_EMOJI = "✌♀♂☮✏☘☠❄☃✍☯✈☑☁☄✔✖✝▪‼⁉"

# NLTK's TweetTokenizer in one expression; the first alternative that fits wins. The lengths are bounded (a
# label of a domain has at most 63 letters, a mail name 64) so that a hostile text takes linear time.
TWEET_TOKEN = re.compile(r"""
      https?:(?:/{1,3}|[a-z0-9%])[^\s()<>{}\[\]]+[^\s`!()\[\]{};:'".,<>?«»“”‘’]     # link
    | [a-z0-9.\-]{1,253}\.[a-z]{2,13}/[^\s()<>{}\[\]]+[^\s`!()\[\]{};:'".,<>?«»“”‘’]  # no http
    | (?<!@)[a-z0-9]{1,63}(?:[.\-][a-z0-9]{1,63}){0,9}\.[a-z]{2,13}\b/?(?!@)       # bare domain
    | (?:\+?[01][ *\-.)]*)?(?:\(?\d{3}[ *\-.)]*)?\d{3}[ *\-.)]*\d{4}               # telephone number
    | [<>]?[:;=8][\-o*']?[)\](\[dp/:}{@|\\]                                        # :-)
    | [)\](\[dp/:}{@|\\][\-o*']?[:;=8][<>]?                                        # (-:
    | <3 | <[^>\s]{1,300}> | -+> | <-+                                             # heart, tag, arrows
    | @\w+ | \#+\w[\w'\-]*\w                                                       # @mention, #hashtag
    | [\w.+\-]{1,64}@[\w\-]+\.(?:[\w\-]\.?)+[\w\-]                                 # mail
    | [^\W\d_²³¹¼½¾](?:[^\W\d²³¹¼½¾]|['\-])+[^\W\d_²³¹¼½¾]                        # don't, well-known
    | [+\-]?\d+[,/.:\-]\d+[+\-]?                                                   # 1.5, 24/7
    | [^\W²³¹¼½¾]+ | \.(?:\s*\.)+ | \S                                            # word, dots, the rest
    """, re.VERBOSE | re.IGNORECASE)

# BERTweet's replacements, in its order; both columns are verbatim, the two blanks included.
CONTRACTIONS = [("cannot ", "can not "), ("n't ", " n't "), ("n 't ", " n't "), ("ca n't", "can't"),
                ("ai n't", "ain't"), ("'m ", " 'm "), ("'re ", " 're "), ("'s ", " 's "), ("'ll ", " 'll "),
                ("'d ", " 'd "), ("'ve ", " 've "), (" p . m .", "  p.m."), (" p . m ", " p.m "),
                (" a . m .", " a.m."), (" a . m ", " a.m ")]


@lru_cache(maxsize=4096)
def emoji_name(char):
    """':red_heart:' for '❤'; '' for the variation selector; any other character comes back as it is.

    Unicode has no "emoji" flag in Python, so: everything above U+1F1E6, the symbols that are as wide as a
    Chinese character (that excludes ★ and ♡, which BERTweet keeps), and the two lists above.
    """
    if char == "\ufe0f":
        return ""
    if char in EMOJI_NAMES:
        return f":{EMOJI_NAMES[char]}:"
    wide_symbol = "\u2600" <= char <= "\u27bf" and unicodedata.east_asian_width(char) == "W"
    if wide_symbol or char in NARROW_EMOJI or "\U0001f1e6" <= char <= "\U0001faff":
        name = unicodedata.name(char, "").lower().replace(" ", "_")
        return f":{name}:" if name else char
    return char


def bertweet_word(token):
    """One token of a tweet as BERTweet writes it: @USER, HTTPURL, or :the_name: of an emoji."""
    if token.startswith("@"):
        return "@USER"
    if token.lower().startswith(("http", "www")):
        return "HTTPURL"
    return {"’": "'", "…": "..."}.get(token) or emoji_name(token) if len(token) == 1 else token


def clean_bertweet(text):
    """`normalizeTweet` of BERTweet (github.com/VinAIResearch/BERTweet), without its two dependencies."""
    text = text.replace("’", "'").replace("…", "...")
    text = re.sub(r"&#?\w{1,31};", lambda m: html.unescape(m[0]).replace(m[0], ""), text)  # "" if unknown
    text = re.sub(r"([^a-zA-Z0-9])\1{3,}", r"\1\1\1", text)             # at most three of a kind: "!!!"
    text = " ".join(bertweet_word(token) for token in TWEET_TOKEN.findall(text))
    for old, new in CONTRACTIONS:
        text = text.replace(old, new)
    return " ".join(text.split())


CLEANERS = {"none": str, "cardiff": clean_cardiff, "bertweet": clean_bertweet}


def default_cleaning(name, config):
    """The cleaning with which a checkpoint was trained: a key of CLEANERS.

    name: the Hub id or folder the user asked for    config: the parsed config.json
    """
    names = [str(name), str(config.get("_name_or_path") or "")]
    if config.get("tokenizer_class") == "BertweetTokenizer" or any("vinai/bertweet" in n for n in names):
        return "bertweet"
    return "cardiff" if any(n.startswith("cardiffnlp/twitter") for n in names) else "none"


# ---- the tokenizer -------------------------------------------------------------------------------------


class Tokenizer:
    """`tokenizers.Tokenizer` with cleaning in front and truncation behind.

    backend       the tokenizers.Tokenizer; its own truncation and padding are switched off
    cleaning      a key of CLEANERS
    vocab_size    the ids are 0 .. vocab_size - 1: the model's embedding needs as many rows
    unk_id        also stands for the backend's ids beyond vocab_size; only BERTweet has such (read_bertweet)
    pad_id        for the batch, which pads: the tokenizer's own, else config.json's, else 0
    """

    def __init__(self, backend, config=None, cleaning="none"):
        if cleaning not in CLEANERS:
            raise ValueError(f"unknown text cleaning {cleaning!r}: choose one of {', '.join(CLEANERS)}")
        config = config or {}
        self.backend, self.cleaning = backend, cleaning
        backend.no_truncation()             # all-MiniLM-L6-v2's file pads every text to 128
        backend.no_padding()
        self.num_ids = max(backend.get_vocab().values(), default=-1) + 1
        self.vocab_size = self.num_ids
        if getattr(backend.model, "end_of_word_suffix", None) == "</w>":     # BERTweet
            self.vocab_size = min(self.num_ids, config.get("vocab_size") or self.num_ids)
        self.pad_id = self._first_id(["[PAD]", "<pad>"], config.get("pad_token_id") or 0)
        unk_token = getattr(backend.model, "unk_token", None)
        self.unk_id = self._first_id([unk_token or "[UNK]", "[UNK]", "<unk>"], self.pad_id)
        probe = backend.encode("a")         # which special tokens does it put before and after a text?
        start = probe.special_tokens_mask.index(0) if 0 in probe.special_tokens_mask else 1
        end = start + probe.special_tokens_mask.count(0)
        self.prefix, self.suffix = probe.ids[:start], probe.ids[end:]

    def same_as(self, other):
        """Does it cut every text into the same ids? Then inner tensors can be compared token by token."""
        return (self.backend.to_str(), self.cleaning, self.pad_id) == (
            other.backend.to_str(), other.cleaning, other.pad_id)

    def _first_id(self, tokens, default):
        ids = (self.backend.token_to_id(token) for token in tokens)
        return next((i for i in ids if i is not None), default)

    def __call__(self, texts, max_length):
        """texts: list of str -> list of lists of ids, special tokens included, at most max_length each."""
        room = max_length - len(self.prefix) - len(self.suffix)
        if room < 1:
            raise ValueError(f"max_length {max_length} leaves no room for text beside the special tokens")
        clean = CLEANERS[self.cleaning]
        encodings = self.backend.encode_batch_fast([clean(well_formed(text)) for text in texts],
                                                   add_special_tokens=False)
        # Cut here rather than by backend.enable_truncation: that would change what other threads see.
        rows = [self.prefix + encoding.ids[:room] + self.suffix for encoding in encodings]
        if self.num_ids > self.vocab_size:
            rows = [[i if i < self.vocab_size else self.unk_id for i in row] for row in rows]
        return rows

    def save(self, folder):
        """Write folder/tokenizer.json, whole or not at all: temporary file, fsync, rename."""
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tokenizer.json.{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                file.write(self.backend.to_str().encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def well_formed(text):
    """The text as valid Unicode: half a surrogate pair (a tweet cut in the middle) becomes U+FFFD."""
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}: {text!r:.60}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def train_wordpiece(texts, vocab_size=8000, lowercase=True):
    """A BERT-style WordPiece learned from `texts`: the same texts give the same ids, always.

    The library numbers the letters in the random order of a hash table, and equal counts are then decided by
    those numbers. So we number them first: specials 0..4, letters by frequency, "##" letters, then merges.
    """
    texts = [well_formed(text) for text in texts]
    trainee = bert_backend({token: i for i, token in enumerate(BERT_SPECIALS)}, lowercase=lowercase)
    counts = Counter()
    for text in texts:
        counts.update(trainee.normalizer.normalize_str(text))
    letters = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    letters = letters[:min(1000, max(80, vocab_size // 8))]      # a rarer letter makes its word [UNK]
    first = BERT_SPECIALS + letters + ["##" + letter for letter in letters]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, initial_alphabet=letters,
                                        limit_alphabet=len(letters), show_progress=False)
    trainee.train_from_iterator(texts, trainer)
    return Tokenizer(bert_backend(trainee.get_vocab(), lowercase=lowercase))


# ---- reading what the Hub holds ------------------------------------------------------------------------


@contextmanager
def reading(*paths):
    """Turn whatever a broken file provokes, in Python or in the library, into one line that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:         # `tokenizers` raises nothing more precise
        names = " or ".join(str(path) for path in paths)
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{names} is broken ({type(error).__name__}: {reason}): "
                         "delete it and download it again") from error


def read_text(path):
    return Path(path).read_text(encoding="utf-8")


def read_lines(path):
    """Only "\n" ends a line: real vocabularies hold U+0085 and U+2028, where str.splitlines would cut."""
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def add_specials(backend, specials, single, pair):
    """Declare the special tokens, so that text is never cut inside them, and where they go."""
    present = [token for token in specials if backend.token_to_id(token) is not None]
    backend.add_special_tokens(present)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, backend.token_to_id(token)) for token in present])
    return backend


def add_roberta_specials(backend):
    return add_specials(backend, ROBERTA_SPECIALS, "<s> $A </s>", "<s> $A </s> </s> $B </s>")


def bert_backend(vocab, lowercase=True, strip_accents=None, chinese_chars=True):
    """WordPiece as BERT has it. vocab: piece -> id. strip_accents None: as lowercase."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese_chars)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return add_specials(backend, BERT_SPECIALS, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")


def read_wordpiece(vocab_path, options):
    """BERT's vocab.txt: a piece per line, the line number is its id. Uncased unless `options` say otherwise."""
    vocab = {piece: i for i, piece in enumerate(read_lines(vocab_path))}
    if missing := [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocab]:
        raise ValueError(f"no {', '.join(missing)} in it")
    return bert_backend(vocab, lowercase=options.get("do_lower_case", True),
                        strip_accents=options.get("strip_accents"),
                        chinese_chars=options.get("tokenize_chinese_chars", True))


def read_byte_bpe(vocab_path, merges_path, options):
    """RoBERTa's vocab.json (piece -> id) and merges.txt (pairs, the most frequent first), over bytes."""
    merges = [tuple(line.split(" ")) for line in read_lines(merges_path) if not line.startswith("#version")]
    vocab = json.loads(read_text(vocab_path))
    if missing := [token for token in ROBERTA_SPECIALS[:4] if token not in vocab]:
        raise ValueError(f"no {', '.join(missing)} in it")
    backend = tokenizers.Tokenizer(models.BPE(vocab, [merge for merge in merges if merge != ("",)]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return add_roberta_specials(backend)


def read_bertweet(vocab_path, codes_path):
    """BERTweet's vocab.txt and bpe.codes -> (backend, number of real ids).

    vocab.txt counts from 4, after <s> <pad> </s> <unk>, and writes "goo@@" for a piece that continues. In
    bpe.codes the end of a word is marked instead: "goo" continues, "good</w>" ends. A piece that merging
    passes through but vocab.txt lacks gets an id behind the real ones; Tokenizer reads it as <unk>.
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
            raise ValueError("it ends in the middle of a field")
        yield field, value


def read_sentencepiece(path):
    """XLM-R's sentencepiece.bpe.model (in truth Unigram: pieces with log-probabilities).

    fairseq numbered <s> <pad> </s> <unk> 0..3, where the file has <unk> <s> </s>: the rest moves up by one.
    """
    pieces, charsmap = [], b""
    for field, value in protobuf_fields(Path(path).read_bytes()):
        if field == 1:                                           # SentencePiece: 1 = piece, 2 = score
            piece = dict(protobuf_fields(value))
            pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0]))
        elif field == 3:                                         # NormalizerSpec: 2 = precompiled_charsmap
            charsmap = dict(protobuf_fields(value)).get(2, b"")
    if [piece for piece, _ in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise ValueError("it does not begin with <unk> <s> </s>, as XLM-R's does")
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
