"""Hopper's parts know no recipe: the same ones load and multiply BF16, whichever dimension is contiguous."""

from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
from cutlass import Float32, Int32, Int64, pipeline
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

from cute_gemm.dsl import SmemAllocator
from cute_gemm.kernels.mainloop import Inputs, multiply
from cute_gemm.kernels.sm90.mma import Wgmma
from cute_gemm.kernels.sm90.pipelines import make_ring
from cute_gemm.kernels.sm90.smem import OperandTile
from cute_gemm.kernels.sm90.tma import TmaLoad, as_matrices
from cute_gemm.runtime import compiler
from cute_gemm.runtime.inspection import read_cubin

STAGES = 2
MAJORS = {"K": OperandMajorMode.K, "MN": OperandMajorMode.MN}


class OneTile:
    """``D[64, N] = A @ B.T`` of the first 64 rows, by one warpgroup and a ring of two stages."""

    def __init__(self, n: int, a_major: str, b_major: str) -> None:
        dtype, self.n = cutlass.BFloat16, n
        self.tile_a = OperandTile(64, 64, STAGES, dtype, MAJORS[a_major])
        self.tile_b = OperandTile(n, 64, STAGES, dtype, MAJORS[b_major])
        self.wgmma = Wgmma(n, dtype, dtype, self.tile_a.major, self.tile_b.major)

    @cute.jit
    def __call__(self, mA, mB, mD, stream):
        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[Int64, 2 * STAGES]
            sA: self.tile_a.storage
            sB: self.tile_b.storage

        self.Storage = Storage
        a = TmaLoad.of(as_matrices(mA), self.tile_a, 1, Int32(0))
        b = TmaLoad.of(as_matrices(mB), self.tile_b, 1, Int32(1))
        k_blocks = cute.ceil_div(mA.shape[1], self.tile_a.depth)
        self.kernel(a, b, mD, k_blocks).launch(grid=(1, 1, 1), block=(256, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, a, b, mD, k_blocks: Int32):
        tidx = cute.arch.thread_idx()[0]
        storage = SmemAllocator().allocate(self.Storage)
        stage_bytes = self.tile_a.stage_bytes + self.tile_b.stage_bytes
        ring = make_ring(storage.barriers.data_ptr(), STAGES, stage_bytes, 4, (1, 1), tidx)
        sA, sB = self.tile_a.open(storage.sA), self.tile_b.open(storage.sB)
        cute.arch.sync_threads()
        warp = cute.arch.make_warp_uniform(tidx // 32)
        if warp == 4:
            tAsA, tAgA = a.along_k(sA, self.tile_a, 0, 0)
            tBsB, tBgB = b.along_k(sB, self.tile_b, 0, 0)
            state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, STAGES)
            for k in cutlass.range(k_blocks, unroll=1):
                ring.producer_acquire(state)
                barrier = ring.producer_get_barrier(state)
                for load, smem, gmem in ((a, tAsA, tAgA), (b, tBsB, tBgB)):
                    target = smem[None, state.index]
                    cute.copy(load.atom, gmem[None, k], target, tma_bar_ptr=barrier, cache_policy=load.policy)
                state.advance()
            ring.producer_tail(state)
        if warp < 4:
            mma = self.wgmma.tiled()
            thread = mma.get_slice(0)
            # One fragment of 64 rows, one of n columns.
            of_a = cute.local_tile(sA, (64, 64), (None, 0, None))
            of_b = cute.local_tile(sB, (self.n, 64), (None, 0, None))
            tCrA = mma.make_fragment_A(thread.partition_A(of_a))
            tCrB = mma.make_fragment_B(thread.partition_B(of_b))
            inputs = Inputs(self.wgmma, ring, tCrA, tCrB, None)
            acc, partial = self.wgmma.fragment(), self.wgmma.fragment()
            acc.fill(0.0)
            state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, STAGES)
            for _ in cutlass.range(k_blocks, unroll=1):
                ring.consumer_wait(state)
                multiply(partial, inputs, 0, 0, state.index)
                warpgroup.wait_group(0)
                ring.consumer_release(state)
                for i in cutlass.range(cute.size(acc), unroll_full=True):
                    acc[i] = acc[i] + partial[i]
                state.advance()
            cute.autovec_copy(acc, mma.get_slice(tidx).partition_C(mD))


def operand(rows: Any, k: Any, major: str) -> Any:
    step = cute.sym_int64(divisibility=8)
    stride = (step, 1) if major == "K" else (1, step)
    return make_fake_tensor(cutlass.BFloat16, (rows, k), stride, assumed_align=16)


@pytest.mark.parametrize("b_major", MAJORS)
@pytest.mark.parametrize("a_major", MAJORS)
def test_bf16_of_any_major(a_major: str, b_major: str) -> None:
    n = 128

    def build() -> Any:
        m, k = cute.sym_int32(), cute.sym_int32()
        a, b = operand(m, k, a_major), operand(cute.sym_int32(), k, b_major)
        d = make_fake_tensor(Float32, (64, n), (n, 1), assumed_align=16)
        return OneTile(n, a_major, b_major), (a, b, d, make_fake_stream(use_tvm_ffi_env_stream=True))

    stats = read_cubin(compiler.compile_to_cubin(build, f"{a_major}, {b_major}"))
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
    (opcode,) = {name for name in stats.opcodes if "GMMA" in name}
    assert opcode.startswith(f"HGMMA.64x{n}x16.F32.BF16")
    # Four of 16 make a k-block of 64.
    assert stats.count("HGMMA") % 4 == 0
    # A box is as wide as a swizzled row, 64 elements of what is contiguous.
    assert stats.count("UTMALDG") == 2 + (b_major == "MN")
