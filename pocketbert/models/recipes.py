"""Models that are made, not found: 'scratch:layers=4,hidden=256', 'gru:hidden=256', 'teacher:layers=0,2'."""

import re

import torch

from pocketbert.data.tokenizer import train_wordpiece
from pocketbert.errors import UserError
from pocketbert.models.config import EncoderConfig
from pocketbert.models.encoder import Encoder, init_weights
from pocketbert.models.recurrent import RECURRENT_KINDS, RecurrentClassifier, RecurrentConfig
from pocketbert.models.surgery import keep_layers, narrow
from pocketbert.models.svd import narrow_table

RECIPES = ("scratch", *RECURRENT_KINDS)  # names of models that are made, not found

SCRATCH_DEFAULTS = {"layers": 4, "hidden": 128, "heads": 4, "ffn": 0, "vocab": 8000, "positions": 512}


def parse_recipe(recipe, defaults):
    """'scratch:layers=4,hidden=256' -> the defaults with these two changed."""
    values = dict(defaults)
    for part in filter(None, recipe.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in defaults or not value.isdigit():
            raise UserError(f"{recipe!r}: {part!r} is not one of "
                             f"{', '.join(f'{k}=NUMBER' for k in defaults)}")
        values[key] = int(value)
    return values


def model_from_scratch(recipe, texts, label_names):
    """A model with random weights and a WordPiece vocabulary trained on the texts.

    'scratch:layers=4,hidden=256' is a BERT; 'lstm', 'gru:hidden=256', 'xlstm', 'rwkv', 'bag:ngrams=2' see recurrent.py.
    """
    if recipe.partition(":")[0] in RECURRENT_KINDS:
        _, size = parse_recurrent_recipe(recipe)
        tokenizer = train_wordpiece(texts, vocab_size=size["vocab"])
        return build_recurrent(recipe, tokenizer.vocab_size, tokenizer.pad_id, label_names), tokenizer
    size = parse_recipe(recipe, SCRATCH_DEFAULTS)
    if size["hidden"] % size["heads"] or not min(size["layers"], size["hidden"], size["heads"], size["vocab"]):
        raise UserError(f"{recipe!r}: layers, hidden, heads and vocab must be above 0 and hidden "
                         f"({size['hidden']}) a multiple of heads ({size['heads']})")
    tokenizer = train_wordpiece(texts, vocab_size=size["vocab"])
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=size["hidden"], head_size=size["hidden"] // size["heads"],
        num_heads=[size["heads"]] * size["layers"],
        intermediate_sizes=[size["ffn"] or 4 * size["hidden"]] * size["layers"],
        max_position_embeddings=size["positions"], pad_token_id=tokenizer.pad_id,
        label_names=list(label_names))
    # 1 / sqrt(3 hidden) is BERT's 0.02 at BERT's width of 768; a narrow model needs larger numbers to learn.
    return init_weights(Encoder(config), std=(3 * size["hidden"]) ** -0.5).eval(), tokenizer


RECURRENT_DEFAULTS = {  # what a recipe may change; vocab is for whoever makes the tokenizer
    "lstm": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 1},
    "gru": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 1},
    "xlstm": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2, "heads": 4},
    "rwkv": {"vocab": 8000, "embedding": 128, "hidden": 128, "layers": 2},
    # Words alone: on 24,000 tweets n-grams gained nothing. Ye et al.'s student, with a teacher and many more texts,
    # is bag:ngrams=3.
    "bag": {"vocab": 8000, "embedding": 64, "hidden": 64, "layers": 1, "ngrams": 1, "buckets": 131072},
}


def parse_recurrent_recipe(recipe):
    """'gru:hidden=256,layers=2' -> ("gru", the defaults with these two changed)"""
    kind, _, changes = recipe.partition(":")
    if kind not in RECURRENT_DEFAULTS:
        raise UserError(f"{recipe!r}: {kind!r} is not one of {', '.join(RECURRENT_DEFAULTS)}")
    sizes = dict(RECURRENT_DEFAULTS[kind])
    for part in filter(None, changes.split(",")):
        key, _, value = part.partition("=")
        if key not in sizes or not value.isdecimal():
            raise UserError(f"{recipe!r}: {part!r} is not one of {', '.join(f'{k}=NUMBER' for k in sizes)}")
        sizes[key] = int(value)
    return kind, sizes


def build_recurrent(recipe, vocab_size, pad_id, label_names):
    """A new model with random weights from a recipe: 'lstm', 'xlstm:layers=4,heads=2', 'bag:ngrams=1,hidden=16'."""
    kind, sizes = parse_recurrent_recipe(recipe)
    config = RecurrentConfig(
        kind=kind, vocab_size=vocab_size, embedding_size=sizes["embedding"], hidden_size=sizes["hidden"],
        num_layers=sizes["layers"], num_heads=sizes.get("heads", 1), ngrams=sizes.get("ngrams", 1),
        buckets=sizes.get("buckets", 0), pad_token_id=pad_id, label_names=list(label_names),
        hidden_dropout=0.1 if kind == "bag" else 0.3)  # on tweets, 0.3 of the words cost a bag 2 points
    try:
        return RecurrentClassifier(config.check()).eval()
    except ValueError as error:
        raise UserError(f"{recipe!r}: {error}") from None


@torch.no_grad()
def start_word_vectors(model, table, rows=None):
    """Let the words' vectors start from a pretrained model's table (V, d), in place.

    Of equal width: a copy. Narrower: the first components of the table's singular value decomposition,

        table - mean = U S V^T,      words = (U S)[:, :embedding_size], scaled to the spread of fresh vectors,

    which keep the distances between words as well as so few numbers can.
    rows: (vocab_size,) which row of the table each word takes; None: the two vocabularies are the same.
    """
    word, table = model.embeddings.word.weight, table.detach().float().to(model.device)
    if rows is not None:
        table = table[torch.as_tensor(rows, device=table.device)]
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

    It starts far ahead of random weights, and the teacher's tokenizer is its own. hidden: narrower vectors, on the
    directions in which the teacher's word table is widest (SVD).
    """
    parts = dict(part.partition("=")[::2] for part in recipe.split(":")[1:])
    numbers, width = parts.get("layers", ",".join(map(str, range(len(teacher.layers))))), parts.get("hidden")
    kept = [int(number) for number in numbers.split(",")] if re.fullmatch(r"\d+(,\d+)*", numbers) else []
    if not parts or set(parts) - {"layers", "hidden"} or kept != sorted(set(kept)) or not kept \
            or kept[-1] >= len(teacher.layers):
        raise UserError(f"--student {recipe!r}: layers=... must name layers from 0 to {len(teacher.layers) - 1} in "
                         f"rising order, e.g. teacher:layers=0,{len(teacher.layers) - 1} or teacher:hidden=128")
    student = keep_layers(teacher, kept)
    if width is None:
        return student
    if not width.isdigit() or not 0 < int(width) < teacher.config.hidden_size:
        raise UserError(f"--student {recipe!r}: hidden must be below the teacher's {teacher.config.hidden_size}")
    return narrow(student, narrow_table(teacher.embeddings.word.weight.detach(), int(width))[1])
