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
import copy
import importlib
import io
import logging
import platform
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import torch

from measure_utils import hardware

OPENVINO_FILES = ("openvino_model.xml", "openvino_model.bin")
FORMS = {"onnx": ("model.onnx",), "onnx-int8": ("model.onnx",), "onnx-optimized": ("model.onnx",),
         "openvino": OPENVINO_FILES, "openvino-int8": OPENVINO_FILES}  # form -> the files that hold the model
INPUTS = ["input_ids", "attention_mask"]
LARGEST = 2**31 - 2**20  # bytes; an ONNX file with its weights inside is one protobuf message, which ends at 2 GB


def graph_files(form):
    """The names of the files in which a form keeps graph and weights: ("model.onnx",)."""
    if form not in FORMS:
        raise ValueError(f"{form!r} is not a runtime of this version (it knows {', '.join(FORMS)})")
    return FORMS[form]


# ---------------------------------------------------------------------------------------------------------
# The optional packages
# ---------------------------------------------------------------------------------------------------------

def exporters(form):
    """The packages that writing a form takes."""
    if form.startswith("openvino"):
        return ["onnx", "openvino", "nncf"] if form == "openvino-int8" else ["onnx", "openvino"]
    return ["onnx", "onnxruntime"]


def require(form, names):
    """Import optional packages; a ValueError of one line says how to get those that are absent."""
    sys.modules.setdefault("openvino_telemetry", None)  # it would report each import to its maker
    try:
        modules = {name: importlib.import_module(name) for name in names}
    except ImportError as error:
        raise ValueError(f"--method {form} wants {' and '.join(names)}: pip install -r requirements-deploy.txt "
                         f"({one_line(error)})") from None
    if "onnxruntime" in modules:
        modules["onnxruntime"].disable_telemetry_events()
        modules["onnxruntime"].set_default_logger_severity(3)  # errors only; it warns of GPUs that it cannot find


def one_line(error):
    """The last line of a message that says something: OpenVINO begins its own with lines of C++ file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


@contextlib.contextmanager
def quiet():
    """Hold back what the export tools print: notices of deprecation, of traced constants, progress bars, advice."""
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(before)


# ---------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------

def export(model, form, folder, batches=None):
    """Write the graph files of an fp32 Encoder into an existing folder.

    form: one of FORMS.  batches: sample inputs [(input_ids, attention_mask), ...], which openvino-int8 alone wants:
    a few hundred texts (with 32 the noise in the logits of a small model was twice that with 240).
    The graph takes input_ids and attention_mask (B, T) int64, for any B and T, and gives logits (B, num_labels).
    """
    target = Path(folder) / graph_files(form)[0]
    tensors = model.state_dict().values()
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        raise ValueError(f"--method {form} wants an fp32 model; start from its fp32 parent")
    if sum(4 * tensor.numel() for tensor in tensors) > LARGEST:
        raise ValueError(f"--method {form}: the weights do not fit into the 2 GB that an ONNX file may have")
    batches = list(batches or []) if form == "openvino-int8" else None
    if batches == []:
        raise ValueError("--method openvino-int8 reads the ranges of the activations off sample texts: "
                         "--data is needed")
    with quiet(), tempfile.TemporaryDirectory(dir=folder) as scratch:
        require(form, exporters(form))
        plain = Path(scratch) / "plain.onnx"
        trace(model, plain)
        if form == "onnx":
            plain.rename(target)
        elif form == "onnx-int8":
            quantize_onnx(plain, target)
        elif form == "onnx-optimized":
            fuse_onnx(plain, target)
        else:
            to_openvino(plain, target, batches)


def plain_context(attention, x, queries, key_mask, head_mask=None):
    """Attention.context in the words that graph optimisers look for, the same numbers:

        softmax(Q K^T / sqrt(head_size) + (1 - mask) * -10000) V          (B, Q, heads * head_size)

    The exporters write scaled_dot_product_attention with guards against NaN, which no fusion recognises.
    A masked key gets exp(-10000) = 0, as with BERT's own mask.
    """
    q, k, v = (attention.split_heads(tensor)
               for tensor in (attention.query(queries), attention.key(x), attention.value(x)))
    scores = q @ k.transpose(-1, -2) / attention.head_size ** 0.5
    scores = scores + (1.0 - key_mask.float()) * -10000.0
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def trace(model, target):
    """Run the model once and write down its graph as plain ONNX.

    dynamo=False: the older exporter names every node after its module (/layers.0/ffn/up/MatMul), needs no
    onnxscript and takes a tenth of the time. Opset 17 is the first with LayerNormalization.
    """
    model = copy.deepcopy(model).cpu().eval()
    for layer in model.layers:
        layer.attention.context = partial(plain_context, layer.attention)
    example = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)  # B and T are left open below
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(model, example, str(target), dynamo=False, opset_version=17, input_names=INPUTS,
                      output_names=["logits"],
                      dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}})


def quantize_onnx(plain, target):
    """int8 for every matrix and embedding table outside the head, uint8 for the activations.

    Before VNNI, x86 processors added pairs of products in 16 bits, where two large ones overflow; on such a
    processor the weights get 7 bits (reduce_range). The file keeps that choice, so export where you will run.
    The plain graph is quantized, not the fused one: int8 after the fusion of attention was a fifth slower at batch 32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    old_x86 = platform.machine().lower() in ("x86_64", "amd64") and "vnni" not in hardware()["instructions"]
    body = [node.name for node in onnx.load(str(plain)).graph.node
            if node.name.startswith(("/embeddings/", "/layers."))]
    quantize_dynamic(plain, target, op_types_to_quantize=["MatMul", "Gather"], nodes_to_quantize=body,
                     per_channel=True, reduce_range=old_x86, weight_type=QuantType.QInt8)


