"""kill -9 at random moments: does the same command, given again, end as if nothing had happened?

For train, prune, quantize, distill, search and make, on a tiny dataset: the command runs once undisturbed (the
reference) and then many times in a folder of its own, where its whole process group is killed

    any       at a moment that is uniform over the time of the reference, or
    writing   within 50 ms after a file or a folder has appeared, because most of the time nothing is being written

In half of the cases the folder holds a finished older model (of another seed) when the command starts. After the kill a
model folder must hold the old model, the new one, an interrupted save that load_model refuses, or nothing: never a
mixture. Then the command runs again. It must succeed, and leave the weights of the reference (not for search, whose
sampler goes on with another seed: there, the best trial's model must be in best/) and exactly the files of the
reference.

    python benchmarks/kills.py --kills 100

Writes kills.md and kills.json.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.data.demo import generate
from pocketbert.errors import UserError
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import read_json, write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.models.folder import load_model
from pocketbert.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
TINY = "scratch:layers=2,hidden=16,heads=2,vocab=200"
CHAIN = ["teacher", "pruned", "int8", "pruned-int8", "student", "student-alone", "cnn", "pocket"]
FAULTS = ["a mixture", "does not end", "other weights", "other files"]


@dataclass
class Step:
    """A command, and what it leaves."""

    name: str
    command: list[str]  # {out}: its folder, {data} and {teacher}: what it reads, {seed}
    models: list[str]  # the model folders below {out}
    deterministic: bool = True


def all_steps():
    train = "--data {data} --seed {seed} --epochs 2 --lr 1e-2 --batch-size 16"
    settings = ["DATA={data}", "RUNS={out}", "SEED={seed}", f"MODEL={TINY}", "STUDENT=teacher:layers=0",
                "TRAIN_FLAGS=--epochs 2 --lr 1e-2", "PRUNE_FLAGS=--heads 0.5 --ffn 0.5 --epochs 1 --samples 64",
                "DISTILL_FLAGS=--epochs 1 --lr 5e-3", "POCKET=cnn:vocab=200,hidden=8,embedding=8",
                "POCKET_FLAGS=--epochs 1 --lr 5e-3", "EVALUATE_FLAGS=--timed 2 --quick", f"PYTHON={sys.executable}"]
    python = [sys.executable]
    return [
        Step("train", [*python, "train.py", "--model", TINY, "--out", "{out}/m", *train.split()], ["m"]),
        Step("prune", [*python, "prune.py", "--model", "{teacher}", "--out", "{out}/m", "--heads", "0.5", "--ffn",
                       "0.5", *train.split()], ["m"]),
        Step("quantize", [*python, "quantize.py", "--model", "{teacher}", "--out", "{out}/m", "--data", "{data}",
                          "--force"], ["m"]),
        Step("distill", [*python, "distill.py", "--teacher", "{teacher}", "--student", "bag:hidden=8,embedding=8",
                         "--out", "{out}/m", "--control", "--seeds", "2", *train.split()], ["m", "m-alone"]),
        Step("search", [*python, "search.py", "train", "--model", TINY, "--trials", "3", "--out", "{out}/s",
                        "--minutes", "0", *train.split()], ["s/best"], deterministic=False),
        Step("make", ["make", "-C", str(ROOT), "-o", ".venv/.installed", "all", *settings], CHAIN),
    ]


def fill(command, **values):
    """The command with its {names} replaced."""
    for name, value in values.items():
        command = [word.replace(f"{{{name}}}", str(value)) for word in command]
    return command


def start(command, log):
    """The command as a process group of its own; what it prints is appended to the file `log`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "a", encoding="utf-8") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)


def names_in(folder):
    """The names of all files and folders below `folder`.

    The cached logits of a teacher are left out: those of an earlier teacher stay, and their names are hashes.
    """
    names = set()
    for root, folders, files in os.walk(folder):  # passes over a folder that is removed meanwhile, unlike rglob
        names |= {os.path.relpath(os.path.join(root, name), folder) for name in folders + files}
    return {name for name in names if not re.fullmatch(r"teacher_logits/[0-9a-f]{16}\.safetensors", name)}


