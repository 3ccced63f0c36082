"""The protocol of scaling: what a kernel and its mainloop ask of the object that scales sums."""

from typing import Any, ClassVar, Protocol

import cutlass.cute as cute
from cutlass import Int32


class Feed(Protocol):
    """What one math thread asks, tile by tile; a frozen dataclass of DSL values.

    The mainloop calls, for each tile: ``start`` (as early as the tile is known), ``promotion``, ``begin``,
    and then for one k-block after the other ``read`` and ``hand_out``.
    """

    def start(self, tile) -> None:
        """Goes to ``tile``. It may not be valid: whatever is read for it must be clamped."""

    def promotion(self, tile) -> Any:
        """What adds partial sums of ``tile`` to accumulators.

        It is called as ``(acc, partial, scales, m, n)``: registers of one fragment, what :meth:`hand_out`
        gave for the k-block, and which of the warpgroup's fragments it is.
        """

    def begin(self, tile) -> None:
        """Called once before the first k-block."""

    def read(self, state) -> Any:
        """What is to be read of a full stage, before the k-block's WGMMAs are issued.

        Args:
            state: of the ring: the stage, and the phase that it is full in.
        """

    def hand_out(self, staged, tile, k: Int32, place) -> Any:
        """The scales of k-block ``k``: nested lists of DSL values, of a structure that is always the same.

        Args:
            staged: what :meth:`read` returned.
            tile: the tile.
            k: counted from the tile's first k-block.
            place: ``k % Scaling.group``; a Python int where it is known when compiling.
        """


class Scaling(Protocol):
    """Scales on their way from memory to sums. Methods are called on the host unless they say otherwise.

    A scaling by which each CTA loads scales for itself, whatever it shares with others, has one more method,
    ``load_own(operands, parts, k, state, barrier)``, called as :meth:`load` is.
    """

    group: ClassVar[int]
    """k-blocks after which what a feed does repeats. Where a ring has whole groups of stages, the mainloop
    goes through a tile by whole groups, so that a feed knows ``place`` when compiling."""

    stage_bytes: int
    """What TMA brings of scales with a stage, in bytes."""

    fetches_ahead: bool
    """Whether a spare warp runs :meth:`fetch_ahead`."""

    @property
    def Storage(self) -> type:
        """Its shared memory: a ``cute.struct``."""

    def operands(self, mSFA: cute.Tensor, mSFB: cute.Tensor) -> Any:
        """What of the scales is passed to the kernel."""

    def prefetch(self, operands: Any) -> None:
        """On the device, the TMA warp: fetches what descriptors there are.

        Kernels ahead on the stream may still run: nothing of this may touch global memory.
        """

    def open(self, storage) -> Any:
        """On the device, all threads: what is in :attr:`Storage`.

        As in :meth:`prefetch`, nothing may touch global memory. Barriers cannot be initialised here: their
        fence has passed.
        """

    def along_k(self, operands: Any, shared, tile) -> tuple:
        """On the device, the TMA warp: where the scales of ``tile`` go to and come from."""

    def load(self, operands: Any, parts: tuple, k: Int32, state, barrier, mask: Int32) -> None:
        """On the device, the TMA warp: loads what CTAs that share A also share of a stage's scales.

        Args:
            operands: those of the kernel.
            parts: what :meth:`along_k` returned.
            k: k-block, counted from the start of K.
            state: of the ring, the producer's: the stage, and the phase that it is filled in.
            barrier: counts :attr:`stage_bytes` when they have landed.
            mask: CTAs of the cluster to load for; 0 where A is not shared.
        """

    def fetch_ahead(self, operands: Any, tiles) -> None:
        """On the device, a spare warp: asks L2 for the scales of all tiles of the work queue ``tiles``."""

    def feed(self, operands: Any, shared, row: Int32) -> Feed:
        """On the device: what a math thread asks whose first row in a tile is ``row``."""
