"""The JSON lines that measurements are kept in, and the names in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import BenchError

Row = dict[str, Any]
Shape = tuple[int, ...]
"""What names a problem within an operation, in the order of `KEYS`."""

DENSE = "dense_1d2d"
CONTIGUOUS = "m_grouped_contiguous"
OFFSETS = "m_grouped_offsets"
MASKED = "m_grouped_masked"
GROUPED = CONTIGUOUS, OFFSETS, MASKED
KEYS = {DENSE: ("m", "n", "k")} | dict.fromkeys(GROUPED, ("groups", "expected_m", "n", "k"))
PEER_OPS = {DENSE: DENSE, CONTIGUOUS: CONTIGUOUS, OFFSETS: CONTIGUOUS, MASKED: MASKED}
"""What peers are measured at: none has an operation on groups without padding, so they need it padded."""

OURS = "cute_gemm"
DEEPGEMM = "DeepGEMM"
FAST = "cuBLASLt tensorwise fast-accumulate"
BLOCKWISE = "cuBLASLt blockwise"
TRITON = "Triton"

COLD, SUSTAINED = "cold", "sustained"
ROW_MAJOR, M_MAJOR = "row_major", "m_major"


def read_rows(path: Path) -> list[Row]:
    """The rows of one file.

    Raises:
        BenchError: there is no such file, or a line is not JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BenchError(f"{path}: {error}") from error


def read_results(path: Path) -> list[Row]:
    """The rows of a file, or of all ``*.jsonl`` files in a directory, by name.

    Raises:
        BenchError: there is no such file or directory, or it holds no rows, or other rows than `measurement`
            makes.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    rows = [row for file in files for row in read_rows(file)]
    if not rows:
        raise BenchError(f"{path}: no JSON lines in it")
    for row in rows:
        known = isinstance(row, dict) and {"op", "peer", "us", "regime", "scale_layout"} <= row.keys()
        if not known or not {*KEYS.get(row["op"], ("op of no such name",))} <= row.keys():
            raise BenchError(f"{path}: not a line of a benchmark: {json.dumps(row)[:80]}")
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace a file, and make its directory if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shape_of(row: Row) -> Shape:
    """The shape of a row; one without ``op`` is dense."""
    return tuple(row[key] for key in KEYS[row.get("op", DENSE)])


def by_kind(rows: Iterable[Row], op: str, regime: str) -> dict[tuple[str, str | None], dict[Shape, Row]]:
    """Rows of ``op`` in ``regime``, by peer and, where it is ours, scale layout; then by shape.

    Raises:
        BenchError: two rows measured the same thing.
    """
    found: dict[tuple[str, str | None], dict[Shape, Row]] = {}
    for row in rows:
        if row["op"] != op or row["regime"] != regime:
            continue
        layout = row["scale_layout"] if row["peer"] == OURS else None
        kind = found.setdefault((row["peer"], layout), {})
        if shape_of(row) in kind:
            what = " ".join(filter(None, (regime, None if op == DENSE else op)))
            raise BenchError(f"two {what} rows of {row['peer']} ({layout}) at {shape_of(row)}")
        kind[shape_of(row)] = row
    return found


def ours_with(rows: Iterable[Row], op: str, regime: str, scale_layout: str = M_MAJOR) -> dict[Shape, Row]:
    """Our rows of ``op`` in ``regime``; unless asked otherwise, of the scales that DeepGEMM takes."""
    return by_kind(rows, op, regime).get((OURS, scale_layout), {})


def peers_beside(rows: Iterable[Row], op: str, regime: str) -> dict[str, dict[Shape, Row]]:
    """Rows of each peer that was measured in this run at what ``op`` is compared with."""
    kinds = by_kind(rows, PEER_OPS[op], regime)
    return {peer: found for (peer, _), found in kinds.items() if peer != OURS}


def right_times(rows: Mapping[Shape, Row]) -> dict[Shape, float]:
    """Microseconds of the rows whose results were right."""
    return {shape: row["us"] for shape, row in rows.items() if "wrong" not in row}


def shape_text(shape: Sequence[int]) -> str:
    """``(64, 2112, 7168)`` as ``"64x2112x7168"``."""
    return "x".join(map(str, shape))
