"""The house rules that a machine can hold: who imports whom, what an import may do, help, length, pickles."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [["search"],
          ["train", "prune", "quantize", "distill", "evaluate"],
          ["teachers", "cascade"],
          ["train_utils"],
          ["pruning", "vocabulary"],
          ["model_utils"],
          ["sparsity", "quantization", "recurrent", "runtimes"],
          ["encoder", "layers", "text_utils", "measure_utils", "report_utils", "data_utils", "distillation",
           "augmentation"],
          ["table_utils", "hub_utils", "demo_data", "file_utils"]]
ALONE = ["encoder", "layers", "text_utils", "measure_utils", "report_utils", "distillation", "augmentation"]
FLOOR = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
SCRIPTS = [*LAYERS[0], *LAYERS[1]]


def tree(module):
    return ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))


def imported(module):
    """Top names of everything a module imports, also inside its functions."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_module_has_its_place_in_the_diagram():
    assert MODULES == sorted(FLOOR)


@pytest.mark.parametrize("module", FLOOR)
def test_imports_point_downwards_only(module):
    ours = {name for name in imported(module) if name in FLOOR}
    assert not {name for name in ours if FLOOR[name] <= FLOOR[module]}, "imports from its own floor or from above"
    assert not (module in ALONE and ours), "imports something of ours: its reader should need one file"


def test_transformers_is_for_the_tests_alone():
    assert not [module for module in MODULES if "transformers" in imported(module)]


def test_importing_everything_prints_nothing_writes_nothing_and_asks_no_server(tmp_path):
    program = ("import sys\n"
               "sys.addaudithook(lambda event, _: event.startswith('socket.') and event != 'socket.__new__'"
               " and print(event))\n"
               f"import {', '.join(MODULES)}\n"
               "assert 'transformers' not in sys.modules\n")
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=tmp_path, capture_output=True, text=True,
                          env=environment | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


HELPS = [[script] for script in SCRIPTS] + [["evaluate", "predict"]]


@pytest.fixture(params=HELPS, ids=" ".join)
def asked(request, monkeypatch):
    """(module, parser, help) of a script that is called with --help."""
    parsers, module = [], importlib.import_module(request.param[0])
    monkeypatch.setattr("argparse.ArgumentParser.print_help", lambda parser, file=None: parsers.append(parser))
    with pytest.raises(SystemExit) as done:
        module.main([*request.param[1:], "--help"])
    assert done.value.code == 0
    return module, parsers[0], " ".join(parsers[0].format_help().split())


def test_help_tells_the_idea(asked):
    module, _, text = asked
    assert " ".join(module.__doc__.split()) in text


def test_help_explains_every_flag_and_shows_its_default(asked):
    """No "(default: None)": where nothing is the default, the help says what that means or is silent."""
    _, parser, text = asked
    for action in parser._actions[1:]:  # the first is --help itself
        assert action.help, f"{action.dest} has no help and so shows no default"
        if action.option_strings and action.default not in (None, False, []):
            assert f"(default: {action.default})" in text, action.dest
    assert "(default: None)" not in text


def test_no_file_is_longer_than_600_lines():
    files = [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")]
    assert not {path.name: lines for path in files if (lines := len(path.read_text().splitlines())) > 600}


@pytest.mark.parametrize("module", MODULES)
def test_pickles_are_read_with_weights_only(module):
    """A pickle runs what it likes when it is opened; so torch.load must refuse all but tensors."""
    for call in (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)):
        name, options = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name != "torch.load" or options.get("weights_only") == "True", f"line {call.lineno}"
        assert name not in ("pickle.load", "pickle.loads", "joblib.load"), f"line {call.lineno}"
        assert options.get("allow_pickle", "False") == "False", f"line {call.lineno}"
