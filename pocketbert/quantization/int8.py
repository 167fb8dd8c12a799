"""int8 weights and dynamic int8 activations on torch.ao's kernels.

quantize.py has the rounding by hand; here are the layers that multiply int8 by int8. A kernel belongs to an engine
(fbgemm, onednn, x86, qnnpack) and wants the weights packed in that engine's order. The engine matters when the weights
are packed, and not afterwards, so each layer carries the name of its own and nothing global changes.
"""

import contextlib
import functools
import warnings

import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.models.stored import check_loaded, finite


def pick_engine(name="auto"):
    """The engine of that name, an error if this machine lacks it; 'auto' is torch's choice for this processor."""
    supported = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not (supported and hasattr(torch.ops.quantized, "linear_dynamic")
            and hasattr(getattr(torch.ao, "quantization", None), "quantize_dynamic")):
        raise UserError("this build of torch has no int8 kernels (torch.ao); install torch>=2.8,<2.14 from PyPI")
    if name == "auto":
        return torch.backends.quantized.engine if torch.backends.quantized.engine in supported else supported[0]
    if name not in supported:
        raise UserError(f"--engine {name} is not available here; this machine has {', '.join(supported)}")
    return name


def set_engine(model, name):
    """Let every Int8Linear of a model use this engine; one that this machine lacks is replaced, with a printed line."""
    if name not in torch.backends.quantized.supported_engines:
        print(f"int8 engine {name} is not available here: using {pick_engine()} (last digits may differ)")
        name = pick_engine()
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.engine = name
            module.packed = None


@contextlib.contextmanager
def packing_for(engine):
    """Weights that are packed inside `with` are packed for this engine."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def without_notices(function, *args):
    """Call a torch.ao function without its two known notices.

    torch 2.10+ says that torch.ao.quantization moves to torchao (whose CPU kernels are slower than fp32 in
    eager mode as of torch 2.13), and that qint8 tensors are deprecated. Neither is stored in our files.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.ao.quantization is deprecated.*")
        warnings.filterwarnings("ignore", message=".*(qint8|quint8|quantized).*deprecated.*")
        warnings.filterwarnings("ignore", message=".*quantized tensor.*")
        return function(*args)


def pack(weight, scale, bias, engine):
    """weight int8 (out, in), scale (out,), bias (out,) -> the object that the engine's kernel multiplies with."""
    zero_points = torch.zeros(len(scale), dtype=torch.int64)
    with packing_for(engine):
        quantized = without_notices(torch._make_per_channel_quantized_tensor, weight, scale.double(), zero_points, 0)
        return torch.ops.quantized.linear_prepack(quantized, bias)


@functools.cache
def overflows(engine):
    """Must activations keep to 7 bits? A product of the largest possible numbers gives the answer.

    Processors without VNNI add pairs of products in 16 bits, where 2 * 255 * 127 overflows; therefore torch.ao's own
    layer always quantizes activations to 7 bits. Where the sums are right, 8 bits halve the step of the activations,
    which causes most of int8's error.
    """
    packed = pack(torch.full((16, 512), 127, dtype=torch.int8), torch.ones(16), torch.zeros(16), engine)
    x = torch.full((8, 512), 255.0)
    x[:, 0] = 0  # smallest and largest value set the scale: here 1, so nothing is rounded
    sums = torch.ops.quantized.linear_dynamic(x, packed, reduce_range=False)
    return not torch.equal(sums, torch.full((8, 16), 511 * 255 * 127.0))


def check_scales(scale, largest):
    """An error if a scale is not positive, or the largest weight that it can stand for is infinite."""
    if not (scale > 0).all():
        raise UserError(f"damaged: scale {scale.min():.3g} is not positive")
    if not largest.isfinite().all():
        raise UserError(f"damaged: scale {scale.max():.3g} gives infinite weights")


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and dynamic int8 activations, on torch.ao's kernels.

        W[o, i] ~ weight[o, i] * scale[o],      weight int8 in [-128, 127], one scale per output row
        y = x_int8 @ weight^T * (scale_x * scale) + bias

    scale_x comes from the smallest and largest value of the whole batch x, padding included, at every call. So the
    last digits of a text's logits depend on the other texts of its batch; `quantize.py` measures how much.
    engine: for which the weights are packed, at the first call; None: torch's choice for this machine. The packed
    weights are not stored in the file.
    """

    kind = format = "int8_linear"

    def __init__(self, in_features, out_features, engine=None, device=None):
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(out_features, dtype=torch.float32, device=device))
        self.register_buffer("bias", torch.zeros(out_features, dtype=torch.float32, device=device))
        self.engine = engine
        self.packed = None
        self.reduce_range = None  # known with the packing

    @classmethod
    def empty_like(cls, linear, engine=None):
        return cls(linear.in_features, linear.out_features, engine, device=linear.weight.device)

    @classmethod
    def from_float(cls, linear, engine=None):
        """Let torch.ao choose the scales (per output row, symmetric) and copy its int8 numbers."""
        finite(linear.weight)
        ao = torch.ao
        wrapped = without_notices(lambda: ao.quantization.quantize_dynamic(
            nn.Sequential(linear), {nn.Linear: ao.quantization.per_channel_dynamic_qconfig}))
        weight = wrapped[0].weight()
        layer = cls.empty_like(linear, engine)
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
            self.engine = self.engine or pick_engine()
            self.packed = pack(self.weight, self.scale, self.bias, self.engine)
            self.reduce_range = overflows(self.engine)
        return torch.ops.quantized.linear_dynamic(x.contiguous(), self.packed, reduce_range=self.reduce_range)

    def check(self):
        """An error if the tensors cannot be what from_float writes: scales are positive, and weights finite."""
        check_scales(self.scale, self.scale * 128)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.packed = None
        check_loaded(self, prefix.removesuffix("."))

    def __deepcopy__(self, memo):
        """Packed weights cannot be copied; the copy packs its own."""
        copy = type(self)(self.weight.shape[1], self.weight.shape[0], self.engine)
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def __getstate__(self):
        return self.__dict__ | {"packed": None}


class Int8Embedding(nn.Module):
    """An embedding table with one byte a number: row r is (weight[r] - zero_point[r]) * scale[r], weight in 0..255.

    The same numbers as torch.ao's float_qparams_weight_only_qconfig. Only the rows that are looked up become floats.
    """

    kind = format = "int8_embedding"
    is_embedding = True

    def __init__(self, num_rows, width, device=None):
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_rows, width, dtype=torch.uint8, device=device))
        self.register_buffer("scale", torch.ones(num_rows, dtype=torch.float32, device=device))
        self.register_buffer("zero_point", torch.zeros(num_rows, dtype=torch.float32, device=device))

    def check(self):
        """An error if the tensors cannot be what from_float writes: scales are positive, and weights finite."""
        check_scales(self.scale, self.scale * (255 + self.zero_point.abs()))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        check_loaded(self, prefix.removesuffix("."))

    @classmethod
    def empty_like(cls, embedding):
        return cls(*embedding.weight.shape, device=embedding.weight.device)

    @classmethod
    def from_float(cls, embedding):
        """scale = (max - min) / 255 of the row, zero_point = -min / scale (a float, so it is not rounded)."""
        rows = finite(embedding.weight.detach())
        low = rows.min(dim=1).values
        high = rows.max(dim=1).values
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
