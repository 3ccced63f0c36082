"""The ring: k-blocks go through four stages, barriers flip their phases. By a model of who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from svg import BLUE, GREY, ORANGE, Drawing

STAGES, K_BLOCKS = 4, 10
LOAD, MULTIPLY = 5, 3
"""How long a load takes to land, and a k-block to be multiplied, in steps of the picture."""
STEP, LANE, LEFT = 19, 62, 76


@dataclass(frozen=True)
class Pass:
    """One k-block's way through its stage: when it is asked for, has landed, is read, and is released."""

    k_block: int
    asked: int
    landed: int
    read: int
    released: int

    @property
    def stage(self) -> int:
        return self.k_block % STAGES


def passes() -> list[Pass]:
    """The producer waits for empty stages and asks once a step; the consumer waits for full ones."""
    found: list[Pass] = []
    for k in range(K_BLOCKS):
        empty = found[k - STAGES].released if k >= STAGES else 0
        asked = max(empty, found[-1].asked + 1 if found else 0)
        landed = asked + LOAD
        read = max(landed, found[-1].released if found else 0)
        found.append(Pass(k, asked, landed, read, read + MULTIPLY))
    return found


def draw() -> str:
    """Stages as lanes over time; below each the phase that its two barriers are in."""
    all_of = passes()
    end = all_of[-1].released
    left, top = LEFT, 46
    picture = Drawing(
        left + (end + 1) * STEP + 8, top + STAGES * LANE + 66, "Four stages, their barriers and phases"
    )
    picture.text((left, 18), "time, in steps", 12, "start")
    picture.line([(left + 90, 14), (left + 150, 14)], arrow=True)
    for stage in range(STAGES):
        y = top + stage * LANE
        picture.text((left - 8, y + 16), f"stage {stage}", 12, "end")
        picture.text((left - 8, y + 34), "full", 10, "end")
        picture.text((left - 8, y + 47), "empty", 10, "end")
        own = [each for each in all_of if each.stage == stage]
        for each in own:
            _bar(picture, y, each.asked, each.landed, BLUE, f"load {each.k_block}")
            _bar(picture, y, each.read, each.released, ORANGE, f"k {each.k_block}")
        _phases(picture, y + 26, [each.landed for each in own], end)
        _phases(picture, y + 39, [each.released for each in own], end)
    words = (
        "load: from the TMA warp's request until its bytes have landed. k: WGMMAs read the stage.",
        "0, 1: the phase that a barrier is in."
        f" Who needs k-block k waits for the end of full's phase k / {STAGES} % 2.",
    )
    for number, line in enumerate(words):
        picture.text((left, top + STAGES * LANE + 20 + 18 * number), line, 11, "start", GREY)
    return str(picture)


def _bar(picture: Drawing, y: float, start: int, end: int, colour: str, words: str) -> None:
    at = LEFT + start * STEP, y
    picture.box(at, ((end - start) * STEP, 22), colour, 0.25)
    picture.text((at[0] + (end - start) * STEP / 2, y + 15), words, 10.5)


def _phases(picture: Drawing, y: float, flips: list[int], end: int) -> None:
    """The phase bit over time: it flips at each of ``flips``."""
    edges = [0, *flips, end + 1]
    for phase, (start, stop) in enumerate(pairwise(edges)):
        if stop > start:
            picture.box(
                (76 + start * STEP, y), ((stop - start) * STEP, 10), GREY, 0.25 * (phase % 2), edge_width=0.6
            )
            picture.text((LEFT + (start + stop) / 2 * STEP, y + 8.5), phase % 2, 8.5)
