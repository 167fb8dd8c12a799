"""int8 weights and dynamic int8 activations on torch.ao's kernels."""

import functools
import warnings

import torch
from torch import nn

from pocketbert.errors import UserError


def pick_engine(name="auto"):
    """The library that multiplies int8 by int8: 'auto' is torch's choice for this processor."""
    supported = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not (supported and hasattr(torch.ops.quantized, "linear_dynamic")
            and hasattr(getattr(torch.ao, "quantization", None), "quantize_dynamic")):
        raise UserError("this build of torch has no int8 kernels (torch.ao); install torch>=2.8,<2.14 from PyPI")
    if name == "auto":
        return torch.backends.quantized.engine if torch.backends.quantized.engine in supported else supported[0]
    if name not in supported:
        raise UserError(f"--engine {name} is not available here; this machine has {', '.join(supported)}")
    return name


def use_engine(name):
    """Pack weights for this engine from now on; one that this machine lacks is replaced, with a printed line."""
    if name not in torch.backends.quantized.supported_engines:
        print(f"int8 engine {name} is not available here: using {pick_engine()} (last digits may differ)")
        name = pick_engine()
    torch.backends.quantized.engine = name


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


@functools.cache
def overflows(engine):
    """Must activations keep to 7 bits? Asked of the kernel itself, with the largest numbers that there are.

    Processors without VNNI add products in 16 bits, which 2 * 255 * 127 does not fit; so torch.ao's own layer always
    takes 7 bits. Where the sums are right, 8 bits quarter the error of the activations, which is most of int8's.
    """
    scale, zero_point = torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.int64)
    ones = torch.full((16, 512), 127, dtype=torch.int8)
    weight = without_notices(torch._make_per_channel_quantized_tensor, ones, scale, zero_point, 0)
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

    kind = format = "int8_linear"

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
        wrapped = without_notices(lambda: ao.quantization.quantize_dynamic(
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
            weight = without_notices(torch._make_per_channel_quantized_tensor, self.weight,
                                     self.scale.double(), zero_points, 0)
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

    kind = format = "int8_embedding"
    is_embedding = True

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
