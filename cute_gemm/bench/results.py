"""Rows of a benchmark, as they are read back: by peer, by shape."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..measure.errors import CommandError
from ..measure.files import named
from ..measure.records import (
    CONTIGUOUS,
    DENSE,
    GRADIENTS,
    LAYERS,
    MASKED,
    OFFSETS,
    OURS,
    QUANTIZERS,
    Row,
    main_layout,
    read_rows,
    shape_of,
)
from ..measure.shapes import Shape
from .rows import escaped, objection

PEER_OPS = {DENSE: DENSE, CONTIGUOUS: CONTIGUOUS, OFFSETS: CONTIGUOUS, MASKED: MASKED} | {
    op: op for op in (*GRADIENTS, *QUANTIZERS, *LAYERS)
}
"""What peers are measured at: none has an operation on groups without padding, so they need it padded."""


def read_results(path: Path) -> list[Row]:
    """The rows of a file, or of all ``*.jsonl`` files in a directory, by name.

    Raises:
        CommandError: there is no such file or directory, or it holds no rows, or other rows than
            `rows.measurement` makes.
    """
    # A pipe among them would be waited for.
    files = sorted(filter(Path.is_file, path.glob("*.jsonl"))) if path.is_dir() else [path]
    rows = [(file, row) for file in files for row in read_rows(file)]
    if not rows:
        below = sorted({file.parent for file in path.glob("*/*.jsonl")}) if path.is_dir() else []
        hint = f"; there are some in {', '.join(map(named, below))}" if below else ""
        raise CommandError(f"{named(path)}: no JSON lines in it{hint}")
    for file, row in rows:
        if why := objection(row):
            raise CommandError(f"{named(file)}: not a line of a benchmark: {why}: {json.dumps(row)[:80]}")
    return [escaped(row) for _, row in rows]


def by_kind(rows: Iterable[Row], op: str, regime: str) -> dict[tuple[str, str | None], dict[Shape, Row]]:
    """Rows of ``op`` in ``regime``, by peer and, where it is ours, scale layout; then by shape.

    Raises:
        CommandError: two rows measured the same thing.
    """
    found: dict[tuple[str, str | None], dict[Shape, Row]] = {}
    for row in rows:
        if row["op"] != op or row["regime"] != regime:
            continue
        layout = row["scale_layout"] if row["peer"] == OURS else None
        kind = found.setdefault((row["peer"], layout), {})
        if shape_of(row) in kind:
            what = " ".join(filter(None, (regime, None if op == DENSE else op)))
            raise CommandError(f"two {what} rows of {row['peer']} ({layout}) at {shape_of(row)}")
        kind[shape_of(row)] = row
    return found


def ours_with(rows: Iterable[Row], op: str, regime: str, scale_layout: str | None = None) -> dict[Shape, Row]:
    """Our rows of ``op`` in ``regime``; unless asked otherwise, of the layout of scales that is compared."""
    return by_kind(rows, op, regime).get((OURS, scale_layout or main_layout(op)), {})


def peers_beside(rows: Iterable[Row], op: str, regime: str) -> dict[str, dict[Shape, Row]]:
    """Rows of each peer that was measured in this run at what ``op`` is compared with."""
    kinds = by_kind(rows, PEER_OPS[op], regime)
    return {peer: found for (peer, _), found in kinds.items() if peer != OURS}


def right_times(rows: Mapping[Shape, Row]) -> dict[Shape, float]:
    """Microseconds of the rows whose results were right."""
    return {shape: row["us"] for shape, row in rows.items() if "wrong" not in row}
