"""From registers through shared memory to D, by TMA."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync, warp

from ...plan.config import KernelConfig
from ...plan.limits import MMA_M
from ..sm90.mma import fragment_mma
from ..sm90.opaque import hidden_tensor, hide_lane
from ..sm90.smem import swizzled_layout
from ..sm90.threads import WARP, WARPGROUP, NamedBarrier
from ..sm90.tma import store_atom
from .store import Sums
from .value import Value


@dataclass(frozen=True)
class TmaOut:
    """D in the kernel."""

    atom: cute.CopyAtom
    matrices: cute.Tensor  # D (M, N, matrices), by TMA's coordinates
    mD: cute.Tensor  # the same by address


@dataclass(frozen=True)
class TmaStore:
    """Each math warpgroup converts and stores its own rows, in chunks of 64 x ``epi_n`` of D.

    It has ``stages`` buffers of its own and waits for nobody else. The stores of a tile are still in flight
    when the next tile's mainloop starts. TMA clips what lies beyond the output.
    """

    epi_n: int
    stages: int
    warpgroups: int
    dtype: type

    @classmethod
    def of(cls, config: KernelConfig, dtype: type) -> "TmaStore":
        """The store of a configuration, to a D of ``dtype``."""
        return cls(config.epi_n, config.epi_stages, config.math_warpgroups, dtype)

    def taking(self, value: Value) -> "TmaStore":
        """The same: it asks ``value`` chunk by chunk."""
        return self

    @property
    def layout(self) -> cute.ComposedLayout:
        """Of the buffers: (64, epi_n, stages of all warpgroups)."""
        return swizzled_layout(MMA_M, self.epi_n, self.warpgroups * self.stages, self.dtype)

    @property
    def Storage(self):
        """Its shared memory."""

        @cute.struct
        class Storage:
            sD: cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(self.layout)], 1024]

        return Storage

    def operands(self, mD: cute.Tensor) -> TmaOut:
        """As :meth:`store.Store.operands`."""
        return TmaOut(*store_atom(mD, self.layout, (MMA_M, self.epi_n)), mD)

    def prefetch(self, operands):
        """Asks for what a store needs first."""
        cpasync.prefetch_descriptor(operands.atom)

    def open(self, storage, tidx: Int32) -> cute.Tensor:
        """The buffers, (64, epi_n, stages of all warpgroups)."""
        return hidden_tensor(storage.sD, self.layout, self.dtype)

    @cute.jit
    def __call__(self, sums: Sums, operands: TmaOut, sD, warpgroup_idx: Int32, tidx: Int32):
        """As :meth:`store.Store.__call__`; rows from ``sums.row_end`` on are stored as well, but beyond D."""
        gD = cute.domain_offset(sums.first, operands.matrices)
        gD = cute.local_tile(gD, (MMA_M, self.epi_n), (None, None, 0))  # (64, epi_n, restM, restN)
        mma = fragment_mma(self.epi_n)
        if const_expr(self.dtype.width == 16):
            atom = cute.make_copy_atom(warp.StMatrix8x8x16bOp(False, 4), self.dtype)
        else:
            atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=64)
            # Else eight addresses are kept throughout the main loop, and 256x128 tiles spill
            # (docs/performance.md, 73).
            tidx = hide_lane(tidx)
        r2s = cute.make_tiled_copy_C(atom, mma).get_slice(tidx % WARPGROUP)
        sD = cute.local_tile(sD, (MMA_M, self.epi_n, self.stages), (0, 0, warpgroup_idx))
        tRS_sD = r2s.partition_D(sD)  # (R2S, R2S_M, R2S_N, stages)
        rD = cute.make_rmem_tensor(mma.partition_shape_C((MMA_M, self.epi_n)), self.dtype)
        bSG_sD, bSG_gD = cpasync.tma_partition(  # (TMA, stages), (TMA, restM, restN)
            operands.atom, 0, cute.make_layout(1), cute.group_modes(sD, 0, 2), cute.group_modes(gD, 0, 2)
        )
        issues_tma = cute.arch.make_warp_uniform(tidx // WARP) % 4 == 0
        out_n = sums.value.out_columns(sums.fragment_n)
        assert out_n % self.epi_n == 0, f"buffers of {self.epi_n} columns do not make {out_n}"
        per_fragment = out_n // self.epi_n
        chunk_n = sums.fragment_n // per_fragment  # columns of the sum
        num_chunks = len(sums.accs) * per_fragment
        assert self.stages >= 2 or num_chunks == 1, "one buffer holds one chunk"

        if issues_tma:
            cute.arch.cp_async_bulk_wait_group(0, read=True)
        self.sync(warpgroup_idx)
        for chunk in cutlass.range_constexpr(num_chunks):
            m, column, values = sums.piece(chunk, chunk_n)
            stage = chunk % self.stages
            for i in cutlass.range_constexpr(cute.size(rD)):
                rD[i] = values[i].to(self.dtype)
            cute.copy(r2s, r2s.retile(rD), tRS_sD[None, None, None, stage])
            cute.arch.fence_proxy("async.shared", space="cta")
            # The one barrier of a chunk also says that the next chunk's buffer has been read.
            if const_expr(self.stages <= chunk + 1 < num_chunks):
                if issues_tma:
                    cute.arch.cp_async_bulk_wait_group(self.stages - 2, read=True)
            self.sync(warpgroup_idx)
            if issues_tma:
                cute.copy(operands.atom, bSG_sD[None, stage], bSG_gD[None, m, column // chunk_n])
                cute.arch.cp_async_bulk_commit_group()

    def sync(self, warpgroup_idx: Int32):
        """Meets the other threads of the calling math warpgroup."""
        cute.arch.barrier(barrier_id=NamedBarrier.STORE + warpgroup_idx, number_of_threads=WARPGROUP)
