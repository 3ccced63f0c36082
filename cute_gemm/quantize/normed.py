"""RMS normalisation, then 1x128."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import ambient, quantizing, sizes, words
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.quantizer import NormQuantizer
from ..runtime import quantizers
from . import formula, library


def rms_norm_quantize_1x128(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    power_of_two_scales: bool = False,
    m_major_scales: bool = False,
    out: Tensor | None = None,
    scales_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantise rows over the root of their mean square (Zhang and Sennrich, arXiv:1910.07467), 1x128.

    Args:
        x: ``[M, K]``, fp32, bf16 or fp16, any strides, any device. A kernel of its own does it in one pass,
            where `quantize_1x128` says and K is at most 16384 (8192 of fp32).
        weight: ``[K]`` of the dtype of ``x``: a factor for each column.
        eps: what is added to the mean of squares.
        residual: ``[M, K]`` of the dtype of ``x``: it is added to ``x``, and holds the sum afterwards,
            rounded to its dtype; that is what is normalised.
        power_of_two_scales, m_major_scales: as of `quantize_1x128`.
        out, scales_out: e4m3 ``[M, K]`` and fp32 ``[M, ceil(K/128)]`` to write; None to allocate.

    Returns:
        As `quantize_1x128` of the product in FP32. Sums of squares are added up in another order than torch
        adds them, but always in the same.

    Raises:
        TypeError, ValueError, RuntimeError: as `quantize_1x128`; TypeError and ValueError also where
            ``weight`` or ``residual`` does not fit.
    """
    asked = _Asked(x, weight, eps, residual, power_of_two_scales, m_major_scales)
    if library.is_needed(x):
        return _as_op(asked, out, scales_out)
    q, s = _results(asked, out, scales_out)
    if not _launch(asked, q, s):
        with torch.inference_mode(), ambient.no_autocast(x.device):
            if residual is not None:
                x = residual.copy_(x.float() + residual.float())
            formula.quantize_rows(formula.rms_norm(x, weight, eps), q, s, power_of_two_scales)
    quantizers.written(residual, out, scales_out)
    return q, s


@dataclass(frozen=True)
class _Asked:
    """What a call asks for."""

    x: Tensor
    weight: Tensor
    eps: float
    residual: Tensor | None
    power_of_two_scales: bool
    m_major_scales: bool

    @property
    def named(self) -> dict[str, bool]:
        return {"power_of_two_scales": self.power_of_two_scales, "m_major_scales": self.m_major_scales}


def _results(
    asked: _Asked, out: Tensor | None, scales_out: Tensor | None, has_memory: bool = True
) -> tuple[Tensor, Tensor]:
    """Where to write, for a call that obeys all rules."""
    _require_sources(asked)
    x, residual = asked.x, asked.residual
    read = {"x": x, "weight": asked.weight}
    if residual is not None:
        quantizing.require_result("residual", residual, x.shape, x.dtype, read, has_memory)
        read["residual"] = residual
    scale_shape = (x.shape[0], scale_blocks(x.shape[1]))
    quantizing.require_results(out, scales_out, x.shape, scale_shape, read, has_memory)
    q = x.new_empty(x.shape, dtype=E4M3) if out is None else out
    if scales_out is not None:
        return q, scales_out
    strides = quantizers.strides_of_scales(scale_shape, asked.m_major_scales)
    return q, x.new_empty_strided(scale_shape, strides, dtype=SCALE_DTYPE)


def _require_sources(asked: _Asked) -> None:
    x = asked.x
    quantizing.require_flags(**asked.named)
    quantizing.require_matrix("x", x)
    if not isinstance(asked.eps, (int, float)):
        raise TypeError(f"eps is {words.kind(asked.eps)}; wanted a float")
    _require_like("weight", asked.weight, x, x.shape[1:])
    if asked.residual is not None:
        _require_like("residual", asked.residual, x, x.shape)


def _require_like(name: str, value: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    quantizing.require_source(name, value, 1, "that of x")
    if value.dtype is not x.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}; wanted that of x: `{name}.to({x.dtype})`")
    if sizes.differ(value.shape, shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted {tuple(shape)}")
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device}; wanted that of x: `{name}.to({str(x.device)!r})`")


def _launch(asked: _Asked, q: Tensor, s: Tensor) -> bool:
    """On a Hopper GPU, if a kernel takes such tensors."""
    x, residual = asked.x, asked.residual
    sources = (x, asked.weight) if residual is None else (x, asked.weight, residual)
    if not all(quantizers.may_launch(each, (q,), (s,)) for each in sources):
        return False
    device = x.get_device()
    config = NormQuantizer.of(
        quantizers.NAMES[x.dtype], x.shape[1], residual is not None, asked.power_of_two_scales
    )
    if config is None:
        return False
    arguments = x, asked.weight, q, s, float(asked.eps)
    behind = () if residual is None else (residual,)
    return quantizers.launch((config, device), config, device, arguments, behind)


def _as_op(asked: _Asked, out: Tensor | None, scales_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of what is traced, or stands for tensors that will be there."""
    _require_sources(asked)
    read = [asked.x, asked.weight, asked.eps]
    kind = _ROOT
    if asked.residual is not None:
        read.append(asked.residual)
        kind = _OF_SUM
    if out is None and scales_out is None:
        q, s = _returning[kind](*read, **asked.named)
        return q, s
    q, s = _results(asked, out, scales_out, has_memory=False)
    _writing[kind](*read, q, s, **asked.named)
    return q, s


def _compute(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, **named: Any
) -> tuple[Tensor, Tensor]:
    """What the ops do."""
    return rms_norm_quantize_1x128(x, weight, eps, residual=residual, **named)


def _describe(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
    power_of_two_scales: bool = False,
    m_major_scales: bool = False,
    out: Tensor | None = None,
    scales_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What of fake tensors is known before."""
    asked = _Asked(x, weight, eps, residual, power_of_two_scales, m_major_scales)
    return _results(asked, out, scales_out, has_memory=False)


_ROOT, _OF_SUM = "rms_norm_quantize_1x128", "add_rms_norm_quantize_1x128"
_returning = {name: library.register(name, _compute, _describe) for name in (_ROOT, _OF_SUM)}
_writing = {
    name: library.register(f"{name}_out", library.writing(_compute), library.writing(_describe))
    for name in (_ROOT, _OF_SUM)
}
