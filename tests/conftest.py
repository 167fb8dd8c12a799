"""Fixtures that every test can use, one thread for each test process, and which tests run whole scripts.

No test connects to another machine: a test of the Hub protocol talks to tests/hub_server.py.
"""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is imported. Tests run side by side, and the threads of processes that share a core wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from fake_wandb import wandb  # noqa: F401  (a fixture)
from pocketbert.data.tokenizer import train_wordpiece
from script_runs import mine  # noqa: F401  (a fixture)
from small_models import TEXTS

torch.set_num_threads(1)
TESTS = Path(__file__).parent
SCRIPTS = [path.stem for path in TESTS.parent.glob("*.py")]
# Files and folders of tests that run scripts, a server, other runtimes or many processes, beside tests/test_SCRIPT*.py.
END_TO_END = ("chain", "hub", "models/test_save.py", "quantization/test_graph.py", "test_imports.py",
              "test_text_length.py")


def is_end_to_end(path):
    """Is this a test file of whole scripts, or one of END_TO_END?"""
    path = path.relative_to(TESTS)
    of_a_script = path.stem.startswith(tuple(f"test_{script}" for script in SCRIPTS))
    return (len(path.parts) == 1 and of_a_script) or any(path.is_relative_to(name) for name in END_TO_END)


def pytest_configure(config):
    config.addinivalue_line("markers", "end_to_end: runs whole scripts (make test-end-to-end)")


def pytest_collection_modifyitems(items):
    for item in items:
        if is_end_to_end(item.path):
            item.add_marker(pytest.mark.end_to_end)


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
