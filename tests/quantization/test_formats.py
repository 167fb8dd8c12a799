"""The stored formats: exact packing, bitsandbytes' NF4, the same bits from the file, damage that is named."""

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from pocketbert.models.sparse import SparseLinear
from pocketbert.models.stored import (
    decode_in_each_call,
    format_class,
    lookup,
    pack_codes,
    replace_stored_modules,
    to_float,
    unpack_codes,
)
from pocketbert.quantization.blockwise import dequantize_blocks, dynamic_map, quantize_blocks
from pocketbert.quantization.clusters import ClusteredMatrix, decode_clusters, encode_clusters, store_clusters
from pocketbert.quantization.float16 import BFloat16Matrix, Float16Matrix
from pocketbert.quantization.gptq import store_groups
from pocketbert.quantization.int8 import Int8Embedding, Int8Linear
from pocketbert.quantization.kmeans import kmeans
from pocketbert.quantization.nf4 import NF4_LEVELS, NF4Matrix

SHAPES = [(1, 1), (3, 5), (7, 130), (16, 64)]


def linear(rows=7, columns=130, bias=True, seed=0):
    torch.manual_seed(seed)
    module = nn.Linear(columns, rows, bias=bias)
    module.weight.data = 0.05 * torch.randn(rows, columns)
    return module


def table(rows=7, columns=130):
    return nn.Embedding.from_pretrained(linear(rows, columns).weight.data)


def sparse(module, share=0.6):
    torch.manual_seed(1)
    module.weight.data[torch.rand_like(module.weight) < share] = 0
    return module


MAKERS = {
    "sparse_linear": lambda module: SparseLinear.from_float(sparse(module)),
    "float16": Float16Matrix.from_float,
    "bfloat16": BFloat16Matrix.from_float,
    "nf4:64": NF4Matrix.from_float,
    "nf4:32": lambda module: NF4Matrix.from_float(module, 32),
    "clusters:1": lambda module: store_clusters(module, 1),
    "clusters:5": lambda module: store_clusters(sparse(module), 5),
    "clusters:16": lambda module: store_clusters(module, 16),
    "clusters:200": lambda module: store_clusters(module, 200),
} | {f"groups:{bits}:{size}": lambda module, bits=bits, size=size: store_groups(module, bits, size)
     for bits, size in ((2, 64), (3, 32), (4, 64), (4, 1000), (5, 7), (6, 1), (7, 64), (8, 64))}


@pytest.fixture(params=MAKERS)
def make(request):
    """A function: float module -> stored layer."""
    return MAKERS[request.param]


# --- pure functions --------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 5, 8, 13, 910])
def test_packing_is_exact_and_is_the_number_that_the_docstring_says(bits, count):
    torch.manual_seed(count)
    codes = torch.randint(0, 2 ** bits, (count,), dtype=torch.uint8)
    codes[:1] = 2 ** bits - 1
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(count * bits / 8)
    assert torch.equal(unpack_codes(packed, bits, count), codes)
    whole = sum(code << i * bits for i, code in enumerate(codes.tolist()))  # lowest bits first, in Python's integers
    assert int.from_bytes(bytes(packed.tolist()), "little") == whole


def test_what_cannot_be_packed_codes_is_an_error():
    with pytest.raises(ValueError, match="16 does not fit into 4 bits"):
        pack_codes(torch.tensor([3, 16], dtype=torch.uint8), 4)
    for bits in (3, 4, 8):
        packed = pack_codes(torch.ones(5, dtype=torch.uint8), bits)
        for wrong in (packed[:-1], F.pad(packed, (0, 1))):
            with pytest.raises(ValueError, match=f"5 codes of {bits} bits take {len(packed)} bytes"):
                unpack_codes(wrong, bits, 5)
        if bits != 8:
            packed[-1] |= 128
            with pytest.raises(ValueError, match="spare bits"):
                unpack_codes(packed, bits, 5)


