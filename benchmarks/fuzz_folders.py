"""Damaged model folders: does load_model refuse them in one line, or does a damaged model answer?

    python benchmarks/fuzz_folders.py                 # 2,000 folders, each with and without the hashes of run.json
    python benchmarks/fuzz_folders.py --folders 300 --seed 1 --out /tmp/fuzz

Small models of every kind are saved. Each copy gets one damage: bytes of a file changed, a file cut off, removed or
exchanged with that of another model, a value of config.json or of the safetensors header replaced by one of another
type, sign or size. A child process with a time limit loads the copy and scores eight texts. Its answers are compared
with those of the undamaged folder:

    refused       a UserError or OSError of one line that names the folder, or says that the logits are not finite
    same meaning  the same labels with the same probabilities (within 0.0001)
    wrong         other labels or probabilities, and no word about it
    NaN           probabilities that are not finite
    traceback     any other error, or a crash
    slow          more than ten seconds
    memory        more than twice the peak memory that the undamaged folder takes

Every damage is done twice. "saved" folders have the run.json of save_model, with the hashes of the files. "foreign"
folders have no run.json, as those of other programs: there nothing can tell a changed weight from a trained one, so
that "wrong" is only counted, while the other columns must be empty as well.
Writes docs/results/fuzz_folders.md and .json.
"""

import json
import math
import multiprocessing
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from model_utils import load_model, predict, save_model, text_length  # noqa: E402
from pocketbert.cli import parser_for, positive_int, run_script  # noqa: E402
from pocketbert.errors import TrainingDiverged, UserError  # noqa: E402
from pocketbert.evaluation.tables import markdown_table  # noqa: E402
from pocketbert.files import write_json, write_text  # noqa: E402
from pocketbert.hardware import hardware_line  # noqa: E402
from pocketbert.models.recipes import build_recurrent, model_from_scratch  # noqa: E402
from pocketbert.models.surgery import slice_model  # noqa: E402
from pocketbert.provenance import provenance  # noqa: E402
from pocketbert.pruning.weights import store_sparse  # noqa: E402
from pocketbert.quantization.export import export_graph  # noqa: E402
from pocketbert.quantization.int8 import pick_engine  # noqa: E402
from pocketbert.quantization.plan import parse_plan, store_all, with_stored  # noqa: E402

TEXTS = ["the train is late again", "what a lovely day for a long walk", "anyone know when the shop opens?", "great",
         "not a good phone :(", "I love this film so much", "the bus leaves at nine", "sad and late and slow and sad"]
LABELS = ["negative", "neutral", "positive"]
STORED = {"int8": "int8", "int4": "int4", "nf4": "nf4", "clusters": "clusters", "fp16": "fp16"}
RECURRENT = ["lstm", "gru", "xlstm", "rwkv", "cnn", "bag"]
GRAPHS = ["onnx", "openvino"]
KINDS = ["dense", "pruned", *STORED, "sparse", *RECURRENT, *GRAPHS]
OUTCOMES = ["refused", "same meaning", "wrong", "NaN", "traceback", "slow", "memory"]
SECONDS = 10
ADDRESS_SPACE = 12 << 30  # bytes that a child may map; torch and a graph runtime map some 4 GB of address space


# ---- the undamaged folders -------------------------------------------------------------------------------

