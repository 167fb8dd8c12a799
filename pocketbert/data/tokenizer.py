"""From text to token ids: clean the text, split it into the pieces a model was trained on, number the pieces.

    "@ann so gooood" --clean--> "@user so gooood" --split--> [CLS] @ user so goo ##ood [SEP] --number--> ids

A checkpoint is only as good as its tokenizer: if one piece has another number, the model reads another sentence, and no
error shows it. Every reader in tokenizer_files.py is therefore tested for equal ids against `transformers`.

    tokenizer = load_tokenizer(find, config)                 # whichever files the checkpoint has (tokenizer_files.py)
    ids = tokenizer(["so good", "so bad"], max_length=128)   # lists of ids, special tokens included

How text is split: WordPiece (BERT; Schuster & Nakajima 2012), byte-level BPE (RoBERTa; Sennrich et al. 2016,
arXiv:1508.07909), BPE on words (BERTweet; Nguyen et al. 2020, arXiv:2005.10200), Unigram (XLM-R; Kudo 2018,
arXiv:1804.10959). The `tokenizers` library does the work. How tweets are cleaned is in tweets.py.
"""

from collections import Counter
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from pocketbert.data.tweets import CLEANERS
from pocketbert.errors import UserError
from pocketbert.files import write_text

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
CHARACTERS_AT_ONCE = 2 ** 20  # the backend needs about 20 bytes for each of them until the ids are cut


class Tokenizer:
    """A `tokenizers.Tokenizer` with cleaning before it and truncation after it.

    backend       the tokenizers.Tokenizer; its own truncation and padding are switched off
    cleaning      a key of CLEANERS
    vocab_size    the ids are 0 .. vocab_size - 1: the model's embedding needs as many rows
    unk_id        also stands for the backend's ids beyond vocab_size; only BERTweet has such (read_bertweet)
    pad_id        for the batch, which pads: the tokenizer's own, else config.json's, else 0
    """

    def __init__(self, backend, config=None, cleaning="none"):
        if cleaning not in CLEANERS:
            raise UserError(f"unknown text cleaning {cleaning!r}: choose one of {', '.join(CLEANERS)}")
        config = config or {}
        self.backend = backend
        self.cleaning = cleaning
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
        self.prefix = probe.ids[:start]
        self.suffix = probe.ids[end:]

    def same_as(self, other):
        """Does `other` give the same ids for every text? Then inner tensors can be compared token by token."""
        ours = (self.backend.to_str(), self.cleaning, self.pad_id)
        theirs = (other.backend.to_str(), other.cleaning, other.pad_id)
        return ours == theirs

    def _first_id(self, tokens, default):
        ids = (self.backend.token_to_id(token) for token in tokens)
        return next((i for i in ids if i is not None), default)

    def __call__(self, texts, max_length):
        """texts: list of str -> list of lists of ids, special tokens included, at most max_length each."""
        room = max_length - len(self.prefix) - len(self.suffix)
        if room < 1:
            raise UserError(f"max_length {max_length} leaves no room for text beside the special tokens")
        clean = CLEANERS[self.cleaning]
        rows = []
        for group in groups_of(texts, CHARACTERS_AT_ONCE):
            encodings = self.backend.encode_batch_fast([clean(well_formed(text)) for text in group],
                                                       add_special_tokens=False)
            # Cut here and not by backend.enable_truncation: that would change what other threads see.
            rows += [self.prefix + encoding.ids[:room] + self.suffix for encoding in encodings]
        if self.num_ids > self.vocab_size:
            rows = [[i if i < self.vocab_size else self.unk_id for i in row] for row in rows]
        return rows

    def save(self, folder):
        """Write folder/tokenizer.json in one step."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(self.backend.to_str(), folder / "tokenizer.json")


def groups_of(texts, characters):
    """Lists of consecutive texts with about so many characters together, and at least one text each."""
    group = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text) if isinstance(text, str) else 0
        if size >= characters:
            yield group
            group = []
            size = 0
    if group:
        yield group


def well_formed(text):
    """The text as valid Unicode: half a surrogate pair (a tweet cut in the middle) becomes U+FFFD."""
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}: {text!r:.60}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def train_wordpiece(texts, vocab_size=8000, lowercase=True):
    """A WordPiece tokenizer as BERT has it, learned from `texts`. The same texts always give the same ids.

    The library numbers the letters in the random order of a hash table and decides ties between equal counts by these
    numbers. Therefore we fix the numbers first: special tokens 0..4, letters by frequency, "##" letters, then merges.
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


def add_specials(backend, specials, single, pair):
    """Declare the special tokens, so that text is never split inside them, and say where they go."""
    present = [token for token in specials if backend.token_to_id(token) is not None]
    backend.add_special_tokens(present)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, backend.token_to_id(token)) for token in present])
    return backend


def bert_backend(vocab, lowercase=True):
    """WordPiece as BERT has it. vocab: piece -> id."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return add_specials(backend, BERT_SPECIALS, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