@pytest.mark.parametrize("k", [1, 2, 3, 16, 17, 256])
@pytest.mark.parametrize("count", [1, 15, 910])
@pytest.mark.parametrize("share", [None, 0.0, 0.6, 1.0])
def test_entropy_coding_of_clusters_is_exact_with_and_without_a_zero_among_them(k, count, share):
    torch.manual_seed(k)
    codebook = torch.randn(k).sort().values
    indices = torch.randint(0, k, (count,), dtype=torch.uint8)
    if share is not None:
        codebook[k // 2] = 0
        indices[torch.rand(count) < share] = k // 2
    stream = encode_clusters(codebook, indices)
    assert torch.equal(decode_clusters(codebook, stream, count), indices)


@pytest.mark.parametrize("k, share", [(16, 0), (256, 0), (16, 0.5), (16, 0.9), (256, 0.9)])
def test_entropy_coded_clusters_are_within_a_twentieth_of_a_bit_of_the_entropy(k, share):
    torch.manual_seed(0)
    weight = torch.randn(150_000)
    if share:
        weight[weight.abs() < weight.abs().quantile(share)] = 0
    codebook, indices = kmeans(weight, k)
    p = torch.bincount(indices) / len(indices)
    entropy = -(p * p.clamp(min=1e-12).log2()).sum().item()
    assert entropy < 8 * len(encode_clusters(codebook, indices)) / len(indices) < entropy + 1 / 20


# --- NF4 is bitsandbytes' --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def bnb():
    return pytest.importorskip("bitsandbytes.functional")


def codes_of(layer):
    return unpack_codes(layer.codes, 4, layer.num_weights)


def test_nf4_code_books_are_bitsandbytes(bnb):
    assert torch.equal(NF4_LEVELS, bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_map(), bnb.create_dynamic_map())


@pytest.mark.parametrize("rows, columns", [(2, 2), (7, 130), (5, 13), (300, 640)])
@pytest.mark.parametrize("block_size", [64, 128])
def test_nf4_is_bitsandbytes_code_for_code_and_dequantized_to_the_last_bit(bnb, rows, columns, block_size):
    weight = linear(rows, columns).weight.data
    weight[0, 0] *= 20  # a block that is unlike the others
    if rows > 2:
        weight[1] = 0  # blocks of zeros
        weight[2] *= 1e-20  # and of next to nothing
    packed, state = bnb.quantize_4bit(weight, blocksize=block_size, compress_statistics=True, quant_type="nf4")
    ours = NF4Matrix.from_float(nn.Embedding.from_pretrained(weight), block_size)
    theirs = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:weight.numel()]  # high half first, there
    assert torch.equal(codes_of(ours), theirs)
    assert torch.equal(ours.offset[0], state.offset) and torch.equal(ours.absmax_scale, state.state2.absmax)

    # On CPUs bitsandbytes finds 8-bit codes in a table of 65,536 steps, so it may miss the nearest one in a near tie.
    second = state.state2.absmax.repeat_interleave(256)[:len(state.absmax)]
    missed = (ours.absmax != state.absmax) & (second > 0)  # any code times 0 is 0
    _, absmax = quantize_blocks(weight.flatten(), NF4_LEVELS, block_size)
    pair = torch.stack([ours.absmax, state.absmax])[:, missed].int()
    tie = lookup(dynamic_map(), pair).mean(dim=0)
    assert (pair.diff(dim=0).abs() == 1).all() and missed.float().mean() < 0.01
    assert (((absmax - state.offset) / second)[missed] - tie).abs().max() < 2 ** -15 if missed.any() else True

    ours.absmax = state.absmax
    if columns % 2 == 0:  # odd widths are another, compiled kernel there
        assert torch.equal(ours.dequantize(), bnb.dequantize_4bit(packed, state))


