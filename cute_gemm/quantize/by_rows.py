"""1x128: a scale for each row and 128 consecutive elements of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ..contract import OWNING_TYPES, ambient, quantizing
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.quantizer import FEW_ELEMENTS, INTERLEAVE, RowQuantizer
from ..runtime import hardware, quantizers
from ..runtime.torch_internals import empty_strided_cuda
from . import formula, library
from .selection import KINDS, Selection

_PASSES = 2
_NAMES = {getattr(torch, name): name for name in ("bfloat16", "float16", "float32", "int32", "int64")}


def quantize_1x128(
    x: Tensor,
    *,
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
    """Quantise ``x`` to e4m3 with one scale per row and 128 consecutive elements of the last dimension.

    Of the last five kinds of argument at most one may say which rows are quantised. Of the others nothing is
    read or written.

    Args:
        x: ``[..., K]``, fp32, bf16 or fp16, any strides, any device; K need not be a multiple of 128. On a
            Hopper GPU a kernel does it in one pass where K is a multiple of 16, is contiguous, and rows begin
            at multiples of 16 bytes; elsewhere it is a dozen kernels of torch.
        power_of_two_scales: round every scale up to a power of two (up, so that nothing saturates).
        m_major_scales: lay scales out as `m_major` does, which TMA can load; else row by row.
        rows: int32 or int64 ``[T]``: row t of the result is that row of ``x`` ``[M, K]``, so that tokens are
            sorted by expert while they are quantised. One that ``x`` does not have, such as -1, is left out.
        valid_rows: int32 ``[G]``: of each matrix of ``x`` ``[G, capacity, K]`` the first so many rows.
        group_index: int32 ``[M]``: the rows of ``x`` ``[M, K]`` whose entry is not negative.
        offsets: int32 ``[G]``, ascending: where each group of rows of ``x`` ``[M, K]`` ends. It begins at the
            end before it, rounded up to a multiple of ``alignment``.
        alignment: 1 to 1024.
        out: e4m3 ``[..., K]`` to write; None to allocate.
        scales_out: fp32 ``[..., ceil(K/128)]`` to write, of any strides; None to allocate.

    Returns:
        ``q``: e4m3 ``[..., K]``, contiguous, and ``s``: fp32 ``[..., ceil(K/128)]``, contiguous unless asked
        otherwise, such that ``q * s`` (each scale repeated over its block) is about ``x``; or ``out`` and
        ``scales_out``. ``s`` is ``amax / 448``, and 1 for a block of zeros; ``q`` is ``x`` times the inverse
        of ``s``, each rounded to FP32, to the nearest, ties to even. No scale is below 2**-126, the smallest
        normal FP32 number: a smaller one would lose bits, and its inverse would overflow. Values below about
        2**-136 therefore become zero. The sign of a zero stays.
        A block that holds a NaN or an infinity comes back as NaN throughout, scale and values. It is no
        error, as looking would make the host wait for the device and would break the capture of CUDA graphs.

    Raises:
        TypeError: an argument is of another kind or dtype.
        ValueError: ``x`` has no dimension, or another number of them than the rows that are selected need;
            it is sparse, nested, opaque, or without memory (a parameter that is not initialised, storage that
            was freed); a derivative is wanted, which is not computed: pass ``x.detach()``; several arguments
            say which rows there are; or a given result does not fit, or overlaps what is read.
        RuntimeError: a CUDA graph is being captured, and the kernel did not run before on this device.
    """
    selection = rows, valid_rows, group_index, offsets, alignment
    return _quantize("plain", x, power_of_two_scales, m_major_scales, selection, out, scales_out)


def swiglu_quantize_1x128(
    x: Tensor,
    *,
    interleaved: bool = False,
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
    """Quantise ``silu(gate) * up`` (Shazeer, arXiv:2002.05202), which is never in memory itself.

    Args:
        x: ``[..., 2 K]``, of which the first half is ``gate`` and the second ``up``.
        interleaved: eight columns of ``gate``, eight of ``up``, and so on; K is a multiple of 8.
        power_of_two_scales, m_major_scales, rows, valid_rows, group_index, offsets, alignment: as of
            `quantize_1x128`.
        out, scales_out: e4m3 ``[..., K]`` and fp32 ``[..., ceil(K/128)]`` to write; None to allocate.

    Returns:
        As `quantize_1x128` of the product in FP32, whose relative error on a GPU is about 2**-20.

    Raises:
        TypeError, ValueError, RuntimeError: as `quantize_1x128`; ValueError also where columns are odd.
    """
    quantizing.require_flags(interleaved=interleaved)
    source = "swiglu_interleaved" if interleaved else "swiglu"
    selection = rows, valid_rows, group_index, offsets, alignment
    return _quantize(source, x, power_of_two_scales, m_major_scales, selection, out, scales_out)


def _quantize(
    source: str,
    x: Tensor,
    power_of_two: bool,
    m_major: bool,
    selection: tuple[Any, Any, Any, Any, Any],
    out: Tensor | None,
    scales_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if library.is_needed(x):
        return _as_op(source, x, power_of_two, m_major, selection, out, scales_out)
    made = _launched(source, x, power_of_two, m_major, selection, out, scales_out)
    if made is not None:
        return made
    q, s, chosen = _prepared(source, x, power_of_two, m_major, selection, out, scales_out)
    if not chosen.is_empty and not _launch(source, x, q, s, power_of_two, chosen):
        with ambient.no_autocast(x.device):
            own, is_written = chosen.take(x)
            if source != "plain":
                own = formula.swiglu(own, source == "swiglu_interleaved")
            formula.quantize_rows(own, q, s, power_of_two, is_written)
    quantizers.written(out, scales_out)
    return q, s


def _prepared(
    source: str,
    x: Tensor,
    power_of_two: bool,
    m_major: bool,
    selection: tuple[Any, Any, Any, Any, Any],
    out: Tensor | None,
    scales_out: Tensor | None,
    has_memory: bool = True,
) -> tuple[Tensor, Tensor, Selection]:
    """The results of a call that obeys all rules, to be written, and its rows."""
    quantizing.require_flags(power_of_two_scales=power_of_two, m_major_scales=m_major)
    quantizing.require_source("x", x, 1, "[..., K]: `x[None]` is a row of one element")
    width = _width(source, x)
    chosen = Selection.of(*selection)
    chosen.check(x, has_memory)
    shape = (*(chosen.index.shape if chosen.kind == "gathered" else x.shape[:-1]), width)
    scale_shape = (*shape[:-1], scale_blocks(width))
    read = {"x": x, chosen.name: chosen.index} if chosen.name else {"x": x}
    quantizing.require_result("out", out, shape, E4M3, has_memory, **read)
    if out is not None:
        read["out"] = out
    quantizing.require_result("scales_out", scales_out, scale_shape, SCALE_DTYPE, has_memory, **read)
    q = x.new_empty(shape, dtype=E4M3) if out is None else out
    s = scales_out
    if s is None:
        strides = quantizers.strides_of_scales(scale_shape, m_major)
        s = x.new_empty_strided(scale_shape, strides, dtype=SCALE_DTYPE)
    return q, s, chosen


def _as_op(
    source: str,
    x: Tensor,
    power_of_two: bool,
    m_major: bool,
    selection: tuple[Any, Any, Any, Any, Any],
    out: Tensor | None,
    scales_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Of what is traced, or stands for tensors that will be there."""
    quantizing.require_flags(power_of_two_scales=power_of_two, m_major_scales=m_major)
    quantizing.require_source("x", x, 1, "[..., K]: `x[None]` is a row of one element")
    rows, valid_rows, group_index, offsets, alignment = selection
    named = {
        "source": source,
        "power_of_two_scales": power_of_two,
        "m_major_scales": m_major,
        "rows": rows,
        "valid_rows": valid_rows,
        "group_index": group_index,
        "offsets": offsets,
        "alignment": alignment,
    }
    if out is None and scales_out is None:
        q, s = _returning(x, **named)
        return q, s
    q, s, _ = _prepared(source, x, power_of_two, m_major, selection, out, scales_out, has_memory=False)
    _writing(x, q, s, **named)
    return q, s


