"""Which tile of a schedule a cluster computes next: every C-th, or the one that a semaphore gives out."""

from dataclasses import dataclass, replace

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr
from cutlass._mlir.dialects.nvvm import MemScopeKind

from ..dsl import mbarrier_arrive, store_async_dsmem
from ..plan.limits import SEMAPHORE_WORDS

BROADCAST_SLOTS = 2
"""Numbers that may be on their way from the first CTA of a cluster to the others."""


@dataclass(frozen=True)
class StaticPersistence:
    """Cluster c of C computes tiles c, c + C, c + 2 C, ... of a schedule."""

    @cute.struct
    class Storage:
        """Nothing in shared memory."""

        barriers: cute.struct.MemRange[Int64, 0]

    @staticmethod
    def make(storage, semaphore: Int64, cluster_size: int, tidx: Int32) -> "StaticPersistence":
        """For the calling CTA."""
        return StaticPersistence()

    def is_dynamic(self) -> bool:
        """Whether which tile is next depends on which cluster is free."""
        return False

    def over(self, scheduler) -> "StaticPersistence":
        """What finds the next tiles of ``scheduler``, which is prepared. A whole warp calls this."""
        return self

    def next(self, index: Int32, state):
        """The number of the tile after ``index``, maybe beyond the last, and the advanced ``state``."""
        _, _, clusters = cute.arch.grid_dim()
        return index + clusters, state

    def finish(self, state):
        """Nothing is left to do."""


@dataclass(frozen=True)
class DynamicPersistence:
    """A cluster draws the number of its next tile from a semaphore in global memory, a tile ahead.

    SMs are not equally fast, so with static persistence all wait for the slowest in the end
    (docs/performance.md, 62 and 64).

    The semaphore, two words, is 0 before a launch and after it: the first counts draws, the second clusters
    that draw no more, the last of which resets both. No other launch may use it meanwhile. Where its address
    is 0, persistence is static.

    The first CTA of a cluster draws for all, and sends the number to a broadcast slot of each. Barriers, and
    who arrives how often per phase:

        full[slot]      1: the CTA's own scheduler warp, with the four bytes that it expects
        empty[slot]     in the first CTA: 1 of the scheduler warp of each CTA of the cluster
    """

    semaphore: Int64  # its address
    full: cute.Pointer
    empty: cute.Pointer
    slots: cute.Tensor  # (4, BROADCAST_SLOTS): one number each, aligned
    cluster_size: int

    @cute.struct
    class Storage:
        """Shared memory of the broadcast slots."""

        barriers: cute.struct.MemRange[Int64, 2 * BROADCAST_SLOTS]
        slots: cute.struct.Align[cute.struct.MemRange[Int32, 4 * BROADCAST_SLOTS], 16]

    @staticmethod
    def make(storage, semaphore: Int64, cluster_size: int, tidx: Int32) -> "DynamicPersistence":
        """For the calling CTA, all threads of which must wait for this call."""
        full = storage.barriers.data_ptr()
        slots = storage.slots.get_tensor(cute.make_layout((4, BROADCAST_SLOTS)))
        made = DynamicPersistence(semaphore, full, full + BROADCAST_SLOTS, slots, cluster_size)
        made.set_up(tidx)
        return made

    @cute.jit
    def set_up(self, tidx: Int32):
        """Initialises the barriers."""
        if const_expr(self.cluster_size > 1):
            if tidx == 0:
                for i in cutlass.range_constexpr(BROADCAST_SLOTS):
                    cute.arch.mbarrier_init(self.full + i, 1)
                    cute.arch.mbarrier_init(self.empty + i, self.cluster_size)

    def is_dynamic(self) -> Boolean:
        """As :meth:`StaticPersistence.is_dynamic`."""
        return self.semaphore != 0

    @cute.jit
    def over(self, scheduler) -> "DynamicPersistence":
        """As :meth:`StaticPersistence.over`: static where clusters have all tiles from the start.

        Else each would wait for a draw that finds nothing, and then for another to have reset the semaphore.
        All clusters see as many tiles.
        """
        _, _, clusters = cute.arch.grid_dim()
        are_left = scheduler.at(clusters).is_valid
        return replace(self, semaphore=cutlass.select_(are_left, self.semaphore, Int64(0)))

    @cute.jit
    def next(self, index: Int32, state):
        """As :meth:`StaticPersistence.next`; the work of a whole warp, the same in each CTA of a cluster."""
        _, _, clusters = cute.arch.grid_dim()
        following = index + clusters
        if self.semaphore != 0:
            drawn = Int32(0)
            if const_expr(self.cluster_size == 1):
                if cute.arch.lane_idx() == 0:
                    drawn = self.count(0, "relaxed")
            else:
                self.send(state)
                if cute.arch.lane_idx() == 0:
                    drawn = self.receive(state)
                state.advance()
            following = clusters + cute.arch.make_warp_uniform(drawn)
        return following, state

    def count(self, word: int, order: str) -> Int32:
        """One lane's work: adds 1 to a word of the semaphore, and returns what it was."""
        return cute.arch.atomic_add(self.words() + word, Int32(1), sem=order, scope="gpu")

    def words(self) -> cute.Pointer:
        """The semaphore."""
        return cute.make_ptr(Int32, self.semaphore, cutlass.AddressSpace.gmem, assumed_align=4)

    @cute.jit
    def send(self, state):
        """The first CTA draws, and sends what it has drawn to all."""
        if is_first_of_cluster():
            cute.arch.mbarrier_wait(self.empty + state.index, state.phase ^ 1)
            if cute.arch.lane_idx() == 0:
                drawn = self.count(0, "relaxed")
                for cta in cutlass.range_constexpr(self.cluster_size):
                    slot = self.slots[None, state.index].iterator.align(4)
                    store_async_dsmem(slot, drawn, self.full + state.index, cta)

    @cute.jit
    def receive(self, state) -> Int32:
        """One lane's work: what has been sent."""
        cute.arch.mbarrier_arrive_and_expect_tx(self.full + state.index, 4)
        cute.arch.mbarrier_wait(self.full + state.index, state.phase)
        drawn = self.slots[0, state.index]
        mbarrier_arrive(self.empty + state.index, 0, scope=MemScopeKind.CLUSTER)
        return drawn

    @cute.jit
    def finish(self, state):
        """Called once, whether a tile was drawn or not: resets the semaphore, if this is the last cluster.

        Whoever starts after all clusters have come back from this finds it at 0. The first CTA stays until
        all have received what it sent: they still arrive at its barriers.
        """
        _, _, clusters = cute.arch.grid_dim()
        if self.semaphore != 0 and is_first_of_cluster():
            if const_expr(self.cluster_size > 1):
                for _ in cutlass.range_constexpr(BROADCAST_SLOTS):
                    cute.arch.mbarrier_wait(self.empty + state.index, state.phase ^ 1)
                    state.advance()
            if cute.arch.lane_idx() == 0:
                if self.count(1, "acq_rel") == clusters - 1:
                    words = cute.make_tensor(self.words(), cute.make_layout(SEMAPHORE_WORDS))
                    for word in cutlass.range_constexpr(SEMAPHORE_WORDS):
                        words[word] = Int32(0)
                    cute.arch.fence_acq_rel_gpu()


def is_first_of_cluster():
    """Whether the calling CTA is the first of its cluster, or has none."""
    return cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster()) == 0
