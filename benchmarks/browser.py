"""A web folder in headless Chromium against the same folder in Python: labels, probabilities, token ids, time.

    python quantize.py export --model runs/tweets/cnn --format web --out runs/tweets/web
    python benchmarks/browser.py --model runs/tweets/web --data tweet_sentiment_extraction

A hundred texts: the hard ones of pocketbert/quantization/web.py (emoji, accents, many alphabets, no text, 16,000
characters) and validation texts. Python answers them one by one, as the page does. The time of a text is the median of
its rounds: other programs interrupt a browser for longer than an answer takes. Writes docs/results/browser.md and
browser.json. Needs `make web` and Chromium.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chromium import Chromium, serving
from data_utils import open_data
from pocketbert import Classifier
from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.data.encoding import encode
from pocketbert.evaluation.tables import markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.provenance import provenance
from pocketbert.quantization.web import HARD_TEXTS, page_bytes

ROOT = Path(__file__).resolve().parents[1]


def answers_in_browser(browser, texts, rounds=1):
    """[{label, probabilities, ids, cut, ms}, ...] of the page that is open, each text alone, in order.

    ms: the median of the rounds    fastest_ms: the smallest
    """
    answered = browser.evaluate(f"""(async () => {{
        const {{ openModel }} = await import("./pocketbert.js");
        const model = await openModel();
        const rounds = [];
        for (let i = 0; i < {rounds}; i++) {{
            const answers = [];
            for (const text of {json.dumps(texts)}) answers.push(await model.answer(text));
            rounds.push(answers);
        }}
        return rounds;
    }})()""")
    times = np.array([[row["ms"] for row in answers] for answers in answered])
    return [row | {"ms": float(np.median(ms)), "fastest_ms": float(ms.min())}
            for row, ms in zip(answered[0], times.T, strict=True)]


def compare(folder, texts, answers):
    """How many labels and rows of ids are Python's, the largest |difference of a probability|, and the times."""
    classify = Classifier(folder, threads=1, batch_size=1)
    expected = classify(texts)
    ids, _ = encode(classify.tokenizer, texts, classify.max_length)
    differences = [abs(row["probabilities"][name] - p) for row, answer in zip(answers, expected, strict=True)
                   for name, p in answer["probabilities"].items()]
    times = {name: [row[name] for row in answers] for name in ("ms", "fastest_ms")}
    return {"texts": len(texts),
            "same_labels": sum(row["label"] == answer["label"] for row, answer in zip(answers, expected, strict=True)),
            "same_ids": sum(row["ids"] == own for row, own in zip(answers, ids, strict=True)),
            "largest_difference": max(differences),
            **{f"median_{name}": float(np.median(values)) for name, values in times.items()},
            **{f"slowest_{name}": max(values) for name, values in times.items()}}


def two_times(found, which):
    return f"{found[which + '_ms']:.1f} ({found[which + '_fastest_ms']:.1f})"


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="a folder of quantize.py export --format web")
    parser.add_argument("--data", required=True, help="a registered dataset or a file")
    parser.add_argument("--data-dir", default="data", help="where registered datasets lie, as DATA_DIR/NAME/")
    parser.add_argument("--rounds", type=positive_int, default=9, help="answers to each text")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    args = parser.parse_args(argv)
    data = open_data(args.data, args.data_dir)
    texts = (HARD_TEXTS + data.validation.texts)[:100]
    with serving(args.model) as url, Chromium() as browser:
        browser.open(url)
        found = compare(args.model, texts, answers_in_browser(browser, texts, args.rounds))
        version = browser.call("Browser.getVersion")["product"]
    own, runtime = page_bytes(args.model)
    rows = [["", ""],
            ["labels as in Python", f"{found['same_labels']} of {found['texts']}"],
            ["token ids as in Python", f"{found['same_ids']} of {found['texts']}"],
            ["largest difference of a probability", f"{found['largest_difference']:.1e}"],
            ["ms a text: median of the texts (its fastest round)", two_times(found, "median")],
            ["ms a text: the slowest text (its fastest round)", two_times(found, "slowest")],
            ["MB: model, tokenizer, page", f"{own / 1e6:.2f}"],
            ["MB: runtime", f"{runtime / 1e6:.2f}"]]
    record = provenance("benchmarks/browser.py", vars(args), argv, data=data)
    page = ["# In the browser", "", markdown_table(rows, "lr"), "",
            f"{args.model}: {len(HARD_TEXTS)} hard texts and validation texts, one at a time, tokenization included, "
            f"medians of {args.rounds} rounds. {version}, one thread of WebAssembly. {hardware_line()}; "
            f"commit {record['commit']}."]
    write_text("\n".join(page) + "\n", Path(args.out) / "browser.md")
    write_json({"browser": found | {"own_bytes": own, "runtime_bytes": runtime, "version": version}, "run": record},
               Path(args.out) / "browser.json")
    print("\n".join(page))
    return found


if __name__ == "__main__":
    run_script(main)
