"""AdamW with 8-bit states (Dettmers et al. 2022, arXiv:2110.02861): a quarter of the optimizer's memory.

AdamW keeps two numbers a weight, the moving averages of the gradient and of its square: 8 bytes in float32.

    m = beta1 m + (1 - beta1) g              m^ = m / (1 - beta1^t)
    v = beta2 v + (1 - beta2) g^2            v^ = v / (1 - beta2^t)
    w = (1 - lr * weight_decay) w - lr * m^ / (sqrt(v^) + eps)

Here both are stored as one byte, block by block (pocketbert/quantization/blockwise.py): 256 consecutive numbers share
the largest absolute value among them, and a byte is the index of the nearest of 256 numbers between 0 and that value
(with a sign for m). They are spaced more finely near 0, because v spans many orders of magnitude: down to a hundredth
of the largest value, v is off by 8 % at most and m by 15 %. In each step a block becomes float32, is updated, and
becomes bytes again.

Code books, blocks and the limit of 4,096 numbers are those of bitsandbytes. One thing is not: v is rounded up to the
smallest number above 0. Rounded to 0, with a gradient of 0 in the next step, it would turn m / sqrt(v) into m / eps.

    optimizer = AdamW8bit(parameter_groups(model, weight_decay=0.01), lr=1e-4)

PagedAdamW8bit keeps the bytes in the computer's memory, not the GPU's, and brings them in part by part.
"""

import math
from functools import lru_cache

import torch

from pocketbert.quantization.blockwise import code_cells, dequantize_blocks, dynamic_map, quantize_blocks

BLOCK = 256            # numbers that share a scale
SMALLEST = 4096        # tensors with fewer numbers keep float32 states: they cost nothing, and biases are sensitive
PART = 2 ** 18         # numbers that are float32 at the same time: 1 MB for each of m and v
GPU_PART = 2 ** 22     # a GPU wants more work in a call


@lru_cache
def code_book(signed, device):
    """(book, cells) of the dynamic code: signed for m, unsigned for v."""
    book = dynamic_map(signed).to(device)
    return book, code_cells(book)


def adamw(weights, gradient, m, v, step, lr, betas, eps, weight_decay):
    """One step of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), in place. All tensors: (n,) float32"""
    beta1, beta2 = betas
    m.mul_(beta1).add_(gradient, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    size = (v.sqrt() / math.sqrt(1 - beta2 ** step)).add_(eps)
    weights.mul_(1 - lr * weight_decay).addcdiv_(m, size, value=-lr / (1 - beta1 ** step))


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose states are 2.03 bytes a weight instead of 8.

    params: parameters or parameter groups, as for torch.optim.AdamW; contiguous tensors of any float type
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def zeros(self, size, dtype, device):
        """Where the bytes of a state live: on the device of their parameter."""
        return torch.zeros(size, dtype=dtype, device=device)

    def new_state(self, param):
        """The state of a parameter before its first step."""
        n = param.numel()
        if n < SMALLEST:
            return {"step": 0, "m": torch.zeros(n, device=param.device), "v": torch.zeros(n, device=param.device)}
        state = {"step": 0}
        for moment, signed in (("m", True), ("v", False)):
            zero = int((dynamic_map(signed) == 0).nonzero())  # the code of 0
            state[f"{moment}_codes"] = self.zeros(n, torch.uint8, param.device).fill_(zero)
            state[f"{moment}_absmax"] = self.zeros(math.ceil(n / BLOCK), torch.float32, param.device)
        return state

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state.update(self.new_state(param))
                state["step"] += 1
                rest = (state["step"], group["lr"], group["betas"], group["eps"], group["weight_decay"])
                update(param.view(-1), param.grad.reshape(-1), state, rest)
        return loss

    def load_state_dict(self, state_dict):
        """torch's own would turn the bytes into the float type of their parameter."""
        super().load_state_dict({**state_dict, "state": {}})
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for number, param in zip(numbers, params, strict=True):
            if number in state_dict["state"]:
                saved = state_dict["state"][number]
                self.state[param] = self.new_state(param) | {"step": saved["step"]}
                for name, tensor in self.state[param].items():
                    if name != "step":
                        tensor.copy_(saved[name])


class PagedAdamW8bit(AdamW8bit):
    """AdamW8bit for a GPU whose states stay in pinned host memory ("paged", as in QLoRA, arXiv:2305.14314).

    A step brings PART numbers at a time to the GPU, updates them and sends them back: the GPU holds some 20 MB of
    states instead of 2 bytes a weight, and each step moves 4 bytes a weight over the bus.
    """

    def zeros(self, size, dtype, device):
        return torch.zeros(size, dtype=dtype, pin_memory=True)

    def state_dict(self):
        torch.cuda.synchronize()  # the copies of the last step may still be on their way
        return super().state_dict()


def update(weights, gradient, state, rest):
    """One step for one flat parameter, in place, in parts that bound the memory. rest: the last arguments of adamw"""
    if "m" in state:
        new_weights = weights.float()
        adamw(new_weights, gradient.float(), state["m"], state["v"], *rest)
        weights.copy_(new_weights)
        return
    size = PART if weights.device.type == "cpu" else GPU_PART
    for start in range(0, len(weights), size):
        part = slice(start, start + size)
        blocks = slice(start // BLOCK, (start + size) // BLOCK)
        new_weights = weights[part].float()  # the same memory, if they are float32
        m = read(state["m_codes"][part], state["m_absmax"][blocks], True, weights.device)
        v = read(state["v_codes"][part], state["v_absmax"][blocks], False, weights.device)
        adamw(new_weights, gradient[part].float(), m, v, *rest)
        weights[part].copy_(new_weights)
        write(m, state["m_codes"][part], state["m_absmax"][blocks], True)
        write(v, state["v_codes"][part], state["v_absmax"][blocks], False)


def read(codes, absmax, signed, device):
    """The float32 numbers on the device that does the work."""
    book, _ = code_book(signed, device)
    return dequantize_blocks(bring(codes, device), bring(absmax, device), book, BLOCK)


def bring(states, device):
    """The states on the device: themselves, unless they are paged."""
    return states.to(device, non_blocking=True)


def write(values, codes, absmax, signed):
    """The inverse of `read`: quantize the values into codes and absmax, which may be in host memory."""
    book, cells = code_book(signed, values.device)
    new_codes, new_absmax = quantize_blocks(values, book, BLOCK, cells)
    if not signed:
        new_codes = torch.maximum(new_codes, (values > 0).view(torch.uint8))
    codes.copy_(new_codes, non_blocking=True)
    absmax.copy_(new_absmax, non_blocking=True)
