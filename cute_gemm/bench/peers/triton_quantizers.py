"""1x128 quantising in Triton: some rows of one block of 128 columns per program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_CONFIGS = [
    triton.Config({"ROWS": rows}, num_warps=warps)
    for rows, warps in ((1, 1), (4, 1), (8, 1), (8, 4), (16, 4), (32, 4), (64, 8))
]


@triton.jit
def of_block(values):
    """e4m3 and scales of FP32 ``values`` (rows, 128), each row of which is a block."""
    largest = tl.max(tl.abs(values), axis=1)
    scale = tl.where(largest > 0.0, largest / 448.0, 1.0)
    return tl.clamp(values / scale[:, None], -448.0, 448.0).to(tl.float8e4nv), scale


@triton.autotune(_CONFIGS, key=["m", "k", "IS_GATED", "IS_GATHERED"])
@triton.jit
def _quantize(
    x, index, q, s, m, k, x_row, q_row, s_row,
    IS_GATED: tl.constexpr, IS_GATHERED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``x_row`` is the row stride of ``x``; of what is gated, ``up`` begins K columns behind ``gate``."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(1)
    columns = block * 128 + tl.arange(0, 128)
    in_m = rows < m
    is_there = in_m[:, None] & (columns < k)[None, :]
    source = tl.load(index + rows, mask=in_m, other=0) if IS_GATHERED else rows
    # Offsets in 64 bits: the source of a long prompt may hold more than 2**31 elements.
    places = source.to(tl.int64)[:, None] * x_row + columns[None, :]
    values = tl.load(x + places, mask=is_there, other=0.0).to(tl.float32)
    if IS_GATED:
        up = tl.load(x + places + k, mask=is_there, other=0.0).to(tl.float32)
        values = values * tl.sigmoid(values) * up
    quantized, scale = of_block(values)
    tl.store(q + rows.to(tl.int64)[:, None] * q_row + columns[None, :], quantized, mask=is_there)
    tl.store(s + rows * s_row + block, scale, mask=in_m)


def quantize(x: torch.Tensor, rows: torch.Tensor | None, q: torch.Tensor, s: torch.Tensor) -> None:
    """As `cute_gemm.quantize_1x128`, or of twice as many columns as `cute_gemm.swiglu_quantize_1x128`.

    Args:
        x: bf16 ``[M, K]`` or ``[M, 2 K]``, columns contiguous.
        rows: int32 ``[M]``, which rows are meant; None for all.
        q, s: e4m3 ``[M, K]`` and fp32 ``[M, ceil(K/128)]`` to write, columns contiguous.
    """
    m, k = q.shape
    _quantize[lambda meta: (triton.cdiv(m, meta["ROWS"]), triton.cdiv(k, 128))](
        x, x if rows is None else rows, q, s, m, k, x.stride(0), q.stride(0), s.stride(0),
        x.shape[1] > k, rows is not None,
    )  # fmt: skip
