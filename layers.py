"""The compressed layers: one class per stored form.

A form is a module that holds its numbers in buffers of exactly the bytes that go into model.safetensors, and
knows how to be made from the float module (`from_float`; from chosen numbers, `from_codes`: see quantization.py) and
as an empty shell to load into (`empty_like`). config.json says which module has which form:
"stored_forms": {"layers.0.attention.query": "int8_linear"}.

    form                    a weight is stored as                                        bits a weight
    int8_linear             int8, one scale a row; int8 arithmetic, so it saves time     8
    int8_embedding          uint8, scale and zero point a row                            8
    sparse_linear:VALUES    1 bit, and 32 if it is not 0                                 1 + 32 * density
    float16, bfloat16       itself, rounded                                              16
    groups:BITS:SIZE        a point on the grid of its group of SIZE columns             BITS + 32 / SIZE
    nf4:SIZE                a quantile of the normal distribution, times its block's max 4 + 8 / SIZE + ...: 4.13
    clusters:K:BYTES        the index of one of K centroids, Huffman coded               at most log2 K, about

All but the first two are a `StoredMatrix`: decoded to floats once, at the first call. They save bytes of the file.

To add a form: write the class, add it to FORMS, and let quantize.py put it into a model.
"""

import functools
import math
import warnings
import zlib

import torch
import torch.nn.functional as F
from torch import nn


def pick_engine(name="auto"):
    """The library that multiplies int8 by int8: 'auto' is torch's choice for this processor."""
    supported = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not (supported and hasattr(torch.ops.quantized, "linear_dynamic")
            and hasattr(getattr(torch.ao, "quantization", None), "quantize_dynamic")):
        raise ValueError("this build of torch has no int8 kernels (torch.ao); install torch>=2.8,<2.14 from PyPI")
    if name == "auto":
        return torch.backends.quantized.engine if torch.backends.quantized.engine in supported else supported[0]
    if name not in supported:
        raise ValueError(f"--engine {name} is not available here; this machine has {', '.join(supported)}")
    return name


def use_engine(name):
    """Pack weights for this engine from now on; one that this machine lacks is replaced, with a printed line."""
    if name not in torch.backends.quantized.supported_engines:
        print(f"int8 engine {name} is not available here: using {pick_engine()} (last digits may differ)")
        name = pick_engine()
    torch.backends.quantized.engine = name


def quiet(function, *args):
    """Call a torch.ao function without its two known notices.

    torch 2.10+ says that torch.ao.quantization moves to torchao (whose CPU kernels are slower than fp32 in
    eager mode as of torch 2.13), and that qint8 tensors are deprecated. Neither is stored in our files.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.ao.quantization is deprecated.*")
        warnings.filterwarnings("ignore", message=".*(qint8|quint8|quantized).*deprecated.*")
        warnings.filterwarnings("ignore", message=".*quantized tensor.*")
        return function(*args)


@functools.cache
def overflows(engine):
    """Must activations keep to 7 bits? Asked of the kernel itself, with the largest numbers that there are.

    Processors without VNNI add products in 16 bits, which 2 * 255 * 127 does not fit; so torch.ao's own layer always
    takes 7 bits. Where the sums are right, 8 bits quarter the error of the activations, which is most of int8's.
    """
    scale, zero_point = torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.int64)
    ones = torch.full((16, 512), 127, dtype=torch.int8)
    weight = quiet(torch._make_per_channel_quantized_tensor, ones, scale, zero_point, 0)
    x = torch.full((8, 512), 255.0)
    x[:, 0] = 0  # the smallest and largest value set the scale: here 1, without rounding
    packed = torch.ops.quantized.linear_prepack(weight, torch.zeros(16))
    sums = torch.ops.quantized.linear_dynamic(x, packed, reduce_range=False)
    return not torch.equal(sums, torch.full((8, 16), 511 * 255 * 127.0))


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and dynamic int8 activations, on torch.ao's kernels.

        W[o, i] ~ weight[o, i] * scale[o],      weight int8 in [-128, 127], one scale per output row
        y = x_int8 @ weight^T * (scale_x * scale) + bias

    scale_x comes from the smallest and largest value of the whole batch x, padding included, at every call,
    so the last digits of a text's logits depend on its batch mates; `quantize.py` measures how much.
    The kernels want the weights packed for one engine; packing happens on the first call and is not stored.
    """

    kind = form = "int8_linear"

    def __init__(self, in_features, out_features, device=None):
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.float32, device=device))
        self.register_buffer("bias", torch.zeros(out_features, dtype=torch.float32, device=device))
        self.packed = None

    @classmethod
    def empty_like(cls, linear):
        return cls(linear.in_features, linear.out_features, device=linear.weight.device)

    @classmethod
    def from_float(cls, linear):
        """Let torch.ao choose the scales (per output row, symmetric) and take its int8 numbers over."""
        ao = torch.ao
        wrapped = quiet(lambda: ao.quantization.quantize_dynamic(
            nn.Sequential(linear), {nn.Linear: ao.quantization.per_channel_dynamic_qconfig}))
        weight = wrapped[0].weight()
        layer = cls.empty_like(linear)
        layer.weight = weight.int_repr()
        layer.scale = weight.q_per_channel_scales().float()
        layer.bias = linear.bias.detach().clone()
        return layer

    @property
    def num_weights(self):
        return self.weight.numel()

    def dequantize(self):
        return self.weight.float() * self.scale[:, None]

    def forward(self, x):
        if self.packed is None:
            zero_points = torch.zeros(len(self.scale), dtype=torch.int64)
            weight = quiet(torch._make_per_channel_quantized_tensor, self.weight, self.scale.double(), zero_points, 0)
            self.packed = torch.ops.quantized.linear_prepack(weight, self.bias)
        return torch.ops.quantized.linear_dynamic(x.contiguous(), self.packed,
                                                  reduce_range=overflows(torch.backends.quantized.engine))

    def __deepcopy__(self, memo):  # packed weights cannot be copied; the copy packs its own
        copy = type(self)(self.weight.shape[1], self.weight.shape[0])
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def __getstate__(self):
        return self.__dict__ | {"packed": None}


