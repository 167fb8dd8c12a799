"""Pruning without training: how much of the macro-F1 each importance keeps at each budget of multiplications.

    make curves MODEL=runs/tweets/teacher DATA=tweet_sentiment_extraction
    python benchmarks/importance.py --model runs/tweets/teacher --data tweet_sentiment_extraction

Every method gets the same sample of training texts, the same choice under the same budget, and no training. "fisher" is
`prune.py --refit`: masks rearranged within the layers, output matrices reconstructed. "fisher, no refit" and the other
importances are masks alone. Each seed draws another sample. The validation texts are scored: the test split belongs to
evaluate.py. Writes docs/results/importance.md, .json and .png.
"""

import shlex
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from data_utils import align_labels, batches, open_data, take  # noqa: E402
from model_utils import load_model, predict, text_length  # noqa: E402
from pocketbert.cli import add_common_flags, parser_for, positive_int, run_script, unit_interval  # noqa: E402
from pocketbert.evaluation.metrics import scores  # noqa: E402
from pocketbert.evaluation.plots import colours, figure_file  # noqa: E402
from pocketbert.evaluation.tables import markdown_table  # noqa: E402
from pocketbert.files import write_json, write_text  # noqa: E402
from pocketbert.hardware import hardware, hardware_line  # noqa: E402
from pocketbert.models.device import seed_everything  # noqa: E402
from pocketbert.models.folder import parent_of  # noqa: E402
from pocketbert.models.surgery import slice_model  # noqa: E402
from pocketbert.provenance import git_commit  # noqa: E402
from pocketbert.pruning.choose import keep_within  # noqa: E402
from pocketbert.pruning.cost import mac_cost  # noqa: E402
from pocketbert.pruning.importance import mask_gradients  # noqa: E402
from pocketbert.pruning.reconstruct import rearrange_masks, reconstruct  # noqa: E402
from prune import IMPORTANCE, NEURONS_ROUND_TO  # noqa: E402

METHODS = ["fisher", "fisher, no refit", *(name for name in IMPORTANCE if name != "fisher")]


def prune_once(model, sample_batches, gradients, method, share, length):
    """The sliced model of one method.    share: of the multiplications that stay    length: mean tokens of a text"""
    cost = mac_cost(model.config, length)
    budget = share * cost.total(model.config.num_heads, model.config.intermediate_sizes)
    importance = IMPORTANCE[method.partition(",")[0]](model, gradients)
    masks = keep_within(importance, cost, budget, NEURONS_ROUND_TO)
    if method == "fisher":
        masks = rearrange_masks(masks, gradients)
    pruned = slice_model(model, *masks)
    if method == "fisher":
        reconstruct(pruned, model, sample_batches)
    return pruned


def draw(kept, path):
    """kept: {method: {share: [kept macro-F1 of each seed]}}"""
    with figure_file(path, figsize=(7, 4.2)) as (_, axes):
        for method, colour in colours(kept).items():
            shares = [float(share) for share in kept[method]]
            values = 100 * np.array(list(kept[method].values()))  # (budgets, seeds)
            axes[0, 0].plot(shares, values.mean(axis=1), "o-", color=colour, label=method)
            axes[0, 0].fill_between(shares, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2)
        axes[0, 0].invert_xaxis()
        axes[0, 0].set(xlabel="share of the encoder's multiplications that stays", ylabel="% of the unpruned macro-F1",
                       title="no training after pruning; bands: seeds of the sample")
        axes[0, 0].grid(alpha=0.3)
        axes[0, 0].legend(frameon=False)


def page(result):
    """The text of importance.md."""
    shares = list(next(iter(result["kept"].values())))
    rows = [["importance", *(f"{float(share):.0%}" for share in shares)]]
    for method, values in result["kept"].items():
        cells = [100 * np.array(values[share]) for share in shares]
        rows.append([method, *(f"{cell.mean():.1f} ({cell.min():.1f} to {cell.max():.1f})" for cell in cells)])
    return "\n".join([
        "# Pruning without training: which importance?", "",
        "% of the unpruned macro-F1 that is kept, by the share of the encoder's multiplications that stays: mean "
        f"(lowest to highest) of {result['seeds']} samples of {result['samples']:,} training texts. \"fisher\" is "
        "`prune.py --refit`, the others are masks alone.", "", markdown_table(rows, "l" + "r" * len(shares)), "",
        "![macro-F1 kept by each importance at each budget](importance.png)", "",
        f"- Model {result['model']['name']}: macro-F1 {result['unpruned']:.4f} on {result['validation']:,} validation "
        f"texts of {result['data']}", f"- Command: `{result['command']}`", f"- Commit {result['commit']}",
        f"- {hardware_line(result['hardware'])}", ""])


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="a fine-tuned model folder")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="the folder to write to")
    parser.add_argument("--budgets", type=unit_interval, nargs="+", default=[0.9, 0.7, 0.5, 0.4, 0.3, 0.2],
                        help="shares of the multiplications that stay")
    parser.add_argument("--seeds", type=positive_int, default=3, help="how many samples to draw")
    parser.add_argument("--samples", type=positive_int, default=2048, help="training texts in a sample")
    add_common_flags(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    model, tokenizer = load_model(args.model)
    data = align_labels(open_data(args.data, args.data_dir, args.text, args.label), model.config.label_names)
    max_length = text_length(model, args.max_length)
    val_ids = tokenizer(data.validation.texts, max_length)

    def validate(candidate):
        logits = predict(candidate, val_ids, args.batch_size, tokenizer.pad_id)
        return scores(logits, data.validation.labels)["macro_f1"]

    unpruned = validate(model)
    kept = {method: {str(share): [] for share in args.budgets} for method in METHODS}
    for seed in range(args.seeds):
        seed_everything(seed)
        sample = take(data.train, args.samples, seed=seed)
        sample_ids = tokenizer(sample.texts, max_length)
        mean_length = float(np.mean([len(ids) for ids in sample_ids]))
        sample_batches = list(batches(sample_ids, sample.labels, args.batch_size, tokenizer.pad_id))
        gradients = mask_gradients(model, sample_batches)
        for share in args.budgets:
            for method in METHODS:
                with torch.no_grad():
                    pruned = prune_once(model, sample_batches, gradients, method, share, mean_length)
                kept[method][str(share)].append(validate(pruned) / unpruned)
            print(f"seed {seed}, {share:.0%} of the multiplications: " + ", ".join(
                f"{method} {100 * values[str(share)][-1]:.1f} %" for method, values in kept.items()), flush=True)
    command = shlex.join(["python", "benchmarks/importance.py", *(sys.argv[1:] if argv is None else argv)])
    result = {"command": command, "commit": git_commit(), "hardware": hardware(), "model": parent_of(args.model),
              "data": data.name, "validation": len(data.validation), "seeds": args.seeds, "samples": args.samples,
              "unpruned": unpruned, "kept": kept}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    draw(kept, out / "importance.png")
    write_json(result, out / "importance.json")
    write_text(page(result), out / "importance.md")
    print(f"{out}: importance.md, importance.json, importance.png (unpruned macro-F1 {unpruned:.4f})")
    return result


if __name__ == "__main__":
    run_script(main)
