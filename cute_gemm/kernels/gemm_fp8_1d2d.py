"""FP8 GEMM with fine-grained scales: D = A @ B.T, A scaled per 1x128, B per 128x128.

The method is that of the DeepSeek-V3 technical report (arXiv:2412.19437, section 3.3). A CTA computes
BLOCK_M x BLOCK_N tiles of D, one after the other, from k-blocks 128 wide:

    acc = 0
    for k in k_blocks:
        partial = A[:, k] @ B[:, k].T                        # tensor cores, from FP8
        acc += partial * (scale_a[:, k] * scale_b[:, k])     # CUDA cores, in FP32: the promotion

Roles, all of which walk the same tiles:

    math warpgroups (1 or 2)    `mma`   WGMMA, promotion, then value and store of D (epilogue/)
    warp 0 of the last group    `load`  TMA of A, B and staged scales into a ring of stages in shared memory
    warp 1 of the last group            finds tiles ahead (persistence.py) and hands them on (work_queue.py)
    warp 2 of the last group            if the scaling asks for it: has L2 fetch scales ahead (scaling/)
    warp 3 of the last group            has L2 fetch B while the kernels ahead still run; then, as some stores
                                        ask (epilogue/), brings D and takes it away, or writes zeros
    warps without a role                hand their registers over and leave

A math warpgroup has 64 or 128 rows of a tile: fragments of 64 rows, one below the other or side by side. A
corner of one, by thread:register; each warp has 16 rows, and each eight columns take four registers:

               column 0     1     2     3     4     5     6     7
    row  0          0:0   0:1   1:0   1:1   2:0   2:1   3:0   3:1    a quad of lanes has row 0 ...
    row  1          4:0   4:1   5:0   5:1   6:0   6:1   7:0   7:1
      ...
    row  8          0:2   0:3   1:2   1:3   2:2   2:3   3:2   3:3    ... and row 8

Barriers, and who arrives how often per phase:

    full[stage]     1: the TMA warp, with the bytes of one stage, which TMA counts down as they land; or with
                    none, where the stage is skipped
    empty[stage]    4 x math warpgroups x CTAs that share an operand: lane r of a math warp signals CTA r
    WorkQueue's            two slots with a pair of barriers each, see there
    DynamicPersistence's   two broadcast slots with a pair of barriers each, see there
    ClusterSumStore's      1 of each math warpgroup, with the bytes it expects of the other CTAs
    SmemAddStore's         1 of each math warpgroup, and two named barriers of each, see there
    Meeting's              1, with the largest of each row that it expects of its peers, see there
    STORE + w       128: the threads of math warpgroup w, in its epilogue: before a tile is stored, and once a
                    chunk; its first warp issues the stores, and arrives only when the next buffer was read
    sync_threads    all threads, once barriers are initialised, and before that where the scheduler fills a
                    table in shared memory (its `prepare`)
    cluster         if there is one: all threads arrive once barriers are initialised; where operands are
                    shared all wait, in place of `sync_threads`, else math warps do, in ClusterSumStore

A math warp releases a stage as soon as its WGMMAs have retired, before their result is promoted: that keeps
the producer fed. A warpgroup none of whose rows are stored only waits for stages and releases them. Where a
ring has whole groups of four stages, a tile's k-blocks are made up to whole groups, in all CTAs of a cluster
alike: stages are skipped, that is filled with nothing, waited for and released (mainloop.py). In a cluster,
CTAs along M hold the same tile of B, and CTAs along N the same tile of A and its staged scales; the first of
them loads it for all by multicast, so a stage may be filled only once all of them have released it. CTAs
along M whose tiles are of two groups load a B each, by multicast to themselves, and keep in step.
Before a CTA ends, its TMA warp waits until all its stages are released (`producer_tail`), and its scheduler
warp until what it has sent is read (`finish`): no peer then still arrives at its barriers. Where k-blocks are
shared out (SplitKScheduler, ClusterSumStore), each CTA of a cluster has a ring of its own, and one tile.
No role reads or writes global memory before the kernels ahead on the stream have ended
(`griddepcontrol_wait`). Before that L2 may fetch B, even if it is still written: writes go through L2, where
loads find them.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr, pipeline
from cutlass.cute.nvgpu import cpasync

from ..dsl import GridConstant, SmemAllocator, TensorMap, prefetch_tensormap
from ..plan.config import KernelConfig
from ..plan.launch_policy import LaunchFlags
from ..plan.limits import MMA_M
from ..schedulers.persistence import DynamicPersistence, StaticPersistence
from . import preconditions, work_queue
from .arguments import LaunchOptions, Operands, Smem
from .epilogue import IDENTITY, Place, Store, TileValue, Value
from .epilogue.store import Sums
from .mainloop import Inputs, Slices, make_mainloop
from .scaling import Scaling, scaling_of
from .sm90 import tensor_maps
from .sm90.mma import Wgmma, thread_row
from .sm90.opaque import hide_lane
from .sm90.pipelines import make_ring
from .sm90.smem import OperandTile
from .sm90.threads import WARP, WARPGROUP
from .sm90.tma import TmaLoad, as_matrices
from .work_queue import WorkQueue

DTYPES = {"float8_e4m3fn": cutlass.Float8E4M3FN}


class Fp8Gemm1D2D:
    """The kernel of one :class:`KernelConfig`; all extents and strides arrive with a call.

    Args:
        config: what it is compiled for.
        scheduler: class of :class:`cute_gemm.schedulers.base.TileScheduler`: which tiles there are, which
            rows a tile has and which of several matrices B they are multiplied with.
        store: how a tile is written, if not all of its rows are.
        value: what becomes of sums before they are stored.
        mainloop: an object like :class:`cute_gemm.kernels.mainloop.SerialMainloop`; by default that of
            ``config``.
        scaling: how scales are loaded and applied; by default that of ``config``.
    """

    in_order = staticmethod(preconditions.hold)

    def __init__(
        self,
        config: KernelConfig,
        scheduler: type,
        store: Store,
        *,
        value: Value = IDENTITY,
        mainloop: Any = None,
        scaling: Scaling | None = None,
    ):
        self.config, self.scheduler = config, scheduler
        self.value, self.store = value, store.taking(value)
        self.carries = hasattr(self.store, "carry")
        self.can_fill = hasattr(self.store, "fill") and hasattr(scheduler, "rows_taken")
        self.scaling = scaling or scaling_of(config)
        self.cluster_mnk = (config.cluster_m, config.cluster_n, config.splits)
        dtype_a, dtype_b = DTYPES[config.recipe.a_dtype], DTYPES[config.recipe.b_dtype]
        self.tile_a = OperandTile(config.block_m, config.block_k, config.stages, dtype_a)
        self.tile_b = OperandTile(config.block_n, config.block_k, config.stages, dtype_b)
        self.wgmma = Wgmma(config.fragment_n, dtype_a, dtype_b, self.tile_a.major, self.tile_b.major)
        self.mainloop = mainloop or make_mainloop(config, self.scaling.group)
        self.persistence = DynamicPersistence if config.dynamic_persistence else StaticPersistence
        assert not (self.scaling.fetches_ahead and config.dynamic_persistence), "two warps would draw"
        first = self.math_warps = 4 * config.math_warpgroups
        self.threads = WARPGROUP * (config.math_warpgroups + 1)
        self.tma_warp, self.scheduler_warp, self.prefetch_warp, self.early_warp = range(first, first + 4)
        # setmaxnreg moves registers from the last warpgroup to the others. The sum over all threads must not
        # exceed what they start with (240 or 168 each), or the increase waits for ever.
        self.producer_registers, self.math_registers = 40, (232 if config.math_warpgroups == 2 else 240)

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
        *more,
    ):
        """Checks a call's operands, and launches on ``stream``.

        Args:
            mA, mB: A (M, K) and B (N, K), K-major.
            mSFA, mSFB: their scales in FP32, (M, K / 128) and (N / 128, K / 128), rounded up.
            mD: D (M, N), or as many columns as the value makes of N. Each of these tensors may have a leading
                dimension of several such matrices, which ``more`` and the scheduler combine.
            num_sms: at most so many CTAs run, each on an SM of its own.
            flags: :class:`LaunchFlags`.
            semaphore: address of that of :class:`DynamicPersistence`, or 0.
            status: address of an Int32 of the host's memory, or 0. With it, only operands that obey
                :func:`preconditions.hold` are launched, and whether they do is written there.
            more: what says which rows are whose, as the scheduler takes it, then the tensors of the value.
        """
        operands = tuple(as_matrices(tensor) for tensor in (mA, mSFA, mB, mSFB, mD))
        count, go = len(more) - self.value.tensors, Boolean(True)
        grouping, of_value = more[:count], more[count:]
        if status != 0:
            go = self.in_order(self.config.recipe, *operands, grouping)
            preconditions.report(status, Int32(go))
        if go:
            self.start(*operands, LaunchOptions(num_sms, flags, semaphore, stream), grouping, of_value)

    def start(self, mA, mSFA, mB, mSFB, mD, options: LaunchOptions, grouping: tuple, of_value: tuple):
        """Launches the kernel for matrices (rows, columns, matrices) that are in order."""
        config, flags = self.config, options.flags
        a = TmaLoad.of(mA, self.tile_a, config.cluster_n, flags & LaunchFlags.EVICT_FIRST_A)
        b = TmaLoad.of(mB, self.tile_b, config.cluster_m, flags & LaunchFlags.EVICT_FIRST_B)

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[Int64, 2 * config.stages]
            queue: work_queue.Storage
            persistence: self.persistence.Storage
            table: cute.struct.MemRange[Int32, self.scheduler.table_entries]
            scales: self.scaling.Storage
            sA: self.tile_a.storage
            sB: self.tile_b.storage
            store: self.store.Storage

        self.Storage = Storage
        extents = mA.shape[0], mB.shape[0], cute.ceil_div(mA.shape[1], config.block_k), mB.shape[2]
        scheduler = self.scheduler.to_params(
            *extents,
            grouping,
            options.num_sms,
            block_mn=(config.block_m, config.block_n),
            cluster_mnk=self.cluster_mnk,
            raster_width=config.raster_width,
        )
        out, scales, maps = self.store.operands(mD), self.scaling.operands(mSFA, mSFB), ()
        operands = Operands(a, b, out, scales, self.value.operands(*of_value))
        if const_expr(config.l2_promotion > 128):
            maps = tuple(tensor_maps.promoting_map(*each) for each in ((mA, self.tile_a), (mB, self.tile_b)))
        is_dependent, fills = flags & LaunchFlags.PDL, flags & LaunchFlags.FILL
        self.kernel(maps, operands, scheduler, options.semaphore, is_dependent, fills).launch(
            grid=scheduler.grid_shape(),
            block=(self.threads, 1, 1),
            cluster=self.cluster_mnk if config.cluster_size > 1 else None,
            min_blocks_per_mp=1,  # setmaxnreg is ignored without it
            stream=options.stream,
            use_pdl=is_dependent,
        )

    @cute.kernel
    def kernel(
        self,
        maps: tuple[GridConstant[TensorMap], ...],
        operands: Operands,
        scheduler,
        semaphore: Int64,
        is_dependent: Int32,
        fills: Int32,
    ):
        """Sets up shared memory and barriers, then sends each warp to its role."""
        config = self.config
        tidx = hide_lane(cute.arch.thread_idx()[0])
        warp = cute.arch.make_warp_uniform(tidx // WARP)
        storage = SmemAllocator().allocate(self.Storage)
        stage_bytes = self.tile_a.stage_bytes + self.tile_b.stage_bytes + self.scaling.stage_bytes
        barriers = storage.barriers.data_ptr()
        ring = make_ring(barriers, config.stages, stage_bytes, self.math_warps, self.cluster_mnk[:2], tidx)
        persistence = self.persistence.make(storage.persistence, semaphore, config.cluster_size, tidx)
        tiles = WorkQueue.make(scheduler, persistence, storage.queue, self.math_warps + 1 + self.carries)
        if warp == self.tma_warp:
            self.prefetch(maps, operands)
        sD = self.store.open(storage.store, tidx)
        cute.arch.mbarrier_init_fence()
        if const_expr(config.cluster_size > 1):
            cute.arch.cluster_arrive_relaxed()
        sA = self.tile_a.open(storage.sA)
        sA_mma = sA if config.block_m >= MMA_M else self.tile_a.open_rows(storage.sA, MMA_M)
        sB = self.tile_b.open(storage.sB)
        scales = self.scaling.open(storage.scales)
        table = cute.make_tensor(storage.table.data_ptr(), cute.make_layout(max(1, scheduler.table_entries)))
        if const_expr(config.early_k_blocks > 0 and not scheduler.reads_memory):
            if warp == self.early_warp and is_dependent != 0:
                self.fetch_early(operands.b, scheduler, sB)
        # By dependent launch, kernels that write what this one reads, or read what it writes, may still run:
        # nothing before the wait may read or write global memory. Dependents start only then, when those have
        # ended; where tiles are drawn, when none is left (WorkQueue.produce).
        cute.arch.griddepcontrol_wait()
        if not persistence.is_dynamic():
            cute.arch.griddepcontrol_launch_dependents()
        tiles = tiles.prepare(table, tidx)
        # With only the TMA warp waiting for the cluster, racecheck never comes to an end
        # (docs/performance.md, 35).
        if const_expr(config.cluster_m * config.cluster_n > 1):
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()

        smem = Smem(ring, tiles, sA, sA_mma, sB, scales, sD)
        maps = tensor_maps.pointers(maps)
        # What is first here is first in memory, and waits for fewer lines of instructions
        # (docs/performance.md, 41). With two math warpgroups it makes 256x128 tiles of offsets spill.
        if const_expr(config.math_warpgroups == 1):
            if warp >= self.math_warps:
                self.produce(operands, maps, smem, warp, fills)
            else:
                self.mma(operands, smem, tidx)
        else:
            if warp < self.math_warps:
                self.mma(operands, smem, tidx)
            else:
                self.produce(operands, maps, smem, warp, fills)

    def prefetch(self, maps: tuple, operands: Operands):
        """The TMA warp, before all else: asks for the descriptors that it will use."""
        for promoting in maps:
            prefetch_tensormap(promoting.get_ptr())
        for load in () if maps else (operands.a, operands.b):
            cpasync.prefetch_descriptor(load.atom)
        self.scaling.prefetch(operands.scales)
        self.store.prefetch(operands.out)

    @cute.jit
    def fetch_early(self, b: TmaLoad, scheduler, sB: cute.Tensor):
        """Has L2 fetch the first k-blocks of B that this CTA will load; of CTAs that load the same, one asks.

        More of them would still be on their way when it may load (docs/performance.md, 77).
        """
        tile = scheduler.initial_work()
        if tile.is_valid and tile.row < self.config.block_m:
            count = cutlass.min(tile.k_count, self.config.early_k_blocks)
            first_row = tile.n_tile * self.tile_b.rows
            b.fetch(sB, self.tile_b, first_row, tile.group, tile.k_start, count)

    @cute.jit
    def produce(self, operands: Operands, maps, smem: Smem, warp, fills):
        """Sends each warp of the last warpgroup to its role."""
        cute.arch.setmaxregister_decrease(self.producer_registers)
        if warp == self.tma_warp:
            self.load(operands, maps, smem)
        if warp == self.scheduler_warp:
            smem.tiles.produce()
        if const_expr(self.scaling.fetches_ahead):
            if warp == self.prefetch_warp:
                self.scaling.fetch_ahead(operands.scales, smem.tiles)
        if const_expr(self.carries):
            if warp == self.early_warp:
                self.store.carry(operands.out, smem.store, smem.tiles)
        if const_expr(self.can_fill):
            if warp == self.early_warp and fills != 0:
                self.store.fill(operands.out, smem.tiles.scheduler)

    @cute.jit
    def load(self, operands: Operands, maps, smem: Smem):
        """Role of the TMA warp: keeps the ring full of k-blocks of A and B, and of staged scales."""
        a, b, ring, tiles, (map_a, map_b) = operands.a, operands.b, smem.ring, smem.tiles, maps
        cluster = cute.make_layout(self.cluster_mnk)
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        rank_mnk = rank_m, rank_n, _ = cluster.get_flat_coord(rank)
        mask_a = mask_b = 0
        if const_expr(self.config.cluster_n > 1):
            mask_a = cute.make_layout_image_mask(cluster, rank_mnk, mode=1)
        if const_expr(self.config.cluster_m > 1):
            mask_b = cute.make_layout_image_mask(cluster, rank_mnk, mode=0)

        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.config.stages)
        tile, slot = tiles.first_tile()
        while tile.is_valid:
            # (TMA, stages), (TMA, restK)
            shift = tile.k_shift(self.config.block_k)
            tAsA, tAgA = a.along_k(smem.sA, self.tile_a, tile.row, tile.m_group, shift)
            tBsB, tBgB = b.along_k(smem.sB, self.tile_b, tile.n_tile * self.tile_b.rows, tile.group, shift)
            scale_parts = self.scaling.along_k(operands.scales, smem.scales, tile)
            for k in cutlass.range(tile.k_start, tile.k_start + tile.k_count, unroll=1):
                ring.producer_acquire(state)
                stage, barrier = state.index, ring.producer_get_barrier(state)
                to_a = {"tma_bar_ptr": barrier, "cache_policy": a.policy, "tma_desc_ptr": map_a}
                to_b = {**to_a, "cache_policy": b.policy, "tma_desc_ptr": map_b}
                if rank_n == 0:
                    cute.copy(a.atom, tAgA[None, k], tAsA[None, stage], mcast_mask=mask_a, **to_a)
                    self.scaling.load(operands.scales, scale_parts, k, state, barrier, mask_a)
                if const_expr(hasattr(self.scaling, "load_own")):
                    self.scaling.load_own(operands.scales, scale_parts, k, state, barrier)
                if tile.shares_b:
                    if rank_m == 0:
                        cute.copy(b.atom, tBgB[None, k], tBsB[None, stage], mcast_mask=mask_b, **to_b)
                else:
                    cute.copy(b.atom, tBgB[None, k], tBsB[None, stage], mcast_mask=1 << rank, **to_b)
                state.advance()
            for _ in cutlass.range(self.mainloop.skipped_stages(tile.k_count), unroll=1):
                ring.skip(state)
                state.advance()
            tile, slot = tiles.next_tile(tile, slot)
        ring.producer_tail(state)

    @cute.jit
    def mma(self, operands: Operands, smem: Smem, tidx):
        """Role of the math warpgroups: multiplies, promotes and stores its rows of each tile."""
        cute.arch.setmaxregister_increase(self.math_registers)
        config, tiles = self.config, smem.tiles
        rows, block_k = MMA_M * config.m_fragments, config.block_k
        out_n = self.value.out_columns(config.block_n)
        wg = cute.arch.make_warp_uniform(tidx // WARPGROUP)
        row = hide_lane(thread_row(wg * rows, tidx))
        mma = self.wgmma.tiled()
        thr_mma = mma.get_slice(0)  # of one warpgroup: which one, sA says
        sA = cute.local_tile(smem.sA_mma, (rows, block_k), (wg, 0, None))  # (rows, bK, stages)
        own = Slices(sA, smem.sB, wg)
        sA = cute.local_tile(sA, (MMA_M, block_k), (None, 0, None))  # (64, bK, m-fragments, stages)
        # (fragment_n, bK, n-fragments, stages)
        sB = cute.local_tile(smem.sB, (config.fragment_n, block_k), (None, 0, None))
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA))  # (MMA, 1, MMA_K, m-fragments, stages)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))  # (MMA, 1, MMA_K, n-fragments, stages)
        accs = [self.wgmma.fragment() for _ in range(config.fragments)]

        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, config.stages)
        scales = self.scaling.feed(operands.scales, smem.scales, row)
        inputs = Inputs(self.wgmma, smem.ring, tCrA, tCrB, scales, own)
        tile, slot = tiles.first_tile()
        scales.start(tile)
        while tile.is_valid:
            first_row = tile.row + wg * rows
            place = Place.of(tile, config.block_m, (first_row, tile.n_tile * config.block_n), tidx)
            fetched = self.value.prefetch(operands.value, place, (rows, config.block_n))
            state = self.mainloop(inputs, state, tile, first_row < tile.row_end, accs)
            # The next tile's first scales arrive while this one is stored.
            following, slot = tiles.next_tile(tile, slot)
            scales.start(following)
            value = TileValue(self.value, operands.value, fetched, place)
            first = first_row, tile.n_tile * out_n, tile.out_matrix
            sums = Sums(accs, config.n_fragments, value, first, place.row_end)
            self.store(sums, operands.out, smem.store, wg, tidx)
            tile = following
        cute.arch.cp_async_bulk_wait_group(0, read=True)
