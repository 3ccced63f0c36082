"""Groups, and the index that says whose rows are whose: each rule beside what is said where it is broken.

What an index on the device holds, the host does not look at: kernels bear any value. Who asks for it
(`validate=True`) has it read and judged by the functions at the end, which layouts name.
"""

from __future__ import annotations

from typing import Any, SupportsInt

import torch
from torch import Tensor

from ..plan.layouts import Count, Index
from ..plan.limits import CONTIGUOUS_ALIGNMENT, MAX_GROUPS
from . import ambient, memory, sizes, words

_DTYPE = torch.int32
_INTS = (int, torch.SymInt)


def require_count(rule: Count, value: Any) -> None:
    """The int beside an index.

    Raises:
        TypeError: it is something else, such as a tensor, whose value the host would have to wait for.
        ValueError: it is out of range.
    """
    name, limit = rule.name, rule.limit
    if type(value) not in _INTS:
        fix = ""
        if rule.is_a_vector and isinstance(value, Tensor) and value.dim():
            fix = f"; {rule.is_a_vector}"
        elif isinstance(value, Tensor):
            fix = f": `int({name})`, which waits for the device if it is there" if value.numel() == 1 else ""
        elif isinstance(value, SupportsInt):
            fix = f": `int({name})`"
        raise TypeError(f"{name} is {words.kind(value)}; wanted an int that the host knows{fix}")
    if sizes.known(value < 1) or (limit is not None and sizes.known(value > limit)):
        most = f" and at most {limit}" if limit else ""
        raise ValueError(f"{name} is {value}; wanted at least 1{most}")


def require_groups(b: Tensor) -> None:
    """There is a matrix of B, and no more than a kernel's table holds.

    Raises:
        ValueError: there is none, or there are more.
    """
    groups = b.shape[0]
    if not (sizes.known(groups < 1) or sizes.known(groups > MAX_GROUPS)):
        return
    fix = ": one call for each part of them" if groups else ""
    raise ValueError(f"b has shape {tuple(b.shape)}, so G = {groups}; wanted 1 to {MAX_GROUPS} groups{fix}")


def require_matrix_for_each_group(a: Tensor, b: Tensor) -> None:
    """Each matrix of A has one of B.

    Raises:
        ValueError: it has not.
    """
    if not sizes.known(a.shape[0] != b.shape[0]):
        return
    raise ValueError(
        f"a has shape {tuple(a.shape)}, so G = {a.shape[0]}, but b has shape {tuple(b.shape)}; wanted one "
        f"matrix for each of the {b.shape[0]} groups"
    )


def require_index(rule: Index, vector: object, length: int, *, has_memory: bool = True) -> Tensor:
    """An int32 vector that kernels read.

    Args:
        rule: its name, and what it has an element for.
        vector: the argument.
        length: how many of those there are.
        has_memory: whether it is there; else its memory is not judged, nor a size not known yet.

    Raises:
        TypeError: it is no tensor, or has another dtype.
        ValueError: its shape or memory is not what kernels read.
    """
    name = rule.name
    vector = memory.require_own_memory(name, vector, has_memory)
    if vector.dtype is not _DTYPE:
        raise TypeError(f"{name} has dtype {vector.dtype}; wanted {_DTYPE}: `{name}.to({_DTYPE})`")
    memory.require_strided(name, vector, has_memory)
    _require_length(rule, vector, length)
    if not has_memory:
        return vector
    if length > 1 and vector.stride(0) != 1:
        raise ValueError(
            f"{name} has stride {vector.stride(0)}; wanted its elements one behind the other: "
            f"`{name}.contiguous()`"
        )
    if length:
        memory.require_address(name, vector, _DTYPE.itemsize)
    return vector


def _require_length(rule: Index, vector: Tensor, length: int) -> None:
    """It has an element for each row, or for each group."""
    if not sizes.differ(vector.shape, (length,)):
        return
    name, what = rule.name, {"M": "rows of a", "G": "matrices of b"}[rule.axis]
    fix = ""
    if rule.one_too_many and not sizes.differ(vector.shape, (length + 1,)):
        fix = f": {rule.one_too_many}"
    raise ValueError(
        f"{name} has shape {tuple(vector.shape)}; wanted [{rule.axis}] = ({length},), one for each of the "
        f"{what}{fix}"
    )


# What an index holds: these wait for the device


def group_index_values(group_index: Tensor, count: int, m: int, groups: int) -> None:
    """The group of each row in the contiguous layout.

    Raises:
        ValueError: a group that is not there; or, in a block of 128 rows, rows of several groups, or rows
            behind padding.
        RuntimeError: a CUDA graph is being captured.
    """
    values = _read("group_index", group_index)
    outside = (values < -1) | (values >= groups)
    if outside.any():
        row = int(outside.int().argmax())
        raise ValueError(
            f"group_index holds {int(values[row])} at row {row}; wanted one of the {groups} groups, 0 to "
            f"{groups - 1}, or -1 for padding"
        )
    height = CONTIGUOUS_ALIGNMENT
    # A row that goes on with the group before it, or starts padding, or starts a block, is in its place.
    follows = (values[1:] == values[:-1]) | (values[1:] == -1)
    follows[height - 1 :: height] = True
    if not follows.all():
        row = int(follows.int().argmin()) + 1
        before, here = values[row - 1 : row + 1].tolist()
        start = row // height * height
        raise ValueError(
            f"group_index holds {before} at row {row - 1} and {here} at row {row}, within the block of rows "
            f"{start}:{start + height}; wanted rows of one group in a block of {height}, followed by padding "
            "(-1) only: start each group at a multiple of cute_gemm.contiguous_alignment(), or call "
            "m_grouped_fp8_gemm_nt_offsets, which takes groups of any size"
        )


def offsets_values(offsets: Tensor, alignment: int, m: int, groups: int) -> None:
    """The ends of groups.

    Raises:
        ValueError: an end before the one before it, or between that and the group's start, or beyond M.
        RuntimeError: a CUDA graph is being captured.
    """
    before = 0
    for group, end in enumerate(_read("offsets", offsets).tolist()):
        start = -(-before // alignment) * alignment
        if end > m:
            wanted = f"at most {m}, the rows of a"
        elif end < before:
            wanted = f"at least {before}, the end before it" if group else "at least 0"
        elif before < end < start:
            wanted = (
                f"at least {start}, the group's start (the end before it, {before}, rounded up to a multiple "
                f"of alignment = {alignment}), or {before} for an empty group"
            )
        else:
            before = end
            continue
        raise ValueError(f"offsets holds {end} for group {group}; wanted {wanted}")


def valid_rows_values(valid_rows: Tensor, expected_rows: int, capacity: int, groups: int) -> None:
    """The number of valid rows of each matrix.

    Raises:
        ValueError: a number below 0 or beyond the capacity.
        RuntimeError: a CUDA graph is being captured.
    """
    for group, rows in enumerate(_read("valid_rows", valid_rows).tolist()):
        if not 0 <= rows <= capacity:
            raise ValueError(
                f"valid_rows holds {rows} for group {group}; wanted 0 to {capacity}, the rows of each matrix "
                "of a"
            )


def _read(name: str, vector: Tensor) -> Tensor:
    """The values on the host."""
    ambient.require_no_capture(name, vector)
    return vector.detach().cpu()
