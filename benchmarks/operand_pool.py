"""Operands of any problem, as views of memory that is filled once: drawing them takes longer than timing."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from drawn_shapes import MOST_BYTES, Draw
from torch import Tensor

from cute_gemm import quantize, testing
from cute_gemm.measure.cases import Case, DenseCase, GroupedCase, Operand
from cute_gemm.measure.layers import LEAST_LAYERS, layer_count
from cute_gemm.plan.limits import CONTIGUOUS_ALIGNMENT, SCALE_STRIDE_MULTIPLE, ceil_div
from cute_gemm.reference import dequantized_product, product_scale, take_rows

CHAIN_BYTES = 128 << 20
"""Of the weights of all layers: half of what the benchmark has, twice what L2 holds, and half the time."""

_ALIGNMENT = 256  # bytes
_SCALED = 128  # elements that share a scale
# A, and four layers of the largest B.
POOL_BYTES = (1 + LEAST_LAYERS) * MOST_BYTES + (64 << 20)
RESULT_BYTES = 2 * MOST_BYTES
_CHUNK = 1 << 26

_SAMPLED_ROWS, _SAMPLED_GROUPS, _SAMPLED_BLOCKS = 64, 8, 4


def layers_of(draw: Draw) -> int:
    """How many layers a chain has."""
    return layer_count(draw.bytes_of_b, CHAIN_BYTES)


class _Room:
    """A part of a flat tensor from which views are taken, one behind the other."""

    def __init__(self, memory: Tensor, at: int = 0) -> None:
        self.memory, self.at = memory, at

    def take(self, *shape: int) -> Tensor:
        """A contiguous view on 256 bytes.

        Raises:
            ValueError: there is no room left.
        """
        size, end = math.prod(shape), self.at + math.prod(shape)
        if end > len(self.memory):
            raise ValueError(f"the pool has {len(self.memory)} elements; {end} are wanted")
        view = self.memory[self.at : end].view(shape)
        unit = _ALIGNMENT // self.memory.element_size()
        self.at += ceil_div(size, unit) * unit
        return view


@dataclass(frozen=True)
class OperandPool:
    """Standard normal values, quantised, with the scales that came out; and memory for results.

    Args:
        values: e4m3 bytes.
        scales: fp32, one for 128 of the values.
        outs: bf16.
    """

    values: Tensor
    scales: Tensor
    outs: Tensor

    @staticmethod
    def make(device: str = "cuda", size: int = POOL_BYTES, out_bytes: int = RESULT_BYTES) -> OperandPool:
        """Memory that is enough for every draw; less only for tests."""
        values = torch.empty(size // _SCALED * _SCALED, dtype=torch.uint8, device=device)
        scales = torch.empty(len(values) // _SCALED, dtype=torch.float32, device=device)
        normal = torch.Generator(device).manual_seed(0)
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            x = torch.randn(len(part) // _SCALED, _SCALED, generator=normal, device=device)
            quantised, s = quantize.quantize_1x128(x)
            part.copy_(quantised.view(torch.uint8).flatten())
            scales[start // _SCALED :][: len(s)] = s.flatten()
        outs = torch.empty(out_bytes // 2, dtype=torch.bfloat16, device=device)
        return OperandPool(values.view(torch.float8_e4m3fn), scales, outs)

    def cases(self, draw: Draw, layers: int) -> list[Case]:
        """A problem's layers: one A, whose scales are M-major as TMA wants them, and a B of its own for each.

        Args:
            draw: the problem.
            layers: how many.

        Raises:
            ValueError: the pool is too small.
        """
        values, scales = _Room(self.values), _Room(self.scales)
        lhs = self._lhs(draw, values, scales)
        blocks = ceil_div(draw.n, _SCALED), ceil_div(draw.k, _SCALED)
        groups = (draw.groups,) if draw.layout.is_grouped else ()
        rhs = [(values.take(*groups, draw.n, draw.k), scales.take(*groups, *blocks)) for _ in range(layers)]
        if not draw.layout.is_grouped:
            return [DenseCase(draw.shape, lhs, each) for each in rhs]
        index, row_groups = _grouping(draw, self.values.device)
        inputs = (testing.GroupedInputs(lhs, each, index, row_groups) for each in rhs)
        return [GroupedCase(draw.op, draw.shape, each) for each in inputs]

    def results(self, draw: Draw, layers: int) -> list[Tensor]:
        """Memory for a result of each layer; where there is not enough, layers take turns."""
        room, shape = _Room(self.outs), (*draw.matrices, draw.rows, draw.n)
        most = len(self.outs) // (ceil_div(math.prod(shape), _ALIGNMENT) * _ALIGNMENT)
        outs = [room.take(*shape) for _ in range(max(1, min(most, layers)))]
        return [outs[i % len(outs)] for i in range(layers)]

    @staticmethod
    def _lhs(draw: Draw, values: _Room, scales: _Room) -> Operand:
        a = values.take(*draw.matrices, draw.rows, draw.k)
        padded = ceil_div(draw.rows, SCALE_STRIDE_MULTIPLE) * SCALE_STRIDE_MULTIPLE
        sa = scales.take(*draw.matrices, ceil_div(draw.k, _SCALED), padded)
        return a, sa[..., : draw.rows].mT


def _grouping(draw: Draw, device: torch.device) -> tuple[Tensor, Tensor]:
    """What an operation takes to tell groups apart; and the group of each row, -1 for none. Both int32."""
    sizes = torch.tensor(draw.sizes, dtype=torch.int32)
    groups = torch.arange(draw.groups, dtype=torch.int32)
    if draw.matrices:
        is_valid = torch.arange(draw.rows) < sizes[:, None]
        return sizes.to(device), torch.where(is_valid, groups[:, None], -1).to(device)
    if not draw.layout.has_padding:
        return sizes.cumsum(0).int().to(device), groups.repeat_interleave(sizes).to(device)
    padding = -sizes % CONTIGUOUS_ALIGNMENT
    pairs = torch.stack([groups, torch.full_like(groups, -1)], 1).flatten()
    row_groups = pairs.repeat_interleave(torch.stack([sizes, padding], 1).flatten()).to(device)
    return row_groups, row_groups


@dataclass(frozen=True)
class Sample:
    """A part of a result, and what it must be: at most 64 rows, of at most 8 groups, and 512 columns.

    Args:
        case: the operands.
        draw: what they are of.
    """

    case: Case
    draw: Draw

    @cached_property
    def columns(self) -> slice:
        """Whole blocks of 128, which share scales, or the last ones."""
        blocks = ceil_div(self.draw.n, _SCALED)
        width = min(blocks, _SAMPLED_BLOCKS)
        first = random.Random(repr(self.draw)).randrange(blocks - width + 1) * _SCALED
        return slice(first, min(first + width * _SCALED, self.draw.n))

    @cached_property
    def rows(self) -> list[tuple[int, list[int]]]:
        """Groups, and rows of the flattened result that are theirs."""
        starts, at = [], 0
        for size in self.draw.sizes:
            starts.append(at)
            padded = ceil_div(size, CONTIGUOUS_ALIGNMENT) * CONTIGUOUS_ALIGNMENT
            step = padded if self.draw.layout.has_padding else size
            at += self.draw.rows if self.draw.matrices else step
        filled = [group for group, size in enumerate(self.draw.sizes) if size]
        groups = _evenly(filled, _SAMPLED_GROUPS)
        most = _SAMPLED_ROWS // len(groups)
        return [
            (group, [starts[group] + row for row in _evenly(range(self.draw.sizes[group]), most)])
            for group in groups
        ]

    @cached_property
    def _truth(self) -> tuple[Tensor, Tensor]:
        """The FP64 product, and the size of the terms behind it."""
        (a, sa), (b, sb) = self.case.lhs, self.case.rhs
        n, k = self.draw.n, self.draw.k
        a, b, sb = a.view(-1, k), b.view(-1, n, k), sb.view(-1, *sb.shape[-2:])
        blocks = slice(self.columns.start // _SCALED, ceil_div(self.columns.stop, _SCALED))
        parts = []
        for group, rows in self.rows:
            index = torch.tensor(rows, device=a.device)
            matrix = (index // self.draw.rows, index % self.draw.rows) if self.draw.matrices else (index,)
            operands = take_rows(a, (index,)), sa[matrix], b[group, self.columns], sb[group, blocks]
            parts.append((dequantized_product(*operands), product_scale(*operands)))
        return torch.cat([product for product, _ in parts]), torch.cat([scale for _, scale in parts])

    def of(self, out: Tensor) -> Tensor:
        """The sampled part of a result."""
        rows = torch.tensor([row for _, rows in self.rows for row in rows], device=out.device)
        return out.view(-1, self.draw.n)[rows, self.columns]

    def judge(self, out: Tensor) -> float:
        """The error of the worst tile of the sample of a result of ours that was NaN before.

        Raises:
            AssertionError: it is wrong; or elsewhere a row is not written, or one of no group is.
        """
        product, scale = self._truth
        testing.assert_close_per_tile(self.of(out), product, scale)
        is_nan = out.view(-1, self.draw.n).isnan()
        is_empty = self._is_empty(out)
        if (is_nan.any(1) & ~is_empty).any():
            raise AssertionError("an element was not written, or is NaN")
        if not is_nan[is_empty].all():
            raise AssertionError("a row of no group was written")
        return self.error(out)

    def error(self, out: Tensor) -> float:
        """The error of the worst tile of the sample."""
        return testing.worst_tile_error(self.of(out), self._truth[0])

    def _is_empty(self, out: Tensor) -> Tensor:
        if isinstance(self.case, GroupedCase):
            return self.case.inputs.row_groups.flatten() < 0
        return torch.zeros(self.draw.rows, dtype=torch.bool, device=out.device)


def _evenly(among: Sequence[int], most: int) -> list[int]:
    """At most so many of a sequence, the first and the last among them."""
    if len(among) <= most:
        return list(among)
    return [among[i * (len(among) - 1) // (most - 1)] for i in range(most)]
