"""1x128 along rows and along columns, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import ambient, quantizing
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.quantizer import BothWaysQuantizer
from ..runtime import quantizers
from . import formula, library


def quantize_both_ways(
    x: Tensor, *, power_of_two_scales: bool = False
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Quantise a matrix 1x128 along K and, transposed, along M: what training needs of activations.

    A forward product sums over K, and a weight's gradient over tokens M.

    Args:
        x: ``[M, K]``, fp32, bf16 or fp16, any strides, any device. A kernel of its own reads it once, where
            `quantize_1x128` says and M is a multiple of 16, too.
        power_of_two_scales: as of `quantize_1x128`.

    Returns:
        ``(q, s), (q_t, s_t)``, the same as `quantize_1x128(x)` and `quantize_1x128(x.T)`: e4m3 ``[M, K]`` and
        fp32 ``[M, ceil(K/128)]``, e4m3 ``[K, M]`` and fp32 ``[K, ceil(M/128)]``, all contiguous.

    Raises:
        TypeError, ValueError, RuntimeError: as by `quantize_1x128`; ValueError also where ``x`` has not two
            dimensions.
    """
    if library.is_needed(x):
        _require_source(x, power_of_two_scales)
        made = _returning(x, power_of_two_scales=power_of_two_scales)
        return (made[0], made[1]), (made[2], made[3])
    q, s, q_t, s_t = _results(x, power_of_two_scales=power_of_two_scales)
    if not _launch(x, (q, s, q_t, s_t), power_of_two_scales):
        with torch.inference_mode(), ambient.no_autocast(x.device):
            formula.quantize_rows(x, q, s, power_of_two_scales)
            formula.quantize_rows(x.T, q_t, s_t, power_of_two_scales)
    return (q, s), (q_t, s_t)


def _results(x: Tensor, *, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where to write, for a call that obeys all rules."""
    _require_source(x, power_of_two_scales)
    m, k = x.shape
    return (
        x.new_empty(m, k, dtype=E4M3),
        x.new_empty(m, scale_blocks(k), dtype=SCALE_DTYPE),
        x.new_empty(k, m, dtype=E4M3),
        x.new_empty(k, scale_blocks(m), dtype=SCALE_DTYPE),
    )


def _require_source(x: Tensor, power_of_two_scales: bool) -> None:
    quantizing.require_flags(power_of_two_scales=power_of_two_scales)
    quantizing.require_matrix("x", x)


def _launch(x: Tensor, results: tuple[Tensor, ...], power_of_two: bool) -> bool:
    """On a Hopper GPU, if a kernel takes such tensors."""
    if not quantizers.may_launch(x, results[::2], results[1::2]):
        return False
    device = x.get_device()
    config = BothWaysQuantizer(quantizers.NAMES[x.dtype], power_of_two)
    return quantizers.launch((config, device), config, device, (x, *results))


def _compute(x: Tensor, *, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the op does."""
    along_k, along_m = quantize_both_ways(x, power_of_two_scales=power_of_two_scales)
    return (*along_k, *along_m)


_returning = library.register("quantize_both_ways", _compute, _results)
