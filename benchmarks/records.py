"""The JSON lines that measurements are kept in, and the peers' figures beside them. No GPU needed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cute_gemm.problem import CONTIGUOUS_ALIGNMENT, GemmProblem, ceil_div

Row = dict[str, Any]
Shape = tuple[int, ...]
"""What names a problem within an operation, in the order of `KEYS`."""

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results" / "h200"

DENSE = "dense_1d2d"
CONTIGUOUS = "m_grouped_contiguous"
OFFSETS = "m_grouped_offsets"
MASKED = "m_grouped_masked"
KEYS = {DENSE: ("m", "n", "k")} | dict.fromkeys(
    (CONTIGUOUS, OFFSETS, MASKED), ("groups", "expected_m", "n", "k")
)
PEER_OPS = {DENSE: DENSE, CONTIGUOUS: CONTIGUOUS, OFFSETS: CONTIGUOUS, MASKED: MASKED}
"""What peers were measured at: none has an operation on groups without padding, so they need it padded."""

OURS = "cute_gemm"
DEEPGEMM = "DeepGEMM"
FAST = "cuBLASLt tensorwise fast-accumulate"
BLOCKWISE = "cuBLASLt blockwise"

COLD, SUSTAINED = "cold", "sustained"
ROW_MAJOR, M_MAJOR = "row_major", "m_major"

_PEERS = {COLD: "h200.jsonl", SUSTAINED: "h200_sustained.jsonl"}


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shape_of(row: Row) -> Shape:
    return tuple(row[key] for key in KEYS[row.get("op", DENSE)])


def peer_times(regime: str, op: str = DENSE) -> dict[str, dict[Shape, float]]:
    """Microseconds of each peer at each shape."""
    times: dict[str, dict[Shape, float]] = {}
    for row in read_rows(BENCHMARKS / "peers" / _PEERS[regime]):
        if row["op"] == PEER_OPS[op]:
            times.setdefault(row["peer"], {})[shape_of(row)] = row["us"]
    return times


def peer_shapes(regime: str, op: str = DENSE) -> list[Shape]:
    """The shapes that DeepGEMM was measured at, in the order of the peers' file."""
    return list(peer_times(regime, op).get(DEEPGEMM, {}))


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
        return GemmProblem(*shape, num_sms=num_sms)
    groups, expected_m, n, k = shape
    rows = groups * expected_m if op == MASKED else total_rows(op, shape)
    return GemmProblem(rows, n, k, num_sms=num_sms, layout=op.removeprefix("m_grouped_"), groups=groups)


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
        # As in the peers' file: padding counts, scales do not.
        (groups, _, n, k), rows = shape, total_rows(op, shape)
        return Work(op, shape, 2 * rows * n * k, (rows + groups * n) * k + 2 * rows * n)


def measurement(
    work: Work,
    peer: str,
    us: float,
    *,
    median: float | None,
    spread: float | None,
    regime: str,
    scale_layout: str | None,
    config: str | None,
    error_worst_tile: float | None,
    origin: Row,
) -> Row:
    """One line of a results file.

    `us` is the mean over calls. `scale_layout` and `config` are None for peers to which they do not apply,
    `error_worst_tile` where the result was not judged, `median` where only a mean was measured. `origin`
    holds `versions`, `device` and `date`.
    """
    return {
        "op": work.op,
        **dict(zip(KEYS[work.op], work.shape, strict=True)),
        "peer": peer,
        "us": round(us, 3),
        "tflops": round(work.flops / us * 1e-6, 1),
        "gb_per_s": round(work.bytes_moved / us * 1e-3, 1),
        "median": None if median is None else round(median, 3),
        "spread": None if spread is None else round(spread, 4),
        "regime": regime,
        "config": config,
        "scale_layout": scale_layout,
        "error_worst_tile": None if error_worst_tile is None else float(f"{error_worst_tile:.3e}"),
        **origin,
    }
