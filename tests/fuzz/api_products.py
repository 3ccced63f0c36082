"""Fuzzed products that are in order: what is multiplied, on the host."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from api_values import (
    KINDS,
    NAN_CODE,
    WELL_CONDITIONED,
    chance,
    codes,
    repeated_scales,
    scales,
)
from torch import Tensor

import cute_gemm

OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "dense": cute_gemm.fp8_gemm_nt,
    "contiguous": cute_gemm.m_grouped_fp8_gemm_nt_contiguous,
    "offsets": cute_gemm.m_grouped_fp8_gemm_nt_offsets,
    "masked": cute_gemm.m_grouped_fp8_gemm_nt_masked,
}
INDEX = {"contiguous": "group_index", "offsets": "offsets", "masked": "valid_rows"}

BLOCK = 128


@dataclass
class Product:
    """What an operation is called with, on the host.

    Args:
        layout: of its operation.
        a, sa, b, sb: codes and scales, compact; rows of no group hold NaN.
        options: arguments by name that are no tensors.
        index: says which rows are whose.
        row_groups: the group of each row, -1 for none.
        out_dtype: of the result.
        is_well_conditioned: whether limits on whole tiles hold on a GPU, too.
    """

    layout: str
    a: Tensor
    sa: Tensor
    b: Tensor
    sb: Tensor
    options: dict[str, Any]
    index: Tensor | None
    row_groups: Tensor
    out_dtype: torch.dtype
    is_well_conditioned: bool

    @property
    def is_filled(self) -> bool:
        """Whether rows of no group are to be zeros."""
        return self.options.get("fill") is not None


def call(layout: str, given: dict[str, Any]) -> Tensor:
    """The operation, with arguments by the names that the documentation gives them."""
    others = {name: x for name, x in given.items() if name not in ("a", "sa", "b", "sb")}
    return OPERATIONS[layout]((given["a"], given["sa"]), (given["b"], given["sb"]), **others)


def blocks(length: int, size: int = BLOCK) -> int:
    return -(-length // size)


# Shapes


@dataclass(frozen=True)
class Sizes:
    """What extents are drawn from."""

    rows: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    groups: tuple[int, ...] = (1, 2, 3, 4)


SMALL = Sizes(
    rows=(1, 1, 2, 3, 5, 7, 8, 9, 16, 17, 31),
    n=(8, 8, 16, 24, 40, 64, 72),
    k=(16, 16, 32, 48, 112, 128, 128, 144, 256, 272),
)
EDGES = Sizes(
    rows=(0, 1, 63, 64, 65, 127, 128, 129, 200),
    n=(0, 8, 120, 128, 136, 264),
    k=(0, 16, 128, 384, 400, 640),
    groups=(1, 2, 7),
)
# On a GPU few extents make few kernels, each of which takes seconds to compile.
LARGE = Sizes(rows=(1, 130, 1000), n=(576, 2048), k=(4096,), groups=(3,))


def draw_sizes(draw: random.Random, on_gpu: bool) -> Sizes:
    """Mostly small ones, now and then such at the edges, and on a GPU now and then large ones."""
    which = draw.random()
    if which < 0.1:
        return EDGES
    return LARGE if which < 0.115 and on_gpu else SMALL


def draw_product(draw: random.Random, on_gpu: bool, layout: str | None = None) -> Product:
    """A call that is in order."""
    layout = layout or draw.choice(("dense", "dense", *INDEX))
    sizes = draw_sizes(draw, on_gpu)
    n, k, groups = draw.choice(sizes.n), draw.choice(sizes.k), draw.choice(sizes.groups)
    if layout == "dense":
        m = draw.choice(sizes.rows)
        return _product(draw, layout, n, k, torch.zeros(m, dtype=torch.int32), 1, None, {})
    if sizes is EDGES and chance(draw, 0.02):
        groups, n, k = 1022, 8, 16
    rows = [draw.choice((0, *sizes.rows)) if groups < 8 else draw.randrange(2) for _ in range(groups)]
    index, row_groups, options = _LAYOUTS[layout](draw, rows)
    if chance(draw, 0.2):
        # The host then reads the index, which is in order wherever this is drawn.
        options["validate"] = bool(_is_valid(layout, index, row_groups) and chance(draw, 0.8))
    if chance(draw, 0.3):
        options["fill"] = draw.choice((0, 0, None))
    return _product(draw, layout, n, k, row_groups, groups, index, options)


Layout = tuple[Tensor, Tensor, dict[str, Any]]


def _contiguous(draw: random.Random, rows: list[int]) -> Layout:
    order = draw.sample(range(len(rows)), len(rows))
    pieces: list[Tensor] = []
    for group in order:
        padding = -rows[group] % BLOCK
        pieces.append(torch.full((rows[group],), group, dtype=torch.int32))
        pieces.append(torch.full((padding,), -1, dtype=torch.int32))
    row_groups = torch.cat(pieces)
    # The last block may end early, by padding or by rows.
    row_groups = row_groups[: len(row_groups) - draw.randrange(BLOCK)] if chance(draw, 0.7) else row_groups
    index = row_groups.clone()
    if chance(draw, 0.1):
        index[index < 0] = draw.choice((-2, -(2**31)))
    if len(index) and chance(draw, 0.05):
        start = draw.randrange(blocks(len(index))) * BLOCK
        index[start : start + BLOCK] = draw.choice((len(rows), 2**31 - 1))
        row_groups[start : start + BLOCK] = -1
    return index, row_groups, {}


def _offsets(draw: random.Random, rows: list[int]) -> Layout:
    alignment = draw.choice((1, 1, 1, 2, 16, 128, 7))
    ends, row_groups, end = [], [], 0
    for group, count in enumerate(rows):
        start = blocks(end, alignment) * alignment
        if count:
            row_groups += [-1] * (start - end) + [group] * count
            end = start + count
        ends.append(end)
    row_groups += [-1] * draw.choice((0, 0, 1, 5, 130))
    index = torch.tensor(ends, dtype=torch.int32)
    if rows[-1] and end == len(row_groups) and chance(draw, 0.2):
        index[-1] = draw.choice((end + 1, 2**31 - 1))
    if not rows[0] and chance(draw, 0.2):
        index[0] = draw.choice((-1, -(2**31)))
    options = {"alignment": alignment} if alignment > 1 or chance(draw, 0.5) else {}
    return index, torch.tensor(row_groups, dtype=torch.int32), options


def _masked(draw: random.Random, rows: list[int]) -> Layout:
    capacity = max(rows) + draw.choice((0, 0, 1, 6))
    index = torch.tensor(rows, dtype=torch.int32)
    for group, count in enumerate(rows):
        if chance(draw, 0.05):
            index[group] = rows[group] = 0
        elif count == capacity and chance(draw, 0.05):
            index[group] = draw.choice((capacity + 1, 2**31 - 1))
        elif not count and chance(draw, 0.1):
            index[group] = draw.choice((-1, -(2**31)))
    place = torch.arange(capacity)
    row_groups = torch.where(place < torch.tensor(rows)[:, None], torch.arange(len(rows))[:, None], -1)
    return index, row_groups.int(), {"expected_rows": draw.choice((1, 20, 100))}


_LAYOUTS = {"contiguous": _contiguous, "offsets": _offsets, "masked": _masked}


def _is_valid(layout: str, index: Tensor, row_groups: Tensor) -> bool:
    """Whether `validate` finds nothing: the index says what the rows' groups do, without clamping."""
    if layout == "contiguous":
        return torch.equal(index, row_groups)
    return bool((index >= 0).all() and (index <= row_groups.shape[-1]).all())


def _product(
    draw: random.Random,
    layout: str,
    n: int,
    k: int,
    row_groups: Tensor,
    groups: int,
    index: Tensor | None,
    options: dict[str, Any],
) -> Product:
    kinds = draw.choice(KINDS), draw.choice(KINDS)
    draw_scales = repeated_scales if index is None else scales
    a, sa = codes(draw, kinds[0], *row_groups.shape, k), draw_scales(draw, *row_groups.shape, blocks(k))
    if index is not None:
        padding = row_groups < 0
        a[padding], sa[padding] = NAN_CODE, torch.nan
    of_b = () if index is None else (groups,)
    b, sb = codes(draw, kinds[1], *of_b, n, k), repeated_scales(draw, *of_b, blocks(n), blocks(k))
    out_dtype = draw.choice((torch.bfloat16, torch.bfloat16, torch.float32))
    tiles = WELL_CONDITIONED.issuperset(kinds)
    return Product(layout, a, sa, b, sb, options, index, row_groups, out_dtype, tiles)
