"""What a layout is asked: how rows of A find their matrix B, and what that means for tiles and calls."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..limits import ceil_div
from ..tiles import GROUPED_OVERLAPPED_WIDTHS, GROUPED_WIDTHS, RowScaled, Splits, Widths

if TYPE_CHECKING:
    from ..config import KernelConfig
    from ..problem import GemmProblem

SPREAD = tuple(0.7375 + 0.075 * i for i in range(8))
"""Sizes of groups, as shares of their mean: they are not known, and taken to be spread like this. It is how
DeepGEMM's tests draw them (tests/generators.py: 0.7 to 1.3 times the expected rows)."""


@dataclass(frozen=True)
class Index:
    """An int32 vector on the device that says which rows belong to which group.

    Args:
        name: of the argument.
        axis: what it has an element for: ``"M"``, each row of A, ``"G"``, each group, or ``"G + 1"``, each
            edge of one.
        one_too_many: what to say where it has one element more than that; empty for nothing.
    """

    name: str
    axis: str
    one_too_many: str = ""


@dataclass(frozen=True)
class Count:
    """A plain int beside the index, from 1 to ``limit``, if there is one.

    Args:
        name: of the argument.
        limit: its largest value; None if there is none.
        is_a_vector: what to say where a vector is given for it; empty for nothing.
    """

    name: str
    limit: int | None
    is_a_vector: str = ""


class Layout:
    """One way in which rows of A find their matrix B. A subclass has one instance, and no state.

    Nothing else on the host may ask which layout it has: what depends on it is an attribute or a method here.
    """

    name: ClassVar[str]
    """As in the names of operations and configurations, and in files."""

    is_grouped: ClassVar[bool] = True
    """Whether there are several matrices B, and so a ``groups`` extent."""

    has_matrix_per_group: ClassVar[bool] = False
    """Whether A and D, too, are a matrix for each group, ``[G, capacity, K]`` and ``[G, capacity, N]``."""

    has_result_per_group: ClassVar[bool] = False
    """Whether D alone is a matrix for each group, ``[G, M, N]``."""

    index: ClassVar[Index | None] = None
    """The argument that says which rows belong to which group."""

    count: ClassVar[Count | None] = None
    """The number that goes with it."""

    gives_count_to_kernel: ClassVar[bool] = False
    """Whether the kernel is given that number; else it only helps to choose one."""

    row_groups: ClassVar[str]
    """``module:function`` of ``(index, count, m, groups)`` that gives each row's group, in plain torch."""

    validation: ClassVar[str]
    """``module:function`` of the same arguments that reads the index and raises where it breaks a rule."""

    table_bytes: ClassVar[int] = 0
    """Shared memory of the scheduler's table, where finding a tile's group takes one."""

    has_padding: ClassVar[bool] = False
    """Whether some tiles may be padding, which the scheduler skips."""

    overlapped_widths: ClassVar[Widths] = GROUPED_OVERLAPPED_WIDTHS
    """Of the tiles that are candidates and multiply a k-block while they promote the last."""

    widths: ClassVar[Widths] = GROUPED_WIDTHS
    """Of the other tiles that are candidates."""

    splits: ClassVar[Splits] = {}
    """Of those whose k-blocks may be shared out."""

    quantized_splits: ClassVar[Splits] = {}
    """The same of tiles whose result is quantised."""

    measured_as: ClassVar[str] = ""
    """The name of the layout whose rates it has; empty for its own."""

    row_scaled_tiles: ClassVar[RowScaled] = {}
    """Those where each row of B has scales, and their clusters."""

    out_loading_tiles: ClassVar[tuple[tuple[int, int], ...]] = ()
    """Those of them that also come with D loaded, where sums are added to it."""

    tall_store_bytes: ClassVar[int] = 128
    """Bytes of a row of a store buffer for tiles of two m-fragments."""

    tall_store_stages: ClassVar[int | None] = 2
    """Store buffers of such a tile; None for as many as others have."""

    _instance: ClassVar[Layout]

    def __new__(cls) -> Layout:
        """The one instance, also where it comes from another process, so that layouts compare by identity."""
        if "_instance" not in cls.__dict__:
            cls._instance = super().__new__(cls)
        return cls._instance

    @property
    def a_rank(self) -> int:
        """Dimensions of A and D."""
        return 3 if self.has_matrix_per_group else 2

    @property
    def b_rank(self) -> int:
        """Dimensions of B."""
        return 3 if self.is_grouped else 2

    def scheduler(self, config: KernelConfig) -> str:
        """``module:class`` of the scheduler; ``runtime/builder.py`` resolves it."""
        raise NotImplementedError

    def store(self, config: KernelConfig) -> str:
        """``module:class`` of how a tile goes to D. By default rows of another group are left alone."""
        return f"cute_gemm.kernels.epilogue:{'ByteRowStore' if config.is_quantized else 'RowStore'}"

    def allows(self, config: KernelConfig) -> bool:
        """Whether tiles of ``config`` suit the layout. By default k-blocks must not be shared out."""
        return config.splits == 1

    def least_rows(self, config: KernelConfig) -> int:
        """Rows that a group has more of, where a cluster along M is of use: those of all its CTAs but one.

        So at most half of a tile's rows, and no CTA, lie beyond a group's rows.
        """
        return config.block_m * (config.cluster_m - 1)

    def groups_in_use(self, m: int, groups: int) -> float:
        """Groups that are expected to have some of ``m`` rows."""
        return groups

    def row_blocks(self, m: int, groups: int, height: int) -> int:
        """Blocks of ``height`` rows that ``m`` rows fall into, none of which has rows of two groups."""
        if groups == 1:
            return ceil_div(m, height)
        in_use = self.groups_in_use(m, groups)
        mean = m / in_use
        blocks = [math.ceil(mean * spread / height) for spread in SPREAD]
        return math.ceil(in_use * sum(blocks) / len(blocks))

    def k_blocks(self, k: int, groups: int, depth: int) -> float:
        """K-blocks of so many columns that a tile is expected to sum up."""
        return ceil_div(k, depth)

    def rows(self, m: int, groups: int, count: int) -> int:
        """The rows of A that a call has, as far as the host knows.

        Args:
            m: rows of A, or of each of its matrices.
            groups: matrices of B.
            count: what the call gave for :attr:`count`.
        """
        return m

    def describe(self, problem: GemmProblem) -> str:
        """A problem in words, for messages."""
        return f"M = {problem.m}, N = {problem.n}, K = {problem.k}, {problem.groups} groups"

    def __repr__(self) -> str:
        # Part of the repr of configurations, which is kept on disk: no address.
        return f"<{self.name}>"


def resolve(path: str) -> Any:
    """The object that ``module:name`` names: layouts name what they must not import."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
