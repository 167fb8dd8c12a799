"""Do the tensors of a file fit the model that config.json describes, and are their values finite?"""

import torch

from pocketbert.errors import UserError


def list_names(names, most=6):
    """'a, b, c and 4 more'"""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_shapes(expected, found, leftover, name):
    """Every tensor of the model must be there with its shape, and none may be left over; else a UserError names them.

    expected: {our name: tensor}, of the model on the meta device    found: {our name: shape}, of the file
    leftover: names in the file that are no names of ours    name: of the folder, for the message
    """
    missing = list_names(set(expected) - set(found))
    leftover = list_names([*leftover, *(key for key in found if key not in expected)])
    problems = [f"missing: {missing}"] * bool(missing) + [f"left over: {leftover}"] * bool(leftover)
    if problems:
        raise UserError(f"{name}: the weights do not fit config.json: {'; '.join(problems)}")
    for key, shape in found.items():
        want = tuple(expected[key].shape)
        if tuple(shape) != want:
            raise UserError(f"{name}: {key} is {tuple(shape)} in the file, but config.json asks for {want}")


def check_values(expected, found, name):
    """The types must be those of the model, and every number finite: a damaged model must not answer.

    expected, found: {our name: tensor}    name: of the folder, for the message
    """
    for key, tensor in found.items():
        want = expected[key].dtype
        if tensor.dtype != want:
            raise UserError(f"{name}: {key} is {tensor.dtype} in the file, but config.json asks for {want}")
        if not all_finite(tensor):
            raise UserError(f"{name}: {key} holds values that are NaN or infinite: the weights are damaged, or "
                            "training diverged; take an earlier copy")


def all_finite(tensor):
    """No NaN, no infinity. aminmax passes NaN on, and reads the tensor once; isfinite would write one as large."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = tensor.aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high))
