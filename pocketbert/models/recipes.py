"""Models that are made, not found: 'scratch:layers=4,hidden=256', 'gru:hidden=256', 'teacher:layers=0,2'.

The grammar of a recipe: the kind, a colon, then sizes. ':' and ',' both part two pieces; a piece without '=' continues
the list before it.

    scratch:layers=4,hidden=256          ("scratch", {"layers": [4], "hidden": [256]})
    teacher:layers=0,2,5:hidden=192      ("teacher", {"layers": [0, 2, 5], "hidden": [192]})
"""

import torch

from pocketbert.data.tokenizer import train_wordpiece
from pocketbert.errors import UserError
from pocketbert.models.config import EncoderConfig
from pocketbert.models.config_values import naming
from pocketbert.models.encoder import Encoder, init_weights
from pocketbert.models.recurrent import recurrent_model
from pocketbert.models.recurrent_config import RECURRENT_KINDS, RecurrentConfig
from pocketbert.models.surgery import keep_layers, narrow
from pocketbert.models.svd import narrow_table

RECIPES = ("scratch", *RECURRENT_KINDS)  # the kinds of new models; 'teacher:...' is made of a model that is there

DEFAULTS = {  # kind -> the sizes that a recipe may change; ffn 0: four times hidden
    "scratch": {"layers": 4, "hidden": 128, "heads": 4, "ffn": 0, "vocab": 8000, "positions": 512},
    "lstm": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 1},
    "gru": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 1},
    "xlstm": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2, "heads": 4},
    "rwkv": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2},
    "cnn": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2, "width": 3},
    # Words alone: on 24,000 tweets n-grams gained nothing. Ye et al.'s student, with a teacher and many more texts,
    # is bag:ngrams=3.
    "bag": {"vocab": 8000, "embedding": 64, "hidden": 64, "layers": 1, "ngrams": 1, "buckets": 131072},
}


def parse_recipe(recipe):
    """'teacher:layers=0,2,5:hidden=192' -> ("teacher", {"layers": [0, 2, 5], "hidden": [192]})"""
    kind, *pieces = recipe.replace(",", ":").split(":")
    sizes = {}
    key = None
    for piece in filter(None, pieces):
        name, equals, value = piece.rpartition("=")
        if equals:
            key = name
        is_number = value.isascii() and value.isdigit() and len(value) <= 9
        if not is_number or not (key or "").isidentifier() or (equals and key in sizes):
            raise wrong_size(recipe, kind, piece)
        sizes.setdefault(key, []).append(int(value))
    return kind, sizes


def wrong_size(recipe, kind, piece):
    """The error for a piece of a recipe that is no size of its kind."""
    names = DEFAULTS.get(kind, ("layers", "hidden"))
    return UserError(f"{recipe!r}: {piece!r} is not one of {', '.join(f'{name}=NUMBER' for name in names)}")


def recipe_sizes(recipe):
    """The sizes of a new model: 'gru:hidden=256,layers=2' -> ("gru", the defaults with these two changed)."""
    kind, given = parse_recipe(recipe)
    if kind not in DEFAULTS:
        raise UserError(f"{recipe!r}: {kind!r} is not one of {', '.join(DEFAULTS)}")
    sizes = dict(DEFAULTS[kind])
    for key, numbers in given.items():
        if key not in sizes or len(numbers) > 1:
            raise wrong_size(recipe, kind, f"{key}={','.join(map(str, numbers))}")
        sizes[key] = numbers[0]
    return kind, sizes


def recipe_depth(recipe):
    """How many layers the model of a recipe has. None: as many as its teacher, for 'teacher:hidden=128'."""
    kind, given = parse_recipe(recipe)
    if kind == "teacher":
        return len(given["layers"]) if "layers" in given else None
    return recipe_sizes(recipe)[1]["layers"]


def model_from_scratch(recipe, texts, label_names):
    """A model with random weights and a WordPiece vocabulary trained on the texts: (model, tokenizer).

    'scratch:layers=4,hidden=256' is a BERT; for 'lstm', 'gru:hidden=256', 'xlstm', 'rwkv', 'bag:ngrams=2' see
    recurrent.py.
    """
    kind, sizes = recipe_sizes(recipe)
    if kind == "scratch":
        check_encoder_sizes(recipe, sizes)
    tokenizer = train_wordpiece(texts, vocab_size=sizes["vocab"])
    build = build_encoder if kind == "scratch" else build_recurrent
    return build(recipe, tokenizer.vocab_size, tokenizer.pad_id, label_names), tokenizer


