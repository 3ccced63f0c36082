"""The library's operations in plain torch, on any device: what CPU tensors get, and what tests compare
with. Arguments are taken as checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .contract import Call, ambient
from .plan.layouts import resolve
from .plan.limits import ceil_div
from .plan.recipe import FP8_1D2D as RECIPE
from .quantize import dequantize_1x128, dequantize_128x128
from .quantize.formula import quantize_rows

# What `dequantized_product` holds of either operand in fp64, at most, if a row is not longer.
_CHUNK_ELEMENTS = 1 << 25


def fp8_gemm_nt(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """``A @ B.T`` of scaled e4m3 matrices, promoted to fp32 every 128 elements of K.

    The order of operations is that of the GPU kernels (DeepSeek-V3 technical report, arXiv:2412.19437,
    section 3.3.2): the product of each 128-wide k-block, times the product of its two scales, summed in fp32.
    Only the sum inside a k-block differs: it is exact here, and about 14 bits wide in a Hopper tensor core.

    The bits of a result depend on the values alone: not on strides, the number of threads, or torch's modes.

    Args:
        a: e4m3 ``[M, K]``, any strides.
        sa: fp32 ``[M, ceil(K/128)]``, any strides: one scale per row and k-block of A.
        b: e4m3 ``[N, K]``, any strides.
        sb: fp32 ``[ceil(N/128), ceil(K/128)]``, any strides: one scale per 128x128 block of B. Or ``[N,
            ceil(K/128)]``: one per row and k-block.
        out_dtype: dtype of the result, rounded once at the end.

    Returns:
        ``[M, N]``, contiguous; zeros where K is 0. Any of M, N and K may be 0, and none need be a multiple of
        128.
    """
    m, k = a.shape
    n = b.shape[0]
    width = RECIPE.promote_k
    of_rows = _of_rows(sb, n)
    acc = torch.zeros(m, n, dtype=torch.float32, device=a.device)
    with ambient.no_autocast(a.device):
        for block in range(ceil_div(k, width)):
            columns = slice(block * width, (block + 1) * width)
            # Sums of 128 products of e4m3 values have 43 bits: FP64 holds them, in any order of adding up.
            product = (a[:, columns].double() @ b[:, columns].double().t()).float()
            # Not `addcmul_`, which may round once or twice by where an element lies in a vector.
            acc += product * (sa[:, block, None] * of_rows[:, block])
    return acc.to(out_dtype)


def _of_rows(sb: Tensor, n: int) -> Tensor:
    """The scales of each of ``n`` rows of B."""
    return sb if len(sb) == n else sb.repeat_interleave(RECIPE.scale_n, 0)[:n]


Apply = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
"""What becomes of FP32 sums, given what the result held before, and the group of each row."""


def serves(call: Call) -> bool:
    """Whether a call is for :func:`compute`: on the CPU, or where there is nothing to multiply."""
    return call.a.is_cpu or call.a.shape[-1] == 0 or 0 in call.shape


def compute(call: Call, apply: Apply | None = None, power_of_two_scales: bool = False) -> Tensor:
    """The result of a call, whatever its layout, where no kernel is needed or there is none.

    With K = 0 the host does not wait for the device, and a CUDA graph can be captured.

    Args:
        call: the call.
        apply: what becomes of sums before they are rounded; None if they are stored as they are.
        power_of_two_scales: of what is quantised then, to `scales_out` of the call, if that is given: of the
            FP32 values, which are not rounded before.
    """
    if apply is not None:
        return _compute_and_apply(call, apply, power_of_two_scales)
    layout, m, groups = call.layout, call.a.shape[-2], call.b.shape[0]
    result = call.a.new_empty(call.shape, dtype=call.out_dtype) if call.out is None else call.out
    if 0 in call.shape:
        return result
    # As a kernel does, it writes also outside of the inference_mode that `out` was made under.
    with torch.inference_mode(), ambient.no_autocast(call.a.device):
        if layout.index is None:
            product = fp8_gemm_nt(call.a, call.sa, call.b, call.sb, call.out_dtype)
            result[:] = result + product if call.accumulate else product
        else:
            row_groups = resolve(layout.row_groups)(call.index, call.count, m, groups)
            _multiply_groups(call.a, call.sa, call.b, call.sb, result, row_groups)
            if call.fill is not None:
                result.masked_fill_((row_groups < 0)[..., None], call.fill)
    return result


def _compute_and_apply(call: Call, apply: Apply, power_of_two_scales: bool) -> Tensor:
    sums = compute(replace(call, out=None, out_dtype=torch.float32, shape=call.shape_of_sums, fill=None))
    result = call.a.new_empty(call.shape, dtype=call.out_dtype) if call.out is None else call.out
    if 0 in call.shape:
        return result
    layout, m, groups = call.layout, call.a.shape[-2], call.b.shape[0]
    with torch.inference_mode(), ambient.no_autocast(call.a.device):
        row_groups = is_written = None
        if layout.index is not None:
            row_groups = resolve(layout.row_groups)(call.index, call.count, m, groups)
            is_written = row_groups >= 0
        made = apply(sums, call.out, row_groups)
        if call.scales_out is not None:
            quantize_rows(made, result, call.scales_out, power_of_two_scales, is_written)
        elif is_written is None:
            result[:] = made.to(result.dtype)
        else:
            others = result if call.fill is None else torch.full_like(result, call.fill)
            result[:] = torch.where(is_written[..., None], made.to(result.dtype), others)
    return result


def _multiply_groups(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, row_groups: Tensor) -> None:
    """Multiplies every row by the matrix of its group; rows of ``out`` without one stay as they are."""
    if a.shape[-1] == 0:
        out.masked_fill_((row_groups >= 0)[..., None], 0)
        return
    for group in range(len(b)):
        rows = (row_groups == group).nonzero(as_tuple=True)
        out[rows] = fp8_gemm_nt(take_rows(a, rows), sa[rows], b[group], sb[group], out.dtype)


def take_rows(q: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
    """The rows ``q[rows]`` of e4m3 matrices, which torch does not index on all devices."""
    return q.view(torch.uint8)[rows].view(q.dtype)


def dequantized_product(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    """The product of the dequantised operands: the truth that results are compared with.

    It is computed in fp64, where the operands are exact and the sums good to about 1e-15.

    Args:
        a, sa, b, sb: as for `fp8_gemm_nt`.
        dtype: fp64, or fp32 to take less memory.

    Returns:
        ``[M, N]`` of ``dtype``. Beside it, no more than a chunk of either operand is held in fp64.

    Raises:
        TypeError, ValueError: an operand and its scales do not fit, or require a gradient (see
            `dequantize_1x128`, `dequantize_128x128`).
    """
    m, k = a.shape
    n = b.shape[0]
    out = torch.empty(m, n, dtype=dtype, device=a.device)
    height = RECIPE.scale_n
    rows = max(height, _CHUNK_ELEMENTS // max(k, 1) // height * height)
    with ambient.no_autocast(a.device):
        for j in range(0, n, rows):
            if len(sb) == n:
                b_wide = dequantize_1x128(b[j : j + rows], sb[j : j + rows], torch.float64)
            else:
                sb_rows = sb[j // height : ceil_div(j + rows, height)]
                b_wide = dequantize_128x128(b[j : j + rows], sb_rows, torch.float64)
            for i in range(0, m, rows):
                a_wide = dequantize_1x128(a[i : i + rows], sa[i : i + rows], torch.float64)
                part = out[i : i + rows, j : j + rows]
                if dtype is torch.float64:
                    torch.mm(a_wide, b_wide.t(), out=part)
                else:
                    part.copy_(a_wide @ b_wide.t())
    return out


def product_scale(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor) -> Tensor:
    """How large the terms behind each element of ``A @ B.T`` are: the measure that rounding errors go with.

    An element whose terms cancel is small, its error is not; and a tile may hold rows a million times larger
    than others. Per element this is ``sqrt(sum over k-blocks of (|A_i,block| |B_j,block|)**2)`` with
    Euclidean norms of the dequantised blocks: by Cauchy and Schwarz no k-block adds more than its own term,
    and the errors of different k-blocks are independent when the data's signs are. It is about 11 times the
    standard deviation of the result for data of random sign, whatever K.

    Args:
        a, sa, b, sb: as for `fp8_gemm_nt`.

    Returns:
        fp64 ``[M, N]``.
    """
    sb_rows = _of_rows(sb, len(b))
    with ambient.no_autocast(a.device):
        return (_squared_norms(a, sa) @ _squared_norms(b, sb_rows).t()).sqrt_()


_LEAST_NORMAL = 0x08
"""The bits of the smallest normal number of e4m3, 2**-6."""


def term_magnitudes(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, *, subnormals_as_normal: bool = True
) -> Tensor:
    """For each element of ``A @ B.T``, the sum of the magnitudes of its terms.

    Args:
        a, sa, b, sb: as for `fp8_gemm_nt`.
        subnormals_as_normal: take operands below 2**-6, but for 0, for 2**-6, as what Hopper's tensor cores
            err goes by the exponents that numbers are stored with (docs/performance.md, 74).

    Returns:
        fp64 ``[M, N]``.

    Raises:
        TypeError, ValueError: as `dequantized_product`.
    """
    # The magnitude of an e4m3 value is what is left without its sign bit.
    a, b = (x.view(torch.uint8) & 0x7F for x in (a, b))
    if subnormals_as_normal:
        a, b = (torch.where(x == 0, x, x.clamp(min=_LEAST_NORMAL)) for x in (a, b))
    e4m3 = torch.float8_e4m3fn
    return dequantized_product(a.view(e4m3), sa.abs(), b.view(e4m3), sb.abs())


def _squared_norms(q: Tensor, s: Tensor) -> Tensor:
    width = RECIPE.scale_k
    norms = torch.empty(s.shape, dtype=torch.float64, device=q.device)
    for block in range(s.shape[1]):
        values = q[:, block * width : (block + 1) * width].double()
        norms[:, block] = values.square().sum(1) * s[:, block].double().square()
    return norms
