"""Matrices in fewer bytes: what all stored formats share.

A stored format replaces the float weight of an nn.Linear or nn.Embedding by smaller tensors. FORMATS lists them; each
is a class with a `kind`, an `empty_like` that makes the tensors to load into, and a `dequantize` that gives the floats.
"""

import math
from pkgutil import resolve_name

import torch
import torch.nn.functional as F
from torch import nn

from pocketbert.errors import UserError


def pack_bits(bits):
    """A bool vector (n,) -> uint8 (ceil(n / 8),): bit b of byte i is element 8 i + b; unused bits are 0."""
    padded = F.pad(bits.byte(), (0, -len(bits) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(dim=1, dtype=torch.uint8)


def pack_codes(codes, bits):
    """Whole numbers below 2^bits, uint8 (n,) -> uint8 (ceil(n * bits / 8),), without gaps, lowest bits first."""
    if len(codes) and int(codes.max()) >> bits:
        raise ValueError(f"{int(codes.max())} does not fit into {bits} bits")
    places = codes[:, None] >> torch.arange(bits, dtype=torch.uint8, device=codes.device)  # (n, bits)
    return pack_bits((places & 1).flatten())


def unpack_codes(packed, bits, count):
    """The inverse of pack_codes: uint8 (ceil(count * bits / 8),) -> uint8 (count,).

    A wrong number of bytes, or a bit set behind the last code, is an error: the tensor is damaged.
    """
    if len(packed) != math.ceil(count * bits / 8):
        raise UserError(f"damaged: {count} codes of {bits} bits take {math.ceil(count * bits / 8)} bytes, "
                         f"there are {len(packed)}")
    # 1, 2, 4 and 8 bits fill a byte evenly and are unpacked code by code, ten times faster than bit by bit.
    piece = bits if 8 % bits == 0 else 1
    shifts = torch.arange(0, 8, piece, dtype=torch.uint8, device=packed.device)
    pieces = ((packed[:, None] >> shifts) & (2 ** piece - 1)).flatten()
    unused = pieces[count * bits // piece:]
    if len(unused) and unused.any():
        raise UserError(f"damaged: spare bits are set behind {count} codes of {bits} bits")
    if piece == bits:
        return pieces[:count]
    return (pieces[:count * bits].view(count, bits) << shifts[:bits]).sum(dim=1, dtype=torch.uint8)


def finite(weight):
    """The weight itself; an error if it holds a NaN or an infinity."""
    if not weight.isfinite().all():
        raise UserError("the weights are not finite (NaN or infinite): damaged, or too large for their format")
    return weight


def check_loaded(module, name):
    """Raise a UserError that names the matrix if the tensors just loaded into a stored module are damaged.

    All floats must be finite, and `module.check()` may ask for more. A module with a tensor still on the meta device
    is left alone: load_state_dict names what is missing.
    """
    if any(buffer.is_meta for buffer in module.buffers()):
        return
    try:
        for buffer_name, buffer in module.named_buffers():
            if buffer.is_floating_point() and not buffer.isfinite().all():
                raise UserError(f"damaged: {buffer_name} is not finite (NaN or infinite)")
        module.check()
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def lookup(book, codes):
    """book[codes] for codes uint8 (...). index_select is several times faster, and book[uint8] would be a mask."""
    return book.index_select(0, codes.flatten().int()).view(codes.shape)


class DecodedLinear(torch.autograd.Function):
    """y = x W^T + b and dL/dx = dL/dy W, where W is decoded in the forward pass and again in the backward pass.

    autograd would keep the dense W from one to the other. W and b get no gradient.
    """

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return F.linear(x, layer.dequantize(), layer.bias)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), None


class StoredMatrix(nn.Module):
    """A float matrix (rows, columns) in fewer bytes, in the place of an nn.Linear or an nn.Embedding.

    The dense matrix is decoded at the first call and kept: the file is small, but memory and time are those of the
    float layer. With `keep_dense = False` it is decoded in every call instead and nothing is kept: memory is that of
    the file, at the price of decoding, and gradients flow to the input (QLoRA trains adapters beside such layers).
    A linear layer's bias stays fp32.
    module: the float layer that is replaced, for its shape and bias
    numbers: the parameters of the format, those in "kind:number:number"

    A subclass has a `kind`, buffers, a `dequantize()`, and `from_float` or `from_codes`.
    """

    keep_dense = True

    def __init__(self, module, *numbers):
        super().__init__()
        rows, columns = module.weight.shape
        self.shape = (rows, columns)
        self.numbers = numbers
        self.dense = None
        self.is_embedding = isinstance(module, nn.Embedding) or getattr(module, "is_embedding", False)
        bias = getattr(module, "bias", None)
        self.register_buffer("bias", None if bias is None else torch.zeros(rows, device=module.weight.device))

    def add_buffers(self, device, **shapes):
        """Register zeros to load into: name=(shape, dtype)."""
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
    def format(self):
        """The format as config.json names it: "groups:4:64"."""
        return ":".join(map(str, (self.kind, *self.numbers)))

    @property
    def num_weights(self):
        return math.prod(self.shape)

    @property
    def bits_per_weight(self):
        """Bits in the file for each weight, with scales and code books, without the bias."""
        stored = sum(b.numel() * b.element_size() for name, b in self.named_buffers() if name != "bias")
        return 8 * stored / math.prod(self.shape)

    def forward(self, x):
        if not self.keep_dense:
            return F.embedding(x, self.dequantize()) if self.is_embedding else DecodedLinear.apply(x, self)
        if self.dense is None or self.dense.device != x.device:
            # Like nn.Linear's weight in all respects: torch.matmul picks its kernel, and so the last bits, by
            # requires_grad, and a tensor made in inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                self.dense = self.dequantize().requires_grad_()
        return F.embedding(x, self.dense) if self.is_embedding else F.linear(x, self.dense, self.bias)

    def check(self):
        """An error if the tensors cannot be what this format writes."""
        finite(self.dequantize())  # finite scales may still have an infinite product

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.dense = None
        check_loaded(self, prefix.removesuffix("."))

    def __getstate__(self):
        return self.__dict__ | {"dense": None}


def decode_in_each_call(model):
    """Let every stored matrix of a model keep no dense copy; see StoredMatrix. In place."""
    for module in model.modules():
        if isinstance(module, StoredMatrix):
            module.keep_dense = False
            module.dense = None


# kind -> class, imported when a folder needs it. quantization/plan.py lists the steps to add a format.
FORMATS = {
    "int8_linear": "pocketbert.quantization.int8:Int8Linear",
    "int8_embedding": "pocketbert.quantization.int8:Int8Embedding",
    "sparse_linear": "pocketbert.models.sparse:SparseLinear",
    "float16": "pocketbert.quantization.float16:Float16Matrix",
    "bfloat16": "pocketbert.quantization.float16:BFloat16Matrix",
    "groups": "pocketbert.quantization.groups:GroupMatrix",
    "nf4": "pocketbert.quantization.nf4:NF4Matrix",
    "clusters": "pocketbert.quantization.clusters:ClusteredMatrix",
}


def format_class(kind):
    """The class of a stored format."""
    with torch.device("cpu"):  # load_model builds on "meta", where the constants of a module imported now would land
        return resolve_name(FORMATS[kind])


def to_float(module):
    """An nn.Linear or nn.Embedding with the decoded weights of a stored matrix."""
    weight = module.dequantize()
    bias = getattr(module, "bias", None)
    if getattr(module, "is_embedding", False):
        return nn.Embedding.from_pretrained(weight, freeze=False)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight)
    linear.bias = None if bias is None else nn.Parameter(bias.clone())
    return linear


def replace_module(model, name, module):
    """Put `module` in the place of the sub-module called `name` ('layers.0.ffn.up')."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def replace_stored_modules(model, stored_formats, source):
    """Replace the named float modules of a model by empty modules of their stored formats, to load into.

    stored_formats: {module name: format}, where a format is a kind and the numbers that its class takes, as in
    "groups:4:64"    source: the file that says so, for error messages
    """
    for name, format_name in stored_formats.items():
        kind, *numbers = str(format_name).split(":")
        if kind not in FORMATS:
            raise UserError(f"{source}: {name} is stored as {kind!r}, which this version does not know "
                            f"(it knows {', '.join(FORMATS)})")
        try:
            module = model.get_submodule(name)
            replace_module(model, name, format_class(kind).empty_like(module, *map(int, numbers)))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            raise UserError(f"{source}: stored_forms gives {name!r} the format {format_name}, which does not fit "
                            "this model") from None


def word_vectors(model):
    """The word vectors (V, d) of a model as floats, whatever format they are stored in."""
    if not hasattr(model, "embeddings"):
        raise UserError("an exported graph has no word vectors to read: name the folder that it was exported from")
    word = model.embeddings.word
    return word.weight.detach() if isinstance(word, torch.nn.Embedding) else word.dequantize()
