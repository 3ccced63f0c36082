"""Rows of several groups in any layout, with results that are known to the bit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from tensors import DTYPES, FLAGS, bits, scales_for, semaphore
from torch import Tensor

import cute_gemm
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, LAYOUTS, MASKED, OFFSETS, Layout
from cute_gemm.plan.limits import CONTIGUOUS_ALIGNMENT, ceil_div
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import builder
from cute_gemm.testing import GroupedInputs, poisoned_rows

GROUPED = [layout for layout in LAYOUTS.values() if layout.is_grouped]
every_layout = pytest.mark.parametrize("layout", GROUPED, ids=lambda layout: layout.name)
E4M3_NAN = 0x7F
PATIENCE_S = 30


@dataclass(frozen=True)
class Problem:
    """Rows of groups one behind the other, the groups' matrices, and what comes out.

    All are small integers and powers of two, whose products a tensor core sums without any error.
    """

    sizes: tuple[int, ...]
    a: Tensor  # e4m3 [rows, K]
    sa: Tensor  # fp32 [rows, ceil(K/128)]
    b: Tensor  # e4m3 [G, N, K]
    sb: Tensor  # fp32 [G, ceil(N/128), ceil(K/128)]
    truth: Tensor  # fp64 [rows, N]

    @staticmethod
    def make(sizes: Sequence[int], n: int, k: int, seed: int = 0) -> Problem:
        random = torch.Generator("cuda").manual_seed(seed)

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=random, device="cuda").float()

        rows, groups, blocks = sum(sizes), len(sizes), ceil_div(k, 128)
        a, b = (draw(-4, 5, *shape).to(torch.float8_e4m3fn) for shape in ((rows, k), (groups, n, k)))
        sa, sb = (
            torch.exp2(draw(-3, 4, *shape)) for shape in ((rows, blocks), (groups, ceil_div(n, 128), blocks))
        )
        return Problem((), a, sa, b, sb, a.new_empty(0)).resized(sizes)

    def resized(self, sizes: Sequence[int]) -> Problem:
        """The same rows and matrices, fallen into groups of other sizes."""
        truth = torch.empty(len(self.a), self.b.shape[1], dtype=torch.float64, device="cuda")
        start = 0
        for group, size in enumerate(sizes):
            if size:
                rows = slice(start, start + size)
                truth[rows] = dequantized_product(self.a[rows], self.sa[rows], self.b[group], self.sb[group])
            start += size
        assert start == len(self.a)
        return replace(self, sizes=tuple(sizes), truth=truth)

    def arranged(
        self,
        layout: Layout,
        *,
        rows: int | None = None,
        order: Sequence[int] | None = None,
        alignment: int = 1,
    ) -> GroupedInputs:
        """The operands as an operation takes them; rows of no group are NaN.

        Args:
            layout: of which operation.
            rows: how many A is to have, or for masked each matrix of A; None for few.
            order: in which groups follow each other (contiguous).
            alignment: what a group's first row is a multiple of (offsets).
        """
        groups, starts, end = len(self.sizes), [0] * len(self.sizes), 0
        step = CONTIGUOUS_ALIGNMENT if layout is CONTIGUOUS else alignment
        if layout is MASKED:
            capacity = max(self.sizes) + 3 if rows is None else rows
            starts, end = [group * capacity for group in range(groups)], groups * capacity
        else:
            for group in range(groups) if order is None else order:
                starts[group] = ceil_div(end, step) * step
                end = starts[group] + self.sizes[group]
            # Padding behind the last group, and behind that a block that is not full.
            end = (ceil_div(end, step) * step + 5) if rows is None else rows
        at = [torch.arange(start, start + size) for start, size in zip(starts, self.sizes, strict=True)]
        place = torch.cat(at).cuda()
        a = torch.full((end, self.a.shape[1]), E4M3_NAN, dtype=torch.uint8, device="cuda")
        sa = torch.full((end, self.sa.shape[1]), torch.nan, device="cuda")
        row_groups = torch.full((end,), -1, dtype=torch.int32, device="cuda")
        a[place], sa[place] = bits(self.a), self.sa
        sizes = torch.tensor(self.sizes, device="cuda")
        row_groups[place] = torch.arange(groups, device="cuda").repeat_interleave(sizes).int()
        if layout is CONTIGUOUS:
            index = row_groups.clone()
        elif layout is OFFSETS:
            index = torch.tensor(starts, device="cuda").add(sizes).int()
        else:
            index = sizes.int()
            a, sa, row_groups = (x.unflatten(0, (groups, capacity)) for x in (a, sa, row_groups))
        return GroupedInputs((a.view(self.a.dtype), sa), (self.b, self.sb), index, row_groups)

    def assert_equals(self, out: Tensor, inputs: GroupedInputs) -> None:
        """`out` is the truth to the bit, wherever the rows of the groups are."""
        order = inputs.row_groups.flatten().argsort(stable=True)
        order = order[len(order) - len(self.truth) :]
        truth, rows = self.truth.to(out.dtype), out.flatten(0, -2)[order]
        wrong = (rows != truth).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            group = int(inputs.row_groups.flatten()[order[row]])
            raise AssertionError(
                f"{len(wrong)} of {truth.numel()} elements wrong; the first in group {group},"
                f" row {row - sum(self.sizes[:group])} of its {self.sizes[group]}, column {column}:"
                f" {rows[row, column].item()}, want {truth[row, column].item()}"
            )


def call(
    layout: Layout,
    inputs: GroupedInputs,
    out: Tensor | None = None,
    *,
    alignment: int = 1,
    expected_rows: int = 100,
    **options: object,
) -> Tensor:
    """The public operation."""
    lhs, rhs, index = inputs.lhs, inputs.rhs, inputs.index
    if layout is CONTIGUOUS:
        return cute_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, index, out, **options)
    if layout is OFFSETS:
        options["alignment"] = alignment
        return cute_gemm.m_grouped_fp8_gemm_nt_offsets(lhs, rhs, index, out, **options)
    return cute_gemm.m_grouped_fp8_gemm_nt_masked(lhs, rhs, index, expected_rows, out, **options)


def inputs_for(config: KernelConfig, inputs: GroupedInputs) -> GroupedInputs:
    """The same, with scales of A as the kernel takes them."""
    a, sa = inputs.lhs
    return replace(inputs, lhs=(a, scales_for(config, sa)))


def launch(
    config: KernelConfig, inputs: GroupedInputs, out: Tensor, num_sms: int = 132, flags: int = FLAGS
) -> None:
    """One kernel, whether it would be chosen or not, with :func:`inputs_for` it."""
    alignment = (1,) if config.layout is OFFSETS else ()
    options = num_sms, flags, semaphore().data_ptr(), 0
    builder.instance(config)(*inputs.lhs, *inputs.rhs, out, *options, inputs.index, *alignment)
    assert not semaphore().any()


def run(
    layout: Layout,
    inputs: GroupedInputs,
    dtype: torch.dtype = torch.bfloat16,
    config: KernelConfig | None = None,
    num_sms: int = 132,
    **options: int,
) -> Tensor:
    """The result in a poisoned buffer: all rows of groups were written, and nothing else."""
    n = inputs.rhs[0].shape[1]
    out, check = poisoned_rows(inputs.row_groups >= 0, n, dtype)
    if config is None:
        assert call(layout, inputs, out, **options) is out
    else:
        launch(config, inputs_for(config, inputs), out, num_sms)
    wait()
    check()
    return out


def run_config(config: KernelConfig, inputs: GroupedInputs, num_sms: int = 132) -> Tensor:
    return run(config.layout, inputs, DTYPES[config.out_dtype], config, num_sms)


def wait() -> None:
    """Waits for the device, but not for ever: whatever else asked it something after a deadlock would."""
    done = torch.cuda.Event()
    done.record()
    deadline = time.monotonic() + PATIENCE_S
    while not done.query():
        if time.monotonic() > deadline:
            pytest.exit(f"a kernel did not end within {PATIENCE_S} s", returncode=1)
