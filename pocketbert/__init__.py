"""What the scripts at the top level share. Each folder belongs to one script:

    training/       train.py        the optimizer's groups and schedule, the log of a training, trackers
    pruning/        prune.py        importance, choice, cost, reconstruction, vocabulary, single weights
    quantization/   quantize.py     the stored formats and the arithmetic behind each, export to graph runtimes
    distillation/   distill.py      losses, several teachers, the cache of their logits
    evaluation/     evaluate.py     scores and their intervals, times, tables, pictures, cascades
    search/         search.py       pareto: budgets, candidates, halving, the front, rebuild.sh
    app/            app.py          which folders the page opens, uploads, languages, label sets, HTML
    models/         model_utils.py  the networks, the model folder, recipes, hooks
    data/           data_utils.py   datasets, labels, splits, tables, tokenizers, batches, augmentation

    cli.py flags    errors.py the user's mistakes    files.py atomic writes    hardware.py the card and the clock
    hub.py one file of the Hub    memory.py the peak    provenance.py run.json

    classify = pocketbert.Classifier("runs/best")      models/classifier.py: texts in, labels and probabilities out

Who imports whom is one dict in tests/test_house.py: these files import each other only, data/ imports them, models/
imports data/, the folders of the verbs import models/, and training/ imports quantization/ too. Nothing here imports a
script.
"""

from pkgutil import resolve_name

__version__ = "0.1.0"


def __getattr__(name):
    """`Classifier`, imported when it is asked for: `import pocketbert` loads nothing."""
    if name == "Classifier":
        return resolve_name("pocketbert.models.classifier:Classifier")
    raise AttributeError(f"module 'pocketbert' has no attribute {name!r}")
