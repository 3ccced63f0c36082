"""Products that make gradients of weights: their operands, our calls, and the judge of their results.

Where a product is added to D, each call leaves another D, and nobody counts calls that a CUDA graph replays.
So what timed calls have left must be a whole multiple of the product, and one call more, on a D that is
known, must have added it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import cute_gemm

from .. import testing
from ..plan.card import Card
from ..plan.layouts import DENSE
from ..plan.recipe import FP8_1D1D
from ..reference import dequantized_product
from ..runtime import selection
from .calls import Call
from .cases import in_layout
from .records import M_MAJOR, OURS
from .shapes import Shape
from .work import GRADIENT_FORMS, GradientForm, draw_columns, problem_of

Judge = Callable[[Tensor, Tensor | None], float]
"""The worst tile's error of a result, given what it held before, if the product was added to that; raises
AssertionError if it is wrong."""

_HELD = 32.0
"""The size of what D holds when one call more is judged: about that of products."""

_MULTIPLE_LIMIT = 1e-4
"""On the worst tile's error of what many calls have added up. A tile that misses one k-block of 128 in all
calls is at 4e-3 for K = 16384, one that misses one call of 25 at 8e-4."""

_ROUNDING = 2.0**-24
"""What rounding adds to an element with each call, at most, relative to what it holds."""


@dataclass
class AddingCall(Call):
    """A call that adds the product to its result."""

    def poison(self) -> None:
        """Takes away what was added: of NaN the next call would leave NaN."""
        if isinstance(self.result, Tensor):
            self.result.zero_()


@dataclass(frozen=True)
class GradientCase:
    """Standard normal operands of one operation, both quantised by 1x128, with M-major scales.

    Args:
        op, shape: the problem, as in `records`.
        inputs: the operands; of a dense product those of one group that has all columns.
    """

    op: str
    shape: Shape
    inputs: testing.KGroupedInputs

    @staticmethod
    def make(op: str, shape: Shape, device: str = "cuda") -> GradientCase:
        """Operands of a shape; of groups, with columns drawn as :func:`.work.draw_columns` does."""
        if GRADIENT_FORMS[op].layout is DENSE:
            m, n, k = shape
            made = testing.make_inputs(m, n, k, device=device, recipe=FP8_1D1D)
            lhs, rhs = ((q, in_layout(s, M_MAJOR)) for q, s in made)
            offsets = torch.tensor([0, k], dtype=torch.int32, device=device)
            return GradientCase(op, shape, testing.KGroupedInputs(lhs, rhs, offsets, ((lhs, rhs),)))
        groups, m, n, expected_k = shape
        sizes = draw_columns(groups, expected_k)
        return GradientCase(op, shape, testing.make_k_grouped_inputs(sizes, m, n, device=device))

    @property
    def form(self) -> GradientForm:
        return GRADIENT_FORMS[self.op]

    @cached_property
    def products(self) -> tuple[Tensor, ...]:
        """FP64 ``[M, N]`` of each group: what is to be written, or added."""
        return tuple(dequantized_product(*lhs, *rhs) for lhs, rhs in self.inputs.groups)

    def new_out(self) -> Tensor:
        """A result as it is before the first call: NaN; zero where products are added to it."""
        m, n = (q.shape[0] for q, _ in (self.inputs.lhs, self.inputs.rhs))
        shape = (m, n) if self.form.layout is DENSE else (len(self.inputs.groups), m, n)
        value = 0.0 if self.form.accumulates else math.nan
        dtype = getattr(torch, self.form.out_dtype)
        return torch.full(shape, value, dtype=dtype, device=self.inputs.offsets.device)

    def ours(self, card: Card, pdl: bool | None = None) -> Call:
        """Our operation on ``card``; ``pdl`` as of :func:`cute_gemm.config`."""
        (lhs, rhs), out, adds = (self.inputs.lhs, self.inputs.rhs), self.new_out(), self.form.accumulates

        def run() -> Tensor:
            if self.form.layout is DENSE:
                return cute_gemm.fp8_gemm_nt(lhs, rhs, out, accumulate=adds)
            return cute_gemm.k_grouped_fp8_gemm_nt(lhs, rhs, self.inputs.offsets, out, accumulate=adds)

        name = selection.select(problem_of(self.op, self.shape, card), tma_scales=True).name
        return self.call(OURS, cute_gemm.config(pdl=pdl)(run), self.judge, name)

    def call(self, peer: str, run: Callable[[], Tensor], judge: Judge, config: str | None = None) -> Call:
        """A call of anybody's whose results ``judge`` judges; of one that adds, those of one call more."""
        if not self.form.accumulates:
            return Call(peer, run, lambda out: judge(out, None), scale_layout=M_MAJOR, config=config)

        def judge_added(out: Tensor) -> float:
            self._require_multiple(out)
            generator = torch.Generator(out.device).manual_seed(0)
            before = torch.randn(out.shape, generator=generator, device=out.device, dtype=out.dtype) * _HELD
            out.copy_(before)
            return judge(run(), before)

        return AddingCall(peer, run, judge_added, scale_layout=M_MAJOR, config=config)

    def judge(self, out: Tensor, before: Tensor | None) -> float:
        """The worst tile's error of a result of ours.

        Raises:
            AssertionError: it is wrong, by `testing.assert_k_grouped_correct`.
        """
        held = None if before is None else self._by_group(before)
        return testing.assert_k_grouped_correct(self._by_group(out), self.inputs, held)

    def error(self, out: Tensor, before: Tensor | None) -> float:
        """The worst tile's error against the FP64 product of the dequantised operands, and what was held."""
        worst = 0.0
        for group, (found, product) in enumerate(self._with_products(out)):
            right = product if before is None else product + self._by_group(before)[group].double()
            worst = max(worst, testing.worst_tile_error(found, right))
        return worst

    def _by_group(self, out: Tensor) -> Tensor:
        return out[None] if self.form.layout is DENSE else out

    def _with_products(self, out: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The result of each group, and its product."""
        return zip(self._by_group(out), self.products, strict=True)

    def _require_multiple(self, out: Tensor) -> None:
        """Checks that each element is the sum of as many products, begun with zero.

        Raises:
            AssertionError: one is not.
        """
        found = sum((x.double() * product).sum().item() for x, product in self._with_products(out))
        ratio = found / sum(product.square().sum().item() for product in self.products)
        count = max(round(ratio), 1) if math.isfinite(ratio) else 1
        limit = max(_MULTIPLE_LIMIT, (count * _ROUNDING) ** 2)
        for group, (x, product) in enumerate(self._with_products(out)):
            error = testing.worst_tile_error(x, count * product)
            if not error <= limit:
                raise AssertionError(
                    f"group {group}: what calls have left is not {count} times the product: the worst tile's"
                    f" error is {error:.3e}, limit {limit:.1e}"
                )
