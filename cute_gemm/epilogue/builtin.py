"""Epilogues that layers ask for."""

from __future__ import annotations

import math as numbers
from typing import Any

from torch import Tensor

from ..contract import quantizing, words
from ..plan.quantizer import INTERLEAVE
from . import math
from .chain import Epilogue, QuantizingEpilogue, function, gated
from .operands import before, like_out, per_column, per_group_column, per_row, scalar


def bias(value: Tensor) -> Epilogue:
    """Adds a number to each column.

    Args:
        value: fp32, bf16 or fp16 ``[N]``, or ``[G, N]`` for each of G groups.
    """
    is_grouped = isinstance(value, Tensor) and value.dim() == 2
    return _add_bias(per_group_column(value) if is_grouped else per_column(value))


def alpha(value: Tensor | float) -> Epilogue:
    """Multiplies by a number.

    Args:
        value: a float; or fp32, bf16 or fp16 ``[1]`` on the device, which the host does not wait for.

    Raises:
        TypeError: it is neither.
    """
    return _times_alpha(scalar(value))


def row_weights(value: Tensor) -> Epilogue:
    """Multiplies each row by a number, such as a weight of routing.

    Args:
        value: fp32, bf16 or fp16 ``[M]``, or ``[G, capacity]`` of the masked layout.
    """
    return _times_weights(per_row(value))


def residual(value: Tensor, beta: float = 1.0) -> Epilogue:
    """Adds ``beta`` times a tensor.

    Args:
        value: fp32, bf16 or fp16, of D's shape; it may be ``out``.
        beta: an argument of the kernel: another number compiles nothing.
    """
    return _add_times(like_out(value), scalar(beta))


def accumulate(beta: float = 1.0) -> Epilogue:
    """Adds ``beta`` times what ``out`` held before; the call needs an ``out``."""
    return _add_times(before(), scalar(beta))


def relu() -> Epilogue:
    """max(x, 0); NaN stays."""
    return _relu()


def silu() -> Epilogue:
    """x times its logistic function; in a kernel to about 2^-12 times ``x``, by one slow instruction."""
    return _silu()


def gelu(approximate: str = "none") -> Epilogue:
    """x times the normal distribution function of x (Hendrycks and Gimpel, arXiv:1606.08415).

    Args:
        approximate: ``"none"``, or ``"tanh"``, as of :class:`torch.nn.GELU`.

    Raises:
        ValueError: it is something else.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; wanted 'none' or 'tanh'")
    return _gelu() if approximate == "none" else _gelu_by_tanh()


def bias_relu(value: Tensor) -> Epilogue:
    """:func:`bias`, then :func:`relu`."""
    return bias(value).then(relu())


def bias_gelu(value: Tensor, approximate: str = "none") -> Epilogue:
    """:func:`bias`, then :func:`gelu`."""
    return bias(value).then(gelu(approximate))


def bias_silu(value: Tensor) -> Epilogue:
    """:func:`bias`, then :func:`silu`."""
    return bias(value).then(silu())


def swiglu(limit: float | None = None, *, turn: int = INTERLEAVE) -> Epilogue:
    """``silu(gate) * up`` (Shazeer, arXiv:2002.05202), of columns that hold eight of either by turns.

    :func:`cute_gemm.interleave_gate_up` lays weights out so. The result has half as many columns.

    Args:
        limit: gates are at most that, and what they open for is between it and its negative; NaN stays. None
            for no limit.
        turn: columns of either at a turn, 8, or 128 as weights have them that were quantised before. With 128
            :func:`quantize_1x128` must follow.

    Raises:
        TypeError: ``limit`` is no number.
        ValueError: it is not above 0; or ``turn`` is another number.
    """
    if limit is None:
        return _swiglu(turn=turn)
    if not isinstance(limit, (int, float)) or isinstance(limit, bool):
        raise TypeError(f"limit is {words.kind(limit)}; wanted a number, or None")
    if not limit > 0:
        raise ValueError(f"limit is {limit}; wanted a number above 0, or None")
    return _clamped_swiglu(scalar(limit), turn=turn)


def quantize_1x128(*, power_of_two_scales: bool = False, m_major_scales: bool = False) -> QuantizingEpilogue:
    """Quantises what comes out, as :func:`cute_gemm.quantize_1x128` quantises the same values in FP32.

    The operation then returns a pair: e4m3 of D's shape, and FP32 scales ``[..., ceil(columns / 128)]``. Its
    ``out`` is a pair, too, of which either may be None. Nothing follows it.

    Args:
        power_of_two_scales: round every scale up to a power of two.
        m_major_scales: lay allocated scales out as :func:`cute_gemm.m_major` does, which TMA can load.

    Raises:
        TypeError: one of them is no bool.
    """
    quantizing.require_flags(power_of_two_scales=power_of_two_scales, m_major_scales=m_major_scales)
    return QuantizingEpilogue((), power_of_two_scales, m_major_scales)


@function
def _add_bias(x: Any, bias: Any) -> Any:
    return x + bias


@function
def _times_alpha(x: Any, alpha: Any) -> Any:
    return x * alpha


@function
def _times_weights(x: Any, row_weights: Any) -> Any:
    return x * row_weights


@function
def _add_times(x: Any, residual: Any, beta: Any) -> Any:
    return x + beta * residual


@function
def _relu(x: Any) -> Any:
    return math.maximum(x, 0.0)


@function
def _silu(x: Any) -> Any:
    # By `math.sigmoid` it would be two of the slow instructions: alone they take longer than a tile's stores.
    half = 0.5 * x
    return half + half * math.tanh(half)


@function
def _gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + math.erf(x * numbers.sqrt(0.5)))


@function
def _gelu_by_tanh(x: Any) -> Any:
    return 0.5 * x * (1.0 + math.tanh(numbers.sqrt(2 / numbers.pi) * (x + 0.044715 * x * x * x)))


@gated
def _swiglu(gate: Any, up: Any) -> Any:
    return gate * math.sigmoid(gate) * up


@gated
def _clamped_swiglu(gate: Any, up: Any, limit: Any) -> Any:
    # Half the instructions of `minimum` and `clamp`.
    gate = math.where(gate > limit, limit, gate)
    up = math.where(up > limit, limit, math.where(up < -limit, -limit, up))
    return gate * math.sigmoid(gate) * up