def check_encoder_sizes(recipe, sizes):
    """Raise a UserError for sizes that make no encoder."""
    smallest = min(sizes[name] for name in ("layers", "hidden", "heads", "vocab", "positions"))
    if not smallest or sizes["hidden"] % sizes["heads"]:
        raise UserError(f"{recipe!r}: layers, hidden, heads, vocab and positions must be above 0 and hidden "
                        f"({sizes['hidden']}) a multiple of heads ({sizes['heads']})")


def build_encoder(recipe, vocab_size, pad_id, label_names):
    """A BERT with random weights from a recipe: 'scratch:layers=4,hidden=256'."""
    _, sizes = recipe_sizes(recipe)
    check_encoder_sizes(recipe, sizes)
    config = EncoderConfig(
        vocab_size=vocab_size, hidden_size=sizes["hidden"], head_size=sizes["hidden"] // sizes["heads"],
        num_heads=[sizes["heads"]] * sizes["layers"],
        intermediate_sizes=[sizes["ffn"] or 4 * sizes["hidden"]] * sizes["layers"],
        max_position_embeddings=sizes["positions"], pad_token_id=pad_id, label_names=list(label_names))
    # 1 / sqrt(3 hidden) is BERT's 0.02 at BERT's width of 768; a narrow model needs larger numbers to learn.
    return init_weights(Encoder(config), std=(3 * sizes["hidden"]) ** -0.5).eval()


def build_recurrent(recipe, vocab_size, pad_id, label_names):
    """A model without attention, with random weights: 'lstm', 'xlstm:layers=4,heads=2', 'bag:ngrams=1,hidden=16'."""
    kind, sizes = recipe_sizes(recipe)
    config = RecurrentConfig(
        kind=kind, vocab_size=vocab_size, embedding_size=sizes["embedding"], hidden_size=sizes["hidden"],
        num_layers=sizes["layers"], num_heads=sizes.get("heads", 1), ngrams=sizes.get("ngrams", 1),
        buckets=sizes.get("buckets", 0), width=sizes.get("width", 3), pad_token_id=pad_id,
        label_names=list(label_names),
        hidden_dropout=0.1 if kind == "bag" else 0.3)  # on tweets, 0.3 of the words cost a bag 2 points
    with naming(repr(recipe)):
        config.check()
    return recurrent_model(config).eval()


@torch.no_grad()
def start_word_vectors(model, table):
    """Let the words' vectors start from a pretrained model's table (V, d), in place; row i is word i of both.

    Of equal width: a copy. Narrower: the first components of the table's singular value decomposition,

        table - mean = U S V^T,      words = (U S)[:, :embedding_size], scaled to the spread of fresh vectors,

    which keep the distances between words as well as so few numbers can.
    """
    word = model.embeddings.word.weight
    table = table.detach().float().to(model.device)
    if len(table) != len(word) or table.shape[1] < word.shape[1]:
        raise UserError(f"a table of {tuple(table.shape)} cannot start word vectors of {tuple(word.shape)}: rows "
                        "must agree and it must be as wide at least; build the model with a smaller embedding")
    if table.shape[1] > word.shape[1]:
        table = table - table.mean(dim=0)  # the mean tells no words apart, but would be the first component
        table, _ = narrow_table(table, word.shape[1])
        table = table * (0.1 / table.std())
    word.copy_(table)
    return model


def student_of_teacher(recipe, teacher):
    """'teacher:layers=0,2,5:hidden=192' -> a student made of the teacher's embeddings, these layers and its head.

    Its first predictions are far better than those of random weights, and the teacher's tokenizer is its own. hidden:
    narrower vectors, in the directions in which the teacher's word table is widest (SVD).
    """
    depth = len(teacher.layers)
    possible = (f"layers=... must name layers from 0 to {depth - 1} in rising order, "
                f"e.g. teacher:layers=0,{depth - 1} or teacher:hidden=128")
    try:
        _, given = parse_recipe(recipe)
    except UserError as error:
        raise UserError(f"--student {error}: {possible}") from None
    kept = given.get("layers", list(range(depth)))
    if not given or set(given) - {"layers", "hidden"} or kept != sorted(set(kept)) or kept[-1] >= depth:
        raise UserError(f"--student {recipe!r}: {possible}")
    student = keep_layers(teacher, kept)
    if "hidden" not in given:
        return student
    [width, *more] = given["hidden"]
    if more or not 0 < width < teacher.config.hidden_size:
        raise UserError(f"--student {recipe!r}: hidden must be below the teacher's {teacher.config.hidden_size}")
    _, projection = narrow_table(teacher.embeddings.word.weight.detach(), width)
    return narrow(student, projection)
