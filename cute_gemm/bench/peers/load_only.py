"""A mainloop that waits for operands and gives them back: what a kernel takes that multiplies nothing.

Scales that come by TMA with a stage are loaded, too; others are not, as nothing asks for them.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32


@dataclass(frozen=True)
class LoadOnly:
    """In the place of :class:`cute_gemm.kernels.mainloop.SerialMainloop`. All sums are 0."""

    def skipped_stages(self, k_count: Int32) -> Int32:
        """None: a tile begins at any stage."""
        return Int32(0)

    @cute.jit
    def __call__(self, inputs, state, tile, has_rows, accs):
        """Goes through the k-blocks of ``tile``; returns the advanced state of the ring."""
        for acc in accs:
            acc.fill(0.0)
        for _ in cutlass.range(tile.k_count, unroll=1):
            inputs.ring.consumer_wait(state)
            inputs.ring.consumer_release(state)
            state.advance()
        return state
