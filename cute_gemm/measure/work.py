"""How much there is to compute and to move at a shape, and what a kernel is chosen for there."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from ..plan.card import H100, Card
from ..plan.layouts import DENSE as DENSE_LAYOUT
from ..plan.layouts import K_GROUPED, LAYOUTS, Layout
from ..plan.limits import CONTIGUOUS_ALIGNMENT, ceil_div
from ..plan.problem import GemmProblem
from ..plan.quantizer import BLOCK
from ..plan.recipe import FP8_1D1D
from .choices import LayerShape
from .records import (
    BLOCKS,
    BOTH_WAYS,
    DENSE,
    DENSE_ADDED,
    DENSE_BF16,
    DENSE_FP32,
    GATHERED,
    GRADIENTS,
    GROUPED,
    INTERLEAVED,
    K_GROUPED_ADDED,
    K_GROUPED_BF16,
    K_GROUPED_FP32,
    LAYERS,
    NORMED,
    QUANTIZERS,
    SUMMED,
    SWIGLU,
    Row,
    shape_of,
)
from .shapes import Shape

DRAWN_SHARES = 0.7, 1.3
"""Of the rows that are expected of each group, what there are: DeepGEMM's benchmark draws them uniformly from
that range (its tests/generators.py), so figures compare only if ours do too."""

_LAYOUTS = {DENSE: DENSE_LAYOUT} | {op: LAYOUTS[op.removeprefix("m_grouped_")] for op in GROUPED}


@dataclass(frozen=True)
class GradientForm:
    """What a product is that makes gradients of weights.

    Args:
        layout: how rows find their matrix.
        out_dtype: of D, by the name of torch.
        accumulates: whether it is added to what D holds.
    """

    layout: Layout
    out_dtype: str
    accumulates: bool = False


GRADIENT_FORMS = {
    DENSE_ADDED: GradientForm(DENSE_LAYOUT, "float32", accumulates=True),
    DENSE_FP32: GradientForm(DENSE_LAYOUT, "float32"),
    DENSE_BF16: GradientForm(DENSE_LAYOUT, "bfloat16"),
    K_GROUPED_ADDED: GradientForm(K_GROUPED, "float32", accumulates=True),
    K_GROUPED_FP32: GradientForm(K_GROUPED, "float32"),
    K_GROUPED_BF16: GradientForm(K_GROUPED, "bfloat16"),
}


@dataclass(frozen=True)
class Work:
    """What was computed: the name it goes by, and what its rates count.

    Args:
        op, shape: the problem, as in `records`.
        flops: multiplications and additions.
        bytes_moved: bytes of the operands and the result, each counted once.
    """

    op: str
    shape: Shape
    flops: int
    bytes_moved: int

    @staticmethod
    def of(op: str, shape: Shape) -> Work:
        """The work of an operation at a shape.

        Of groups it is counted as in DeepGEMM's figures: padding counts, scales do not. Of a quantiser, of
        bf16, all that is read and written counts, and nothing that is computed. Of an expert layer, what
        :class:`.choices.LayerShape` says. Of gradients scales count, and D twice where it is added to.
        """
        if op in LAYERS:
            layer = LayerShape(*shape)
            return Work(op, shape, layer.flops, layer.bytes_moved)
        if op in QUANTIZERS:
            return Work(op, shape, 0, _bytes_quantized(op, *shape))
        if op in GRADIENTS or not layout_of(op).is_grouped:
            problem = problem_of(op, shape)
            return Work(op, shape, problem.flops, problem.bytes_moved)
        (groups, _, n, k), rows = shape, total_rows(op, shape)
        return Work(op, shape, 2 * rows * n * k, (rows + groups * n) * k + 2 * rows * n)

    @staticmethod
    def of_row(row: Row) -> Work:
        """The work of what a row is of."""
        return Work.of(row["op"], shape_of(row))

    @property
    def intensity(self) -> float:
        """FLOP for each byte moved."""
        return self.flops / self.bytes_moved


_BF16, _FP32, _INT32 = 2, 4, 4


def _bytes_quantized(op: str, m: int, k: int) -> int:
    """Bytes that a quantiser reads and writes of a result ``[M, K]``."""
    m_blocks, k_blocks = ceil_div(m, BLOCK), ceil_div(k, BLOCK)
    elements = m * k
    more = {
        GATHERED: _INT32 * m,
        SWIGLU: _BF16 * elements,
        INTERLEAVED: _BF16 * elements,
        NORMED: _BF16 * k,
        # The residual is read, and the sum written.
        SUMMED: _BF16 * k + 2 * _BF16 * elements,
        BOTH_WAYS: elements + _FP32 * k * m_blocks,
    }
    scales = m_blocks * k_blocks if op == BLOCKS else m * k_blocks
    return _BF16 * elements + elements + _FP32 * scales + more.get(op, 0)


def layout_of(op: str) -> Layout:
    """How rows of A find their matrix B in a forward product of `records`."""
    return _LAYOUTS[op]


def draw_rows(groups: int, expected_m: int) -> list[int]:
    """Rows of each group, as DeepGEMM's benchmark drew them: every shape anew from the same seed."""
    uniform = random.Random(0).uniform
    return [int(expected_m * uniform(*DRAWN_SHARES)) for _ in range(groups)]


def draw_columns(groups: int, expected_k: int) -> list[int]:
    """Columns of each group, as DeepGEMM's tests draw them: the same numbers, rounded up to blocks of 128."""
    return [ceil_div(columns, BLOCK) * BLOCK for columns in draw_rows(groups, expected_k)]


def padded_rows(layout: Layout, sizes: Iterable[int]) -> int:
    """Rows of A that groups of these sizes come to: with padding where the layout asks for it."""
    alignment = CONTIGUOUS_ALIGNMENT if layout.has_padding else 1
    return sum(ceil_div(rows, alignment) * alignment for rows in sizes)


def total_rows(op: str, shape: Shape) -> int:
    """Rows of A that a grouped shape comes to."""
    groups, expected_m, _, _ = shape
    return padded_rows(layout_of(op), draw_rows(groups, expected_m))


def problem_of(op: str, shape: Shape, card: Card = H100) -> GemmProblem:
    """What the operation makes of a shape, for the choice of a kernel."""
    if op in GRADIENTS:
        return _gradient_problem(GRADIENT_FORMS[op], shape, card)
    layout = layout_of(op)
    if not layout.is_grouped:
        m, n, k = shape
        return GemmProblem(m, n, k, num_sms=card.sms, card=card)
    groups, expected_m, n, k = shape
    # Where each group has a matrix, the host knows what is expected and not what there is.
    rows = groups * expected_m if layout.has_matrix_per_group else total_rows(op, shape)
    return GemmProblem(rows, n, k, num_sms=card.sms, layout=layout, groups=groups, card=card)


def _gradient_problem(form: GradientForm, shape: Shape, card: Card) -> GemmProblem:
    *groups, m, n, k = shape
    return GemmProblem(
        m,
        n,
        sum(draw_columns(groups[0], k)) if groups else k,
        form.out_dtype,
        card.sms,
        form.layout,
        groups[0] if groups else 1,
        recipe=FP8_1D1D,
        accumulate=form.accumulates,
        card=card,
    )