class Int8Embedding(nn.Module):
    """A table with one byte a number: row r is (weight[r] - zero_point[r]) * scale[r], weight in 0..255.

    The same numbers as torch.ao's float_qparams_weight_only_qconfig; only the rows that are looked up are
    turned into floats.
    """

    kind = form = "int8_embedding"
    table = True

    def __init__(self, num_rows, width, device=None):
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_rows, width, dtype=torch.uint8, device=device))
        self.register_buffer("scale", torch.ones(num_rows, dtype=torch.float32, device=device))
        self.register_buffer("zero_point", torch.zeros(num_rows, dtype=torch.float32, device=device))

    @classmethod
    def empty_like(cls, embedding):
        return cls(*embedding.weight.shape, device=embedding.weight.device)

    @classmethod
    def from_float(cls, embedding):
        """scale = (max - min) / 255 of the row, zero_point = -min / scale (a float, so no rounding is lost)."""
        rows = embedding.weight.detach()
        low, high = rows.min(dim=1).values, rows.max(dim=1).values
        layer = cls.empty_like(embedding)
        layer.scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
        layer.zero_point = -low / layer.scale
        layer.weight = (rows / layer.scale[:, None] + layer.zero_point[:, None]).round().clamp(0, 255).byte()
        return layer

    @property
    def num_weights(self):
        return self.weight.numel()

    def dequantize(self):
        return (self.weight.float() - self.zero_point[:, None]) * self.scale[:, None]

    def forward(self, ids):
        return (self.weight[ids].float() - self.zero_point[ids][..., None]) * self.scale[ids][..., None]


# Pure tensor functions: small numbers into bytes and back -----------------------------------------------

