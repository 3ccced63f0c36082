"""Pictures of docs/results.md of what time is made of: of a card, an operation's kind and a regime each.

As those of the README they keep what they show in their files: here, what is drawn of the rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cute_gemm.bench import part_plots
from cute_gemm.bench.results import ours_with
from cute_gemm.measure.records import CHAIN, COLD, EXPERT_LAYER, KEYS, QUANTIZERS, Row

STAGES, QUANTIZED = "stages", "quantizers"
_SHOWN = "op", "peer", "regime", "scale_layout", "device"
_NUMBERS = {STAGES: ("us", "stages"), QUANTIZED: ("copy_share", "over_empty_us")}
_TITLES = {
    STAGES: "Time of each stage of expert layers",
    QUANTIZED: "What quantising takes over the least",
}

Data = list[Row]
"""What a picture shows: rows, of what is drawn alone."""


def data_of(rows: Sequence[Row]) -> dict[str, Data]:
    """What each picture shows, by the name of its file.

    Args:
        rows: of one card, of any operations and regimes.
    """
    found: dict[str, Data] = {}
    for regime in (COLD, CHAIN):
        if any("stages" in row for row in ours_with(rows, EXPERT_LAYER, regime).values()):
            found[_name(STAGES, rows, regime)] = _reduced(rows, STAGES, (EXPERT_LAYER,), regime)
        if part_plots.has_quantizers(rows, regime):
            found[_name(QUANTIZED, rows, regime)] = _reduced(rows, QUANTIZED, QUANTIZERS, regime)
    return found


def figure_of(data: Data) -> Any:
    """The picture of what :func:`data_of` gives."""
    op, regime = data[0]["op"], data[0]["regime"]
    return part_plots.stages(data, op, regime) if op == EXPERT_LAYER else part_plots.quantizers(data, regime)


def links(rows: Sequence[Row], kind: str, folder: str) -> list[str]:
    """Markdown that shows a card's pictures of a kind, :data:`STAGES` or :data:`QUANTIZED`."""
    return [f"![{_TITLES[kind]}]({folder}/{name})" for name in data_of(rows) if name.startswith(kind)]


def _name(kind: str, rows: Sequence[Row], regime: str) -> str:
    device = re.sub(r"[^a-z0-9]+", "_", rows[0]["device"].lower()).strip("_")
    return f"{kind}_{device}_{regime}.png"


def _reduced(rows: Sequence[Row], kind: str, ops: Sequence[str], regime: str) -> Data:
    keys = *_SHOWN, *_NUMBERS[kind]
    return [
        {key: row[key] for key in (*keys, *KEYS[row["op"]]) if key in row}
        for row in rows
        if row["op"] in ops and row["regime"] == regime
    ]
