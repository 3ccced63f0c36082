"""Blockwise FP8 products in Triton: one tile per program, its shape tuned at the first call of a shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

_CONFIGS = [
    triton.Config({"BLOCK_M": block_m, "BLOCK_N": block_n}, num_warps=warps, num_stages=stages)
    for block_m, block_n, warps, stages in (
        (64, 32, 4, 6),
        (64, 64, 4, 5),
        (64, 128, 4, 4),
        (128, 64, 4, 4),
        (128, 128, 8, 3),
        (128, 128, 8, 4),
    )
]


@triton.jit
def _tile_of_program(m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BAND: tl.constexpr):
    """First row and column of a program's tile: bands of ``BAND`` tiles along M, walked along N, for L2."""
    program = tl.program_id(0)
    m_tiles = tl.cdiv(m, BLOCK_M)
    per_band = BAND * tl.cdiv(n, BLOCK_N)
    first = program // per_band * BAND
    height = min(m_tiles - first, BAND)
    m_tile = first + program % per_band % height
    n_tile = program % per_band // height
    return m_tile * BLOCK_M, n_tile * BLOCK_N


@triton.jit
def _multiply_tile(
    a, sa, b, sb, d, m, n, k, row, column, a_row, sa_row, b_row, sb_row, d_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Computes and stores the tile of D at ``row``, ``column``; ``x_row`` is the row stride of ``x``."""
    rows = row + tl.arange(0, BLOCK_M)
    columns = column + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, 128)
    # Offsets in 64 bits: the operands of a grouped product may hold more than 2**31 elements.
    a_tile = a + rows.to(tl.int64)[:, None] * a_row + depth[None, :]
    b_tile = b + columns.to(tl.int64)[None, :] * b_row + depth[:, None]
    in_m, in_n = rows < m, columns < n
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for block in range(tl.cdiv(k, 128)):
        in_k = depth < k - block * 128
        x = tl.load(a_tile, mask=in_m[:, None] & in_k[None, :], other=0.0)
        y = tl.load(b_tile, mask=in_k[:, None] & in_n[None, :], other=0.0)
        # BLOCK_N divides 128: a tile has one scale of B for each block of K.
        scale = tl.load(sa + rows * sa_row + block, mask=in_m, other=0.0)
        scale *= tl.load(sb + column // 128 * sb_row + block)
        acc += tl.dot(x, y) * scale[:, None]
        a_tile += 128
        b_tile += 128
    d_tile = d + rows.to(tl.int64)[:, None] * d_row + columns[None, :]
    tl.store(d_tile, acc.to(d.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


@triton.autotune(_CONFIGS, key=["m", "n", "k"])
@triton.jit
def _dense(
    a, sa, b, sb, d, m, n, k, a_row, sa_row, b_row, sb_row, d_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    row, column = _tile_of_program(m, n, BLOCK_M, BLOCK_N, 8)
    _multiply_tile(
        a, sa, b, sb, d, m, n, k, row, column, a_row, sa_row, b_row, sb_row, d_row, BLOCK_M, BLOCK_N
    )


@triton.autotune(_CONFIGS, key=["m", "n", "k"])
@triton.jit
def _contiguous(
    a, sa, b, sb, d, group_index, m, n, k, a_row, sa_row, b_group, b_row, sb_group, sb_row, d_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    row, column = _tile_of_program(m, n, BLOCK_M, BLOCK_N, 8)
    # BLOCK_M divides 128, and no block of 128 rows has two groups; padding comes behind a group's rows.
    group = tl.load(group_index + row).to(tl.int64)
    if group >= 0:
        _multiply_tile(
            a, sa, b + group * b_group, sb + group * sb_group, d, m, n, k,
            row, column, a_row, sa_row, b_row, sb_row, d_row, BLOCK_M, BLOCK_N,
        )  # fmt: skip


def multiply(a: torch.Tensor, sa: torch.Tensor, b: torch.Tensor, sb: torch.Tensor, out: torch.Tensor) -> None:
    """``out = A @ B.T`` with scales: operands as for `cute_gemm.fp8_gemm_nt`, rows contiguous throughout."""
    (m, k), n = a.shape, len(b)
    rows = a.stride(0), sa.stride(0), b.stride(0), sb.stride(0), out.stride(0)
    _dense[_grid(m, n)](a, sa, b, sb, out, m, n, k, *rows)


def multiply_groups(
    a: torch.Tensor,
    sa: torch.Tensor,
    b: torch.Tensor,
    sb: torch.Tensor,
    out: torch.Tensor,
    group_index: torch.Tensor,
) -> None:
    """As `multiply`, for operands as for `cute_gemm.m_grouped_fp8_gemm_nt_contiguous`."""
    (m, k), n = a.shape, b.shape[1]
    rows = a.stride(0), sa.stride(0), *b.stride()[:2], *sb.stride()[:2], out.stride(0)
    _contiguous[_grid(m, n)](a, sa, b, sb, out, group_index, m, n, k, *rows)


def _grid(m: int, n: int) -> Callable[[dict[str, int]], tuple[int]]:
    return lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)
