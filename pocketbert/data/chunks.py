"""A stream of texts in chunks: large enough to be sorted by length, small enough for memory."""

CHUNK_BATCHES = 64              # batches whose texts are read, sorted by length and scored together, at most
CHUNK_CHARACTERS = 1_000_000    # of the texts of a chunk; with one more text the chunk ends


def in_chunks(items, most, text_of=str, more_is_ready=None):
    """Lists of at most `most` items with at most CHUNK_CHARACTERS characters (or one item).

    text_of: a function from an item to its text
    more_is_ready: a function that tells whether another item can be read without waiting; None: it always can
    """
    chunk = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += len(text_of(item))
        is_full = len(chunk) == most or characters >= CHUNK_CHARACTERS
        if is_full or more_is_ready is not None and not more_is_ready():
            yield chunk
            chunk = []
            characters = 0
    if chunk:
        yield chunk
