"""Mbarriers, and the ring of stages between TMA and the math warpgroups."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr, pipeline

from .opaque import hide_lane

INIT_WARPS = 8
"""Warps that initialise barriers: as many as the smallest CTA has."""


class Mbarriers(pipeline.MbarrierArray):
    """Mbarriers that the first warps of a CTA initialise, one after the other each its own.

    The lanes of a warp cannot share them out: the instruction takes its address from a uniform register
    (docs/performance.md, 35).
    """

    @cute.jit
    def mbarrier_init(self, *, loc=None, ip=None):
        """Called by all threads, when the barriers are made."""
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        for first in range(0, self.num_stages, INIT_WARPS):
            if warp < min(INIT_WARPS, self.num_stages - first):
                with cute.arch.elect_one():
                    cute.arch.mbarrier_init(self.get_barrier(first + warp), self.arrive_count)


def make_mbarriers(
    storage, stages: int, producer: tuple, consumer: tuple, tx_count: int = 0
) -> tuple[Mbarriers, Mbarriers]:
    """The full and the empty barriers of a pipeline.

    Args:
        storage: pointer to ``2 * stages`` barriers in shared memory.
        stages: of the pipeline.
        producer, consumer: what arrives at a full and at an empty barrier, a ``PipelineOp``, and how often
            per phase.
        tx_count: bytes that TMA brings per phase.
    """
    full, empty = (
        (op, pipeline.CooperativeGroup(pipeline.Agent.Thread, arrivals))
        for op, arrivals in (producer, consumer)
    )
    return Mbarriers(storage, stages, full, tx_count), Mbarriers(storage + stages, stages, empty)


@dataclass(frozen=True)
class Ring(pipeline.PipelineTmaAsync):
    """The ring between TMA and the math warpgroups. A stage may also be skipped: handed on without data."""

    first_empty: Int32 | None
    """Address of stage 0's empty barrier in the CTA that the calling lane signals; None without peers."""

    @cute.jit
    def consumer_release(self, state):
        """Gives a stage back. The peer's address is mapped once, not in every k-block."""
        if const_expr(self.first_empty is None):
            pipeline.PipelineTmaAsync.consumer_release(self, state)
        else:
            if self.is_signaling_thread:
                address = self.first_empty + 8 * state.index
                cute.arch.mbarrier_arrive(cute.make_ptr(Int64, address, cutlass.AddressSpace.dsmem))

    @cute.jit
    def skip(self, state):
        """In place of filling a stage: its consumers find nothing in it, and give it back all the same."""
        self.sync_object_empty.wait(state.index, state.phase)
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive(self.producer_get_barrier(state))

    def is_full(self, state):
        """Whether the stage has been filled, asked ahead of the wait for it.

        Not by ``try_wait``, which suspends the warp: after a CTA's last k-block nothing comes any more
        (docs/performance.md, 6).
        """
        return self.sync_object_full.test_wait(state.index, state.phase)


def make_ring(storage, stages: int, stage_bytes: int, math_warps: int, cluster_mn: tuple, tidx) -> Ring:
    """The ring of one CTA; called by all threads. Arrivals per phase:

    - full: one, of the TMA warp, which also announces the ``stage_bytes`` that will come, or skips the stage;
    - empty: one of each math warp of each CTA that shares an operand with this CTA by multicast.

    ``storage`` points to ``2 * stages`` barriers in shared memory.
    """
    sharing_ctas = cluster_mn[0] + cluster_mn[1] - 1
    full, empty = make_mbarriers(
        storage,
        stages,
        (pipeline.PipelineOp.TmaLoad, 1),
        (pipeline.PipelineOp.AsyncThread, math_warps * sharing_ctas),
        stage_bytes,
    )
    if sharing_ctas == 1:
        peer, signals, first_empty = None, cute.arch.lane_idx() == 0, None
    else:
        cluster = cute.make_layout((1, *cluster_mn, 1))
        peer, signals = pipeline.PipelineTmaAsync.init_empty_barrier_arrive_signal(cluster, tidx)
        first_empty = hide_lane(cute.arch.map_dsmem_ptr(storage + stages, peer).toint())
    return Ring(full, empty, stages, None, peer, signals, first_empty)
