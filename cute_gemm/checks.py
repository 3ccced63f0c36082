"""The rules a call of a GEMM has to obey.

They run on every call, however small: 3.5 us of the host's time, 4.3 us with `out`, most of it spent asking
tensors for their attributes (one straight function instead of three was 0.4 us faster and read worse). So
every attribute is read once, a rule is one comparison, and words are made in :mod:`cute_gemm.refusals` after
a rule is known to be broken. Nothing is remembered from call to call: a tensor that was fine may have been
resized, freed or moved since.

CPU tensors obey the same rules as CUDA tensors, so that what runs on a laptop runs on a GPU. The limits are
those of TMA tensor maps (CUDA driver API, `cuTensorMapEncodeTiled`): addresses and row strides are multiples
of 16 bytes, rows do not overlap (so a stride of 0, as `expand` makes it, is out), and row strides are below
2^40 bytes.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from . import refusals

MAX_EXTENT = 2**31 - 1024
"""Largest size of a dimension: kernels have 32-bit coordinates, and a cluster's last tile may lie beyond."""

MAX_SCALE_SPAN = 2**31 - 1
"""Largest offset of a scale from the first, in elements: 32-bit in a kernel."""

_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_E4M3, _FP32, _BF16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16
_RESULT_BYTES = {_BF16: 2, _FP32: 4}
_ROW_STRIDE_END = 2**40


def dense(
    lhs: tuple[Tensor, Tensor], rhs: tuple[Tensor, Tensor], out: Tensor | None, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]:
    """Checks one product of A `[M, K]` and B `[N, K]`; the rules are those of :func:`cute_gemm.fp8_gemm_nt`.

    Returns:
        A, its scales, B, its scales, M, N, K.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: a shape, layout, device or overlap that cannot be used.
    """
    a, sa, m, k, a_start, a_end, sa_start, sa_end = operand("a", lhs, 1, None)
    b, sb, n, _, b_start, b_end, sb_start, sb_end = operand("b", rhs, 128, k)
    if n & 7:
        raise refusals.result_columns(b)
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
        return a, sa, b, sb, m, n, k
    start, end = result(out, m, n)
    if out_dtype is not _BF16 and out_dtype is not out.dtype:
        raise refusals.contradicting_out_dtype(out, out_dtype)
    if out.device != device:
        raise refusals.mixed_devices(a=a, sa=sa, b=b, sb=sb, out=out)
    if recording and out.requires_grad:
        raise refusals.gradient(out=out)
    if a_start < end and start < a_end:
        _require_disjoint("a", a, out)
    if b_start < end and start < b_end:
        _require_disjoint("b", b, out)
    if sa_start < end and start < sa_end:
        _require_disjoint("sa", sa, out)
    if sb_start < end and start < sb_end:
        _require_disjoint("sb", sb, out)
    return a, sa, b, sb, m, n, k


