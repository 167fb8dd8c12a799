"""Exported graphs: formats, files, and how such a file runs like any other model on the CPU.

PyTorch runs a model operator by operator, with Python between two operators. A graph runtime gets the whole
calculation as a file beforehand: it needs no Python between two operators, plans the memory once and fuses neighbouring
operators (bias + GELU in one pass over the numbers instead of six). Nothing is approximated, so the logits are the same
up to rounding. Small batches gain most, because there the overhead is as large as the work.

    format            files                       what it is
    onnx              model.onnx                  the graph; ONNX Runtime fuses what it can each time it opens it
    onnx-optimized    model.onnx                  fused beforehand into ONNX Runtime's own operators
    onnx-int8         model.onnx                  int8 weights; activations are quantized in every call
    openvino          openvino_model.xml, .bin    the graph for Intel's OpenVINO
    openvino-int8     openvino_model.xml, .bin    int8 weights and activations; their ranges come from sample texts

In int8 a weight is a whole number and a scale (one scale an output; in ONNX Runtime one scale an embedding table). In
"dynamic" int8 (onnx-int8) the input of each matrix gets its scale from its own smallest and largest value in every
call. That needs no sample texts, but a whole batch shares the scale, so a text's logits depend a little on the other
texts of its batch. openvino-int8 fixes the scales once, from sample texts: no such dependence, but the samples must
look like the texts to come. In both formats the head, the LayerNorms and the softmax stay fp32.

    export_graph(model, "onnx", folder)                # export.py; model: an fp32 Encoder; folder: exists
    graph = open_runtime(folder, "onnx", model.config)
    logits = graph(input_ids, attention_mask)          # (B, num_labels), as model(input_ids, attention_mask)
"""

import contextlib
import importlib
import io
import logging
import platform
import sys
import warnings
from pathlib import Path

import torch

from pocketbert.errors import UserError
from pocketbert.hardware import hardware
from pocketbert.models.masks import full_mask

OPENVINO_FILES = ("openvino_model.xml", "openvino_model.bin")

GRAPH_FILES = {  # format -> the files that hold the model
    "onnx": ("model.onnx",),
    "onnx-int8": ("model.onnx",),
    "onnx-optimized": ("model.onnx",),
    "openvino": OPENVINO_FILES,
    "openvino-int8": OPENVINO_FILES}

INPUTS = ["input_ids", "attention_mask"]


def graph_files(format_name):
    """The names of the files in which a format keeps graph and weights: ("model.onnx",)."""
    if format_name not in GRAPH_FILES:
        raise UserError(f"{format_name!r} is not a runtime of this version (it knows {', '.join(GRAPH_FILES)})")
    return GRAPH_FILES[format_name]


def graph_inputs(input_ids, attention_mask=None):
    """{name of an input: int64 array (B, T)}; attention_mask None: nothing is padded."""
    masked = zip(INPUTS, (input_ids, full_mask(input_ids, attention_mask)), strict=True)
    return {name: tensor.long().cpu().numpy() for name, tensor in masked}


def products_overflow():
    """Does this processor add pairs of int8 products in 16 bits, where two large ones overflow? (x86 without VNNI)

    Weights of 7 bits avoid that. The exported file keeps the choice, so export on the kind of processor that will run
    the graph: the error of 7 bits is a little larger, that of overflows is much larger.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and "vnni" not in hardware()["instructions"]


def require(format_name, packages):
    """Import optional packages; if one is absent, an error of one line says how to install it."""
    sys.modules.setdefault("openvino_telemetry", None)  # it would report each import to its maker
    try:
        modules = {name: importlib.import_module(name) for name in packages}
    except ImportError as error:
        raise UserError(f"{format_name} needs {' and '.join(packages)}: pip install -r requirements-deploy.txt "
                        f"({last_line(error)})") from None
    if "onnxruntime" in modules:
        modules["onnxruntime"].disable_telemetry_events()
        modules["onnxruntime"].set_default_logger_severity(3)  # errors only; it warns of GPUs that it cannot find


def last_line(error):
    """The last line of an error message that is not empty: OpenVINO's begin with C++ file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


@contextlib.contextmanager
def silenced():
    """Suppress what the export tools print: deprecations, traced constants, progress bars, advice."""
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(before)


class Runtime:
    """A graph that is called like an Encoder: (input_ids, attention_mask) -> logits.

    run: a function from {name of an input: array (B, T)} to an array (B, num_labels)
    """

    device = torch.device("cpu")

    def __init__(self, config, run):
        self.config = config
        self.run = run

    def eval(self):
        return self

    def to(self, device):
        if torch.device(device).type != "cpu":
            raise UserError(f"--device {device}: exported graphs run on the CPU only")
        return self

    def __call__(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels); attention_mask as in Encoder.forward."""
        if input_ids.shape[1] > self.config.max_length:
            raise UserError(f"{input_ids.shape[1]} tokens are more than the {self.config.max_length} that this "
                            f"model has positions for: set --max-length {self.config.max_length}")
        return torch.from_numpy(self.run(graph_inputs(input_ids, attention_mask)))


def open_runtime(folder, format_name, config):
    """Open the graph of a model folder. It will use as many threads as torch has at this moment.

    config: the Encoder's; label_names and max_length are read
    """
    files = graph_files(format_name)
    for name in files:
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; export it again: "
                                    f"python quantize.py export --format {format_name}")
    package = "openvino" if files == OPENVINO_FILES else "onnxruntime"
    require(format_name, [package])
    if package == "openvino":
        from pocketbert.quantization.openvino import open_openvino as open_graph
    else:
        from pocketbert.quantization.onnx import open_onnx as open_graph
    path = Path(folder) / files[0]
    try:
        inputs, num_labels, run = open_graph(path)
    except Exception as error:  # the errors of the two runtimes have no narrower class in common
        raise UserError(f"{' or '.join(str(Path(folder) / name) for name in files)} is damaged, or newer than the "
                        f"installed {package} ({last_line(error)})") from None
    if set(inputs) != set(INPUTS) or num_labels != len(config.label_names):
        raise UserError(f"{path} makes {num_labels} logits of {', '.join(inputs)}; config.json asks for "
                        f"{len(config.label_names)} of {', '.join(INPUTS)}: the two files do not belong together")
    return Runtime(config, run)
