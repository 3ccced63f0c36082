"""What is to be computed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from .card import H100, Card
from .layouts import DENSE, Layout
from .limits import H100_SMS, K_MULTIPLE, MAX_GROUPS, N_MULTIPLE, SCALE_BYTES, STORED_BYTES, ceil_div
from .quantizer import INTERLEAVE
from .recipe import ELEMENT_BYTES, FP8_1D2D, Recipe


@dataclass(frozen=True, slots=True)
class GemmProblem:
    """``D[m, n] = A[m, k] @ B[n, k].T`` on a device with ``num_sms`` multiprocessors.

    In a layout with ``groups``, each of them has its own ``[n, k]`` matrix B, and ``m`` is the number of rows
    of all of them together, as far as it is known.

    Args:
        m, n, k: extents.
        out_dtype: of D, by the name of torch; ``"float8_e4m3fn"`` of what an epilogue quantises.
        narrowing: how many columns of sums an epilogue makes one column of D of.
        num_sms: the multiprocessors that a kernel may use.
        layout: how rows of A find their B.
        groups: matrices B.
        batch_invariant: a row of the result must depend neither on ``m`` nor on other rows: see
            :func:`cute_gemm.config`.
        recipe: types and scales of the operands, and when sums are promoted.
        a_major, b_major: the dimension of A and B that is contiguous, ``"k"``, or ``"m"`` and ``"n"``.
        accumulate: the product is added to what D holds.
        card: the GPU.
        turn: where two columns of sums make one of D, how many of either kind alternate.
    """

    m: int
    n: int
    k: int
    out_dtype: str = "bfloat16"
    num_sms: int = H100_SMS
    layout: Layout = DENSE
    groups: int = 1
    batch_invariant: bool = False
    recipe: Recipe = FP8_1D2D
    a_major: str = "k"
    b_major: str = "k"
    accumulate: bool = False
    card: Card = H100
    narrowing: int = 1
    turn: int = INTERLEAVE

    @property
    def but_for_m(self) -> Hashable:
        """What problems share that differ in M alone."""
        return (
            self.n,
            self.k,
            self.out_dtype,
            self.num_sms,
            self.layout,
            self.groups,
            self.batch_invariant,
            self.recipe,
            self.a_major,
            self.b_major,
            self.accumulate,
            self.card,
            self.narrowing,
            self.turn,
        )

    @property
    def scale_blocks(self) -> int:
        """Scales along K, the last one possibly of fewer elements."""
        return ceil_div(self.k, self.recipe.scale_k)

    @property
    def _groups_of_rows(self) -> int:
        """Matrices B: one, where groups are of columns."""
        return self.groups if self.layout.is_grouped else 1

    @property
    def _results(self) -> int:
        """How often a result of M x N is read or written."""
        matrices = self.groups if self.layout.has_result_per_group else 1
        return matrices * (1 + self.accumulate)

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.n * self.k

    @property
    def operand_bytes(self) -> int:
        """Bytes of A and of all B, each counted once."""
        return self.m * self.k * ELEMENT_BYTES[self.recipe.a_dtype] + self.bytes_of_b

    def bytes_of_rows(self, m: int) -> int:
        """Bytes of so many rows of A and of D, which is read and written where the product is added to it."""
        out_bytes = self.n // self.narrowing * STORED_BYTES[self.out_dtype] * self._results
        return m * (self.k * ELEMENT_BYTES[self.recipe.a_dtype] + out_bytes)

    @property
    def bytes_of_b(self) -> int:
        """Bytes of all matrices B."""
        return self._groups_of_rows * self.n * self.k * ELEMENT_BYTES[self.recipe.b_dtype]

    @property
    def out_bytes(self) -> int:
        """Bytes of the result; twice as many where it is read, too, as the product is added to it."""
        return self.m * (self.n // self.narrowing) * STORED_BYTES[self.out_dtype] * self._results

    @property
    def bytes_moved(self) -> int:
        """Bytes of the operands, their scales and the result, each counted once."""
        rows_of_b = self._groups_of_rows * ceil_div(self.n, self.recipe.scale_n)
        scale_rows = ceil_div(self.m, self.recipe.scale_m) + rows_of_b
        return self.operand_bytes + SCALE_BYTES * self.scale_blocks * scale_rows + self.out_bytes


def why_impossible(n: int, k: int, groups: int = 1) -> str:
    """Why no kernel computes a product of these extents, in words for whoever typed them; empty if one does.

    The contract has the same rules for tensors, where it can say how to pad them, and lets N and K be 0.

    Args:
        n, k: extents of a matrix B.
        groups: matrices B.
    """
    if n < 1 or n % N_MULTIPLE:
        return f"N = {n} is not a positive multiple of {N_MULTIPLE}"
    if k < 1 or k % K_MULTIPLE:
        return f"K = {k} is not a positive multiple of {K_MULTIPLE}"
    if not 1 <= groups <= MAX_GROUPS:
        return f"{groups} groups are not between 1 and {MAX_GROUPS}"
    return ""
