"""What docs/results.md says of quantisers: shares of a copy's speed, and what a launch of few rows costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cute_gemm.bench.results import ours_with
from cute_gemm.bench.tables import QUANTIZER_TITLES
from cute_gemm.measure.records import CHAIN, COLD, M_MAJOR, QUANTIZERS, ROW_MAJOR, Row
from cute_gemm.measure.shapes import Shape

_LAYOUTS = {ROW_MAJOR: "", M_MAJOR: ", M-major scales"}
_Found = dict[str, dict[Shape, Row]]
"""Rows by shape, of each form and layout of scales by its title."""


def sections(rows: Sequence[Row], origin: Callable[[Sequence[Row]], str]) -> Iterator[str]:
    """Markdown for the quantisers among the rows of one card.

    Args:
        rows: of any operations and regimes.
        origin: device, date and versions in words.
    """
    if cold := _found(rows, COLD, "copy_share"):
        yield _section(
            "Quantising bf16, cold L2: microseconds, and the share of the speed of a copy of as many bytes",
            cold,
            lambda row: f"{row['us']:.1f} ({row['copy_share']:.2f})",
            origin,
        )
    if few := _found(rows, CHAIN, "over_empty_us"):
        yield _section(
            "Quantising few rows of bf16 in a CUDA graph, operands in L2: microseconds over an empty kernel",
            few,
            lambda row: f"{row['over_empty_us']:.2f}",
            origin,
        )


def _found(rows: Sequence[Row], regime: str, key: str) -> _Found:
    """Ours that have ``key``."""
    found = {
        QUANTIZER_TITLES[op] + title: {
            shape: row for shape, row in ours_with(rows, op, regime, layout).items() if key in row
        }
        for op in QUANTIZERS
        for layout, title in _LAYOUTS.items()
    }
    return {title: own for title, own in found.items() if own}


def _section(
    title: str, found: _Found, cell: Callable[[Row], str], origin: Callable[[Sequence[Row]], str]
) -> str:
    """A table for each K, with a column for each M."""
    shapes = sorted({shape for own in found.values() for shape in own})
    everything = [row for own in found.values() for row in own.values()]
    parts = [f"**{title}** ({origin(everything)}):"]
    for k in sorted({k for _, k in shapes}, reverse=True):
        ms = [m for m, other in shapes if other == k]
        lines = [f"| K = {k} | {' | '.join(f'M = {m}' for m in ms)} |", f"|---|{'--:|' * len(ms)}"]
        for name, own in found.items():
            cells = [cell(own[m, k]) if (m, k) in own else "" for m in ms]
            if any(cells):
                lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
