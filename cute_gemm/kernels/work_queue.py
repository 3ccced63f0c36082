"""How the roles of a CTA come by their tiles: a warp finds them, a queue in shared memory hands them on."""

from dataclasses import dataclass, replace
from typing import Any

import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr, pipeline

from ..schedulers.persistence import LETTERS
from .hopper import make_mbarriers

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
class TileQueue:
    """The tiles of a CTA, in the order in which each of its roles sees all of them: those of its ``turns``.

    To find a tile takes divisions, loads that wait for each other, and reductions: 300 to 1500 cycles in
    which a math warpgroup multiplied nothing, as long as it did so itself (up to 3 % of contiguous and
    offsets, 2026-11-24). Only its first tile each role finds alone, as all would wait for it; where that is
    padding, it takes the next.

    Barriers, and who arrives how often per phase:

        full[slot]      1: the scheduler warp
        empty[slot]     1 of each warp that takes tiles
    """

    scheduler: Any
    turns: Any
    pipe: pipeline.PipelineAsync
    slots: cute.Tensor  # (FIELDS, SLOTS)

    @staticmethod
    def make(scheduler, turns, storage: Storage, consumer_warps: int) -> "TileQueue":
        """An empty queue of the tiles of ``scheduler``, each of which is for all ``consumer_warps``."""
        assert len(scheduler.varying) <= FIELDS, "a slot is too small for what varies from tile to tile"
        thread = pipeline.PipelineOp.AsyncThread
        barriers = make_mbarriers(storage.barriers.data_ptr(), SLOTS, (thread, 1), (thread, consumer_warps))
        pipe = pipeline.PipelineAsync(*barriers, SLOTS, None, None)
        return TileQueue(scheduler, turns, pipe, storage.slots.get_tensor(cute.make_layout((FIELDS, SLOTS))))

    def prepare(self, table: cute.Tensor, tidx: Int32) -> "TileQueue":
        """The queue to use once all threads of the CTA have called this."""
        return replace(self, scheduler=self.scheduler.prepare(table, tidx))

    @cute.jit
    def find(self):
        """Role of the scheduler warp: finds all tiles but the first, and the end."""
        turn = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, SLOTS)
        tile, state = self.scheduler.initial_work(), self.start()
        while tile.is_valid:
            if self.turns.are_drawn():
                # As late as can be, when all have taken the tile before: who draws early need not be free.
                before = turn.clone()
                before.advance()
                self.pipe.producer_acquire(before)
            tile, state = self.after(tile, state)
            self.pipe.producer_acquire(turn)
            if cute.arch.lane_idx() == 0:
                slot = cute.make_rmem_tensor(FIELDS, Int32)
                slot.fill(0)
                for place, name in enumerate(self.scheduler.varying):
                    slot[place] = Int32(getattr(tile, name))
                cute.autovec_copy(slot, self.slots[None, turn.index])
                self.pipe.producer_commit(turn)
            turn.advance()
        self.turns.finish(state)

    def start(self):
        """Where the turns of a warp that finds tiles stand at its first."""
        return pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, LETTERS)

    @cute.jit
    def after(self, tile, state):
        """Finds the tile after ``tile`` that is not padding, and where the turns stand then."""
        index, state = self.turns.next(tile.index, state)
        tile = self.scheduler.at(index)
        if const_expr(self.scheduler.has_padding):
            while tile.is_valid and tile.is_padding:
                index, state = self.turns.next(tile.index, state)
                tile = self.scheduler.at(index)
        return tile, state

    @cute.jit
    def first(self):
        """The first tile of the calling warp, and its turn to take the next."""
        turn = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, SLOTS)
        tile = self.scheduler.initial_work()
        if const_expr(self.scheduler.has_padding):
            if tile.is_valid and tile.is_padding:
                tile, turn = self.take(tile, turn)
        return tile, turn

    @cute.jit
    def take(self, tile, turn):
        """The tile after ``tile`` of the calling warp, and its turn to take the next."""
        self.pipe.consumer_wait(turn)
        slot = cute.make_rmem_tensor(FIELDS, Int32)
        # The lane that reads is the one that gives back: racecheck does not see that a warp keeps together.
        if cute.arch.lane_idx() == 0:
            cute.autovec_copy(self.slots[None, turn.index], slot)
            self.pipe.consumer_release(turn)
        turn.advance()
        found = {
            name: type(getattr(tile, name))(cute.arch.make_warp_uniform(slot[place]))
            for place, name in enumerate(self.scheduler.varying)
        }
        return replace(tile, **found), turn
