"""Read values from a config.json. A value that cannot be true is an error of one line, before any tensor is made.

A config.json may come from anywhere, and may be damaged. So every number has a range: far above any published model,
and far below what would fill a memory or keep a loop busy.
"""

import contextlib

from pocketbert.errors import UserError

RANGES = {  # lowest and highest value, both allowed
    "vocab_size": (1, 10_000_000),
    "hidden_size": (1, 100_000),
    "embedding_size": (1, 100_000),
    "num_hidden_layers": (1, 1_000),
    "num_layers": (1, 1_000),
    "num_attention_heads": (0, 10_000),
    "num_heads": (1, 10_000),
    "head_size": (1, 100_000),
    "intermediate_size": (1, 1_000_000),
    "max_position_embeddings": (1, 10_000_000),
    "max_length": (1, 10_000_000),
    "text_length": (1, 10_000_000),
    "type_vocab_size": (0, 1_000),
    "pad_token_id": (0, 10_000_000),
    "ngrams": (1, 100),
    "width": (1, 999),
    "buckets": (0, 1_000_000_000),
    "num_labels": (1, 100_000),
    "num_parameters": (0, 10**13),
}


@contextlib.contextmanager
def naming(source):
    """Put the name of the file in front of the message of every UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def check_whole(value, name, low, high):
    """A whole number from low to high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} is {short(value)}, but must be a whole number from {low} to {high}")
    return value


def short(value):
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def whole(hf, key, default=None):
    """The whole number of a key, within its range in RANGES. default: for a key that is absent or null."""
    value = hf.get(key)
    value = default if value is None else value
    if value is None:
        raise UserError(f"{key} is missing")
    return check_whole(value, key, *RANGES[key])


def optional_whole(hf, key):
    """The whole number of a key, None where the file has none."""
    return None if hf.get(key) is None else whole(hf, key)


def whole_per_layer(hf, key, depth, same):
    """A list of `depth` whole numbers. same: the number of every layer, for a file that has no such list."""
    values = hf.get(key)
    if values is None:
        return [same] * depth
    if not isinstance(values, list) or len(values) != depth:
        raise UserError(f"{key} is {short(values)}, but must have one entry for each of the {depth} layers")
    return [check_whole(value, key, 1, 1_000_000) for value in values]


def number(hf, key, default, low, high):
    """A finite number, low <= number < high."""
    value = hf.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        raise UserError(f"{key} is {short(value)}, but must be a number from {low} to below {high}")
    return float(value)


def probability(hf, key, default):
    """The probability with which dropout sets a number to 0."""
    return number(hf, key, default, 0, 1)


def text(hf, key, default=None, choices=None):
    """A string, one of `choices` if they are given."""
    value = hf.get(key)
    value = default if value is None else value
    if value is not None and not isinstance(value, str):
        raise UserError(f"{key} is {short(value)}, but must be text")
    if choices is not None and value not in choices:
        raise UserError(f"{key} {value!r} is not supported; this version knows {', '.join(choices)}")
    return value


def text_map(hf, key):
    """A dictionary from text to text: {} where the file has none."""
    value = hf.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(form, str) for form in value.values()):
        raise UserError(f"{key} is {short(value)}, but must be an object of texts")
    return dict(value)


def check_task(hf, names):
    """Raise a UserError unless the head gives one probability to each of at least two labels, which sum to 1."""
    task = text(hf, "problem_type", "single_label_classification")
    if task == "regression" or len(names) == 1:
        raise UserError("this is a regression model: it predicts a number, not one of several labels; to train a "
                        "classifier from it, replace the head (--new-head)")
    if task != "single_label_classification":
        raise UserError(f"problem_type {task!r} is not supported: here each text has one label; to train a classifier "
                        "from this model, replace the head (--new-head)")


def label_names(hf):
    """The names of the labels in the order of their numbers; None where the file names none.

    id2label: {"0": "negative", "1": "positive"}
    """
    id2label = hf.get("id2label")
    if id2label is None or id2label == {}:
        return None
    if not isinstance(id2label, dict):
        raise UserError(f"id2label is {short(id2label)}, but must be an object")
    if sorted(id2label, key=lambda key: (len(key), key)) != [str(i) for i in range(len(id2label))]:
        raise UserError(f"the keys of id2label are {short(list(id2label))}, but must be 0, 1, 2, ...")
    numbers = {}  # name -> the number of its label
    for i in range(len(id2label)):
        name = id2label[str(i)]
        if not isinstance(name, str):
            raise UserError(f"label {i} is {short(name)}, but must be text")
        if name in numbers:
            raise UserError(f"labels {numbers[name]} and {i} have the same name {name!r}; give each its own")
        numbers[name] = i
    return list(numbers)
