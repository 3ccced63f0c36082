"""Grouped problems in each layout, and the judge of their results.

What a result should be is said by `row_groups`: the group of every row, -1 where nothing may be written.
:mod:`cute_gemm.row_groups` has it also for an index that breaks the rules of its layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan.limits import CONTIGUOUS_ALIGNMENT, ceil_div
from ..quantize import scale_blocks
from ..reference import take_rows
from .errors import assert_correct
from .inputs import Operand, make_inputs

_E4M3_NAN = 0x7F


@dataclass(frozen=True)
class GroupedInputs:
    """The operands of a grouped product, and which rows are multiplied by which matrix.

    Args:
        lhs: ``(a, sa)``, e4m3 ``[M, K]`` or ``[G, capacity, K]`` and fp32 ``[..., ceil(K/128)]``. Rows of no
            group are NaN in both, so that a result they reach shows it.
        rhs: ``(b, sb)``, e4m3 ``[G, N, K]`` and fp32 ``[G, ceil(N/128), ceil(K/128)]``.
        index: int32, the operation's ``group_index``, ``offsets`` or ``valid_rows``.
        row_groups: int32 ``[M]`` or ``[G, capacity]``: the group of each row, -1 for none.
    """

    lhs: Operand
    rhs: Operand
    index: Tensor
    row_groups: Tensor


def make_contiguous_inputs(
    sizes: Sequence[int],
    n: int,
    k: int,
    kind: str = "normal",
    seed: int = 0,
    device: torch.device | str = "cpu",
    *,
    order: Sequence[int] | None = None,
    m: int | None = None,
) -> GroupedInputs:
    """Inputs of `cute_gemm.m_grouped_fp8_gemm_nt_contiguous`: each group padded to whole blocks of 128 rows.

    Args:
        sizes: rows of each group, any of them may be 0.
        n, k: columns of the result, depth of the product.
        kind: of the values of each group, as for `make_inputs`.
        seed: of the random numbers.
        device: where they are drawn; another device draws others.
        order: the groups in the order in which they lie; None for ascending.
        m: rows of A; None for as many as the groups take, more for padding behind them.

    Returns:
        The inputs; ``index`` is ``group_index``.

    Raises:
        ValueError: unknown kind, or ``m`` too small.
    """
    starts, end = [0] * len(sizes), 0
    for group in range(len(sizes)) if order is None else order:
        starts[group] = end
        end += ceil_div(sizes[group], CONTIGUOUS_ALIGNMENT) * CONTIGUOUS_ALIGNMENT
    lhs, rhs, row_groups = _flat(starts, sizes, end, m, n, k, kind, seed, device)
    return GroupedInputs(lhs, rhs, row_groups.clone(), row_groups)


def make_offsets_inputs(
    sizes: Sequence[int],
    n: int,
    k: int,
    kind: str = "normal",
    seed: int = 0,
    device: torch.device | str = "cpu",
    *,
    alignment: int = 1,
    m: int | None = None,
) -> GroupedInputs:
    """Inputs of `cute_gemm.m_grouped_fp8_gemm_nt_offsets`.

    Args:
        sizes, n, k, kind, seed, device, m: as for `make_contiguous_inputs`.
        alignment: what the first row of each group is a multiple of.

    Returns:
        The inputs; ``index`` is ``offsets``.

    Raises:
        ValueError: unknown kind, or ``m`` too small.
    """
    starts, end = [], 0
    for size in sizes:
        starts.append(ceil_div(end, alignment) * alignment)
        end = starts[-1] + size
    lhs, rhs, row_groups = _flat(starts, sizes, end, m, n, k, kind, seed, device)
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    return GroupedInputs(lhs, rhs, torch.tensor(ends, dtype=torch.int32, device=device), row_groups)


def make_masked_inputs(
    sizes: Sequence[int],
    capacity: int,
    n: int,
    k: int,
    kind: str = "normal",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> GroupedInputs:
    """Inputs of `cute_gemm.m_grouped_fp8_gemm_nt_masked`.

    Args:
        sizes, n, k, kind, seed, device: as for `make_contiguous_inputs`.
        capacity: rows of each matrix of A.

    Returns:
        The inputs; ``index`` is ``valid_rows``.

    Raises:
        ValueError: unknown kind, or a group of more rows than ``capacity``.
    """
    if max(sizes) > capacity:
        raise ValueError(f"a group has {max(sizes)} rows; want at most the capacity, {capacity}")
    places = [(group, slice(0, size)) for group, size in enumerate(sizes)]
    lhs, rhs, row_groups = _operands((len(sizes), capacity), places, sizes, n, k, kind, seed, device)
    return GroupedInputs(lhs, rhs, torch.tensor(sizes, dtype=torch.int32, device=device), row_groups)


def assert_grouped_correct(out: Tensor, lhs: Operand, rhs: Operand, row_groups: Tensor) -> float:
    """Fail unless every row of a group is right, as `assert_correct` judges the group's rows by themselves.

    It does not look at rows of no group: that those were not written, `poisoned_rows` tells.

    Args:
        out: the result, bf16 or fp32 ``[M, N]`` or ``[G, capacity, N]``.
        lhs, rhs, row_groups: as in `GroupedInputs`.

    Returns:
        The worst tile error, where tiles are counted from the first row of each group.

    Raises:
        AssertionError: names the group, then as `assert_close_per_tile`, rows counted within the group.
        ValueError: the shapes do not fit.
    """
    (a, sa), (b, sb) = lhs, rhs
    if out.shape != (*row_groups.shape, b.shape[1]):
        want = [*row_groups.shape, b.shape[1]]
        raise ValueError(f"out has shape {list(out.shape)}; want {want} for row_groups and b")
    worst = 0.0
    for group in range(len(b)):
        rows = (row_groups == group).nonzero(as_tuple=True)
        try:
            error = assert_correct(out[rows], take_rows(a, rows), sa[rows], b[group], sb[group])
        except AssertionError as failure:
            raise AssertionError(f"group {group} of {len(rows[0])} rows: {failure}") from None
        worst = max(worst, error)
    return worst


def _flat(
    starts: Sequence[int],
    sizes: Sequence[int],
    end: int,
    m: int | None,
    n: int,
    k: int,
    kind: str,
    seed: int,
    device: torch.device | str,
) -> tuple[Operand, Operand, Tensor]:
    """As `_operands`, for groups that lie one behind the other in one matrix."""
    if m is not None and m < end:
        raise ValueError(f"m is {m}; want at least {end}, where the last group ends")
    places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return _operands((end if m is None else m,), places, sizes, n, k, kind, seed, device)


def _operands(
    shape: tuple[int, ...],
    places: Sequence[slice | tuple[int, slice]],
    sizes: Sequence[int],
    n: int,
    k: int,
    kind: str,
    seed: int,
    device: torch.device | str,
) -> tuple[Operand, Operand, Tensor]:
    """Operands, A with rows of this shape and each group's in its place; and the groups of the rows."""
    a = torch.full((*shape, k), _E4M3_NAN, dtype=torch.uint8, device=device)
    sa = torch.full((*shape, scale_blocks(k)), torch.nan, dtype=torch.float32, device=device)
    row_groups = torch.full(shape, -1, dtype=torch.int32, device=device)
    b = torch.empty(len(sizes), n, k, dtype=torch.uint8, device=device)
    sb = torch.empty(len(sizes), scale_blocks(n), scale_blocks(k), dtype=torch.float32, device=device)
    for group, (place, size) in enumerate(zip(places, sizes, strict=True)):
        (x, x_scales), (w, sb[group]) = make_inputs(size, n, k, kind, seed * len(sizes) + group, device)
        a[place], sa[place], row_groups[place] = x.view(torch.uint8), x_scales, group
        b[group] = w.view(torch.uint8)
    e4m3 = torch.float8_e4m3fn
    return (a.view(e4m3), sa), (b.view(e4m3), sb), row_groups
