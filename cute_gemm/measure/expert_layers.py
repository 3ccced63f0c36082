"""What an expert layer is given, our call of it, and what its result must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import cute_gemm

from .. import quantize, testing
from ..plan.card import Card
from ..plan.config import KernelConfig
from ..plan.layouts import OFFSETS
from ..plan.problem import GemmProblem
from ..quantize import formula
from ..runtime import epilogued, selection
from ..runtime.builder import Program
from . import stages
from .calls import Call, judge_within
from .choices import LayerShape, draw_choices
from .layers import expert_layer_count
from .records import COMBINE, DOWN, EXPERT_LAYER, GATE_UP, OURS, QUANTIZE, ROUTE, ROW_MAJOR
from .shapes import Shape

Operand = tuple[Tensor, Tensor]
Routing = cute_gemm.moe.Routing

_TOKENS_AT_ONCE = 1024

_OPENED = cute_gemm.epilogue.swiglu() | cute_gemm.epilogue.quantize_1x128()

FP8_LIMIT = 4e-3
"""Limit on the worst tile's error of a layer in FP8, against that of bf16 tokens and dequantised weights.

Tokens are rounded to e4m3, and so is what is between the products. Either is an error of 7e-4 in the square
of the norm; that of tokens is in gate and in up. Together that is 1.2e-3, and up to 2e-3 where a tile has the
128 columns of one token. With a k-block of 56 left out it would be above 1e-2."""

BF16_LIMIT = 1e-4
"""The same of a layer in bf16: weights, and what is between the products, are rounded to 8 bits."""


@dataclass(frozen=True)
class LayerCase:
    """A layer of normal weights, quantised, and bf16 tokens.

    Args:
        shape: of the layer, as in :class:`.choices.LayerShape`.
        x: bf16 ``[T, K]``.
        gate_up: e4m3 ``[E, 2 I, K]`` and scales, eight rows of gate and eight of up by turns.
        down: e4m3 ``[E, K, I]`` and scales.
        expert_ids: int32 ``[T, k]``.
        weights: fp32 ``[T, k]``; those of a token add up to 1.
        pdl: as of :func:`cute_gemm.config`, for all of our kernels.
    """

    shape: Shape
    x: Tensor
    gate_up: Operand
    down: Operand
    expert_ids: Tensor
    weights: Tensor
    pdl: bool | None = None
    op: str = EXPERT_LAYER

    @staticmethod
    def make(shape: Shape, device: str = "cuda", pdl: bool | None = None) -> LayerCase:
        sizes = LayerShape(*shape)
        draw = torch.Generator(device).manual_seed(0)
        x = torch.randn(sizes.tokens, sizes.k, generator=draw, device=device).bfloat16()
        gate_up = _normal_weights(sizes.experts, 2 * sizes.inner, sizes.k, draw)
        down = _normal_weights(sizes.experts, sizes.k, sizes.inner, draw)
        weights = torch.rand(sizes.tokens, sizes.choices, generator=draw, device=device)
        ids = torch.tensor(draw_choices(sizes), dtype=torch.int32, device=device)
        return LayerCase(shape, x, gate_up, down, ids, weights / weights.sum(1, keepdim=True), pdl)

    @property
    def sizes(self) -> LayerShape:
        return LayerShape(*self.shape)

    def chain(self) -> list[LayerCase]:
        """This layer, and as many more with copies of its weights as a chain has."""
        sizes = self.sizes
        count = expert_layer_count(
            sizes.experts_in_use * sizes.weight_bytes, sizes.experts * sizes.weight_bytes
        )
        return [self, *(self._with_weights_of_its_own() for _ in range(count - 1))]

    def _with_weights_of_its_own(self) -> LayerCase:
        (gate_up, of_gate_up), (down, of_down) = self.gate_up, self.down
        return replace(
            self, gate_up=(gate_up.clone(), of_gate_up.clone()), down=(down.clone(), of_down.clone())
        )

    def ours(self, card: Card) -> Call:
        """Our layer, and its stages, on ``card``."""
        out = torch.full_like(self.x, torch.nan)

        def run() -> Tensor:
            given = self.x, self.gate_up, self.down, self.expert_ids, self.weights
            return cute_gemm.moe.expert_layer(*given, out=out)

        return Call(
            OURS,
            self.launched(run),
            self.judge_within(FP8_LIMIT),
            scale_layout=ROW_MAJOR,
            config=", ".join(each.name for each in products(self.shape, card)),
            stages={name: self.launched(stage) for name, stage in stages.each_alone(self._steps()).items()},
        )

    def launched(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """``run``, whose kernels of ours are launched as the case says."""
        return cute_gemm.config(pdl=self.pdl)(run)

    def _steps(self) -> stages.Steps:
        """What `moe.expert_layer` does, one after the other."""
        product = cute_gemm.m_grouped_fp8_gemm_nt_offsets

        def gate_up(made: tuple[Routing, Operand]) -> tuple[Routing, Operand]:
            found, lhs = made
            return found, product(lhs, self.gate_up, found.ends, epilogue=_OPENED)

        def down(made: tuple[Routing, Operand]) -> tuple[Routing, Tensor]:
            found, lhs = made
            assert found.weights is not None
            weighted = cute_gemm.epilogue.row_weights(found.weights)
            return found, product(lhs, self.down, found.ends, epilogue=weighted)

        def combined(made: tuple[Routing, Tensor]) -> Tensor:
            found, rows = made
            return cute_gemm.moe.combine(rows, found.places)

        return {
            ROUTE: lambda _: self.route(),
            QUANTIZE: lambda found: (found, self.quantize(found.tokens)),
            GATE_UP: gate_up,
            DOWN: down,
            COMBINE: combined,
        }

    # What others are made of.

    def route(self) -> Routing:
        """Sorts the choices."""
        return cute_gemm.moe.route(self.expert_ids, self.sizes.experts, self.weights)

    def quantize(self, tokens: Tensor, is_m_major: bool = False) -> Operand:
        """The rows of these tokens, with scales of either layout."""
        return cute_gemm.quantize_1x128(self.x, rows=tokens, m_major_scales=is_m_major)

    def multiply(self, lhs: Operand, rhs: Operand, found: Routing) -> Tensor:
        """The product of each expert's rows, without an epilogue."""
        return cute_gemm.m_grouped_fp8_gemm_nt_offsets(lhs, rhs, found.ends)

    def activate(self, x: Tensor, is_m_major: bool = False, ends: Tensor | None = None) -> Operand:
        """SwiGLU of gate and up by turns, quantised; where ``ends`` are given, of experts' rows alone."""
        return cute_gemm.swiglu_quantize_1x128(x, interleaved=True, offsets=ends, m_major_scales=is_m_major)

    def weights_in_bf16(self) -> tuple[Tensor, Tensor]:
        """``[E, 2 I, K]``, all of gate before all of up, and ``[E, K, I]``."""
        halves = _of_each(self.gate_up, lambda w: torch.cat(quantize.split_gate_up(w)))
        return halves, _of_each(self.down, lambda w: w)

    def judge_within(self, limit: float) -> Callable[[Tensor], float]:
        """A judge of results: the errors of the worst tile and of the worst token are at most ``limit``."""
        of_tiles = judge_within(self.error, limit)

        def judge(out: Tensor) -> float:
            found = of_tiles(out)
            # In a tile of 128 tokens one that is wrong is no large error.
            worst = self.token_errors(out).max().item()
            if worst > limit:
                raise AssertionError(f"the worst token's error is {worst:.3e}, limit {limit:.0e}")
            return found

        return judge

    def error(self, out: Tensor) -> float:
        """The worst tile's error against the layer of bf16 tokens and dequantised weights."""
        return testing.worst_tile_error(out, self.truth)

    def token_errors(self, out: Tensor) -> Tensor:
        """FP64 ``[T]``: the same of each token's row, which has no NaN."""
        errors = torch.zeros(len(out), dtype=torch.float64, device=out.device)
        for some in torch.arange(len(out), device=out.device).split(_TOKENS_AT_ONCE):
            x, y = out[some].double(), self.truth[some].double()
            size = (x.square() + y.square()).sum(1)
            errors[some] = torch.where(size == 0, 0.0, (x - y).square().sum(1) / size)
        return errors

    @cached_property
    def truth(self) -> Tensor:
        """``[T, K]``: what a result must be close to; products and sums are in FP64, kept as FP32."""
        total = torch.zeros(self.x.shape, dtype=torch.float64, device=self.x.device)
        for expert in range(self.sizes.experts):
            tokens, choice = (self.expert_ids == expert).nonzero(as_tuple=True)
            if not len(tokens):
                continue
            gate_up, down = (
                quantize.dequantize_128x128(q[expert], s[expert], torch.float64)
                for q, s in (self.gate_up, self.down)
            )
            opened = formula.swiglu(self.x[tokens].double() @ gate_up.t(), True).double()
            total.index_add_(0, tokens, (opened @ down.t()) * self.weights[tokens, choice, None])
        return total.float()


