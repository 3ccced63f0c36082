"""What is around products of matrices with room for a fixed number of rows, in Triton.

Scales are M-major of each matrix, as DeepGEMM takes them. Of the room only rows that there are get written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...plan.quantizer import INTERLEAVE
from .triton_quantizers import of_block

_TURN = tl.constexpr(INTERLEAVE)

_LAYOUT_CONFIGS = [
    triton.Config({"BLOCKS": blocks}, num_warps=warps)
    for blocks, warps in ((1, 1), (2, 1), (4, 1), (8, 2), (16, 4))
]
_ACTIVATION_CONFIGS = [
    triton.Config({"ROWS": rows, "PROGRAMS": programs}, num_warps=warps)
    for rows, programs, warps in ((1, 1, 1), (1, 4, 1), (1, 16, 1), (4, 1, 1), (4, 4, 1), (8, 4, 4))
]


@triton.autotune(_LAYOUT_CONFIGS, key=["choices", "k"])
@triton.jit
def _lay_out(
    x, expert_ids, places, ends, q, s, counts, slots, choices, k, room, experts,
    OF_TOKEN: tl.constexpr, EXPERTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A program has some blocks of a choice's row; ``EXPERTS`` is a power of two, not below ``experts``."""
    choice, part = tl.program_id(0), tl.program_id(1)
    if choice + part == 0:
        each = tl.arange(0, EXPERTS)
        end = tl.load(ends + each, mask=each < experts, other=0)
        before = tl.load(ends + each - 1, mask=(each > 0) & (each < experts), other=0)
        tl.store(counts + each, end - before, mask=each < experts)
    place = tl.load(places + choice)
    if place < 0:
        if part == 0:
            tl.store(slots + choice, -1)
    else:
        expert = tl.load(expert_ids + choice)
        row = place - tl.load(ends + expert - 1, mask=expert > 0, other=0)
        slot = expert * room + row
        if part == 0:
            tl.store(slots + choice, slot)
        blocks = part * BLOCKS + tl.arange(0, BLOCKS)
        columns = blocks[:, None] * 128 + tl.arange(0, 128)[None, :]
        token = (choice // OF_TOKEN).to(tl.int64)
        values = tl.load(x + token * k + columns, mask=columns < k, other=0.0).to(tl.float32)
        quantized, scale = of_block(values)
        tl.store(q + slot.to(tl.int64) * k + columns, quantized, mask=columns < k)
        of_expert = expert.to(tl.int64) * tl.cdiv(k, 128) * room
        tl.store(s + of_expert + blocks * room + row, scale, mask=blocks * 128 < k)


@triton.autotune(_ACTIVATION_CONFIGS, key=["expected", "inner"])
@triton.jit
def _activate(
    x, counts, q, s, inner, room, expected, ROWS: tl.constexpr, PROGRAMS: tl.constexpr
):  # fmt: skip
    """A block of a matrix has ``PROGRAMS``; ``expected`` is what configurations are tuned for."""
    block, expert = tl.program_id(0), tl.program_id(1).to(tl.int64)
    count = tl.load(counts + expert)
    columns = block * 128 + tl.arange(0, 128)
    gate = columns // _TURN * (2 * _TURN) + columns % _TURN
    for first in range(tl.program_id(2) * ROWS, count, PROGRAMS * ROWS):
        rows = first + tl.arange(0, ROWS)
        is_row = rows < count
        is_there = is_row[:, None] & (columns < inner)[None, :]
        places = (expert * room + rows)[:, None]
        source = x + places * (2 * inner) + gate[None, :]
        values = tl.load(source, mask=is_there, other=0.0).to(tl.float32)
        up = tl.load(source + _TURN, mask=is_there, other=0.0).to(tl.float32)
        quantized, scale = of_block(values * tl.sigmoid(values) * up)
        tl.store(q + places * inner + columns[None, :], quantized, mask=is_there)
        of_block_scales = (expert * tl.cdiv(inner, 128) + block) * room
        tl.store(s + of_block_scales + rows, scale, mask=is_row)


Operand = tuple[torch.Tensor, torch.Tensor]


def lay_out(
    x: torch.Tensor, expert_ids: torch.Tensor, places: torch.Tensor, ends: torch.Tensor, room: int
) -> tuple[Operand, torch.Tensor, torch.Tensor]:
    """Quantises the row of each choice into the matrix of its expert.

    Args:
        x: bf16 ``[T, K]``.
        expert_ids, places: int32 ``[T, k]``; places and ``ends`` as of :class:`cute_gemm.moe.Routing`.
        ends: int32 ``[E]``.
        room: rows of a matrix, as many as tokens at least.

    Returns:
        e4m3 ``[E, room, K]`` with scales ``[E, room, ceil(K/128)]``; int32 ``[E]``, how many rows each has;
        and int32 ``[T, k]``, the row of each choice in all matrices one behind the other, -1 where it has
        none.
    """
    experts, k = len(ends), x.shape[1]
    q, s = _matrices(experts, room, k, x.device)
    counts, slots = torch.empty_like(ends), torch.empty_like(places)
    _lay_out[lambda meta: (places.numel(), triton.cdiv(k, 128 * meta["BLOCKS"]))](
        x, expert_ids, places, ends, q, s, counts, slots, places.numel(), k, room, experts,
        places.shape[1], triton.next_power_of_2(experts),
    )  # fmt: skip
    return (q, s), counts, slots


def activate(x: torch.Tensor, counts: torch.Tensor, expected: int) -> Operand:
    """SwiGLU of each matrix's rows, of gate and up by turns, quantised.

    Args:
        x: bf16 ``[E, room, 2 I]``, contiguous.
        counts: int32 ``[E]``, how many rows each has.
        expected: about how many those are.

    Returns:
        e4m3 ``[E, room, I]`` with scales ``[E, room, ceil(I/128)]``.
    """
    experts, room, inner = x.shape[0], x.shape[1], x.shape[2] // 2
    q, s = _matrices(experts, room, inner, x.device)
    _activate[lambda meta: (triton.cdiv(inner, 128), experts, meta["PROGRAMS"])](
        x, counts, q, s, inner, room, expected
    )
    return q, s


def _matrices(experts: int, room: int, k: int, device: torch.device) -> Operand:
    q = torch.empty(experts, room, k, dtype=torch.float8_e4m3fn, device=device)
    return q, torch.empty(experts, triton.cdiv(k, 128), room, device=device).mT
