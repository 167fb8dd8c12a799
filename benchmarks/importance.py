"""Retraining-free pruning: what each importance keeps of the macro-F1 at each budget of multiplications.

    make curves MODEL=runs/tweets/teacher DATA=tweet_sentiment_extraction
    python tests/bench_pruning.py --model runs/tweets/teacher --data tweet_sentiment_extraction --out runs/curves

Every method gets the same sample of training texts, the same choice under the same budget and no training.
"fisher" is prune.py --refit: rearranged within the layers, and refitted; "fisher, no refit" and the others show what
that is worth. Seeds draw the sample. Writes curves.png and curves.json.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from pocketbert import (
    IMPORTANCE,
    add_common_flags,
    batches,
    colours,
    encode,
    keep_within,
    load_model,
    mac_cost,
    mask_gradients,
    new_figure,
    open_data,
    parser_for,
    predict,
    rearrange_mask,
    reconstruct,
    run_script,
    save_figure,
    scores,
    seed_everything,
    slice_model,
    take,
    write_json,
)

METHODS = ["fisher", "fisher, no refit", "gradient", "taylor", "magnitude", "random"]


def prune_once(model, texts, gradients, method, share, length):
    """The cut model of one method at one budget."""
    name = method.partition(",")[0]
    cost = mac_cost(model.config, length)
    budget = share * cost.total(model.config.num_heads, model.config.intermediate_sizes)
    masks = keep_within(IMPORTANCE[name](model, gradients), cost, budget, round_to=16)
    if method == "fisher":
        masks = tuple([rearrange_mask(m, g) for m, g in zip(part, grads, strict=True)]
                      for part, grads in zip(masks, gradients, strict=True))
    smaller = slice_model(model, *masks)
    if method == "fisher":
        reconstruct(smaller, model, texts)
    return smaller


def draw(kept, budgets, path):
    figure, axes = new_figure(figsize=(7, 4.2))
    for method, colour in colours(METHODS).items():
        values = 100 * np.array([kept[method][str(share)] for share in budgets])  # (budgets, seeds)
        axes.plot(budgets, values.mean(axis=1), "o-", color=colour, label=method)
        axes.fill_between(budgets, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2)
    axes.invert_xaxis()
    axes.set(xlabel="share of the encoder's multiplications that stays", ylabel="% of the unpruned macro-F1",
             title="no training after the cut; bands: seeds of the sample", ylim=(20, 103))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="a fine-tuned model folder")
    parser.add_argument("--out", default="runs/curves", help="the folder for curves.png and curves.json")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.9, 0.7, 0.5, 0.4, 0.3, 0.2],
                        help="shares of the MACs that stay")
    parser.add_argument("--seeds", type=int, default=3, help="samples to draw")
    parser.add_argument("--samples", type=int, default=2048, help="training texts in a sample")
    add_common_flags(parser)
    args = parser.parse_args(argv)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(args.model)
    data = open_data(args, model.config.label_names)
    val_ids = encode(tokenizer, data.validation, args, model)

    def validate(candidate):
        logits = predict(candidate, val_ids, args.batch_size, tokenizer.pad_id)
        return scores(logits, data.validation.labels)["macro_f1"]

    unpruned = validate(model)
    kept = {method: {str(share): [] for share in args.budgets} for method in METHODS}
    for seed in range(args.seeds):
        seed_everything(seed)
        sample = take(data.train, args.samples, seed=seed)
        ids = encode(tokenizer, sample, args, model)
        texts = list(batches(ids, sample.labels, args.batch_size, tokenizer.pad_id))
        gradients = mask_gradients(model, texts)
        for share in args.budgets:
            for method in METHODS:
                with torch.no_grad():
                    smaller = prune_once(model, texts, gradients, method, share, np.mean([len(i) for i in ids]))
                kept[method][str(share)].append(validate(smaller) / unpruned)
            print(f"seed {seed}, {share:.0%} of the MACs: " + ", ".join(
                f"{method} {100 * values[str(share)][-1]:.1f} %" for method, values in kept.items()), flush=True)
            write_json({"unpruned": unpruned, "kept": kept}, Path(args.out) / "curves.json")
    draw(kept, args.budgets, Path(args.out) / "curves.png")
    print(f"{args.out}: curves.png, curves.json (unpruned macro-F1 {unpruned:.4f})")


if __name__ == "__main__":
    run_script(main)
