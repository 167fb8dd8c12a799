"""The compressed layers: one class per stored form.

A form is a module that holds its numbers in buffers of exactly the bytes that go into model.safetensors, and
knows how to be made from the float module (`from_float`) and as an empty shell to load into (`empty_like`).
config.json's `stored_forms` says which module has which form: {"layers.0.attention.query": "int8_linear"}.

To add a form: write the class, add a line to FORMS, and let quantize.py call its `from_float`.
"""

import warnings

import torch
from torch import nn


def pick_engine(name="auto"):
    """The library that multiplies int8 by int8: 'auto' is torch's choice for this processor."""
    supported = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not supported or not hasattr(torch.ops.quantized, "linear_dynamic"):
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


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and dynamic int8 activations, on torch.ao's kernels.

        W[o, i] ~ weight[o, i] * scale[o],      weight int8 in [-128, 127], one scale per output row
        y = x_int8 @ weight^T * (scale_x * scale) + bias

    scale_x comes from the smallest and largest value of the whole batch x, padding included, at every call,
    so the last digits of a text's logits depend on its batch mates; `quantize.py` measures how much.
    The kernels want the weights packed for one engine; packing happens on the first call and is not stored.
    """

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

    def dequantize(self):
        return self.weight.float() * self.scale[:, None]

    def forward(self, x):
        if self.packed is None:
            zero_points = torch.zeros(len(self.scale), dtype=torch.int64)
            weight = quiet(torch._make_per_channel_quantized_tensor, self.weight, self.scale.double(), zero_points, 0)
            self.packed = torch.ops.quantized.linear_prepack(weight, self.bias)
        # reduce_range=True is what torch.ao's own layer does: 7-bit activations, so that processors without
        # VNNI cannot overflow their 16-bit sums.
        return torch.ops.quantized.linear_dynamic(x.contiguous(), self.packed, reduce_range=True)

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

    def dequantize(self):
        return (self.weight.float() - self.zero_point[:, None]) * self.scale[:, None]

    def forward(self, ids):
        return (self.weight[ids].float() - self.zero_point[ids][..., None]) * self.scale[ids][..., None]


def pack_bits(bits):
    """A bool vector (n,) -> uint8 (ceil(n / 8),): bit b of byte i is element 8 i + b; spare bits are 0."""
    padded = torch.nn.functional.pad(bits.byte(), (0, -len(bits) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(dim=1).byte()


def unpack_bits(packed):
    """uint8 (bytes,) -> bool (8 * bytes,)"""
    return ((packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1).flatten().bool()


class SparseLinear(nn.Module):
    """A linear layer whose zeros cost one bit each: a bitmap, and the values of all other weights in row order.

        bytes = n / 8 + 4 * values, against 4 n dense:    13 % at a sparsity of 0.9, no gain below 1/32

    Only +0.0, all bits zero, is left out: -0.0, denormals and NaN are stored as values, so that unpacking gives
    the same bits. Saves bytes of the file, not time or memory: the dense matrix is rebuilt once, at the first call.
    Both sizes are known only with the number of values: the form is written "sparse_linear:NUMBER".
    """

    def __init__(self, in_features, out_features, num_values, device=None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        num_bytes = (in_features * out_features + 7) // 8
        self.register_buffer("bitmap", torch.zeros(num_bytes, dtype=torch.uint8, device=device))
        self.register_buffer("values", torch.zeros(num_values, dtype=torch.float32, device=device))
        self.register_buffer("bias", torch.zeros(out_features, dtype=torch.float32, device=device))
        self.dense = None

    @classmethod
    def empty_like(cls, linear, num_values):
        return cls(linear.in_features, linear.out_features, num_values, device=linear.weight.device)

    @classmethod
    def from_float(cls, linear):
        weight = linear.weight.detach().float().flatten()
        stored = weight.view(torch.int32) != 0  # the bits, because -0.0 == 0.0
        layer = cls.empty_like(linear, int(stored.sum()))
        layer.bitmap, layer.values, layer.bias = pack_bits(stored), weight[stored], linear.bias.detach().clone()
        return layer

    def dequantize(self):
        """The dense matrix (out, in); an error where bitmap and values do not belong together."""
        n, bits = self.in_features * self.out_features, unpack_bits(self.bitmap)
        if bits[n:].any() or int(bits.sum()) != len(self.values):
            raise ValueError(f"damaged sparse matrix: the bitmap of {n} weights counts {int(bits.sum())} values, "
                             f"there are {len(self.values)}" + ("; spare bits are set" if bits[n:].any() else ""))
        weight = torch.zeros(n, device=self.values.device).masked_scatter_(bits[:n], self.values)
        return weight.view(self.out_features, self.in_features)

    def to_linear(self):
        linear = nn.Linear(self.in_features, self.out_features, device=self.values.device)
        linear.weight.data, linear.bias.data = self.dequantize(), self.bias.clone()
        return linear

    def forward(self, x):
        if self.dense is None or self.dense.device != x.device:
            # Like nn.Linear's weight in all respects: torch.matmul picks its kernel, and so the last bits, by
            # requires_grad, and a tensor made in inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                self.dense = self.dequantize().requires_grad_()
        return torch.nn.functional.linear(x, self.dense, self.bias)

    def _load_from_state_dict(self, state_dict, prefix, *args):  # a damaged file shows when it is opened
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.dense = None
        try:
            self.dequantize()
        except ValueError as error:
            raise ValueError(f"{prefix.removesuffix('.')}: {error}") from None

    def __getstate__(self):
        return self.__dict__ | {"dense": None}


FORMS = {"int8_linear": Int8Linear, "int8_embedding": Int8Embedding, "sparse_linear": SparseLinear}


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
