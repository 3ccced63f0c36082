"""What experts made of tokens, added up."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import ambient, memory, quantizing, sizes
from ..plan.moe import CombineConfig
from ..plan.quantizer import PIECE
from ..quantize import library
from ..runtime import moe_builder as _  # noqa: F401  (builds what is launched here)
from ..runtime import quantizers


def combine(rows: Tensor, places: Tensor, *, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Add up, for each token, the rows that experts made of it.

    Sums are in FP32, in the order of a token's choices, and rounded once: they are the same whatever else a
    batch holds.

    Args:
        rows: bf16, fp16 or fp32 ``[R, N]``, any strides. On a Hopper GPU a kernel adds them up in one pass
            where those of ``rows``, ``base`` and the result are contiguous, a multiple of 16 bytes long, and
            begin at one; elsewhere torch does.
        places: int32 ``[T, k]``, contiguous, as :func:`route` gives it: the row of each choice. What is no
            row that there is, such as -1, adds nothing.
        base: ``[T, N]`` of the same dtype, such as what a shared expert or a residual gives: is added first.
        out: ``[T, N]`` of the same dtype to write; None to allocate.

    Returns:
        ``[T, N]``, contiguous, or ``out``.

    Raises:
        TypeError: an argument is of another kind or dtype.
        ValueError: a tensor has another shape or is on another device, or ``out`` overlaps what is read; or a
            derivative is wanted: pass ``rows.detach()``.
        RuntimeError: a CUDA graph is being captured, and the kernel did not run before on this device.
    """
    if library.is_needed(rows):
        if out is None:
            made: Tensor = _COMBINE(rows, places, base)
            return made
        _COMBINE_OUT(rows, places, out, base)
        return out
    return _combined(rows, places, base, out)


def _combined(rows: Tensor, places: Tensor, base: Tensor | None, out: Tensor | None = None) -> Tensor:
    _require(rows, places, base, out)
    result = _new(rows, places) if out is None else out
    if not _launched(rows, places, base, result):
        with torch.inference_mode(), ambient.no_autocast(rows.device):
            _in_torch(rows, places, base, result)
    quantizers.written((out,))
    return result


def _new(rows: Tensor, places: Tensor) -> Tensor:
    return rows.new_empty((places.shape[0], rows.shape[1]))


def _launched(rows: Tensor, places: Tensor, base: Tensor | None, result: Tensor) -> bool:
    """On a Hopper GPU, if there is anything to add, in rows that threads can load by 16 bytes."""
    tensors = rows, result, *(() if base is None else (base,))
    if not quantizers.is_on_hopper(rows) or not quantizers.are_in_memory(places, *tensors):
        return False
    if rows.shape[1] * rows.element_size() % PIECE or not all(map(quantizers.is_aligned, tensors)):
        return False
    device = rows.get_device()
    key = "combine", rows.dtype, base is not None, device
    read, behind = (rows, places.view(-1), result), tensors[2:]
    kernel = quantizers.known(key)
    if kernel is not None and torch.cuda.current_device() == device:
        return quantizers.launch_known(kernel, read, behind)
    config = CombineConfig(quantizers.NAMES[rows.dtype], base is not None)
    return quantizers.launch(key, config, device, read, behind)


def _in_torch(rows: Tensor, places: Tensor, base: Tensor | None, result: Tensor) -> None:
    total = torch.zeros(result.shape, dtype=torch.float32, device=rows.device)
    if base is not None:
        total += base
    if rows.shape[0]:
        for choice in places.unbind(1):
            is_row = (choice >= 0) & (choice < rows.shape[0])
            row = choice.clamp(0, rows.shape[0] - 1).to(torch.int64)
            total += rows[row].float().where(is_row[:, None], 0.0)
    result.copy_(total)


def _require(
    rows: Tensor, places: Tensor, base: Tensor | None, out: Tensor | None, has_memory: bool = True
) -> None:
    quantizing.require_source("rows", rows, 2, "[R, N]")
    if rows.dim() != 2:
        raise ValueError(f"rows has shape {tuple(rows.shape)}; wanted [R, N]")
    memory.require_own_memory("places", places, has_memory)
    if places.dtype is not torch.int32:
        raise TypeError(f"places has dtype {places.dtype}; wanted torch.int32: `places.to(torch.int32)`")
    if places.dim() != 2:
        raise ValueError(f"places has shape {tuple(places.shape)}; wanted [T, k]")
    quantizing.require_values(places=places)
    if not places.is_contiguous():
        raise ValueError(f"places has strides {places.stride()}; wanted contiguous: `places.contiguous()`")
    memory.require_one_device(rows=rows, places=places)
    shape = places.shape[0], rows.shape[1]
    read = {"rows": rows, "places": places}
    if base is not None:
        quantizing.require_source("base", base, 2, "[T, N]")
        if base.dtype is not rows.dtype:
            raise TypeError(f"base has dtype {base.dtype}; wanted that of rows, {rows.dtype}")
        if sizes.differ(base.shape, shape):
            raise ValueError(f"base has shape {tuple(base.shape)}; wanted {shape}")
        memory.require_one_device(rows=rows, base=base)
        read["base"] = base
    quantizing.require_result("out", out, shape, rows.dtype, read, has_memory)


def _describe(rows: Tensor, places: Tensor, base: Tensor | None) -> Tensor:
    _require(rows, places, base, None, has_memory=False)
    return _new(rows, places)


def _describe_out(rows: Tensor, places: Tensor, out: Tensor, base: Tensor | None) -> None:
    _require(rows, places, base, out, has_memory=False)


def _combine_out(rows: Tensor, places: Tensor, out: Tensor, base: Tensor | None) -> None:
    _combined(rows, places, base, out)


_COMBINE = library.register(
    "combine_rows(Tensor rows, Tensor places, Tensor? base) -> Tensor",
    _combined,
    _describe,
)
_COMBINE_OUT = library.register(
    "combine_rows_out(Tensor rows, Tensor places, Tensor(a!) out, Tensor? base) -> ()",
    _combine_out,
    _describe_out,
)