def test_nf4_error_is_at_most_half_the_widest_gap_of_its_code_and_zeros_stay_zero():
    module = linear(50, 130)
    module.weight.data[3] = 0
    layer = NF4Matrix.from_float(module)
    exact = module.weight.detach().flatten()
    exact, error = F.pad(exact, (0, -len(exact) % 64)), F.pad((layer.dequantize() - module.weight).flatten().abs(),
                                                              (0, -len(exact) % 64))
    absmax = exact.view(-1, 64).abs().amax(dim=1)
    map_of_absmax = dequantize_blocks(layer.absmax, layer.absmax_scale, dynamic_map(), 256)
    off = (map_of_absmax + layer.offset - absmax).abs()
    gap = NF4_LEVELS.diff().max() / 2
    assert (error.view(-1, 64).amax(dim=1) <= gap * absmax + off + 1e-7).all()
    assert off.max() < 0.02 * absmax.max()
    assert not layer.dequantize()[3].any()


# --- every format ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rows, columns", SHAPES)
@pytest.mark.parametrize("is_table", [False, True], ids=["linear", "table"])
def test_state_dict_and_format_string_rebuild_the_same_bits_in_a_shell(make, rows, columns, is_table):
    module = table(rows, columns) if is_table else linear(rows, columns)
    layer = make(module)
    kind, *numbers = layer.format.split(":")
    with torch.device("meta"):
        shell = nn.Sequential(type(module)(*(module.weight.shape if is_table else (columns, rows))))
        replace_stored_modules(shell, {"0": layer.format}, "here")
    assert type(shell[0]) is type(layer) is format_class(kind) and shell[0].format == layer.format
    tensors = nn.Sequential(layer).state_dict()
    for name, tensor in shell.state_dict().items():
        assert (tensor.shape, tensor.dtype, tensor.is_meta) == (tensors[name].shape, tensors[name].dtype, True)
        assert name.count(".") == 1  # single components: model_utils.to_hf_name splits at the last dot
    shell.load_state_dict(tensors, strict=True, assign=True)
    x = torch.arange(rows)[None] if is_table else torch.randn(2, 3, columns)
    assert torch.equal(shell(x), layer(x)) and torch.equal(shell[0].dequantize(), layer.dequantize())


def test_table_looks_up_and_linear_multiplies_the_dequantized_numbers(make):
    layer, x = make(linear()), torch.randn(2, 3, 130)
    assert torch.equal(layer(x), F.linear(x, layer.dequantize(), layer.bias))
    assert torch.equal(layer.bias, linear().bias)
    layer, ids = make(table()), torch.tensor([[0, 6, 6], [3, 2, 1]])
    assert torch.equal(layer(ids), layer.dequantize()[ids]) and layer.bias is None
    assert make(linear(bias=False)).bias is None


@pytest.mark.parametrize("maker", [*MAKERS.values(), Int8Linear.from_float], ids=[*MAKERS, "int8_linear"])
def test_to_float_gives_back_a_plain_layer_with_the_numbers_that_are_stored(maker):
    layer, before = maker(linear()), torch.random.get_rng_state()
    plain = to_float(layer)
    assert type(plain) is nn.Linear and torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(plain.weight, layer.dequantize()) and torch.equal(plain.bias, layer.bias)
    assert plain.weight.requires_grad and not any(p.is_meta for p in plain.parameters())
    if not isinstance(layer, Int8Linear):
        x = torch.randn(2, 3, 130)
        assert torch.equal(plain(x), layer(x)) and to_float(maker(linear(bias=False))).bias is None


@pytest.mark.parametrize("maker", [*MAKERS.values(), Int8Embedding.from_float], ids=[*MAKERS, "int8_embedding"])
def test_to_float_of_a_table_is_an_embedding(maker):
    layer = maker(table())
    plain = to_float(layer)
    assert type(plain) is nn.Embedding and torch.equal(plain.weight, layer.dequantize())
    assert plain.weight.requires_grad and plain.weight.shape == (7, 130)


