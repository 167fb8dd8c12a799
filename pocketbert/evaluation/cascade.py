"""A cascade: the small model answers where it is confident, the large one answers the rest.

    answer(text) = small(text)  if max softmax(small's logits) >= threshold,  else  large(text)

Nothing is trained. The threshold is the lowest with which macro-F1, on texts that are never those measured, is at
most --max-drop below the large model's. When such a rule is enough: Jitkrittum et al. 2023, arXiv:2307.02764.
A cascade's times are of two kinds, so compare means: the median knows one kind, the 95th centile the other.
"""

from pathlib import Path

import numpy as np
import torch

from pocketbert.data.batching import make_batch
from pocketbert.data.splits import SPLIT_SEED, Split, select, take, text_key
from pocketbert.errors import UserError
from pocketbert.evaluation.metrics import confusion_matrix, macro_f1, mcnemar, paired_bootstrap
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware, hardware_line, time_interleaved
from pocketbert.models.size import file_bytes

ALL_TO_LARGE = 2.0          # a threshold that no probability reaches

BULK_TEXTS = 1000           # batches are timed on so many texts of the split


def confidence(logits):
    """The largest probability of each row: (N, classes) -> (N,). Only their order matters, so none is calibrated."""
    return logits.cpu().double().softmax(-1).amax(-1)  # float64: in float32 many confident texts are all 1


def cascade_predict(score, rows, threshold):
    """(labels (N,), which of the N rows were left to the large model (N,) bool); score(name, rows) -> logits."""
    logits = score("small", rows)
    predicted, doubtful = logits.argmax(-1), ~(confidence(logits) >= threshold)  # a NaN is doubtful
    if left := doubtful.nonzero().flatten().tolist():
        predicted[left] = score("large", [rows[i] for i in left]).argmax(-1)
    return predicted, doubtful


def choose_threshold(small_logits, large_logits, labels, max_drop):
    """(threshold, share of the texts that the small model answers, the cascade's macro-F1 on these texts).

    The lowest of all thresholds with macro-F1(cascade) >= macro-F1(large) - max_drop. From the most confident text
    to the least, each moves from the large model's column of one confusion matrix to the small one's.
    """
    certain = confidence(small_logits).numpy()
    small, large, labels = small_logits.argmax(-1).numpy(), large_logits.argmax(-1).numpy(), np.asarray(labels)
    confusion = confusion_matrix(labels, large, small_logits.shape[1])
    best = ALL_TO_LARGE, 0.0, float(macro_f1(confusion))
    enough = best[2] - max_drop
    order = np.argsort(-certain, kind="stable")
    for answered, row in enumerate(order, 1):
        confusion[labels[row], large[row]] -= 1
        confusion[labels[row], small[row]] += 1
        tied = answered < len(order) and certain[order[answered]] == certain[row]  # no threshold parts these two
        if not tied and (score := macro_f1(confusion)) >= enough:
            best = float(certain[row]), answered / len(order), float(score)
    return best


