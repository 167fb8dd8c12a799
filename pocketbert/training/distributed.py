"""Several processes train one model, one for each GPU or each processor:  torchrun --nproc-per-node 2 train.py ...

Each process ("rank" 0, 1, ... world_size - 1) has the whole model and takes its share of every batch: the rows rank,
rank + world_size, ... A loss is a mean over the batch, in which text i counts w_i (its class weight, or 1). It is the
sum of the means over the processes' own rows, each times its share of the weights:

    sum_i w_i loss_i / sum_i w_i  =  sum over ranks of  share * loss,      share = sum of own w_i / sum of all w_i

So each process multiplies its loss by Batch.share, the gradients are added up, and all make the same step: the weights
are those that one process gets from the same batches, up to the rounding of sums. (torch's DistributedDataParallel,
arXiv:2006.15704, takes the plain mean over the ranks. That is another loss where the shares differ.)

    join("auto")                                # meet the others
    loss = loss_function(...) * batch.share
    loss.backward()
    sum_gradients(model.parameters())           # before they are clipped
    logits = in_parts(predict, model, ids, batch_size, pad_id)

Numbers on a GPU travel by nccl, all others by gloo. Without torchrun none of these functions does anything.
"""

import atexit
import contextlib
import datetime
import io
import os
from functools import lru_cache, wraps

import numpy as np
import torch

from pocketbert.errors import ProcessLost, UserError
from pocketbert.models.device import seed_everything

TIMEOUT = datetime.timedelta(minutes=10)  # a process that is silent for so long is lost
PATIENCE = datetime.timedelta(days=7)     # while rank 0 works alone


def rank():
    """The number of this process; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def world_size():
    """How many processes there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join(device):
    """Meet the other processes. With GPUs, each process of a machine takes its own. device: as in --device"""
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    number = int(os.environ["LOCAL_RANK"])  # on this machine
    if device == "cpu" or device == "auto" and not torch.accelerator.is_available():
        backend = "gloo"
    elif device in ("auto", "cuda") and number < torch.cuda.device_count():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(number)
    else:
        raise UserError(f"--device {device}: each process on a machine takes a CUDA GPU of its own, and there are "
                        f"{torch.cuda.device_count()} for {os.environ['LOCAL_WORLD_SIZE']} processes: start fewer, or "
                        "give --device cpu")
    try:
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    except RuntimeError as error:
        raise UserError(f"process {rank()} of {world_size()} does not find the others: {error}") from error
    atexit.register(torch.distributed.destroy_process_group)
    print(f"{world_size()} processes ({backend}), each with its share of every batch")


@contextlib.contextmanager
def others_needed():
    """Inside, all processes exchange numbers: one that has ended or is silent becomes a line instead of a traceback."""
    try:
        yield
    except RuntimeError as error:
        atexit.unregister(torch.distributed.destroy_process_group)  # it would wait for the lost one
        raise ProcessLost(f"process {rank()} of {world_size()}: another one has ended, or was silent for {TIMEOUT}; "
                          "the same command goes on from the last checkpoint") from error


def refuse_several(what, why):
    """A UserError if there are several processes. what: a flag or a command    why: it cannot be with them"""
    if world_size() > 1:
        raise UserError(f"{what} is for one process, and torchrun has started {world_size()}: {why}")


def seed_rank(seed):
    """Give each process random numbers of its own (dropout); rank 0 goes on with those that one process would have."""
    if rank():
        seed_everything(int(np.random.SeedSequence((seed, rank())).generate_state(1)[0]))


# ---- in the loop -------------------------------------------------------------------------------------------

@torch.no_grad()
def sum_gradients(parameters):
    """Replace each gradient by its sum over all processes: one exchange of one long vector."""
    if world_size() == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = summed(torch.cat([grad.flatten() for grad in grads]))
    for grad, whole in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(whole.view_as(grad))


def summed(values):
    """The sum of a tensor over all processes, in place."""
    if world_size() > 1:
        with others_needed():
            torch.distributed.all_reduce(values)
    return values


def in_any_process(flag):
    """Is it so in one of the processes? Then it is so in all: they stop together."""
    return bool(summed(torch.tensor(int(flag)))) if world_size() > 1 else flag  # on the CPU: a GPU need not wait


def in_parts(predict, model, ids, *rest):
    """predict(model, ids, *rest), logits (N, num_labels), of which each process computes a part and all get the whole.

    predict: models/predict.py
    """
    if world_size() == 1:
        return predict(model, ids, *rest)
    logits = torch.empty(len(ids), len(model.config.label_names))
    for first, part in enumerate(from_all_ranks(predict(model, ids[rank()::world_size()], *rest))):
        logits[first::world_size()] = part
    return logits


# ---- what one of them does or knows ------------------------------------------------------------------------

@lru_cache
def patient_group():
    """All processes, which wait for each other for as long as rank 0 works."""
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def from_rank_0(function, *arguments):
    """function(*arguments), called in rank 0 alone: all processes get its value, of tensors and plain values."""
    if world_size() == 1:
        return function(*arguments)
    packed = [pack(function(*arguments)) if rank() == 0 else None]
    with others_needed():
        torch.distributed.broadcast_object_list(packed, src=0, group=patient_group())
    return unpack(packed[0])


def from_all_ranks(value):
    """[the value of each process]. value: tensors and plain values"""
    if world_size() == 1:
        return [value]
    packed = [None] * world_size()
    with others_needed():
        torch.distributed.all_gather_object(packed, pack(value), group=patient_group())
    return [unpack(one) for one in packed]


def pack(value):
    """As bytes, in the format of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def unpack(packed):
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)


def rank_0_only(function):
    """Decorator: in the other processes the function does nothing and returns None."""
    @wraps(function)
    def guarded(*arguments, **options):
        return function(*arguments, **options) if rank() == 0 else None
    return guarded


def check_same_settings(settings):
    """A UserError if this process would train something else than rank 0. settings: {name: what JSON can hold}"""
    first = from_rank_0(dict, settings)
    names = [name for name in {**settings, **first} if settings.get(name) != first.get(name)]
    if names:
        raise UserError(f"process {rank()} of {world_size()} would train something else than process 0: its "
                        f"{', '.join(names)} differ; give all machines the same command, data, model and code")
