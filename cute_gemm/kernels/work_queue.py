"""How the roles of a CTA come by their tiles: a warp finds them, a queue in shared memory hands them on."""

from dataclasses import dataclass, replace
from typing import Any

import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr, pipeline

from ..schedulers.persistence import BROADCAST_SLOTS
from .sm90.pipelines import make_mbarriers

SLOTS = 2
"""Tiles that may wait: the TMA warp is at the next one while the math warpgroups are at the one before."""

FIELDS = 8
"""Int32 places of a slot: two vector loads."""


@cute.struct
class Storage:
    """Shared memory of a queue."""

    barriers: cute.struct.MemRange[Int64, 2 * SLOTS]
    slots: cute.struct.Align[cute.struct.MemRange[Int32, FIELDS * SLOTS], 16]


@dataclass(frozen=True)
class WorkQueue:
    """The tiles of a CTA, in the order in which each of its roles sees all of them.

    ``persistence`` says which tile is next. To find it takes divisions, loads that wait for each other, and
    reductions, in which a math warpgroup would multiply nothing (docs/performance.md, 30). Only its first
    tile each role finds alone, as all would wait for it; where that is padding, it takes the next.

    Barriers, and who arrives how often per phase:

        full[slot]      1: the scheduler warp
        empty[slot]     1 of each warp that takes tiles
    """

    scheduler: Any
    persistence: Any
    pipe: pipeline.PipelineAsync
    slots: cute.Tensor  # (FIELDS, SLOTS)

    @staticmethod
    def make(scheduler, persistence, storage: Storage, consumer_warps: int) -> "WorkQueue":
        """An empty queue of the tiles of ``scheduler``, each of which is for all ``consumer_warps``."""
        assert len(scheduler.varying) <= FIELDS, "a slot is too small for what varies from tile to tile"
        thread = pipeline.PipelineOp.AsyncThread
        barriers = make_mbarriers(storage.barriers.data_ptr(), SLOTS, (thread, 1), (thread, consumer_warps))
        pipe = pipeline.PipelineAsync(*barriers, SLOTS, None, None)
        slots = storage.slots.get_tensor(cute.make_layout((FIELDS, SLOTS)))
        return WorkQueue(scheduler, persistence, pipe, slots)

    def prepare(self, table: cute.Tensor, tidx: Int32) -> "WorkQueue":
        """The queue to use once all threads of the CTA have called this."""
        return replace(self, scheduler=self.scheduler.prepare(table, tidx))

    @cute.jit
    def produce(self):
        """Role of the scheduler warp: finds all tiles but the first, and the end."""
        queue = replace(self, persistence=self.persistence.over(self.scheduler))
        draws = queue.persistence.is_dynamic()
        if self.persistence.is_dynamic() and not draws:
            cute.arch.griddepcontrol_launch_dependents()
        slot = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, SLOTS)
        tile, state = self.scheduler.initial_work(), self.start()
        while tile.is_valid:
            if draws:
                # As late as possible, when all have taken the tile before: a cluster that draws early need
                # not be free (docs/performance.md, 64).
                before = slot.clone()
                before.advance()
                self.pipe.producer_acquire(before)
            tile, state = queue.after(tile, state)
            self.pipe.producer_acquire(slot)
            if cute.arch.lane_idx() == 0:
                fields = cute.make_rmem_tensor(FIELDS, Int32)
                fields.fill(0)
                for place, name in enumerate(self.scheduler.varying):
                    fields[place] = Int32(getattr(tile, name))
                cute.autovec_copy(fields, self.slots[None, slot.index])
                self.pipe.producer_commit(slot)
            slot.advance()
        queue.persistence.finish(state)
        # Not before: one that waits for nothing might let another of ours come to the same semaphore. No lane
        # may be ahead of the one that resets it.
        if draws:
            cute.arch.sync_warp()
            cute.arch.griddepcontrol_launch_dependents()

    def start(self):
        """The state of ``persistence`` at a warp's first tile."""
        return pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, BROADCAST_SLOTS)

    @cute.jit
    def after(self, tile, state):
        """Finds the tile after ``tile`` that is not padding; also returns the advanced ``state``."""
        index, state = self.persistence.next(tile.index, state)
        tile = self.scheduler.at(index)
        if const_expr(self.scheduler.has_padding):
            while tile.is_valid and tile.is_padding:
                index, state = self.persistence.next(tile.index, state)
                tile = self.scheduler.at(index)
        return tile, state

    @cute.jit
    def first_tile(self):
        """The first tile of the calling warp, and the slot of the next."""
        slot = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, SLOTS)
        tile = self.scheduler.initial_work()
        if const_expr(self.scheduler.has_padding):
            if tile.is_valid and tile.is_padding:
                tile, slot = self.next_tile(tile, slot)
        return tile, slot

    @cute.jit
    def next_tile(self, tile, slot):
        """The tile after ``tile`` of the calling warp, and the slot of the one after that."""
        self.pipe.consumer_wait(slot)
        fields = cute.make_rmem_tensor(FIELDS, Int32)
        # The lane that reads is the one that gives back: racecheck does not see that a warp keeps together.
        if cute.arch.lane_idx() == 0:
            cute.autovec_copy(self.slots[None, slot.index], fields)
            self.pipe.consumer_release(slot)
        slot.advance()
        found = {
            name: type(getattr(tile, name))(cute.arch.make_warp_uniform(fields[place]))
            for place, name in enumerate(self.scheduler.varying)
        }
        return replace(tile, **found), slot
