"""The JSON lines that measurements are kept in, and the peers' figures beside them. No GPU needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cute_gemm.problem import GemmProblem

Row = dict[str, Any]
Shape = tuple[int, int, int]
"""M, N, K."""

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results" / "h200"

OP = "dense_1d2d"
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
    return row["m"], row["n"], row["k"]


def peer_times(regime: str) -> dict[str, dict[Shape, float]]:
    """Microseconds of each peer at each shape."""
    times: dict[str, dict[Shape, float]] = {}
    for row in read_rows(BENCHMARKS / "peers" / _PEERS[regime]):
        times.setdefault(row["peer"], {})[shape_of(row)] = row["us"]
    return times


def peer_shapes(regime: str) -> list[Shape]:
    """The shapes that DeepGEMM was measured at, in the order of the peers' file."""
    return list(peer_times(regime)[DEEPGEMM])


def measurement(
    problem: GemmProblem,
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
        "op": OP,
        "m": problem.m,
        "n": problem.n,
        "k": problem.k,
        "peer": peer,
        "us": round(us, 3),
        "tflops": round(problem.flops / us * 1e-6, 1),
        "gb_per_s": round(problem.bytes_moved / us * 1e-3, 1),
        "median": None if median is None else round(median, 3),
        "spread": None if spread is None else round(spread, 4),
        "regime": regime,
        "config": config,
        "scale_layout": scale_layout,
        "error_worst_tile": None if error_worst_tile is None else float(f"{error_worst_tile:.3e}"),
        **origin,
    }
