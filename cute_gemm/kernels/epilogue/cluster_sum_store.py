"""Partial sums of several CTAs, added up through distributed shared memory."""

from dataclasses import dataclass, replace
from itertools import product

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass._mlir.dialects import llvm

from ...dsl import store_async_dsmem
from ...plan.config import KernelConfig
from ...plan.limits import MMA_M
from ..sm90.mma import thread_row
from ..sm90.threads import WARPGROUP
from .row_store import store_rows
from .store import Sums
from .value import Value


@dataclass(frozen=True)
class ClusterSumStore:
    """The CTAs of a cluster have partial sums of one tile, and each adds up and stores some columns of it.

    Every thread sends its elements of these columns to the thread of the same number in the CTA that adds
    them up, eight columns at a time, four elements each; those of its own CTA it just writes. A barrier
    counts the bytes that have arrived from others, which is faster than stores with a barrier of the cluster
    and than bulk copies (docs/performance.md, 33 and 60). Partial sums are added in the order of the CTAs, so
    a result does not depend on who comes first. The value is applied to what they add up to.

    For one tile of a CTA, of one m-fragment: nobody says when what has arrived was read. Of rows that are not
    stored nothing is sent, so what is added up of them, and given to the value, is whatever was there.
    """

    block_n: int
    splits: int
    warpgroups: int
    dtype: type
    unit: int = 8

    @classmethod
    def of(cls, config: KernelConfig, dtype: type) -> "ClusterSumStore":
        """As :meth:`TmaStore.of`."""
        return cls(config.block_n, config.splits, config.math_warpgroups, dtype)

    def taking(self, value: Value) -> "ClusterSumStore":
        """One whose CTAs add up columns that ``value`` takes by themselves."""
        unit = self.unit_of(value)
        assert self.block_n % unit == 0, f"{self.block_n} columns are no whole units of {unit}"
        taking = replace(self, unit=unit)
        has_own = 8 * taking.per_cta * (self.splits - 1) < self.block_n
        assert has_own, f"{self.block_n} columns in units of {unit} are none for some of {self.splits} CTAs"
        return taking

    def unit_of(self, value: Value) -> int:
        """Of how many columns a CTA must have all or none."""
        return value.unit

    @property
    def per_cta(self) -> int:
        """Eights of columns that a CTA adds up; the last one may have fewer."""
        return -(-self.block_n // (self.unit * self.splits)) * self.unit // 8

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

    def operands(self, mD: cute.Tensor) -> cute.Tensor:
        """D."""
        return mD

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
    def __call__(self, sums: Sums, mD: cute.Tensor, shared, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`RowStore`."""
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        own_column = 8 * self.per_cta * rank
        total = self.added(sums, *shared, rank, tidx)
        self.store(sums.value(total, 0, own_column), sums, own_column, mD, tidx)

    @cute.jit
    def added(self, sums: Sums, partials: cute.Tensor, barrier: cute.Pointer, rank: Int32, tidx: Int32):
        """What the partial sums of a CTA's columns add up to, in registers of 64 rows."""
        accs, first = sums.accs, sums.first
        # Of a thread's two rows, the second is eight below: where the first is not stored, neither is.
        row = thread_row(first[0], tidx)
        rows = cutlass.max(cutlass.min(sums.row_end - first[0], MMA_M), 0)
        senders = 4 * (rows // 16 * 8 + cutlass.min(rows % 16, 8))
        own_column = 8 * self.per_cta * rank
        eights = cutlass.max(cutlass.min(self.block_n - own_column, 8 * self.per_cta), 0) // 8
        if tidx % WARPGROUP == 0:
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, 16 * eights * (self.splits - 1) * senders)
        # Answers the arrival at the kernel's start: the peers' barriers are there.
        cute.arch.cluster_wait()
        four = cute.make_rmem_tensor(4, Float32)
        if row < sums.row_end:
            for eight_columns in cutlass.range_constexpr(self.block_n // 8):
                cta, place = divmod(eight_columns, self.per_cta)
                fragment, own = divmod(8 * eight_columns, sums.fragment_n)
                for i in cutlass.range_constexpr(4):
                    four[i] = accs[fragment][own // 2 + i]
                target = partials[None, tidx, place, rank]
                if rank == cta:
                    cute.autovec_copy(four, target)
                else:
                    values = tuple(bits(four[i]) for i in range(4))
                    store_async_dsmem(target.iterator.align(16), values, barrier, cta)
        cute.arch.mbarrier_wait(barrier, 0)
        total = cute.make_rmem_tensor((4, self.per_cta), Float32)
        total.fill(0.0)
        for place, cta in product(range(self.per_cta), range(self.splits)):
            cute.autovec_copy(partials[None, tidx, place, cta], four)
            for i in cutlass.range_constexpr(4):
                total[i, place] += four[i]
        return total

    def store(self, values: cute.Tensor, sums: Sums, own_column: Int32, mD: cute.Tensor, tidx: Int32):
        """Writes what became of a CTA's columns."""
        (row, column, matrix), out_columns = sums.first, sums.value.out_columns
        column_end = cutlass.min(column + out_columns(self.block_n), mD.shape[1])
        own_first = (row, column + out_columns(own_column), matrix)
        store_rows(values, mD, own_first, (sums.row_end, column_end), tidx)


def bits(value: Float32) -> Int32:
    """``value`` as it is stored."""
    return Int32(llvm.bitcast(Int32.mlir_type, value.ir_value()))