def pack_bits(bits):
    """A bool vector (n,) -> uint8 (ceil(n / 8),): bit b of byte i is element 8 i + b; spare bits are 0."""
    padded = F.pad(bits.byte(), (0, -len(bits) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(dim=1, dtype=torch.uint8)


def pack_codes(codes, bits):
    """Whole numbers below 2^bits, uint8 (n,) -> uint8 (ceil(n * bits / 8),), without gaps, lowest bits first."""
    if len(codes) and int(codes.max()) >> bits:
        raise ValueError(f"{int(codes.max())} does not fit into {bits} bits")
    places = codes[:, None] >> torch.arange(bits, dtype=torch.uint8, device=codes.device)  # (n, bits)
    return pack_bits((places & 1).flatten())


def unpack_codes(packed, bits, count):
    """The other way round: uint8 (ceil(count * bits / 8),) -> uint8 (count,); an error if it cannot be that."""
    if len(packed) != math.ceil(count * bits / 8):
        raise ValueError(f"damaged: {count} codes of {bits} bits take {math.ceil(count * bits / 8)} bytes, "
                         f"there are {len(packed)}")
    piece = bits if 8 % bits == 0 else 1  # whole codes where a byte holds whole ones: ten times faster than bits
    shifts = torch.arange(0, 8, piece, dtype=torch.uint8, device=packed.device)
    pieces = ((packed[:, None] >> shifts) & (2 ** piece - 1)).flatten()
    if pieces[count * bits // piece:].any():
        raise ValueError(f"damaged: spare bits are set behind {count} codes of {bits} bits")
    if piece == bits:
        return pieces[:count]
    return (pieces[:count * bits].view(count, bits) << shifts[:bits]).sum(dim=1, dtype=torch.uint8)


def finite(weight):
    if not weight.isfinite().all():
        raise ValueError("the weights are not finite (NaN or infinite): damaged, or too large for their form")
    return weight


def lookup(book, codes):
    """book[codes], which is several times slower: uint8 would be taken for a mask."""
    return book.index_select(0, codes.flatten().int()).view(codes.shape)


def middles(numbers):
    return (numbers[:-1] + numbers[1:]) / 2


def nearest(values, book):
    """The index, as uint8, of the number in the ascending code book that is next to each value."""
    return torch.bucketize(values, middles(book), out_int32=True).byte()


def spread(scale, low, group_size, columns):
    """(rows, groups) float16 -> (rows, columns) float32, twice: the grid of each weight."""
    return [t.float().repeat_interleave(group_size, dim=1)[:, :columns] for t in (scale, low)]


# The 16 numbers of NF4 are quantiles of the normal distribution, scaled to [-1, 1], with a 0 among them: each is met
# about equally often by normal weights (Dettmers et al. 2023, arXiv:2305.14314, appendix E).
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0])


def dynamic_map():
    """256 numbers in [-1, 1] with more digits the larger they are (Dettmers 2016, arXiv:1511.04561), ascending.

    +- 10^(i - 6) times the middles of 2^i equal parts of [0.1, 1], i = 0 ... 6; and 0 and 1. QLoRA's code for scales.
    """
    positive = torch.cat([10 ** (i - 6) * middles(torch.linspace(0.1, 1, 2 ** i + 1)) for i in range(7)])
    return torch.cat([positive, -positive, torch.tensor([0.0, 1.0])]).sort().values


def quantize_blocks(values, book, size):
    """(n,) -> codes uint8 (n,), absmax float32 (blocks,): the number of the book next to value / max|block|."""
    blocks = F.pad(values, (0, -len(values) % size)).view(-1, size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))[:, None]  # times 1/x, not /x: to bitsandbytes' last bit
    return nearest(scaled.flatten()[:len(values)], book), absmax


def dequantize_blocks(codes, absmax, book, size):
    return lookup(book, codes) * absmax.repeat_interleave(size)[:len(codes)]


def whole_bits(num_clusters):
    """How many bits an index takes before the entropy coding: a byte holds whole indices."""
    return 4 if num_clusters <= 16 else 8


def encode_clusters(codebook, indices):
    """Centroids (K,) and the index of each weight's (n,) -> uint8 (bytes,), entropy coded.

        deflate( bitmap of the weights that are not 0, if the code book has a 0 | packed indices of those weights )

    Deflate gives frequent bytes short codes; its search for repetitions, of which there are none, is off. Without the
    bitmap a zero would take half a bit or more. Bits a weight for normal weights (and the entropy of their indices):

        K = 16: 3.79 (3.76)      half of them 0: 2.82 (2.80)      nine tenths: 0.84 (0.83)
        K = 256: 7.98 (7.97)                     4.99 (4.98)                   1.28 (1.27)
    """
    indices, bitmap = indices.flatten(), indices.new_empty(0, dtype=torch.uint8)
    if (codebook == 0).any():
        used = lookup(codebook, indices) != 0
        indices, bitmap = indices[used], pack_bits(used)
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    stream = coder.compress(bitmap.cpu().numpy().tobytes()) + coder.flush(zlib.Z_SYNC_FLUSH)  # each part its own code
    packed = pack_codes(indices.byte(), whole_bits(len(codebook)))
    stream += coder.compress(packed.cpu().numpy().tobytes()) + coder.flush()
    return torch.frombuffer(bytearray(stream), dtype=torch.uint8).to(codebook.device)


