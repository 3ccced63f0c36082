"""The rows that a benchmark writes."""

from __future__ import annotations

from ..measure.cards import card_named
from ..measure.records import Row, key_of
from ..measure.work import Work


def measurement(
    work: Work,
    peer: str,
    us: float,
    *,
    median: float | None,
    spread: float | None,
    rounds: int,
    timer: str,
    regime: str,
    scale_layout: str | None,
    config: str | None,
    error_worst_tile: float | None,
    origin: Row,
) -> Row:
    """One line of a results file.

    Args:
        work: what was computed.
        peer: who computed it.
        us: mean over the rounds, in microseconds, as are `median` and `limit_us`.
        median, spread: over the rounds; the spread is longest less shortest, as a share of the median.
        rounds: how many there were.
        timer: what measured: see `timers`.
        regime: ``"cold"`` or ``"sustained"``.
        scale_layout, config: None for peers to which they do not apply.
        error_worst_tile: of the result that the last timed call left.
        origin: ``versions``, ``device`` and ``date``.

    Returns:
        The row. ``limit_us`` and ``share_of_limit`` are in it where the data sheet of the device is known.
    """
    row: Row = {
        "op": work.op,
        **key_of(work.op, work.shape),
        "peer": peer,
        "us": round(us, 3),
        "tflops": round(work.flops / us * 1e-6, 1),
        "gb_per_s": round(work.bytes_moved / us * 1e-3, 1),
        "median": None if median is None else round(median, 3),
        "spread": None if spread is None else round(spread, 4),
        "rounds": rounds,
        "timer": timer,
        "regime": regime,
        "config": config,
        "scale_layout": scale_layout,
        "error_worst_tile": None if error_worst_tile is None else float(f"{error_worst_tile:.3e}"),
    }
    if card := card_named(origin["device"]):
        limit = card.limit_us(work)
        row |= {"limit_us": round(limit, 3), "share_of_limit": round(limit / us, 4)}
    return row | origin
