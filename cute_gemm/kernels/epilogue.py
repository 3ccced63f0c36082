"""From FP32 accumulators to the output.

A store says what it takes: ``operands`` of D made on the host, ``Storage`` in shared memory, which all
threads ``open`` before any of them goes on to its role. Then each math warpgroup calls it, tile by tile.
"""

from dataclasses import dataclass
from itertools import product

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr
from cutlass._mlir.dialects import llvm
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync, warp

from ..plan.config import KernelConfig
from .hopper import (
    WARP,
    WARPGROUP,
    NamedBarrier,
    fp8_mma,
    hidden_tensor,
    hide_lane,
    row_major_smem_layout,
    tma_store,
)


@dataclass(frozen=True)
class TmaStore:
    """Each math warpgroup converts and stores its own rows, in chunks of 64 x ``epi_n``.

    It has ``stages`` buffers of its own and waits for nobody else. The stores of a tile are still in flight
    when the next tile's mainloop starts. TMA clips what lies beyond the output.
    """

    epi_n: int
    stages: int
    warpgroups: int
    dtype: type

    @classmethod
    def of(cls, config: KernelConfig, dtype: type):
        """The store of a configuration, to a D of ``dtype``."""
        return cls(config.epi_n, config.epi_stages, config.math_warpgroups, dtype)

    @property
    def layout(self) -> cute.ComposedLayout:
        """Of the buffers: (64, epi_n, stages of all warpgroups)."""
        return row_major_smem_layout(64, self.epi_n, self.warpgroups * self.stages, self.dtype)

    @property
    def Storage(self):
        """Its shared memory."""

        @cute.struct
        class Storage:
            sD: cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(self.layout)], 1024]

        return Storage

    def operands(self, mD: cute.Tensor) -> tuple:
        """TMA's atom and view of D, and D."""
        return (*tma_store(mD, self.layout, (64, self.epi_n)), mD)

    def prefetch(self, operands):
        """Asks for what a store needs first."""
        cpasync.prefetch_descriptor(operands[0])

    def open(self, storage, tidx: Int32) -> cute.Tensor:
        """The buffers."""
        return hidden_tensor(storage.sD, self.layout, self.dtype)  # (64, epi_n, buffers)

    @cute.jit
    def __call__(self, accs, operands, sD, first, row_end, warpgroup_idx: Int32, tidx: Int32):
        """Stores fragments ``accs``, one for 64 rows, through ``sD``.

        ``first`` is where in D (M, N, matrices) their first element belongs.
        """
        tma_atom, tma_mD, _ = operands
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
class RowStore(TmaStore):
    """:class:`TmaStore` where a tile's rows may end before those of D do, and the next ones are another's.

    TMA clips at the end of D only. A warpgroup not all of whose rows are to be stored writes the others from
    registers: eight rows by 16 (bf16) or 32 bytes a store instruction, which L2 puts together.
    """

    @cute.jit
    def __call__(self, accs, operands, sD, first, row_end, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`TmaStore`, but rows of D from ``row_end`` on are left alone."""
        if first[0] + 64 * len(accs) <= row_end:
            TmaStore.__call__(self, accs, operands, sD, first, row_end, warpgroup_idx, tidx)
        else:
            mD = operands[-1]
            store_rows(accs, mD, first, (row_end, mD.shape[1]), tidx)


@dataclass(frozen=True)
class ClusterSumStore:
    """The CTAs of a cluster have partial sums of one tile, and each adds up and stores some columns of it.

    Every thread sends its elements of these columns to the thread of the same number in the CTA that adds
    them up, eight columns at a time, four elements each; those of its own CTA it just writes. A barrier
    counts the bytes that have arrived from others: with plain stores it took 5 to 65 % longer, with bulk
    copies 1 to 6 % (2026-11-25). Partial sums are added in the order of the CTAs, so a result does not depend
    on who comes first.

    For one tile of a CTA: nobody says when what has arrived was read.
    """

    block_n: int
    splits: int
    warpgroups: int
    dtype: type

    @classmethod
    def of(cls, config: KernelConfig, dtype: type):
        """As :meth:`TmaStore.of`."""
        return cls(config.block_n, config.splits, config.math_warpgroups, dtype)

    @property
    def per_cta(self) -> int:
        """Eights of columns that a CTA adds up; the last one may have fewer."""
        return -(-self.block_n // (8 * self.splits))

    @property
    def layout(self) -> cute.Layout:
        """Of partial sums: (four of a thread, threads, eights of columns, CTAs)."""
        return cute.make_layout((4, WARPGROUP * self.warpgroups, self.per_cta, self.splits))

    @property
    def Storage(self):
        """Its shared memory."""

        @cute.struct
        class Storage:
            barrier: cute.struct.MemRange[Int64, 1]
            partials: cute.struct.Align[cute.struct.MemRange[Float32, cute.size(self.layout)], 1024]

        return Storage

    def operands(self, mD: cute.Tensor) -> tuple:
        """D."""
        return (mD,)

    def prefetch(self, operands):
        """Nothing."""

    @cute.jit
    def open(self, storage, tidx: Int32):
        """Where partial sums arrive, and the barrier, at which each warpgroup says how much it expects."""
        barrier = storage.barrier.data_ptr()
        if tidx == 0:
            cute.arch.mbarrier_init(barrier, self.warpgroups)
        return storage.partials.get_tensor(self.layout), barrier

    @cute.jit
    def __call__(self, accs, operands, shared, first, row_end, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`RowStore`."""
        ((acc,), (mD,), (partials, barrier)) = accs, operands, shared
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        # Of a thread's two rows, the second is eight below: where the first is not stored, neither is.
        row = first[0] + tidx % WARPGROUP // WARP * 16 + tidx % WARP // 4
        rows = cutlass.max(cutlass.min(row_end - first[0], 64), 0)
        senders = 4 * (rows // 16 * 8 + cutlass.min(rows % 16, 8))
        own_column = 8 * self.per_cta * rank
        eights = cutlass.max(cutlass.min(self.block_n - own_column, 8 * self.per_cta), 0) // 8
        if tidx % WARPGROUP == 0:
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, 16 * eights * (self.splits - 1) * senders)
        # Answers the arrival at the kernel's start: the peers' barriers are there.
        cute.arch.cluster_wait()
        four = cute.make_rmem_tensor(4, Float32)
        if row < row_end:
            for eight_columns in cutlass.range_constexpr(self.block_n // 8):
                cta, place = divmod(eight_columns, self.per_cta)
                for i in cutlass.range_constexpr(4):
                    four[i] = acc[4 * eight_columns + i]
                target = partials[None, tidx, place, rank]
                if rank == cta:
                    cute.autovec_copy(four, target)
                else:
                    values = tuple(bits(four[i]) for i in range(4))
                    cute.arch.store_async_dsmem(target.iterator.align(16), values, barrier, cta)
        cute.arch.mbarrier_wait(barrier, 0)
        total = cute.make_rmem_tensor((4, self.per_cta), Float32)
        total.fill(0.0)
        for place, cta in product(range(self.per_cta), range(self.splits)):
            cute.autovec_copy(partials[None, tidx, place, cta], four)
            for i in cutlass.range_constexpr(4):
                total[i, place] += four[i]
        column_end = cutlass.min(first[1] + self.block_n, mD.shape[1])
        store_rows([total], mD, (first[0], first[1] + own_column, first[2]), (row_end, column_end), tidx)


def bits(value: Float32) -> Int32:
    """``value`` as it is stored."""
    return Int32(llvm.bitcast(Int32.mlir_type, value.ir_value()))


@cute.jit
def store_rows(accs, mD, first, end, tidx: Int32):
    """Each thread stores its own elements before row and column ``end``, two columns at a time.

    Which those are, see promotion.add_scaled.
    """
    pair = cute.make_rmem_tensor(2, mD.element_type)
    row = first[0] + tidx % WARPGROUP // WARP * 16 + tidx % WARP // 4
    column = first[1] + tidx % 4 * 2
    for wave, half in product(range(len(accs)), range(2)):
        own_row = row + 64 * wave + 8 * half
        if own_row < end[0]:
            gD = cute.domain_offset((own_row, column, first[2]), mD)
            for eight_columns in cutlass.range_constexpr(cute.size(accs[wave]) // 4):
                if column + 8 * eight_columns < end[1]:
                    for i in range(2):
                        pair[i] = accs[wave][4 * eight_columns + 2 * half + i].to(mD.element_type)
                    store_vector(pair, gD.iterator + 8 * eight_columns)


def store_vector(values: cute.Tensor, pointer: cute.Pointer):
    """Writes all of ``values`` to ``pointer``, aligned to their size, with one instruction."""
    size = cute.size(values)
    target = pointer.align(size * values.element_type.width // 8)
    cute.autovec_copy(values, cute.make_tensor(target, cute.make_layout(size)))
