"""The house rules that a machine can hold: who imports whom, what an import may do, length of functions, help."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOORS = ["model_utils", "data_utils"]
SCRIPTS = ["train", "prune", "quantize", "distill", "evaluate", "search", "app"]
BELOW = {"root", "data", "models"}
MAY_IMPORT = {  # folder of pocketbert -> the folders that it may import; "root": the files directly in pocketbert/
    "root": {"root"},
    "data": {"root"},
    "models": {"root", "data"},
    "quantization": BELOW,
    "pruning": BELOW,
    "distillation": BELOW,
    "evaluation": BELOW,
    "training": BELOW | {"quantization"},
    "search": BELOW | {"evaluation"},
    "app": BELOW | {"evaluation", "quantization"},
}
MAY_BE_LONG = {"main", "parse_args"}  # a numbered story, a list of flags
TOP_LEVEL = [*DOORS, *SCRIPTS]
MODULES = sorted([*TOP_LEVEL, *(".".join(path.relative_to(ROOT).with_suffix("").parts)
                                for path in ROOT.glob("pocketbert/**/*.py"))])


def tree(module):
    return ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))


def imported(module):
    """The full names of everything a module imports, also inside its functions."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def folder_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or parts[1] in MAY_IMPORT else "root"


def functions(module):
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]


def test_the_top_level_holds_the_scripts_and_the_doors_and_nothing_else():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(TOP_LEVEL)


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("pocketbert")])
def test_a_folder_imports_only_the_folders_that_it_may(module):
    ours = [name for name in imported(module) if name.startswith("pocketbert.")]
    allowed = MAY_IMPORT[folder_of(module)] | {folder_of(module)}
    assert not [name for name in ours if folder_of(name) not in allowed]
    assert not [name for name in imported(module) if name.split(".")[0] in TOP_LEVEL], "imports from the top level"


@pytest.mark.parametrize("module", [*SCRIPTS, *DOORS])
def test_no_script_imports_a_script_and_no_door_a_door(module):
    forbidden = set(DOORS) | set(SCRIPTS) if module in DOORS else set() if module in ("search", "app") else set(SCRIPTS)
    assert not [name for name in imported(module) if name in forbidden]


def test_transformers_is_for_the_tests_alone():
    assert not [module for module in MODULES if "transformers" in {name.split(".")[0] for name in imported(module)}]


def test_importing_everything_prints_nothing_writes_nothing_and_asks_no_server(tmp_path):
    program = ("import sys\n"
               "sys.addaudithook(lambda event, _: event.startswith('socket.') and event != 'socket.__new__'"
               " and print(event))\n"
               f"import {', '.join(module.removesuffix('.__init__') for module in MODULES)}\n"
               "assert 'transformers' not in sys.modules\n")
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=tmp_path, capture_output=True, text=True,
                          env=environment | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", MODULES)
def test_no_function_is_longer_than_fifty_lines(module):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(module) if f.end_lineno - f.lineno >= 50}
    assert not {name: lines for name, lines in long.items()
                if name.removesuffix("_weights").removesuffix("_cluster").removesuffix("_export")
                     .removesuffix("_pareto") not in MAY_BE_LONG}


@pytest.mark.parametrize("module", MODULES)
def test_no_function_below_main_takes_the_parsed_arguments(module):
    takers = [f.name for f in functions(module) if "args" in [a.arg for a in f.args.args + f.args.kwonlyargs]]
    assert not [name for name in takers if not name.startswith("__")]


HELPS = [[script] for script in SCRIPTS] + [["evaluate", "predict"], ["evaluate", "cascade"], ["prune", "weights"],
                                            ["train", "merge"], ["search", "pareto"],
                                            ["quantize", "cluster"], ["quantize", "export"]]


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
    """The docstring of the script, or that of the second program's main (`prune.py weights`: main_weights)."""
    module, parser, text = asked
    second = getattr(module, f"main_{parser.prog.split()[-1]}", None)
    ideas = [module.__doc__] + ([second.__doc__] if second else [])
    assert any(" ".join(idea.split()) in text for idea in ideas if idea)


def test_help_explains_every_flag_and_shows_its_default(asked):
    """No "(default: None)": where nothing is the default, the help says what that means or is silent."""
    _, parser, text = asked
    for action in parser._actions[1:]:  # the first is --help itself
        assert action.help, f"{action.dest} has no help and so shows no default"
        if action.option_strings and action.default not in (None, False, []):
            assert f"(default: {action.default})" in text, action.dest
    assert "(default: None)" not in text


@pytest.mark.parametrize("module", MODULES)
def test_pickles_are_read_with_weights_only(module):
    """A pickle runs what it likes when it is opened; so torch.load must refuse all but tensors."""
    for call in (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)):
        name, options = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name != "torch.load" or options.get("weights_only") == "True", f"line {call.lineno}"
        assert name not in ("pickle.load", "pickle.loads", "joblib.load"), f"line {call.lineno}"
        assert options.get("allow_pickle", "False") == "False", f"line {call.lineno}"
