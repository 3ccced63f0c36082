"""What a quantiser is given, our call of it, and what its results must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

import cute_gemm

from .. import quantize, testing
from ..plan.quantizer import (
    BlockQuantizer,
    BothWaysQuantizer,
    NormQuantizer,
    Quantizer,
    RowQuantizer,
    passes_for,
)
from ..quantize import formula
from .calls import Call, Results
from .records import (
    BLOCKS,
    BOTH_WAYS,
    GATHERED,
    INTERLEAVED,
    M_MAJOR,
    NORMED,
    OURS,
    ROWS,
    SUMMED,
    SWIGLU,
)
from .shapes import Shape

_DTYPE, _DTYPE_NAME = torch.bfloat16, "bfloat16"
_EPS = 1e-6
_RESULTS = "out", "scales_out", "out_t", "scales_out_t"
# Where functions are approximated: of scales, and how many elements may be the neighbour of the right one.
_SCALES_DIFFER, _ELEMENTS_DIFFER = 2.0**-18, 0.002
_STEP, _LEAST_STEP = 1 / 8, 2.0**-9

Sources = dict[str, Tensor]
"""What a quantiser reads, by the names of :class:`Form`'s functions; ``residual`` it also writes."""


# The formulas, as a program in torch alone has them: a function each, so that each is compiled by itself.


def _by_rows(values: Tensor) -> Results:
    m, k = values.shape
    q = values.new_empty(m, k, dtype=formula.E4M3)
    s = values.new_empty(m, quantize.scale_blocks(k), dtype=torch.float32)
    formula.quantize_rows(values, q, s, False)
    return q, s


def _rows(x: Tensor) -> Results:
    return _by_rows(x)


def _gathered(x: Tensor, rows: Tensor) -> Results:
    return _by_rows(x.index_select(0, rows))


def _swiglu(x: Tensor) -> Results:
    return _by_rows(formula.swiglu(x, False))


def _interleaved(x: Tensor) -> Results:
    return _by_rows(formula.swiglu(x, True))


def _normed(x: Tensor, weight: Tensor) -> Results:
    return _by_rows(formula.rms_norm(x, weight, _EPS))


def _summed(x: Tensor, weight: Tensor, residual: Tensor) -> Results:
    residual.copy_(x.float() + residual.float())
    return _by_rows(formula.rms_norm(residual, weight, _EPS))


def _both_ways(x: Tensor) -> Results:
    return (*_by_rows(x), *_by_rows(x.T))


def _blocks(x: Tensor) -> Results:
    q = x.new_empty(x.shape, dtype=formula.E4M3)
    s = x.new_empty(*(quantize.scale_blocks(extent) for extent in x.shape), dtype=torch.float32)
    formula.quantize_blocks(x, q, s, False)
    return q, s


def _norm_values(x: Tensor, weight: Tensor) -> Tensor:
    return formula.rms_norm(x, weight, _EPS)


@dataclass(frozen=True)
class Form:
    """One way to quantise.

    Args:
        name: of our function.
        formula: the same in torch, to new results.
        values: what of the sources, as a call leaves them, is quantised: ``[M, K]``.
        more: what is read beside ``x``, by name.
        options: what our function is told besides.
        columns: of ``x``, for each of the result.
        is_exact: whether a kernel gives the formula's bits.
    """

    name: str
    formula: Callable[..., Results]
    values: Callable[..., Tensor]
    more: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: int = 1
    is_exact: bool = True


