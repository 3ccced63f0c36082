"""What each role of a CTA does when: three windows of what benchmarks/clocked_roles.py has recorded on a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svg import BLUE, GREEN, GREY, ORANGE, PINK, Drawing

RECORDS = Path(__file__).parents[2] / "benchmarks" / "experiments" / "roles_over_time.jsonl"

LEFT, TOP, WIDTH = 128, 62, 840
LANE, BAR, PANEL = 38, 18, 178
"""From one lane to the next; how high a bar is; from one window to the next."""
STEP = 500
"""Cycles from tick to tick; a window is as many whole ones as :data:`SHOWN` k-blocks take."""
SHOWN = 6
APART = 15
"""Least units between two numbers."""

ROLES = "TMA warp", "math warpgroup 0", "math warpgroup 1"
KINDS = {
    "wait": ("waits", GREY, 0.12),
    "issue": ("issues the copies of a k-block", BLUE, 0.9),
    "multiply": ("WGMMAs of 64 rows", ORANGE, 0.55),
    "promote": ("promotes them", GREEN, 0.55),
    "store": ("value and store of a tile", PINK, 0.55),
    "take": ("waits", GREY, 0.12),
}
"""Words, colour and opacity of each kind of event."""

Row = Mapping[str, Any]
Event = tuple[str, int, int | None, int, int]
"""Kind, tile, k-block or None, begin, end."""


def draw() -> str:
    """The picture of what is on record."""
    return drawn([json.loads(line) for line in RECORDS.read_text().splitlines()])


def drawn(rows: Sequence[Row]) -> str:
    """The picture of a CTA's rows, of two tiles at least."""
    lanes = {role: events_of(rows, role) for role in ROLES}
    m, n, k = rows[0]["shape"]
    picture = Drawing(LEFT + WIDTH + 24, TOP + 3 * PANEL - 20, "What each role of a CTA does over time")
    words = f"{rows[0]['device']}, {m} x {n} x {k}, {rows[0]['config']}: a CTA's first two tiles, L2 cold"
    picture.text((LEFT, 16), words, 12, "start")
    _legend(picture, 30)
    length = window(lanes[ROLES[1]])
    for number, (words, start) in enumerate(starts(lanes, length).items()):
        _panel(picture, TOP + number * PANEL, words, lanes, start, start + length)
    return str(picture)


def events_of(rows: Sequence[Row], role: str) -> list[Event]:
    """Those of a role, in order."""
    return [
        (kind, row["tile"], k, begin, end)
        for row in sorted(rows, key=lambda row: row["tile"])
        if row["role"] == role
        for kind, k, begin, end in row["events"]
    ]


def window(events: Sequence[Event]) -> int:
    """Cycles that are shown of each part, by how long a math warpgroup takes for the first tile's k-blocks."""
    begins = [begin for kind, tile, _, begin, _ in events if (kind, tile) == ("wait", 0)]
    each = (begins[-1] - begins[0]) / (len(begins) - 1)
    return -(-round(SHOWN * each) // STEP) * STEP


def starts(lanes: Mapping[str, Sequence[Event]], length: int) -> dict[str, int]:
    """The first cycle of each window, by what it shows."""
    math = [lanes[role] for role in ROLES[1:]]
    waits = [begin for kind, tile, _, begin, _ in math[0] if (kind, tile) == ("wait", 0)]
    left = min(begin for events in math for kind, tile, _, begin, _ in events if (kind, tile) == ("take", 0))
    return {
        "the ring is filled": 0,
        "in the middle of a tile": waits[len(waits) // 2] // STEP * STEP,
        "from one tile to the next": (left - length // 4) // STEP * STEP,
    }


def _legend(picture: Drawing, y: float) -> None:
    x = LEFT
    for words, colour, opacity in dict.fromkeys(KINDS.values()):
        picture.box((x, y), (16, 12), colour, opacity, colour, 0.6)
        picture.text((x + 21, y + 10), words, 11, "start")
        x += 44 + 6 * len(words)


def _panel(
    picture: Drawing, y: float, title: str, lanes: Mapping[str, Sequence[Event]], start: int, end: int
) -> None:
    """A window of all lanes from cycle ``start`` to ``end``, and its axis."""

    def place(cycle: int) -> float:
        return round(LEFT + WIDTH * (min(max(cycle, start), end) - start) / (end - start), 1)

    picture.text((LEFT, y + 8), title, 11, "start")
    for number, (role, events) in enumerate(lanes.items()):
        top = y + 26 + number * LANE
        picture.text((LEFT - 10, top + 13), role, 11, "end")
        numbered = float("-inf")
        for kind, tile, k, begin, stop in events:
            if stop <= start or begin >= end:
                continue
            left, right = place(begin), place(stop)
            _, colour, opacity = KINDS[kind]
            size = round(max(right - left, 0.6), 1), BAR
            picture.box((left, top), size, colour, opacity, colour, 0.4)
            begins = kind == ("issue" if number == 0 else "multiply")
            first_part = begins and (number == 0 or (kind, tile, k) != shown_before)
            if begins:
                shown_before = kind, tile, k
            words = f"tile {tile}, k 0" if k == 0 else str(k)
            if first_part and begin >= start and left - numbered >= APART:
                picture.text((left, top - 3), words, 9, "start")
                numbered = left + 5 * len(words) - 5
    bottom = y + 26 + len(lanes) * LANE - 14
    picture.line([(LEFT, bottom), (LEFT + WIDTH, bottom)])
    for cycle in range(start, end + 1, 2 * STEP):
        x = place(cycle)
        picture.line([(x, bottom), (x, bottom + 4)])
        picture.text((x, bottom + 15), f"{cycle} cycles" if cycle == start else cycle, 9.5)