def decode_clusters(codebook, stream, count):
    """The other way round -> indices uint8 (count,)."""
    coder = zlib.decompressobj()
    try:
        payload = coder.decompress(stream.cpu().numpy().tobytes(), max_length=2 * count + 2)
    except zlib.error as error:
        raise ValueError(f"damaged: the cluster indices do not unpack ({error})") from None
    if not coder.eof or coder.unused_data:
        raise ValueError(f"damaged: the cluster indices of {count} weights are cut off or too long")
    payload = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    used, size = torch.ones(count, dtype=torch.bool), math.ceil(count / 8)
    if (codebook == 0).any():
        used, payload = unpack_codes(payload[:size], 1, count).bool(), payload[size:]
    codes = unpack_codes(payload, whole_bits(len(codebook)), int(used.sum()))
    if len(codes) and int(codes.max()) >= len(codebook):
        raise ValueError(f"damaged: cluster index {int(codes.max())}, but there are {len(codebook)} clusters")
    zero = int((codebook == 0).int().argmax())
    return torch.full((count,), zero, dtype=torch.uint8).masked_scatter_(used, codes).to(codebook.device)


# The forms that are decoded to floats ------------------------------------------------------------------

class StoredMatrix(nn.Module):
    """A float matrix (rows, columns) in fewer bytes, in the place of an nn.Linear or an nn.Embedding.

    The dense matrix is decoded once, at the first call, and kept beside the bytes: the file is small, memory and time
    are those of the float layer. A linear layer's bias stays fp32.
    module: what stands there now, for its shape and bias    numbers: those of the form, "kind:number:number"

    A subclass has a `kind`, buffers, `dequantize()`, which checks what it reads, and `from_float` or `from_codes`.
    """

    def __init__(self, module, *numbers):
        super().__init__()
        rows, columns = module.weight.shape
        self.shape, self.numbers, self.dense = (rows, columns), numbers, None
        self.table = isinstance(module, nn.Embedding) or getattr(module, "table", False)
        bias = getattr(module, "bias", None)
        self.register_buffer("bias", None if bias is None else torch.zeros(rows, device=module.weight.device))

    def add_buffers(self, device, **shapes):
        """Empty ones, to load into: name=(shape, dtype)."""
        for name, (shape, dtype) in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

    @classmethod
    def empty_like(cls, module, *numbers):
        return cls(module, *numbers)

    @classmethod
    def filled(cls, module, *numbers, **tensors):
        """A layer with these tensors in its buffers, and the module's bias."""
        layer = cls.empty_like(module, *numbers)
        if layer.bias is not None:
            tensors["bias"] = module.bias.detach().float().clone()
        for name, tensor in tensors.items():
            shell = getattr(layer, name)
            assert (tensor.shape, tensor.dtype) == (shell.shape, shell.dtype), (name, tensor.shape, shell.shape)
            setattr(layer, name, tensor)
        return layer

    @property
    def form(self):
        """As config.json has it: "groups:4:64"."""
        return ":".join(map(str, (self.kind, *self.numbers)))

    @property
    def num_weights(self):
        return math.prod(self.shape)

    @property
    def bits_per_weight(self):
        """What the file spends on a weight, the form's own scales and code books included, the bias not."""
        stored = sum(b.numel() * b.element_size() for name, b in self.named_buffers() if name != "bias")
        return 8 * stored / math.prod(self.shape)

    def forward(self, x):
        if self.dense is None or self.dense.device != x.device:
            # Like nn.Linear's weight in all respects: torch.matmul picks its kernel, and so the last bits, by
            # requires_grad, and a tensor made in inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                self.dense = self.dequantize().requires_grad_()
        return F.embedding(x, self.dense) if self.table else F.linear(x, self.dense, self.bias)

    def _load_from_state_dict(self, state_dict, prefix, *args):  # a damaged file shows when it is opened
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.dense = None
        if any(buffer.is_meta for buffer in self.buffers()):
            return  # something is missing; load_state_dict names it
        try:
            self.dequantize()
        except ValueError as error:
            raise ValueError(f"{prefix.removesuffix('.')}: {error}") from None

    def __getstate__(self):
        return self.__dict__ | {"dense": None}


