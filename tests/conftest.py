"""Fixtures that every test can afford. Nothing here reaches for the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants the Hub protocol talks to tests/hub_server.py

import pytest
import torch

from pocketbert.data.tokenizer import train_wordpiece
from script_runs import mine  # noqa: F401  (a fixture)
from small_models import TEXTS


@pytest.fixture(scope="session")
def tokenizer():
    return train_wordpiece(TEXTS, vocab_size=60)


@pytest.fixture(scope="session")
def padded_batch():
    """(input_ids, attention_mask): four texts of 9, 7, 4 and 2 tokens, padded to 9. No token is a pad token."""
    torch.manual_seed(1)
    lengths = torch.tensor([9, 7, 4, 2])
    attention_mask = (torch.arange(9)[None] < lengths[:, None]).long()
    return torch.randint(5, 60, (4, 9)) * attention_mask, attention_mask
