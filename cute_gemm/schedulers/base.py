"""The scheduler protocol: what a kernel asks of the object that hands out its tiles."""

from dataclasses import dataclass
from typing import Protocol

from cutlass import Boolean, Int32


@dataclass(frozen=True)
class WorkTile:
    """One tile of the output and the k-blocks to sum over, as seen by one CTA.

    ``m_tile`` and ``n_tile`` count tiles of the CTA's own size; they may lie beyond the output where a
    cluster does not divide it: such a tile reads zeros and stores nothing.
    """

    index: Int32
    m_tile: Int32
    n_tile: Int32
    group: Int32
    k_start: Int32
    k_count: Int32
    is_valid: Boolean


class TileScheduler(Protocol):
    """A frozen dataclass of DSL integers, made on the host by ``to_params`` and passed to the kernel.

    All roles of a CTA (producer, scale loader, math warpgroups) walk the same tiles by calling
    ``initial_work`` once and ``advance`` until ``is_valid`` is false, so they always agree on ``k_count``.
    """

    def grid_shape(self) -> tuple: ...

    def initial_work(self, block_idx: tuple, grid_dim: tuple) -> WorkTile: ...

    def advance(self, work: WorkTile, grid_dim: tuple) -> WorkTile: ...
