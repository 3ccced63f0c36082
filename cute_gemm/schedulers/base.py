"""The scheduler protocol: what a kernel asks of the object that hands out its tiles."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import cutlass.cute as cute
from cutlass import Boolean, Int32


@dataclass(frozen=True)
class WorkTile:
    """One tile of the output and the k-blocks to sum over, as seen by one CTA.

    Where a cluster does not divide the output or a group's rows, ``n_tile`` may lie beyond it and ``row`` at
    or beyond ``row_end``: such a tile is loaded like any other, and nothing of it is stored. A tile that is
    not valid still has groups within range and no negative coordinate: a role may prepare for it before it
    looks, if it clamps rows as it does those of any tile.
    """

    index: Int32  # place in the schedule
    row: Int32  # first row of the tile in matrix m_group of A, of its scales and of D
    row_end: Int32  # rows of that matrix from here on are not stored
    n_tile: Int32  # counts tiles of the CTA's own width
    m_group: Int32  # which matrix of A, of its scales and of D
    group: Int32  # which matrix of B and of its scales
    shares_b: Boolean  # whether that is the group of all CTAs along M of the cluster
    k_start: Int32
    k_count: Int32  # at least 1: scales are loaded ahead up to the last
    is_valid: Boolean
    is_padding: Boolean  # whether no CTA of the cluster has anything to store: to be skipped

    is_ragged: ClassVar[bool] = False
    """Whether it is a :class:`RaggedWorkTile`."""

    @property
    def out_matrix(self) -> Int32:
        """Which matrix of D."""
        return self.m_group

    def k_shift(self, block_k: int) -> int:
        """Elements that k-block k of A and B begins behind ``k * block_k``; its scales are in column k."""
        return 0


@dataclass(frozen=True)
class RaggedWorkTile(WorkTile):
    """A tile that sums over part of K, which begins and ends at any multiple of 16: a group of columns.

    Its k-blocks are counted from its own beginning, and their scales have columns of their own: ``k_start``
    is the column of the first, and k-block k, from there to ``k_start + k_count - 1``, begins at element
    ``k * block_k + k_shift``. Unlike other tiles it may have none: then ``k_start`` is still a column. What
    follows the last element of the last k-block are other groups' elements, which must not count.
    """

    k_element: Int32  # the first along K
    k_last: Int32  # elements of the last k-block, from 16 to all; 0 where there is no k-block
    k_group: Int32  # whose columns they are, and which matrix of D; A and B are one matrix each

    is_ragged: ClassVar[bool] = True

    @property
    def out_matrix(self) -> Int32:
        """Which matrix of D."""
        return self.k_group

    def k_shift(self, block_k: int) -> Int32:
        """As of :class:`WorkTile`; it may be negative."""
        return self.k_element - self.k_start * block_k


class TileScheduler(Protocol):
    """A frozen dataclass of DSL integers and of tensors with the sizes of groups, passed to the kernel.

    All threads of a CTA call ``prepare`` once. Of what it returns, each role asks for ``initial_work``. The
    scheduler warp asks for the tiles that persistence gives it, until ``is_valid`` is false, and the work
    queue hands them to the other roles. Only the warp that prefetches scales walks by itself. The CTAs of a
    cluster agree on ``index``, ``k_start``, ``k_count``, ``is_valid``, ``is_padding`` and ``shares_b``. What
    they read in memory must not change meanwhile: roles or CTAs that disagree wait for each other for ever,
    or load over what another reads. Whole warps make these calls: a scheduler may let lanes work together.

    One whose tiles may leave rows of D out can say which (:mod:`.taken`): then they can be filled.
    """

    table_entries: ClassVar[int]
    """Int32 entries of shared memory that ``prepare`` is to be given; 0 for none."""

    has_padding: ClassVar[bool]
    """Whether a tile may be padding."""

    reads_memory: ClassVar[bool]
    """Whether tiles depend on what is in memory, which kernels ahead on the stream may still write. Else a
    role may ask for ``initial_work`` before ``prepare``."""

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields of a tile, but for ``index``, that may differ from those of the CTA's first."""

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "TileScheduler":
        """The schedule of one call, made on the host.

        Args:
            m: rows of one matrix of A.
            n: columns of the product: rows of one matrix of B.
            k_blocks: k-blocks, the last of which may be partial.
            groups: matrices of B.
            grouping: what says how rows fall into groups; a tuple that each scheduler defines.
            num_sms: CTAs that may run at once.
            block_mn: rows and columns of one CTA's tile.
            cluster_mnk: CTAs of a cluster, along M, N and K.
            raster_width: most cluster-high rows of tiles that are walked side by side.
        """

    def grid_shape(self) -> tuple[int, int, Int32]:
        """CTAs to launch: the cluster's two extents, and the number of clusters."""

    def prepare(self, table: cute.Tensor, tidx: Int32) -> "TileScheduler":
        """The schedule that the roles of the calling CTA walk, from shared memory of ``table_entries``."""

    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""

    def at(self, index: Int32) -> WorkTile:
        """Tile ``index`` of the schedule, as seen by the calling CTA; not valid beyond the last."""
