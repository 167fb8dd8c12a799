"""Do the intervals of a report hold what they promise? Simulated pairs of models whose true difference is known.

    python benchmarks/coverage.py

A pair is a table of shares: how often label, the new model's answer and the baseline's answer are which classes. From
it follows the true difference in macro-F1 and in accuracy; texts are drawn from it, and evaluate.py's bootstrap gives
the 95 % interval. Writes docs/results/coverage.md and .json: how many of the intervals hold the true difference.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from evaluate import bootstrap  # noqa: E402
from pocketbert.cli import parser_for, positive_int, run_script  # noqa: E402
from pocketbert.evaluation.differences import interval, p_of_draws  # noqa: E402
from pocketbert.evaluation.metrics import macro_f1  # noqa: E402
from pocketbert.evaluation.tables import markdown_table  # noqa: E402
from pocketbert.files import write_json, write_text  # noqa: E402

SIZES = {"500 texts, 3 classes": (500, 3), "3,000 texts, 3 classes": (3000, 3), "3,000 texts, 10 classes": (3000, 10)}


def pair(rng, num_labels, new_right, old_right):
    """Shares (label, new, old) of two models that are right with these probabilities and agree more than by chance."""
    frequency = rng.dirichlet(np.full(num_labels, 5.0))
    shares = np.zeros((num_labels,) * 3)
    for c in range(num_labels):
        new = answers(rng, num_labels, c, new_right)
        old = answers(rng, num_labels, c, old_right)
        together = np.minimum(new, old)
        shares[c] += 0.8 * np.diag(together)
        left_new, left_old = new - 0.8 * together, old - 0.8 * together
        shares[c] += np.outer(left_new, left_old) / max(left_new.sum(), 1e-12)
        shares[c] *= frequency[c]
    return shares / shares.sum()


def answers(rng, num_labels, label, right):
    """Probabilities of the answers to texts of a class: `right` for the class, the rest spread at random."""
    row = rng.dirichlet(np.ones(num_labels))
    row[label] = 0
    row *= (1 - right) / row.sum()
    row[label] = right
    return row


def true_differences(shares):
    """(macro-F1, accuracy): the new model's minus the baseline's, on infinitely many texts."""
    new, old = shares.sum(axis=2), shares.sum(axis=1)
    return macro_f1(new * 1e9) - macro_f1(old * 1e9), np.trace(new) - np.trace(old)


def simulate(pairs, texts, num_labels, draws):
    """Counts of intervals that hold the true difference, and of false alarms where there is none."""
    rng = np.random.default_rng(0)
    found = {"macro_f1": 0, "accuracy": 0, "called_different": 0}
    for seed in range(pairs):
        new_right = rng.uniform(0.6, 0.9)
        shares = pair(rng, num_labels, new_right, np.clip(new_right + rng.normal(0, 0.02), 0.5, 0.95))
        cells = rng.choice(shares.size, texts, p=shares.ravel())
        labels, new, old = np.unravel_index(cells, shares.shape)
        scores = bootstrap(labels, {"new": new, "old": old}, num_labels, draws, seed)
        for name, truth in zip(("macro_f1", "accuracy"), true_differences(shares), strict=True):
            low, high = interval(scores["new"][name] - scores["old"][name])
            found[name] += int(low <= truth <= high)
        found["called_different"] += int(p_of_draws(scores["new"]["macro_f1"] - scores["old"]["macro_f1"]) < 0.05)
    return {"pairs": pairs, "texts": texts, "classes": num_labels, "draws": draws, **found}


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--pairs", type=positive_int, default=1000, help="simulated pairs of models for each size")
    parser.add_argument("--draws", type=positive_int, default=1000, help="of the bootstrap; evaluate.py takes 2,000")
    args = parser.parse_args(argv)
    rows = {name: simulate(args.pairs, *size, args.draws) for name, size in SIZES.items()}
    cells = [["texts and classes", "pairs", "macro-F1: true difference inside", "accuracy: true difference inside"]]
    for name, row in rows.items():
        cells.append([name, f"{row['pairs']:,}", f"{100 * row['macro_f1'] / row['pairs']:.1f} %",
                      f"{100 * row['accuracy'] / row['pairs']:.1f} %"])
    about = ("Written by `python benchmarks/coverage.py`: of simulated pairs of models with a known difference, how "
             "many 95 % intervals of evaluate.py hold it.")
    page = ["# Coverage of the intervals", "", about, "", markdown_table(cells, "lrrr")]
    write_text("\n".join(page) + "\n", ROOT / "docs" / "results" / "coverage.md")
    write_json(rows, ROOT / "docs" / "results" / "coverage.json")
    print(markdown_table(cells, "lrrr"))
    return rows


if __name__ == "__main__":
    run_script(main)