class SparseLinear(StoredMatrix):
    """Zeros cost one bit each: a bitmap, and the values of all other weights in row order.

        bytes = n / 8 + 4 * values, against 4 n dense:    13 % at a sparsity of 0.9, no gain below 1/32

    Only +0.0, all bits zero, is left out: -0.0, denormals and NaN are stored as values, so that unpacking gives
    the same bits. Both sizes are known only with the number of values: the form is "sparse_linear:NUMBER".
    """

    kind = "sparse_linear"

    def __init__(self, module, num_values):
        super().__init__(module, num_values)
        self.add_buffers(module.weight.device, values=(num_values, torch.float32),
                         bitmap=(math.ceil(math.prod(self.shape) / 8), torch.uint8))

    @classmethod
    def from_float(cls, module):
        weight = module.weight.detach().float().flatten()
        stored = weight.view(torch.int32) != 0  # the bits, because -0.0 == 0.0
        return cls.filled(module, int(stored.sum()), bitmap=pack_bits(stored), values=weight[stored])

    @property
    def num_weights(self):
        return len(self.values)

    def dequantize(self):
        stored = unpack_codes(self.bitmap, 1, math.prod(self.shape)).bool().view(self.shape)
        if int(stored.sum()) != len(self.values):
            raise ValueError(f"damaged sparse matrix: the bitmap of {stored.numel()} weights counts "
                             f"{int(stored.sum())} values, there are {len(self.values)}")
        return torch.zeros(self.shape, device=self.values.device).masked_scatter_(stored, self.values)


class Float16Matrix(StoredMatrix):
    """Each weight rounded to 16 bits: 11 binary digits, so |error| <= 2^-11 |w|, from 6e-5 to 65504."""

    kind, dtype = "float16", torch.float16

    def __init__(self, module):
        super().__init__(module)
        self.add_buffers(module.weight.device, weight=(self.shape, self.dtype))

    @classmethod
    def from_float(cls, module):
        return cls.filled(module, weight=finite(module.weight.detach().to(cls.dtype)))

    def dequantize(self):
        return finite(self.weight.float())


class BFloat16Matrix(Float16Matrix):
    """fp32 with its last 16 bits rounded off: 8 binary digits, |error| <= 2^-8 |w|, and no number is too large."""

    kind, dtype = "bfloat16", torch.bfloat16


class GroupMatrix(StoredMatrix):
    """Weight-only int2 ... int8: points of a grid of its own for every group of columns. "groups:4:64" is int4.

        w ~ low + scale * code,    code = 0 ... 2^bits - 1    bits a weight: bits + 32 / group_size

    Small groups follow the weights more closely and cost more. A row's last group may be shorter. The grid need not
    contain 0: a pruned model's zeros become small numbers; nf4 and clusters keep them.
    """

    kind = "groups"

    def __init__(self, module, bits, group_size):
        if not (2 <= bits <= 8 and group_size > 0):
            raise ValueError(f"groups:{bits}:{group_size}: bits are 2 to 8, the group size at least 1")
        super().__init__(module, bits, group_size)
        groups = self.shape[0], math.ceil(self.shape[1] / group_size)
        self.add_buffers(module.weight.device, codes=(math.ceil(self.num_weights * bits / 8), torch.uint8),
                         scale=(groups, torch.float16), low=(groups, torch.float16))

    @classmethod
    def from_codes(cls, module, codes, scale, low, bits, group_size):
        """What round_to_nearest or gptq returns: codes (rows, columns) uint8, scale and low (rows, groups) float16."""
        return cls.filled(module, bits, group_size, codes=pack_codes(codes.flatten(), bits), scale=scale, low=low)

    def dequantize(self):
        bits, group_size = self.numbers
        codes = unpack_codes(self.codes, bits, self.num_weights).view(self.shape)
        scale, low = spread(self.scale, self.low, group_size, self.shape[1])
        return finite(low + scale * codes)


