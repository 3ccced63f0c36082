"""128x128: a scale for each block of 128 rows and columns of a weight."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ..contract import ambient, quantizing
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.quantizer import BlockQuantizer
from ..runtime import quantizers
from . import formula, library


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
            detached, `w.detach()`. A kernel of its own does it where `quantize_1x128` says.
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
    if library.is_needed(w):
        return _as_op(w, power_of_two_scales, out, scales_out)
    made = _launched(w, power_of_two_scales, out, scales_out)
    if made is not None:
        return made
    q, s = _results(w, power_of_two_scales, out, scales_out)
    if not _launch(w, q, s, power_of_two_scales):
        with torch.inference_mode(), ambient.no_autocast(w.device):
            formula.quantize_blocks(w, q, s, power_of_two_scales)
    quantizers.written(out, scales_out)
    return q, s


def _results(
    w: Tensor,
    power_of_two_scales: bool,
    out: Tensor | None,
    scales_out: Tensor | None,
    has_memory: bool = True,
) -> tuple[Tensor, Tensor]:
    """Where to write, for a call that obeys all rules."""
    _require_source(w, power_of_two_scales)
    scale_shape = (*w.shape[:-2], scale_blocks(w.shape[-2]), scale_blocks(w.shape[-1]))
    quantizing.require_results(out, scales_out, w.shape, scale_shape, {"w": w}, has_memory)
    q = w.new_empty(w.shape, dtype=E4M3) if out is None else out
    return q, w.new_empty(scale_shape, dtype=SCALE_DTYPE) if scales_out is None else scales_out


def _require_source(w: Tensor, power_of_two_scales: bool) -> None:
    quantizing.require_flags(power_of_two_scales=power_of_two_scales)
    quantizing.require_source("w", w, 2, "[..., N, K]: `w[None]` is a single row")


def _launch(w: Tensor, q: Tensor, s: Tensor, power_of_two: bool) -> bool:
    """On a Hopper GPU, if a kernel takes such tensors."""
    if w.dim() > 3 and all(each.is_contiguous() for each in (w, q, s)):
        w, q, s = (each.flatten(0, -3) for each in (w, q, s))
    if w.dim() not in (2, 3) or not quantizers.may_launch(w, (q,), (s,)):
        return False
    config = BlockQuantizer(quantizers.NAMES[w.dtype], w.dim() == 3, power_of_two)
    return quantizers.launch(_key(w, power_of_two), config, w.get_device(), (w, q, s))


def _key(w: Tensor, power_of_two: bool) -> Hashable:
    """What a kernel, and the device that it was loaded to, depend on."""
    return "128x128", w.dtype, w.dim(), power_of_two, w.get_device()


def _launched(w: Any, power_of_two: Any, out: Any, scales_out: Any) -> tuple[Tensor, Tensor] | None:
    """The fast path, whatever the arguments are: the results, or None where nothing was done."""
    try:
        kernel = quantizers.known(_key(w, power_of_two))
        if kernel is None or type(power_of_two) is not bool or not quantizers.are_plain(w, out, scales_out):
            return None
        # TVM FFI would raise, which takes long.
        if w.stride(-1) != 1 or (out is not None and out.stride(-1) != 1):
            return None
        shape = tuple(w.shape)
        scale_shape = (*shape[:-2], scale_blocks(shape[-2]), scale_blocks(shape[-1]))
        q = quantizers.fresh(shape, quantizers.strides_of_scales(shape, False), E4M3) if out is None else out
        s = (
            quantizers.fresh(scale_shape, quantizers.strides_of_scales(scale_shape, False), SCALE_DTYPE)
            if scales_out is None
            else scales_out
        )
    # Of what is no tensor, or has too few dimensions, or no hash.
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    if not quantizers.launch_known(kernel, (w, q, s)):
        return None
    quantizers.written(out, scales_out)
    return q, s


def _as_op(
    w: Tensor, power_of_two_scales: bool, out: Tensor | None, scales_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of what is traced, or stands for tensors that will be there."""
    _require_source(w, power_of_two_scales)
    if out is None and scales_out is None:
        q, s = _returning(w, power_of_two_scales=power_of_two_scales)
        return q, s
    q, s = _results(w, power_of_two_scales, out, scales_out, has_memory=False)
    _writing(w, q, s, power_of_two_scales=power_of_two_scales)
    return q, s


def _describe(
    w: Tensor,
    *,
    power_of_two_scales: bool = False,
    out: Tensor | None = None,
    scales_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What of fake tensors is known before."""
    return _results(w, power_of_two_scales, out, scales_out, has_memory=False)


_returning = library.register("quantize_128x128", quantize_128x128, _describe)
_writing = library.register(
    "quantize_128x128_out", library.writing(quantize_128x128), library.writing(_describe)
)
