"""Products of groups of rows, each with a matrix of its own: what they promise."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from ..epilogue.chain import Epilogue, QuantizingEpilogue
from ..plan.layouts import CONTIGUOUS, MASKED, OFFSETS
from ..plan.limits import CONTIGUOUS_ALIGNMENT
from . import epilogued
from .road import run


@overload
def m_grouped_fp8_gemm_nt_contiguous(  # type: ignore[overload-overlap]
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    group_index: Tensor,
    out: tuple[Tensor | None, Tensor | None] | None = None,
    *,
    out_dtype: torch.dtype = ...,
    validate: bool = False,
    fill: int | None = None,
    epilogue: QuantizingEpilogue,
) -> tuple[Tensor, Tensor]: ...


@overload
def m_grouped_fp8_gemm_nt_contiguous(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    group_index: Tensor,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = ...,
    validate: bool = False,
    fill: int | None = None,
    epilogue: Epilogue | None = None,
) -> Tensor: ...


def m_grouped_fp8_gemm_nt_contiguous(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    group_index: Tensor,
    out: Any = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    validate: bool = False,
    fill: int | None = None,
    epilogue: Epilogue | None = None,
) -> Any:
    """Products of rows of A, in groups that lie one behind the other, with their groups' matrices of B.

    Row m of the result is row m of A times `B[group_index[m]].T`, computed as :func:`fp8_gemm_nt` does it.
    This is the layout of mixture-of-experts layers in training and prefill, the tokens of each expert and
    then padding, as DeepGEMM's function of this name takes it (https://github.com/deepseek-ai/DeepGEMM),
    where `out` comes before `group_index`. For groups without padding there is
    :func:`m_grouped_fp8_gemm_nt_offsets`.

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[M, K]`; `sa` its scales, torch.float32
            `[M, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: the pair `(b, sb)`. `b` is B, torch.float8_e4m3fn `[G, N, K]`, 1 <= G <= 1022; `sb` its scales,
            torch.float32 `[G, ceil(N / 128), ceil(K / 128)]`. :func:`cute_gemm.quantize_128x128` makes both.
        group_index: torch.int32 `[M]`, contiguous: the group of each row, from 0 to G - 1, or -1 for padding.
            Each block of 128 rows, from a multiple of :func:`contiguous_alignment`, holds rows of one group,
            then padding. Groups may take any number of blocks, or none, and come in any order.
        out: where to write, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it.
        out_dtype: as for :func:`fp8_gemm_nt`.
        validate: read `group_index` and raise a ValueError where it breaks the rules above. The host waits
            for the device, so it is for finding errors; and it cannot be done in the capture of a CUDA graph.
        fill: 0 to write zeros to rows of padding, in the same launch, whatever `epilogue` would make of them;
            None to leave them alone. With an `epilogue` that quantises it is an error, as no scales of such
            rows are written.
        epilogue: as for :func:`fp8_gemm_nt`.

    Rows of padding are not written, unless `fill=0` asks for zeros: a given `out` keeps what it has there, an
    allocated one holds anything. M need not be a multiple of 128. A block of padding alone is skipped for the
    price of a look at it. Where persistence is static, as with a short K, or on a stream that is not
    PyTorch's, such blocks at a regular distance, as with slots of 256 rows half empty, may leave most of the
    work to few multiprocessors. For such data there are :func:`m_grouped_fp8_gemm_nt_offsets` with an
    `alignment`, and :func:`m_grouped_fp8_gemm_nt_masked`.

    Without `validate` nothing on the host depends on `group_index`, and no value in it leads to a read or a
    write out of bounds. All negative numbers are padding, and so is a block that starts with a number of G or
    above. Of a block that mixes groups, or has rows behind padding, it is not specified which rows are
    written and which of the block's groups they are multiplied with (with `fill=0` the others become zero);
    other blocks are not affected.

    Sizes, layouts, devices, the overlap of `out` with what is read, compilation and gradients: as for
    :func:`fp8_gemm_nt`. Of B, also the distance between matrices is a multiple of 16 bytes and below 2^40
    bytes, and matrices do not overlap; they may interleave, as `transpose(0, 1)` of `[N, G, K]` does. With
    K = 0 rows that would be written become zero.

    A call may be captured into a CUDA graph once the kernel was called before, and allocates nothing if `out`
    is given and K is not 0. A replay reads `group_index` anew: it may have changed in place. It must not
    change while the kernel runs, which could then wait for ever.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`fp8_gemm_nt`; TypeError also for a `fill` that is no
            int, ValueError also for one that is not 0 or cannot be, and for what `validate` finds,
            RuntimeError also for `validate` in the capture of a CUDA graph.

    When it raises one of these, `out` is as it was.
    """
    if epilogue is not None:
        given = lhs, rhs, out, out_dtype, group_index, 0, epilogue
        return epilogued.run(CONTIGUOUS, *given, validate=validate, fill=fill)
    return run(CONTIGUOUS, lhs, rhs, out, out_dtype, group_index, validate=validate, fill=fill)


def contiguous_alignment() -> int:
    """What each group's first row is a multiple of in :func:`m_grouped_fp8_gemm_nt_contiguous`: 128."""
    return CONTIGUOUS_ALIGNMENT


@overload
def m_grouped_fp8_gemm_nt_offsets(  # type: ignore[overload-overlap]
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    offsets: Tensor,
    out: tuple[Tensor | None, Tensor | None] | None = None,
    *,
    out_dtype: torch.dtype = ...,
    alignment: int = 1,
    validate: bool = False,
    fill: int | None = None,
    epilogue: QuantizingEpilogue,
) -> tuple[Tensor, Tensor]: ...


@overload
def m_grouped_fp8_gemm_nt_offsets(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    offsets: Tensor,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = ...,
    alignment: int = 1,
    validate: bool = False,
    fill: int | None = None,
    epilogue: Epilogue | None = None,
) -> Tensor: ...


def m_grouped_fp8_gemm_nt_offsets(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    offsets: Tensor,
    out: Any = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    alignment: int = 1,
    validate: bool = False,
    fill: int | None = None,
    epilogue: Epilogue | None = None,
) -> Any:
    """Products of rows of A, in groups of any size, with their groups' matrices of B.

    Rows `start[g]` to `offsets[g] - 1` of the result are those rows of A times `B[g].T`, computed as
    :func:`fp8_gemm_nt` does it, where `start[0]` is 0 and `start[g]` is `offsets[g - 1]`, rounded up to a
    multiple of `alignment`. It is the layout of tokens sorted by expert, as they are: no padding, no copy.
    With an alignment of 1, `offsets` is the `offs` of `torch._grouped_mm`.

    Args:
        lhs, rhs: as for :func:`m_grouped_fp8_gemm_nt_contiguous`.
        offsets: torch.int32 `[G]`, contiguous: the row behind each group's last; `sizes.cumsum(0)`, in int32,
            for groups one directly behind the other. A group whose end is that of the one before is empty.
        out: where to write, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it.
        out_dtype: as for :func:`fp8_gemm_nt`.
        alignment: what each group's first row is a multiple of, 1 to 1024.
        validate: read `offsets` and raise a ValueError where an end is below the one before it, inside the
            padding that follows that, or beyond M. The host waits for the device, so it is for finding
            errors; and it cannot be done in the capture of a CUDA graph.
        fill: as for :func:`m_grouped_fp8_gemm_nt_contiguous`, of rows of no group.
        epilogue: as for :func:`fp8_gemm_nt`.

    Rows of no group, which are those between the groups and behind the last, are not written, unless `fill=0`
    asks for zeros: a given `out` keeps what it has there, an allocated one holds anything. What they hold in
    A does not matter.

    Without `validate` nothing on the host depends on `offsets`, and no value in it leads to a read or a write
    out of bounds. Ends are clamped to 0..M, and a group that ends at its start or before is empty. Where ends
    decrease, rows may belong to several groups: each of their elements is of the result of any of those (and
    groups behind the first 2^30 tiles, which take many such overlaps, are left out).

    Everything else, as the layout of B, what may be captured into a CUDA graph and what is raised, is as for
    :func:`m_grouped_fp8_gemm_nt_contiguous`.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`m_grouped_fp8_gemm_nt_contiguous`; TypeError also for
            an `alignment` that is no int, ValueError also for one outside of 1 to 1024.

    When it raises one of these, `out` is as it was.
    """
    if epilogue is not None:
        given = lhs, rhs, out, out_dtype, offsets, alignment, epilogue
        return epilogued.run(OFFSETS, *given, validate=validate, fill=fill)
    return run(OFFSETS, lhs, rhs, out, out_dtype, offsets, alignment, validate=validate, fill=fill)


@overload
def m_grouped_fp8_gemm_nt_masked(  # type: ignore[overload-overlap]
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    valid_rows: Tensor,
    expected_rows: int,
    out: tuple[Tensor | None, Tensor | None] | None = None,
    *,
    out_dtype: torch.dtype = ...,
    validate: bool = False,
    fill: int | None = None,
    epilogue: QuantizingEpilogue,
) -> tuple[Tensor, Tensor]: ...


@overload
def m_grouped_fp8_gemm_nt_masked(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    valid_rows: Tensor,
    expected_rows: int,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = ...,
    validate: bool = False,
    fill: int | None = None,
    epilogue: Epilogue | None = None,
) -> Tensor: ...


def m_grouped_fp8_gemm_nt_masked(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    valid_rows: Tensor,
    expected_rows: int,
    out: Any = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    validate: bool = False,
    fill: int | None = None,
    epilogue: Epilogue | None = None,
) -> Any:
    """Products of G matrices of the same size, of which only the first rows count.

    Rows 0 to `valid_rows[g] - 1` of matrix g of the result are those rows of matrix g of A times `B[g].T`,
    computed as :func:`fp8_gemm_nt` does it. It is the layout of decoding under CUDA graphs, room for
    `capacity` tokens of each expert and their number known to the device alone, as DeepGEMM's function of
    this name takes it (https://github.com/deepseek-ai/DeepGEMM), where `out` comes before `valid_rows`.

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[G, capacity, K]`; `sa` its scales,
            torch.float32 `[G, capacity, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: as for :func:`m_grouped_fp8_gemm_nt_contiguous`.
        valid_rows: torch.int32 `[G]`, contiguous: the number of valid rows of each matrix, 0 to capacity.
        expected_rows: about how many valid rows a matrix has, a positive int. It helps to choose a kernel,
            and nothing else: results are right for all `valid_rows`.
        out: where to write, torch.bfloat16 or torch.float32 `[G, capacity, N]`; None allocates it.
        out_dtype: as for :func:`fp8_gemm_nt`.
        validate: read `valid_rows` and raise a ValueError where it is below 0 or above the capacity. The host
            waits for the device, so it is for finding errors; and it cannot be done in the capture of a CUDA
            graph.
        fill: as for :func:`m_grouped_fp8_gemm_nt_contiguous`, of rows beyond the valid ones.
        epilogue: as for :func:`fp8_gemm_nt`.

    Rows beyond the valid ones are not written, unless `fill=0` asks for zeros: a given `out` keeps what it
    has there, an allocated one holds anything. What they hold in A does not matter.

    Without `validate` nothing on the host depends on `valid_rows`, and no value in it leads to a read or a
    write out of bounds: it is clamped to 0..capacity.

    A and `out` may have gaps between matrices and between rows, or interleaved matrices, as B may. Everything
    else, as what may be captured into a CUDA graph and what is raised, is as for
    :func:`m_grouped_fp8_gemm_nt_contiguous`.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`m_grouped_fp8_gemm_nt_contiguous`; TypeError also for
            `expected_rows` that is no int, ValueError also for one below 1.

    When it raises one of these, `out` is as it was.
    """
    if epilogue is not None:
        given = lhs, rhs, out, out_dtype, valid_rows, expected_rows, epilogue
        return epilogued.run(MASKED, *given, validate=validate, fill=fill)
    return run(MASKED, lhs, rhs, out, out_dtype, valid_rows, expected_rows, validate=validate, fill=fill)