def halves(split):
    """Two halves of a split, each with its share of every class, the same in every run; a text that occurs twice
    goes to one half with all its copies, as in data_utils.split_validation."""
    first = {}
    for text, label in zip(split.texts, split.labels, strict=True):
        first.setdefault(text_key(text), label)
    if len(first) < 2:
        raise UserError(f"{len(first)} validation text cannot both choose a threshold and measure it")
    chosen = set(take(Split(list(first), list(first.values())), len(first) // 2, SPLIT_SEED).texts)
    inside = [text_key(text) in chosen for text in split.texts]
    return tuple(select(split, [row for row, here in enumerate(inside) if here == side]) for side in (True, False))


def choosing_and_measuring(data):
    """(texts that choose the threshold, texts that measure the cascade, what a reader must know about them)."""
    if data.test:
        return data.validation, data.test, (f"The threshold is chosen on {len(data.validation):,} validation texts of "
                                            f"{data.name}, all else is measured on {len(data.test):,} test texts.")
    choosing, measuring = halves(data.validation)
    return choosing, measuring, (f"{data.name} has no labelled test file: one half of the validation texts "
                                 f"({len(choosing):,}) chooses the threshold, the other ({len(measuring):,}) measures. "
                                 "The models were chosen on both, so scores are a little kind.")


def spread_rows(lengths, doubtful, count):
    """count rows, evenly over both routes and over the lengths in each: their mean time is that of the split."""
    order, count = np.lexsort((lengths, doubtful)), min(count, len(lengths))
    return order[((np.arange(count) + 0.5) * len(order) / count).astype(int)].tolist()


def one_by_one(models, ids, rows):
    """score(name, [row]) with batches of one text that are made beforehand: its time is the model's alone."""
    ready = {(name, row): make_batch(ids[name], None, [row], pad_id=0).to(model.device)  # one text: nothing to pad
             for name, model in models.items() for row in rows}

    def score(name, rows):
        batch = ready[name, rows[0]]
        return models[name](batch.input_ids, batch.attention_mask)
    return score


@torch.inference_mode()
def times_in_turn(score, groups, threshold):
    """{"small", "large", "cascade"}: milliseconds for each group of rows, the median of three; the three take turns."""
    def calls(rows):
        return {"small": lambda: score("small", rows), "large": lambda: score("large", rows),
                "cascade": lambda: cascade_predict(score, rows, threshold)}
    times = [time_interleaved(calls(rows), repeats=3, warmup=1) for rows in groups]
    return {name: np.array([np.median(each[name]) for each in times]) for name in times[0]}


def cascade_rows(predicted, labels, num_labels, one, bulk, draws):
    """A row of results for the large model, the small one and the cascade; what is compared is with the large one."""
    rows, labels = [], np.asarray(labels)
    for name in ("large", "small", "cascade"):
        row = {"name": name, "macro_f1": float(macro_f1(confusion_matrix(labels, predicted[name], num_labels))),
               "accuracy": float((predicted[name] == labels).mean())}
        row["difference"] = row["macro_f1"] - (rows or [row])[0]["macro_f1"]
        row["low"], row["high"] = paired_bootstrap(labels, predicted[name], predicted["large"], num_labels, draws)
        row["p_value"] = mcnemar(labels, predicted[name], predicted["large"])
        row |= {"ms_mean": one[name].mean(), "ms_median": np.median(one[name]), "ms_p95": np.quantile(one[name], 0.95),
                "speedup_1": one["large"].mean() / one[name].mean(), "bulk_seconds": bulk[name].sum() / 1000,
                "speedup_bulk": bulk["large"].sum() / bulk[name].sum()}
        rows.append({key: value if key == "name" else float(value) for key, value in row.items()})
    return rows


def cascade_table(rows, texts):
    """The results as lines of a Markdown table that also line up in a terminal; texts: how many in a bulk."""
    cells = ["model, macro-F1, accuracy, difference [95 %], McNemar p, ms mean / median / p95, texts/s in bulk, "
             "x faster alone / in bulk".split(", ")]
    for r in rows:
        cells.append([r["name"], f"{r['macro_f1']:.4f}", f"{r['accuracy']:.4f}",
                      f"{100 * r['difference']:+.1f} [{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]",
                      f"{r['p_value']:.3f}", f"{r['ms_mean']:.2f} / {r['ms_median']:.2f} / {r['ms_p95']:.2f}",
                      f"{texts / r['bulk_seconds']:,.0f}", f"{r['speedup_1']:.2f} / {r['speedup_bulk']:.2f}"])
    cells[1][3:5] = "baseline", ""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join("| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in cells)


def remarks(result):
    """What a reader must know beside the table, warnings last."""
    (_, small, cascade), chosen, size = result["rows"], result["chosen"], result["bytes"]
    lines = [result["texts"],
             f"Threshold {result['threshold']:.4f}: small answers {100 * result['share_small']:.1f} % of the measured "
             f"texts. Where it was chosen: {100 * chosen['share_small']:.1f} %, macro-F1 {chosen['macro_f1']:.4f}; "
             f"large has {chosen['large']:.4f} there. Both stay in memory: "
             + " and ".join(f"{folder} ({size[name]:,} bytes)" for name, folder in result["models"].items()) + ".",
             f"Times: {hardware_line(result['hardware'])}; {result['timed_alone']} texts one by one and "
             f"{result['timed_in_bulk']:,} in batches of {result['batch_size']}, the three in turn; \"x faster\" "
             "compares means. Tokenisation is apart; where the two tokenizers differ, a cascade needs both."]
    ways = ("one by one", "speedup_1"), ("in bulk", "speedup_bulk")
    slow = {row["name"]: [way for way, key in ways if row[key] <= 1] for row in (small, cascade)}
    warnings = {"the large model answers everything, no threshold is good enough": chosen["share_small"] == 0,
                "the small model alone is good enough, it needs no cascade": chosen["share_small"] == 1,
                "the drop on the measured texts is above --max-drop": -cascade["difference"] > result["max_drop"],
                "small has no smaller file than large": size["small"] >= size["large"]}
    warnings |= {f"{name} is no faster than large {' and '.join(slow[name])}": slow[name] for name in slow}
    return lines + [f"WARNING: {words}." for words, holds in warnings.items() if holds]


def measure_cascade(folders, models, encode, scorer, data, args):
    """Choose, measure, print, write OUT/cascade.json and OUT/cascade.md. folders, models: {"small": ..., "large": ...};
    encode(split) -> {name: token ids}; scorer(ids) -> a function score(name, rows) -> logits, in batches."""
    sizes = {name: file_bytes(folder)["model"] for name, folder in folders.items()}
    choosing, measuring, texts = choosing_and_measuring(data)
    print(texts)
    score = scorer(encode(choosing))
    small, large = (score(name, range(len(choosing))) for name in ("small", "large"))
    threshold, share, best = choose_threshold(small, large, choosing.labels, args.max_drop)

    ids, rows, num_labels = encode(measuring), range(len(measuring)), len(data.label_names)
    score = scorer(ids)
    labels, doubtful = cascade_predict(score, rows, threshold)
    predicted = {name: score(name, rows).argmax(-1).numpy() for name in models} | {"cascade": labels.numpy()}
    timed, many = (spread_rows([*map(len, ids["large"])], doubtful.numpy(), count) 
                   for count in (args.timed, BULK_TEXTS))
    one = times_in_turn(one_by_one(models, ids, timed), [[row] for row in timed], threshold)
    bulk = times_in_turn(score, [many], threshold)

    result = {"models": folders, "data": data.name, "fingerprint": data.fingerprint, "texts": texts,
              "max_drop": args.max_drop, "threshold": threshold, "share_small": float((~doubtful).double().mean()),
              "chosen": {"texts": len(choosing), "share_small": share, "macro_f1": best,
                         "large": float(macro_f1(confusion_matrix(choosing.labels, large.argmax(-1), num_labels)))},
              "bytes": sizes, "rows": cascade_rows(predicted, measuring.labels, num_labels, one, bulk, args.bootstrap),
              "batch_size": args.batch_size,
              "ms_sum_of_parts": float(np.mean(one["small"] + doubtful.numpy()[timed] * one["large"])),
              "timed_alone": len(timed), "timed_in_bulk": len(many), "hardware": hardware()}
    out, lines, words = Path(args.out), cascade_table(result["rows"], len(many)), remarks(result)
    write_json(result, out / "cascade.json")
    write_text("\n".join(["# Cascade", "", lines, "", *(f"- {line}" for line in words)]) + "\n", out / "cascade.md")
    print("\n" + lines + "\n", *words[1:], f"{out}: cascade.md, cascade.json", sep="\n")
