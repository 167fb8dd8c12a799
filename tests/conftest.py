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

from pocketbert.data.tokenizer import train_wordpiece
from script_runs import mine  # noqa: F401  (a fixture)
from small_models import TEXTS

torch.set_num_threads(1)
TESTS = Path(__file__).parent
SCRIPTS = [path.stem for path in TESTS.parent.glob("*.py")]
END_TO_END = ("chain", "hub")  # folders of tests that run scripts or a server


def runs_scripts(path):
    """Is this a test file of whole scripts: tests/test_SCRIPT*.py, tests/chain/, tests/hub/?"""
    path = path.relative_to(TESTS)
    of_a_script = path.stem.startswith(tuple(f"test_{script}" for script in SCRIPTS))
    return path.parts[0] in END_TO_END or (len(path.parts) == 1 and of_a_script)


def pytest_configure(config):
    config.addinivalue_line("markers", "end_to_end: runs whole scripts (make test-end-to-end)")


def pytest_collection_modifyitems(items):
    for item in items:
        if runs_scripts(item.path):
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
