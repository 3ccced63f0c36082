"""What peers took on one H200: the figures in `peer_figures/`, whose README says how they were measured."""

from __future__ import annotations

from pathlib import Path

from ..measure.records import CHAIN, COLD, DEEPGEMM, DENSE, SUSTAINED, read_rows, shape_of
from ..measure.shapes import Shape
from .results import PEER_OPS

DEVICE = "NVIDIA H200"
DIRECTORY = Path(__file__).parent / "peer_figures"
FILES = {COLD: DIRECTORY / "h200.jsonl", SUSTAINED: DIRECTORY / "h200_sustained.jsonl"}


def peer_times(regime: str, op: str = DENSE) -> dict[str, dict[Shape, float]]:
    """Microseconds of each peer at each shape; none where a regime has no file."""
    if regime not in FILES:
        return {}
    times: dict[str, dict[Shape, float]] = {}
    for row in read_rows(FILES[regime]):
        if row["op"] == PEER_OPS[op]:
            times.setdefault(row["peer"], {})[shape_of(row)] = row["us"]
    return times


def peer_shapes(regime: str, op: str = DENSE) -> list[Shape]:
    """The shapes that DeepGEMM was measured at, in the order of the file; in a chain those of cold calls."""
    return list(peer_times(COLD if regime == CHAIN else regime, op).get(DEEPGEMM, {}))
