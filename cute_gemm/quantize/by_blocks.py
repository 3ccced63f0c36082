"""128x128: a scale for each block of 128 rows and columns of a weight."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ..contract import quantizing
from ..contract.quantizing import scale_blocks
from ..plan.quantizer import BlockQuantizer
from ..runtime import quantizers
from . import formula
from .road import Form, Request, Results, Shapes


def quantize_128x128(
    w: Tensor,
    *,
    power_of_two_scales: bool = False,
    out: Tensor | None = None,
    scales_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantise matrices to e4m3 with one scale per block of 128 rows and 128 columns.

    Args:
        w: ``[..., N, K]``, such as one matrix ``[N, K]`` or one for each group ``[G, N, K]``; fp32, bf16 or
            fp16, any strides, any device; neither N nor K need be a multiple of 128. A parameter is to be
            detached, `w.detach()`. A kernel of its own does it where `quantize_1x128` says, and where N is
            contiguous and a multiple of 16, as of ``weight.mT``: the operand of a product that sums over N.
        power_of_two_scales: round every scale up to a power of two (up, so that nothing saturates).
        out: e4m3 ``[..., N, K]`` to write; None to allocate.
        scales_out: fp32 ``[..., ceil(N/128), ceil(K/128)]`` to write, of any strides; None to allocate.

    Returns:
        ``q``: e4m3 ``[..., N, K]``, contiguous, and ``s``: fp32 ``[..., ceil(N/128), ceil(K/128)]``,
        contiguous; or ``out`` and ``scales_out``. No block reaches from one matrix into the next.
        Scales, zero blocks, tiny values, NaN and infinities are treated as by `quantize_1x128`.

    Raises:
        TypeError, ValueError, RuntimeError: as by `quantize_1x128`; ValueError also where ``w`` has fewer
            than two dimensions.
    """
    q, s = _FORM.run((w, power_of_two_scales), (out, scales_out))
    return q, s


class _Asked(NamedTuple):
    """What a call asks for, as it came."""

    w: Tensor
    power_of_two_scales: bool = False


class _Blocks(Form):
    kept = 2
    merging = ("w",)

    def request(self, asked: tuple[Any, ...]) -> Request | None:
        w, power_of_two = asked
        if type(power_of_two) is not bool:
            return None
        if _is_transposed(w):
            return ("128x128 transposed", w.dtype, w.dim(), power_of_two, w.get_device()), (w.mT,), (), ()
        return ("128x128", w.dtype, w.dim(), power_of_two, w.get_device()), (w,), (), ()

    def merges(self, asked: _Asked) -> bool:
        return asked.w.dim() > 3

    def require_kinds(self, asked: _Asked) -> None:
        quantizing.require_flags(power_of_two_scales=asked.power_of_two_scales)
        quantizing.require_source("w", asked.w, 2, "[..., N, K]: `w[None]` is a single row")

    def require(self, asked: _Asked, has_memory: bool) -> dict[str, Tensor]:
        self.require_kinds(asked)
        return {"w": asked.w}

    def extents(self, asked: _Asked) -> tuple[int, ...]:
        return asked.w.shape

    def shapes(self, extents: tuple[int, ...]) -> Shapes:
        *groups, n, k = extents
        return extents, (*groups, scale_blocks(n), scale_blocks(k))

    def config(self, asked: _Asked) -> BlockQuantizer:
        w = asked.w
        features = w.dim() == 3, asked.power_of_two_scales, _is_transposed(w)
        return BlockQuantizer(quantizers.NAMES[w.dtype], *features)

    def in_torch(self, asked: _Asked, results: Results) -> None:
        q, s = results
        formula.quantize_blocks(asked.w, q, s, asked.power_of_two_scales)


def _is_transposed(w: Tensor) -> bool:
    """Whether it is rows of its transpose that are contiguous."""
    return w.stride(-1) != 1 and w.stride(-2) == 1


_FORM = _Blocks("quantize_128x128", _Asked)
