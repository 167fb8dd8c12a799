"""What is searched, and where: a TOML file for each script in spaces/, which a user edits.

    lr = { low = 1e-5, high = 1e-2, log = true }      a number between two; a whole one if both are whole;
                                                      log: as many values between 1e-5 and 1e-4 as between 1e-4 and 1e-3
    batch-size = [16, 32, 64]                         one of these
    temperature = { low = 1.0, high = 8.0,            not where --loss mse was given or suggested (for a list:
                    unless = { loss = "mse" } }       { choices = [...], unless = ... })
    student.gru = { hidden = [64, 128] }              sizes of --student gru, if the recipe does not give them

A name is a flag of the script without its dashes. What the command line gives is held fixed, and not searched.
"""

from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.models.recipes import parse_recipe

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

SPACES = Path(__file__).parent / "spaces"
KEYS = {"low", "high", "log", "choices", "unless"}


def read_space(path):
    """{flag: entry}, or for a recipe {flag: {kind: {size: entry}}}.

    An entry is {"choices": [...]} or {"low", "high", "log"}, and may have "unless": {flag: value}.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--space {path} is not readable TOML: {error}") from None
    return {name: read_value(value, name, path) for name, value in table.items()}


def read_value(value, name, path):
    """A list, a range, or a table of more of them: the kinds of a recipe and their sizes."""
    if isinstance(value, list):
        value = {"choices": value}
    if isinstance(value, dict) and not KEYS & set(value):
        return {key: read_value(part, f"{name}.{key}", path) for key, part in value.items()}
    if problem := problem_of(value):
        raise UserError(f"--space {path}: {name} = {value} {problem}; expected [a, b, c] or {{ low = 1, high = 9 }}")
    return value


def problem_of(entry):
    """What is wrong with an entry, or None."""
    if not isinstance(entry, dict):
        return "is one value, which needs no search: give the flag"
    if unknown := set(entry) - KEYS:
        return f"has {', '.join(sorted(unknown))}"
    if "choices" in entry:
        one_or_more = isinstance(entry["choices"], list) and entry["choices"]
        return None if one_or_more else "has no choices"
    low, high = entry.get("low"), entry.get("high")
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (low, high)):
        return "wants a number for low and for high"
    if not low <= high:
        return "has low above high"
    return "is logarithmic, so low must be above 0" if entry.get("log") and low <= 0 else None


def given_flags(words):
    """{flag: its first value} of a command line: ["--loss", "mse", "--control"] -> {"loss": "mse", "control": ""}"""
    return {word[2:]: "" if following.startswith("--") else following
            for word, following in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def open_part(space, given):
    """The part of a space that a command line leaves open. given: from given_flags

    Of a recipe, {size: entry} of those sizes of its kind that it does not give.
    """
    left = {}
    for flag, value in space.items():
        if is_entry(value):
            if flag not in given:
                left[flag] = value
        elif flag in given:
            kind, sizes = given[flag].split(":")[0], {}
            if kind in value:
                sizes = parse_recipe(given[flag])[1]
            left[flag] = {size: entry for size, entry in value.get(kind, {}).items() if size not in sizes}
    return {flag: value for flag, value in left.items() if value}


def is_entry(value):
    return bool(KEYS & set(value))


def suggest_values(trial, space, given, depth_of):
    """{flag: value} of one trial, from the open part of a space. trial: of Optuna; None: the first value of each

    depth_of({flag: value}): how many layers the trial's model has, one more than can be frozen
    """
    values = {}
    for flag, entry in sorted(space.items(), key=lambda item: is_entry(item[1])):  # recipes first: they have the depth
        if not is_entry(entry):
            sizes = {size: suggest(trial, f"{flag}.{size}", part) for size, part in entry.items()}
            values[flag] = with_sizes(given[flag], sizes)
        elif not any(is_value((given | values).get(name), value) for name, value in entry.get("unless", {}).items()):
            if flag == "freeze" and "high" in entry:
                entry = entry | {"high": min(entry["high"], max(entry["low"], depth_of(given | values) - 1))}
            values[flag] = suggest(trial, flag, entry)
    return values


def suggest(trial, name, entry):
    """One value of an entry."""
    if "choices" in entry:
        return trial.suggest_categorical(name, entry["choices"]) if trial else entry["choices"][0]
    low, high = entry["low"], entry["high"]
    if trial is None:
        return low
    kind = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
    return kind(name, low, high, log=entry.get("log", False))


def is_value(given, value):
    """Is the value of a flag, which may be the word of a command line, this one?"""
    if isinstance(value, (int, float)) and given is not None:
        return float(given) == value
    return given == value


def with_sizes(recipe, sizes):
    """("gru:layers=1", {"hidden": 64}) -> "gru:layers=1,hidden=64\""""
    return recipe + ("," if ":" in recipe else ":") + ",".join(f"{name}={value}" for name, value in sizes.items())


def flag_text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def with_values(words, values):
    """A command line with the values of a trial: numbers rounded to three digits; true is the bare flag, false none."""
    words = list(words)
    for name, value in values.items():
        flag = f"--{name}"
        if flag in words:  # a recipe whose sizes are now complete
            words[words.index(flag) + 1] = value
        elif value is not False:
            words += [flag] if value is True else [flag, flag_text(value)]
    return words
