"""RMS normalisation, then 1x128."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contract import quantizing, sizes, words
from ..contract.quantizing import scale_blocks
from ..plan.quantizer import NormQuantizer
from ..runtime import quantizers
from . import formula, selection
from .road import Form, Request, Results, Shapes
from .selection import Selection


def rms_norm_quantize_1x128(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    power_of_two_scales: bool = False,
    m_major_scales: bool = False,
    rows: Tensor | None = None,
    valid_rows: Tensor | None = None,
    group_index: Tensor | None = None,
    offsets: Tensor | None = None,
    alignment: int = 1,
    out: Tensor | None = None,
    scales_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantise rows over the root of their mean square (Zhang and Sennrich, arXiv:1910.07467), 1x128.

    Args:
        x: ``[..., K]``, fp32, bf16 or fp16, any strides, any device. A kernel of its own does it in one pass,
            where `quantize_1x128` says and K is at most 16384 (8192 of fp32).
        weight: ``[K]`` of the dtype of ``x``: a factor for each column.
        eps: what is added to the mean of squares.
        residual: of the shape and dtype of ``x``: it is added to ``x``, and holds the sum afterwards,
            rounded to its dtype; that is what is normalised. Of rows that are not selected it stays as it is.
            With ``rows`` it is refused, as a row that is taken twice would be added twice.
        power_of_two_scales, m_major_scales, rows, valid_rows, group_index, offsets, alignment: as of
            `quantize_1x128`.
        out, scales_out: e4m3 ``[..., K]`` and fp32 ``[..., ceil(K/128)]`` to write; None to allocate.

    Returns:
        As `quantize_1x128` of the product in FP32. Sums of squares are added up in another order than torch
        adds them, but always in the same. A kernel multiplies elements by weights first: what FP32 does not
        hold of that product is infinite.

    Raises:
        TypeError, ValueError, RuntimeError: as `quantize_1x128`; TypeError and ValueError also where
            ``weight`` or ``residual`` does not fit.
    """
    asked = (
        x,
        weight,
        eps,
        residual,
        power_of_two_scales,
        m_major_scales,
        rows,
        valid_rows,
        group_index,
        offsets,
        alignment,
    )
    q, s = (_ALONE if residual is None else _OF_SUM).run(asked, (out, scales_out))
    return q, s


class _Asked(NamedTuple):
    """What a call asks for, as it came."""

    x: Tensor
    weight: Tensor
    eps: float
    residual: Tensor | None = None
    power_of_two_scales: bool = False
    m_major_scales: bool = False
    rows: Tensor | None = None
    valid_rows: Tensor | None = None
    group_index: Tensor | None = None
    offsets: Tensor | None = None
    alignment: int = 1


class _Normed(Form):
    merging = ("x", "residual")

    def request(self, asked: tuple[Any, ...]) -> Request | None:
        x, weight, eps, residual, power_of_two, m_major, rows, valid_rows, group_index, offsets, alignment = (
            asked
        )
        if type(power_of_two) is not bool or type(m_major) is not bool or type(alignment) is not int:
            return None
        if type(eps) is not float:
            if not isinstance(eps, (int, float)):
                return None
            eps = float(eps)
        numbers: tuple[Any, ...] = (eps,)
        kind, dtype = "all", None
        behind = () if residual is None else (residual,)
        if not (rows is None and valid_rows is None and group_index is None and offsets is None):
            kind, index = selection.quickly(rows, valid_rows, group_index, offsets)
            if kind == "gathered" and residual is not None:
                return None
            dtype, behind = index.dtype if kind == "gathered" else None, (*behind, index)
            if kind == "offsets":
                numbers = eps, alignment
        shape, device, is_alone = x.shape, x.get_device(), residual is None
        key = "normed", kind, x.dtype, shape[-1], len(shape), power_of_two, device, is_alone, dtype
        return key, (x, weight), behind, numbers

    def merges(self, asked: _Asked) -> bool:
        return asked.x.dim() not in (2, 3) and _selection(asked).kind == "all"

    def require_kinds(self, asked: _Asked) -> None:
        x, residual = asked.x, asked.residual
        flags = {"power_of_two_scales": asked.power_of_two_scales, "m_major_scales": asked.m_major_scales}
        quantizing.require_flags(**flags)
        quantizing.require_source("x", x, 1, "[..., K]: `x[None]` is a row of one element")
        if not isinstance(asked.eps, (int, float)):
            raise TypeError(f"eps is {words.kind(asked.eps)}; wanted a float")
        _require_like("weight", asked.weight, x, x.shape[-1:])
        if residual is None:
            return
        _require_like("residual", residual, x, x.shape)
        if asked.rows is not None:
            raise ValueError(
                "residual and rows are given, and a row that is taken twice would be added twice; wanted one "
                "of them: `x + residual` in place of x"
            )

    def require(self, asked: _Asked, has_memory: bool) -> dict[str, Tensor]:
        self.require_kinds(asked)
        x, residual, chosen = asked.x, asked.residual, _selection(asked)
        chosen.check(x, has_memory)
        read = {"x": x, "weight": asked.weight, **chosen.read}
        if residual is not None:
            quantizing.require_result("residual", residual, x.shape, x.dtype, read, has_memory)
            read["residual"] = residual
        return read

    def extents(self, asked: _Asked) -> tuple[int, ...]:
        return asked.x.shape if asked.rows is None else (*asked.rows.shape, asked.x.shape[-1])

    def shapes(self, extents: tuple[int, ...]) -> Shapes:
        return extents, (*extents[:-1], scale_blocks(extents[-1]))

    def config(self, asked: _Asked) -> NormQuantizer | None:
        x, chosen = asked.x, _selection(asked)
        return NormQuantizer.of(
            quantizers.NAMES[x.dtype],
            x.shape[-1],
            has_matrices=x.dim() == 3,
            has_residual=asked.residual is not None,
            rows=chosen.kind,
            index_dtype="int32" if chosen.index is None else quantizers.NAMES[chosen.index.dtype],
            is_power_of_two=asked.power_of_two_scales,
        )

    def in_torch(self, asked: _Asked, results: Results) -> None:
        q, s = results
        chosen, residual = _selection(asked), asked.residual
        if chosen.is_empty:
            return
        own, is_written = chosen.take(asked.x)
        if residual is not None:
            own = (own.float() + residual.float()).to(residual.dtype)
            residual.copy_(own if is_written is None else torch.where(is_written[..., None], own, residual))
        own = formula.rms_norm(own, asked.weight, asked.eps)
        formula.quantize_rows(own, q, s, asked.power_of_two_scales, is_written)


class _NormedSum(_Normed):
    changed = "residual"


def _selection(asked: _Asked) -> Selection:
    return Selection.of(asked.rows, asked.valid_rows, asked.group_index, asked.offsets, asked.alignment)


def _require_like(name: str, value: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    quantizing.require_source(name, value, 1, "that of x")
    if value.dtype is not x.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}; wanted that of x: `{name}.to({x.dtype})`")
    if sizes.differ(value.shape, shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted {tuple(shape)}")
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device}; wanted that of x: `{name}.to({str(x.device)!r})`")


_ALONE = _Normed("rms_norm_quantize_1x128", _Asked)
_OF_SUM = _NormedSum("add_rms_norm_quantize_1x128", _Asked)
