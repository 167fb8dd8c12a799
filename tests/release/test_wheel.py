"""The wheel, in an environment that has nothing but what it asks for."""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from pocketbert.models.folder import save_model
from pocketbert.quantization.export import export_graph
from pocketbert.quantization.web import PAGE
from small_models import TEXTS, random_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment with the wheel and its extra `onnx`."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("pocketbert-*.whl")
    assert {f"pocketbert/quantization/browser/{name}" for name in PAGE} < set(zipfile.ZipFile(wheel).namelist())
    venv.create(folder / "env", with_pip=True)
    interpreter = folder / "env" / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", f"{wheel}[onnx]"], check=True)
    return interpreter


@pytest.fixture
def exported(tmp_path, tokenizer):
    model = random_model(vocab_size=max(tokenizer.vocab_size, 60))
    (tmp_path / "graph").mkdir()
    export_graph(model, "onnx-int8", tmp_path / "graph")
    save_model(model, tokenizer, tmp_path / "model", run={}, graph=("onnx-int8", tmp_path / "graph"))
    return tmp_path / "model"


def test_an_exported_folder_is_answered_in_an_environment_without_torch(python, exported, tmp_path):
    program = ("import importlib.util, json; assert importlib.util.find_spec('torch') is None; "
               f"from pocketbert import Classifier; print(json.dumps(Classifier({str(exported)!r})({TEXTS!r})))")
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == len(TEXTS) and all(abs(sum(a["probabilities"].values()) - 1) < 1e-5 for a in answers)


def test_a_folder_of_torch_says_which_extra_it_needs(python, tmp_path, tokenizer):
    save_model(random_model(vocab_size=max(tokenizer.vocab_size, 60)), tokenizer, tmp_path / "model", run={})
    program = f"from pocketbert import Classifier; Classifier({str(tmp_path / 'model')!r})"
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert "pip install 'pocketbert[torch]'" in done.stderr.splitlines()[-1]
