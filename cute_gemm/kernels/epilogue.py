"""From FP32 accumulators to the output: registers -> shared memory -> TMA store."""

from dataclasses import dataclass
from itertools import product

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync, warp

from .hopper import WARP, WARPGROUP, NamedBarrier, fp8_mma, hide_lane


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
    def __call__(self, accs, tma_atom, tma_mD, mD, first, row_end, sD, warpgroup_idx: Int32, tidx: Int32):
        """Stores fragments ``accs``, one for 64 rows, through ``sD``.

        ``first`` is where in D (M, N, matrices) their first element belongs, ``tma_mD`` D as TMA sees it.
        """
        gD = cute.domain_offset(first, tma_mD)
        gD = cute.local_tile(gD, (64, self.epi_n), (None, None, 0))  # (64, epi_n, restM, restN)
        mma = fp8_mma(self.epi_n)  # never issued: its C layout is that of a chunk
        if const_expr(self.dtype.width == 16):
            atom = cute.make_copy_atom(warp.StMatrix8x8x16bOp(False, 4), self.dtype)
        else:
            atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=64)
            # Eight addresses would be kept throughout the main loop: 256x128 tiles then spill two registers.
            tidx = hide_lane(tidx)
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


@dataclass(frozen=True)
class StoreRows(StoreD):
    """:class:`StoreD` where a tile's rows may end before those of D do, and the next ones are another's.

    TMA clips at the end of D only. A warpgroup not all of whose rows are to be stored writes the others from
    registers: eight rows by 16 (bf16) or 32 bytes a store instruction, which L2 puts together.
    """

    @cute.jit
    def __call__(self, accs, tma_atom, tma_mD, mD, first, row_end, sD, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`StoreD`, but rows of D from ``row_end`` on are left alone."""
        if first[0] + 64 * len(accs) <= row_end:
            StoreD.__call__(self, accs, tma_atom, tma_mD, mD, first, row_end, sD, warpgroup_idx, tidx)
        else:
            self.store_rows(accs, mD, first, row_end, tidx)

    @cute.jit
    def store_rows(self, accs, mD, first, row_end, tidx: Int32):
        """Each thread stores its own elements, two columns at a time (see promotion.add_scaled)."""
        pair = cute.make_rmem_tensor(2, self.dtype)
        row = first[0] + tidx % WARPGROUP // WARP * 16 + tidx % WARP // 4
        column = first[1] + tidx % 4 * 2
        for wave, half in product(range(len(accs)), range(2)):
            own_row = row + 64 * wave + 8 * half
            if own_row < row_end:
                gD = cute.domain_offset((own_row, column, first[2]), mD)
                for eight_columns in cutlass.range_constexpr(cute.size(accs[wave]) // 4):
                    if column + 8 * eight_columns < mD.shape[1]:
                        for i in range(2):
                            pair[i] = accs[wave][4 * eight_columns + 2 * half + i].to(self.dtype)
                        store_vector(pair, gD.iterator + 8 * eight_columns)


def store_vector(values: cute.Tensor, pointer: cute.Pointer):
    """Writes all of ``values`` to ``pointer``, aligned to their size, with one instruction."""
    size = cute.size(values)
    target = pointer.align(size * values.element_type.width // 8)
    cute.autovec_copy(values, cute.make_tensor(target, cute.make_layout(size)))