def test_layer_that_has_run_can_be_copied_and_pickled_and_its_cache_stays_behind(make):
    layer, x = make(linear()), torch.randn(2, 3, 130)
    with torch.inference_mode():
        expected = layer(x).clone()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.dense is None and torch.equal(twin(x), expected) and twin.format == layer.format
    assert "dense" not in layer.state_dict() and not list(layer.parameters())
    x.requires_grad_()  # a cache from inference mode takes part in a later backward pass
    gradient, = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient[0, 0], layer.dequantize().sum(dim=0))


def bytes_kept(call):
    """Bytes that a call has allocated and not freed: its output, and all that autograd or the layer keeps."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        output = call()
    return output, sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_layer_that_decodes_in_each_call_keeps_only_its_output_and_passes_the_dense_layers_gradient_on(make):
    layer, dense = make(linear()), to_float(make(linear()))
    x = torch.randn(2, 3, 130, requires_grad=True)
    _, kept = bytes_kept(lambda: layer(x))
    assert kept >= 4 * 7 * 130  # the dense matrix, by default
    decode_in_each_call(nn.Sequential(layer))
    assert layer.dense is None
    for _ in range(2):
        y, kept = bytes_kept(lambda: layer(x))
        assert kept == 4 * y.numel() and layer.dense is None
        torch.testing.assert_close(y, dense(x))
    ours, = torch.autograd.grad(y.square().sum(), x)
    theirs, = torch.autograd.grad(dense(x).square().sum(), x)
    torch.testing.assert_close(ours, theirs)
    assert copy.deepcopy(layer).keep_dense is False and not list(layer.parameters())


def test_table_that_decodes_in_each_call_keeps_only_its_output(make):
    layer, ids = make(table()), torch.tensor([[0, 6, 6], [3, 2, 1]])
    decode_in_each_call(nn.Sequential(layer))
    y, kept = bytes_kept(lambda: layer(ids))
    assert kept == 4 * y.numel() and torch.equal(y, layer.dequantize()[ids])


def test_gradient_of_a_layer_that_decodes_in_each_call_is_the_dense_layers_under_autocast_too():
    layer, dense = NF4Matrix.from_float(linear()), to_float(NF4Matrix.from_float(linear()))
    decode_in_each_call(layer)
    x, gradients = torch.randn(4, 130, requires_grad=True), []
    for module in (layer, dense):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        gradients += torch.autograd.grad(y.float().square().sum(), x)
    torch.testing.assert_close(*gradients, rtol=2 ** -7, atol=2 ** -7)


def test_loading_new_numbers_forgets_the_decoded_matrix():
    one, two = (NF4Matrix.from_float(linear(seed=seed)) for seed in (0, 1))
    x = torch.randn(2, 130)
    assert not torch.equal(one(x), two(x))
    one.load_state_dict(two.state_dict())
    assert torch.equal(one(x), two(x))


def test_format_counts_its_weights_and_a_sparse_one_its_non_zeros(make):
    layer = make(linear())
    zeros = int((layer.dequantize() == 0).sum()) if layer.kind == "sparse_linear" else 0
    assert layer.num_weights == 7 * 130 - zeros


@pytest.mark.parametrize("format_name, bits", [
    ("float16", 16), ("bfloat16", 16), ("groups:4:64", 4.5), ("groups:8:64", 8.5), ("groups:2:64", 2.5),
    ("groups:3:32", 4), ("nf4:64", 4.13), ("nf4:32", 4.26), ("clusters:16", 4), ("clusters:200", 7.7)])
def test_file_is_as_small_as_promised(format_name, bits, tmp_path):
    module = linear(300, 640, bias=False)
    layer = MAKERS[format_name](module)
    assert 0.85 * bits < layer.bits_per_weight <= bits
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    stored = 8 * (tmp_path / "layer.safetensors").stat().st_size / module.weight.numel()
    assert layer.bits_per_weight < stored < layer.bits_per_weight + 8 * 500 / module.weight.numel()  # and the header


def test_fresh_process_computes_the_same_bits_from_the_file(tmp_path):
    model = nn.ModuleDict({f"{i}{kind}": make(linear(24, 40) if kind == "linear" else table(24, 40))
                           for i, make in enumerate(MAKERS.values()) for kind in ("linear", "table")})
    formats = {name: layer.format for name, layer in model.items()}
    x, ids = torch.randn(3, 40), torch.arange(24)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    save_file({"x": x, "ids": ids}, tmp_path / "inputs.safetensors")
    script = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from safetensors.torch import load_file, save_file
from torch import nn
from pocketbert.models.stored import replace_stored_modules
formats, folder = {formats!r}, {str(tmp_path)!r}
with torch.device("meta"):
    model = nn.ModuleDict({{n: nn.Linear(40, 24) if n.endswith("linear") else nn.Embedding(24, 40) for n in formats}})
    replace_stored_modules(model, formats, folder)
model.load_state_dict(load_file(folder + "/model.safetensors"), strict=True, assign=True)
inputs = load_file(folder + "/inputs.safetensors")
save_file({{n: layer(inputs["x" if n.endswith("linear") else "ids"]).detach() for n, layer in model.items()}},
          folder + "/outputs.safetensors")"""
    subprocess.run([sys.executable, "-c", script], check=True)
    outputs = load_file(tmp_path / "outputs.safetensors")
    for name, layer in model.items():
        assert torch.equal(outputs[name], layer(x if name.endswith("linear") else ids)), layer.format


