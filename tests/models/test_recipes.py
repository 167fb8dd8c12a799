"""Recipes: one grammar, sizes, and word vectors that start from a table."""

import pytest
import torch

from pocketbert.errors import UserError
from pocketbert.models.recipes import (
    DEFAULTS,
    build_recurrent,
    model_from_scratch,
    parse_recipe,
    recipe_depth,
    recipe_sizes,
    start_word_vectors,
)
from pocketbert.models.recurrent_config import RECURRENT_KINDS
from small_models import LABELS, RECURRENT, TEXTS, random_recurrent


@pytest.mark.parametrize("recipe, parsed", [
    ("gru", ("gru", {})),
    ("gru:", ("gru", {})),
    ("scratch:layers=4,hidden=256", ("scratch", {"layers": [4], "hidden": [256]})),
    ("scratch:layers=4:hidden=256", ("scratch", {"layers": [4], "hidden": [256]})),
    ("teacher:layers=0,2,5:hidden=192", ("teacher", {"layers": [0, 2, 5], "hidden": [192]})),
    ("teacher:hidden=192,layers=0,2", ("teacher", {"hidden": [192], "layers": [0, 2]}))])
def test_colons_and_commas_part_sizes_and_a_number_alone_continues_a_list(recipe, parsed):
    assert parse_recipe(recipe) == parsed


@pytest.mark.parametrize("recipe", ["gru:3", "gru:hidden=1=2", "gru:hidden=-1", "gru:hidden=", "gru:hidden=x",
                                    "gru:hidden=1,hidden=2", "gru:=3", "gru:hidden=\u0663", "gru:hidden=1e3",
                                    "teacher:layers=0,,x", "gru:hidden=9999999999"])
def test_piece_that_is_no_size_is_named(recipe):
    with pytest.raises(UserError) as error:
        parse_recipe(recipe)
    assert str(error.value).startswith(repr(recipe)) and "is not one of" in str(error.value)


@pytest.mark.parametrize("recipe, depth", [("scratch:layers=3", 3), ("scratch", 4), ("xlstm", 2), ("gru:layers=5", 5),
                                           ("teacher:layers=0,2,5", 3), ("teacher:hidden=192", None)])
def test_depth_of_a_recipe(recipe, depth):
    assert recipe_depth(recipe) == depth


def test_scratch_recipe_has_the_sizes_it_names():
    model, tokenizer = model_from_scratch("scratch:layers=2,hidden=16,heads=2,vocab=60", TEXTS, LABELS)
    assert (len(model.layers), model.config.hidden_size, model.config.intermediate_sizes) == (2, 16, [64, 64])
    assert model.embeddings.word.num_embeddings == tokenizer.vocab_size <= 60


@pytest.mark.parametrize("recipe, complaint", [
    ("scratch:depth=3", "'depth=3'"), ("scratch:layers=0", "above 0"), ("scratch:hidden=10,heads=3", "a multiple"),
    ("scratch:positions=0", "above 0"), ("scratch:heads=0", "above 0"), ("scratch:layers=1,2", "'layers=1,2'")])
def test_impossible_scratch_recipe_says_why(recipe, complaint):
    with pytest.raises(UserError, match=complaint):
        model_from_scratch(recipe, TEXTS, LABELS)


@pytest.mark.parametrize("recipe, complaint", [
    ("lstm:hiden=3", "'hiden=3' is not one of vocab=NUMBER, embedding=NUMBER, hidden=NUMBER, layers=NUMBER"),
    ("gru:heads=2", "'heads=2'"), ("bag:ngrams=x", "'ngrams=x'"), ("lstm:hidden", "'hidden'"), ("mamba", "'mamba'"),
    ("xlstm:heads=3", "not a multiple"), ("rwkv:layers=0", "num_layers is 0"), ("bag:ngrams=0", "ngrams is 0"),
    ("cnn:width=2", "not odd"), ("gru:width=3", "'width=3'")])
def test_wrong_recipe_says_what_is_allowed(recipe, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        build_recurrent(recipe, 60, 0, LABELS)
    assert str(error.value).startswith(repr(recipe)) and "\n" not in str(error.value)


def test_every_default_builds():
    for kind in RECURRENT_KINDS:
        assert build_recurrent(kind, 50, 0, LABELS).config.kind == kind
    assert recipe_sizes("gru:vocab=500") == ("gru", DEFAULTS["gru"] | {"vocab": 500})


def test_table_of_equal_width_is_copied():
    table = torch.randn(60, 6)
    model = start_word_vectors(random_recurrent(RECURRENT["lstm"]), table)
    assert torch.equal(model.embeddings.word.weight, table)
    assert model.embeddings.word.weight.requires_grad and model.embeddings.word.weight.is_leaf


@pytest.mark.parametrize("recipe", [RECURRENT["rwkv"], RECURRENT["cnn"], RECURRENT["bag"]])
def test_wide_table_is_projected_on_its_first_singular_directions(recipe):
    torch.manual_seed(0)
    table = torch.randn(60, 20) * torch.linspace(3, 0.1, 20) + 7  # the mean is larger than what tells words apart
    words = start_word_vectors(random_recurrent(recipe), table).embeddings.word.weight.detach()
    U, S, _ = torch.linalg.svd(table - table.mean(dim=0), full_matrices=False)
    best = U[:, :6] * S[:6]
    torch.testing.assert_close(words @ words.T / words.square().sum(), best @ best.T / best.square().sum(),
                               atol=1e-5, rtol=1e-4)
    assert words.std().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("shape", [(60, 5), (59, 6)])
def test_table_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=rf"\({shape[0]}, {shape[1]}\)"):
        start_word_vectors(random_recurrent(RECURRENT["lstm"]), torch.zeros(shape))
