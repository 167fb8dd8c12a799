"""Ours against `transformers`: texts per second, scoring and training, the two taking turns in one process.

    make bench MODEL=sentence-transformers/all-MiniLM-L6-v2 DATA=tweet_sentiment_extraction
    python tests/bench_peers.py --model runs/tweets/teacher --data tweet_sentiment_extraction

Both sides get the same weights (a folder that save_model wrote and `transformers` loads), the same texts, batch
32 and their own tokenizer. Scoring is from strings to labels with probabilities: `evaluate.answers` against the
text-classification pipeline, whose labels must be the same. Training is one epoch over tokenised texts, dropout
on: the loop of train.py against Trainer with its default collator for a tokenizer (pads to the longest of the
batch), each with fused AdamW, clipping and a linear schedule; the model is loaded before the clock starts.
Before that, both must agree: the same ids for every text, the same logits to 1e-5 on the real weights.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from pocketbert import (
    Optimizer,
    add_common_flags,
    answers,
    autocast,
    batches,
    hardware_line,
    load_model,
    open_data,
    parser_for,
    run_script,
    save_model,
    seed_everything,
    take,
)


def our_scoring(folder, texts, args):
    model, tokenizer = load_model(folder)

    def score():
        rows = ((i, text, None) for i, text in enumerate(texts))
        return [answer["label"] for answer in answers(model, tokenizer, rows, args.batch_size, args.max_length)]
    return score


def their_scoring(folder, texts, args):
    import transformers
    classify = transformers.pipeline("text-classification", model=folder, device="cpu")

    def score():
        return [answer["label"] for answer in classify(texts, batch_size=args.batch_size, truncation=True,
                                                       max_length=args.max_length)]
    return score


def our_training(folder, split, args):
    model, tokenizer = load_model(folder)
    ids = tokenizer(split.texts, args.max_length)

    def train():
        seed_everything(0)
        options = argparse.Namespace(lr=1e-5, weight_decay=0.01, warmup=0.1, accumulate=1, max_grad_norm=1.0)
        optimizer = Optimizer(model, options, num_batches=math.ceil(len(ids) / args.batch_size))
        model.train()
        for batch in batches(ids, split.labels, args.batch_size, tokenizer.pad_id, shuffle_seed=0):
            with autocast(model.device, args.bf16):
                loss = F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels)
            loss.backward()
            optimizer.step(loss)
    return train


def their_training(folder, split, args, out):
    import transformers
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(split.texts, truncation=True, max_length=args.max_length)
    rows = [{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label
            in zip(encoded["input_ids"], encoded["attention_mask"], split.labels, strict=True)]
    options = transformers.TrainingArguments(
        output_dir=out, per_device_train_batch_size=args.batch_size, num_train_epochs=1, learning_rate=1e-5,
        warmup_steps=0.1, weight_decay=0.01, report_to="none", save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=True, bf16=bool(args.bf16), optim="adamw_torch_fused")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)

    def train():
        trainer = transformers.Trainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
    return train


@torch.inference_mode()
def check_parity(folder, texts, args):
    """(texts with other ids, largest |logit difference|) between ours and `transformers`, on the same files."""
    import transformers
    model, tokenizer = load_model(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer(texts, args.max_length)
    their_ids = transformers.AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=args.max_length)
    other = sum(a != b for a, b in zip(ids, their_ids["input_ids"], strict=True))
    difference = 0.0
    for batch in batches(ids[:512], None, args.batch_size, tokenizer.pad_id):
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        ours = model(batch.input_ids, batch.attention_mask)
        difference = max(difference, (ours - theirs(batch.input_ids, mask).logits).abs().max().item())
    assert other == 0 and difference < 1e-5, f"{other} texts have other ids, logits differ by {difference:.1e}"
    return other, difference


def in_turn(ours, theirs, rounds):
    """Seconds of both, A B A B ..., after one uncounted round; returns two arrays and the last two answers."""
    times, results = ([], []), [None, None]
    for i in range(rounds + 1):
        for side, call in enumerate((ours, theirs)):
            start = time.perf_counter()
            results[side] = call()
            if i:
                times[side].append(time.perf_counter() - start)
    return np.array(times[0]), np.array(times[1]), results


def row(name, count, ours, theirs):
    ratios = theirs / ours
    return (f"| {name} | {count / np.median(ours):,.0f} | {count / np.median(theirs):,.0f} | "
            f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |")


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--score-texts", type=int, default=3000)
    parser.add_argument("--train-texts", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=3, help="of each; the ratio is taken pair by pair")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="train both in bf16")
    add_common_flags(parser)
    parser.set_defaults(max_length=128)  # both libraries read the same tokens
    args = parser.parse_args(argv)
    data = open_data(args)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_model(args.model, label_names=data.label_names)
        save_model(model, tokenizer, f"{folder}/model", run={})
        texts = take(data.validation, args.score_texts, 0).texts
        other, difference = check_parity(f"{folder}/model", texts, args)
        print(f"the same ids for all but {other} of {len(texts):,} texts; logits differ by at most {difference:.1e}")
        *scoring, (ours, theirs) = in_turn(our_scoring(f"{folder}/model", texts, args),
                                           their_scoring(f"{folder}/model", texts, args), args.rounds)
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        split = take(data.train, args.train_texts, 0)
        *training, _ = in_turn(our_training(f"{folder}/model", split, args),
                               their_training(f"{folder}/model", split, args, f"{folder}/trainer"), args.rounds)
    print(f"\n{hardware_line()}; {torch.get_num_threads()} threads, batch {args.batch_size}, {args.rounds} rounds in "
          f"turn, medians\n\n| | ours, texts/s | transformers, texts/s | ratio (min to max) |\n|---|---:|---:|---:|\n"
          + row(f"scoring {len(texts):,} texts, tokenisation included", len(texts), *scoring) + "\n"
          + row(f"training on {len(split):,} texts, {'bf16' if args.bf16 else 'fp32'}", len(split), *training)
          + f"\n\nthe same label for {same:,} of {len(texts):,} texts")


if __name__ == "__main__":
    run_script(main)