def digest(folder):
    """The SHA-256 of a folder's weights: tensors, or the graph of an exported model."""
    name = "model.onnx" if (folder / "model.onnx").is_file() else "model.safetensors"
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def weights_in(folder, models):
    """{model folder: hash of its weights}, for those that have a run.json."""
    found = {}
    for model in models:
        if (Path(folder) / model / "run.json").is_file():
            found[model] = digest(Path(folder) / model)
    return found


def kill_at_random(process, folder, seconds, moment, rng):
    """Kill the process group. False: it had ended before."""
    if moment == "any":
        time.sleep(rng.uniform(0, seconds))
    else:
        changes = rng.randint(1, 12)  # which change of the names is the last one that it sees
        before = names_in(folder)
        while changes and process.poll() is None:
            after = names_in(folder)
            changes -= after != before
            before = after
        time.sleep(rng.uniform(0, 0.05))
    ended = process.poll() is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    return not ended


def state_of(folder, old, new):
    """What a model folder holds after a kill: "nothing", "the old model", "the new model", "refused" or "a mixture".

    old, new: the hashes of the weights that it may have
    """
    if not (folder / "config.json").exists() and not (folder / "run.json").exists():
        return "nothing"
    try:
        load_model(folder)
    except (UserError, OSError):
        return "refused"
    found = digest(folder)
    if found == new:
        return "the new model"
    return "the old model" if found == old else "a mixture"


def best_is_kept(folder):
    """Does search.py's best/ hold the model of the best trial, and are all trials done?"""
    import optuna
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/s/study.db")
    done = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    return len(done) == 3 and read_json(f"{folder}/s/best/run.json")["trial"] == study.best_trial.number


def find_faults(step, folder, code, reference, names):
    """What is wrong after the command has run again.

    code: its exit code    reference, names: the weights and the files that should be there
    """
    if code != 0:
        return ["does not end"]
    faults = []
    right = weights_in(folder, step.models) == reference if step.deterministic else best_is_kept(folder)
    if not right:
        faults.append("other weights")
    if names_in(folder) != names:
        faults.append("other files")
    return faults


def kill_once(step, place, reference, rng):
    """Kill the step's command once, run it again, and compare. None: it had ended before the kill.

    reference: {"seconds", "names", "weights", "old"} of the undisturbed runs; old: a finished folder of another seed
    """
    folder = place["work"] / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    over_old = step.deterministic and rng.random() < 0.5
    if over_old:
        shutil.copytree(reference["old"], folder)
    moment = rng.choice(["any", "writing"])
    command = fill(step.command, out=folder, seed=0, **place["reads"])
    log = place["work"] / "log"
    log.write_text("")
    process = start(command, log)
    if not kill_at_random(process, folder, reference["seconds"], moment, rng):
        return None
    old = weights_in(reference["old"], step.models) if over_old else {}
    states = [state_of(folder / model, old.get(model), reference["weights"].get(model)) for model in step.models
              if step.deterministic]
    code = start(command, log).wait()
    faults = find_faults(step, folder, code, reference["weights"], reference["names"])
    if "a mixture" in states:
        faults.append("a mixture")
    result = {"step": step.name, "moment": moment, "over an old folder": over_old, "states": states, "faults": faults}
    if faults:
        names = names_in(folder)
        result |= {"missing": sorted(reference["names"] - names), "left over": sorted(names - reference["names"]),
                   "log": log.read_text()[-2000:]}
    return result


