"""Exported graphs: the logits of the encoder, at any batch and length; int8 where promised; errors of one line."""

import importlib
import re
import sys
from collections import Counter
from functools import cache

import pytest
import torch

from pocketbert.errors import UserError
from pocketbert.hardware import products_overflow
from pocketbert.models.encoder import Attention
from pocketbert.models.recipes import build_recurrent
from pocketbert.quantization.export import export_graph
from pocketbert.quantization.graph import GRAPH_FILES, graph_files
from pocketbert.quantization.runtime import open_runtime
from small_models import random_model

FP32 = ["onnx", "onnx-optimized", "openvino"]
UNEVEN = {"num_heads": (4, 2, 3), "intermediate_sizes": (24, 7, 16)}
WIDE = {"heads": 8, "layers": 2, "neurons": 256, "vocab_size": 2000, "std": 0.15}  # its bytes are mostly weights
LENGTHS = [3 + i % 10 for i in range(30)]


def batch(lengths, vocab_size=60, seed=0):
    """(input_ids, attention_mask) of random texts of these lengths, padded on the right."""
    torch.manual_seed(seed)
    attention_mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return torch.randint(5, vocab_size, attention_mask.shape) * attention_mask, attention_mask


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(format, **options of random_model) -> (model, the graph opened, its folder); each is written once."""
    @cache
    def write(format_name, options):
        model, folder = random_model(**dict(options)), tmp_path_factory.mktemp(format_name)
        samples = [batch(LENGTHS, model.config.vocab_size, seed) for seed in range(8)]
        export_graph(model, format_name, folder, samples)
        return model, open_runtime(folder, format_name, model.config), folder
    return lambda format_name, **options: write(format_name, tuple(options.items()))


def assert_same(model, graph, input_ids, attention_mask=None):
    with torch.inference_mode():
        torch.testing.assert_close(graph(input_ids, attention_mask), model(input_ids, attention_mask),
                                   atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("format_name", FP32)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_fp32_graph_gives_the_encoders_logits_at_any_batch_and_length(family, format_name, exported):
    model, graph, folder = exported(format_name, family=family)
    assert sorted(path.name for path in folder.iterdir()) == sorted(graph_files(format_name))
    longest = model.config.max_length
    for lengths in ([9, 7, 4, 2], [1], [3], [longest], [longest, 1], [8] * 5):
        input_ids, attention_mask = batch(lengths)
        assert_same(model, graph, input_ids, attention_mask)
    assert_same(model, graph, batch([6, 6])[0])  # no mask: nothing is padded
    with pytest.raises(ValueError, match=f"{longest + 1} tokens are more than the {longest} .* --max-length {longest}"):
        graph(torch.zeros(1, longest + 1, dtype=torch.int64))


@pytest.mark.parametrize("format_name", FP32)
def test_unevenly_pruned_model_and_any_mask_are_exported_as_they_are(format_name, exported):
    model, graph, _ = exported(format_name, **UNEVEN)
    input_ids, attention_mask = batch([9, 7, 4, 2])
    assert_same(model, graph, input_ids, attention_mask)
    attention_mask[0, 2:5] = 0  # a gap: the mask is more than a number of tokens
    assert_same(model, graph, input_ids, attention_mask)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])
def test_optimized_graph_keeps_every_activation_function(activation, exported):
    model, graph, _ = exported("onnx-optimized", hidden_act=activation, layers=2)
    assert_same(model, graph, *batch([9, 7, 4, 2]))


@pytest.mark.parametrize("format_name", FP32)
def test_fp32_predictions_do_not_depend_on_batch_mates(format_name, exported):
    _, graph, _ = exported(format_name, family="bert")
    input_ids, attention_mask = batch([12, 7, 4, 2])
    together = graph(input_ids, attention_mask)
    for i, length in enumerate([12, 7, 4, 2]):
        torch.testing.assert_close(graph(input_ids[i:i + 1, :length])[0], together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"family": "bert"}, {"family": "roberta"}, {"family": "distilbert"}, UNEVEN])
def test_optimized_graph_really_is_fused(options, exported):
    import onnx
    model, _, folder = exported("onnx-optimized", **options)
    count = Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)
    layers = len(model.layers)
    assert count["BiasGelu"] == layers and count["Erf"] == 0
    assert count["SkipLayerNormalization"] >= 2 * layers
    assert count["Attention"] == layers - 1 and count["Softmax"] == 1  # the last layer asks for one token alone


# ---------------------------------------------------------------------------------------------------------
# int8
# ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("format_name, parent", [("onnx-int8", "onnx"), ("openvino-int8", "openvino")])
def test_int8_is_near_the_encoder_in_a_third_of_the_bytes(format_name, parent, exported):
    """Near: a step of int8 is 1/255 of a range, so noise of some percent of the logits' spread. A lost tensor, a
    wrong scale or a wrong mask is an error as large as the spread itself; 15 % lies well between the two."""
    model, graph, folder = exported(format_name, **WIDE)
    input_ids, attention_mask = batch(LENGTHS * 8, model.config.vocab_size, seed=99)
    with torch.inference_mode():
        logits, expected = graph(input_ids, attention_mask), model(input_ids, attention_mask)
    assert (logits - expected).pow(2).mean().sqrt() < 0.15 * expected.std(0).mean()
    assert (logits.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9

    _, _, fp32_folder = exported(parent, **WIDE)
    heavy = graph_files(format_name)[-1]  # model.onnx; of OpenVINO's two the one with the weights
    assert (folder / heavy).stat().st_size < 0.34 * (fp32_folder / heavy).stat().st_size


def test_onnx_int8_leaves_only_the_head_in_fp32(exported):
    import onnx
    model, _, folder = exported("onnx-int8", **WIDE)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "model.onnx").graph.initializer}
    assert sum(array.ndim == 2 and array.dtype.kind == "f" for array in tensors.values()) == 2
    small = [array for array in tensors.values() if array.ndim == 2 and array.dtype.itemsize == 1]
    assert sum(array.size for array in small) == sum(
        p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith("head."))
    scales = tensors[next(name for name in tensors if name.endswith("_scale") and tensors[name].shape == (256,))]
    assert len(set(scales.tolist())) > 1  # one a column, not one a matrix


def test_openvino_int8_leaves_the_head_in_fp32(exported):
    _, _, folder = exported("openvino-int8", **WIDE)
    graph = (folder / "openvino_model.xml").read_text()
    assert re.search(r'"/layers\.1/[^"]*/fq_weights', graph) and re.search(r'"/embeddings/word/[^"]*/fq_weights', graph)
    assert '"/head/' in graph and not re.search(r'"/head/[^"]*/fq_', graph)


@pytest.mark.parametrize("instructions, largest", [(["avx2"], 64), (["vnni"], 127)])
@pytest.mark.parametrize("format_name", ["onnx-int8", "openvino-int8"])
def test_weights_have_seven_bits_where_the_processor_adds_in_sixteen(format_name, instructions, largest, tmp_path,
                                                                     monkeypatch):
    monkeypatch.setattr("pocketbert.hardware.hardware", lambda: {"instructions": instructions})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    export_graph(random_model(layers=1), format_name, tmp_path, [batch([5, 3])])
    if format_name == "onnx-int8":
        onnx = importlib.import_module("onnx")
        tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer]
    else:
        graph = importlib.import_module("openvino").Core().read_model(tmp_path / "openvino_model.xml")
        tensors = [op.data for op in graph.get_ops() if op.get_type_name() == "Constant"]
    # of embeddings, which have 60, 40 and 2 rows, nothing is added up
    multiplied = [t for t in tensors if t.dtype == "int8" and t.ndim == 2 and len(t) not in (60, 40, 2)]
    assert multiplied and max(abs(t.astype(int)).max() for t in multiplied) == largest


def test_arm_processors_do_not_overflow(monkeypatch):
    monkeypatch.setattr("pocketbert.hardware.hardware", lambda: {"instructions": []})
    for machine, expected in (("x86_64", True), ("AMD64", True), ("aarch64", False), ("arm64", False)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert products_overflow() is expected


def test_only_dynamic_int8_depends_on_batch_mates(exported):
    """The largest activation sets the scale of its whole batch where scales are dynamic; fixed scales do not change."""
    lengths, difference = [12, 12, 4, 2], {}
    for format_name in ("onnx-int8", "openvino-int8"):
        model, graph, _ = exported(format_name, **WIDE)
        input_ids, attention_mask = batch(lengths, model.config.vocab_size)
        together = graph(input_ids, attention_mask)
        alone = torch.cat([graph(input_ids[i:i + 1, :n]) for i, n in enumerate(lengths)])
        difference[format_name] = (together - alone).abs().max().item()
    assert difference["openvino-int8"] < 0.2 * difference["onnx-int8"]


# ---------------------------------------------------------------------------------------------------------
# Errors and manners
# ---------------------------------------------------------------------------------------------------------

def test_calibration_without_texts_is_told_to_give_data(tmp_path):
    with pytest.raises(ValueError, match="openvino-int8 .* --data"):
        export_graph(random_model(), "openvino-int8", tmp_path)


def test_models_that_cannot_be_exported_are_refused_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs an fp32 model"):
        export_graph(random_model().half(), "onnx", tmp_path)
    with pytest.raises(ValueError, match="'tpu' is not a runtime"):
        export_graph(random_model(), "tpu", tmp_path)
    monkeypatch.setattr("pocketbert.quantization.export.LARGEST", 10_000)
    with pytest.raises(ValueError, match="do not fit into the 2 GB"):
        export_graph(random_model(), "onnx", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name, package", [
    ("onnx", "onnx"), ("onnx-int8", "onnxruntime"), ("onnx-optimized", "onnxruntime"), ("openvino", "openvino"),
    ("openvino-int8", "nncf")])
def test_absent_package_is_a_line_that_says_what_to_install(format_name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # import says: not there
    with pytest.raises(ValueError, match=f"{format_name} needs .*{package}.*pip install -r requirements-dep") as error:
        export_graph(random_model(), format_name, tmp_path, [batch([3])])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name, package", [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_opening_wants_the_runtime_alone(format_name, package, exported, monkeypatch):
    model, _, folder = exported(format_name, family="bert")
    for other in {"onnx", "onnxruntime", "openvino", "nncf"} - {package}:
        monkeypatch.setitem(sys.modules, other, None)
    assert_same(model, open_runtime(folder, format_name, model.config), *batch([4, 2]))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"{format_name} needs {package}: pip install"):
        open_runtime(folder, format_name, model.config)


@pytest.mark.parametrize("format_name, name", [
    ("onnx", "model.onnx"), ("openvino", "openvino_model.xml"), ("openvino", "openvino_model.bin")])
def test_damaged_or_missing_file_is_named_in_one_line(format_name, name, tmp_path, exported):
    model, _, folder = exported(format_name, family="bert")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for damage in (lambda data: data[:len(data) // 2], lambda data: b""):
        (tmp_path / name).write_bytes(damage((folder / name).read_bytes()))
        with pytest.raises(ValueError, match=f"{name}.* is damaged") as error:
            open_runtime(tmp_path, format_name, model.config)
        assert "\n" not in str(error.value)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        open_runtime(tmp_path, format_name, model.config)


@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_graph_of_another_task_is_refused(format_name, exported):
    _, _, folder = exported(format_name, family="bert")
    with pytest.raises(ValueError, match="makes 3 logits .* asks for 2"):
        open_runtime(folder, format_name, random_model(label_names=["no", "yes"]).config)


def test_runtime_answers_like_an_encoder_on_the_cpu_and_refuses_other_devices(exported):
    model, graph, _ = exported("onnx", family="bert")
    assert graph.eval() is graph and graph.to("cpu") is graph and graph.to(torch.device("cpu")) is graph
    assert graph.device == model.device and graph.config is model.config
    with pytest.raises(ValueError, match="--device cuda: .* CPU only"):
        graph.to("cuda")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("format_name", ["onnx", "openvino"])
def test_threads_are_torchs_at_the_time_of_opening(format_name, threads, exported, monkeypatch):
    """Three is more than a small machine has cores, so neither runtime's own default can pass for it."""
    model, _, folder = exported(format_name, family="bert")
    calls, package = [], importlib.import_module("onnxruntime" if format_name == "onnx" else "openvino")
    where, name = (package, "InferenceSession") if format_name == "onnx" else (package.Core, "compile_model")
    original = getattr(where, name)
    monkeypatch.setattr(where, name, lambda *args, **more: calls.append(args) or original(*args, **more))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        open_runtime(folder, format_name, model.config)
    finally:
        torch.set_num_threads(before)
    if format_name == "onnx":
        options = calls[0][1]
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    else:
        assert calls[0][-1]["INFERENCE_NUM_THREADS"] == threads
        assert calls[0][-1]["INFERENCE_PRECISION_HINT"] == "f32"  # else bf16 logits where the processor has bf16


