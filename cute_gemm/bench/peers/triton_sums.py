"""The weighted sum of each token's rows in Triton: a token and a block of columns per program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_CONFIGS = [
    triton.Config({"COLUMNS": columns}, num_warps=warps)
    for columns, warps in ((128, 1), (256, 1), (512, 2), (1024, 4), (2048, 4), (2048, 8))
]


@triton.autotune(_CONFIGS, key=["tokens", "k", "CHOICES"])
@triton.jit
def _add_up(
    rows, places, weights, out, tokens, k, row_step, out_step, CHOICES: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """``x_step`` is the row stride of ``x``; ``tokens`` is what configurations are tuned for."""
    # In 64 bits: rows of many tokens hold more than 2**31 elements.
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < k
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    # Unrolled, so that rows are asked for together.
    for choice in tl.static_range(CHOICES):
        place = tl.load(places + token * CHOICES + choice).to(tl.int64)
        weight = tl.load(weights + token * CHOICES + choice)
        row = tl.load(rows + place * row_step + columns, mask=is_column & (place >= 0), other=0.0)
        total += row.to(tl.float32) * weight
    tl.store(out + token * out_step + columns, total.to(out.dtype.element_ty), mask=is_column)


def add_up(rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of each token's rows, in FP32; a place of -1 adds nothing.

    Args:
        rows: bf16 ``[R, K]``, columns contiguous; those that no place names may be NaN.
        places: int32 ``[T, k]``, contiguous.
        weights: fp32 ``[T, k]``, contiguous.

    Returns:
        bf16 ``[T, K]``.
    """
    (tokens, choices), k = places.shape, rows.shape[1]
    out = torch.empty(tokens, k, dtype=rows.dtype, device=rows.device)
    _add_up[lambda meta: (tokens, triton.cdiv(k, meta["COLUMNS"]))](
        rows, places, weights, out, tokens, k, rows.stride(0), out.stride(0), choices
    )
    return out
