"""A page that classifies in the browser: the files beside an int8 graph, and whether JavaScript reads as Python does.

    model.onnx, tokenizer.json, config.json     the model folder of onnx-int8, which Python opens as well
    index.html, style.css, page.js              the page
    pocketbert.js, tokens.js                    the call for pages of your own: openModel, answer
    ort.js, ort-wasm-simd-threaded.wasm         ONNX Runtime, compiled to WebAssembly
    tokenizers.js                               the tokenizers of Hugging Face, in JavaScript

The first three lines are the model's own; the others are the same for every model and come out of browser/, and out of
the node_modules that `make web` installs there. The page fetches nothing from elsewhere.

tokenizers.js is @huggingface/tokenizers. @huggingface/transformers has the same tokenizers inside, in twelve times the
bytes. On 8,000 tweets in nine languages its ids are those of Python for WordPiece, BPE and Unigram. They differ for
characters that are younger than the Unicode tables of one of the two; `different_ids` asks node.
"""

import json
import shutil
import subprocess
from pathlib import Path

from pocketbert.errors import UserError

BROWSER = Path(__file__).with_name("browser")
PAGE = ("index.html", "style.css", "page.js", "pocketbert.js", "tokens.js", "licenses.txt")
RUNTIME = {  # name in the folder -> path in node_modules; .js, because some servers do not know .mjs
    "ort.js": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "tokenizers.js": "@huggingface/tokenizers/dist/tokenizers.min.mjs"}
CLEANINGS = ("none", "cardiff")  # those that tokens.js has

HARD_TEXTS = [  # for different_ids, beside the user's
    "", " ", "so good 😀👍🏽 ❤️", "Ça va très bien, naïve café!", "ΟΔΥΣΣΕΥΣ ΚΑΛΟΣ", "İstanbul'da güzel bir gün",
    "这部电影很好看。𠀀𠀁", "とても良い映画でした", "정말 좋아요", "هذا الفيلم رائع جدا", "סרט נהדר", "बहुत अच्छा",
    "@ann see https://t.co/x?a=1 #so_good", "[CLS] [SEP] [MASK] <s> </s>", "don't  stop\n\n\tnow…", "x" * 300,
    "a\u200bb\ufeffc\x07d", "half a pair: \ud83d", "so good " * 2000]


def page_files(tokenizer):
    """{name: path} of the files to copy beside the graph; an error of one line if there can be no page."""
    if tokenizer.cleaning not in CLEANINGS or tokenizer.num_ids > tokenizer.vocab_size:
        raise UserError("--format web: BERTweet's tokenizer and its cleaning of the texts exist in Python only; "
                        "distill into a student with a tokenizer of its own, or take --format onnx-int8")
    files = {name: BROWSER / name for name in PAGE}
    files |= {name: BROWSER / "node_modules" / path for name, path in RUNTIME.items()}
    if absent := [path.name for path in files.values() if not path.is_file()]:
        raise UserError(f"--format web needs {', '.join(absent)} from npm: run `make web` (it needs node and npm)")
    return files


def page_bytes(folder):
    """(bytes of the model's own files and the page, bytes of the runtime) in a folder."""
    folder = Path(folder)
    own = ("model.onnx", "tokenizer.json", "config.json", *PAGE)
    return tuple(sum((folder / name).stat().st_size for name in names) for names in (own, RUNTIME))


def different_ids(tokenizer, texts, max_length):
    """The texts that get other token ids in JavaScript than in Python; None if node is not installed."""
    if shutil.which("node") is None:
        return None
    asked = {"tokenizer": json.loads(tokenizer.backend.to_str()), "texts": texts, "ids": tokenizer(texts, max_length),
             "config": {"text_length": max_length, "text_cleaning": tokenizer.cleaning}}
    done = subprocess.run(["node", "check.js"], cwd=BROWSER, input=json.dumps(asked), text=True, capture_output=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "Error" in line), done.stderr[-200:])
        raise UserError(f"--format web: JavaScript cannot open this tokenizer ({reason}); take --format onnx-int8")
    return [texts[i] for i in json.loads(done.stdout)]
