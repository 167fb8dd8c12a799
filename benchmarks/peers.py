"""What other people would take for the job, beside our smallest model: the same texts, the same clock, one run.

    tf-idf, fastText          rows of every report (pocketbert/evaluation/references.py)
    fastText, quantized       product quantization, cutoff 100,000 (Joulin et al. 2016, arXiv:1612.03651)
    model2vec                 static vectors distilled from the encoder, mean of a text's, and a logistic regression
    frozen encoder            the mean of the last hidden states, scaled to length 1, and a logistic regression
    transformers int8         the fine-tuned teacher by transformers and torch.onnx, quantize_dynamic as it is

    pip install fasttext-wheel model2vec[distill]      (optional: what is not installed is left out)
    python benchmarks/peers.py --teacher runs/tweets/teacher --models runs/tweets/pocket \\
        --encoder sentence-transformers/all-MiniLM-L6-v2 --data tweet_sentiment_extraction

Writes docs/results/peers.md and peers.json. Times are from raw strings to labels, in this process, in turn.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils import align_labels, open_data
from evaluate import compare
from pocketbert.cli import add_common_flags, parser_for, positive_int, run_script
from pocketbert.evaluation.opening import open_models, short_names
from pocketbert.evaluation.references import FastText, Reference, fasttext_can_train, fit_quietly, reference_models
from pocketbert.evaluation.tables import difference_cell, markdown_table
from pocketbert.files import write_json, write_text
from pocketbert.hardware import hardware_line
from pocketbert.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6


class QuantizedFastText(FastText):
    """FastText whose vectors are product-quantized."""

    name = "fastText, quantized"

    def finish(self, training_file):
        self.model.quantize(input=training_file, qnorm=True, retrain=True, cutoff=100_000, thread=1, verbose=0)


class Regression(Reference):
    """A logistic regression on vectors of texts that were trained without labels."""

    def fit(self, texts, labels):
        from sklearn.linear_model import LogisticRegression
        self.regression = LogisticRegression(C=4, class_weight="balanced", max_iter=500)
        fit_quietly(self.regression, self.vectors(texts), labels)
        self.parameters = self.size + self.regression.coef_.size
        self.bytes = self.bytes + 4 * (self.regression.coef_.size + len(self.regression.intercept_))

    def logits(self, batch):
        return torch.from_numpy(self.regression.decision_function(self.vectors(batch)).astype(np.float32))


class Model2Vec(Regression):
    """Each token has a fixed vector, computed once by the encoder (github.com/MinishLab/model2vec)."""

    name = "model2vec"

    def __init__(self, encoder, texts, labels):
        from model2vec.distill import distill
        self.model = distill(encoder, pca_dims=256, device="cpu")
        self.size = self.model.embedding.size
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            self.bytes = (Path(folder) / "model.safetensors").stat().st_size
            self.tokenizer_bytes = (Path(folder) / "tokenizer.json").stat().st_size
        self.fit(texts, labels)

    def vectors(self, texts):
        return self.model.encode(list(texts), show_progress_bar=False)


class FrozenEncoder(Regression):
    """sentence-transformers' way: the mean over the tokens of the last layer, scaled to length 1."""

    name = "frozen encoder"

    def __init__(self, encoder, texts, labels):
        from transformers import AutoModel, AutoTokenizer
        self.tokenizer = AutoTokenizer.from_pretrained(encoder)
        self.model = AutoModel.from_pretrained(encoder).eval()
        self.size = sum(weight.numel() for weight in self.model.parameters())
        self.bytes = 4 * self.size
        self.tokenizer_bytes = saved_bytes(self.tokenizer)
        self.fit(texts, labels)

    @torch.inference_mode()
    def vectors(self, texts):
        order = np.argsort([len(text) for text in texts])
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), 32):
            rows = order[start:start + 32]
            batch = self.tokenizer([texts[row] for row in rows], padding=True, truncation=True, max_length=128,
                                   return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            mean = (self.model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return vectors


class TransformersInt8(Reference):
    """The teacher as transformers opens it, through torch.onnx and ONNX Runtime's dynamic int8 with its defaults."""

    name = "transformers int8"

    def __init__(self, teacher, threads):
        import onnxruntime
        from onnxruntime.quantization import quantize_dynamic
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        self.tokenizer = AutoTokenizer.from_pretrained(teacher)
        model = AutoModelForSequenceClassification.from_pretrained(teacher, attn_implementation="eager").eval()
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.tokenizer_bytes = saved_bytes(self.tokenizer)
        example = self.tokenizer(["one text", "two"], padding=True, return_tensors="pt")
        self.inputs = ["input_ids", "attention_mask"]  # in the order of its arguments
        axes = {name: {0: "batch", 1: "tokens"} for name in self.inputs} | {"logits": {0: "batch"}}
        with tempfile.TemporaryDirectory() as folder:
            torch.onnx.export(model, tuple(example[name] for name in self.inputs), f"{folder}/fp32.onnx",
                              dynamo=False, opset_version=17, input_names=self.inputs, output_names=["logits"],
                              dynamic_axes=axes)
            quantize_dynamic(f"{folder}/fp32.onnx", f"{folder}/int8.onnx")
            self.bytes = Path(f"{folder}/int8.onnx").stat().st_size
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self.session = onnxruntime.InferenceSession(f"{folder}/int8.onnx", options)

    def logits(self, batch):
        arrays = self.tokenizer(list(batch), padding=True, truncation=True, max_length=128, return_tensors="np")
        return torch.from_numpy(self.session.run(None, {name: arrays[name] for name in self.inputs})[0])


def saved_bytes(tokenizer):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def peers(data, teacher, encoder):
    """The models of other people that can be had here, trained."""
    texts, labels = data.train.texts, np.array(data.train.labels)
    found = reference_models(data)
    if fasttext_can_train():
        found.append(QuantizedFastText(texts, labels, len(data.label_names)))
    if importlib.util.find_spec("model2vec"):
        found.append(Model2Vec(encoder, texts, labels))
    found.append(FrozenEncoder(encoder, texts, labels))
    found.append(TransformersInt8(teacher, torch.get_num_threads()))
    return found


def table_of(results):
    """The rows as lines of a Markdown table, the best macro-F1 first."""
    baseline = results.baseline
    lines = [["model", "macro-F1", "of the teacher", "difference [95 %]", "MB, with tokenizer", "ms, one raw text",
              "x faster", "texts/s from raw strings", "x as many"]]
    for row in sorted(results.models, key=lambda row: -row.macro_f1):
        difference = "baseline" if row.is_baseline else difference_cell(row.difference, row.low, row.high)
        lines.append([row.name, f"{row.macro_f1:.4f}", f"{100 * row.macro_f1 / baseline.macro_f1:.1f} %", difference,
                      f"{(row.bytes + row.tokenizer_bytes) / MB:.2f}", f"{row.ms_1_from_text:.3f}",
                      f"{baseline.ms_1_from_text / row.ms_1_from_text:.1f}", f"{row.texts_per_second:,.0f}",
                      f"{row.texts_per_second / baseline.texts_per_second:.1f}"])
    return markdown_table(lines, "lrrrrrrrr")


def main(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--teacher", required=True, help="the fine-tuned teacher's folder: the baseline")
    parser.add_argument("--models", nargs="+", default=[], help="our folders beside it")
    parser.add_argument("--encoder", required=True, help="the checkpoint that the teacher was fine-tuned from")
    parser.add_argument("--timed", type=positive_int, default=64, help="as in evaluate.py")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results"), help="where the page goes")
    add_common_flags(parser)
    args = parser.parse_args(argv)
    folders = [args.teacher, *args.models]
    models = open_models(folders, short_names(folders), "cpu")
    data = align_labels(open_data(args.data, args.data_dir, args.text, args.label), models[0].model.config.label_names)
    results = compare(models, data, baseline=models[0].name, timed=args.timed, quick=True,
                      references=peers(data, args.teacher, args.encoder))
    run = provenance("benchmarks/peers.py", vars(args), argv)
    page = ["# Beside others", "", table_of(results), "",
            f"{results.texts:,} {results.split} texts of {data.name}; trained on {len(data.train):,}. Medians, in "
            f"turn, from raw strings to labels. {hardware_line()}; commit {run['commit']}."]
    write_text("\n".join(page) + "\n", Path(args.out) / "peers.md")
    columns = ("macro_f1", "bytes", "tokenizer_bytes", "ms_1_from_text", "texts_per_second")
    found = {row.name: {column: getattr(row, column) for column in columns} for row in results.models}
    write_json({"models": found, "run": run}, Path(args.out) / "peers.json")
    print("\n".join(page))
    return results


if __name__ == "__main__":
    run_script(main)
