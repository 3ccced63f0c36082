"""The rules a call of a GEMM has to obey.

They run on every call that does not go the short way (:mod:`cute_gemm.runtime.quick`), however small: more than 5 us
of the host's time with `out`, most of it spent asking tensors for their attributes (one straight function
instead of three was 0.4 us faster and read worse). So every attribute is read once, a rule is one comparison,
and words are made in :mod:`cute_gemm.contract.refusals` after a rule is known to be broken. Nothing is remembered from
call to call: a tensor that was fine may have been resized, freed or moved since. What grouped operations ask
for beyond this is in :mod:`cute_gemm.contract.grouping`.

CPU tensors obey the same rules as CUDA tensors, so that what runs on a laptop runs on a GPU. The limits are
those of TMA tensor maps (CUDA driver API, `cuTensorMapEncodeTiled`): addresses and the strides of rows and
of matrices are multiples of 16 bytes, neither overlap (so a stride of 0, as `expand` makes it, is out), and
these strides are below 2^40 bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import gcd

import torch
from torch import Tensor

from ..plan.limits import MAX_EXTENT, MAX_SCALE_SPAN, STRIDE_END
from . import refusals

PLAIN = frozenset({Tensor, torch.nn.Parameter})
_E4M3, _FP32, _BF16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16
_RESULT_BYTES = {_BF16: 2, _FP32: 4}


def product(
    lhs: tuple[Tensor, Tensor],
    a_rank: int,
    rhs: tuple[Tensor, Tensor],
    b_rank: int,
    out: Tensor | None,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int, torch.device, int, int]:
    """Checks the operands of a product and its result; the rules are those of :func:`cute_gemm.fp8_gemm_nt`.

    Args:
        lhs: A `[M, K]`, or `[G, M, K]`, and its scales.
        a_rank: 2 or 3.
        rhs: B `[N, K]`, or `[G, N, K]`, and its scales.
        b_rank: 2 or 3.
        out: the result `[M, N]` or `[G, M, N]`, of A's rank, or None.
        out_dtype: of a result that is None.

    Returns:
        A, its scales, B, its scales, M, N, K, the device of all, then the addresses of the first byte of
        `out` and behind its last byte; 0 where there is nothing.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: a shape, layout, device or overlap that cannot be used.
    """
    a, sa, a_groups, m, k, a_start, a_end, sa_start, sa_end = operand("a", lhs, a_rank, 1, None)
    b, sb, groups, n, _, b_start, b_end, sb_start, sb_end = operand("b", rhs, b_rank, 128, k)
    if a_rank == 3 and a_groups != groups:
        raise refusals.group_mismatch(a, b)
    device = a.device
    if not sa.device == b.device == sb.device == device:
        raise refusals.mixed_devices(a=a, sa=sa, b=b, sb=sb)
    if not (a.is_cuda or a.is_cpu):
        raise refusals.unknown_device("a", a)
    recording = torch.is_grad_enabled()
    if recording and (a.requires_grad or sa.requires_grad or b.requires_grad or sb.requires_grad):
        raise refusals.gradient(a=a, sa=sa, b=b, sb=sb)

    if out is None:
        if out_dtype is not _BF16 and out_dtype is not _FP32:
            raise refusals.unknown_out_dtype(out_dtype)
        return a, sa, b, sb, m, n, k, device, 0, 0
    start, end = result(out, out_dtype, (m, n) if a_rank == 2 else (groups, m, n))
    if out.device != device:
        raise refusals.mixed_devices(a=a, sa=sa, b=b, sb=sb, out=out)
    if recording and out.requires_grad:
        raise refusals.gradient(out=out)
    if a_start < end and start < a_end:
        require_disjoint("a", a, out)
    if b_start < end and start < b_end:
        require_disjoint("b", b, out)
    if sa_start < end and start < sa_end:
        require_disjoint("sa", sa, out)
    if sb_start < end and start < sb_end:
        require_disjoint("sb", sb, out)
    return a, sa, b, sb, m, n, k, device, start, end


def operand(
    name: str, pair: tuple[Tensor, Tensor], rank: int, rows_per_scale: int, depth: int | None
) -> tuple[Tensor, Tensor, int, int, int, int, int, int, int]:
    """Checks an e4m3 matrix `[rows, K]` or several `[groups, rows, K]`, and their scales, fp32, one for 128
    columns.

    TMA reads the matrices, in which K is contiguous. Scales are read with plain loads, so both orders,
    padding and broadcast strides of 0 are fine.

    Args:
        name: the operand's name; its scales have an s before it.
        pair: the operand and its scales.
        rank: 2 for one matrix, 3 for one of each group.
        rows_per_scale: 1; or 128, then the rows are the columns of a result.
        depth: the K wanted, None where any is.

    Returns:
        The operand, its scales, groups (1 of rank 2), rows, K, then the addresses of the first byte of the
        operand, behind its last byte, of the first byte of the scales, and behind their last byte; 0 where
        there are no elements.

    Raises:
        TypeError, ValueError: see :func:`product`.
    """
    q, s = pair if type(pair) is tuple and len(pair) == 2 else refusals.unpack(name, pair)
    if type(q) not in PLAIN:
        refusals.require_own_memory(name, q)
    if q.dtype is not _E4M3:
        raise refusals.operand_dtype(name, q)
    try:
        shape, strides, start = q.shape, q.stride(), q.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided(name, q) from error
    if len(shape) != rank:
        raise refusals.dimensions(name, q, rank)
    if rank == 2:
        groups = 1
        rows, k = shape
        step, inner = strides
    else:
        groups, rows, k = shape
        group_step, step, inner = strides
    if k != depth and depth is not None:
        raise refusals.depth(name, q, depth)
    if rows > MAX_EXTENT or k > MAX_EXTENT:
        raise refusals.too_large(name, q, MAX_EXTENT)
    if k & 15:
        raise refusals.row_length(name, q)
    if rows_per_scale == 128 and rows & 7:
        raise refusals.result_columns(name, q)
    if not rows or not k or not groups:
        start = end = 0
    else:
        if inner != 1:
            raise refusals.not_contiguous(name, q)
        if start & 15 or not start:
            raise refusals.address(name, q, 16)
        end = start + k
        if rows > 1:
            if step & 15 or not k <= step < STRIDE_END:
                raise refusals.row_stride(name, q, step, k)
            end += step * (rows - 1)
        if groups > 1:
            end += _group_span(name, q, groups, rows, k, group_step, step)

    if type(s) not in PLAIN:
        refusals.require_own_memory(f"s{name}", s)
    if s.dtype is not _FP32:
        raise refusals.scale_dtype(f"s{name}", s)
    try:
        shape, strides, s_start = s.shape, s.stride(), s.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided(f"s{name}", s) from error
    scale_rows = rows if rows_per_scale == 1 else (rows + 127) >> 7
    scale_columns = (k + 127) >> 7
    wanted = (scale_rows, scale_columns) if rank == 2 else (groups, scale_rows, scale_columns)
    if shape != wanted:
        raise refusals.scale_shape(f"s{name}", s, wanted)
    if not end:
        s_start = s_end = 0
    else:
        if s_start & 3 or not s_start:
            raise refusals.address(f"s{name}", s, 4)
        # The imaginary part of a conjugate is memory with the wrong sign; only torch's own operators know.
        if s.is_neg():
            raise refusals.pending_negation(f"s{name}", s)
        if rank == 2:
            last = (scale_rows - 1) * strides[0] + (scale_columns - 1) * strides[1]
        else:
            last = (scale_rows - 1) * strides[1] + (scale_columns - 1) * strides[2]
            last += (groups - 1) * strides[0]
        if last > MAX_SCALE_SPAN:
            raise refusals.scale_span(f"s{name}", s, last, MAX_SCALE_SPAN)
        s_end = s_start + 4 * last + 4
    return q, s, groups, rows, k, start, end, s_start, s_end


def result(out: Tensor, out_dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[int, int]:
    """Checks a matrix that TMA writes, or one of each group: bf16 or fp32, rows contiguous.

    Args:
        out: the result.
        out_dtype: bf16, the default, or what `out` has.
        shape: the one wanted, `[M, N]` or `[G, M, N]`.

    Returns:
        Address of the first byte, address behind the last byte; 0 where there are no elements.

    Raises:
        TypeError, ValueError: see :func:`product`.
    """
    if type(out) not in PLAIN:
        refusals.require_own_memory("out", out)
    dtype = out.dtype
    size = _RESULT_BYTES.get(dtype)
    if size is None:
        raise refusals.result_dtype(out, shape)
    if out_dtype is not _BF16 and out_dtype is not dtype:
        raise refusals.contradicting_out_dtype(out, out_dtype)
    try:
        strides, start = out.stride(), out.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided("out", out) from error
    if out.shape != shape:
        raise refusals.result_shape(out, shape)
    if len(shape) == 2:
        groups = 1
        rows, columns = shape
        step, inner = strides
    else:
        groups, rows, columns = shape
        group_step, step, inner = strides
    if not rows or not columns or not groups:
        return 0, 0
    if inner != 1:
        raise refusals.not_contiguous("out", out)
    if start & 15 or not start:
        raise refusals.address("out", out, 16)
    width = columns * size
    end = start + width
    step *= size
    if rows > 1:
        if step & 15 or not width <= step < STRIDE_END:
            raise refusals.row_stride("out", out, step, width)
        end += step * (rows - 1)
    if groups > 1:
        end += _group_span("out", out, groups, rows, width, group_step * size, step)
    return start, end


def _group_span(name: str, x: Tensor, groups: int, rows: int, width: int, group_step: int, step: int) -> int:
    """Checks how far apart matrices are, of which there are several: they must not lie in one another.

    Either each lies behind the one before, or they interleave, as `transpose(0, 1)` of `[rows, groups, K]`
    does.

    Args:
        name, x: what they are.
        groups, rows: the extents of `x`.
        width: of a row, in bytes.
        group_step: from one matrix to the next, in bytes.
        step: from one row to the next, in bytes; any where there is one row.

    Returns:
        Bytes from the first matrix to the last.
    """
    span = group_step * (groups - 1)
    if (
        group_step & 15
        or not width <= group_step < STRIDE_END
        or (group_step < width + step * (rows - 1) and step < width + span)
    ):
        raise refusals.group_stride(name, x, group_step, step, width)
    return span


def require_disjoint(name: str, x: Tensor, out: Tensor) -> None:
    """Refuses an `out` that may share bytes with an input, after their ranges of addresses were seen to meet.

    Ranges meet without a shared byte where both are views into one larger buffer, say columns [0, N) and
    [N, 2N) of it: that is allowed.
    """
    distance = out.data_ptr() - x.data_ptr()
    for (x_period, x_width), (period, width) in itertools.product(_bands(x), _bands(out)):
        # Seen modulo a common divisor of both periods, all bands of a tensor fall on the same place.
        common = gcd(x_period, period)
        if common and x_width <= distance % common <= common - width:
            return
    raise refusals.overlap(name, x, out)


def _bands(x: Tensor) -> Iterator[tuple[int, int]]:
    """Ways to see the memory of a tensor as equal bands, the first at its start: their period, bytes of one.

    From one band to another is a multiple of the period, which is 0 for a single band. Bands may hold more
    than the tensor, but never less.
    """
    size = x.element_size()
    # What has one element along a dimension takes no step along it, whatever its stride says.
    steps = sorted((step * size, count) for step, count in zip(x.stride(), x.shape, strict=True) if count > 1)
    for inner in range(len(steps) + 1):
        # The inner dimensions make a band, with its gaps; the others lead from band to band.
        width = size + sum(step * (count - 1) for step, count in steps[:inner])
        yield gcd(*(step for step, _ in steps[inner:])), width