def _compute(
    x: Tensor,
    *,
    source: str = "plain",
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
    """What the ops do."""
    selection = rows, valid_rows, group_index, offsets, alignment
    return _quantize(source, x, power_of_two_scales, m_major_scales, selection, out, scales_out)


def _describe(
    x: Tensor,
    *,
    source: str = "plain",
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
    """What of fake tensors is known before."""
    selection = rows, valid_rows, group_index, offsets, alignment
    made = _prepared(
        source, x, power_of_two_scales, m_major_scales, selection, out, scales_out, has_memory=False
    )
    return made[:2]


def _width(source: str, x: Tensor) -> int:
    """Columns of the result."""
    columns = x.shape[-1]
    if source == "plain":
        return columns
    unit = 2 * INTERLEAVE if source == "swiglu_interleaved" else 2
    if columns % unit:
        raise ValueError(f"x has {columns} columns; wanted gate and up, a multiple of {unit}")
    return columns // 2


def _launch(source: str, x: Tensor, q: Tensor, s: Tensor, power_of_two: bool, chosen: Selection) -> bool:
    """On a Hopper GPU, if a kernel takes such tensors."""
    if type(x) not in OWNING_TYPES or not x.is_cuda or not q.numel() or not x.numel():
        return False
    device = x.get_device()
    if not hardware.is_hopper(device):
        return False
    kind = chosen.kind
    if kind == "all" and x.dim() != 2 and all(each.is_contiguous() for each in (x, q, s)):
        x, q, s = (each.view(-1, each.shape[-1]) for each in (x, q, s))
    if x.dim() not in (2, 3):
        return False
    index_dtype = None if chosen.index is None else chosen.index.dtype
    config = RowQuantizer(
        dtype=_NAMES[x.dtype],
        has_matrices=x.dim() == 3,
        source=source,
        rows=kind,
        index_dtype="int32" if index_dtype is None else _NAMES[index_dtype],
        is_power_of_two=power_of_two,
        passes=1 if x.numel() <= FEW_ELEMENTS else _PASSES,
    )
    key = _key(source, kind, x, power_of_two, index_dtype)
    return quantizers.launch(key, config, device, (x, q, s), chosen.behind)


def _key(source: str, kind: str, x: Tensor, power_of_two: bool, index_dtype: torch.dtype | None) -> Hashable:
    """What a kernel, and the device that it was loaded to, depend on."""
    few = x.numel() <= FEW_ELEMENTS
    return source, kind, x.dtype, x.dim(), power_of_two, index_dtype, x.get_device(), few


def _launched(
    source: str,
    x: Any,
    power_of_two: Any,
    m_major: Any,
    selection: tuple[Any, Any, Any, Any, Any],
    out: Any,
    scales_out: Any,
) -> tuple[Tensor, Tensor] | None:
    """The fast path, whatever the arguments are: the results, or None where nothing was done."""
    kind: str = "all"
    index: Any = None
    for each_kind, each in zip(KINDS.values(), selection[:4], strict=True):
        if each is not None:
            if index is not None:
                return None
            kind, index = each_kind, each
    try:
        key = _key(source, kind, x, power_of_two, None if index is None else index.dtype)
        kernel = quantizers.known(key)
        if kernel is None or type(m_major) is not bool or not quantizers.are_plain(x, index, out, scales_out):
            return None
        # TVM FFI would raise, which takes long.
        if x.stride(-1) != 1 or (index is not None and (index.dim() != 1 or index.stride(0) != 1)):
            return None
        if out is not None and out.stride(-1) != 1:
            return None
        shape, k = x.shape, x.shape[-1] if source == "plain" else x.shape[-1] // 2
        shape = (*shape[:-1], k) if kind != "gathered" else (index.shape[0], k)
        q, s = out, scales_out
        if q is None:
            q = empty_strided_cuda(shape, (k, 1) if len(shape) == 2 else (shape[1] * k, k, 1), E4M3)
        if s is None:
            scale_shape = (*shape[:-1], scale_blocks(k))
            strides = quantizers.strides_of_scales(scale_shape, m_major)
            s = empty_strided_cuda(scale_shape, strides, SCALE_DTYPE)
    # Of what is no tensor, or has too few dimensions, or no hash.
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    behind = () if index is None else (index, selection[4]) if kind == "offsets" else (index,)
    if not quantizers.launch_known(kernel, (x, q, s), behind):
        return None
    quantizers.written(out, scales_out)
    return q, s


_returning = library.register("quantize_1x128", _compute, _describe)
_writing = library.register("quantize_1x128_out", *map(library.writing, (_compute, _describe)))
