"""Weights of a gate and of what it opens for, by turns in one matrix: how gated epilogues take columns."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from ..contract import memory, quantizing, words
from ..contract.quantizing import E4M3, scale_blocks
from ..plan.quantizer import BLOCK, INTERLEAVE

Pair = tuple[Tensor, Tensor]


@overload
def interleave_gate_up(gate: Tensor, up: Tensor, dim: int = -2, *, turn: int = INTERLEAVE) -> Tensor: ...


@overload
def interleave_gate_up(gate: Pair, up: Pair, dim: int = -2, *, turn: int = INTERLEAVE) -> Pair: ...


def interleave_gate_up(gate: Any, up: Any, dim: int = -2, *, turn: int = INTERLEAVE) -> Any:
    """Eight rows of ``gate``, eight of ``up``, and so on: weights whose product has its columns by turns.

    :func:`cute_gemm.epilogue.swiglu`, and ``interleaved=True`` of :func:`cute_gemm.swiglu_quantize_1x128`,
    take columns in this order. A thread of a kernel has both columns of an output then.

    Weights are laid out so before they are quantised: ``quantize_128x128(interleave_gate_up(gate, up))``. A
    scale is for 128 rows, which are 64 of either. Of weights that are quantised already, 64 rows of ``gate``
    and 64 of ``up`` have two scales. They are laid out in whole blocks of 128 rows, with ``turn=128``, which
    changes no value and no scale; the epilogue is then ``swiglu(turn=128) | quantize_1x128()``.

    Args:
        gate, up: ``[..., I, K]`` of fp32, bf16 or fp16, such as the weights of a layer or of each expert; or,
            with ``turn=128``, what :func:`cute_gemm.quantize_128x128` made of them. I is a multiple of
            ``turn``.
        dim: the dimension that is laid out: -2, or -1 for vectors such as biases ``[..., I]``.
        turn: rows of either at a turn, 8 or 128.

    Returns:
        ``[..., 2 I, K]``, contiguous; or a pair of that and its scales. Gradients flow.

    Raises:
        TypeError: an argument is no tensor, or is quantised and cannot be laid out so.
        ValueError: shapes, dtypes or devices differ, or I is no multiple of ``turn``.
    """
    _require_turn(turn)
    if _is_pair(gate) and _is_pair(up) and turn == BLOCK:
        for name, (q, s) in (("gate", gate), ("up", up)):
            _require_blocks(name, q, s, dim)
        q = interleave_gate_up(*(q.view(torch.uint8) for q, _ in (gate, up)), turn=turn).view(E4M3)
        return q, torch.stack([gate[1], up[1]], -2).flatten(-3, -2)
    for name, x in (("gate", gate), ("up", up)):
        _require_unquantized(name, x)
    if gate.shape != up.shape or gate.dtype is not up.dtype:
        raise ValueError(
            f"up is {words.sketch(up)}; wanted what gate is, {words.sketch(gate)}, row for row of it"
        )
    memory.require_one_device(gate=gate, up=up)
    at = _dimension("gate", gate, dim, turn)
    parts = [x.unflatten(at, (-1, turn)) for x in (gate, up)]
    return torch.stack(parts, at + 1).flatten(at, at + 2).contiguous()


@overload
def split_gate_up(weight: Tensor, dim: int = -2, *, turn: int = INTERLEAVE) -> Pair: ...


@overload
def split_gate_up(weight: Pair, dim: int = -2, *, turn: int = INTERLEAVE) -> tuple[Pair, Pair]: ...


def split_gate_up(weight: Any, dim: int = -2, *, turn: int = INTERLEAVE) -> Any:
    """The inverse of :func:`interleave_gate_up`.

    Args:
        weight: ``[..., 2 I, K]``, or a pair of that and its scales, as that makes it.
        dim: the dimension that is laid out so.
        turn: rows of either at a turn.

    Returns:
        ``gate`` and ``up``, ``[..., I, K]`` each, contiguous; or such pairs.

    Raises:
        TypeError: it is no tensor; or it is quantised in turns of 8: a scale of it is for rows of both, and
            for 128 rows of either there would be two.
        ValueError: 2 I is no multiple of twice ``turn``.
    """
    _require_turn(turn)
    if _is_pair(weight) and turn == BLOCK:
        q, s = weight
        _require_blocks("weight", q, s, dim)
        gate, up = split_gate_up(q.view(torch.uint8), turn=turn)
        of_gate, of_up = (each.contiguous() for each in s.unflatten(-2, (-1, 2)).unbind(-2))
        return (gate.view(E4M3), of_gate), (up.view(E4M3), of_up)
    _require_unquantized("weight", weight)
    at = _dimension("weight", weight, dim, 2 * turn)
    parts = weight.unflatten(at, (-1, 2, turn)).unbind(at + 1)
    return tuple(x.flatten(at, at + 1).contiguous() for x in parts)


def _is_pair(x: object) -> bool:
    return isinstance(x, (tuple, list)) and len(x) == 2 and all(isinstance(each, Tensor) for each in x)


def _require_turn(turn: object) -> None:
    if turn not in (INTERLEAVE, BLOCK):
        raise ValueError(f"turn is {turn!r}; wanted {INTERLEAVE} or {BLOCK} rows")


def _require_unquantized(name: str, x: object) -> None:
    """It is a tensor that has no scales."""
    is_fp8 = isinstance(x, Tensor) and x.is_floating_point() and x.itemsize == 1
    if _is_pair(x) or is_fp8:
        raise TypeError(
            f"{name} is quantised, with a scale for each {BLOCK} of its rows; by turns, {BLOCK // 2} rows of "
            "gate and of up would share one. Wanted pairs of e4m3 and scales with `turn=128`, for "
            "`epilogue.swiglu(turn=128)`; or the weights before they are quantised: "
            "`quantize_128x128(interleave_gate_up(gate, up))`"
        )
    memory.require_tensor(name, x)


def _require_blocks(name: str, q: Tensor, s: Tensor, dim: int) -> None:
    """Rows of e4m3, and a scale for each whole 128x128 of them."""
    if q.dtype is not E4M3:
        raise TypeError(f"{name} has dtype {q.dtype}; wanted {E4M3}, with scales, or one tensor of no scales")
    quantizing.require_scales(s)
    if dim != -2:
        raise ValueError(f"dim is {dim}, but {name} has scales; wanted -2, its rows")
    _dimension(name, q, dim, BLOCK)
    wanted = (*q.shape[:-2], q.shape[-2] // BLOCK, scale_blocks(q.shape[-1]))
    if s.shape != wanted:
        raise ValueError(f"the scales of {name} have shape {tuple(s.shape)}; wanted {wanted}")


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
