"""What counting words is worth: TF-IDF of words and word pairs, and a logistic regression. A student should beat it.

    python benchmarks/word_counts.py tweet_sentiment_extraction emotion sst2

Writes docs/results/word_counts.md and .json. The validation texts are scored: the test split belongs to evaluate.py.
"""

import shlex
import sys
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from data_utils import open_data  # noqa: E402
from pocketbert.cli import parser_for, run_script  # noqa: E402
from pocketbert.evaluation.metrics import confusion_counts, macro_f1  # noqa: E402
from pocketbert.evaluation.tables import markdown_table  # noqa: E402
from pocketbert.files import write_json, write_text  # noqa: E402
from pocketbert.hardware import hardware, hardware_line  # noqa: E402
from pocketbert.provenance import git_commit  # noqa: E402


def word_counter():
    """TF-IDF (1 + log count) * idf of words and pairs; classes weigh alike. "!!" counts as a word."""
    counts = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(counts, LogisticRegression(C=4, class_weight="balanced", max_iter=1000))


def measure(data):
    """The row of one Dataset: validation macro-F1 over all its classes, accuracy."""
    model = word_counter()
    model.fit(data.train.texts, data.train.labels)
    predicted = model.predict(data.validation.texts)
    labels = np.array(data.validation.labels)
    return {"data": data.name, "fingerprint": data.fingerprint, "classes": len(data.label_names),
            "train": len(data.train), "validation": len(data.validation),
            "macro_f1": macro_f1(confusion_counts(labels, predicted, len(data.label_names))),
            "accuracy": float((predicted == labels).mean())}


def page(result):
    cells = [["data", "classes", "training texts", "validation texts", "macro-F1", "accuracy"]]
    for row in result["rows"]:
        cells.append([row["data"], str(row["classes"]), f"{row['train']:,}", f"{row['validation']:,}",
                      f"{row['macro_f1']:.4f}", f"{row['accuracy']:.4f}"])
    return "\n".join([
        "# Counting words", "", "TF-IDF of words and word pairs, and a logistic regression; scores of the validation "
        "texts.", "", markdown_table(cells, "lrrrrr"), "", f"- Command: `{result['command']}`",
        f"- Commit {result['commit']}", f"- {hardware_line(result['hardware'])}", ""])


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("data", nargs="+", metavar="DATA", help="registered datasets, files or folders, as for --data")
    parser.add_argument("--data-dir", default="data", help="where registered datasets lie, as DATA_DIR/NAME/")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="the folder for word_counts.md and .json")
    args = parser.parse_args(argv)
    rows = []
    for name in args.data:
        rows.append(measure(open_data(name, args.data_dir)))
        print(f"{name}: validation macro-F1 {rows[-1]['macro_f1']:.4f}", flush=True)
    result = {"command": shlex.join(["python", "benchmarks/word_counts.py", *args.data]), "commit": git_commit(),
              "hardware": hardware(), "rows": rows}
    write_json(result, Path(args.out) / "word_counts.json")
    write_text(page(result), Path(args.out) / "word_counts.md")
    return result


if __name__ == "__main__":
    run_script(main)
