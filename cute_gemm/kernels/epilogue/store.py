"""The protocol of stores, and the fragments that they are given."""

from dataclasses import dataclass
from typing import Any, Protocol

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ...plan.config import KernelConfig
from ...plan.limits import MMA_M
from ..sm90.mma import columns_of
from .value import TileValue, Value


@dataclass(frozen=True)
class Sums:
    """The sums of one warpgroup's rows of a tile, and where they belong.

    Fragment ``m * n_fragments + n`` has rows from ``64 * m`` on and columns from ``n * fragment_n`` on.
    """

    accs: list[cute.Tensor]  # registers of each fragment
    n_fragments: int
    value: TileValue
    first: tuple[Int32, Int32, Int32]  # row, column and matrix of D of the first element
    row_end: Int32  # rows of D from here on are not to be stored

    @property
    def m_fragments(self) -> int:
        """Fragments one below the other."""
        return len(self.accs) // self.n_fragments

    @property
    def fragment_n(self) -> int:
        """Columns of a fragment."""
        return columns_of(self.accs[0])

    def piece(self, number: int, width: int) -> tuple[int, int, Any]:
        """A piece of 64 rows and ``width`` columns, by fragments: its m-fragment, first column and values."""
        fragment, part = divmod(number, self.fragment_n // width)
        m, n = divmod(fragment, self.n_fragments)
        column = n * self.fragment_n + part * width  # of the sum
        own = columns(self.accs[fragment], part * width, width)
        return m, column, self.value(own, MMA_M * m, column)

    def columns(self, m: int, first: int, count: int) -> cute.Tensor:
        """Registers of the ``m``-th 64 rows and of columns, of one fragment or of whole ones side by side."""
        fragments = self.accs[m * self.n_fragments : (m + 1) * self.n_fragments]
        n, offset = divmod(first, self.fragment_n)
        if offset + count <= self.fragment_n:
            return columns(fragments[n], offset, count)
        assert offset == count % self.fragment_n == 0, "columns of parts of several fragments"
        size, whole = cute.size(fragments[0]), cute.make_rmem_tensor(count // 2, cutlass.Float32)
        for i in range(count // 2):
            whole[i] = fragments[n + i // size][i % size]
        return whole


class Store(Protocol):
    """Where values go: a frozen dataclass of what is known when a kernel is compiled.

    A store that can also write zeros to rows that no tile stores has one more method, ``fill(operands,
    scheduler)``, for one warp of each CTA. The scheduler is one that :mod:`cute_gemm.schedulers.taken`
    describes. One with a method ``carry(operands, shared, tiles)`` has it run by that warp, which takes all
    tiles from the work queue ``tiles``, as the others do.
    """

    @classmethod
    def of(cls, config: KernelConfig, dtype: type) -> "Store":
        """The store of a configuration, to a D of ``dtype``."""

    def taking(self, value: Value) -> "Store":
        """The store for what ``value`` makes of sums."""

    @property
    def Storage(self) -> type:
        """Its shared memory: a ``cute.struct``."""

    def operands(self, mD: cute.Tensor) -> Any:
        """On the host: what of D (M, N, matrices) is passed to the kernel."""

    def prefetch(self, operands: Any) -> None:
        """On the device, the TMA warp: fetches what descriptors there are.

        Kernels ahead on the stream may still run: nothing of this may touch global memory.
        """

    def open(self, storage, tidx: Int32) -> Any:
        """On the device, all threads: what is in :attr:`Storage`, with barriers, if any, initialised.

        Those of this CTA may be used in :meth:`__call__`, those of its peers after a wait for the cluster.
        Kernels ahead on the stream may still run, as in :meth:`prefetch`.
        """

    def __call__(self, sums: Sums, operands: Any, shared, warpgroup_idx: Int32, tidx: Int32) -> None:
        """On the device, each math warpgroup, tile by tile: stores ``sums``.

        Also called where the warpgroup has no rows. Bulk copies may still read shared memory on return; the
        kernel waits for them before it ends.
        """


def columns(registers: cute.Tensor, first: int, count: int) -> cute.Tensor:
    """Those of a thread's ``registers`` that are of ``count`` columns, from ``first`` on."""
    return cute.make_tensor(registers.iterator + first // 2, cute.make_layout(count // 2))