def products(shape: Shape, card: Card) -> list[KernelConfig]:
    """The configurations of our two products of a layer on ``card``, whatever their epilogues."""
    opening, closing = _problems(shape, card)
    fused = replace(opening, out_dtype="float8_e4m3fn", narrowing=2)
    return [selection.select(problem) for problem in (fused, closing)]


def plain_products(shape: Shape, card: Card) -> list[KernelConfig]:
    """The same without epilogues. Of groups of any size TMA loads no scales, whatever their layout."""
    return [selection.select(problem) for problem in _problems(shape, card)]


def fused_program(config: KernelConfig) -> Program:
    """The kernel of one of :func:`products`, with the epilogue that it has in a layer."""
    of = _OPENED if config.is_quantized else cute_gemm.epilogue.row_weights(torch.zeros(1))
    return epilogued.program(config, of.applied, [each for each in of.applied.operands if each is not None])


def _problems(shape: Shape, card: Card) -> tuple[GemmProblem, GemmProblem]:
    sizes = LayerShape(*shape)
    rows = sizes.tokens * sizes.choices
    on_card: dict[str, Any] = {"num_sms": card.sms, "layout": OFFSETS, "groups": sizes.experts, "card": card}
    opening = GemmProblem(rows, 2 * sizes.inner, sizes.k, **on_card)
    return opening, GemmProblem(rows, sizes.k, sizes.inner, **on_card)


def _normal_weights(experts: int, n: int, k: int, draw: torch.Generator) -> Operand:
    """One expert after the other: in full precision all together would be four times as much."""
    device, blocks = draw.device, quantize.scale_blocks
    q = torch.empty(experts, n, k, dtype=formula.E4M3, device=device)
    s = torch.empty(experts, blocks(n), blocks(k), device=device)
    for expert in range(experts):
        w = torch.randn(n, k, generator=draw, device=device).div_(k**0.5).bfloat16()
        cute_gemm.quantize_128x128(w, out=q[expert], scales_out=s[expert])
    return q, s


def _of_each(operand: Operand, lay_out: Callable[[Tensor], Tensor]) -> Tensor:
    """bf16 of one expert after the other."""
    q, s = operand
    made = torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)
    for expert in range(len(q)):
        made[expert] = lay_out(quantize.dequantize_128x128(q[expert], s[expert]))
    return made
