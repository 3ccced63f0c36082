"""The rules a call of a grouped GEMM has to obey, beyond those of :mod:`cute_gemm.contract.product`.

:func:`m_grouped` looks at what the host knows. What an index on the device holds it does not: kernels bear
any value. Who asks for it (`validate=True`) has it read and judged by the functions that follow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.limits import CONTIGUOUS_ALIGNMENT, MAX_EXTENT, MAX_GROUPS
from . import refusals
from .product import PLAIN, product, require_disjoint

MAX_ALIGNMENT = 2**31 - MAX_EXTENT
"""Largest alignment of groups by offsets, 1024: the last row, rounded up to it, has 32 bits in kernels."""


def m_grouped(
    lhs: tuple[Tensor, Tensor],
    a_rank: int,
    rhs: tuple[Tensor, Tensor],
    index_name: str,
    index: Tensor,
    index_axis: str,
    out: Tensor | None,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, ...]]:
    """Checks a product of rows of A, each with the matrix of B that an index on the device assigns to it.

    Args:
        lhs, a_rank, rhs, out, out_dtype: as for :func:`cute_gemm.contract.product.product`; B is `[G, N, K]`.
        index_name, index: an int32 vector.
        index_axis: what it has an element for, `"M"` or `"G"`.

    Returns:
        A, its scales, B, its scales, the shape of the result.

    Raises:
        TypeError, ValueError: as :func:`cute_gemm.contract.product.product`.
    """
    a, sa, b, sb, m, n, _, device, out_start, out_end = product(lhs, a_rank, rhs, 3, out, out_dtype)
    groups = b.shape[0]
    if not 0 < groups <= MAX_GROUPS:
        raise refusals.group_count(b, MAX_GROUPS)
    start, end = _index(index_name, index, index_axis, m if index_axis == "M" else groups)
    if index.device != device:
        raise refusals.mixed_devices(a=a, sa=sa, b=b, sb=sb, **{index_name: index})
    if out is not None and start < out_end and out_start < end:
        require_disjoint(index_name, index, out)
    return a, sa, b, sb, (m, n) if a_rank == 2 else (groups, m, n)


def count(name: str, value: int, limit: int | None = None) -> None:
    """Checks a plain int from 1 to a limit.

    Raises:
        TypeError: it is something else, such as a tensor, whose value the host would have to wait for.
        ValueError: it is out of range.
    """
    if type(value) is not int:
        raise refusals.no_count(name, value)
    if value < 1 or (limit is not None and value > limit):
        raise refusals.count_range(name, value, limit)


def _index(name: str, index: Tensor, axis: str, length: int) -> tuple[int, int]:
    """Checks an int32 vector that kernels read.

    Returns:
        Address of its first byte and behind its last byte; 0 without elements.

    Raises:
        TypeError, ValueError: see :func:`m_grouped`.
    """
    if type(index) not in PLAIN:
        refusals.require_own_memory(name, index)
    if index.dtype is not torch.int32:
        raise refusals.index_dtype(name, index)
    try:
        strides, start = index.stride(), index.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided(name, index) from error
    if index.shape != (length,):
        raise refusals.index_shape(name, index, axis, length)
    if not length:
        return 0, 0
    if length > 1 and strides[0] != 1:
        raise refusals.index_stride(name, index)
    if start & 3 or not start:
        raise refusals.address(name, index, 4)
    return start, start + 4 * length


# What an index holds: these wait for the device


def group_index_values(group_index: Tensor, count: int, m: int, groups: int) -> None:
    """Checks the group of each row in the contiguous layout.

    Raises:
        ValueError: a group that is not there; or, in a block of 128 rows, rows of several groups, or rows
            behind padding.
        RuntimeError: a CUDA graph is being captured.
    """
    values = _read("group_index", group_index)
    outside = (values < -1) | (values >= groups)
    if outside.any():
        row = int(outside.int().argmax())
        raise refusals.unknown_group(row, int(values[row]), groups)
    # A row that goes on with the group before it, or starts padding, or starts a block, is in its place.
    follows = (values[1:] == values[:-1]) | (values[1:] == -1)
    follows[CONTIGUOUS_ALIGNMENT - 1 :: CONTIGUOUS_ALIGNMENT] = True
    if not follows.all():
        row = int(follows.int().argmin()) + 1
        before, here = values[row - 1 : row + 1].tolist()
        raise refusals.broken_block(row, before, here, CONTIGUOUS_ALIGNMENT)


def offsets_values(offsets: Tensor, alignment: int, m: int, groups: int) -> None:
    """Checks the ends of groups.

    Raises:
        ValueError: an end before the one before it, or between that and the group's start, or beyond M.
        RuntimeError: a CUDA graph is being captured.
    """
    before = 0
    for group, end in enumerate(_read("offsets", offsets).tolist()):
        start = -(-before // alignment) * alignment
        if end > m or (end != before and end < start) or end < before:
            raise refusals.misplaced_end(group, end, before, start, alignment, m)
        before = end


def valid_rows_values(valid_rows: Tensor, expected_rows: int, capacity: int, groups: int) -> None:
    """Checks the number of valid rows of each matrix.

    Raises:
        ValueError: a number below 0 or beyond the capacity.
        RuntimeError: a CUDA graph is being captured.
    """
    for group, count in enumerate(_read("valid_rows", valid_rows).tolist()):
        if not 0 <= count <= capacity:
            raise refusals.too_many_rows(group, count, capacity)


def _read(name: str, index: Tensor) -> Tensor:
    """The values on the host."""
    if index.is_cuda and torch.cuda.is_current_stream_capturing():
        raise refusals.validating_in_capture(name)
    return index.detach().cpu()
