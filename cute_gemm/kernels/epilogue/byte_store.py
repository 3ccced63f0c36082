"""Values of 8 bits, through shared memory to D."""

from dataclasses import dataclass, replace

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import CopyUniversalOp, cpasync

from ...plan.config import KernelConfig
from ...plan.limits import MMA_M
from ..quantize.memory import matrix_of
from ..quantize.memory import store as store_piece
from ..sm90.mma import fragment_mma
from ..sm90.opaque import hide_lane
from ..sm90.threads import WARP, WARPGROUP
from .peers import Meeting
from .store import Sums
from .tma_store import TmaOut, TmaStore

PIECE = 16
"""Columns that a thread stores at once."""


@dataclass(frozen=True)
class ByteStore(TmaStore):
    """:class:`TmaStore` of values that need all columns of a chunk together, and are then 8 bits each.

    A chunk may have columns of several fragments. A thread moves two neighbouring columns at once: quads of
    eight rows write to different banks.

    Where CTAs have the columns of a scale between them, a chunk is what this one has of it. They all have the
    same rows, and so store as many chunks in the same order.
    """

    scale_ctas: int = 1

    @classmethod
    def of(cls, config: KernelConfig, dtype: type) -> "ByteStore":
        """As :meth:`TmaStore.of`."""
        return replace(super().of(config, dtype), scale_ctas=config.scale_ctas)

    @property
    def meeting(self) -> Meeting:
        """Of the CTAs that have the columns of a scale."""
        return Meeting(self.scale_ctas, self.warpgroups)

    @property
    def Storage(self):
        """Its shared memory: buffers, and what peers say of rows."""
        return self.meeting.beside(TmaStore.Storage.fget(self))

    @cute.jit
    def open(self, storage, tidx: Int32):
        """As :meth:`TmaStore.open`; and how peers are met."""
        return TmaStore.open(self, storage.own, tidx), self.meeting.open(storage.meeting, tidx)

    @property
    def to_buffer(self) -> cute.TiledCopy:
        """Of a fragment's registers, by the threads of a warpgroup."""
        atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=16)
        return cute.make_tiled_copy_C(atom, fragment_mma(self.epi_n))

    @cute.jit
    def __call__(self, sums: Sums, operands: TmaOut, shared, warpgroup_idx: Int32, tidx: Int32):
        """As :meth:`TmaStore.__call__`."""
        assert self.dtype.width == 8, f"{self.dtype} is not of 8 bits"
        # Else what follows from it is kept throughout the main loop, and wide tiles spill.
        tidx = hide_lane(tidx)
        sD, meeting = shared
        peers = self.meeting.peers(meeting, warpgroup_idx, tidx)
        value = sums.value.of_thread(tidx).among(peers)
        r2s = self.to_buffer.get_slice(tidx % WARPGROUP)
        sD = cute.local_tile(sD, (MMA_M, self.epi_n, self.stages), (0, 0, warpgroup_idx))
        tRS_sD = r2s.partition_D(sD)  # (R2S, R2S_M, R2S_N, stages)
        fragment = fragment_mma(self.epi_n).partition_shape_C((MMA_M, self.epi_n))
        rD = cute.make_rmem_tensor(fragment, self.dtype)
        issues_tma = cute.arch.make_warp_uniform(tidx // WARP) % 4 == 0
        row_n = sums.n_fragments * sums.fragment_n
        assert value.out_columns(row_n) % self.epi_n == 0, f"no buffers of {self.epi_n} columns"
        per_row = value.out_columns(row_n) // self.epi_n
        chunk_n = row_n // per_row  # columns of the sum
        for chunk in cutlass.range_constexpr(sums.m_fragments * per_row):
            m, n, stage = chunk // per_row, chunk % per_row, chunk % self.stages
            values = value(sums.columns(m, n * chunk_n, chunk_n), MMA_M * m, n * chunk_n)
            made = cute.make_tensor(values.iterator, cute.make_layout(cute.size(rD)))
            cute.make_tensor(rD.iterator, made.layout).store(made.load().to(self.dtype))
            # What the buffer held before has been read.
            if const_expr(chunk == 0 or chunk >= self.stages):
                if issues_tma:
                    cute.arch.cp_async_bulk_wait_group(0 if chunk == 0 else self.stages - 1, read=True)
                self.sync(warpgroup_idx)
            cute.copy(r2s, r2s.retile(rD), tRS_sD[None, None, None, stage])
            cute.arch.fence_proxy("async.shared", space="cta")
            self.sync(warpgroup_idx)
            first = sums.first[0] + MMA_M * m, sums.first[1] + self.epi_n * n, sums.first[2]
            self.put(sD[None, None, stage], operands, first, sums.row_end, issues_tma, tidx % WARPGROUP)

    @cute.jit
    def put(self, buffer, operands: TmaOut, first, row_end: Int32, issues_tma, thread: Int32):
        """Stores a buffer of 64 rows, from the row, the column and the matrix ``first`` on."""
        gD = cute.domain_offset(first, operands.matrices)
        gD = cute.local_tile(gD, (MMA_M, self.epi_n), (0, 0, 0))
        sD, gD = cpasync.tma_partition(
            operands.atom, 0, cute.make_layout(1), cute.group_modes(buffer, 0, 2), cute.group_modes(gD, 0, 2)
        )
        if issues_tma:
            cute.copy(operands.atom, sD, gD)
            cute.arch.cp_async_bulk_commit_group()


@dataclass(frozen=True)
class ByteRowStore(ByteStore):
    """:class:`ByteStore` where a tile's rows may end before those of D do, and the next ones are another's.

    What is not to be stored whole goes on from shared memory, 16 columns a thread.
    """

    @property
    def from_buffer(self) -> cute.TiledCopy:
        """Of pieces: (PIECE, rows of a thread, 1), neighbours along a row by neighbouring threads."""
        per_row = self.epi_n // PIECE
        atom = cute.make_copy_atom(CopyUniversalOp(), self.dtype, num_bits_per_copy=PIECE * 8)
        threads = cute.make_ordered_layout((WARPGROUP // per_row, per_row), order=(1, 0))
        return cute.make_tiled_copy_tv(atom, threads, cute.make_layout((1, PIECE)))

    @cute.jit
    def __call__(self, sums: Sums, operands: TmaOut, shared, warpgroup_idx: Int32, tidx: Int32):
        """As :meth:`ByteStore.__call__`; a warpgroup without rows computes nothing."""
        if sums.first[0] < sums.row_end:
            ByteStore.__call__(self, sums, operands, shared, warpgroup_idx, tidx)

    @cute.jit
    def put(self, buffer, operands: TmaOut, first, row_end: Int32, issues_tma, thread: Int32):
        """As :meth:`ByteStore.put`, but rows of D from ``row_end`` on are left alone."""
        if first[0] + MMA_M <= row_end:
            ByteStore.put(self, buffer, operands, first, row_end, issues_tma, thread)
        else:
            per_row = self.epi_n // PIECE
            tSR_sD = self.from_buffer.get_slice(thread).partition_S(buffer)
            piece = cute.make_rmem_tensor(PIECE, self.dtype)
            column = first[1] + thread % per_row * PIECE
            for i in cutlass.range_constexpr(MMA_M * per_row // WARPGROUP):
                row = first[0] + thread // per_row + i * (WARPGROUP // per_row)
                if row < row_end and column < operands.mD.shape[1]:
                    cute.autovec_copy(tSR_sD[None, i, 0], piece)
                    store_piece(piece, 0, PIECE, matrix_of(operands.mD, first[2]), (row, column))
