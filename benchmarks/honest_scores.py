"""Why one half of the validation texts chooses and the other reports (search.py pareto): a simulation.

Each search has so many models whose true accuracies lie close together. Whether a model answers a text right depends on
how hard the text is, so the models of a search are lucky and unlucky together, as real ones are:

    P(model i is right on text j) = sigmoid(skill_i + ease_j),    ease_j ~ normal(0, 2)

The best model on the choosing half is reported twice, on the half that chose it and on the other one, and then scored
on many fresh texts. The difference should be 0 in the mean.

    python benchmarks/honest_scores.py

Writes docs/results/honest_scores.md and honest_scores.json.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]


def right(rng, skills, texts):
    """(models, texts) bool: which model answers which text right."""
    ease = rng.normal(0, 2, texts)
    return rng.random((len(skills), texts)) < 1 / (1 + np.exp(-(skills[:, None] + ease)))


def one_search(rng, models, texts, fresh):
    """(accuracy on the half that chose - on fresh texts, accuracy on the other half - on fresh texts) of the choice."""
    skills = rng.normal(1.9, 0.03, models)
    correct = right(rng, skills, texts)
    order = rng.permutation(texts)
    choosing, reporting = correct[:, order[:texts // 2]], correct[:, order[texts // 2:]]
    best = choosing.mean(axis=1).argmax()
    truth = right(rng, skills[best:best + 1], fresh).mean()
    return choosing[best].mean() - truth, reporting[best].mean() - truth


def simulate(searches, models, texts, fresh, seed):
    """{"same half", "other half": {"mean", "standard_error"}} of the difference to fresh texts, in points."""
    rng = np.random.default_rng(seed)
    differences = 100 * np.array([one_search(rng, models, texts, fresh) for _ in range(searches)])
    return {name: {"mean": float(column.mean()), "standard_error": float(column.std(ddof=1) / searches ** 0.5)}
            for name, column in zip(("same half", "other half"), differences.T, strict=True)}


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--searches", type=positive_int, default=1000, help="simulated searches")
    parser.add_argument("--models", type=positive_int, default=40, help="in each search")
    parser.add_argument("--texts", type=positive_int, default=3000, help="of the validation split")
    parser.add_argument("--fresh", type=positive_int, default=20000, help="texts that tell the truth")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    args = parser.parse_args(argv)
    found = simulate(args.searches, args.models, args.texts, args.fresh, args.seed)
    rows = [["the chosen model is reported on", "points above fresh texts", "standard error"]]
    rows += [[name, f"{row['mean']:+.3f}", f"{row['standard_error']:.3f}"] for name, row in found.items()]
    page = ["# Choosing and reporting on the same texts", "", markdown_table(rows, "lrr"), "",
            f"{args.searches:,} searches of {args.models} models on {args.texts:,} validation texts, half of which "
            "choose."]
    write_text("\n".join(page) + "\n", Path(args.out) / "honest_scores.md")
    write_json({"found": found, "run": provenance("benchmarks/honest_scores.py", vars(args), argv)},
               Path(args.out) / "honest_scores.json")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