@pytest.mark.parametrize("format_name", GRAPH_FILES)
def test_exporting_and_opening_print_nothing_and_leave_the_model_as_it_was(format_name, tmp_path, capfd, caplog,
                                                                            recwarn):
    model = random_model(layers=1)
    before = model(*batch([5, 3]))
    export_graph(model, format_name, tmp_path, [batch([5, 3])])
    open_runtime(tmp_path, format_name, model.config)(*batch([5, 3]))
    assert capfd.readouterr() == ("", "") and not caplog.records and not list(recwarn)
    assert torch.equal(model(*batch([5, 3])), before) and type(model.layers[0].attention) is Attention


# ---- students ----------------------------------------------------------------------------------------------

STUDENTS = ["cnn:hidden=16,embedding=8", "bag:hidden=8,embedding=8", "bag:ngrams=3,buckets=64,hidden=8,embedding=8",
            "gru:hidden=8,embedding=8,layers=2", "lstm:hidden=8,embedding=8"]


@pytest.mark.parametrize("format_name, tolerance", [("onnx", 1e-4), ("onnx-int8", 0.02), ("openvino", 1e-4)])
@pytest.mark.parametrize("recipe", STUDENTS)
def test_graph_of_a_student_gives_its_logits_at_any_batch_and_length(recipe, format_name, tolerance, tmp_path):
    torch.manual_seed(0)
    model = build_recurrent(recipe, 60, 0, ["bad", "so-so", "good"])
    if "ngrams" in recipe and format_name == "openvino":
        with pytest.raises(UserError, match="take onnx or onnx-int8"):
            export_graph(model, format_name, tmp_path)
        return
    export_graph(model, format_name, tmp_path)
    graph = open_runtime(tmp_path, format_name, model.config)
    for lengths in ([9, 7, 4, 2], [1], [2, 1], [model.config.max_length, 3]):
        with torch.inference_mode():
            torch.testing.assert_close(graph(*batch(lengths)), model(*batch(lengths)), atol=tolerance, rtol=0)


def test_int8_graph_of_a_student_holds_its_words_and_matrices_once_in_a_byte_each(tmp_path):
    model = build_recurrent("cnn:hidden=64,embedding=64", 4000, 0, ["bad", "good"])
    export_graph(model, "onnx-int8", tmp_path)
    weights = sum(tensor.numel() for tensor in model.state_dict().values())
    assert weights < (tmp_path / "model.onnx").stat().st_size < weights + 40_000


@pytest.mark.parametrize("recipe, format_name, message", [
    ("xlstm:hidden=8,heads=2", "onnx", "xlstm cannot be exported"), ("rwkv:hidden=8", "openvino", "rwkv cannot be"),
    ("cnn:hidden=8", "onnx-optimized", "fuses the attention of encoders")])
def test_a_student_without_a_graph_of_that_format_is_refused(recipe, format_name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_graph(build_recurrent(recipe, 60, 0, ["bad", "good"]), format_name, tmp_path)
    assert not list(tmp_path.iterdir())