# --- damage ----------------------------------------------------------------------------------------------

def flip(tensor, position=0, bit=1):
    tensor.view(torch.uint8).flatten()[position] ^= bit


DAMAGE = {
    "scale is NaN": ("groups:4:64", "finite", lambda t: t["scale"].view(-1)[3:4].fill_(math.nan)),
    "low is infinite": ("groups:4:64", "finite", lambda t: t["low"].view(-1)[3:4].fill_(-math.inf)),
    "spare bit": ("groups:5:7", "spare bits", lambda t: flip(t["codes"], -1, 128)),
    "second scale is NaN": ("nf4:64", "finite", lambda t: t["absmax_scale"].fill_(math.nan)),
    "offset is infinite": ("nf4:64", "finite", lambda t: t["offset"].fill_(math.inf)),
    "codebook has NaN": ("clusters:16", "finite", lambda t: t["codebook"][5:6].fill_(math.nan)),
    "bit of the stream": ("clusters:16", "damaged", lambda t: flip(t["indices"], 100, 4)),
    "stream cut": ("clusters:16", "damaged", lambda t: t["indices"][-40:].zero_()),
    "header": ("clusters:16", "do not unpack", lambda t: flip(t["indices"], 0, 255)),
    "zero appears": ("clusters:16", "damaged", lambda t: t["codebook"][3:4].fill_(0)),
    "zero vanishes": ("clusters:5", "damaged", lambda t: t["codebook"].fill_(1)),
    "product is infinite": ("nf4:64", "finite", lambda t: (t["absmax_scale"].fill_(3e38), t["offset"].fill_(3e38))),
    "bias is NaN": ("groups:8:64", "bias is not finite", lambda t: t["bias"][2].fill_(math.nan)),
    "unused centroid is NaN": ("clusters:spare", "codebook is not finite", lambda t: t["codebook"][4].fill_(math.nan)),
    "value is NaN": ("sparse_linear", "values is not finite", lambda t: t["values"][5].fill_(math.nan)),
    "value is infinite": ("sparse_linear", "values is not finite", lambda t: t["values"][0].fill_(-math.inf)),
    "half is NaN": ("float16", "finite", lambda t: t["weight"][2].fill_(math.nan)),
    "half is infinite": ("bfloat16", "finite", lambda t: t["weight"][2].fill_(math.inf)),
    "bitmap": ("sparse_linear", "damaged", lambda t: flip(t["bitmap"])),
}