class NF4Matrix(StoredMatrix):
    """4-bit NormalFloat with double quantization, QLoRA's form (Dettmers et al. 2023, arXiv:2305.14314, section 3).

        w ~ NF4[code] * absmax[block],    absmax ~ offset + dynamic_map[absmax_code] * absmax_scale[its block of 256]

    A block is `block_size` consecutive weights of the flattened matrix. bits a weight for blocks of 64:
    4 + 8 / 64 + 32 / (64 * 256) = 4.127. The numbers are those of bitsandbytes.
    """

    kind = "nf4"

    def __init__(self, module, block_size):
        if block_size <= 0:
            raise ValueError(f"nf4:{block_size}: the block size is at least 1")
        super().__init__(module, block_size)
        num_bytes, blocks = math.ceil(self.num_weights / 2), math.ceil(self.num_weights / block_size)
        self.add_buffers(module.weight.device, codes=(num_bytes, torch.uint8), absmax=(blocks, torch.uint8),
                         absmax_scale=(math.ceil(blocks / 256), torch.float32), offset=(1, torch.float32))

    @classmethod
    def from_float(cls, module, block_size=64):
        weight = finite(module.weight.detach().float()).flatten()
        codes, absmax = quantize_blocks(weight, NF4.to(weight.device), block_size)
        # The maxima are all positive; around their mean they use both halves of the dynamic map.
        offset = absmax.mean()
        absmax, absmax_scale = quantize_blocks(absmax - offset, dynamic_map().to(weight.device), 256)
        return cls.filled(module, block_size, codes=pack_codes(codes, 4), absmax=absmax, absmax_scale=absmax_scale,
                          offset=offset.view(1))

    def dequantize(self):
        codes = unpack_codes(self.codes, 4, self.num_weights)
        device, block_size = codes.device, self.numbers[0]
        absmax = dequantize_blocks(self.absmax, self.absmax_scale, dynamic_map().to(device), 256) + self.offset
        return finite(dequantize_blocks(codes, absmax, NF4.to(device), block_size).view(self.shape))


class ClusteredMatrix(StoredMatrix):
    """Weights that share K values: a code book and, for each weight, an index into it (Han et al., arXiv:1510.00149).

        w = codebook[index],    index: Huffman coded, see `encode_clusters`

    The number of bytes is known only with the weights: the form is "clusters:K:BYTES". Exact zeros stay zero if
    the code book has a 0, and cost next to nothing where they are many. quantization.kmeans finds the centroids.
    """

    kind = "clusters"

    def __init__(self, module, num_clusters, num_bytes):
        if not 1 <= num_clusters <= 256:
            raise ValueError(f"clusters:{num_clusters}: 1 to 256 clusters")
        super().__init__(module, num_clusters, num_bytes)
        self.add_buffers(module.weight.device, codebook=(num_clusters, torch.float32),
                         indices=(num_bytes, torch.uint8))

    @classmethod
    def from_codes(cls, module, codebook, indices):
        """codebook: (K,) in any order    indices: (rows, columns)"""
        stream = encode_clusters(codebook, indices)
        return cls.filled(module, len(codebook), len(stream), codebook=codebook, indices=stream)

    def dequantize(self):
        indices = decode_clusters(self.codebook, self.indices, self.num_weights)
        return finite(lookup(self.codebook, indices).view(self.shape))


FORMS = {form.kind: form for form in (Int8Linear, Int8Embedding, SparseLinear, Float16Matrix, BFloat16Matrix,
                                      GroupMatrix, NF4Matrix, ClusteredMatrix)}


def to_float(module):
    """The nn.Linear or nn.Embedding with the numbers that this form stands for."""
    weight, bias = module.dequantize(), getattr(module, "bias", None)
    if getattr(module, "table", False):
        return nn.Embedding.from_pretrained(weight, freeze=False)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias.clone())
    return linear


def replace_module(model, name, module):
    """Put `module` in the place of the sub-module called `name` ('layers.0.ffn.up')."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def replace_stored_modules(model, stored_forms, source):
    """Swap the named float modules of a model for empty modules of their stored forms, ready to load into.

    A form may carry the numbers that its `empty_like` wants: "sparse_linear:12345".
    """
    for name, form in stored_forms.items():
        form, *numbers = str(form).split(":")
        if form not in FORMS:
            raise ValueError(f"{source}: {name} is stored as {form!r}, which this version does not know "
                             f"(it knows {', '.join(FORMS)})")
        try:
            module = model.get_submodule(name)
            replace_module(model, name, FORMS[form].empty_like(module, *map(int, numbers)))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise ValueError(f"{source}: stored_forms gives {name!r} the form {form}, which does not fit "
                             "this model") from None
