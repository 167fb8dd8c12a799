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
look like the texts to come. In both formats the head, the LayerNorms and the softmax stay fp32, and in onnx-int8 the
recurrent matrices of gru and lstm.

    export_graph(model, "onnx", folder)                   # export.py; model: fp32; folder: exists
    graph = open_graph(folder, "onnx", model.config, threads=1)
    logits = graph(input_ids, mask)                       # numpy arrays; runtime.py has the same for tensors

No torch here, so that a graph runs where torch is not installed.
"""

import importlib
import sys
import threading
from pathlib import Path

import numpy as np

from pocketbert.errors import UserError

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


class Graph:
    """A graph that is called with numpy arrays: (input_ids, mask), both (B, T), -> logits (B, num_labels) float32.

    run: a function from {name of an input: array (B, T) int64} to logits; several threads may call it at once
    """

    def __init__(self, config, run):
        self.config = config
        self.run = run

    def __call__(self, input_ids, mask):
        if input_ids.shape[1] > self.config.max_length:
            raise UserError(f"{input_ids.shape[1]} tokens are more than the {self.config.max_length} that this "
                            f"model has positions for: set --max-length {self.config.max_length}")
        return self.run(dict(zip(INPUTS, (input_ids, mask.astype(np.int64)), strict=True)))


def open_graph(folder, format_name, config, threads):
    """The Graph in a folder. threads: how many the runtime may use for one call

    config: the model's; label_names and max_length are read
    """
    files = graph_files(format_name)
    for name in files:
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; export it again: "
                                    f"python quantize.py export --format {format_name}")
    package = "openvino" if files == OPENVINO_FILES else "onnxruntime"
    require(format_name, [package])
    path = Path(folder) / files[0]
    try:
        inputs, num_labels, run = open_openvino(path, threads) if package == "openvino" else open_onnx(path, threads)
    except Exception as error:  # the errors of the two runtimes have no narrower class in common
        raise UserError(f"{' or '.join(str(Path(folder) / name) for name in files)} is damaged, or newer than the "
                        f"installed {package} ({last_line(error)})") from None
    if set(inputs) != set(INPUTS) or num_labels != len(config.label_names):
        raise UserError(f"{path} makes {num_labels} logits of {', '.join(inputs)}; config.json asks for "
                        f"{len(config.label_names)} of {', '.join(INPUTS)}: the two files do not belong together")
    return Graph(config, run)


def open_onnx(path, threads):
    """ONNX Runtime -> (names of the inputs, number of logits, run)"""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads would spin for a while after each call, on the cores that the next model needs: on two busy cores
    # both models were faster without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]
    num_labels = session.get_outputs()[0].shape[-1]
    return inputs, num_labels, lambda arrays: session.run(None, arrays)[0]


def open_openvino(path, threads):
    """OpenVINO -> (names of the inputs, number of logits, run)"""
    import openvino
    graph = openvino.Core().compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32"})  # the default is bf16 where the processor has it: other logits
    inputs = [port.any_name for port in graph.inputs]
    num_labels = graph.output(0).partial_shape[-1].get_length()
    own = threading.local()  # a request holds the tensors of one call, so each thread has its own

    def run(arrays):
        if not hasattr(own, "request"):
            own.request = graph.create_infer_request()
        return own.request.infer(arrays)[0].copy()  # the next call writes into the same memory

    return inputs, num_labels, run
