"""How much there is to compute and to move at a shape, and the least time that a card's data sheet allows."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..plan.layouts import LAYOUTS
from ..plan.limits import CONTIGUOUS_ALIGNMENT, ceil_div
from ..plan.problem import GemmProblem
from .records import CONTIGUOUS, DENSE, KEYS, MASKED, Row, Shape, shape_of


@dataclass(frozen=True)
class Card:
    """What a card's data sheet says: dense e4m3 FLOP per second, and bytes per second."""

    flops: float
    bytes: float


_CARDS = {
    "NVIDIA H100 80GB HBM3": Card(1979e12, 3.35e12),
    "NVIDIA H100 NVL": Card(1671e12, 3.9e12),
    "NVIDIA H100 PCIe": Card(1513e12, 2.0e12),
    "NVIDIA H200": Card(1979e12, 4.8e12),
    "NVIDIA H200 NVL": Card(1671e12, 4.8e12),
    "NVIDIA GH200 480GB": Card(1979e12, 4.0e12),
    "NVIDIA GH200 144G HBM3e": Card(1979e12, 4.9e12),
}


def card_named(device: str) -> Card | None:
    """The data sheet of a device of this name, as torch gives it; None for one that is not known here."""
    return _CARDS.get(device)


@dataclass(frozen=True)
class Work:
    """What was computed: the name it goes by, and what its rates count."""

    op: str
    shape: Shape
    flops: int
    bytes_moved: int

    @staticmethod
    def of(op: str, shape: Shape) -> Work:
        if op == DENSE:
            problem = problem_of(op, shape)
            return Work(op, shape, problem.flops, problem.bytes_moved)
        # As in the peers' figures: padding counts, scales do not.
        (groups, _, n, k), rows = shape, total_rows(op, shape)
        return Work(op, shape, 2 * rows * n * k, (rows + groups * n) * k + 2 * rows * n)

    @staticmethod
    def of_row(row: Row) -> Work:
        return Work.of(row["op"], shape_of(row))

    @property
    def intensity(self) -> float:
        """FLOP for each byte moved."""
        return self.flops / self.bytes_moved

    def limit_us(self, card: Card) -> float:
        """The larger of the times that the operations and the bytes take at the card's peaks, in us."""
        return max(self.flops / card.flops, self.bytes_moved / card.bytes) * 1e6


def draw_rows(groups: int, expected_m: int) -> list[int]:
    """Rows of each group, as the peers drew them: every shape anew from the same seed."""
    uniform = random.Random(0).uniform
    return [int(expected_m * uniform(0.7, 1.3)) for _ in range(groups)]


def total_rows(op: str, shape: Shape) -> int:
    """Rows of A that a grouped shape comes to: with padding where the layout asks for it."""
    groups, expected_m, _, _ = shape
    alignment = CONTIGUOUS_ALIGNMENT if op == CONTIGUOUS else 1
    return sum(ceil_div(rows, alignment) * alignment for rows in draw_rows(groups, expected_m))


def problem_of(op: str, shape: Shape, num_sms: int = 132) -> GemmProblem:
    """What the operation makes of a shape, for the choice of a kernel."""
    if op == DENSE:
        m, n, k = shape
        return GemmProblem(m, n, k, num_sms=num_sms)
    groups, expected_m, n, k = shape
    rows = groups * expected_m if op == MASKED else total_rows(op, shape)
    return GemmProblem(
        rows, n, k, num_sms=num_sms, layout=LAYOUTS[op.removeprefix("m_grouped_")], groups=groups
    )


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
        **dict(zip(KEYS[work.op], work.shape, strict=True)),
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
        limit = work.limit_us(card)
        row |= {"limit_us": round(limit, 3), "share_of_limit": round(limit / us, 4)}
    return row | origin
