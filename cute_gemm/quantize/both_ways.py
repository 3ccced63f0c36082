"""1x128 along rows and along columns, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ..contract import quantizing
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
            multiple of 16, too.
        power_of_two_scales: as of `quantize_1x128`.
        m_major_scales: as of `quantize_1x128`, for the scales of both results: those of the second have K
            contiguous.
        out, scales_out: e4m3 ``[..., M, K]`` and fp32 ``[..., M, ceil(K/128)]`` to write; None to allocate.
        out_t, scales_out_t: e4m3 ``[..., K, M]`` and fp32 ``[..., K, ceil(M/128)]`` to write; None to
            allocate. Of the four any may be given.

    Returns:
        ``(q, s), (q_t, s_t)``, the same as `quantize_1x128(x)` and `quantize_1x128(x.mT)`: e4m3
        ``[..., M, K]`` and fp32 ``[..., M, ceil(K/128)]``, e4m3 ``[..., K, M]`` and fp32
        ``[..., K, ceil(M/128)]``, all contiguous unless asked otherwise; or what was given. No block reaches
        from one matrix into the next.

    Raises:
        TypeError, ValueError, RuntimeError: as by `quantize_1x128`; ValueError also where ``x`` has fewer
            than two dimensions.
    """
    asked = x, power_of_two_scales, m_major_scales
    q, s, q_t, s_t = _FORM.run(asked, (out, scales_out, out_t, scales_out_t))
    return (q, s), (q_t, s_t)


class _Asked(NamedTuple):
    """What a call asks for, as it came."""

    x: Tensor
    power_of_two_scales: bool = False
    m_major_scales: bool = False


class _BothWays(Form):
    names = ("out", "scales_out", "out_t", "scales_out_t")
    kept = 2
    merging = ("x",)

    def request(self, asked: tuple[Any, ...]) -> Request | None:
        x, power_of_two, m_major = asked
        if type(power_of_two) is not bool or type(m_major) is not bool:
            return None
        return ("both ways", x.dtype, x.dim(), power_of_two, x.get_device()), (x,), (), ()

    def merges(self, asked: _Asked) -> bool:
        return asked.x.dim() > 3

    def require_kinds(self, asked: _Asked) -> None:
        flags = {"power_of_two_scales": asked.power_of_two_scales, "m_major_scales": asked.m_major_scales}
        quantizing.require_flags(**flags)
        quantizing.require_source("x", asked.x, 2, "[..., M, K]: `x[None]` is a single row")

    def require(self, asked: _Asked, has_memory: bool) -> dict[str, Tensor]:
        self.require_kinds(asked)
        return {"x": asked.x}

    def extents(self, asked: _Asked) -> tuple[int, ...]:
        return asked.x.shape

    def shapes(self, extents: tuple[int, ...]) -> Shapes:
        *matrices, m, k = extents
        along_k = (*matrices, m, k), (*matrices, m, scale_blocks(k))
        along_m = (*matrices, k, m), (*matrices, k, scale_blocks(m))
        return *along_k, *along_m

    def config(self, asked: _Asked) -> BothWaysQuantizer:
        x = asked.x
        return BothWaysQuantizer(quantizers.NAMES[x.dtype], x.dim() == 3, asked.power_of_two_scales)

    def in_torch(self, asked: _Asked, results: Results) -> None:
        q, s, q_t, s_t = results
        formula.quantize_rows(asked.x, q, s, asked.power_of_two_scales)
        formula.quantize_rows(asked.x.mT, q_t, s_t, asked.power_of_two_scales)


_FORM = _BothWays("quantize_both_ways", _Asked)
