"""CTAs that have columns of the same rows, and tell each other the largest of each row, tile by tile."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr

from ...dsl import store_async_dsmem
from ...plan.limits import EXCHANGE_SLOTS, MMA_M
from ..sm90.mma import QUAD, row_offset, thread_row
from ..sm90.threads import WARPGROUP


@dataclass(frozen=True)
class Meeting:
    """Where the CTAs of a cluster meet: shared memory, and a barrier for each slot of each math warpgroup.

    Args:
        ctas: all of the cluster; with one, nobody is met.
        warpgroups: math warpgroups of a CTA. Each meets those of its number.
    """

    ctas: int
    warpgroups: int

    @property
    def layout(self) -> cute.Layout:
        """Of what arrives: (rows, CTAs, slots, warpgroups)."""
        return cute.make_layout((MMA_M, self.ctas, EXCHANGE_SLOTS, self.warpgroups))

    @property
    def Storage(self):
        """Its shared memory."""
        is_empty = self.ctas == 1

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[Int64, 0 if is_empty else EXCHANGE_SLOTS * self.warpgroups]
            largest: cute.struct.MemRange[Int32, 0 if is_empty else cute.size(self.layout)]

        return Storage

    def beside(self, of_store):
        """The shared memory of a store whose own is ``of_store``, and of the meeting."""

        @cute.struct
        class Storage:
            own: of_store
            meeting: self.Storage

        return Storage

    @cute.jit
    def open(self, storage, tidx: Int32) -> tuple:
        """What :meth:`peers` takes, with barriers initialised: as :meth:`store.Store.open`."""
        shared = ()
        if const_expr(self.ctas > 1):
            barriers = storage.barriers.data_ptr()
            if tidx == 0:
                for i in cutlass.range_constexpr(EXCHANGE_SLOTS * self.warpgroups):
                    cute.arch.mbarrier_init(barriers + i, 1)
            exchanges = cute.make_rmem_tensor(1, Int32)
            exchanges[0] = Int32(0)
            shared = storage.largest.get_tensor(self.layout), barriers, exchanges
        return shared

    def peers(self, shared: tuple, warpgroup_idx: Int32, tidx: Int32) -> "Peers | None":
        """Those of the calling thread, if any."""
        if not shared:
            return None
        largest, barriers, exchanges = shared
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        own_barriers = barriers + EXCHANGE_SLOTS * warpgroup_idx
        own = largest[None, None, None, warpgroup_idx]
        return Peers(self.ctas, rank, own, own_barriers, exchanges, tidx % WARPGROUP)


@dataclass(frozen=True)
class Peers:
    """The CTAs that have the other columns of the same rows, seen by one thread of a math warpgroup.

    The same warpgroup of all CTAs must ask for the same rows in the same order. Between two exchanges its
    threads must meet at a barrier. Then two slots in turns suffice: who sends for the slot again has received
    all of the exchange between, which was sent when all had read the slot.

    Each exchange waits for all that is sent to the CTA for it. So after its last one a CTA may end.
    """

    count: int  # with this CTA
    rank: Int32
    largest_of_rows: cute.Tensor  # (rows, CTAs, slots), what has arrived
    barriers: cute.Pointer  # of each slot
    exchanges: cute.Tensor  # (1,) in a register: how many there were
    thread: Int32

    @property
    def is_first(self):
        """Whether this CTA writes what all of them know."""
        return self.rank == 0

    @cute.jit
    def largest(self, own: tuple):
        """Of a thread's two rows the largest of all CTAs, given the largest of this one's quads."""
        exchange = self.exchanges[0]
        self.exchanges[0] = exchange + 1
        slot, phase = exchange & 1, exchange >> 1 & 1
        row, barrier = thread_row(Int32(0), self.thread), self.barriers + slot
        # Others may have sent already: what arrives counts from then on.
        if self.thread == 0:
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, 4 * MMA_M * (self.count - 1))
        for half in cutlass.range_constexpr(2):
            target = self.largest_of_rows[None, self.rank, slot].iterator + (row + row_offset(2 * half))
            for cta in cutlass.range_constexpr(self.count):
                # Of the four lanes that have a row, one sends; each has a turn, so that none sends to all.
                if self.rank != cta and self.thread % QUAD == cta % QUAD:
                    store_async_dsmem(target, own[half], barrier, cta)
        cute.arch.mbarrier_wait(barrier, phase)
        found = []
        for half in cutlass.range_constexpr(2):
            most = own[half]
            for cta in cutlass.range_constexpr(self.count):
                other = self.largest_of_rows[row + row_offset(2 * half), cta, slot]
                most = cutlass.max(most, Int32(cutlass.select_(self.rank == cta, own[half], other)))
            found.append(most)
        return tuple(found)
