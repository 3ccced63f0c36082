"""What each role of a CTA does when: three windows of what benchmarks/clocked_roles.py has recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from svg import BLUE, GREEN, GREY, ORANGE, PINK, Drawing

RECORDS = Path(__file__).parents[2] / "benchmarks" / "experiments" / "roles_over_time.jsonl"

LEFT, TOP, WIDTH, MARGIN = 128, 62, 840, 24
LANE, BAR, PANEL = 38, 18, 174
"""From one lane to the next; how high a bar is; from one window to the next."""
STEP, TICK = 500, 1000
"""Cycles of which a window begins at a multiple, and is as many whole ones as :data:`SHOWN` k-blocks take;
cycles from tick to tick."""
SHOWN = 8

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
    picture = Drawing(LEFT + WIDTH + MARGIN, TOP + 3 * PANEL - 10, "What each role of a CTA does over time")
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
    """Cycles that are shown of each part, by how long a warpgroup takes for k-blocks of the first tile."""
    begins = [begin for kind, tile, _, begin, _ in events if (kind, tile) == ("wait", 0)]
    each = (begins[-1] - begins[0]) / (len(begins) - 1)
    return -(-round(SHOWN * each) // STEP) * STEP


def starts(lanes: Mapping[str, Sequence[Event]], length: int) -> dict[str, int]:
    """The first cycle of each window, by what it shows."""
    waits = {(tile, k): (begin, end) for kind, tile, k, begin, end in lanes[ROLES[1]] if kind == "wait"}
    middle, _ = waits[0, sum(tile == 0 for tile, _ in waits) // 2]
    ahead = next(end for kind, tile, _, _, end in lanes[ROLES[0]] if (kind, tile) == ("wait", 1))
    return {
        "the ring is filled": 0,
        "in the middle of a tile": middle // STEP * STEP,
        "from one tile to the next": (ahead - length // 16) // STEP * STEP,
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
    top = y + 28
    for role, events in lanes.items():
        picture.text((LEFT - 10, top + 13), role, 11, "end")
        for kind, _, _, begin, stop in events:
            if stop > start and begin < end:
                _, colour, opacity = KINDS[kind]
                left, right = place(begin), place(stop)
                picture.box(
                    (left, top), (max(round(right - left, 1), 0.6), BAR), colour, opacity, colour, 0.4
                )
        _numbers(picture, top - 3, [event for event in events if start <= event[-1] < end], place)
        top += LANE
    bottom = top - LANE + BAR + 5
    picture.line([(LEFT, bottom), (LEFT + WIDTH, bottom)])
    picture.text((LEFT - 24, bottom + 15), "cycles", 9.5, "end")
    for cycle in range(-(-start // TICK) * TICK, end + 1, TICK):
        x = place(cycle)
        picture.line([(x, bottom), (x, bottom + 4)])
        picture.text((x, bottom + 15), cycle, 9.5)


def _numbers(picture: Drawing, y: float, events: Sequence[Event], place: Callable[[int], float]) -> None:
    """The number of each k-block, where its stage has been waited for, and the tile's with the first one."""
    free, is_first = 0.0, True
    for kind, tile, k, _, end in events:
        if kind == "wait":
            words = f"tile {tile}, k {k}" if is_first or k == 0 else str(k)
            x, width = place(end), 5 * len(words)
            if free <= x and x + width <= LEFT + WIDTH + MARGIN:
                picture.text((x, y), words, 9, "start")
                free, is_first = x + width + 4, False
