"""Which column of a table is the text, and which is the label."""

USUAL_TEXT = ["text", "sentence", "tweet", "utt", "review", "content"]
USUAL_LABEL = ["label_text", "label", "sentiment", "intent", "class", "category"]
LESS_USUAL_LABEL = ["labels", "target", "y"]  # if there is none of the others


def choose_columns(columns, text=None, labels=(None,), need_label=True):
    """(text column, label columns) by the wanted names or, for None, by the usual ones; None if it is not clear."""
    text_column = find_column(columns, text, USUAL_TEXT)
    label_columns = []
    for label in labels:
        column = find_column(columns, label, USUAL_LABEL)
        if column is None and not any(c.casefold() in USUAL_LABEL for c in columns):
            column = find_column(columns, label, LESS_USUAL_LABEL)
        if column is not None:
            label_columns.append(column)
    if text_column is None or need_label and not label_columns:
        return None
    return text_column, label_columns


def find_column(columns, wanted, usual):
    """The column called `wanted`, in any case, or for None the only one with a usual name; None if there is none."""
    if wanted:
        matches = [c for c in columns if c == wanted] or [c for c in columns if c.casefold() == wanted.casefold()]
    else:
        matches = [c for c in columns if c.casefold() in usual]
        if "label_text" in [c.casefold() for c in matches]:  # the name of the class stands beside its number
            matches = [c for c in matches if c.casefold() != "label"]
    return matches[0] if len(matches) == 1 else None


def no_column(path, named, columns):
    """The message when the columns are not clear.

    named: {how the user names a column, such as "--text COLUMN": the name that was given, or None}
    """
    present = ", ".join(columns) or "none"
    folded = [column.casefold() for column in columns]
    absent = [how.replace("COLUMN", name) for how, name in named.items() if name and name.casefold() not in folded]
    if absent:
        return f"{path} has no column for {' and '.join(absent)}; it has {present}"
    if len(named) > 1:
        return (f"{path}: which columns are the text and the label? It has {present}. "
                f"Name them with {' '.join(named)}")
    return f"{path}: which column is the text? It has {present}. Name it with {' '.join(named)}"
