"""Token ids of texts of any length: how many were cut, and no more work than the tokens that are used."""

LONG_TEXT = 32              # characters for each token of max_length: longer texts are cut before they are tokenised
MARGIN = 64                 # tokens that must lie between the tokens that are used and the place of that cut


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

    Tokenising a text of 1 MB costs tens of MB and only its first tokens are used. The text is cut at a blank, where
    every pre-tokenizer ends a word, so that no token of the start depends on what follows. A start is taken only if it
    has at least MARGIN tokens more than are used: rules of a tweet's cleaning that look over a blank (telephone
    numbers, "...") may change the last tokens before the cut, not those.
    """
    length = LONG_TEXT * max_length
    while length < len(text):
        end = text.rfind(" ", 0, length)
        if end > 0:
            start = text[:end].rstrip(" ")
            [ids] = tokenizer([start], max_length + MARGIN)
            if len(ids) == max_length + MARGIN:
                return start
        length *= 4
    return text