FORMS = {
    ROWS: Form("quantize_1x128", _rows, lambda x: x),
    GATHERED: Form("quantize_1x128", _gathered, lambda x, rows: x.index_select(0, rows), ("rows",)),
    SWIGLU: Form(
        "swiglu_quantize_1x128",
        _swiglu,
        lambda x: formula.swiglu(x, False),
        columns=2,
        is_exact=False,
    ),
    INTERLEAVED: Form(
        "swiglu_quantize_1x128",
        _interleaved,
        lambda x: formula.swiglu(x, True),
        options={"interleaved": True},
        columns=2,
        is_exact=False,
    ),
    NORMED: Form(
        "rms_norm_quantize_1x128",
        _normed,
        _norm_values,
        ("weight",),
        {"eps": _EPS},
        is_exact=False,
    ),
    SUMMED: Form(
        "rms_norm_quantize_1x128",
        _summed,
        lambda x, weight, residual: _norm_values(residual, weight),
        ("weight", "residual"),
        {"eps": _EPS},
        is_exact=False,
    ),
    BOTH_WAYS: Form("quantize_both_ways", _both_ways, lambda x: x),
    BLOCKS: Form("quantize_128x128", _blocks, lambda x: x),
}
"""By the names of `records.QUANTIZERS`."""


def kernel_of(op: str, shape: Shape) -> Quantizer | None:
    """What our function launches for bf16 ``[M, K]`` with K a multiple of 16; None where torch quantises."""
    m, k = shape
    if op == BLOCKS:
        return BlockQuantizer(_DTYPE_NAME)
    if op == BOTH_WAYS:
        return None if m % 16 else BothWaysQuantizer(_DTYPE_NAME)
    if op in (NORMED, SUMMED):
        return NormQuantizer.of(_DTYPE_NAME, k, has_residual=op == SUMMED, is_power_of_two=False)
    source = {SWIGLU: "swiglu", INTERLEAVED: "swiglu_interleaved"}.get(op, "plain")
    return RowQuantizer(
        _DTYPE_NAME,
        source=source,
        rows="gathered" if op == GATHERED else "all",
        passes=passes_for(m * k * FORMS[op].columns),
    )