def with_noise(model):
    """Random numbers far from their starting points, so that every tensor changes the answers."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def encoder_of(kind, encoder):
    """The encoder in the form of a kind."""
    if kind == "pruned":
        heads = [torch.tensor([1.0, 0, 1, 1]), torch.tensor([1.0, 1, 0, 0])]
        neurons = [(torch.arange(64) < 40).float(), (torch.arange(64) % 2).float()]
        return slice_model(encoder, heads, neurons)
    if kind == "sparse":
        for name, parameter in encoder.named_parameters():
            if name.startswith("layers.") and parameter.dim() == 2:
                parameter.data[parameter.abs() < parameter.abs().median()] = 0
        return store_sparse(encoder)
    if kind in STORED:
        formats = parse_plan(f"embeddings={STORED[kind]},encoder={STORED[kind]}", encoder)
        return with_stored(encoder, store_all(encoder, formats, group_size=16, engine=pick_engine()))
    return encoder


def save_kind(kind, folder):
    """Save a small model of a kind."""
    torch.manual_seed(0)
    texts = [*TEXTS, *[f"{kind} {kind[::-1]}"] * 9]  # so that no two kinds have the same vocabulary
    encoder, tokenizer = model_from_scratch("scratch:layers=2,hidden=32,heads=4,ffn=64,vocab=90,positions=64", texts,
                                            LABELS)
    with_noise(encoder)
    if kind in RECURRENT:
        recipe = f"{kind}:hidden=16,embedding=16" + (",ngrams=2,buckets=50" if kind == "bag" else "")
        model = with_noise(build_recurrent(recipe, tokenizer.vocab_size, tokenizer.pad_id, LABELS))
        save_model(model, tokenizer, folder, run={"kind": kind})
    elif kind in GRAPHS:
        with tempfile.TemporaryDirectory() as graph:
            export_graph(encoder, kind, graph)
            save_model(encoder, tokenizer, folder, run={"kind": kind}, graph=(kind, graph))
    else:
        save_model(encoder_of(kind, encoder), tokenizer, folder, run={"kind": kind})


# ---- damage: each function changes one file of a folder and says what it did ----------------------------

def weight_file(folder, rng):
    names = ("model.safetensors", "model.onnx", "openvino_model.xml", "openvino_model.bin")
    return rng.choice([folder / name for name in names if (folder / name).exists()])


def any_file(folder, rng):
    return rng.choice(sorted(path for path in folder.iterdir() if path.name != "run.json"))


def change_bytes(path, rng):
    """Change one bit, one byte, sixteen bytes, or make a page of zeros."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    how = rng.choice(["bit", "byte", "bytes", "page"])
    if how == "bit":
        data[place] ^= 1 << rng.randrange(8)
    elif how == "byte":
        data[place] = rng.randrange(256)
    elif how == "bytes":
        data[place:place + 16] = rng.randbytes(len(data[place:place + 16]))
    else:
        data[place:place + 4096] = bytes(len(data[place:place + 4096]))
    path.write_bytes(data)
    return f"{path.name}: {how} at {place}"


def bytes_of_weights(folder, rng, others):
    return change_bytes(weight_file(folder, rng), rng)


def bytes_of_another_file(folder, rng, others):
    return change_bytes(rng.choice([folder / "config.json", folder / "tokenizer.json"]), rng)


def float_of_weights(folder, rng, others):
    """Write a number that no training gives, or that changes much, over four bytes in the second half of a file."""
    path = weight_file(folder, rng)
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) // 8, len(data) // 4 - 1) * 4
    value = rng.choice([math.nan, math.inf, -math.inf, 1e38, -3e38, 1e-45, 100.0, 0.0])
    data[place:place + 4] = struct.pack("<f", value)
    path.write_bytes(data)
    return f"{path.name}: {value} at {place}"


def cut_off(folder, rng, others):
    path = any_file(folder, rng)
    data = path.read_bytes()
    size = rng.choice([0, 1, 8, rng.randrange(len(data)), len(data) - 1])
    path.write_bytes(data[:size])
    return f"{path.name}: {size} of {len(data)} bytes"


def append(folder, rng, others):
    path = any_file(folder, rng)
    path.write_bytes(path.read_bytes() + rng.choice([b"\0", b"\n", rng.randbytes(100)]))
    return f"{path.name}: longer"


def remove(folder, rng, others):
    path = any_file(folder, rng)
    path.unlink()
    return f"{path.name}: removed"


def exchange(folder, rng, others):
    """A file of another model in the place of this one's."""
    paths = sorted(path for path in folder.iterdir() if path.name != "run.json")
    path, other = rng.choice([(path, other) for path in paths for other in others
                              if is_other(other / path.name, path)])
    shutil.copyfile(other / path.name, path)
    return f"{path.name}: that of {other.name}"


def is_other(other, path):
    return other.exists() and other.read_bytes() != path.read_bytes()


def strange_value(value, rng):
    """A value of another type, sign or size."""
    choices = [None, True, -1, 0, 1, 2, 7, 2.5, -0.1, 10**6, 10**9, 10**18, 10**30, math.inf, math.nan, "", "text", "3",
               [], [1], {}, {"0": "a"}]
    if isinstance(value, int) and not isinstance(value, bool):
        choices += [-value, value + 1, value - 1, 2 * value, value / 2, str(value), [value], value * 10**6]
    elif isinstance(value, float):
        choices += [-value, 10 * value, 1 + value, str(value)]
    elif isinstance(value, str):
        choices += [value + "x", value.upper(), [value], value[::-1], value + ":3", "relu", "bert", "nf4", "groups:4:3"]
    elif isinstance(value, list):
        choices += [value[:-1], [*value, *value], [0, *value[1:]], [-1, *value[1:]], [10**9, *value[1:]], ["a"]]
    elif isinstance(value, dict) and value:
        keys = list(value)
        key = rng.choice(keys)
        choices += [{**value, key: strange_value(value[key], rng)} for _ in range(20)]
        choices += [{k: v for k, v in value.items() if k != key}, {**value, "x.y": value[key]},
                    dict(zip(keys, reversed(list(value.values())), strict=True)), list(value.values())]
    return rng.choice(choices)


