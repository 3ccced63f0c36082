"""What Triton kernels do around the products of an expert layer, in torch: on a CPU, and to compare with."""

from __future__ import annotations

import torch
from torch import Tensor

import cute_gemm
from cute_gemm.measure.cases import in_layout

Operand = tuple[Tensor, Tensor]


def add_up(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """As of `triton_sums`."""
    chosen = rows[places.clamp(min=0).long()].float() * weights[..., None]
    # What is no row may be NaN.
    return torch.where((places >= 0)[..., None], chosen, 0.0).sum(1).to(rows.dtype)


def lay_out(
    x: Tensor, expert_ids: Tensor, places: Tensor, ends: Tensor, room: int
) -> tuple[Operand, Tensor, Tensor]:
    """As of `triton_masked`. Rows that there are not are NaN."""
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    is_here = places >= 0
    expert = torch.where(is_here, expert_ids, 0).long()
    slots = torch.where(is_here, expert * room + places - (ends - counts)[expert], -1).int()
    tokens = torch.full((len(ends) * room,), -1, dtype=torch.int32)
    tokens[slots[is_here].long()] = is_here.nonzero()[:, 0].int()
    q, s = poisoned(len(ends), room, x.shape[1])
    flat = s.flatten(0, 1).contiguous()
    cute_gemm.quantize_1x128(x, rows=tokens, out=q.flatten(0, 1), scales_out=flat)
    return (q, in_layout(flat.view(s.shape), "m_major")), counts, slots


def activate(x: Tensor, counts: Tensor, expected: int) -> Operand:
    """The same."""
    return cute_gemm.swiglu_quantize_1x128(x, interleaved=True, valid_rows=counts, m_major_scales=True)


def poisoned(experts: int, room: int, k: int, device: object = None) -> Operand:
    """Where to write e4m3 and M-major scales: NaN."""
    q = torch.full((experts, room, k), 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)
    return q, torch.full((experts, -(-k // 128), room), torch.nan).mT
