"""What `search.py pareto` tries: kinds of small models with their sizes, and the commands that make each.

A candidate is a kind and one value of each of its sizes, as Optuna suggests them:

    {"kind": "cnn", "vocab": 4000, "embedding": 64, "hidden": 96, "layers": 2, "lr": 0.002, "alpha": 0.9}

    cnn, gru, bag   a student of that kind, distilled on the training texts, new versions of them and unlabelled texts
    layers          the teacher's own layers, every second or third of them, distilled on the training texts
    pruned          the teacher with so many of its multiplications left, refitted, then recovered on its own answers

Change SPACE to search elsewhere: a size is a list of values. Each candidate is trained for EPOCHS[kind][0] epochs; only
the promising ones go on to the larger numbers (halving.py).
"""

SPACE = {
    "cnn": {"vocab": [2000, 4000, 8000, 16000], "embedding": [32, 64, 128], "hidden": [64, 96, 128, 192],
            "layers": [1, 2, 3], "lr": [1e-3, 2e-3, 4e-3], "alpha": [0.5, 0.9]},
    "gru": {"vocab": [4000, 8000], "embedding": [64, 128], "hidden": [64, 128], "lr": [1e-3, 2e-3],
            "alpha": [0.5, 0.9]},
    "bag": {"vocab": [4000, 8000, 16000], "embedding": [32, 64, 128], "hidden": [32, 64], "lr": [2e-3, 4e-3],
            "alpha": [0.5, 0.9]},
    "layers": {"share": [0.2, 0.35, 0.5], "lr": [1e-4, 2e-4]},
    "pruned": {"share": [0.25, 0.5, 0.75]},
}
EPOCHS = {"cnn": [1, 3, 6], "gru": [1, 3, 6], "bag": [1, 3, 6], "layers": [1, 3], "pruned": [0, 1]}
OF_ENCODERS = ("layers", "pruned")  # made of the teacher's own layers
SIZES = ("vocab", "embedding", "hidden", "layers")  # what a recipe says of a student
FIRST = (  # tried before the sampler has a say: one of each kind, so that it has seen them all
    {"kind": "cnn", "vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2, "lr": 2e-3, "alpha": 0.9},
    {"kind": "cnn", "vocab": 4000, "embedding": 64, "hidden": 128, "layers": 2, "lr": 2e-3, "alpha": 0.9},
    {"kind": "bag", "vocab": 8000, "embedding": 64, "hidden": 64, "lr": 4e-3, "alpha": 0.9},
    {"kind": "gru", "vocab": 8000, "embedding": 128, "hidden": 128, "lr": 2e-3, "alpha": 0.9},
    {"kind": "layers", "share": 0.5, "lr": 1e-4},
    {"kind": "pruned", "share": 0.5},
)


def suggest(trial, kinds):
    """A candidate and its number of epochs, as Optuna suggests them. kinds: those that may be suggested"""
    kind = trial.suggest_categorical("kind", list(kinds))
    candidate = {"kind": kind}
    for name, values in SPACE[kind].items():
        candidate[name] = trial.suggest_categorical(f"{kind}.{name}", values)
    return candidate, trial.suggest_categorical(f"{kind}.epochs", EPOCHS[kind])


def sizes_of(candidate):
    """What decides the costs of a candidate: its kind and sizes, not how it is trained."""
    return {name: value for name, value in candidate.items() if name not in ("lr", "alpha")}


def as_params(candidate, epochs):
    """The parameters of an Optuna trial that `suggest` reads this candidate from."""
    kind = candidate["kind"]
    sizes = {f"{kind}.{name}": value for name, value in candidate.items() if name != "kind"}
    return {"kind": kind, **sizes, f"{kind}.epochs": epochs}


def name_of(candidate, epochs):
    """A folder name that says all: "cnn-vocab4000-embedding64-hidden96-layers2-lr0.002-alpha0.9-epochs3"."""
    sizes = [f"{name}{value:g}" for name, value in candidate.items() if name != "kind"]
    return "-".join([candidate["kind"], *sizes, f"epochs{epochs}"])


def recipe_of(candidate, depth):
    """The recipe of a student, as distill.py reads it. depth: how many layers the teacher has"""
    if candidate["kind"] == "layers":
        return "teacher:layers=" + ",".join(map(str, spread_layers(depth, candidate["share"])))
    return candidate["kind"] + ":" + ",".join(f"{name}={candidate[name]}" for name in SIZES if name in candidate)


def spread_layers(depth, share):
    """Which layers of the teacher stay: `share` of them, evenly spread, the last one always: (6, 0.5) -> [1, 3, 5]"""
    count = max(1, round(share * depth))
    return [round((i + 1) * depth / count) - 1 for i in range(count)]


def command_of(candidate, epochs, teacher, depth, out, data, texts):
    """(script, command line) that makes a candidate's folder `out`.

    teacher: the folder that labels the texts, or for "layers" and "pruned" the fp32 teacher itself
    data: the flags of the data    texts: those of --augment and --unlabelled, for students that are quick to train
    """
    kind = candidate["kind"]
    if kind == "pruned":
        recovery = ["--epochs", epochs, "--lr", 1e-4, "--teacher", "self"] if epochs else []
        argv = ["--model", teacher, "--flops", candidate["share"], "--refit", *recovery]
        return "prune", [str(part) for part in (*argv, "--out", out, *data)]
    argv = ["--teacher", teacher, "--student", recipe_of(candidate, depth), "--lr", candidate["lr"], "--epochs", epochs]
    if kind != "layers":
        argv += ["--alpha", candidate["alpha"], "--batch-size", 128, *texts]
    return "distill", [str(part) for part in (*argv, "--out", out, *data)]
