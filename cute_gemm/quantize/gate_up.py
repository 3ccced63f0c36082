"""Weights of a gate and of what it opens for, by turns in one matrix: how gated epilogues take columns."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import memory, words
from ..plan.quantizer import BLOCK, INTERLEAVE

_FP8_BYTES = 1


def interleave_gate_up(gate: Tensor, up: Tensor, dim: int = -2) -> Tensor:
    """Eight rows of ``gate``, eight of ``up``, and so on: weights whose product has its columns by turns.

    :func:`cute_gemm.epilogue.swiglu`, and ``interleaved=True`` of :func:`cute_gemm.swiglu_quantize_1x128`,
    take columns in this order. A thread of a kernel has both columns of an output then.

    Weights are laid out so before they are quantised: ``quantize_128x128(interleave_gate_up(gate, up))``. A
    scale is for 128 rows, which are 64 of either. Of weights that are quantised, 64 rows of ``gate`` and of
    ``up`` have two scales, so they are refused.

    Args:
        gate, up: ``[..., I, K]`` of fp32, bf16 or fp16, such as the weights of a layer or of each expert; I
            is a multiple of 8.
        dim: the dimension that is laid out: -2, or -1 for vectors such as biases ``[..., I]``.

    Returns:
        ``[..., 2 I, K]``, contiguous. Gradients flow.

    Raises:
        TypeError: an argument is no tensor, or is FP8.
        ValueError: shapes, dtypes or devices differ, or I is no multiple of 8.
    """
    for name, x in (("gate", gate), ("up", up)):
        _require_unquantized(name, x)
    if gate.shape != up.shape or gate.dtype is not up.dtype:
        raise ValueError(
            f"up is {words.sketch(up)}; wanted what gate is, {words.sketch(gate)}, row for row of it"
        )
    memory.require_one_device(gate=gate, up=up)
    at = _dimension("gate", gate, dim, INTERLEAVE)
    parts = [x.unflatten(at, (-1, INTERLEAVE)) for x in (gate, up)]
    return torch.stack(parts, at + 1).flatten(at, at + 2).contiguous()


def split_gate_up(weight: Tensor, dim: int = -2) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`interleave_gate_up`.

    Args:
        weight: ``[..., 2 I, K]``, as that makes it.
        dim: the dimension that is laid out so.

    Returns:
        ``gate`` and ``up``, ``[..., I, K]`` each, contiguous.

    Raises:
        TypeError: it is no tensor, or is FP8: a scale of it is for rows of both, and for 128 rows of either
            there would be two.
        ValueError: 2 I is no multiple of 16.
    """
    _require_unquantized("weight", weight)
    at = _dimension("weight", weight, dim, 2 * INTERLEAVE)
    parts = weight.unflatten(at, (-1, 2, INTERLEAVE)).unbind(at + 1)
    gate, up = (x.flatten(at, at + 1).contiguous() for x in parts)
    return gate, up


def _require_unquantized(name: str, x: object) -> None:
    """It is a tensor that has no scales."""
    pair = isinstance(x, (tuple, list)) and len(x) == 2 and all(isinstance(each, Tensor) for each in x)
    is_fp8 = isinstance(x, Tensor) and x.is_floating_point() and x.itemsize == _FP8_BYTES
    if pair or is_fp8:
        raise TypeError(
            f"{name} is quantised, with a scale for each {BLOCK} of its rows; by turns, {BLOCK // 2} rows of "
            f"gate and of up would share one. Wanted the weights before they are quantised: "
            f"`quantize_128x128(interleave_gate_up(gate, up))`; or, rounded twice, "
            f"`dequantize_128x128(*{name})` of a pair"
        )
    memory.require_tensor(name, x)


def _dimension(name: str, x: Tensor, dim: int, multiple: int) -> int:
    """``dim`` from the front, of so many elements."""
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"dim is {dim}; wanted a dimension of {name}, which has shape {tuple(x.shape)}")
    if x.shape[dim] % multiple:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; wanted a multiple of {multiple} in dimension {dim}: add "
            "rows of zeros, to gate and up alike"
        )
    return dim % x.dim()
