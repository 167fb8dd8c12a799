"""Token ids of texts of any length: how many were cut, and no more work than the tokens that are used."""

LONG_TEXT = 32              # characters for each token of max_length: longer texts are cut before they are tokenised
MARGIN = 64                 # tokens that must lie between the tokens that are used and a cut at a blank
WORD_MARGIN = 1000          # the same for a cut inside a word


def encode(tokenizer, texts, max_length):
    """(token ids of each text, at most max_length each; how many texts were cut)."""
    tokenizer([], max_length)  # raises if there is no room for text
    starts = [start_of(text, tokenizer, max_length) for text in texts]
    ids = tokenizer(starts, max_length + 1)  # one more, to see which texts are longer
    end = max_length - len(tokenizer.suffix)
    cut = 0
    for i, row in enumerate(ids):
        if len(row) > max_length:
            ids[i] = row[:end] + tokenizer.suffix
            cut += 1
    return ids, cut


def start_of(text, tokenizer, max_length):
    """A start of a long text that has the same first max_length token ids as the text.

    Tokenising a text of 1 MB costs up to 500 MB, and only its first tokens are used. The text is cut at a blank, where
    every pre-tokenizer ends a word, so that no token of the start depends on what follows. Rules of a tweet's cleaning
    that look over a blank (telephone numbers, "...") can change the last tokens before the cut; therefore a start must
    have MARGIN tokens more than are used. A text without blanks (Chinese, base64) is cut inside a word; then the margin
    is larger than the 100 characters beyond which WordPiece makes a word [UNK]. While the start has too few tokens, it
    is made longer, up to the whole text.
    """
    length = LONG_TEXT * max_length
    while length < len(text):
        end = text.rfind(" ", length // 2, length)
        start = text[:length] if end < 0 else text[:end].rstrip(" ")
        margin = WORD_MARGIN if end < 0 else MARGIN
        [ids] = tokenizer([start], max_length + margin)
        if len(ids) == max_length + margin:
            return start
        length *= 4
    return text
