"""The fast runtimes for the CPU: write an encoder as a graph file, and run such a file like any other model.

PyTorch runs a model operator by operator: Python asks for a product, waits, asks for a sum, waits. A graph runtime
is given the whole calculation beforehand, as a file. It needs no Python between two operators, plans the memory
once, and fuses neighbours: bias + GELU becomes one pass over the numbers instead of six. Nothing is approximated
by that, so the logits stay the same up to the rounding of the last digits. Small batches gain most: there, the
waiting weighs as much as the work.

    form              files                       what it is
    onnx              model.onnx                  the graph; ONNX Runtime fuses what it can each time it opens it
    onnx-optimized    model.onnx                  fused beforehand into ONNX Runtime's own operators
    onnx-int8         model.onnx                  int8 weights; activations are quantized at every call
    openvino          openvino_model.xml, .bin    the graph for Intel's OpenVINO
    openvino-int8     openvino_model.xml, .bin    int8 weights and activations; their ranges come from sample texts

int8: a weight is a whole number and a scale (one scale an output; in ONNX Runtime one a whole embedding table), the
products run on whole numbers, and a quarter of the bytes is left. "Dynamic" (onnx-int8) means that each matrix's
input gets its scale from its own smallest and largest value, at every call. That wants no sample texts, but the
scale is shared by the whole batch, so a text's logits depend a little on its batch mates. openvino-int8 fixes
those scales once, from sample texts: no such dependence, but the samples must look like the texts to come. In both,
the head, the LayerNorms and the softmax stay fp32.

    export(model, "onnx", folder)                      # model: an fp32 Encoder; folder: exists
    fast = open_runtime(folder, "onnx", model.config)
    logits = fast(input_ids, attention_mask)           # (B, num_labels), as model(input_ids, attention_mask)
"""

import contextlib
import importlib
import io
import logging
import sys
import warnings
from pathlib import Path

import torch

from pocketbert.errors import UserError

OPENVINO_FILES = ("openvino_model.xml", "openvino_model.bin")

GRAPH_FILES = {"onnx": ("model.onnx",), "onnx-int8": ("model.onnx",), "onnx-optimized": ("model.onnx",),
         "openvino": OPENVINO_FILES, "openvino-int8": OPENVINO_FILES}  # form -> the files that hold the model

INPUTS = ["input_ids", "attention_mask"]

def graph_files(form):
    """The names of the files in which a form keeps graph and weights: ("model.onnx",)."""
    if form not in GRAPH_FILES:
        raise UserError(f"{form!r} is not a runtime of this version (it knows {', '.join(GRAPH_FILES)})")
    return GRAPH_FILES[form]


def require(form, names):
    """Import optional packages; a ValueError of one line says how to get those that are absent."""
    sys.modules.setdefault("openvino_telemetry", None)  # it would report each import to its maker
    try:
        modules = {name: importlib.import_module(name) for name in names}
    except ImportError as error:
        raise UserError(f"--method {form} wants {' and '.join(names)}: pip install -r requirements-deploy.txt "
                         f"({last_line(error)})") from None
    if "onnxruntime" in modules:
        modules["onnxruntime"].disable_telemetry_events()
        modules["onnxruntime"].set_default_logger_severity(3)  # errors only; it warns of GPUs that it cannot find


def last_line(error):
    """The last line of a message that says something: OpenVINO begins its own with lines of C++ file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


@contextlib.contextmanager
def silenced():
    """Hold back what the export tools print: notices of deprecation, of traced constants, progress bars, advice."""
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(before)


class Runtime:
    """A graph that is called like an Encoder: (input_ids, attention_mask) -> logits."""

    device = torch.device("cpu")

    def __init__(self, config, run):
        self.config, self.run = config, run  # run: {input's name: array (B, T)} -> array (B, num_labels)

    def eval(self):
        return self

    def to(self, device):
        if torch.device(device).type != "cpu":
            raise UserError(f"--device {device}: exported graphs run on the CPU only")
        return self

    def __call__(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels); attention_mask as in Encoder.forward, None: no padding."""
        if input_ids.shape[1] > self.config.max_length:
            raise UserError(f"{input_ids.shape[1]} tokens are more than the {self.config.max_length} that this "
                             f"model has positions for: set --max-length {self.config.max_length}")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = zip(INPUTS, (input_ids, attention_mask), strict=True)
        return torch.from_numpy(self.run({name: tensor.long().numpy() for name, tensor in inputs}))


def open_runtime(folder, form, config):
    """Open the graph of a model folder. It will use as many threads as torch has at this moment.

    config: the Encoder's, of which label_names and max_length are read.
    """
    files = graph_files(form)
    for name in files:
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; export it again: python quantize.py --method {form}")
    package = "openvino" if files == OPENVINO_FILES else "onnxruntime"
    require(form, [package])
    if package == "openvino":
        from pocketbert.quantization.openvino import open_openvino as open_graph
    else:
        from pocketbert.quantization.onnx import open_onnx as open_graph
    path = Path(folder) / files[0]
    try:
        inputs, num_labels, run = open_graph(path)
    except Exception as error:  # the two runtimes' errors have no narrower name in common
        raise UserError(f"{' or '.join(str(Path(folder) / name) for name in files)} is damaged, or newer than the "
                         f"installed {package} ({last_line(error)})") from None
    if set(inputs) != set(INPUTS) or num_labels != len(config.label_names):
        raise UserError(f"{path} makes {num_labels} logits of {', '.join(inputs)}; config.json asks for "
                         f"{len(config.label_names)} of {', '.join(INPUTS)}: the two files do not belong together")
    return Runtime(config, run)
