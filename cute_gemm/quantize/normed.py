"""RMS normalisation, then 1x128."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import ambient, quantizing
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.quantizer import NormQuantizer
from ..runtime import hardware, quantizers
from . import formula


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
    quantizing.require_flags(power_of_two_scales=power_of_two_scales, m_major_scales=m_major_scales)
    quantizing.require_source("x", x, 2, "[M, K]")
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted [M, K]: `x.flatten(0, -2)`")
    shape, scale_shape = tuple(x.shape), (x.shape[0], scale_blocks(x.shape[1]))
    read = {"x": x, "weight": weight}
    _require_like("weight", weight, x, x.shape[1:])
    if residual is not None:
        _require_like("residual", residual, x, x.shape)
        quantizing.require_result("residual", residual, shape, x.dtype, **read)
        read["residual"] = residual
    quantizing.require_result("out", out, shape, E4M3, **read)
    if out is not None:
        read["out"] = out
    quantizing.require_result("scales_out", scales_out, scale_shape, SCALE_DTYPE, **read)
    q = x.new_empty(shape, dtype=E4M3) if out is None else out
    s = scales_out
    if s is None:
        strides = quantizers.strides_of_scales(scale_shape, m_major_scales)
        s = x.new_empty_strided(scale_shape, strides, dtype=SCALE_DTYPE)
    if not _launch(x, weight, eps, residual, q, s, power_of_two_scales):
        with ambient.no_autocast(x.device):
            if residual is not None:
                x = residual.copy_(x.float() + residual.float())
            formula.quantize_rows(formula.rms_norm(x, weight, eps), q, s, power_of_two_scales)
    quantizers.written(residual, out, scales_out)
    return q, s


def _require_like(name: str, value: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    quantizing.require_source(name, value, 1, str(tuple(shape)))
    if value.dtype is not x.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}; wanted that of x: `{name}.to({x.dtype})`")
    if value.shape != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; wanted {tuple(shape)}")
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device}; wanted that of x: `{name}.to({str(x.device)!r})`")


def _launch(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None,
    q: Tensor,
    s: Tensor,
    power_of_two: bool,
) -> bool:
    """On a Hopper GPU, if a kernel takes such tensors."""
    if torch.compiler.is_compiling() or not x.is_cuda or not x.numel():
        return False
    device = x.get_device()
    if not hardware.is_hopper(device):
        return False
    dtype = str(x.dtype).removeprefix("torch.")
    config = NormQuantizer.of(dtype, x.shape[1], residual is not None, power_of_two)
    if config is None:
        return False
    behind = () if residual is None else (residual,)
    return quantizers.launch((config, device), config, device, (x, weight, q, s, eps), behind)
