"""Partial sums of several CTAs, added up, and quantised by scales of columns that several of them have."""

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32

from .cluster_sum_store import ClusterSumStore
from .peers import Meeting
from .store import Sums
from .value import Value


@dataclass(frozen=True)
class ClusterByteStore(ClusterSumStore):
    """:class:`ClusterSumStore` for one byte an element: CTAs tell each other the largest of each row.

    So few rows can have k-blocks shared out where a scale is of more columns than a CTA adds up.
    """

    @property
    def meeting(self) -> Meeting:
        """Of the CTAs that add up columns of a tile."""
        return Meeting(self.splits, self.warpgroups)

    def unit_of(self, value: Value) -> int:
        """Peers have the rest of a scale's columns."""
        return value.part

    @property
    def Storage(self):
        """Its shared memory: that of partial sums, and what peers say of rows."""
        return self.meeting.beside(ClusterSumStore.Storage.fget(self))

    @cute.jit
    def open(self, storage, tidx: Int32):
        """As :meth:`ClusterSumStore.open`; and how peers are met."""
        return ClusterSumStore.open(self, storage.own, tidx), self.meeting.open(storage.meeting, tidx)

    @cute.jit
    def __call__(self, sums: Sums, mD: cute.Tensor, shared, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`ClusterSumStore`."""
        of_sums, meeting = shared
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        own_column = 8 * self.per_cta * rank
        total = self.added(sums, *of_sums, rank, tidx)
        value = sums.value.among(self.meeting.peers(meeting, warpgroup_idx, tidx))
        made = value(total, 0, own_column)
        quantized = cute.make_rmem_tensor(made.layout, self.dtype)
        quantized.store(made.load().to(self.dtype))
        self.store(quantized, sums, own_column, mD, tidx)
