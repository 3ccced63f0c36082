"""From FP32 accumulators to the output: registers -> shared memory -> TMA store."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync, warp

from .hopper import WARP, WARPGROUP, NamedBarrier, fp8_mma


@dataclass(frozen=True)
class StoreD:
    """Each math warpgroup converts and stores its own rows, in chunks of 64 x ``epi_n``.

    It has ``stages`` buffers of its own and waits for nobody else. The stores of a tile are still in flight
    when the next tile's mainloop starts. TMA clips what lies beyond the output.
    """

    epi_n: int
    stages: int
    dtype: type

    @cute.jit
    def __call__(self, accs, tma_atom, gD, sD, warpgroup_idx: Int32, tidx: Int32):
        """Stores fragments ``accs``, one for 64 rows, to ``gD`` (64, epi_n, restM, restN) through ``sD``."""
        mma = fp8_mma(self.epi_n)  # never issued: its C layout is that of a chunk
        if const_expr(self.dtype.width == 16):
            atom = cute.make_copy_atom(warp.StMatrix8x8x16bOp(False, 4), self.dtype)
        else:
            atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=64)
        r2s = cute.make_tiled_copy_C(atom, mma).get_slice(tidx % WARPGROUP)
        sD = cute.local_tile(sD, (64, self.epi_n, self.stages), (0, 0, warpgroup_idx))  # (64, epi_n, stages)
        tRS_sD = r2s.partition_D(sD)  # (R2S, R2S_M, R2S_N, stages)
        rD = cute.make_rmem_tensor(mma.partition_shape_C((64, self.epi_n)), self.dtype)
        bSG_sD, bSG_gD = cpasync.tma_partition(  # (TMA, stages), (TMA, restM, restN)
            tma_atom, 0, cute.make_layout(1), cute.group_modes(sD, 0, 2), cute.group_modes(gD, 0, 2)
        )
        issues_tma = cute.arch.make_warp_uniform(tidx // WARP) % 4 == 0
        per_acc = cute.size(accs[0]) // cute.size(rD)
        num_chunks = len(accs) * per_acc

        if issues_tma:
            cute.arch.cp_async_bulk_wait_group(0, read=True)
        self.sync(warpgroup_idx)
        for chunk in cutlass.range_constexpr(num_chunks):
            m, n, stage = chunk // per_acc, chunk % per_acc, chunk % self.stages
            for i in cutlass.range_constexpr(cute.size(rD)):
                rD[i] = accs[m][n * cute.size(rD) + i].to(self.dtype)
            cute.copy(r2s, r2s.retile(rD), tRS_sD[None, None, None, stage])
            cute.arch.fence_proxy("async.shared", space="cta")
            # The one barrier of a chunk also says that the next chunk's buffer has been read.
            if const_expr(self.stages <= chunk + 1 < num_chunks):
                if issues_tma:
                    cute.arch.cp_async_bulk_wait_group(self.stages - 2, read=True)
            self.sync(warpgroup_idx)
            if issues_tma:
                cute.copy(tma_atom, bSG_sD[None, stage], bSG_gD[None, m, n])
                cute.arch.cp_async_bulk_commit_group()

    def sync(self, warpgroup_idx: Int32):
        """Meets the other threads of the calling math warpgroup."""
        cute.arch.barrier(barrier_id=NamedBarrier.STORE + warpgroup_idx, number_of_threads=WARPGROUP)
