"""1x128 along rows and along columns, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..column_groups import are_grouped, blocks, padded_columns, rows_of_columns, scale_columns
from ..contract import k_grouped, memory, quantizing
from ..contract.quantizing import scale_blocks
from ..plan.quantizer import BothWaysQuantizer
from ..runtime import quantizers
from . import formula
from .road import Form, Request, Results, Shapes


def quantize_both_ways(
    x: Tensor,
    *,
    power_of_two_scales: bool = False,
    m_major_scales: bool = False,
    offsets: Tensor | None = None,
    ends: Tensor | None = None,
    out: Tensor | None = None,
    scales_out: Tensor | None = None,
    out_t: Tensor | None = None,
    scales_out_t: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Quantise matrices 1x128 along K and, transposed, along M: what training needs of activations.

    A forward product sums over K, and a weight's gradient over tokens M.

    Args:
        x: ``[..., M, K]``, such as one matrix ``[M, K]`` or several ``[G, M, K]``; fp32, bf16 or fp16, any
            strides, any device. A kernel of its own reads it once, where `quantize_1x128` says and M is a
            multiple of 16, too, or ``ends`` is given.
        power_of_two_scales: as of `quantize_1x128`.
        m_major_scales: as of `quantize_1x128`, for the scales of both results: those of the second have K
            contiguous.
        offsets: int32 ``[G + 1]``, ascending multiples of 16: which columns of ``q_t`` are each group's, from
            0 to M, or with ``ends`` to L. ``x`` has two dimensions then. None for blocks at multiples of 128.
        ends: int32 ``[G]``, ascending, 0 to M: the row behind each group's last, where groups of any number
            of rows follow each other from row 0. What ``offsets`` give a group more than it has rows becomes
            zeros. ``offsets`` that round each group up to a multiple of 16 are
            ``pad(((sizes + 15) // 16 * 16).cumsum(0), (1, 0)).int()``. None where rows are columns: group g
            has rows ``offsets[g]`` to ``offsets[g + 1]``.
        out, scales_out: e4m3 ``[..., M, K]`` and fp32 ``[..., M, ceil(K/128)]`` to write; None to allocate.
        out_t, scales_out_t: e4m3 ``[..., K, M]`` and fp32 ``[..., K, ceil(M/128)]`` to write; None to
            allocate. Of the four any may be given. With ``offsets``, ``scales_out_t`` has ``M // 128 + G``
            columns; with ``ends``, ``out_t`` has L and ``scales_out_t`` ``L // 128 + G``, where
            ``L = 16 * (M // 16 + G)``.

    Returns:
        ``(q, s), (q_t, s_t)``, the same as `quantize_1x128(x)` and `quantize_1x128(x.mT)`: e4m3
        ``[..., M, K]`` and fp32 ``[..., M, ceil(K/128)]``, e4m3 ``[..., K, M]`` and fp32
        ``[..., K, ceil(M/128)]``, all contiguous unless asked otherwise; or what was given. No block reaches
        from one matrix into the next. With ``offsets``, ``s_t`` is fp32 ``[K, M // 128 + G]``: block j of
        group g has column ``offsets[g] // 128 + g + j``. With ``ends``, ``q_t`` is ``[K, L]`` and ``s_t``
        ``[K, L // 128 + G]``. Columns that no block has are not written, nor are rows of no group and columns
        of ``q_t`` of none.

    Raises:
        TypeError, ValueError, RuntimeError: as by `quantize_1x128`; ValueError also where ``x`` has fewer
            than two dimensions, or with ``offsets`` another number, or ``ends`` come without them.
    """
    asked = x, power_of_two_scales, m_major_scales, offsets, ends
    q, s, q_t, s_t = _FORM.run(asked, (out, scales_out, out_t, scales_out_t))
    return (q, s), (q_t, s_t)


class _Asked(NamedTuple):
    """What a call asks for, as it came."""

    x: Tensor
    power_of_two_scales: bool = False
    m_major_scales: bool = False
    offsets: Tensor | None = None
    ends: Tensor | None = None


