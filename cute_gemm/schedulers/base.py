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
    """A frozen dataclass of DSL integers, passed to the kernel. Each has a static ``to_params`` that makes it
    on the host from what its kind of problem has.

    All roles of a CTA (producer, prefetcher, math warpgroups) walk the same tiles: ``initial_work`` once,
    then ``advance`` until ``is_valid`` is false. So they always agree on ``k_start`` and ``k_count``.
    """

    def grid_shape(self) -> tuple[int, int, Int32]:
        """CTAs to launch: the cluster's two extents, and the number of clusters."""

    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""

    def advance(self, tile: WorkTile) -> WorkTile:
        """The tile after ``tile`` of the calling CTA."""
