"""No test of this folder reaches for the network."""

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def repository(name, repo_type="model"):
        raise OSError("the network is off")
    monkeypatch.setattr("pocketbert.data.datasets.repository", repository)
