"""run.json: the digest of the code."""

import shutil
from pathlib import Path

import pocketbert.provenance
from pocketbert.provenance import code_digest


def test_code_digest_changes_with_any_source_file_and_its_name(tmp_path, monkeypatch):
    (tmp_path / "pocketbert" / "distillation").mkdir(parents=True)
    shutil.copy(Path(pocketbert.provenance.__file__), tmp_path / "pocketbert")
    losses = tmp_path / "pocketbert" / "distillation" / "losses.py"
    losses.write_text("T = 2\n")
    monkeypatch.setattr(pocketbert.provenance, "__file__", str(tmp_path / "pocketbert" / "provenance.py"))
    first = code_digest()
    assert code_digest() == first
    losses.write_text("T = 4\n")
    second = code_digest()
    losses.rename(losses.with_name("loss.py"))
    assert len({first, second, code_digest()}) == 3
