"""PocketBERT and `transformers`: texts per second in scoring and in training, the two taking turns in one process.

Both get the same weights (a folder that save_model wrote and `transformers` loads), the same texts, the same batch size
and each its own tokenizer. First it is checked that both agree: the same ids for every text, logits within 1e-5.

    scoring     from strings to labels with probabilities: what `evaluate.py predict` does, against the
                text-classification pipeline, whose labels are compared with ours
    training    one epoch over tokenised texts with dropout: the loop of train.py, against Trainer with its default
                collator (pads to the longest text of a batch); both with fused AdamW, clipping and a linear schedule

    make bench MODEL=sentence-transformers/all-MiniLM-L6-v2 DATA=tweet_sentiment_extraction
    python benchmarks/transformers_speed.py --model runs/tweets/teacher --data tweet_sentiment_extraction

Writes transformers_speed.md and transformers_speed.json.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils import batches, open_data, take
from model_utils import load_model, save_model
from pocketbert.cli import add_common_flags, parser_for, positive_int, run_script
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.models.classifier import Classifier
from pocketbert.models.device import autocast, seed_everything
from pocketbert.models.folder import parent_of
from pocketbert.models.masks import full_mask  # noqa: E402
from pocketbert.models.opening import text_length
from pocketbert.provenance import provenance
from pocketbert.training.optim import parameter_groups, steps_per_epoch, warmup_then_decay

ROOT = Path(__file__).resolve().parents[1]
LR = 1e-5
WEIGHT_DECAY = 0.01
WARMUP = 0.1


@torch.inference_mode()
def check_parity(folder, texts, max_length, batch_size):
    """(texts with different ids, largest |difference of logits|) between ours and `transformers`, on the same files."""
    import transformers
    model, tokenizer = load_model(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts, max_length)
    their_ids = their_tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    different = sum(a != b for a, b in zip(ids, their_ids, strict=True))
    largest = 0.0
    for batch in batches(ids[:512], None, batch_size, tokenizer.pad_id):
        mask = full_mask(batch.input_ids, batch.attention_mask)
        logits = model(batch.input_ids, batch.attention_mask)
        largest = max(largest, (logits - theirs(batch.input_ids, mask).logits).abs().max().item())
    assert different == 0 and largest < 1e-5, f"{different} texts have different ids, logits differ by {largest:.1e}"
    return different, largest


def our_scoring(folder, texts, max_length, batch_size):
    """A function that returns the label of each text."""
    classify = Classifier(folder, device="cpu", batch_size=batch_size, max_length=max_length)
    return lambda: [answer["label"] for answer in classify(iter(texts))]


def their_scoring(folder, texts, max_length, batch_size):
    """The same with the pipeline of `transformers`."""
    import transformers
    classify = transformers.pipeline("text-classification", model=folder, device="cpu")

    def score():
        answers = classify(texts, batch_size=batch_size, truncation=True, max_length=max_length)
        return [answer["label"] for answer in answers]
    return score


def our_training(folder, split, max_length, batch_size, bf16):
    """A function that trains for one epoch, as train.py does."""
    model, tokenizer = load_model(folder)
    ids = tokenizer(split.texts, max_length)

    def train():
        seed_everything(0)
        optimizer = torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), lr=LR, fused=True)
        scheduler = warmup_then_decay(optimizer, steps_per_epoch(len(ids), batch_size, 1), WARMUP)
        model.train()
        for batch in batches(ids, split.labels, batch_size, tokenizer.pad_id, shuffle_seed=0):
            with autocast(model.device, bf16):
                loss = F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return train


def their_training(folder, split, max_length, batch_size, bf16, out):
    """The same with Trainer. out: a folder that it may use."""
    import transformers
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(split.texts, truncation=True, max_length=max_length)
    rows = [{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label
            in zip(encoded["input_ids"], encoded["attention_mask"], split.labels, strict=True)]
    options = transformers.TrainingArguments(
        output_dir=out, per_device_train_batch_size=batch_size, num_train_epochs=1, learning_rate=LR,
        warmup_steps=WARMUP, weight_decay=WEIGHT_DECAY, report_to="none", save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=True, bf16=bf16, optim="adamw_torch_fused")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)

    def train():
        trainer = transformers.Trainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
    return train


def time_in_turn(ours, theirs, rounds):
    """Seconds of two calls in turn, after a round that is not timed: (two arrays (rounds,), the last two results)."""
    seconds = [[], []]
    results = [None, None]
    for i in range(rounds + 1):
        for side, call in enumerate((ours, theirs)):
            start = time.perf_counter()
            results[side] = call()
            if i:
                seconds[side].append(time.perf_counter() - start)
    return *map(np.array, seconds), results


def measured(what, count, ours, theirs):
    """One row of the result: texts per second of both, and the ratio of each round."""
    ratios = theirs / ours
    return {"what": what, "texts": count, "ours_per_second": count / float(np.median(ours)),
            "transformers_per_second": count / float(np.median(theirs)), "ratio": float(np.median(ratios)),
            "lowest_ratio": float(ratios.min()), "highest_ratio": float(ratios.max())}


def page(result):
    """The text of transformers_speed.md."""
    rows = [["", "PocketBERT, texts/s", "transformers, texts/s", "ratio (lowest to highest)"]]
    for row in result["rows"]:
        rows.append([row["what"], f"{row['ours_per_second']:,.0f}", f"{row['transformers_per_second']:,.0f}",
                     f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"])
    arguments = result["arguments"]
    return "\n".join([
        "# Speed beside `transformers`", "",
        f"Medians of {arguments['rounds']} rounds in which the two take turns in one process, batch "
        f"{arguments['batch_size']}. A ratio above 1: PocketBERT is faster. What is measured is described in "
        "benchmarks/transformers_speed.py.", "", markdown_table(rows, "lrrr"), "",
        f"- Before: the same ids for all {result['rows'][0]['texts']:,} texts, logits differ by at most "
        f"{result['largest_difference']:.1e}. After: the same label for {result['same_labels']:,} of them.",
        f"- Model {result['parent']['name']}, {result['data']['name']}, texts of {result['mean_tokens']:.1f} tokens on "
        "average", f"- Command: `{result['command']}`", f"- Commit {result['commit']}, transformers "
        f"{result['transformers']}", f"- {hardware_line(result['hardware'])}", ""])


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="a dense model folder, or a Hub id")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="the folder to write to")
    parser.add_argument("--score-texts", type=positive_int, default=3000, help="validation texts to score")
    parser.add_argument("--train-texts", type=positive_int, default=1600, help="training texts of the epoch")
    parser.add_argument("--rounds", type=positive_int, default=3, help="of each; a ratio is taken in each round")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="train both in bf16")
    add_common_flags(parser)
    return parser.parse_args(argv)


def main(argv=None):
    """Returns what transformers_speed.json says."""
    args = parse_args(argv)
    import transformers
    data = open_data(args.data, args.data_dir, args.text, args.label)
    scored = take(data.validation, args.score_texts, seed=0)
    trained = take(data.train, args.train_texts, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/model"
        model, tokenizer = load_model(args.model, label_names=data.label_names)
        max_length = text_length(model, args.max_length)
        mean_tokens = float(np.mean([len(ids) for ids in tokenizer(scored.texts, max_length)]))
        save_model(model, tokenizer, folder, run={})
        _, largest = check_parity(folder, scored.texts, max_length, args.batch_size)
        print(f"the same ids for all {len(scored):,} texts; logits differ by at most {largest:.1e}")

        *scoring, (ours, theirs) = time_in_turn(our_scoring(folder, scored.texts, max_length, args.batch_size),
                                                their_scoring(folder, scored.texts, max_length, args.batch_size),
                                                args.rounds)
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        *training, _ = time_in_turn(our_training(folder, trained, max_length, args.batch_size, args.bf16),
                                    their_training(folder, trained, max_length, args.batch_size, args.bf16,
                                                   f"{scratch}/trainer"), args.rounds)
    rows = [measured("scoring, tokenisation included", len(scored), *scoring),
            measured(f"training in {'bf16' if args.bf16 else 'fp32'}", len(trained), *training)]
    result = provenance("benchmarks/transformers_speed.py", vars(args), argv, parent=parent_of(args.model), data=data,
                        rows=rows, same_labels=same, largest_difference=largest, mean_tokens=mean_tokens,
                        transformers=transformers.__version__)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(result, out / "transformers_speed.json")
    write_text(page(result), out / "transformers_speed.md")
    print(f"\n{page(result)}\n{out}: transformers_speed.md, transformers_speed.json")
    return result


if __name__ == "__main__":
    run_script(main)
