"""From FP32 accumulators to the output: registers -> shared memory -> TMA store."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync, warp

from .hopper import WARPGROUP, NamedBarrier, fp8_mma


@dataclass(frozen=True)
class StoreD:
    """Each math warpgroup converts and stores its own rows, 64 x ``epi_n`` at a time, through its own buffer.

    The last store of a tile is still in flight when the next tile's mainloop starts: a buffer is waited for
    only right before it is written again. TMA clips what lies beyond the output.
    """

    epi_n: int
    stages: int
    dtype: type

    @cute.jit
    def __call__(self, accs, tma_atom, gD_wg, sD, warpgroup_idx: Int32, tidx: Int32):
        """Stores fragments ``accs`` (one per 64 rows) to ``gD_wg`` (64, epi_n, restM, restN)."""
        mma = fp8_mma(self.epi_n)
        if const_expr(self.dtype.width == 16):
            atom = cute.make_copy_atom(warp.StMatrix8x8x16bOp(False, 4), self.dtype)
        else:
            atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=64)
        r2s = cute.make_tiled_copy_C(atom, mma).get_slice(tidx % WARPGROUP)
        sD_wg = cute.local_tile(sD, (64, self.epi_n, self.stages), (0, 0, warpgroup_idx))  # (64, epi_n, stages)
        tRS_sD = r2s.partition_D(sD_wg)
        rD = cute.make_rmem_tensor(mma.get_slice(0).partition_C(sD_wg[None, None, 0]).shape, self.dtype)
        bSG_sD, bSG_gD = cpasync.tma_partition(
            tma_atom, 0, cute.make_layout(1), cute.group_modes(sD_wg, 0, 2), cute.group_modes(gD_wg, 0, 2)
        )
        issues_tma = cute.arch.make_warp_uniform(tidx // 32) % 4 == 0
        chunks = cute.size(accs[0]) // cute.size(rD)
        if issues_tma:
            cute.arch.cp_async_bulk_wait_group(0, read=True)
        self.sync(warpgroup_idx)
        for chunk in cutlass.range_constexpr(len(accs) * chunks):
            m, n, stage = chunk // chunks, chunk % chunks, chunk % self.stages
            for i in cutlass.range_constexpr(cute.size(rD)):
                rD[i] = accs[m][n * cute.size(rD) + i].to(self.dtype)
            cute.copy(r2s, r2s.retile(rD), tRS_sD[None, None, None, stage])
            cute.arch.fence_proxy("async.shared", space="cta")
            if const_expr(self.stages <= chunk + 1 < len(accs) * chunks):
                if issues_tma:
                    cute.arch.cp_async_bulk_wait_group(self.stages - 2, read=True)
            self.sync(warpgroup_idx)
            if issues_tma:
                cute.copy(tma_atom, bSG_sD[None, stage], bSG_gD[None, m, n])
                cute.arch.cp_async_bulk_commit_group()

    def sync(self, warpgroup_idx: Int32):
        """Meets the other threads of the calling math warpgroup."""
        cute.arch.barrier(barrier_id=NamedBarrier.STORE + warpgroup_idx, number_of_threads=WARPGROUP)
