"""The order of tiles, for the sake of L2, as the library's own scheduler hands them out."""

from __future__ import annotations

from itertools import groupby

from svg import COLOURS, GREY, Drawing

M, N = 4096, 7168
BLOCK, CLUSTER_M, RASTER = 128, 2, 4
"""Rows and columns of a tile, CTAs of a cluster, clusters side by side."""
SIZE, LABELLED = 13, 3

Wave = int
Order = dict[tuple[int, int], Wave]
"""By row and column of tiles: the how manyth of its CTA's tiles it is."""


def order() -> tuple[int, Order]:
    """How many CTAs there are, and the wave of each tile."""
    from cute_gemm.schedulers.dense import DenseScheduler
    from cute_gemm.testing import schedules

    walked = schedules.walk(
        DenseScheduler,
        schedules.Extents(M, N),
        block_mn=(BLOCK, BLOCK),
        cluster_mnk=(CLUSTER_M, 1, 1),
        raster_width=RASTER,
    )
    schedules.assert_each_tile_once(walked, [schedules.Rows(0, 0, 0, M)])
    waves = {
        (tile.row // BLOCK, tile.n_tile): wave
        for seen in walked.ctas.values()
        for wave, tile in enumerate(seen)
        if tile.is_valid
    }
    return len(walked.ctas), waves


def draw() -> str:
    """D, with the tiles of each wave in a colour of their own."""
    ctas, waves = order()
    rows, columns = M // BLOCK, N // BLOCK
    left, top = 70, 50
    right, bottom = left + columns * SIZE, top + rows * SIZE
    picture = Drawing(right + 30, bottom + 60, "The order of tiles")
    picture.text(((left + right) / 2, 18), f"D of {M} x {N}, in tiles of {BLOCK} x {BLOCK}", 13)
    for row in range(rows):
        for wave, run in groupby(range(columns), key=lambda column, row=row: waves[row, column]):
            own = [*run]
            at = left + own[0] * SIZE, top + row * SIZE
            picture.box(at, (len(own) * SIZE, SIZE), COLOURS[wave % 4], 0.28, "none")
    for row in range(rows + 1):
        is_band = row % (RASTER * CLUSTER_M) == 0
        picture.line([(left, top + row * SIZE), (right, top + row * SIZE)], width=1.5 if is_band else 0.3)
    for column in range(columns + 1):
        picture.line([(left + column * SIZE, top), (left + column * SIZE, bottom)], width=0.3)
    for band, first in enumerate(range(0, rows, RASTER * CLUSTER_M)):
        middle = top + (first + RASTER * CLUSTER_M / 2) * SIZE
        picture.text((left - 8, middle + 4), f"band {band}", 12, "end")
        for wave, run in groupby(range(columns), key=lambda column, row=first: waves[row, column]):
            own = [*run]
            if len(own) > LABELLED:
                picture.text((left + (own[0] + own[-1] + 1) / 2 * SIZE, middle + 4), f"wave {wave}", 12)
    height = RASTER * CLUSTER_M * SIZE
    for column in (0.5, 1.5):
        x = left + column * SIZE
        picture.line([(x, top - 18), (x, top + height - 3)], width=1.5, arrow=True)
    wave_0 = [place for place, wave in waves.items() if wave == 0]
    a_tiles, b_tiles = len({row for row, _ in wave_0}), len({column for _, column in wave_0})
    by_rows = -(-ctas // columns)
    words = (
        f"A wave: the tiles that {ctas} CTAs compute at once."
        f" A band: {RASTER * CLUSTER_M} rows of tiles, walked column by column.",
        f"Wave 0 reads {a_tiles} x {BLOCK} rows of A and {b_tiles} x {BLOCK} of B."
        f" Row by row, it would be {by_rows} x {BLOCK} of A and {columns} x {BLOCK} of B.",
    )
    for number, line in enumerate(words):
        picture.text((left, bottom + 24 + 18 * number), line, 12, "start", GREY)
    return str(picture)
