"""Which tile of a schedule a cluster computes next: by turns that are even, or drawn by whoever is free."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr
from cutlass._mlir.dialects.nvvm import MemScopeKind

LETTERS = 2
"""Turns that may lie in a mailbox."""


@dataclass(frozen=True)
class EvenTurns:
    """Cluster c of C computes tiles c, c + C, c + 2 C, ... of a schedule."""

    @cute.struct
    class Storage:
        """Nothing in shared memory."""

        barriers: cute.struct.MemRange[Int64, 0]

    @staticmethod
    def make(storage, counter: Int64, cluster_size: int, tidx: Int32) -> "EvenTurns":
        """The turns of the calling CTA's cluster."""
        return EvenTurns()

    def are_drawn(self) -> bool:
        """Whether which tile is next depends on who is free."""
        return False

    def next(self, index: Int32, state):
        """The tile after ``index``, which may be beyond the last, and where the turns stand."""
        _, _, clusters = cute.arch.grid_dim()
        return index + clusters, state

    def finish(self, state):
        """Nothing is left to do."""


@dataclass(frozen=True)
class DrawnTurns:
    """A cluster draws the number of its next tile from a counter in global memory, a tile ahead.

    SMs are not equally fast: at the power limit what they take for the same differs by 2 %. By even turns all
    wait for the slowest in the end; by these it gets fewer tiles.

    The counter, two words, is 0 before a launch and after it: the first counts draws, the second clusters
    that draw no more, the last of which resets both. No other launch may use it meanwhile. Where its address
    is 0, turns are even.

    The first CTA of a cluster draws for all, and sends the number to a mailbox of each. Barriers, and who
    arrives how often per phase:

        full[letter]    1: the CTA's own scheduler warp, with the four bytes that it expects
        empty[letter]   in the first CTA: 1 of the scheduler warp of each CTA of the cluster
    """

    counter: Int64
    full: cute.Pointer
    empty: cute.Pointer
    letters: cute.Tensor  # (4, LETTERS): one number each, aligned
    cluster_size: int

    @cute.struct
    class Storage:
        """Shared memory of a mailbox."""

        barriers: cute.struct.MemRange[Int64, 2 * LETTERS]
        letters: cute.struct.Align[cute.struct.MemRange[Int32, 4 * LETTERS], 16]

    @staticmethod
    def make(storage, counter: Int64, cluster_size: int, tidx: Int32) -> "DrawnTurns":
        """The turns of the calling CTA's cluster; the caller lets all threads of it wait for this."""
        full = storage.barriers.data_ptr()
        letters = storage.letters.get_tensor(cute.make_layout((4, LETTERS)))
        turns = DrawnTurns(counter, full, full + LETTERS, letters, cluster_size)
        turns.set_up(tidx)
        return turns

    @cute.jit
    def set_up(self, tidx: Int32):
        """Initialises the barriers."""
        if const_expr(self.cluster_size > 1):
            if tidx == 0:
                for i in cutlass.range_constexpr(LETTERS):
                    cute.arch.mbarrier_init(self.full + i, 1)
                    cute.arch.mbarrier_init(self.empty + i, self.cluster_size)

    def are_drawn(self) -> Boolean:
        """As :meth:`EvenTurns.are_drawn`."""
        return self.counter != 0

    @cute.jit
    def next(self, index: Int32, state):
        """As :meth:`EvenTurns.next`; the work of a whole warp, the same in each CTA of the cluster."""
        _, _, clusters = cute.arch.grid_dim()
        following = index + clusters
        if self.counter != 0:
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
        """One lane's work: adds 1 to a word of the counter, and returns what it was."""
        return cute.arch.atomic_add(self.words() + word, Int32(1), sem=order, scope="gpu")

    def words(self) -> cute.Pointer:
        """The counter."""
        return cute.make_ptr(Int32, self.counter, cutlass.AddressSpace.gmem, assumed_align=4)

    @cute.jit
    def send(self, state):
        """The first CTA draws, and sends what it has drawn to all."""
        if is_first_of_cluster():
            cute.arch.mbarrier_wait(self.empty + state.index, state.phase ^ 1)
            if cute.arch.lane_idx() == 0:
                drawn = self.count(0, "relaxed")
                for cta in cutlass.range_constexpr(self.cluster_size):
                    letter = self.letters[None, state.index].iterator.align(4)
                    cute.arch.store_async_dsmem(letter, drawn, self.full + state.index, cta)

    @cute.jit
    def receive(self, state) -> Int32:
        """One lane's work: what has been sent."""
        cute.arch.mbarrier_arrive_and_expect_tx(self.full + state.index, 4)
        cute.arch.mbarrier_wait(self.full + state.index, state.phase)
        drawn = self.letters[0, state.index]
        cute.arch.mbarrier_arrive(self.empty + state.index, 0, scope=MemScopeKind.CLUSTER)
        return drawn

    @cute.jit
    def finish(self, state):
        """Called once, whether a tile was drawn or not: resets the counter, if this is the last cluster.

        The first CTA stays until all have received what it sent: they still arrive at its barriers.
        """
        _, _, clusters = cute.arch.grid_dim()
        if self.counter != 0 and is_first_of_cluster():
            if const_expr(self.cluster_size > 1):
                for _ in cutlass.range_constexpr(LETTERS):
                    cute.arch.mbarrier_wait(self.empty + state.index, state.phase ^ 1)
                    state.advance()
            if cute.arch.lane_idx() == 0:
                if self.count(1, "acq_rel") == clusters - 1:
                    words = cute.make_tensor(self.words(), cute.make_layout(2))
                    words[0], words[1] = Int32(0), Int32(0)


def is_first_of_cluster():
    """Whether the calling CTA is the first of its cluster, or has none."""
    return cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster()) == 0