def config_value(folder, rng, others):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    key = rng.choice(list(config))
    if rng.random() < 0.15:
        del config[key]
        path.write_text(json.dumps(config))
        return f"config.json: no {key}"
    config[key] = strange_value(config[key], rng)
    path.write_text(json.dumps(config))
    return f"config.json: {key} = {str(config[key])[:60]}"


def config_structure(folder, rng, others):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    extra = {"deep": '{"a":' * 100_000 + "1" + "}" * 100_000, "list": "[]", "text": '"model"', "number": "9" * 5000,
             "nothing": "", "null": "null", "not text": "\x00\xff", "many labels": json.dumps(config | {
                 "id2label": {str(i): f"l{i}" for i in range(100_000)}})}
    what = rng.choice(list(extra))
    path.write_bytes(extra[what].encode("latin-1"))
    return f"config.json: {what}"


def header_value(folder, rng, others):
    """Another shape, type, place or name of a tensor in the header of a safetensors file."""
    path = folder / "model.safetensors"
    if not path.exists():
        return bytes_of_weights(folder, rng, others)
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    what = rng.choice(["shape", "dtype", "data_offsets", "name", "exchanged", "gone"])
    if what == "name":
        header[rng.choice([f"module.{name}", name + "x", name[::-1], ""])] = header.pop(name)
    elif what == "gone":
        del header[name]
    elif what == "exchanged":
        other = rng.choice([other for other in header if other != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    elif what == "shape":
        shape = header[name]["shape"]
        header[name]["shape"] = rng.choice([shape[::-1], [*shape, 1], [10**12] * 2, [-1], [], [math.prod(shape)]])
    elif what == "dtype":
        header[name]["dtype"] = rng.choice(["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "F32", "x"])
    else:
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice([[begin, end + 4], [0, 10**15], [end, begin], [begin - 4, end - 4]])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])
    return f"model.safetensors header: {what} of {name}"


def run_json(folder, rng, others):
    path = folder / "run.json"
    if not path.exists():
        return bytes_of_weights(folder, rng, others)
    if rng.random() < 0.5:
        return change_bytes(path, rng)
    run = json.loads(path.read_text())
    key = rng.choice(["files", "checksums"])
    run[key] = strange_value(run[key], rng)
    path.write_text(json.dumps(run))
    return f"run.json: {key} = {str(run[key])[:60]}"


DAMAGES = [bytes_of_weights, bytes_of_another_file, float_of_weights, cut_off, append, remove, exchange, config_value,
           config_value, config_value, config_structure, header_value, header_value, run_json]


# ---- loading in a child process --------------------------------------------------------------------------

def answers(folder):
    """{"labels": ..., "probabilities": ...} of the eight texts."""
    model, tokenizer = load_model(folder)
    logits = predict(model, tokenizer(TEXTS, text_length(model)), batch_size=4, pad_id=tokenizer.pad_id)
    return {"labels": model.config.label_names, "probabilities": logits.softmax(-1).tolist()}


def child(folder, pipe):
    """Load and score, and send (outcome, what) to the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout = sys.stderr = open("/dev/null", "w")
    torch.set_num_threads(1)
    try:
        result = ("answers", answers(folder))
    except (UserError, OSError) as error:
        message = str(error)
        is_good = "\n" not in message and (folder in message or isinstance(error, TrainingDiverged))
        result = ("refused" if is_good else "traceback", message[:500])
    except BaseException:
        result = ("traceback", traceback.format_exc()[-1500:])
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send((*result, peak_bytes))
    pipe.close()


def load_in_child(folder):
    """(outcome, what, peak memory in bytes, seconds) of loading and scoring a folder."""
    start = time.monotonic()
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=child, args=(str(folder), sending))
    process.start()
    sending.close()
    try:
        found = receiving.recv() if receiving.poll(3 * SECONDS) else ("slow", "no answer", 0)
    except EOFError:
        process.join()
        found = ("traceback", f"the process died: {signal.Signals(-process.exitcode).name}", 0)
    if process.is_alive():
        process.join(1)
        process.kill()
    process.join()
    return (*found, time.monotonic() - start)


def judge(found, expected, usual_peak):
    """One of OUTCOMES."""
    outcome, what, peak_bytes, seconds = found
    if peak_bytes > 2 * usual_peak:
        return "memory"
    if outcome == "slow" or seconds > SECONDS:
        return "slow"
    if outcome != "answers":
        return outcome
    ours = torch.tensor(what["probabilities"])
    if not ours.isfinite().all():
        return "NaN"
    theirs = torch.tensor(expected["probabilities"])
    is_same = what["labels"] == expected["labels"] and torch.allclose(ours, theirs, rtol=0, atol=1e-4)
    return "same meaning" if is_same else "wrong"


# ---- all of it -------------------------------------------------------------------------------------------

def run_one(number, seed, kind, folders, has_hashes, expected, peaks):
    """Damage one copy and load it: a dictionary for fuzz_folders.json."""
    rng = random.Random(f"{seed} {number}")
    damage = DAMAGES[number // len(KINDS) % len(DAMAGES)]
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "m"
        shutil.copytree(folders[kind], copy)
        if not has_hashes:
            (copy / "run.json").unlink()
        what = damage(copy, rng, list(folders.values()))
        for _ in range(3):  # on a busy machine a process may stand still; what is slow by itself is slow again
            found = load_in_child(copy)
            outcome = judge(found, expected[kind], peaks[kind])
            if outcome != "slow":
                break
    message = found[1] if isinstance(found[1], str) else f"answers; {found[3]:.1f} s, {found[2] / 1e6:.0f} MB"
    return {"number": number, "kind": kind, "damage": damage.__name__, "what": what, "outcome": outcome,
            "message": message.replace(place, "")}


def build(places):
    """Save a folder of each kind, in processes of their own: exporting starts threads, which forked children lack."""
    for kind, folder in places.items():
        process = multiprocessing.get_context("spawn").Process(target=save_kind, args=(kind, folder))
        process.start()
        process.join()
        assert process.exitcode == 0, kind


def fuzz(count, seed, workers):
    """{"saved": results, "foreign": results}; each result is a dictionary of `run_one`."""
    with tempfile.TemporaryDirectory() as place:
        folders = {kind: Path(place) / kind for kind in KINDS}
        build(folders)
        undamaged = {kind: load_in_child(folder) for kind, folder in folders.items()}
        for kind, (outcome, what, _, seconds) in undamaged.items():
            assert outcome == "answers" and seconds < SECONDS, (kind, what, seconds)
        expected = {kind: found[1] for kind, found in undamaged.items()}
        peaks = {kind: found[2] for kind, found in undamaged.items()}
        results = {}
        for name, has_hashes in (("saved", True), ("foreign", False)):
            with ThreadPoolExecutor(workers) as pool:
                jobs = [pool.submit(run_one, number, seed, KINDS[number % len(KINDS)], folders, has_hashes, expected,
                                    peaks) for number in range(count)]
                results[name] = [job.result() for job in jobs]
        return results


def counts_table(results, key):
    """Markdown: one line for each value of `key`, one column for each outcome."""
    lines = [[key, "folders", *OUTCOMES]]
    for value in [*dict.fromkeys(result[key] for result in results), "all"]:
        some = [result for result in results if value in (result[key], "all")]
        counts = Counter(result["outcome"] for result in some)
        lines.append([value.replace("_", " "), f"{len(some):,}", *(str(counts[name]) for name in OUTCOMES)])
    return markdown_table(lines, "l" + "r" * (len(lines[0]) - 1))


def is_fault(name, result):
    """Is this outcome against the bars?"""
    allowed = ["refused", "same meaning"] + ["wrong"] * (name == "foreign")
    return result["outcome"] not in allowed


def page(results, run):
    """The text of fuzz_folders.md."""
    parts = ["# Damaged model folders",
             f"`{run['command']}`, commit {str(run['commit'])[:7]}, {hardware_line()}.",
             "What was done to the folders, and what the columns mean, is described in benchmarks/fuzz_folders.py."]
    titles = {"saved": "Folders that save_model has written, with the hashes of their files in run.json",
              "foreign": "The same without run.json: a changed weight cannot be told from a trained one"}
    for name, title in titles.items():
        faults = sum(is_fault(name, result) for result in results[name])
        parts += [f"## {title}", counts_table(results[name], "damage"), counts_table(results[name], "kind"),
                  f"Faults: {faults} of {len(results[name]):,}."]
    return "\n\n".join(parts) + "\n"


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--folders", type=positive_int, default=2000, help="how many folders are damaged and loaded")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--workers", type=positive_int, default=2, help="child processes at the same time")
    parser.add_argument("--out", default="docs/results", help="the folder to write to")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    results = fuzz(args.folders, args.seed, args.workers)
    faults = [(name, result) for name in results for result in results[name] if is_fault(name, result)]
    for name, fault in faults:
        print(f"{name} {fault['number']} ({fault['kind']}, {fault['what']}): {fault['outcome']}: {fault['message']}")
    run = provenance("benchmarks/fuzz_folders.py", vars(args), argv)
    counts = {name: dict(Counter(result["outcome"] for result in some)) for name, some in results.items()}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(run | {"counts": counts, "faults": faults}, out / "fuzz_folders.json")
    write_text(page(results, run), out / "fuzz_folders.md")
    print("\n".join(f"{name}: {', '.join(f'{key} {value}' for key, value in some.items())}"
                    for name, some in counts.items()))
    return run | {"counts": counts}


if __name__ == "__main__":
    run_script(main)
