"""FP8 GEMM with fine-grained scales: D = sum over k-blocks of (A_k @ B_k.T) * scale_a * scale_b.

draft
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr, pipeline
from cutlass.cute.nvgpu import cpasync, CopyUniversalOp
from cutlass.memory import SmemAllocator

from ..problem import BLOCK_K, KernelConfig
from ..schedulers.dense import DenseScheduler
from .epilogue import StoreD
from .hopper import WARPGROUP, fp8_mma, hidden_tensor, hide_lane, make_ring, row_major_smem_layout, tma_load, tma_store
from .mainloop import OverlappedMainloop, SerialMainloop
from .scales import ScaleFeed, prefetch_scales
from .promotion import StraddlingPromotion, UniformPromotion


class Fp8Gemm1D2D:
    def __init__(self, config: KernelConfig):
        self.config = config
        c = config
        self.block_m, self.block_n = c.block_m, c.block_n
        self.cluster_mn = (c.cluster_m, c.cluster_n)
        self.math_warps = 4 * c.math_warpgroups
        self.tma_warp = self.math_warps
        self.prefetch_warp = self.math_warps + 1
        self.threads = (c.math_warpgroups + 1) * WARPGROUP
        self.waves = c.block_m // (64 * c.math_warpgroups)
        self.out_dtype = {"bfloat16": cutlass.BFloat16, "float32": cutlass.Float32}[c.out_dtype]
        self.promote = StraddlingPromotion(c.block_n, c.scale_group_n) if c.straddles else UniformPromotion(c.block_n)
        self.mainloop = OverlappedMainloop(c.block_n) if c.temporaries == 2 else SerialMainloop(c.block_n, self.waves)
        self.store = StoreD(c.epi_n, c.epi_stages, self.out_dtype)
        self.producer_registers, self.math_registers = (40, 232) if c.math_warpgroups == 2 else (24, 240)

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, num_sms: Int32, stream):
        c = self.config
        sA_layout = row_major_smem_layout(self.block_m, BLOCK_K, c.stages, mA.element_type)
        sB_layout = row_major_smem_layout(self.block_n, BLOCK_K, c.stages, mB.element_type)
        sD_layout = row_major_smem_layout(64, c.epi_n, c.math_warpgroups * c.epi_stages, mD.element_type)
        tma_a, mA = tma_load(mA, sA_layout, (self.block_m, BLOCK_K), self.cluster_mn[1])
        tma_b, mB = tma_load(mB, sB_layout, (self.block_n, BLOCK_K), self.cluster_mn[0])
        tma_d, mD_tma = tma_store(mD, sD_layout, (64, c.epi_n))
        scheduler = DenseScheduler.to_params(
            mD.shape[0], mD.shape[1], mSFA.shape[1], num_sms,
            block_mn=(self.block_m, self.block_n), cluster_mn=self.cluster_mn, raster=c.raster,
        )

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[cutlass.Int64, 2 * c.stages]
            sA: cute.struct.Align[cute.struct.MemRange[cutlass.Float8E4M3FN, cute.cosize(sA_layout)], 1024]
            sB: cute.struct.Align[cute.struct.MemRange[cutlass.Float8E4M3FN, cute.cosize(sB_layout)], 1024]
            sD: cute.struct.Align[cute.struct.MemRange[mD.element_type, cute.cosize(sD_layout)], 1024]

        self.Storage = Storage
        self.kernel(
            tma_a, mA, tma_b, mB, tma_d, mD_tma, mSFA, mSFB, scheduler, sA_layout, sB_layout, sD_layout
        ).launch(
            grid=scheduler.grid_shape(),
            block=(self.threads, 1, 1),
            cluster=(*self.cluster_mn, 1),
            min_blocks_per_mp=1,
            stream=stream,
        )

    @cute.kernel
    def kernel(self, tma_a, mA, tma_b, mB, tma_d, mD, mSFA, mSFB, scheduler, sA_layout, sB_layout, sD_layout):
        c = self.config
        tidx = hide_lane(cute.arch.thread_idx()[0])
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == self.tma_warp:
            for atom in (tma_a, tma_b, tma_d):
                cpasync.prefetch_descriptor(atom)
        storage = SmemAllocator().allocate(self.Storage)
        ring = make_ring(
            storage.barriers.data_ptr(), c.stages, (self.block_m + self.block_n) * BLOCK_K, self.math_warps, self.cluster_mn, tidx
        )
        pipeline.pipeline_init_arrive(cluster_shape_mn=self.cluster_mn, is_relaxed=True)
        sA = hidden_tensor(storage.sA, sA_layout, cutlass.Float8E4M3FN)  # (bM, bK, stages)
        sB = hidden_tensor(storage.sB, sB_layout, cutlass.Float8E4M3FN)  # (bN, bK, stages)
        sD = storage.sD.get_tensor(sD_layout.outer, swizzle=sD_layout.inner)  # (64, epi_n, warpgroups)
        pipeline.pipeline_init_wait(cluster_shape_mn=self.cluster_mn)

        if warp >= self.math_warps:
            cute.arch.setmaxregister_decrease(self.producer_registers)
            if warp == self.tma_warp:
                self.load(ring, scheduler, tma_a, mA, sA, tma_b, mB, sB)
            if warp == self.prefetch_warp:
                prefetch_scales(scheduler, mSFA, mSFB, self.block_m, self.block_n, self.promote.num_b_scales)
        else:
            cute.arch.setmaxregister_increase(self.math_registers)
            self.mma(ring, scheduler, sA, sB, mSFA, mSFB, tma_d, mD, sD)

    @cute.jit
    def load(self, ring, scheduler, tma_a, mA, sA, tma_b, mB, sB):
        gA = cute.local_tile(mA, (self.block_m, BLOCK_K), (None, None))  # (bM, bK, restM, restK)
        gB = cute.local_tile(mB, (self.block_n, BLOCK_K), (None, None))  # (bN, bK, restN, restK)
        cluster = cute.make_layout(self.cluster_mn)
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        coord = cluster.get_flat_coord(rank)
        mask_a = cute.make_layout_image_mask(cluster, coord, mode=1) if const_expr(self.cluster_mn[1] > 1) else 0
        mask_b = cute.make_layout_image_mask(cluster, coord, mode=0) if const_expr(self.cluster_mn[0] > 1) else 0
        tAsA, tAgA = cpasync.tma_partition(
            tma_a, coord[1], cute.make_layout(self.cluster_mn[1]), cute.group_modes(sA, 0, 2), cute.group_modes(gA, 0, 2)
        )
        tBsB, tBgB = cpasync.tma_partition(
            tma_b, coord[0], cute.make_layout(self.cluster_mn[0]), cute.group_modes(sB, 0, 2), cute.group_modes(gB, 0, 2)
        )
        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.config.stages)
        tile = scheduler.initial_work()
        while tile.is_valid:
            for k in cutlass.range(tile.k_count, unroll=1):
                ring.producer_acquire(state)
                full = ring.producer_get_barrier(state)
                k_tile = tile.k_start + k
                cute.copy(tma_a, tAgA[None, tile.m_tile, k_tile], tAsA[None, state.index], tma_bar_ptr=full, mcast_mask=mask_a)
                cute.copy(tma_b, tBgB[None, tile.n_tile, k_tile], tBsB[None, state.index], tma_bar_ptr=full, mcast_mask=mask_b)
                state.advance()
            tile = scheduler.advance(tile)
        ring.producer_tail(state)

    @cute.jit
    def mma(self, ring, scheduler, sA, sB, mSFA, mSFB, tma_d, mD, sD):
        c = self.config
        tidx = hide_lane(cute.arch.thread_idx()[0])
        wg = cute.arch.make_warp_uniform(tidx // WARPGROUP)
        mma = fp8_mma(self.block_n)
        thr_mma = mma.get_slice(0)
        sA_wg = cute.local_tile(sA, (64 * self.waves, BLOCK_K), (wg, 0, None))  # (64 * waves, bK, stages)
        sA_wg = cute.local_tile(sA_wg, (64, BLOCK_K), (None, 0, None))  # (64, bK, waves, stages)
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA_wg))  # (MMA, 1, 4, waves, stages)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))  # (MMA, 1, 4, stages)
        row = hide_lane(wg * 64 * self.waves + tidx % WARPGROUP // 32 * 16 + tidx % 32 // 4)
        scales = ScaleFeed.make(mSFA, mSFB, self.waves, self.promote.num_b_scales)
        acc_shape = mma.partition_shape_C((64, self.block_n))
        accs = [cute.make_rmem_tensor(acc_shape, Float32) for _ in range(self.waves)]
        gD = cute.local_tile(mD, (64, c.epi_n), (None, None))
        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, c.stages)
        tile = scheduler.initial_work()
        scales.start(tile, tile.m_tile * self.block_m + row, tile.n_tile * self.block_n)
        while tile.is_valid:
            split = self.promote.column_split(tile.n_tile)
            state = self.mainloop(ring, state, tile, tCrA, tCrB, scales, self.promote, split, accs)
            following = scheduler.advance(tile)
            scales.start(following, following.m_tile * self.block_m + row, following.n_tile * self.block_n)
            first_m = (tile.m_tile * c.math_warpgroups + wg) * self.waves
            first_n = tile.n_tile * (self.block_n // c.epi_n)
            gD_wg = cute.domain_offset((0, 0, first_m, first_n), gD)
            self.store(accs, tma_d, gD_wg, sD, wg, tidx)
            tile = following
        cute.arch.cp_async_bulk_wait_group(0)
