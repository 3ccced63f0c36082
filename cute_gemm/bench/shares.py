"""What rows of quantisers say beside times: the share of a copy's speed, and what a launch costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from ..measure.calls import Call
from ..measure.records import CHAIN, COLD, COPY, EMPTY, OURS, QUANTIZERS, Row, shape_of
from ..measure.shapes import Shape, shape_text
from ..measure.statistics import geometric_mean

BAR = 0.9
"""The share of a copy's speed that a quantiser of many rows must reach."""

MANY_ELEMENTS = 4096 * 7168
"""From how many on that is asked."""

# As small as a layer's products are in decoding: the host is what they cost.
_TINY = 16, 64, 128


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Rows of one trial, with what in ours follows from those of the others.

    ``copy_share`` is the time of a copy of as many bytes over ours; ``over_empty_us`` is ours less that of a
    kernel that does nothing, launched in the same way.
    """
    beside = {row["peer"]: row["us"] for row in rows if "wrong" not in row}
    return [row | _shares(row, beside) if row["peer"] == OURS else row for row in rows]


def _shares(row: Row, beside: dict[str, float]) -> Row:
    found: Row = {}
    if COPY in beside:
        found["copy_share"] = round(beside[COPY] / row["us"], 4)
    if EMPTY in beside:
        found["over_empty_us"] = round(row["us"] - beside[EMPTY], 3)
    return found


def host_times(call: Call, host_time: Callable[[Callable[[], object]], float], device: str) -> Row:
    """``host_us`` of a call, and beside it ``host_mm_us``: that of a small ``torch.mm`` to a given result.

    Args:
        call: of so few rows that the device keeps up.
        host_time: as `clocks.host_time`.
        device: where the product is.
    """
    m, n, k = _TINY
    a, b, out = (torch.ones(shape, dtype=torch.bfloat16, device=device) for shape in ((m, k), (k, n), (m, n)))
    times = host_time(call.run), host_time(lambda: torch.mm(a, b, out=out))
    return dict(zip(("host_us", "host_mm_us"), (round(us, 2) for us in times), strict=True))


def summary(rows: Iterable[Row]) -> str:
    """What a person who waits at the terminal wants to know of the quantisers; empty if there are none."""
    ours = [row for row in rows if row["peer"] == OURS and row["op"] in QUANTIZERS]
    lines = []
    large = [
        row
        for row in ours
        if row["regime"] == COLD and "copy_share" in row and _elements(row) >= MANY_ELEMENTS
    ]
    if large:
        shares = [row["copy_share"] for row in large]
        lines.append(
            f"cold quantisers of {MANY_ELEMENTS} elements or more, share of a copy's speed: geometric mean"
            f" {geometric_mean(shares):.3f}, least {min(shares):.3f}; below {BAR:g}:"
            f" {sum(share < BAR for share in shares)} of {len(shares)}"
        )
        lines += [
            f"  {_title(row)}: {row['copy_share']:.3f}"
            for row in sorted(large, key=lambda row: row["copy_share"])
            if row["copy_share"] < BAR
        ]
    few = [row for row in ours if row["regime"] == CHAIN and "over_empty_us" in row]
    if few:
        worst = max(few, key=lambda row: row["over_empty_us"])
        lines.append(
            f"quantisers of few rows, time over an empty kernel: at most {worst['over_empty_us']:.2f} us"
            f" ({_title(worst)})"
        )
    hosts = [row for row in ours if "host_us" in row]
    if hosts:
        ratios = [row["host_us"] / row["host_mm_us"] for row in hosts]
        lines.append(
            f"their host time over that of a small torch.mm: geometric mean {geometric_mean(ratios):.2f},"
            f" greatest {max(ratios):.2f}"
        )
    return "\n".join(lines)


def _elements(row: Row) -> int:
    shape: Shape = shape_of(row)
    m, k = shape
    return m * k


def _title(row: Row) -> str:
    return f"{row['op']} {shape_text(shape_of(row))}, {row['scale_layout']} scales"
