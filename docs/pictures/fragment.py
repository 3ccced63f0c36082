"""The WGMMA fragment: which lane holds which element in which register, by the MMA's own layout."""

from __future__ import annotations

from svg import COLOURS, GREY, ORANGE, Drawing
from traced import traced

N, COLUMNS, ROWS = 128, 16, 16
WIDTH, HEIGHT = 42, 21


def holders() -> dict[tuple[int, int], tuple[int, int]]:
    """The thread and the register of each element (row, column) of a fragment of 64 x 128."""

    def by_thread() -> dict[tuple[int, int], tuple[int, int]]:
        from cutlass import cute

        from cute_gemm.kernels.sm90.mma import fragment_mma

        layout = fragment_mma(N).tv_layout_C_tiled
        places = {}
        for thread in range(128):
            for register in range(N // 2):
                # Elements are counted column by column.
                column, row = divmod(cute.crd2idx((thread, register), layout), 64)
                places[row, column] = thread, register
        return places

    return traced(by_thread)


def draw() -> str:
    """The upper left 16 x 16 elements, which are of warp 0, and where they are in the fragment."""
    holder = holders()
    picture = Drawing(
        100 + 16 * WIDTH + 30, 60 + 16 * HEIGHT + 56, "Which lane holds which element of a WGMMA's result"
    )
    left, top = 100, 60
    picture.text((left + 8 * WIDTH, 18), "rows 0 to 15, columns 0 to 15 of 64 x 128: lane, and register", 13)
    for column in range(COLUMNS):
        picture.text((left + (column + 0.5) * WIDTH, top - 8), column)
    for row in range(ROWS):
        picture.text((left - 8, top + (row + 0.7) * HEIGHT), f"row {row}", anchor="end")
        for column in range(COLUMNS):
            thread, register = holder[row, column]
            at = left + column * WIDTH, top + row * HEIGHT
            picture.box(at, (WIDTH, HEIGHT), COLOURS[thread % 4], 0.18)
            picture.text((at[0] + WIDTH / 2, at[1] + 0.7 * HEIGHT), f"{thread} · r{register}", 10)
    for row, column in (place for place, (thread, _) in holder.items() if thread == 5):
        if column < COLUMNS:
            at = left + column * WIDTH, top + row * HEIGHT
            picture.box(at, (WIDTH, HEIGHT), edge=ORANGE, edge_width=2.5)
    bottom = top + ROWS * HEIGHT + 24
    lines = (
        "A colour is a place in a quad. Framed: what lane 5 holds.",
        "Warp w has rows 16 w to 16 w + 15. The next eight columns are in the next four registers.",
    )
    for number, words in enumerate(lines):
        picture.text((left, bottom + 20 * number), words, 12, "start", GREY)
    return str(picture)
