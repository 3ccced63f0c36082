"""Partial sums of several CTAs, added up, and quantised by scales of columns that several of them have."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from ...dsl import store_async_dsmem
from ...plan.limits import MMA_M
from ..sm90.mma import row_offset, thread_row
from ..sm90.threads import WARPGROUP
from .cluster_sum_store import ClusterSumStore
from .store import Sums
from .value import Value


@dataclass(frozen=True)
class ClusterByteStore(ClusterSumStore):
    """:class:`ClusterSumStore` for one byte an element: CTAs tell each other the largest of each row.

    So few rows can have k-blocks shared out where a scale is of more columns than a CTA adds up.
    """

    def unit_of(self, value: Value) -> int:
        """Peers have the rest of a scale's columns."""
        return value.part

    @property
    def Storage(self):
        """Its shared memory: that of partial sums, and what peers say of rows."""
        partials = ClusterSumStore.Storage.fget(self)

        @cute.struct
        class Storage:
            sums: partials
            barrier: cute.struct.MemRange[Int64, 1]
            largest: cute.struct.MemRange[Int32, MMA_M * self.splits]

        return Storage

    @cute.jit
    def open(self, storage, tidx: Int32):
        """As :meth:`ClusterSumStore.open`; and how peers are met."""
        barrier = storage.barrier.data_ptr()
        if tidx == 0:
            cute.arch.mbarrier_init(barrier, 1)
        largest = storage.largest.get_tensor(cute.make_layout((MMA_M, self.splits)))
        return ClusterSumStore.open(self, storage.sums, tidx), (largest, barrier)

    @cute.jit
    def __call__(self, sums: Sums, mD: cute.Tensor, shared, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`ClusterSumStore`."""
        of_sums, (largest, barrier) = shared
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        own_column = 8 * self.per_cta * rank
        peers = Peers(self.splits, rank, largest, barrier, tidx % WARPGROUP)
        peers.expect()
        total = self.added(sums, *of_sums, rank, tidx)
        made = sums.value.among(peers)(total, 0, own_column)
        quantized = cute.make_rmem_tensor(made.layout, self.dtype)
        quantized.store(made.load().to(self.dtype))
        self.store(quantized, sums, own_column, mD, tidx)


@dataclass(frozen=True)
class Peers:
    """The CTAs that have the other columns of the same rows, seen by one thread of 64 rows.

    For one exchange: nobody says when what has arrived was read.
    """

    count: int  # with this CTA
    rank: Int32
    largest_of_rows: cute.Tensor  # (rows, CTAs), what has arrived
    barrier: cute.Pointer
    thread: Int32

    @cute.jit
    def expect(self):
        """Says what will arrive. Peers send it only when this CTA's partial sums are with them."""
        if self.thread == 0:
            cute.arch.mbarrier_arrive_and_expect_tx(self.barrier, 4 * MMA_M * (self.count - 1))

    @property
    def is_first(self):
        """Whether this CTA writes what all of them know."""
        return self.rank == 0

    @cute.jit
    def largest(self, own: tuple):
        """Of a thread's two rows the largest of all CTAs, given the largest of this one's quads."""
        row = thread_row(Int32(0), self.thread)
        for half in cutlass.range_constexpr(2):
            target = self.largest_of_rows[None, self.rank].iterator + (row + row_offset(2 * half))
            for cta in cutlass.range_constexpr(self.count):
                # Of the four lanes that have a row, one sends; each has a turn, so that none sends to all.
                if self.rank != cta and self.thread % 4 == cta % 4:
                    store_async_dsmem(target, own[half], self.barrier, cta)
        cute.arch.mbarrier_wait(self.barrier, 0)
        found = []
        for half in cutlass.range_constexpr(2):
            most = own[half]
            for cta in cutlass.range_constexpr(self.count):
                other = self.largest_of_rows[row + row_offset(2 * half), cta]
                most = cutlass.max(most, Int32(cutlass.select_(self.rank == cta, own[half], other)))
            found.append(most)
        return tuple(found)
