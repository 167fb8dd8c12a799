"""16 bits a weight."""

import torch

from pocketbert.models.stored import StoredMatrix, finite


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