def run_reference(step, place):
    """Run the step undisturbed with the seeds 0 and 1: what the killed runs are compared with."""
    folders = {}
    log = place["work"] / "log"
    for seed in (1, 0):
        folder = place["work"] / f"{step.name}-{seed}"
        started = time.monotonic()
        code = start(fill(step.command, out=folder, seed=seed, **place["reads"]), log).wait()
        assert code == 0, log.read_text()[-2000:]
        folders[seed] = folder
    return {"seconds": time.monotonic() - started, "names": names_in(folders[0]), "old": folders[1],
            "weights": weights_in(folders[0], step.models)}


def prepare(work):
    """The data and the teacher that the steps read: {"work", "reads": {"data", "teacher"}}."""
    rows = [f'"{text.replace(chr(34), "")}",{label}' for text, label in generate(seed=0, train=120)["train"]]
    (work / "tiny.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    place = {"work": work, "reads": {"data": work / "tiny.csv", "teacher": work / "teacher" / "m"}}
    command = fill(all_steps()[0].command, out=work / "teacher", seed=5, **place["reads"])
    code = start(command, work / "log").wait()
    assert code == 0, (work / "log").read_text()
    return place


def page(result):
    """The text of kills.md."""
    rows = [["step", "kills", "any", "writing", "over an old folder", "old", "new", "refused", "nothing", *FAULTS]]
    steps = dict.fromkeys(kill["step"] for kill in result["kills"])
    for name in [*steps, "all"]:
        kills = [kill for kill in result["kills"] if name in (kill["step"], "all")]
        states = Counter(state for kill in kills for state in kill["states"])
        faults = Counter(fault for kill in kills for fault in kill["faults"])
        moments = Counter(kill["moment"] for kill in kills)
        rows.append([name, *map(str, (
            len(kills), moments["any"], moments["writing"], sum(kill["over an old folder"] for kill in kills),
            states["the old model"], states["the new model"], states["refused"], states["nothing"],
            *(faults[fault] for fault in FAULTS)))])
    return "\n".join([
        "# Kills at random moments", "",
        f"`{result['command']}` on commit {str(result['commit'])[:7]}, {hardware_line(result['hardware'])}.", "",
        "What is done, and what counts as a fault, is described in benchmarks/kills.py. \"old\" to \"nothing\": what "
        "the model folders of a step held after the kill. The last four columns are faults.", "",
        markdown_table(rows, "l" + "r" * (len(rows[0]) - 1)), ""])


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--kills", type=positive_int, default=20, help="how many in all")
    parser.add_argument("--steps", nargs="+", default=[step.name for step in all_steps()], metavar="STEP",
                        choices=[step.name for step in all_steps()], help="the steps, in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; what they hit is chance")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="the folder for kills.md and kills.json")
    return parser.parse_args(argv)


def main(argv=None):
    """Returns what kills.json says."""
    args = parse_args(argv)
    rng = random.Random(args.seed)
    steps = [step for step in all_steps() if step.name in args.steps]
    kills = []
    with tempfile.TemporaryDirectory() as work:
        place = prepare(Path(work))
        references = {step.name: run_reference(step, place) for step in steps}
        while len(kills) < args.kills:
            step = steps[len(kills) % len(steps)]
            kill = kill_once(step, place, references[step.name], rng)
            if kill is None:
                continue
            kills.append(kill)
            print(f"{len(kills)}/{args.kills} {step.name}: killed ({kill['moment']}), "
                  f"{', '.join(kill['states']) or 'search'}; again: {', '.join(kill['faults']) or 'right'}", flush=True)
            if kill["faults"]:
                print(f"  missing {kill['missing']}, left over {kill['left over']}\n{kill['log']}")
    result = provenance("benchmarks/kills.py", vars(args), argv, kills=kills,
                        faults=sum(bool(kill["faults"]) for kill in kills))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(result, out / "kills.json")
    write_text(page(result), out / "kills.md")
    print(f"{len(kills)} kills, {result['faults']} faults; {out}: kills.md, kills.json")
    return result


if __name__ == "__main__":
    run_script(main)
