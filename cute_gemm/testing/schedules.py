"""Walks a scheduler on the host, for every CTA of a launch, and judges what it hands out.

What runs is the scheduler that a kernel runs, compiled for the CPU (:mod:`.host_programs`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..plan.limits import H100_SMS, ceil_div

_ROWS = 1 << 14


class Extents(NamedTuple):
    """What a schedule is made for: one call, on one device.

    Args:
        m: rows of one matrix of A.
        n: columns of D.
        k_blocks: blocks along K.
        groups: matrices of B.
        num_sms: CTAs that may run at once.
    """

    m: int
    n: int
    k_blocks: int = 1
    groups: int = 1
    num_sms: int = H100_SMS


class Tile(NamedTuple):
    """A tile as one CTA sees it: the fields of :class:`cute_gemm.schedulers.base.WorkTile`, and which CTA.

    Args:
        cluster: the CTA's cluster.
        x, y: its place in it, along M and N.
    """

    cluster: int
    x: int
    y: int
    index: int  # type: ignore[assignment]
    row: int
    row_end: int
    n_tile: int
    m_group: int
    group: int
    shares_b: int
    k_start: int
    k_count: int
    is_valid: int


class Rows(NamedTuple):
    """Rows ``[first, end)`` of a matrix of A, which are multiplied by matrix ``group`` of B."""

    m_group: int
    group: int
    first: int
    end: int


@dataclass(frozen=True)
class Schedule:
    """What a scheduler hands out in one launch.

    Args:
        extents: what it was made for.
        block_mn: rows and columns of a tile.
        cluster_mnk: CTAs of a cluster along M, N and K.
        grid: CTAs that are launched.
        tiles: of each CTA one after the other, in its order: all that are valid, and the one that is not.
        table: what the scheduler has left in shared memory.
    """

    extents: Extents
    block_mn: tuple[int, int]
    cluster_mnk: tuple[int, int, int]
    grid: tuple[int, int, int]
    tiles: list[Tile]
    table: torch.Tensor

    @property
    def ctas(self) -> dict[tuple[int, int, int], list[Tile]]:
        """What each CTA sees, by its cluster and its place in it."""
        found: dict[tuple[int, int, int], list[Tile]] = defaultdict(list)
        for tile in self.tiles:
            found[tile[:3]].append(tile)
        return dict(found)


def walk(
    scheduler: Any,
    extents: Extents,
    grouping: Sequence[Sequence[int] | int] = (),
    *,
    block_mn: tuple[int, int] = (64, 64),
    cluster_mnk: tuple[int, int, int] = (1, 1, 1),
    raster_width: int = 16,
) -> Schedule:
    """Runs a scheduler for every CTA, with static persistence, as a kernel does.

    It compiles for a second, once for each scheduler, tile, cluster and raster width. While it compiles, no
    other thread may.

    Args:
        scheduler: a class as :class:`cute_gemm.schedulers.base.TileScheduler` describes; a user's own, too.
        extents: of the call.
        grouping: what the scheduler takes to say how rows fall into groups: a sequence for a vector of int32
            in memory, an int for an int.
        block_mn: rows and columns of a tile.
        cluster_mnk: CTAs of a cluster along M, N and K.
        raster_width: as the scheduler takes it.

    Returns:
        What each CTA is handed.

    Raises:
        AssertionError: it reads an index, or its table, out of bounds; or it hands out tiles without end.
        ImportError: the DSL is missing.
    """
    from .host_programs import Walk

    return run_walk(Walk(scheduler, cluster_mnk, raster_width, block_mn), extents, block_mn, grouping)


def run_walk(
    program: Any, extents: Extents, block_mn: tuple[int, int], grouping: Sequence[Sequence[int] | int] = ()
) -> Schedule:
    """As :func:`walk`, by a :class:`.host_programs.Walk` of one's own, whose tiles may be any."""
    from .host_programs import MOST_ROWS

    out, table = run_program(program, extents, block_mn, grouping)
    rows = int(out[0, 3])
    assert rows < MOST_ROWS, f"CTAs are handed {MOST_ROWS} tiles and no end: is_valid never becomes false"
    if rows > len(out):
        out, table = run_program(program, extents, block_mn, grouping, rows)
    a, b, c = out[0, :3].tolist()
    tiles = [Tile(*row) for row in out[1:rows].tolist()]
    return Schedule(extents, block_mn, program.cluster_mnk, (a, b, c), tiles, table)


