"""A model card: README.md in a model folder, in the format of the Hugging Face Hub.

The head of the file is YAML that the Hub reads: task, data, base model, and the measured scores as `model-index`
(https://huggingface.co/docs/hub/model-cards). All of it comes from run.json, which the scripts write, and metrics.json,
which evaluate.py writes. What was not measured is not in the card.
"""

import json
from pathlib import Path

from pocketbert.errors import UserError
from pocketbert.evaluation.lineage import rebuild_commands
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import read_json, write_text
from pocketbert.models.folder import FOLDER_FILES

SIGNATURE = "<!-- written by evaluate.py card -->"
WORST = 5  # slices


def write_card(folder, license_name=None):
    """Write README.md into a model folder that evaluate.py has measured. Returns its path.

    license_name: as the Hub spells it, "apache-2.0"; None: none is stated
    """
    folder = Path(folder)
    for name, how in (("run.json", "it was not made by a script of this project"),
                      ("metrics.json", "measure it first: python evaluate.py FOLDER --data DATA --out OUT")):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: {how}")
    path = folder / "README.md"
    if path.exists() and SIGNATURE not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{path} was not written by this command: move it away first")
    run, metrics = read_json(folder / "run.json"), read_json(folder / "metrics.json")
    write_text(card(folder.resolve().name, run, metrics, rebuild_commands(folder), license_name), path)
    return path


def card(name, run, metrics, commands, license_name=None):
    """The text of README.md. run, metrics: what run.json and metrics.json say    commands: rebuild the folder"""
    parts = [front_matter(name, run, metrics, license_name), SIGNATURE, "", f"# {one_line(name)}", "",
             f"Labels a text as {', '.join(one_line(label) for label in metrics['per_class'])}. Made with PocketBERT.",
             "", "## Scores", "", scores(metrics), "", "## Cost", "", cost(metrics), ""]
    limits = worst_slices(metrics)
    if limits:
        parts += ["## Where it is weakest", "", limits, ""]
    parts += ["## How it is made again", "", "```", *commands, "```", "", "## Use", "", "```python",
              "from pocketbert import Classifier", f"print(Classifier({one_line(name)!r})('a text'))", "```", ""]
    return "\n".join(parts)


def front_matter(name, run, metrics, license_name):
    """The YAML head. JSON is YAML, so names of other people cannot break out of their quotes."""
    measured = {"task": {"type": "text-classification"},
                "dataset": {"name": metrics["data"], "type": metrics["data"], "split": metrics["split"]},
                "metrics": [{"type": "f1", "name": "macro-F1", "value": round(metrics["macro_f1"], 4),
                             "args": {"average": "macro", "interval_95": rounded_interval(metrics, "f1")}},
                            {"type": "accuracy", "value": round(metrics["accuracy"], 4),
                             "args": {"interval_95": rounded_interval(metrics, "accuracy")}}]}
    head = {"pipeline_tag": "text-classification", "tags": ["pocketbert", *metrics.get("formats", [])],
            "datasets": [metrics["data"]], "model-index": [{"name": name, "results": [measured]}]}
    if run.get("parent"):
        head["base_model"] = run["parent"]["name"]
    if license_name:
        head["license"] = license_name
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---"])


def rounded_interval(metrics, score):
    return [round(metrics[f"{score}_low"], 4), round(metrics[f"{score}_high"], 4)]


def scores(metrics):
    """The scores as sentences, and a table by class."""
    low, high = rounded_interval(metrics, "f1")
    accuracy_low, accuracy_high = rounded_interval(metrics, "accuracy")
    rows = [["class", "precision", "recall", "F1", "texts"]]
    for label, values in metrics["per_class"].items():
        rows.append([one_line(label), *(f"{values[score]:.3f}" for score in ("precision", "recall", "f1")),
                     f"{values['texts']:,}"])
    texts = f"{metrics['texts']:,} {metrics['split']} texts of {one_line(metrics['data'])}"
    return (f"On {texts} (95 % bootstrap interval): macro-F1 "
            f"{metrics['macro_f1']:.4f} [{low:.4f}, {high:.4f}], accuracy {metrics['accuracy']:.4f} "
            f"[{accuracy_low:.4f}, {accuracy_high:.4f}], calibration error (ECE) {metrics['ece']:.3f}.\n\n"
            + markdown_table(rows, "lrrrr"))


def cost(metrics):
    """Bytes and times, with the machine."""
    hardware = metrics["hardware"]
    sentences = [f"{metrics['size_mb']:.2f} MB with its tokenizer; {metrics['ms_1']:.2f} ms for one text, "
                 f"{metrics['texts_per_second']:,.0f} texts a second from raw strings in batches of 32"]
    if metrics.get("cold_start_ms"):
        sentences.append(f"{metrics['cold_start_ms'] / 1000:.2f} s from the start of a process to its first answer")
    if metrics.get("peak_memory_mb"):
        sentences.append(f"{metrics['peak_memory_mb']:,.0f} MB of memory")
    instructions = ", ".join(hardware.get("instructions") or ["no vector instructions known"])
    return (f"{'; '.join(sentences)}. {hardware['processor']} ({instructions}), {hardware['threads']} threads, torch "
            f"{hardware['torch']}.")


def worst_slices(metrics):
    """The slices on which it loses most against the model it was compared with, or "" if there was none."""
    slices = metrics.get("slices") or {}
    lost = sorted((values["difference"], name, values) for name, values in slices.items() if values["difference"] < 0)
    if not lost:
        return ""
    rows = [["texts that are", "how many", "accuracy", "difference from the baseline, points [95 %]"]]
    for difference, name, values in lost[:WORST]:
        rows.append([one_line(name), f"{values['texts']:,}", f"{values['accuracy']:.3f}", f"{100 * difference:+.1f} "
                     f"[{100 * values['low']:+.1f}, {100 * values['high']:+.1f}]"])
    return markdown_table(rows, "lrrr")


def one_line(text):
    """Words of other people: no line breaks, no HTML."""
    return " ".join(str(text).split()).replace("<", "&lt;")


def push(folder, repo_id, private=False):
    """Upload a model folder and its card to the Hub. Returns the address.

    Only files that a model folder has are sent; the token is huggingface_hub's (HF_TOKEN, or `hf auth login`).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        raise UserError(f"{folder} has no README.md: python evaluate.py card {folder}")
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=["README.md", *FOLDER_FILES],
                          commit_message="model folder and card")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(f"{repo_id} was not uploaded: {str(error).splitlines()[0]}") from error
    return f"{api.endpoint}/{repo_id}"
