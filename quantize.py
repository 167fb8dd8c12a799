"""Quantize a trained model to int8: a quarter of the bytes, and fewer milliseconds where the processor helps.

Each row of a weight matrix is stored as whole numbers from -128 to 127 and one scale:

    W[o, :] ~ scale[o] * W_int8[o, :],        scale[o] = max|W[o, :]| / 127.5

"Dynamic" means that activations are quantized on the fly, at every call, so no calibration data are needed.
torch.ao chooses the scales and multiplies int8 by int8; embeddings get int8 rows; the classification head and the
LayerNorms stay fp32, because they are small and feel every bit. One scale a row ("per channel") instead of one a
matrix keeps a single large row from spoiling all others.

    python quantize.py --model runs/demo/pruned --out runs/demo/int8 --data demo
    python quantize.py --model runs/tweets/teacher --out runs/tweets/int8 --data tweet_sentiment_extraction

With --data it measures what was lost: score, milliseconds, and how often a text's label depends on its batch mates.
"""

import copy
import tempfile

from torch import nn

import layers
from measure_utils import file_bytes
from model_utils import check_out, load_model, save_model
from sparsity import to_dense
from train_utils import (
    add_common_flags,
    encode,
    open_data,
    parser_for,
    predict,
    provenance,
    run_script,
    scores,
    time_ratio,
)


def quantize_dynamic(model, engine, embeddings=True):
    """A copy of the model with every encoder matrix in int8 and, if asked, every embedding table too.

    The head stays fp32. The copy's config says which module has which form, so that load_model can rebuild it.
    """
    layers.use_engine(engine)
    model = copy.deepcopy(model).eval()
    forms = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.startswith("head."):
            forms[name] = "int8_linear"
        elif isinstance(module, nn.Embedding) and embeddings:
            forms[name] = "int8_embedding"
    for name, form in forms.items():
        layers.replace_module(model, name, layers.FORMS[form].from_float(model.get_submodule(name)))
    model.config.stored_forms, model.config.int8_engine = forms, engine
    return model


def quantized_share(model):
    """Share of the weights that are no longer fp32. A share far from 1 means that something slipped through."""
    integer = sum(t.numel() for t in model.state_dict().values() if not t.is_floating_point())
    return integer / sum(t.numel() for t in model.state_dict().values())


def batch_mate_flips(model, ids, batch_size, pad_id):
    """How many texts get another label in a batch than alone (dynamic int8 shares one scale a batch).

    Returns (flips, largest |logit difference|).
    """
    together, alone = predict(model, ids, batch_size, pad_id), predict(model, ids, 1, pad_id)
    return int((together.argmax(-1) != alone.argmax(-1)).sum()), (together - alone).abs().max().item()


def parse_args(argv=None):
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True, help="the fp32 model folder to quantize")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument("--method", choices=["dynamic"], default="dynamic", help="torch.ao's dynamic int8")
    parser.add_argument("--engine", default="auto", help="x86, onednn, fbgemm or qnnpack; auto: this machine's best")
    parser.add_argument("--fp32-embeddings", action="store_true", help="leave the embedding tables as they are")
    add_common_flags(parser, data_required=False)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    check_out(args.out)
    if args.device not in ("auto", "cpu"):
        raise ValueError(f"--device {args.device}: torch.ao's int8 kernels run on the CPU only")
    engine = layers.pick_engine(args.engine)
    model, tokenizer = load_model(args.model)
    model = to_dense(model)
    if model.config.stored_forms:
        raise ValueError(f"{args.model} is quantized already; start from its fp32 parent")
    data = open_data(args, model.config.label_names) if args.data else None
    int8 = quantize_dynamic(model, engine, embeddings=not args.fp32_embeddings)
    report = {"engine": engine, "quantized_share": quantized_share(int8)}
    print(f"engine {engine}; {report['quantized_share']:.1%} of all numbers are int8, the head and the "
          "LayerNorms stay fp32")
    if data is not None:
        report |= measure(int8, model, tokenizer, data, args)
    save_model(int8, tokenizer, args.out, provenance(
        "quantize.py", args, argv, parent=args.model, data=data, quantization=report,
        validation=report.get("validation")))
    before, after = fp32_bytes(model, tokenizer), file_bytes(args.out)["model"]
    print(f"{args.out}: {after / 1e6:.1f} MB, fp32 {before / 1e6:.1f} MB, {after / before:.1%}\n"
          f"next: python evaluate.py {args.model} {args.out} --data {args.data or 'DATA'} --out runs/report")


def fp32_bytes(model, tokenizer):
    """The bytes of the float model's file, written for the purpose: the parent may be a .bin or on the Hub."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, tokenizer, f"{folder}/fp32", run={})
        return file_bytes(f"{folder}/fp32")["model"]


def measure(int8, fp32, tokenizer, data, args):
    """What quantization cost, on validation texts; prints a table and every warning that applies."""
    ids, labels, pad_id = encode(tokenizer, data.validation, args, fp32), data.validation.labels, tokenizer.pad_id
    logits = {"fp32": predict(fp32, ids, args.batch_size, pad_id), "int8": predict(int8, ids, args.batch_size, pad_id)}
    result = {name: scores(value, labels) for name, value in logits.items()}
    changed = int((logits["fp32"].argmax(-1) != logits["int8"].argmax(-1)).sum())
    some = ids[:500]
    flips, difference = batch_mate_flips(int8, some, args.batch_size, pad_id)
    ratios = {size: 1 / time_ratio(int8, fp32, ids, size, pad_id) for size in (1, args.batch_size)}
    print(f"{'':<6}{'macro-F1':>10}{'accuracy':>10}\n"
          + "\n".join(f"{name:<6}{s['macro_f1']:>10.4f}{s['accuracy']:>10.4f}" for name, s in result.items()))
    print(f"{changed} of {len(ids):,} labels differ from fp32; {flips} of {len(some)} labels depend on the batch "
          f"(logits by up to {difference:.2g})")
    print("time int8 / fp32: " + ", ".join(f"{ratio:.2f} at batch {size}" for size, ratio in ratios.items()))
    if len(set(logits["int8"].argmax(-1).tolist())) == 1 < len(set(labels)):
        print("WARNING: the int8 model answers one class for every text: it is broken; keep fp32")
    if all(ratio > 1 for ratio in ratios.values()):
        print("WARNING: int8 is slower than fp32 on this processor at this size; it saves bytes only")
    return {"validation": result["int8"], "fp32": result["fp32"], "labels_changed": changed,
            "batch_mate_flips": flips, "batch_mate_texts": len(some), "latency_ratio": ratios}


if __name__ == "__main__":
    run_script(main)
