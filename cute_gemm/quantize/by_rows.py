"""1x128: a scale for each row and 128 consecutive elements of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contract import ambient, quantizing
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.quantizer import FEW_ELEMENTS, INTERLEAVE, SOURCES, RowQuantizer, passes_for
from ..runtime import quantizers
from . import formula, library
from .selection import KINDS, Selection

_Size = tuple[tuple[int, ...], tuple[int, ...]]


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
        scales_out: fp32 ``[..., ceil(K/128)]`` to write, best row- or M-major; None to allocate.

    Returns:
        ``q``: e4m3 ``[..., K]``, contiguous, and ``s``: fp32 ``[..., ceil(K/128)]``, contiguous unless asked
        otherwise, such that ``q * s`` (each scale repeated over its block) is about ``x``; or ``out`` and
        ``scales_out``. ``s`` is ``amax / 448``, and 1 for a block of zeros; ``q`` is ``x`` times the inverse
        of ``s``, each rounded to FP32, to the nearest, ties to even. No scale is below 2**-126, the smallest
        normal FP32 number: a smaller one would lose bits, and its inverse would overflow. Values below about
        2**-136 therefore become zero. The sign of a zero stays.
        A block that holds a NaN or an infinity comes back as NaN throughout, scale and values (0x7F). It is
        no error, as looking would make the host wait for the device, and would break the capture of CUDA
        graphs.

    Raises:
        TypeError: an argument is of another kind or dtype.
        ValueError: ``x`` has no dimension, or another number of them than the rows that are selected need;
            it is sparse, nested, opaque, or without memory (a parameter that is not initialised, storage that
            was freed); a derivative is wanted, which is not computed: pass ``x.detach()``; several arguments
            say which rows there are; or a given result does not fit, or overlaps what is read.
        RuntimeError: a CUDA graph is being captured, and the kernel did not run before on this device.
    """
    asked = _Asked(
        "plain", power_of_two_scales, m_major_scales, rows, valid_rows, group_index, offsets, alignment
    )
    return _quantize(x, asked, out, scales_out)


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
        As `quantize_1x128` of the product in FP32. On a GPU silu errs by about 2**-20 of it, or 2**-126.

    Raises:
        TypeError, ValueError, RuntimeError: as `quantize_1x128`; ValueError also where columns are odd.
    """
    quantizing.require_flags(interleaved=interleaved)
    source = "swiglu_interleaved" if interleaved else "swiglu"
    asked = _Asked(
        source, power_of_two_scales, m_major_scales, rows, valid_rows, group_index, offsets, alignment
    )
    return _quantize(x, asked, out, scales_out)


class _Asked(NamedTuple):
    """What a call asks for, as it came, by the names of the ops' arguments."""

    source: str
    power_of_two_scales: bool
    m_major_scales: bool
    rows: Tensor | None
    valid_rows: Tensor | None
    group_index: Tensor | None
    offsets: Tensor | None
    alignment: int


