"""The encoder has the logits of `transformers`."""

import pytest
import torch

from pocketbert.models.config import ACTIVATIONS
from pocketbert.models.encoder import ACTIVATIONS as FUNCTIONS
from pocketbert.models.folder import load_model
from small_models import FAMILIES, random_model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers_padded_and_unpadded(family, hf_folder, padded_batch):
    folder, theirs = hf_folder(family)
    model, _ = load_model(folder)
    input_ids, attention_mask = padded_batch
    input_ids = input_ids + theirs.config.pad_token_id * (attention_mask == 0)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids, attention_mask), theirs(input_ids, attention_mask).logits,
                                   atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(input_ids[:1]), theirs(input_ids[:1]).logits, atol=1e-5, rtol=1e-5)


def test_text_longer_than_the_positions_is_an_error_that_names_the_limit():
    model = random_model(family="roberta")
    assert model.config.max_length == 38  # 40 rows, and RoBERTa's first position is 2
    with pytest.raises(ValueError, match="--max-length 38"):
        model(torch.full((1, 39), 5))


def test_every_activation_of_the_config_has_a_function():
    assert tuple(FUNCTIONS) == ACTIVATIONS
