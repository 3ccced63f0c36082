"""The tiles that may be chosen: rows, columns, and among how many CTAs their k-blocks are shared out.

Layouts refer to these tables. A tile of another height also needs its times in the cost model.
"""

from __future__ import annotations

from collections.abc import Mapping

Widths = Mapping[int, tuple[int, ...]]
"""By the height of a tile: its widths."""

Splits = Mapping[tuple[int, int], tuple[int, ...]]
"""By tile: among how many CTAs of a cluster its k-blocks may be shared out."""

DENSE_OVERLAPPED_WIDTHS: Widths = {64: (16, 32, 48, 64, 80, 96, 112, 128)}
"""Of tiles that multiply a k-block while they promote the last."""

DENSE_WIDTHS: Widths = {128: (32, 64, 80, 96, 112, 128, 144, 160, 192), 256: (112, 128)}
"""Of the others."""

GROUPED_OVERLAPPED_WIDTHS: Widths = {64: (16, 32, 48, 64, 96, 128)}
"""For few groups of few rows."""

GROUPED_WIDTHS: Widths = {64: (64, 96, 128), 128: (128, 160, 192), 256: (128,)}
"""Grouped problems have many tiles, so few widths do."""

Clusters = Mapping[int, tuple[tuple[int, int], ...]]
"""By the width of a tile: CTAs along M and along N of clusters of several."""

GROUPED_OVERLAPPED_CLUSTERS: Clusters = {
    32: ((1, 4),),
    48: ((1, 4),),
    64: ((1, 4),),
    96: ((1, 2),),
    128: ((2, 1), (1, 2)),
}
GROUPED_CLUSTERS: Clusters = {128: ((2, 1), (1, 2))}
"""Of tiles of 64 rows. Without all others the fastest one takes 0.04 % longer (docs/performance.md, 84)."""

RowScaled = Mapping[tuple[int, int], tuple[tuple[int, int], ...]]
"""By rows and columns of a tile: CTAs along M and along N of its clusters."""

ROW_SCALED_TILES: RowScaled = {
    (64, 128): ((1, 1),),
    (128, 128): ((1, 1), (2, 1), (1, 2)),
    (128, 192): ((1, 1), (2, 1)),
    (256, 128): ((1, 1), (2, 1), (1, 2)),
}
"""Of products whose B has scales of each row.

Gradients of weights have many rows and columns, so few tiles do."""

OUT_LOADING_TILES: tuple[tuple[int, int], ...] = ((128, 128), (128, 192))
"""Those of them, without a cluster, whose D fits beside a ring of stages, to be loaded and added to."""

COLUMN_GROUP_TILES: RowScaled = {
    (64, 128): ((1, 1),),
    (128, 128): ((1, 1),),
    (128, 192): ((1, 1),),
}
"""The same where each group of columns has a result. 256x128 takes 2 to 6 % longer than 128x192, and spills
without a cluster; clusters of 128x128 take as long as no clusters (docs/performance.md, 91)."""

QUANTIZED_WIDTHS: Mapping[int, Widths] = {
    1: {16: (128,), 64: (128,), 128: (128,), 256: (128,)},
    2: {16: (256,), 64: (256,), 128: (256,)},
}
"""Of tiles whose result is quantised and that have all columns of a scale, by how many columns of sums make
one of it; 128 of it share a scale. A layout has the tiles of its heights, and of its others those whose
cluster has all columns of a scale."""

QUANTIZED_PARTS: Mapping[int, Widths] = {2: {16: (128,)}}
"""Further overlapped tiles, of layouts with such heights, that have a part of the columns of a scale: where
groups have few rows they take 5 to 15 % less than tiles of all columns (docs/performance.md, 87)."""

QUANTIZED_SPLITS: Splits = {(64, 128): (2, 4)}
"""As :data:`DENSE_SPLITS`, of tiles whose result is quantised, a column of each of sums. Of two, 64x256 would
be needed, which takes longer than a cluster of narrower tiles (docs/performance.md, 85)."""

SMALL_OVERLAPPED_WIDTHS: Widths = {16: (32, 64), **GROUPED_OVERLAPPED_WIDTHS}
SMALL_WIDTHS: Widths = {16: (128,), **GROUPED_WIDTHS}
"""Where groups are not padded: of a tile of 64 rows most might be of other groups, or nobody's."""

DENSE_SPLITS: Splits = {
    (8, 64): (1, 2, 4, 8),
    (64, 48): (2, 3),
    (64, 64): (2, 3, 4, 8),
    (64, 80): (2,),
    (64, 96): (2, 3, 4),
    (64, 112): (2,),
    (64, 128): (2, 3, 4),
    (128, 64): (2, 3, 4),
    (128, 96): (2,),
    (128, 128): (2, 3, 4),
    (128, 160): (2,),
    (128, 192): (2,),
}
"""For few tiles. 8 rows, which know no other width, also for one CTA."""