def fuse_onnx(plain, target):
    """Fuse with ONNX Runtime's transformer optimiser, as Hugging Face's Optimum does at its level O2.

    Fused are bias + GELU (BiasGelu), sum + bias + LayerNorm (SkipLayerNormalization) and the attention of all layers
    but the last (Attention, with Q, K and V in one product). The last layer asks for the first token alone, which
    the fused operator cannot; to fuse it too would mean to compute answers that nobody reads.
    ONNX Runtime fuses much of this by itself when it opens the plain graph, and on a two-core server the two took
    equally long: measure before you choose.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model
    fusions = FusionOptions("bert")
    fusions.use_raw_attention_mask(True)  # the mask as it is; the default keeps only the number of its ones
    # 0 heads: read them from each layer's own shapes, since pruned layers differ
    graph = optimize_model(str(plain), model_type="bert", num_heads=0, hidden_size=0, opt_level=0,
                           optimization_options=fusions)
    graph.save_model_to_file(str(target))


def to_openvino(plain, target, batches=None):
    """ONNX to OpenVINO. With batches: NNCF runs them, notes the range of each activation and fixes its scale."""
    import openvino
    graph = openvino.Core().read_model(plain)
    if batches:
        import nncf
        samples = nncf.Dataset(batches, lambda batch: {
            name: tensor.cpu().numpy() for name, tensor in zip(INPUTS, batch, strict=True)})
        graph = nncf.quantize(graph, samples, subset_size=len(batches), model_type=nncf.ModelType.TRANSFORMER,
                              ignored_scope=nncf.IgnoredScope(patterns=["/head/.*"]))
    openvino.save_model(graph, target, compress_to_fp16=False)


# ---------------------------------------------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------------------------------------------

class Runtime:
    """A graph that is called like an Encoder: (input_ids, attention_mask) -> logits."""

    device = torch.device("cpu")

    def __init__(self, config, run):
        self.config, self.run = config, run  # run: {input's name: array (B, T)} -> array (B, num_labels)

    def eval(self):
        return self

    def to(self, device):
        if torch.device(device).type != "cpu":
            raise ValueError(f"--device {device}: exported graphs run on the CPU only")
        return self

    def __call__(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels); attention_mask as in Encoder.forward, None: no padding."""
        if input_ids.shape[1] > self.config.max_length:
            raise ValueError(f"{input_ids.shape[1]} tokens are more than the {self.config.max_length} that this "
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
    package, open_graph = ("openvino", open_openvino) if files == OPENVINO_FILES else ("onnxruntime", open_onnx)
    require(form, [package])
    path = Path(folder) / files[0]
    try:
        inputs, num_labels, run = open_graph(path)
    except Exception as error:  # the two runtimes' errors have no narrower name in common
        raise ValueError(f"{' or '.join(str(Path(folder) / name) for name in files)} is damaged, or newer than the "
                         f"installed {package} ({one_line(error)})") from None
    if set(inputs) != set(INPUTS) or num_labels != len(config.label_names):
        raise ValueError(f"{path} makes {num_labels} logits of {', '.join(inputs)}; config.json asks for "
                         f"{len(config.label_names)} of {', '.join(INPUTS)}: the two files do not belong together")
    return Runtime(config, run)


def open_onnx(path):
    """-> (names of the inputs, number of logits, run)"""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Idle workers would spin for a while after each call, on the cores that the next model in turn needs: on two
    # busy cores both were faster without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return ([node.name for node in session.get_inputs()], session.get_outputs()[0].shape[-1],
            lambda inputs: session.run(None, inputs)[0])


def open_openvino(path):
    """-> (names of the inputs, number of logits, run)"""
    import openvino
    graph = openvino.Core().compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32"})  # the default is bf16 where the processor has it: other logits
    return ([port.any_name for port in graph.inputs], graph.output(0).partial_shape[-1].get_length(),
            lambda inputs: graph(inputs)[0])