def operand(
    name: str, pair: tuple[Tensor, Tensor], rows_per_scale: int, depth: int | None
) -> tuple[Tensor, Tensor, int, int, int, int, int, int]:
    """Checks an e4m3 matrix `[rows, K]`, K contiguous, and its scales, fp32, one for 128 columns.

    TMA reads the matrix. Scales are read with plain loads, so both orders, padding and broadcast strides of 0
    are fine.

    Args:
        name: the matrix's name; its scales have an s before it.
        pair: the matrix and its scales.
        rows_per_scale: 1 or 128.
        depth: the K wanted, None where any is.

    Returns:
        The matrix, its scales, rows, K, then the addresses of the first byte of the matrix, behind its last
        byte, of the first byte of the scales, and behind their last byte; 0 where there are no elements.

    Raises:
        TypeError, ValueError: see :func:`dense`.
    """
    q, s = pair if type(pair) is tuple and len(pair) == 2 else refusals.unpack(name, pair)
    if type(q) not in _PLAIN:
        refusals.require_own_memory(name, q)
    if q.dtype is not _E4M3:
        raise refusals.operand_dtype(name, q)
    try:
        shape, strides, start = q.shape, q.stride(), q.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided(name, q) from error
    if len(shape) != 2:
        raise refusals.dimensions(name, q)
    rows, k = shape
    if k != depth and depth is not None:
        raise refusals.depth(name, q, depth)
    if rows > MAX_EXTENT or k > MAX_EXTENT:
        raise refusals.too_large(name, q, MAX_EXTENT)
    if k & 15:
        raise refusals.row_length(name, q)
    if not rows or not k:
        start = end = 0
    else:
        step, inner = strides
        if inner != 1:
            raise refusals.not_contiguous(name, q)
        if start & 15 or not start:
            raise refusals.address(name, q, 16)
        end = start + k
        if rows > 1:
            if step & 15 or not k <= step < _ROW_STRIDE_END:
                raise refusals.row_stride(name, q, step, k)
            end += step * (rows - 1)

    if type(s) not in _PLAIN:
        refusals.require_own_memory(f"s{name}", s)
    if s.dtype is not _FP32:
        raise refusals.scale_dtype(f"s{name}", s)
    try:
        shape, strides, s_start = s.shape, s.stride(), s.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided(f"s{name}", s) from error
    scale_rows = (rows + rows_per_scale - 1) // rows_per_scale
    scale_columns = (k + 127) >> 7
    if shape != (scale_rows, scale_columns):
        raise refusals.scale_shape(f"s{name}", s, scale_rows, scale_columns)
    if not end:
        s_start = s_end = 0
    else:
        if s_start & 3 or not s_start:
            raise refusals.address(f"s{name}", s, 4)
        # The imaginary part of a conjugate is memory with the wrong sign; only torch's own operators know.
        if s.is_neg():
            raise refusals.pending_negation(f"s{name}", s)
        last = (scale_rows - 1) * strides[0] + (scale_columns - 1) * strides[1]
        if last > MAX_SCALE_SPAN:
            raise refusals.scale_span(f"s{name}", s, last, MAX_SCALE_SPAN)
        s_end = s_start + 4 * last + 4
    return q, s, rows, k, start, end, s_start, s_end


def result(out: Tensor, rows: int, columns: int) -> tuple[int, int]:
    """Checks a matrix that TMA writes: bf16 or fp32 `[rows, columns]`, columns contiguous.

    Returns:
        Address of the first byte, address behind the last byte; 0 where there are no elements.

    Raises:
        TypeError, ValueError: see :func:`dense`.
    """
    if type(out) not in _PLAIN:
        refusals.require_own_memory("out", out)
    size = _RESULT_BYTES.get(out.dtype)
    if size is None:
        raise refusals.result_dtype(out, rows, columns)
    try:
        shape, strides, start = out.shape, out.stride(), out.data_ptr()
    except RuntimeError as error:
        raise refusals.not_strided("out", out) from error
    if shape != (rows, columns):
        raise refusals.result_shape(out, rows, columns)
    if not rows or not columns:
        return 0, 0
    step, inner = strides
    if inner != 1:
        raise refusals.not_contiguous("out", out)
    if start & 15 or not start:
        raise refusals.address("out", out, 16)
    width = columns * size
    if rows == 1:
        return start, start + width
    step *= size
    if step & 15 or not width <= step < _ROW_STRIDE_END:
        raise refusals.row_stride("out", out, step, width)
    return start, start + step * (rows - 1) + width


def _require_disjoint(name: str, x: Tensor, out: Tensor) -> None:
    """Refuses an `out` that may share bytes with an input, after their ranges of addresses were seen to meet.

    Ranges meet without a shared byte where both are views into one larger buffer, say columns [0, N) and
    [N, 2N) of it: that is allowed.
    """
    x_start, x_step, x_width = _bands(x)
    start, step, width = _bands(out)
    # Seen modulo a common divisor of both steps, all bands of a matrix fall on the same place.
    period = gcd(x_step, step)
    offset = (start - x_start) % period if period else 0
    if not x_width <= offset <= period - width:
        raise refusals.overlap(name, x, out)


def _bands(x: Tensor) -> tuple[int, int, int]:
    """The memory of a matrix as equal bands: address of the first, bytes from one to the next, bytes of one.

    A step of 0 stands for a single band. Bands may hold more than the matrix, where both its dimensions have
    gaps, but never less.
    """
    size = x.element_size()
    (rows, columns), (row_step, step) = x.shape, x.stride()
    # What has one element along a dimension takes no step along it, whatever its stride says.
    outer, inner = (row_step * (rows > 1), rows), (step * (columns > 1), columns)
    (step, count), (gap, length) = max(outer, inner), min(outer, inner)
    step *= size
    width = gap * size * (length - 1) + size
    if step <= width:
        return x.data_ptr(), 0, width + step * (count - 1)
    return x.data_ptr(), step, width
