"""What is done with a scheduler on the host: DSL code that is compiled for the CPU.

A scheduler asks where its CTA is, which lane of a warp runs it, and what other lanes have: those functions of
``cute.arch`` alone are replaced, while it is compiled. A division by zero, of which a GPU makes a wrong
number, ends the process here: "Floating point exception".
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Uint32
from cutlass.cute.runtime import make_fake_tensor

from ..kernels.work_queue import WorkQueue
from ..runtime import compiler
from ..schedulers import warp
from ..schedulers.persistence import StaticPersistence
from ..storage import DIRECTORY_VARIABLE

FIELDS = 13
"""Columns of what a program writes, as many as :class:`cute_gemm.testing.schedules.Tile` has fields."""

MOST_ROWS = 1 << 22
"""More are a schedule without end."""

OUTSIDE, READS = (0, FIELDS - 1), (0, FIELDS - 2)
"""Where it notes that something out of bounds was used, and how often its table was read."""


@dataclass(frozen=True)
class Watched:
    """A tensor, with notes in ``out`` of uses of what lies outside of its first ``length`` elements."""

    tensor: cute.Tensor
    length: Int32
    out: cute.Tensor

    @property
    def shape(self) -> Any:
        """That of the tensor."""
        return self.tensor.shape

    def __getitem__(self, index: Any) -> Int32:
        return self.tensor[self.checked(index)]

    def __setitem__(self, index: Any, value: Int32) -> None:
        self.tensor[self.checked(index)] = value

    def checked(self, index: Any) -> Any:
        """``index``, noted where it is outside."""
        outside = Uint32(index) >= Uint32(self.length)
        self.out[OUTSIDE] = self.out[OUTSIDE] | Int32(outside)
        return index


class Counted(Watched):
    """A tensor with a note of how often it is read, too."""

    def __getitem__(self, index: Any) -> Int32:
        self.out[READS] = self.out[READS] + 1
        return Watched.__getitem__(self, index)


class HostProgram:
    """Makes a scheduler and does something with it: a subclass says what, in ``run(out, table, scheduler)``.

    Args:
        scheduler: a class as :class:`cute_gemm.schedulers.base.TileScheduler` describes.
        cluster_mnk: CTAs of a cluster along M, N and K.
        raster_width: as the scheduler takes it.
        block_mn: rows and columns of a tile; an extent that is None is taken from each call, which saves
            compiling for each.
    """

    lanes = 1
    """Of a warp; the subclass says what they exchange where there is more than one."""

    def __init__(
        self,
        scheduler: Any,
        cluster_mnk: tuple[int, int, int],
        raster_width: int,
        block_mn: tuple[int | None, int | None],
    ) -> None:
        self.scheduler, self.cluster_mnk, self.raster_width = scheduler, cluster_mnk, raster_width
        self.block_mn = block_mn

    @cute.jit
    def __call__(
        self,
        out: cute.Tensor,
        table: cute.Tensor,
        m: Int32,
        n: Int32,
        k_blocks: Int32,
        groups: Int32,
        num_sms: Int32,
        block_m: Int32,
        block_n: Int32,
        *grouping,
    ):
        """Writes to ``out`` (any, FIELDS) what it finds; ``table`` stands for shared memory."""
        out[OUTSIDE] = Int32(0)
        watched = [
            Watched(each, each.shape[0], out) if isinstance(each, cute.Tensor) else each for each in grouping
        ]
        fixed_m, fixed_n = self.block_mn
        scheduler = self.scheduler.to_params(
            m,
            n,
            k_blocks,
            groups,
            tuple(watched),
            num_sms,
            block_mn=(block_m if fixed_m is None else fixed_m, block_n if fixed_n is None else fixed_n),
            cluster_mnk=self.cluster_mnk,
            raster_width=self.raster_width,
        )
        self.run(out, Counted(table, self.entries(groups), out), scheduler)

    def entries(self, groups: Int32) -> Any:
        """How much of the table the scheduler may use."""
        return self.scheduler.table_entries

    def compiled(self, kinds: tuple[type, ...]) -> Any:
        """The program as a function of torch tensors and ints.

        Args:
            kinds: of the arguments behind the extents: ``int``, or another for a vector of int32.
        """

        def tensor(*shape: Any) -> Any:
            stride = (*shape[1:], 1)
            return make_fake_tensor(Int32, shape, stride, memspace=cute.AddressSpace.generic)

        def build() -> Any:
            grouping = (Int32(0) if kind is int else tensor(cute.sym_int32()) for kind in kinds)
            out, table = tensor(cute.sym_int32(), FIELDS), tensor(cute.sym_int32())
            return self, (out, table, *(Int32(0) for _ in range(7)), *grouping)

        key = type(self), self.scheduler, self.cluster_mnk, self.raster_width, self.block_mn, kinds
        with _on_the_host(self.lanes):
            return compiler.instance(key, build, f"a schedule of {self.scheduler.__qualname__}")


class Walk(HostProgram):
    """Writes down the grid, then what every CTA of it is handed, up to and including the end.

    That is what reaches a role: after the first tile only what the schedule says to vary.
    """

    @cute.jit
    def run(self, out, table, scheduler):
        """Row 0 is the grid and the number of rows that it takes, be there room for them or not."""
        grid = scheduler.grid_shape()
        for i in cutlass.range_constexpr(3):
            out[0, i] = Int32(grid[i])
        row = Int32(1)
        for cluster in cutlass.range(grid[2], unroll=1):
            for x in cutlass.range(self.cluster_mnk[0], unroll=1):
                for y in cutlass.range(self.cluster_mnk[1], unroll=1):
                    take_place(x, y, cluster, grid[2])
                    walked = scheduler.prepare(table, Int32(0))
                    queue, state = WorkQueue(walked, StaticPersistence(), None, None), Int32(0)
                    tile = first = walked.initial_work()
                    # Roles take the next from the queue then.
                    if tile.is_valid and tile.is_padding:
                        tile, state = queue.after(tile, state)
                    row = self.note(out, row, tile, cluster, x, y)
                    while tile.is_valid and row < MOST_ROWS:
                        tile, state = queue.after(tile, state)
                        varied = {name: getattr(tile, name) for name in ("index", *walked.varying)}
                        row = self.note(out, row, replace(first, **varied), cluster, x, y)
        out[0, 3] = row

    def note(self, out, row, tile, cluster, x, y) -> Any:
        """Writes one tile down, as a CTA sees it, and returns the next row."""
        return write(out, row, tile, cluster, x, y)


@cute.jit
def write(out, row, tile, cluster, x, y):
    """Writes one tile down, as a CTA sees it, and returns the next row."""
    place = (cluster, x, y, tile.index, tile.row, tile.row_end, tile.n_tile)
    step = (*place, tile.m_group, tile.group, tile.shares_b, tile.k_start, tile.k_count, tile.is_valid)
    if row < out.shape[0]:
        for i in cutlass.range_constexpr(FIELDS):
            out[row, i] = Int32(step[i])
    return row + 1


def take_place(x: Int32, y: Int32, cluster: Int32, clusters: Int32) -> None:
    """From here on, the code that is compiled runs as this CTA."""
    cute.arch.block_idx = lambda: (x, y, cluster)
    cute.arch.grid_dim = lambda: (None, None, clusters)


@contextmanager
def _on_the_host(lanes: int) -> Iterator[None]:
    """While this lasts, what is compiled is for the host, and is kept by this process alone."""
    of_a_lane = {
        "lane_idx": lambda: Int32(0),
        # What is to be found out of the other lanes is in the one lane itself.
        "warp_redux_sync": lambda value, kind: value,
        "shuffle_sync_up": None,
        "sync_threads": lambda: None,
        "block_idx": None,
        "grid_dim": None,
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", {DIRECTORY_VARIABLE: ""}))
        stack.enter_context(mock.patch.object(warp, "SIZE", lanes))
        for name, replacement in of_a_lane.items():
            stack.enter_context(mock.patch.object(cute.arch, name, replacement))
        yield
