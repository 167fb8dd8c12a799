"""What a command loads: packages that it does not need would double the time until it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from pocketbert.models.folder import save_model
from small_models import random_model

ROOT = Path(__file__).parent.parent


def loaded(script, *argv):
    """The top-level names of all modules that a script loads, and torch._dynamo if it is among them."""
    program = (f"import runpy, sys; sys.argv = {[script, *map(str, argv)]!r}\n"
               "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
               "except SystemExit as end: assert not end.code\n"
               "finally: print('LOADED', *sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.splitlines()[-1].split()
    assert modules[0] == "LOADED" and "torch" in modules
    return {name.split(".")[0] for name in modules} | ({"torch._dynamo"} & set(modules))


@pytest.mark.parametrize("script", ["train.py", "prune.py", "quantize.py", "distill.py", "evaluate.py"])
def test_help_loads_no_package_of_the_plots_the_search_or_the_runtimes(script):
    unneeded = {"matplotlib", "optuna", "wandb", "onnx", "onnxruntime", "openvino", "sklearn", "scipy",
                "huggingface_hub", "torch._dynamo"}
    assert not loaded(script, "--help") & unneeded


def test_predict_loads_nothing_of_the_report(tmp_path, tokenizer):
    save_model(random_model(), tokenizer, tmp_path / "model", run={})
    assert not loaded("evaluate.py", "predict", "--model", tmp_path / "model", "a text") & {
        "sklearn", "scipy", "matplotlib", "huggingface_hub", "torch._dynamo"}