def _quantize(
    x: Tensor, asked: _Asked, out: Tensor | None, scales_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():
        return _as_op(x, asked, out, scales_out)
    made = _launched(x, asked, out, scales_out)
    if made is not None:
        return made
    if library.is_needed(x):
        return _as_op(x, asked, out, scales_out)
    return _by_rules(x, asked, out, scales_out)


def _by_rules(
    x: Tensor, asked: _Asked, out: Tensor | None, scales_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The slow path, which says what is not in order."""
    q, s = _results(x, asked, out, scales_out)
    chosen = _selection(asked)
    if not chosen.is_empty and not _launch(x, q, s, asked, chosen):
        with torch.inference_mode(), ambient.no_autocast(x.device):
            own, is_written = chosen.take(x)
            if asked.source != "plain":
                own = formula.swiglu(own, asked.source == "swiglu_interleaved")
            formula.quantize_rows(own, q, s, asked.power_of_two_scales, is_written)
    quantizers.written(out, scales_out)
    return q, s


def _selection(asked: _Asked) -> Selection:
    """As Dynamo of torch 2.8 traces it: neither a property of a named tuple, nor a part of one."""
    return Selection.of(asked.rows, asked.valid_rows, asked.group_index, asked.offsets, asked.alignment)


def _results(
    x: Tensor, asked: _Asked, out: Tensor | None, scales_out: Tensor | None, has_memory: bool = True
) -> tuple[Tensor, Tensor]:
    """Where to write, for a call that obeys all rules."""
    _require_source(x, asked)
    width = _width(asked.source, x)
    chosen = _selection(asked)
    chosen.check(x, has_memory)
    shape = (*(chosen.index.shape if chosen.kind == "gathered" else x.shape[:-1]), width)
    scale_shape = (*shape[:-1], scale_blocks(width))
    read = {"x": x, chosen.name: chosen.index} if chosen.name else {"x": x}
    quantizing.require_results(out, scales_out, shape, scale_shape, read, has_memory)
    q = x.new_empty(shape, dtype=E4M3) if out is None else out
    if scales_out is not None:
        return q, scales_out
    strides = quantizers.strides_of_scales(scale_shape, asked.m_major_scales)
    return q, x.new_empty_strided(scale_shape, strides, dtype=SCALE_DTYPE)


def _require_source(x: Tensor, asked: _Asked) -> None:
    flags = {"power_of_two_scales": asked.power_of_two_scales, "m_major_scales": asked.m_major_scales}
    quantizing.require_flags(**flags)
    if asked.source not in SOURCES:
        raise ValueError(f"source is {asked.source!r}; wanted {', '.join(SOURCES)}")
    quantizing.require_source("x", x, 1, "[..., K]: `x[None]` is a row of one element")


def _width(source: str, x: Tensor) -> int:
    """Columns of the result."""
    columns = x.shape[-1]
    if source == "plain":
        return columns
    unit = 2 * INTERLEAVE if source == "swiglu_interleaved" else 2
    if columns % unit:
        raise ValueError(f"x has {columns} columns; wanted gate and up, a multiple of {unit}")
    return columns // 2


def _launch(x: Tensor, q: Tensor, s: Tensor, asked: _Asked, chosen: Selection) -> bool:
    """On a Hopper GPU, if a kernel takes such tensors."""
    kind, index = chosen.kind, chosen.index
    if kind == "all" and x.dim() != 2 and x.numel() and all(each.is_contiguous() for each in (x, q, s)):
        x, q, s = (each.view(-1, each.shape[-1]) for each in (x, q, s))
    if x.dim() not in (2, 3) or not quantizers.may_launch(x, (q,), (s,)):
        return False
    config = RowQuantizer(
        dtype=quantizers.NAMES[x.dtype],
        has_matrices=x.dim() == 3,
        source=asked.source,
        rows=kind,
        index_dtype="int32" if index is None else quantizers.NAMES[index.dtype],
        is_power_of_two=asked.power_of_two_scales,
        passes=passes_for(x.numel()),
    )
    key = _key(x, asked.source, asked.power_of_two_scales, kind, index)
    return quantizers.launch(key, config, x.get_device(), (x, q, s), chosen.behind)


def _key(x: Tensor, source: str, power_of_two: bool, kind: str, index: Tensor | None) -> Hashable:
    """What a kernel, and the device that it was loaded to, depend on."""
    index_dtype = None if index is None else index.dtype
    return (
        source,
        kind,
        x.dtype,
        x.dim(),
        power_of_two,
        index_dtype,
        x.get_device(),
        x.numel() <= FEW_ELEMENTS,
    )


def _launched(x: Any, asked: _Asked, out: Any, scales_out: Any) -> tuple[Tensor, Tensor] | None:
    """The fast path, whatever the arguments are: the results, or None where nothing was done."""
    source, power_of_two, m_major, rows, valid_rows, group_index, offsets, alignment = asked
    if type(power_of_two) is not bool or type(m_major) is not bool or type(alignment) is not int:
        return None
    try:
        kind: str = "all"
        index: Any = None
        if not (rows is None and valid_rows is None and group_index is None and offsets is None):
            kind, index = _selected(rows, valid_rows, group_index, offsets)
        shape = x.shape
        if kind == "all" and len(shape) != 2 and out is None and scales_out is None:
            return _launched_whole(x, asked)
        kernel = quantizers.known(_key(x, source, power_of_two, kind, index))
        if kernel is None or not quantizers.are_plain(x, index, out, scales_out):
            return None
        # TVM FFI would raise, which takes long.
        if x.stride()[-1] != 1 or (index is not None and (index.dim() != 1 or index.stride(0) != 1)):
            return None
        if out is not None and out.stride()[-1] != 1:
            return None
        q, s = out, scales_out
        if q is None or s is None:
            taken = shape if kind != "gathered" else (index.shape[0], shape[-1])
            of_q, of_s = _sizes(taken, source, m_major)
            q = quantizers.fresh(*of_q, E4M3) if q is None else q
            s = quantizers.fresh(*of_s, SCALE_DTYPE) if s is None else s
    # Of what is no tensor, or has too few dimensions, or no hash; or several say which rows.
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    behind = () if index is None else (index, alignment) if kind == "offsets" else (index,)
    if not quantizers.launch_known(kernel, (x, q, s), behind):
        return None
    quantizers.written(out, scales_out)
    return q, s


@functools.lru_cache(4096)
def _sizes(taken: tuple[int, ...], source: str, m_major: bool) -> tuple[_Size, _Size]:
    """Shape and strides of new results, for so many rows as are taken, and columns of the source."""
    shape = *taken[:-1], taken[-1] if source == "plain" else taken[-1] // 2
    scale_shape = *shape[:-1], scale_blocks(shape[-1])
    of_q = shape, quantizers.strides_of_scales(shape, False)
    return of_q, (scale_shape, quantizers.strides_of_scales(scale_shape, m_major))


def _selected(*selecting: Any) -> tuple[str, Any]:
    """Which rows are meant, of the four arguments that may say it, and the one that does.

    Raises:
        ValueError: several do.
    """
    (found,) = (
        (kind, each) for kind, each in zip(KINDS.values(), selecting, strict=True) if each is not None
    )
    return found


def _launched_whole(x: Tensor, asked: _Asked) -> tuple[Tensor, Tensor] | None:
    """The same where dimensions are not two: rows that follow each other are those of a matrix."""
    if not x.is_contiguous() or asked.m_major_scales is not False or not x.numel():
        return None
    made = _launched(x.view(-1, x.shape[-1]), asked, None, None)
    if made is None:
        return None
    q, s = made
    return q.view(*x.shape[:-1], q.shape[-1]), s.view(*x.shape[:-1], s.shape[-1])


# As ops of torch's dispatcher


def _as_op(x: Tensor, asked: _Asked, out: Tensor | None, scales_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of what is traced, or stands for tensors that will be there."""
    _require_source(x, asked)
    if out is None and scales_out is None:
        q, s = _returning(x, **_named(asked))
        return q, s
    q, s = _results(x, asked, out, scales_out, has_memory=False)
    _writing(x, q, s, **_named(asked))
    return q, s


def _compute_now(
    x: Tensor, asked: _Asked, out: Tensor | None, scales_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    made = _launched(x, asked, out, scales_out)
    return _by_rules(x, asked, out, scales_out) if made is None else made


def _named(asked: _Asked) -> dict[str, Any]:
    """The arguments of an op. Dynamo of torch 2.8 does not trace `_asdict`."""
    return {name: getattr(asked, name) for name in _FIELDS}


def _op(answer: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """What an op makes of its arguments."""

    def made(
        x: Tensor, *, out: Tensor | None = None, scales_out: Tensor | None = None, **named: Any
    ) -> tuple[Tensor, Tensor]:
        return answer(x, _Asked(**(_DEFAULTS | named)), out, scales_out)

    return made


_FIELDS = _Asked._fields
_DEFAULTS: dict[str, Any] = {name: None for name in _FIELDS} | {
    "source": "plain",
    "power_of_two_scales": False,
    "m_major_scales": False,
    "alignment": 1,
}
# Not `_quantize`: Dynamo traces what an op calls where a graph is broken, and would find the op again.
_compute, _describe = _op(_compute_now), _op(functools.partial(_results, has_memory=False))
_returning = library.register("quantize_1x128", _compute, _describe)
_writing = library.register("quantize_1x128_out", library.writing(_compute), library.writing(_describe))