class _BothWays(Form):
    names = ("out", "scales_out", "out_t", "scales_out_t")
    kept = 2
    merging = ("x",)

    def request(self, asked: tuple[Any, ...]) -> Request | None:
        x, power_of_two, m_major, offsets, ends = asked
        if type(power_of_two) is not bool or type(m_major) is not bool:
            return None
        if offsets is None:
            if ends is not None:
                return None
            return ("both ways", x.dtype, x.dim(), power_of_two, x.get_device()), (x,), (), ()
        if ends is not None:
            key = "both ways by ends", x.dtype, x.dim(), power_of_two, x.get_device()
            return key, (x,), (offsets, ends), ()
        return ("both ways by groups", x.dtype, x.dim(), power_of_two, x.get_device()), (x,), (offsets,), ()

    def merges(self, asked: _Asked) -> bool:
        return asked.x.dim() > 3 and asked.offsets is None

    def require_kinds(self, asked: _Asked) -> None:
        flags = {"power_of_two_scales": asked.power_of_two_scales, "m_major_scales": asked.m_major_scales}
        quantizing.require_flags(**flags)
        quantizing.require_source("x", asked.x, 2, "[..., M, K]: `x[None]` is a single row")

    def require(self, asked: _Asked, has_memory: bool) -> dict[str, Tensor]:
        self.require_kinds(asked)
        x, offsets, ends = asked.x, asked.offsets, asked.ends
        if offsets is None:
            if ends is not None:
                raise ValueError(
                    "ends is given, but offsets is None; wanted where each group's columns begin"
                )
            return {"x": x}
        if x.dim() != 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; wanted [M, K], as offsets is given")
        k_grouped.require_offsets(offsets, has_memory=has_memory)
        read = {"x": x, "offsets": offsets}
        if ends is not None:
            read["ends"] = k_grouped.require_ends(ends, offsets.shape[0] - 1, has_memory=has_memory)
        memory.require_one_device(**read)
        return read

    def extents(self, asked: _Asked) -> tuple[int, ...]:
        """Those of what is quantised, columns of what is transposed, and of its scales."""
        x, offsets = asked.x, asked.offsets
        m = x.shape[-2]
        if offsets is None:
            return *x.shape, m, scale_blocks(m)
        groups = offsets.shape[0] - 1
        columns = m if asked.ends is None else padded_columns(m, groups)
        return *x.shape, columns, scale_columns(columns, groups)

    def shapes(self, extents: tuple[int, ...]) -> Shapes:
        *matrices, m, k, columns, m_blocks = extents
        along_k = (*matrices, m, k), (*matrices, m, scale_blocks(k))
        along_m = (*matrices, k, columns), (*matrices, k, m_blocks)
        return *along_k, *along_m

    def config(self, asked: _Asked) -> BothWaysQuantizer:
        x = asked.x
        rows = "all" if asked.offsets is None else "offsets" if asked.ends is None else "ends"
        return BothWaysQuantizer(quantizers.NAMES[x.dtype], x.dim() == 3, asked.power_of_two_scales, rows)

    def in_torch(self, asked: _Asked, results: Results) -> None:
        q, s, q_t, s_t = results
        x, power_of_two, offsets, ends = asked.x, asked.power_of_two_scales, asked.offsets, asked.ends
        m = x.shape[-2]
        if offsets is not None and ends is not None:
            columns = q_t.shape[1]
            rows, is_ours = rows_of_columns(offsets, ends, m), are_grouped(offsets, columns)
            is_written = torch.arange(m, device=x.device) < ends.max()
            formula.quantize_rows(x, q, s, power_of_two, is_written)
            formula.quantize_padded_groups(x, q_t, s_t, power_of_two, blocks(offsets, columns), rows, is_ours)
            return
        if offsets is not None:
            formula.quantize_rows(x, q, s, power_of_two, are_grouped(offsets, m))
            formula.quantize_groups(x.mT, q_t, s_t, power_of_two, blocks(offsets, m))
            return
        formula.quantize_rows(x, q, s, power_of_two)
        formula.quantize_rows(x.mT, q_t, s_t, power_of_two)


_FORM = _BothWays("quantize_both_ways", _Asked)
