"""FP8 GEMM with fine-grained scales: D = A @ B.T, A scaled per 1x128, B per 128x128.

The method is that of the DeepSeek-V3 technical report (arXiv:2412.19437, section 3.3). A CTA computes
BLOCK_M x BLOCK_N tiles of D, one after the other, from k-blocks 128 wide:

    acc = 0
    for k in k_blocks:
        partial = A[:, k] @ B[:, k].T                        # tensor cores, from FP8
        acc += partial * (scale_a[:, k] * scale_b[:, k])     # CUDA cores, in FP32: the promotion

Roles, all of which walk the same tiles:

    math warpgroups (1 or 2)    `mma`     WGMMA, promotion, conversion, TMA store of D
    warp 0 of the last group    `load`    TMA of A, B and staged scales into a ring of stages in shared memory
    warp 1 of the last group              finds tiles ahead, or draws them (turns.py), and hands them to those
                                          roles (tile_queue.py)
    warp 2 of the last group              dense, 64 rows: asks L2 for scales ahead (scales.prefetch_scales)
    its other warps                       none: they hand their registers over and leave

Barriers, and who arrives how often per phase:

    full[stage]     1: the TMA warp, with the bytes of one stage, which TMA counts down as they land; or with
                    none, where the stage is passed over
    empty[stage]    4 x math warpgroups x CTAs that share an operand: lane r of a math warp tells CTA r
    tiles           two slots of a queue with a pair of barriers each, see TileQueue
    turns           two letters of a mailbox with a pair of barriers each, see DrawnTurns
    STORE + w       128: the threads of math warpgroup w, in its epilogue: before a tile is stored, and once a
                    chunk; its first warp issues the stores, and arrives only when the next buffer was read
    sync_threads    all threads, once barriers are initialised, and before that where the scheduler fills a
                    table in shared memory (its `prepare`)
    cluster         if there is one: all threads arrive once barriers are initialised; where operands are
                    shared all wait, in place of `sync_threads`, otherwise the math warps do, in ClusterSumStore
    ClusterSumStore's      1 of each math warpgroup, with the bytes it expects of the other CTAs

A stage is released as soon as its WGMMAs have retired, before their result is promoted: that keeps the
producer fed. A warpgroup none of whose rows are stored waits for each stage and releases it, no more. Where a
ring has whole groups of four stages, a tile's k-blocks are made up to whole groups, in all CTAs of a cluster
alike: stages are passed over, that is filled with nothing, waited for and released (mainloop.py). With a
cluster, CTAs along M hold the same tile of B, and CTAs along N the same tile of A and its staged scales; the
first of them loads it for all by multicast, so a stage may be filled only once all of them have released it.
CTAs along M whose tiles are of two groups each load their own B, by multicast to themselves, and keep in step
all the same.
Before a CTA ends, its TMA warp waits until all its stages are released (`producer_tail`), and its scheduler
warp until what it has sent is read (`finish`): no peer then still arrives at its barriers. Where k-blocks are
shared out instead (SplitKScheduler, ClusterSumStore), each CTA of a cluster has a ring of its own, and one tile.

Scales travel apart from all this, from global memory into the registers of the threads that use them; but
those of A come with the stages where they lie in memory as TMA needs them and there is room (scales.py). No
role touches global memory before the kernels ahead on the stream have ended (`griddepcontrol_wait`).
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, GridConstant, Int32, Int64, const_expr, pipeline
from cutlass.cute.nvgpu import cpasync
from cutlass.experimental.cuda import TensorMap
from cutlass.experimental.primitives.nvvm_wrapper import prefetch_tensormap
from cutlass.memory import SmemAllocator

from ..plan.config import KernelConfig
from ..plan.launch_policy import LaunchFlags
from ..plan.limits import BLOCK_K
from ..schedulers.persistence import DrawnTurns, EvenTurns
from . import preconditions, tensor_maps
from . import work_queue as tile_queue
from .hopper import (
    WARP,
    WARPGROUP,
    along_k,
    as_matrices,
    fp8_mma,
    hidden_tensor,
    hide_lane,
    l2_policy,
    make_ring,
    overlapping_stages,
    row_major_smem_layout,
    tma_load,
)
from .mainloop import OverlappedMainloop, SerialMainloop
from .promotion import StraddlingPromotion, UniformPromotion
from .scaling import LoadedScales, StagedScales, prefetch_scales
from .work_queue import TileQueue


class Fp8Gemm1D2D:
    """The kernel of one :class:`KernelConfig`; all extents and strides arrive with a call.

    Which tiles there are, which rows a tile has and which of several matrices B they are multiplied with, is
    the business of ``scheduler_type``; how a tile is written, if not all of its rows are, that of ``store``.
    """

    def __init__(self, config: KernelConfig, scheduler_type, store):
        self.config = config
        self.scheduler_type = scheduler_type
        self.store = store
        self.tile_mn = (config.block_m, config.block_n)
        self.cluster_mn = (config.cluster_m, config.cluster_n)
        self.cluster_mnk = (*self.cluster_mn, config.splits)
        self.waves = config.m_fragments
        self.math_warps = 4 * config.math_warpgroups
        self.threads = WARPGROUP * (config.math_warpgroups + 1)
        self.tma_warp, self.scheduler_warp, self.prefetch_warp = (self.math_warps + i for i in range(3))
        # setmaxnreg moves registers from the last warpgroup to the others. The sum over all threads must not
        # exceed what they start with (240 or 168 each), or the increase waits for ever.
        self.producer_registers, self.math_registers = 40, (232 if config.math_warpgroups == 2 else 240)
        if config.straddles:
            self.promote = StraddlingPromotion(config.block_n, config.scale_group_n)
        else:
            self.promote = UniformPromotion(config.block_n)
        if config.tma_scales:
            shape = config.block_m, config.stages, self.waves, self.promote.num_b_scales
            self.scales = StagedScales(*shape, multicast=config.cluster_n > 1)
        else:
            self.scales = LoadedScales(self.waves, self.promote.num_b_scales)
        assert not (config.prefetch_scales and config.dynamic_persistence), "two warps would draw"
        self.Turns = DrawnTurns if config.dynamic_persistence else EvenTurns
        if config.partial_accumulators == 2:
            self.mainloop = OverlappedMainloop(config.block_n)
        else:
            self.mainloop = SerialMainloop(config.block_n, self.waves, config.stages)

    @cute.jit
    def __call__(
        self,
        mA,
        mSFA,
        mB,
        mSFB,
        mD,
        num_sms: Int32,
        flags: Int32,
        semaphore: Int64,
        status: Int64,
        stream,
        *grouping,
    ):
        """Launches on ``stream``: A (M, K), its scales (M, K / 128), B (N, K), its scales, D (M, N).

        Each may have a leading dimension of several such matrices, which ``grouping`` and the scheduler
        combine. At most ``num_sms`` CTAs run, each on an SM of its own. ``hints`` is a problem.LaunchFlags,
        ``counter`` the address of what DrawnTurns draw from, or 0. With ``told``, an address, only what is
        plain is launched, and whether it was is written there; of a dense product alone.
        """
        operands = tuple(as_matrices(tensor) for tensor in (mA, mSFA, mB, mSFB, mD))
        go = Boolean(True)
        if status != 0:
            go = preconditions.hold(self.config.recipe, *operands, grouping)
            preconditions.report(status, Int32(go))
        if go:
            self.start(*operands, num_sms, flags, semaphore, stream, grouping)

    @cute.jit
    def start(self, mA, mSFA, mB, mSFB, mD, num_sms: Int32, flags: Int32, semaphore: Int64, stream, grouping):
        """As :meth:`__call__`, of matrices (rows, columns, matrices) that are in order."""
        config, (block_m, block_n), fp8 = self.config, self.tile_mn, cutlass.Float8E4M3FN
        sA_layout = row_major_smem_layout(block_m, BLOCK_K, config.stages, fp8)
        sB_layout = row_major_smem_layout(block_n, BLOCK_K, config.stages, fp8)
        tma_a, tma_mA = tma_load(mA, sA_layout, (block_m, BLOCK_K), self.cluster_mn[1] > 1)
        tma_b, tma_mB = tma_load(mB, sB_layout, (block_n, BLOCK_K), self.cluster_mn[0] > 1)

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[cutlass.Int64, 2 * config.stages]
            queue: tile_queue.Storage
            turns: self.Turns.Storage
            table: cute.struct.MemRange[Int32, self.scheduler_type.table_entries]
            sSFA: cute.struct.Align[cute.struct.MemRange[Float32, self.scales.entries], 1024]
            sA: cute.struct.Align[cute.struct.MemRange[fp8, cute.cosize(sA_layout)], 1024]
            sB: cute.struct.Align[cute.struct.MemRange[fp8, cute.cosize(sB_layout)], 1024]
            store: self.store.Storage

        self.Storage = Storage
        scheduler = self.scheduler_type.to_params(
            mD.shape[0],
            mD.shape[1],
            mSFA.shape[1],
            mB.shape[2],
            grouping,
            num_sms,
            block_mn=self.tile_mn,
            cluster_mnk=self.cluster_mnk,
            raster_width=config.raster_width,
        )
        sfa = self.scales.operands(mSFA)
        out = self.store.operands(mD)
        a = tma_a, tma_mA, l2_policy(flags & LaunchFlags.EVICT_FIRST_A)
        b = tma_b, tma_mB, l2_policy(flags & LaunchFlags.EVICT_FIRST_B)
        maps = ()
        if const_expr(config.l2_promotion > 128):
            maps = tensor_maps.promoting_map(mA, block_m), tensor_maps.promoting_map(mB, block_n)
        self.kernel(maps, a, b, out, sfa, mSFB, scheduler, semaphore, sA_layout, sB_layout).launch(
            grid=scheduler.grid_shape(),
            block=(self.threads, 1, 1),
            cluster=self.cluster_mnk if config.cluster_size > 1 else None,
            min_blocks_per_mp=1,  # setmaxnreg is ignored without it
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
        )

    @cute.kernel
    def kernel(
        self,
        maps: tuple[GridConstant[TensorMap], ...],
        a,
        b,
        out,
        sfa,
        mSFB,
        scheduler,
        semaphore,
        sA_layout,
        sB_layout,
    ):
        """Sets up shared memory and barriers, then sends each warp to its role."""
        tidx = hide_lane(cute.arch.thread_idx()[0])
        warp = cute.arch.make_warp_uniform(tidx // WARP)
        storage = SmemAllocator().allocate(self.Storage)
        stage_bytes = sum(self.tile_mn) * BLOCK_K + self.scales.stage_bytes
        barriers = storage.barriers.data_ptr()
        ring = make_ring(barriers, self.config.stages, stage_bytes, self.math_warps, self.cluster_mn, tidx)
        turns = self.Turns.make(storage.turns, semaphore, self.config.cluster_size, tidx)
        tiles = TileQueue.make(scheduler, turns, storage.queue, self.math_warps + 1)
        if warp == self.tma_warp:
            for promoting in maps:
                prefetch_tensormap(promoting.get_ptr())
            for atom, _, _ in () if maps else (a, b):
                cpasync.prefetch_descriptor(atom)
            self.scales.prefetch(sfa)
            self.store.prefetch(out)
        sD = self.store.open(storage.store, tidx)
        cute.arch.mbarrier_init_fence()
        if const_expr(self.config.cluster_size > 1):
            cute.arch.cluster_arrive_relaxed()
        sA = hidden_tensor(storage.sA, sA_layout, cutlass.Float8E4M3FN)  # (bM, bK, stages)
        sA_mma = sA  # (max(bM, 64), bK, stages)
        if const_expr(self.tile_mn[0] < 64):
            read_on = overlapping_stages(64, self.config.stages, self.tile_mn[0], cutlass.Float8E4M3FN)
            sA_mma = hidden_tensor(storage.sA, read_on, cutlass.Float8E4M3FN)
        sB = hidden_tensor(storage.sB, sB_layout, cutlass.Float8E4M3FN)  # (bN, bK, stages)
        sSFA = self.scales.open(storage.sSFA)
        table = cute.make_tensor(storage.table.data_ptr(), cute.make_layout(max(1, scheduler.table_entries)))
        # By dependent launch, kernels that write what this one reads, or read what it writes, may still run:
        # nothing before the wait may touch global memory. Dependents start only then: those have all ended.
        # Where tiles are drawn they start after this kernel: one that waits for nothing might let another of
        # ours come to the same counter.
        cute.arch.griddepcontrol_wait()
        if not turns.are_drawn():
            cute.arch.griddepcontrol_launch_dependents()
        tiles = tiles.prepare(table, tidx)
        # With only the TMA warp waiting for the cluster, racecheck never came to an end (2026-11-24).
        if const_expr(self.config.cluster_m * self.config.cluster_n > 1):
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()

        # What is first here is first in memory, and waits for fewer lines of instructions: 1 % with few rows.
        # With two math warpgroups it made 256x128 tiles of offsets spill.
        map_a, map_b = tensor_maps.pointers(maps)
        for_producer = ring, tiles, (*a, map_a), sA, (*b, map_b), sB, sfa, sSFA, mSFB, warp
        for_math = ring, tiles, sA_mma, sB, sfa, sSFA, mSFB, out, sD, tidx
        if const_expr(self.config.math_warpgroups == 1):
            if warp >= self.math_warps:
                self.produce(*for_producer)
            else:
                self.mma(*for_math)
        else:
            if warp < self.math_warps:
                self.mma(*for_math)
            else:
                self.produce(*for_producer)

    @cute.jit
    def produce(self, ring, tiles, a, sA, b, sB, sfa, sSFA, mSFB, warp):
        """Sends each warp of the last warpgroup to its role."""
        cute.arch.setmaxregister_decrease(self.producer_registers)
        if warp == self.tma_warp:
            self.load(ring, tiles, a, sA, b, sB, sfa, sSFA)
        if warp == self.scheduler_warp:
            tiles.find()
        if const_expr(self.config.prefetch_scales):
            if warp == self.prefetch_warp:
                prefetch_scales(tiles, *sfa, mSFB, *self.tile_mn, self.promote.num_b_scales)

    @cute.jit
    def load(self, ring, tiles, a, sA, b, sB, sfa, sSFA):
        """Role of the TMA warp: keeps the ring full of k-blocks of A and B, and of staged scales."""
        (tma_a, mA, policy_a, map_a), (tma_b, mB, policy_b, map_b) = a, b
        block_m, block_n = self.tile_mn
        cluster = cute.make_layout(self.cluster_mnk)
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        rank_m, rank_n, rank_k = cluster.get_flat_coord(rank)
        mask_a = mask_b = 0
        if const_expr(self.cluster_mn[1] > 1):
            mask_a = cute.make_layout_image_mask(cluster, (rank_m, rank_n, rank_k), mode=1)
        if const_expr(self.cluster_mn[0] > 1):
            mask_b = cute.make_layout_image_mask(cluster, (rank_m, rank_n, rank_k), mode=0)

        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.config.stages)
        tile, turn = tiles.first()
        while tile.is_valid:
            tAsA, tAgA = along_k(tma_a, mA, sA, block_m, tile.row, tile.m_group)
            tBsB, tBgB = along_k(tma_b, mB, sB, block_n, tile.n_tile * block_n, tile.group)
            scale_parts = self.scales.along_k(sfa, sSFA, tile)
            for k in cutlass.range(tile.k_start, tile.k_start + tile.k_count, unroll=1):
                ring.producer_acquire(state)
                stage = state.index
                barrier = ring.producer_get_barrier(state)
                to_a = {"tma_bar_ptr": barrier, "cache_policy": policy_a, "tma_desc_ptr": map_a}
                to_b = {**to_a, "cache_policy": policy_b, "tma_desc_ptr": map_b}
                if rank_n == 0:
                    cute.copy(tma_a, tAgA[None, k], tAsA[None, stage], mcast_mask=mask_a, **to_a)
                    self.scales.load(sfa, scale_parts, k, stage, barrier, mask_a)
                if tile.shares_b:
                    if rank_m == 0:
                        cute.copy(tma_b, tBgB[None, k], tBsB[None, stage], mcast_mask=mask_b, **to_b)
                else:
                    cute.copy(tma_b, tBgB[None, k], tBsB[None, stage], mcast_mask=1 << rank, **to_b)
                state.advance()
            for _ in cutlass.range(self.mainloop.passed_over(tile.k_count), unroll=1):
                ring.pass_over(state)
                state.advance()
            tile, turn = tiles.take(tile, turn)
        ring.producer_tail(state)

    @cute.jit
    def mma(self, ring, tiles, sA, sB, sfa, sSFA, mSFB, out, sD, tidx):
        """Role of the math warpgroups: multiplies, promotes and stores 64 x waves rows of each tile."""
        cute.arch.setmaxregister_increase(self.math_registers)
        block_n, rows = self.tile_mn[1], 64 * self.waves
        wg = cute.arch.make_warp_uniform(tidx // WARPGROUP)
        # Of a fragment this thread has row and row + 8: WGMMA gives a warp 16 rows, a quad of lanes two.
        row = hide_lane(wg * rows + tidx % WARPGROUP // WARP * 16 + tidx % WARP // 4)
        mma = fp8_mma(block_n)
        thr_mma = mma.get_slice(0)  # of one warpgroup: which one, sA says
        sA = cute.local_tile(sA, (rows, BLOCK_K), (wg, 0, None))  # (64 * waves, bK, stages)
        sA = cute.local_tile(sA, (64, BLOCK_K), (None, 0, None))  # (64, bK, waves, stages)
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA))  # (MMA, 1, MMA_K, waves, stages)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))  # (MMA, 1, MMA_K, stages)
        accs = [
            cute.make_rmem_tensor(mma.partition_shape_C((64, block_n)), Float32) for _ in range(self.waves)
        ]

        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, self.config.stages)
        scales = self.scales.feed(sfa, sSFA, mSFB, row)
        tile, turn = tiles.first()
        scales.start(tile, block_n)
        while tile.is_valid:
            first_row = tile.row + wg * rows
            has_rows = first_row < tile.row_end
            state = self.mainloop(ring, state, tile, has_rows, tCrA, tCrB, scales, self.promote, accs)
            # The next tile's first scales arrive while this one is stored.
            following, turn = tiles.take(tile, turn)
            scales.start(following, block_n)
            first = (first_row, tile.n_tile * block_n, tile.m_group)
            self.store(accs, out, sD, first, tile.row_end, wg, tidx)
            tile = following
        cute.arch.cp_async_bulk_wait_group(0, read=True)
