"""Has FFMAs of promotion that share a scale read it less often from the register file.

Promotion is a run of ``FFMA acc, partial, scale, acc`` with one scale. While it issues, the other math
warpgroup's WGMMAs read and write accumulators in the same register file, whose ports bound both. An
instruction may keep an operand for the next one of its warp; it should not yield to another warp then, as
what is kept would be lost. ptxas has FFMAs keep and yield in turns, so that every second one reads the scale.
Here only each :data:`RUN`-th one yields, which takes 1 to 1.7 % less time in tiles of two math warpgroups
(docs/performance.md, 93). No result changes.

Of the 128 bits of an instruction, which lie on Hopper as on Volta (Jia et al., "Dissecting the NVIDIA Volta
GPU Architecture via Microbenchmarking", arXiv:1804.06826, section 2):

    0 .. 11     opcode                       105 .. 108    cycles that it waits
    12 .. 15    guard                        109           does not yield
    16 .. 23    register that is written     122 .. 124    operands that it keeps
    32 .. 39    second operand
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from . import cubins

RUN = 6
"""FFMAs from one that yields to the next. With 2 nothing is gained; 8 and more lose 2 % in 128x64 tiles."""

_BYTES = 16
_FFMA = 0x7223
"""FFMA of four registers, under no guard."""
_STAYS, _KEEPS = 1 << 45, 1 << 59
"""In the upper 64 bits: that it does not yield, and that its second operand is kept."""
_LONGEST_STAY = 11
"""Cycles that an instruction may wait which does not yield: ptxas has all that wait longer yield."""


class _Ffma(NamedTuple):
    place: int
    upper: int
    written: int
    scale: int

    @property
    def may_stay(self) -> bool:
        return self.upper >> 41 & 0xF <= _LONGEST_STAY and self.written != self.scale


def with_longer_runs(image: bytes) -> bytes:
    """An object or a library with its kernels' FFMAs marked; as it was, where there is no cubin."""
    place = cubins.find(image)
    if place is None:
        return image
    cubin = image[place]
    marked = bytearray(cubin)
    for code in cubins.code(cubin):
        marked[code] = mark(cubin[code])
    return image[: place.start] + marked + image[place.stop :]


def mark(code: bytes) -> bytes:
    """The instructions of a function, with those marked that are FFMAs next to one of the same scale."""
    marked = bytearray(code)
    for run in _runs(code):
        for number, each in enumerate(run, 1):
            keeps = number < len(run) and number % RUN != 0
            upper = each.upper & ~(_STAYS | _KEEPS) | (_STAYS | _KEEPS if keeps else 0)
            struct.pack_into("<Q", marked, each.place + 8, upper)
    return bytes(marked)


def _runs(code: bytes) -> list[list[_Ffma]]:
    """FFMAs that follow each other, two at least, with one second operand; all but the last may keep it."""
    runs: list[list[_Ffma]] = [[]]
    for place in range(0, len(code) - _BYTES + 1, _BYTES):
        lower, upper = struct.unpack_from("<QQ", code, place)
        run = runs[-1]
        if lower & 0xFFFF != _FFMA:
            runs.append([])
            continue
        each = _Ffma(place, upper, lower >> 16 & 0xFF, lower >> 32 & 0xFF)
        if run and (run[-1].scale != each.scale or not run[-1].may_stay):
            runs.append([each])
        else:
            run.append(each)
    return [run for run in runs if len(run) > 1]