@dataclass(frozen=True)
class QuantizerCase:
    """Standard normal bf16 of one shape, as one operation of `records.QUANTIZERS` takes it.

    Args:
        op: which.
        shape: ``(M, K)`` of the result.
        sources: what it reads.
    """

    op: str
    shape: Shape
    sources: Sources

    @staticmethod
    def make(op: str, shape: Shape, device: str = "cuda") -> QuantizerCase:
        (m, k), form = shape, FORMS[op]
        draw = torch.Generator(device).manual_seed(0)

        def normal(*extents: int) -> Tensor:
            return torch.randn(*extents, generator=draw, device=device).to(_DTYPE)

        sources = {"x": normal(m, k * form.columns)}
        makers: dict[str, Callable[[], Tensor]] = {
            "rows": lambda: torch.randperm(m, generator=draw, device=device, dtype=torch.int32),
            "weight": lambda: normal(k),
            "residual": lambda: normal(m, k),
        }
        return QuantizerCase(op, shape, sources | {name: makers[name]() for name in form.more})

    @property
    def form(self) -> Form:
        return FORMS[self.op]

    def ours(self, layout: str, pdl: bool | None = None) -> Call:
        """Our function, with scales in ``layout``; ``pdl`` as of :func:`cute_gemm.config`.

        Where it is None, a call costs the host what it costs a user: nothing is set around it.
        """
        read, kernel = self.own_sources(), kernel_of(self.op, self.shape)
        run = self._run_of_ours(read, layout)
        return Call(
            OURS,
            run if pdl is None else cute_gemm.config(pdl=pdl)(run),
            partial(self._judge_ours, read),
            scale_layout=layout,
            config=kernel.name if kernel else None,
        )

    def _run_of_ours(self, read: Sources, layout: str) -> Callable[[], Results]:
        quantizer = getattr(cute_gemm, self.form.name)
        x, options = read["x"], {name: read[name] for name in self.form.more} | dict(self.form.options)

        given = dict(zip(_RESULTS, self.poisoned_results(layout), strict=False))

        def both_ways() -> Results:
            along_k, along_m = quantizer(x, **given)
            return *along_k, *along_m

        return both_ways if self.op == BOTH_WAYS else lambda: quantizer(x, **options, **given)

    def own_sources(self) -> Sources:
        """The sources, with a residual that no other call adds to."""
        return {name: each.clone() if name == "residual" else each for name, each in self.sources.items()}

    def error(self, read: Sources, results: Results) -> float:
        """The worst tile's error of what results stand for, against what is quantised of ``read``.

        Args:
            read: sources of a call, as it left them.
            results: the call's.
        """
        values = self._values(read)
        return max(testing.worst_tile_error(each, values) for each in self._stand_for(results))

    def _values(self, read: Sources) -> Tensor:
        """What is quantised. Unless a residual is added to, it is the same for all calls."""
        return self.form.values(**read) if self.op == SUMMED else self._same_values

    @cached_property
    def _same_values(self) -> Tensor:
        return self.form.values(**self.sources)

    def _stand_for(self, results: Results) -> list[Tensor]:
        if self.op == BLOCKS:
            return [quantize.dequantize_128x128(results[0], results[1])]
        found = [quantize.dequantize_1x128(results[0], results[1])]
        return (
            [*found, quantize.dequantize_1x128(results[2], results[3]).T] if self.op == BOTH_WAYS else found
        )

    def poisoned_results(self, layout: str) -> Results:
        """Results of NaN, as they are before a call."""
        m, k = self.shape
        shapes = [(m, k), (k, m)] if self.op == BOTH_WAYS else [(m, k)]
        return tuple(each for shape in shapes for each in self._poisoned(*shape, layout))

    def _poisoned(self, m: int, k: int, layout: str) -> Results:
        blocks = quantize.scale_blocks
        device = self.sources["x"].device
        q = torch.full((m, k), torch.nan, device=device).to(formula.E4M3)
        rows = blocks(m) if self.op == BLOCKS else m
        s = torch.full((rows, blocks(k)), torch.nan, device=device)
        return q, quantize.m_major(s) if layout == M_MAJOR else s

    def _judge_ours(self, read: Sources, results: Results) -> float:
        """The worst tile's error of a result of ours.

        Raises:
            AssertionError: it differs from the formula's by more than its kernel may.
        """
        wanted = self._formula_of(self._values(read))
        compare = _require_same_bits if self.form.is_exact else _require_neighbours
        for q, s, right_q, right_s in zip(
            results[::2], results[1::2], wanted[::2], wanted[1::2], strict=True
        ):
            compare(q, s, right_q, right_s)
        return self.error(read, results)

    def _formula_of(self, values: Tensor) -> Results:
        return {BOTH_WAYS: _both_ways, BLOCKS: _blocks}.get(self.op, _by_rows)(values)


def _require_same_bits(q: Tensor, s: Tensor, right_q: Tensor, right_s: Tensor) -> None:
    differ = int((q.view(torch.uint8) != right_q.view(torch.uint8)).sum())
    scales_differ = int((s != right_s).sum())
    if differ or scales_differ:
        raise AssertionError(
            f"{differ} elements and {scales_differ} scales have other bits than by the formula"
        )


def _require_neighbours(q: Tensor, s: Tensor, right_q: Tensor, right_s: Tensor) -> None:
    """Scales to 2^-18, and e4m3 the same but for a few that are next to each other."""
    if not torch.allclose(s, right_s, rtol=_SCALES_DIFFER, atol=0):
        raise AssertionError("scales are not those of the formula to 2^-18")
    if not torch.allclose(q.float(), right_q.float(), rtol=_STEP, atol=_LEAST_STEP):
        raise AssertionError("elements are not those of the formula, or next to them")
    share = (q.view(torch.uint8) != right_q.view(torch.uint8)).float().mean().item()
    # One of few may be next to the right one.
    if share > max(_ELEMENTS_DIFFER, 1 / q.numel()):
        raise AssertionError(f"{share:.2%} of the elements differ from the formula's")
