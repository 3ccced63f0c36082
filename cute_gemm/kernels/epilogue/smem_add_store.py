"""Added to what D holds, in shared memory, where D is loaded while its tile is multiplied."""

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync

from ...plan.config import KernelConfig
from ...plan.limits import MMA_M
from ..sm90.mma import fragment_mma
from ..sm90.opaque import hidden_tensor, hide_lane
from ..sm90.threads import WARP, WARPGROUP, NamedBarrier
from ..sm90.tma import load_atom, store_atom
from .store import Sums
from .tma_store import TmaStore

_MEETING = WARPGROUP + WARP
"""Threads at a named barrier: a math warpgroup, and the warp that carries D for it."""


@dataclass(frozen=True)
class TmaInOut:
    """D in the kernel: how it is stored and how it is loaded, each with D (M, N, matrices) by coordinates."""

    store: cute.CopyAtom
    stored: cute.Tensor
    load: cute.CopyAtom
    loaded: cute.Tensor


@dataclass(frozen=True)
class SmemAddStore(TmaStore):
    """:class:`TmaStore` with room for all of a tile, which holds its old D when the main loop ends.

    A warp of its own carries D: it loads a tile's while that is multiplied, and stores the sums, while the
    math warpgroups go on. Where L2 adds (:class:`TmaAddStore`), it bounds a short K
    (docs/performance.md, 91). For each math warpgroup, in turns:

        barriers[w]   1: the carrying warp, with the bytes of D, which TMA counts down as they land
        LOADED + w    160: the carrying warp says that D is there; warpgroup w waits for it, and adds
        SUMMED + w    160: warpgroup w has added; the carrying warp waits for it, stores, and loads the next
    """

    block_n: int = 128
    rows: int = MMA_M
    """Of a math warpgroup."""

    @classmethod
    def of(cls, config: KernelConfig, dtype: type) -> "SmemAddStore":
        """As :meth:`TmaStore.of`."""
        stages = config.epi_n, config.epi_stages, config.math_warpgroups
        return cls(*stages, dtype, config.block_n, MMA_M * config.m_fragments)

    @property
    def Storage(self):
        """Its shared memory."""

        @cute.struct
        class Storage:
            sD: cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(self.layout)], 1024]
            barriers: cute.struct.MemRange[Int64, self.warpgroups]

        return Storage

    def operands(self, mD: cute.Tensor) -> TmaInOut:
        """As :meth:`store.Store.operands`."""
        box = MMA_M, self.epi_n
        return TmaInOut(*store_atom(mD, self.layout, box), *load_atom(mD, self.layout, box))

    def prefetch(self, operands: TmaInOut):
        """Asks for the descriptors."""
        cpasync.prefetch_descriptor(operands.load)
        cpasync.prefetch_descriptor(operands.store)

    @cute.jit
    def open(self, storage, tidx: Int32):
        """The buffers, (64, epi_n, stages of all warpgroups), and the barriers at which D arrives."""
        barriers = storage.barriers.data_ptr()
        if tidx == 0:
            for wg in cutlass.range_constexpr(self.warpgroups):
                cute.arch.mbarrier_init(barriers + wg, 1)
        return hidden_tensor(storage.sD, self.layout, self.dtype), barriers

    @cute.jit
    def carry(self, out: TmaInOut, shared, tiles):
        """The work of a whole warp: brings D of each tile, and takes it away."""
        warpgroups, phase = self.warpgroups, Int32(0)
        tile, slot = tiles.first_tile()
        if tile.is_valid:
            for wg in cutlass.range_constexpr(warpgroups):
                self.bring(out, shared, wg, tile)
        while tile.is_valid:
            for wg in cutlass.range_constexpr(warpgroups):
                cute.arch.mbarrier_wait(shared[1] + wg, phase)
                cute.arch.barrier_arrive(barrier_id=NamedBarrier.LOADED + wg, number_of_threads=_MEETING)
            following, slot = tiles.next_tile(tile, slot)
            for wg in cutlass.range_constexpr(warpgroups):
                cute.arch.barrier(barrier_id=NamedBarrier.SUMMED + wg, number_of_threads=_MEETING)
                sD, gD = self.boxes(out.store, out.stored, shared[0], wg, tile)
                for m, n in self.places():
                    cute.copy(out.store, sD[None, m * self.across + n], gD[None, m, n])
                cute.arch.cp_async_bulk_commit_group()
            for wg in cutlass.range_constexpr(warpgroups):
                cute.arch.cp_async_bulk_wait_group(warpgroups - 1 - wg, read=True)
                if following.is_valid:
                    self.bring(out, shared, wg, following)
            tile = following
            phase ^= 1

    @cute.jit
    def bring(self, out: TmaInOut, shared, wg: int, tile):
        """Loads D of a warpgroup's rows. What lies beyond it becomes zero, and counts all the same."""
        sD, gD = self.boxes(out.load, out.loaded, shared[0], wg, tile)
        barrier = shared[1] + wg
        with cute.arch.elect_one():
            tile_bytes = self.rows * self.block_n * self.dtype.width // 8
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, tile_bytes)
        for m, n in self.places():
            cute.copy(out.load, gD[None, m, n], sD[None, m * self.across + n], tma_bar_ptr=barrier)

    @property
    def across(self) -> int:
        """Chunks side by side."""
        return self.block_n // self.epi_n

    def places(self) -> list[tuple[int, int]]:
        """Of all chunks of a warpgroup, in the order of its buffers."""
        return [(m, n) for m in range(self.rows // MMA_M) for n in range(self.across)]

    def boxes(self, atom, matrices: cute.Tensor, sD: cute.Tensor, wg: int, tile) -> Any:
        """Buffers of a warpgroup, (TMA, chunks), and where they belong, (TMA, restM, restN)."""
        first = tile.row + wg * self.rows, tile.n_tile * self.block_n, tile.out_matrix
        gD = cute.local_tile(cute.domain_offset(first, matrices), (MMA_M, self.epi_n), (None, None, 0))
        sD = cute.local_tile(sD, (MMA_M, self.epi_n, self.stages), (0, 0, wg))
        return cpasync.tma_partition(
            atom, 0, cute.make_layout(1), cute.group_modes(sD, 0, 2), cute.group_modes(gD, 0, 2)
        )

    @cute.jit
    def __call__(self, sums: Sums, operands: TmaInOut, shared, warpgroup_idx: Int32, tidx: Int32):
        """As :meth:`store.Store.__call__`: adds to what the buffers hold, and leaves it to the other warp."""
        mma, shape = fragment_mma(self.epi_n), (MMA_M, self.epi_n)
        atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=64)
        # As in TmaStore: else addresses are kept throughout the main loop.
        thr_copy = cute.make_tiled_copy_C(atom, mma).get_slice(hide_lane(tidx) % WARPGROUP)
        sD = cute.local_tile(shared[0], (*shape, self.stages), (0, 0, warpgroup_idx))
        tSR_sD, tRS_sD = thr_copy.partition_S(sD), thr_copy.partition_D(sD)  # (copy, copy_M, copy_N, stages)
        rD, old = (cute.make_rmem_tensor(mma.partition_shape_C(shape), self.dtype) for _ in range(2))
        chunks = len(sums.accs) * sums.fragment_n // self.epi_n
        assert self.stages == chunks, "there is no buffer for each chunk"

        cute.arch.barrier(barrier_id=NamedBarrier.LOADED + warpgroup_idx, number_of_threads=_MEETING)
        for chunk in cutlass.range_constexpr(self.stages):
            _, _, values = sums.piece(chunk, self.epi_n)
            cute.copy(thr_copy, tSR_sD[None, None, None, chunk], thr_copy.retile(old))
            for i in cutlass.range_constexpr(cute.size(rD)):
                rD[i] = values[i].to(self.dtype) + old[i]
            cute.copy(thr_copy, thr_copy.retile(rD), tRS_sD[None, None, None, chunk])
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.barrier_arrive(barrier_id=NamedBarrier.SUMMED + warpgroup_idx, number_of_threads=_MEETING)
