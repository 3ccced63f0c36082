"""1x128: a scale for each row and 128 consecutive elements of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ..contract import options, quantizing
from ..contract.quantizing import scale_blocks
from ..plan.quantizer import FEW_ELEMENTS, INTERLEAVE, SOURCES, RowQuantizer, passes_for
from ..runtime import quantizers
from . import formula, selection
from .road import Form, Request, Results, Shapes
from .selection import Selection


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
            Hopper GPU a kernel does it in one pass where K is a multiple of 16, is contiguous, rows begin at
            multiples of 16 bytes, and there are at most three dimensions or all is contiguous; elsewhere it
            is a dozen kernels of torch.
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
        of ``s``, each rounded to FP32, to the nearest, ties to even. No scale is below ``2**-126``, the
        smallest normal FP32 number: a smaller one would lose bits, and its inverse would overflow. Values
        below about ``2**-136`` therefore become zero. The sign of a zero stays.
        A block that holds a NaN or an infinity comes back as NaN throughout, scale and values (0x7F). It is
        no error, as looking would make the host wait for the device, and would break the capture of CUDA
        graphs.

    Raises:
        TypeError: an argument is of another kind or dtype.
        ValueError: ``x`` has no dimension, or another number of them than the rows that are selected need;
            it is sparse, nested, opaque, or without memory (a parameter that is not initialised, storage that
            was freed); a derivative is wanted, which is not computed: pass ``x.detach()``; several arguments
            say which rows there are; or a given result does not fit, or overlaps what is read.
        RuntimeError: a CUDA graph is being captured, and the kernel did not run before on this device; or it
            is not compiled, and calls are not to compile (``jit`` of :func:`cute_gemm.config`).
    """
    asked = (
        x,
        "plain",
        power_of_two_scales,
        m_major_scales,
        rows,
        valid_rows,
        group_index,
        offsets,
        alignment,
    )
    q, s = _FORM.run(asked, (out, scales_out))
    return q, s


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
        As `quantize_1x128` of the product in FP32. On a GPU silu errs by about ``2**-20`` of it, or
        ``2**-126``.

    Raises:
        TypeError, ValueError, RuntimeError: as `quantize_1x128`; ValueError also where columns are odd.
    """
    options.require_flag("interleaved", interleaved)
    source = "swiglu_interleaved" if interleaved else "swiglu"
    asked = (
        x,
        source,
        power_of_two_scales,
        m_major_scales,
        rows,
        valid_rows,
        group_index,
        offsets,
        alignment,
    )
    q, s = _FORM.run(asked, (out, scales_out))
    return q, s


class _Asked(NamedTuple):
    """What a call asks for, as it came."""

    x: Tensor
    source: str = "plain"
    power_of_two_scales: bool = False
    m_major_scales: bool = False
    rows: Tensor | None = None
    valid_rows: Tensor | None = None
    group_index: Tensor | None = None
    offsets: Tensor | None = None
    alignment: int = 1


class _Rows(Form):
    merging = ("x",)

    def request(self, asked: tuple[Any, ...]) -> Request | None:
        x, source, power_of_two, m_major, rows, valid_rows, group_index, offsets, alignment = asked
        if type(power_of_two) is not bool or type(m_major) is not bool or type(alignment) is not int:
            return None
        size = x.numel()
        if not size:
            return None
        is_few, device = size <= FEW_ELEMENTS, x.get_device()
        if rows is None and valid_rows is None and group_index is None and offsets is None:
            return (source, "all", x.dtype, x.dim(), power_of_two, device, is_few), (x,), (), ()
        kind, index = selection.quickly(rows, valid_rows, group_index, offsets)
        # All kernels of the other kinds take int32, and refuse what else there is.
        dtype = index.dtype if kind == "gathered" else None
        key = source, kind, x.dtype, x.dim(), power_of_two, device, is_few, dtype
        return key, (x,), (index,), (alignment,) if kind == "offsets" else ()

    def merges(self, asked: _Asked) -> bool:
        return asked.x.dim() not in (2, 3) and _selection(asked).kind == "all"

    def require_kinds(self, asked: _Asked) -> None:
        flags = {"power_of_two_scales": asked.power_of_two_scales, "m_major_scales": asked.m_major_scales}
        quantizing.require_flags(**flags)
        if asked.source not in SOURCES:
            raise ValueError(f"source is {asked.source!r}; wanted {', '.join(SOURCES)}")
        quantizing.require_source("x", asked.x, 1, "[..., K]: `x[None]` is a row of one element")

    def require(self, asked: _Asked, has_memory: bool) -> dict[str, Tensor]:
        self.require_kinds(asked)
        _require_pairs(asked)
        chosen = _selection(asked)
        chosen.check(asked.x, has_memory)
        return {"x": asked.x, **chosen.read}

    def extents(self, asked: _Asked) -> tuple[int, ...]:
        x, source, rows = asked.x, asked.source, asked.rows
        if source == "plain" and rows is None:
            return x.shape
        width = x.shape[-1] if source == "plain" else x.shape[-1] // 2
        return (*(x.shape[:-1] if rows is None else rows.shape), width)

    def shapes(self, extents: tuple[int, ...]) -> Shapes:
        return extents, (*extents[:-1], scale_blocks(extents[-1]))

    def config(self, asked: _Asked) -> RowQuantizer:
        x, chosen = asked.x, _selection(asked)
        return RowQuantizer(
            dtype=quantizers.NAMES[x.dtype],
            has_matrices=x.dim() == 3,
            source=asked.source,
            rows=chosen.kind,
            index_dtype="int32" if chosen.index is None else quantizers.NAMES[chosen.index.dtype],
            is_power_of_two=asked.power_of_two_scales,
            passes=passes_for(x.numel()),
        )

    def in_torch(self, asked: _Asked, results: Results) -> None:
        q, s = results
        chosen = _selection(asked)
        if chosen.is_empty:
            return
        own, is_written = chosen.take(asked.x)
        if asked.source != "plain":
            own = formula.swiglu(own, asked.source == "swiglu_interleaved")
        formula.quantize_rows(own, q, s, asked.power_of_two_scales, is_written)


def _selection(asked: _Asked) -> Selection:
    """As Dynamo of torch 2.8 traces it: neither a property of a named tuple, nor a part of one."""
    return Selection.of(asked.rows, asked.valid_rows, asked.group_index, asked.offsets, asked.alignment)


def _require_pairs(asked: _Asked) -> None:
    """Of what SwiGLU takes, each column has another one."""
    if asked.source == "plain":
        return
    unit, columns = 2 * INTERLEAVE if asked.source == "swiglu_interleaved" else 2, asked.x.shape[-1]
    if columns % unit:
        raise ValueError(f"x has {columns} columns; wanted gate and up, a multiple of {unit}")


_FORM = _Rows("quantize_1x128", _Asked)
