"""How results are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from ....contract import ambient


def calc_diff(x: Tensor, y: Tensor) -> Tensor:
    """`1 - 2 <x, y> / (<x, x> + <y, y>)` in FP64: about half the square of the relative error.

    It is one figure for all elements; :func:`cute_gemm.testing.worst_tile_error` is of the worst tile.

    Returns:
        A number on the device of `x`; 0 where both are zero.
    """
    with torch.no_grad(), ambient.no_autocast(x.device):
        x, y = x.double(), y.double()
        energy = (x * x + y * y).sum()
        return torch.where(energy == 0, 0.0, 1 - 2 * (x * y).sum() / energy)


def count_bytes(*tensors: object) -> int:
    """The bytes of the elements of tensors, also of those in tuples and lists; None has none."""
    total = 0
    for each in tensors:
        if isinstance(each, (tuple, list)):
            total += count_bytes(*each)
        elif isinstance(each, Tensor):
            total += each.numel() * each.element_size()
    return total


def assert_bitwise_equal(x: Tensor, y: Tensor, label: str = "") -> None:
    """Two tensors have the same shape, dtype and bits; a NaN equals one with the same bits.

    Raises:
        AssertionError: they have not; it says how many bytes differ, and where the first element is.
    """
    name = f" ({label})" if label else ""
    if x.shape != y.shape or x.dtype is not y.dtype:
        raise AssertionError(
            f"x is {x.dtype} of {tuple(x.shape)}, y {y.dtype} of {tuple(y.shape)}: not alike{name}"
        )
    differ = x.contiguous().view(-1).view(torch.uint8) != y.contiguous().view(-1).view(torch.uint8)
    if not differ.any():
        return
    element = int(differ.int().argmax()) // x.element_size()
    place = tuple(int(each) for each in torch.unravel_index(torch.tensor(element), x.shape))
    raise AssertionError(
        f"{int(differ.sum())} of {differ.numel()} bytes differ{name}, first in the element at {place}: "
        f"{x[place].item()} and {y[place].item()}"
    )
