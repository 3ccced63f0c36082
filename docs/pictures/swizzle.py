"""The 128-byte swizzle, by the layout that TMA and WGMMA share: where the 16-byte units of eight rows are."""

from __future__ import annotations

from collections import Counter

from svg import GREY, ORANGE, Drawing
from traced import traced

ROWS, UNITS, UNIT_BYTES = 8, 8, 16
MARKED = 2
SIZE = 40


def places() -> dict[tuple[int, int], int]:
    """The place within its row of each unit (row, unit) of e4m3, swizzled."""

    def by_unit() -> dict[tuple[int, int], int]:
        from cutlass import Float8E4M3FN, cute
        from cutlass.cute.nvgpu import warpgroup

        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, Float8E4M3FN)
        offsets = {
            (row, unit): cute.crd2idx((row, UNIT_BYTES * unit), atom) for row in range(8) for unit in range(8)
        }
        return {(row, unit): offset % 128 // UNIT_BYTES for (row, unit), offset in offsets.items()}

    return traced(by_unit)


def draw() -> str:
    """Eight rows as they are, and swizzled; the units of one number are marked."""
    picture = Drawing(2 * 8 * SIZE + 170, 8 * SIZE + 120, "Eight rows of 128 bytes in shared memory")
    plain = {(row, unit): unit for row in range(ROWS) for unit in range(UNITS)}
    for number, (name, place_of) in enumerate((("as they are", plain), ("swizzled", places()))):
        left, top = 60 + number * (8 * SIZE + 60), 60
        picture.text((left + 4 * SIZE, 18), f"rows {name}", 13)
        for place in range(UNITS):
            picture.text((left + (place + 0.5) * SIZE, top - 8), f"{4 * place}-{4 * place + 3}", 10)
        for row in range(ROWS):
            if number == 0:
                picture.text((left - 8, top + (row + 0.6) * SIZE), f"row {row}", anchor="end")
            for unit in range(UNITS):
                at = left + place_of[row, unit] * SIZE, top + row * SIZE
                picture.box(
                    at, (SIZE, SIZE), ORANGE if unit == MARKED else GREY, 0.35 if unit == MARKED else 0.08
                )
                picture.text((at[0] + SIZE / 2, at[1] + 0.62 * SIZE), unit, 13)
        turns = max(Counter(place_of[row, MARKED] for row in range(ROWS)).values())
        words = f"unit {MARKED} of eight rows: {turns} turn{'s' * (turns > 1)}"
        picture.text((left + 4 * SIZE, top + 8 * SIZE + 24), words, 12)
    picture.text((60, 8 * SIZE + 108), "On top: the banks of shared memory. A unit is 16 bytes.", 11, "start")
    return str(picture)
