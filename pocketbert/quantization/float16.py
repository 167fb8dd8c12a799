"""16 bits a weight: float16 and bfloat16."""

import torch

from pocketbert.models.stored import StoredMatrix, finite


class Float16Matrix(StoredMatrix):
    """Each weight rounded to IEEE half precision: |error| <= 2^-11 |w| for |w| from 6e-5 to 65504."""

    kind = "float16"
    dtype = torch.float16

    def __init__(self, module):
        super().__init__(module)
        self.add_buffers(module.weight.device, weight=(self.shape, self.dtype))

    @classmethod
    def from_float(cls, module):
        return cls.filled(module, weight=finite(module.weight.detach().to(cls.dtype)))

    def dequantize(self):
        return self.weight.float()


class BFloat16Matrix(Float16Matrix):
    """fp32 without its last 16 bits, rounded: |error| <= 2^-8 |w|, with the range of fp32."""

    kind = "bfloat16"
    dtype = torch.bfloat16
