"""The result, which TMA writes: each rule beside what is said where it is broken."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.limits import OUT_BYTES
from . import memory, sizes, words

_DEFAULT = torch.bfloat16
_DTYPES = tuple(getattr(torch, name) for name in OUT_BYTES)


def require_result(
    out: Tensor, out_dtype: torch.dtype, shape: tuple[int, ...], *, has_memory: bool = True
) -> None:
    """A given matrix, or one of each group: bf16 or fp32, rows contiguous.

    Args:
        out: the argument.
        out_dtype: bf16, the default, or what ``out`` has.
        shape: the one wanted, ``[M, N]`` or ``[G, capacity, N]``.
        has_memory: whether it is there; else its memory is not judged, nor sizes not known yet.

    Raises:
        TypeError: it is no tensor, or its dtype is not one that kernels store, or not ``out_dtype``.
        ValueError: its shape or its memory is not what TMA can write.
    """
    memory.require_own_memory("out", out, has_memory)
    _require_dtype(out, shape)
    _require_agreement(out, out_dtype)
    memory.require_strided("out", out, has_memory)
    _require_shape(out, shape)
    if has_memory:
        memory.require_tma("out", out)


def require_out_dtype(out_dtype: object) -> None:
    """The dtype of a result that is to be allocated.

    Raises:
        TypeError: it is not one that kernels store.
    """
    if not agree(None, out_dtype):
        raise TypeError(
            f"out_dtype is {out_dtype!r}; wanted {' or '.join(f'`{dtype}`' for dtype in _DTYPES)}"
        )


def agree(out: Tensor | None, out_dtype: object) -> bool:
    """Whether `out` and `out_dtype` ask for the same thing; without `out`, for one that kernels store."""
    if out is None:
        return any(out_dtype is dtype for dtype in _DTYPES)
    return out_dtype is _DEFAULT or out_dtype is out.dtype


def _require_dtype(out: Tensor, shape: tuple[int, ...]) -> None:
    """Kernels store it."""
    if out.dtype in _DTYPES:
        return
    fix = words.allocate(shape, _DEFAULT, out.device)
    if out.dtype is torch.int32 and out.dim() == 1:
        fix = f"an index of groups comes before `out`, unlike in DeepGEMM; for a result {fix}"
    raise TypeError(f"out has dtype {out.dtype}; wanted {' or '.join(map(str, _DTYPES))}: {fix}")


def _require_agreement(out: Tensor, out_dtype: torch.dtype) -> None:
    """`out` and `out_dtype` ask for the same thing."""
    if agree(out, out_dtype):
        return
    raise TypeError(
        f"out_dtype is {out_dtype!r}, but out has dtype {out.dtype}; wanted the same, or no `out_dtype`, as "
        f"a given `out` decides: {words.allocate(out.shape, torch.float32, out.device)}"
    )


def _require_shape(out: Tensor, shape: tuple[int, ...]) -> None:
    """It has the size of the product."""
    if not sizes.differ(out.shape, shape):
        return
    fix = words.allocate(shape, out.dtype, out.device)
    wanted = f"{words.symbolic_shape('out', len(shape))} = {shape}"
    raise ValueError(f"out has shape {tuple(out.shape)}; wanted {wanted}: {fix}")