def clusters_with_a_spare():
    """Five centroids, of which the last has no weights: what it is shows in no decoded number."""
    codebook = torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2])
    return ClusteredMatrix.from_codes(linear(), codebook, torch.randint(0, 4, (7, 130), dtype=torch.uint8))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors_are_a_one_line_error_that_names_the_module(damage):
    format_name, words, spoil = DAMAGE[damage]
    layer = clusters_with_a_spare() if format_name == "clusters:spare" else MAKERS[format_name](linear())
    model = nn.ModuleDict({"up": layer})
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors, assign=True)
    spoil({name.removeprefix("up."): tensor for name, tensor in tensors.items()})
    with pytest.raises(ValueError, match=f"^up: .*{words}") as error:
        model.load_state_dict(tensors, assign=True)
    assert "\n" not in str(error.value)


def test_cluster_index_without_a_centroid_is_named():
    layer = store_clusters(linear(), 16)
    tensors = layer.state_dict() | {"codebook": layer.codebook[:12].clone()}
    with pytest.raises(ValueError, match="cluster index 15, but there are 12 clusters"):
        ClusteredMatrix(linear(), 12, len(layer.indices)).load_state_dict(tensors)


def test_stream_of_another_number_of_indices_is_an_error_also_where_zeros_are_left_out():
    for codebook in (torch.tensor([-1.0, 1.0]), torch.tensor([0.0, 1.0])):
        stream = encode_clusters(codebook, torch.ones(100, dtype=torch.uint8))
        for count in (90, 110, 40, 10_000):
            with pytest.raises(ValueError, match="damaged"):
                decode_clusters(codebook, stream, count)
        for wrong in (stream[:-1], F.pad(stream, (0, 1)), stream[:0]):
            with pytest.raises(ValueError, match="damaged"):
                decode_clusters(codebook, wrong, 100)


def test_stream_that_would_unpack_to_far_more_than_the_matrix_is_not_unpacked():
    bomb = encode_clusters(torch.ones(256), torch.zeros(100_000, dtype=torch.uint8))
    with pytest.raises(ValueError, match="too long"):
        decode_clusters(torch.ones(256), bomb, 100)


@pytest.mark.parametrize("format_name", ["groups:4", "groups:9:64", "groups:1:64", "groups:4:0", "groups:4:-8",
                                  "groups:four:64", "nf4", "nf4:0", "clusters:16", "clusters:0:10", "clusters:257:10",
                                  "clusters:16:-1", "float16:2", "int4:64"])
def test_impossible_format_is_a_one_line_error(format_name):
    with pytest.raises(ValueError, match=r"config\.json.*'?0'?") as error:
        replace_stored_modules(nn.Sequential(linear()), {"0": format_name}, "config.json")
    assert "\n" not in str(error.value)


def test_format_of_a_module_that_has_no_matrix_is_an_error():
    with pytest.raises(ValueError, match="does not fit this model"):
        replace_stored_modules(nn.Sequential(nn.LayerNorm(8)), {"0": "float16"}, "config.json")


@pytest.mark.parametrize("worst", [math.nan, math.inf])
@pytest.mark.parametrize("format_name", [format_name for format_name in MAKERS if format_name != "sparse_linear"])
def test_weights_that_are_not_finite_are_refused(format_name, worst):
    module = linear()
    module.weight.data[6, 129] = worst
    with pytest.raises(ValueError, match="finite|fit"):
        MAKERS[format_name](module)


def test_weight_too_large_for_float16_is_refused_there_and_fits_bfloat16():
    module = linear()
    module.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match="too large for their format"):
        Float16Matrix.from_float(module)
    assert BFloat16Matrix.from_float(module).dequantize()[0, 0] == pytest.approx(1e6, rel=2 ** -8)


def test_halves_are_rounded_to_nearest_and_keep_zeros():
    module = sparse(linear())
    for format_name, digits in (("float16", 11), ("bfloat16", 8)):
        half = MAKERS[format_name](module).dequantize()
        assert ((half - module.weight).abs() <= 2 ** -digits * module.weight.abs() + 2 ** -25).all()
        assert torch.equal(half == 0, module.weight == 0)