def run_program(
    program: Any,
    extents: Extents,
    block_mn: tuple[int, int],
    grouping: Sequence[Sequence[int] | int] = (),
    rows: int = _ROWS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a :class:`.host_programs.HostProgram`.

    Returns:
        What it wrote, int32 ``[rows, FIELDS]``, and the scheduler's table, whose entries are INT32_MIN where
        nothing was written: what shared memory holds before must not matter.

    Raises:
        AssertionError: it has read or written out of bounds.
    """
    from .host_programs import FIELDS, OUTSIDE

    out = torch.zeros(rows, FIELDS, dtype=torch.int32)
    table = torch.full((max(1, program.scheduler.table_entries),), -(2**31), dtype=torch.int32)
    kinds = tuple(int if isinstance(each, int) else list for each in grouping)
    given = [each if isinstance(each, int) else torch.tensor(each, dtype=torch.int32) for each in grouping]
    program.compiled(kinds)(out, table, *extents, *block_mn, *given)
    assert out[OUTSIDE] == 0, "the scheduler reads or writes out of bounds"
    return out, table


def assert_each_tile_once(schedule: Schedule, rows: Sequence[Rows]) -> None:
    """Checks that a schedule is what a kernel takes it for.

    Each element of D in ``rows`` must come once, with all of its k-blocks and the right matrices; no other
    element may. Each CTA must learn once that there is no more. CTAs of a cluster must agree on what they
    do together, and ``shares_b`` must be true.

    Args:
        schedule: of :func:`walk`.
        rows: which rows are multiplied by which matrix; none twice.

    Raises:
        AssertionError: it is not.
    """
    ctas = schedule.ctas
    launched = schedule.grid[0] * schedule.grid[1] * schedule.grid[2]
    # A cluster along K is counted by the last axis, as CTAs.
    assert len(ctas) == launched, f"{len(ctas)} CTAs were handed something, {launched} are launched"
    for cta, seen in ctas.items():
        assert [tile.is_valid for tile in seen] == [1] * (len(seen) - 1) + [0], f"CTA {cta} does not end once"
    _assert_clusters_agree(schedule, ctas)

    (block_m, block_n), n, k_blocks = schedule.block_mn, schedule.extents.n, schedule.extents.k_blocks
    parts: dict[tuple[int, Rows], list[tuple[int, int]]] = defaultdict(list)
    for tile in schedule.tiles:
        stored = Rows(tile.m_group, tile.group, tile.row, min(tile.row + block_m, tile.row_end))
        if tile.is_valid and stored.first < stored.end and tile.n_tile * block_n < n:
            assert tile.n_tile >= 0, f"{tile} is before the first column"
            parts[tile.n_tile, stored].append((tile.k_start, tile.k_start + tile.k_count))
    columns: dict[int, list[Rows]] = defaultdict(list)
    for (n_tile, stored), summed in parts.items():
        at = 0
        for start, end in sorted(part for part in summed if part[0] < part[1]):
            assert start == at, f"{stored}, tile {n_tile} along N: k-blocks missing or twice, at {at}"
            at = end
        assert at == k_blocks, f"{stored}, tile {n_tile} along N: k-blocks from {at} on are missing"
        columns[n_tile].append(stored)
    wanted = _merged(rows)
    for n_tile in range(ceil_div(n, block_n)):
        assert _merged(columns[n_tile]) == wanted, f"tile {n_tile} along N: not each row once"


def _assert_clusters_agree(schedule: Schedule, ctas: dict[tuple[int, int, int], list[Tile]]) -> None:
    cluster_m, cluster_n, splits = schedule.cluster_mnk
    if splits > 1:
        return
    for (cluster, x, y), seen in ctas.items():
        leader = ctas[cluster, 0, 0]
        along_m = [ctas[cluster, peer, y] for peer in range(cluster_m)]
        along_n = [ctas[cluster, x, peer] for peer in range(cluster_n)]
        assert len(seen) == len(leader), f"cluster {cluster}: its CTAs have different numbers of tiles"
        for place, tile in enumerate(seen):
            for name in ("index", "k_start", "k_count", "is_valid", "shares_b"):
                alike = getattr(tile, name) == getattr(leader[place], name)
                assert alike, f"cluster {cluster}: its CTAs differ in {name} at {tile}"
            if tile.is_valid:
                shared = len({peer[place].group for peer in along_m}) == 1
                assert tile.shares_b == shared, f"{tile}: whether B is shared is not what it says"
                assert len({peer[place].n_tile for peer in along_m}) == 1, f"{tile}: B differs along M"
                assert len({peer[place].row for peer in along_n}) == 1, f"{tile}: A differs along N"


def _merged(rows: Sequence[Rows]) -> list[Rows]:
    """The same rows in order, those that follow each other and have the same matrices as one.

    Raises:
        AssertionError: some come twice.
    """
    merged: list[Rows] = []
    for each in sorted(rows, key=lambda each: (each.m_group, each.first)):
        if each.first >= each.end:
            continue
        if merged and merged[-1].m_group == each.m_group:
            assert merged[-1].end <= each.first, f"rows {each.first} to {merged[-1].end} come twice"
            if merged[-1].end == each.first and merged[-1].group == each.group:
                merged[-1] = merged[-1]._replace(end=each.end)
                continue
        merged.append(each)
    return merged
