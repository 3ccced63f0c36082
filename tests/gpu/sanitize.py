"""A few small products, some of each kind of kernel, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 python3 tests/gpu/sanitize.py
    compute-sanitizer --tool racecheck --report-api-errors no --error-exitcode 9 python3 tests/gpu/sanitize.py

Run it once without a tool before: kernels compiled then are found on disk. Tensors have allocations of their
own, to the byte, so that memcheck sees an access past their end; inputs are made and results are judged on
the CPU, so that hardly anything but the kernels runs on the GPU. The names of cases pick some of them.
"""

import os
import sys
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from parts import SWIGLU_LIMIT, RowFactor, SwiGlu, program, swiglu
from tensors import DTYPES, FLAGS, scales_for, semaphore

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, MASKED, OFFSETS, Layout
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import builder
from cute_gemm.testing import (
    GroupedInputs,
    assert_correct,
    assert_grouped_correct,
    make_contiguous_inputs,
    make_inputs,
    make_masked_inputs,
    make_offsets_inputs,
    tile_errors,
)

# One cluster, or two CTAs without one. A race between tiles needs a CTA that comes by several, one within the
# ring needs stages that are filled again: tests/unit/test_sanitize.py holds every case to both.
NUM_SMS = 2


class Case(NamedTuple):
    config: KernelConfig
    sizes: tuple[int, ...]  # rows of each group; dense: of the one there is
    n: int
    k: int
    index: tuple[int, ...] = ()  # to be had over and over in place of the right one
    value: Any = None  # a factor of each row, which is 2, or halves the columns of D


def pick(out_dtype: str = "bfloat16", layout: Layout = DENSE, **wanted: object) -> KernelConfig:
    """Of the configurations with these properties the one with the largest tile, and the smallest cluster."""
    wanted = {"out_dtype": out_dtype, "layout": layout, "tma_scales": False} | wanted
    found = [
        config
        for config in candidates.every_config()
        if all(getattr(config, name) == value for name, value in wanted.items())
    ]
    return max(found, key=lambda config: (config.block_m * config.block_n, -config.cluster_size))


DENSE_CASES = {
    # 64 rows: two accumulators, and a warp that asks for scales ahead.
    "64": Case(pick(block_m=64, cluster_size=1), (70,), 200, 1040),
    "64, two scales of B, multicast of A": Case(
        pick(block_m=64, straddles=True, cluster_n=2), (1,), 264, 1296
    ),
    "64, cluster of four": Case(pick(block_m=64, cluster_n=4), (70,), 328, 912),
    "64, fp32, multicast of A": Case(pick("float32", block_m=64, cluster_n=2), (1,), 264, 1040),
    # 128 and 256 rows: two warpgroups.
    "128": Case(pick(block_m=128, straddles=False, cluster_size=1), (130,), 264, 528),
    "128, two scales of B, multicast of B": Case(
        pick(block_m=128, straddles=True, cluster_m=2), (300,), 184, 784
    ),
    "256, multicast of A": Case(pick(block_m=256, cluster_n=2), (300,), 136, 528),
    # Scales of A come with the stages.
    "128, two scales of B, multicast of B, scales by TMA": Case(
        pick(block_m=128, straddles=True, cluster_m=2, tma_scales=True), (300,), 184, 784
    ),
    "128, shared k, scales by TMA": Case(pick(block_m=128, splits=3, tma_scales=True), (100,), 56, 5648),
    "256, fp32, scales by TMA": Case(
        pick("float32", block_m=256, cluster_size=1, tma_scales=True), (300,), 136, 528
    ),
    # More chunks than store buffers, which are used again within a tile and by the next.
    "128, fp32": Case(pick("float32", block_m=128, straddles=True, cluster_size=1), (130,), 200, 528),
    "256, fp32, multicast of B": Case(pick("float32", block_m=256, cluster_m=2), (600,), 72, 528),
    # 8 rows, multiplied with what the next stages hold. Partial sums that CTAs send each other.
    "8": Case(pick(block_m=8, splits=1), (7,), 264, 1168),
    "8, fp32, shared k": Case(pick("float32", block_m=8, splits=2), (5,), 40, 4240),
    "64, shared k": Case(pick(block_m=64, splits=2), (50,), 56, 4240),
    "128, fp32, shared k": Case(pick("float32", block_m=128, block_n=64, splits=2), (100,), 56, 4240),
}
# Groups that are empty, groups that end within a tile, so that rows are stored one by one, and groups that do
# not, between which store buffers are used again.
GROUPED_CASES = {
    "contiguous, 64, multicast of A": Case(
        pick(layout=CONTIGUOUS, block_m=64, cluster_n=2, partial_accumulators=1), (64, 0, 70), 136, 912
    ),
    "contiguous, 64, fp32, cluster of four": Case(
        pick("float32", CONTIGUOUS, block_m=64, cluster_n=4, partial_accumulators=2), (0, 64, 70), 72, 1168
    ),
    "contiguous, 128, fp32": Case(
        pick("float32", CONTIGUOUS, block_m=128, cluster_size=1), (128, 0, 130), 200, 400
    ),
    # Clusters of two groups, of one, and of one CTA with rows.
    "contiguous, 128, multicast of B": Case(
        pick(layout=CONTIGUOUS, block_m=128, cluster_m=2), (128, 0, 300, 7), 136, 528
    ),
    "contiguous, 128, multicast of B, scales by TMA": Case(
        pick(layout=CONTIGUOUS, block_m=128, cluster_m=2, tma_scales=True), (128, 0, 300, 7), 136, 528
    ),
    "offsets, 64, cluster of four": Case(
        pick(layout=OFFSETS, block_m=64, cluster_n=4, partial_accumulators=2), (0, 64, 0, 70), 72, 1168
    ),
    "offsets, 64, fp32": Case(
        pick("float32", OFFSETS, block_m=64, cluster_size=1, partial_accumulators=1),
        (1, 64, 0, 127),
        200,
        528,
    ),
    # The second CTA of a cluster may have nothing to store.
    "offsets, 128, fp32, multicast of B": Case(
        pick("float32", OFFSETS, block_m=128, cluster_m=2), (130, 0, 7, 256), 136, 400
    ),
    "offsets, 256, multicast of A": Case(
        pick(layout=OFFSETS, block_m=256, cluster_n=2), (256, 0, 7, 300), 136, 272
    ),
    "masked, 64, multicast of A": Case(
        pick(layout=MASKED, block_m=64, cluster_n=2, partial_accumulators=1), (64, 0, 70), 136, 912
    ),
    "masked, 64, cluster of four": Case(
        pick("float32", MASKED, block_m=64, cluster_n=4, partial_accumulators=2), (64, 0, 70), 72, 1168
    ),
    "masked, 128": Case(pick(layout=MASKED, block_m=128, cluster_size=1), (7, 0, 128, 130), 200, 528),
    "masked, 256, multicast of A, scales by TMA": Case(
        pick(layout=MASKED, block_m=256, cluster_n=2, tma_scales=True), (0, 200, 512), 136, 272
    ),
    "masked, 256, fp32, multicast of B": Case(
        pick("float32", MASKED, block_m=256, cluster_m=2), (0, 200, 512), 136, 272
    ),
    # Two accumulators, and a warp that asks for scales ahead, also of groups.
    "contiguous, 64, two accumulators": Case(
        pick(layout=CONTIGUOUS, block_m=64, cluster_size=1, partial_accumulators=2), (64, 0, 70), 200, 1040
    ),
    "offsets, 64, fp32, two accumulators, multicast of B": Case(
        pick("float32", OFFSETS, block_m=64, cluster_m=2, partial_accumulators=2), (64, 0, 70, 1), 136, 912
    ),
    "masked, 64, two accumulators": Case(
        pick(layout=MASKED, block_m=64, cluster_size=1, partial_accumulators=2), (64, 0, 70), 200, 1040
    ),
    # 16 rows, of which a group may have several tiles, each multiplied with what is behind it.
    "offsets, 16": Case(pick(layout=OFFSETS, block_m=16, partial_accumulators=1), (16, 0, 20, 1), 200, 1552),
    "masked, 16, fp32, two accumulators": Case(
        pick("float32", MASKED, block_m=16, partial_accumulators=2), (16, 0, 20), 136, 1040
    ),
}
# An index that breaks all rules: for memcheck, as what comes out is not judged.
BIG = 2**31 - 1
UNRULY = {
    "contiguous, unruly": Case(
        pick(layout=CONTIGUOUS, block_m=64, cluster_m=2), (64, 0, 70), 136, 144, (2, 0, -1, 1, 3, BIG, -BIG)
    ),
    "offsets, unruly": Case(
        pick(layout=OFFSETS, block_m=64, cluster_m=2), (64, 0, 70), 136, 144, (300, -BIG, BIG)
    ),
    "masked, unruly": Case(
        pick(layout=MASKED, block_m=64, cluster_m=2), (64, 0, 70), 136, 144, (BIG, 71, -1)
    ),
}
# Values, one of which reads a tensor before the main loop, in every store; fragments side by side.
SIDE_BY_SIDE = KernelConfig(128, 256, stages=3, n_fragments=2, epi_n=64)
VALUES = {
    "side by side": Case(SIDE_BY_SIDE, (300,), 656, 528),
    "side by side, cluster, scales by TMA": Case(
        replace(SIDE_BY_SIDE, cluster_m=2, raster_width=8, l2_promotion=256, tma_scales=True),
        (600,),
        656,
        528,
    ),
    "side by side, factors of rows": Case(SIDE_BY_SIDE, (300,), 656, 528, value=RowFactor(1)),
    "256, factors of rows": Case(
        pick(block_m=256, cluster_size=1), (300,), 264, 528, value=RowFactor(m_fragments=2)
    ),
    "offsets, factors of rows": Case(
        pick(layout=OFFSETS, block_m=128, cluster_size=1), (1, 128, 0, 130), 200, 528, value=RowFactor(1)
    ),
    "128, shared k, factors of rows": Case(
        pick(block_m=128, splits=3, tma_scales=True), (100,), 56, 5648, value=RowFactor(1)
    ),
    "128, half the columns": Case(
        replace(pick(block_m=128, straddles=False, cluster_size=1), epi_n=16),
        (130,),
        272,
        528,
        value=SwiGlu(),
    ),
}
CASES = DENSE_CASES | GROUPED_CASES | UNRULY | VALUES


ROWS_BEHIND = 40
"""Of no group, behind the last."""


def grouped_inputs(case: Case) -> GroupedInputs:
    config, sizes, n, k, index, _ = case
    if config.layout is CONTIGUOUS:
        inputs = make_contiguous_inputs(sizes, n, k)
    elif config.layout is OFFSETS:
        inputs = make_offsets_inputs(sizes, n, k, m=sum(sizes) + ROWS_BEHIND)
    else:
        inputs = make_masked_inputs(sizes, max(sizes), n, k)
    if index:
        inputs.index.copy_(torch.tensor(list(islice(cycle(index), len(inputs.index)))))
    return inputs


def run(case: Case) -> float:
    """The error of the worst tile; 0 where it is not judged.

    Raises:
        AssertionError: the result is wrong.
    """
    config, n, value = case.config, case.n, case.value
    grouping: list[torch.Tensor | int] = []
    flags = FLAGS
    if config.layout is DENSE:
        (m,) = case.sizes
        lhs, rhs = make_inputs(m, n, case.k)
    else:
        inputs = grouped_inputs(case)
        lhs, rhs = inputs.lhs, inputs.rhs
        flags |= int(LaunchFlags.FILL)
        grouping = [inputs.index, 1] if config.layout.gives_count_to_kernel else [inputs.index]
    columns = n if value is None else value.out_columns(n)
    out = torch.full((*lhs[0].shape[:-1], columns), torch.nan, dtype=DTYPES[config.out_dtype])
    factors = [torch.full((1, len(lhs[0])), 2.0)] if isinstance(value, RowFactor) else []
    launch = builder.instance(config if value is None else program(config, value))
    a, sa, b, sb, out, *behind = (
        x.cuda() if isinstance(x, torch.Tensor) else x
        for x in (lhs[0], scales_for(config, lhs[1]), *rhs, out, *grouping, *factors)
    )
    assert torch.cuda.memory_reserved() == 0, "tensors share allocations"
    launch(a, sa, b, sb, out, NUM_SMS, flags, semaphore().data_ptr(), 0, *behind)
    torch.cuda.synchronize()
    out = out.cpu()
    if case.index:
        return 0.0
    if isinstance(value, SwiGlu):
        error = float(tile_errors(out, swiglu(dequantized_product(*lhs, *rhs))).max())
        assert error < SWIGLU_LIMIT
        return error
    if factors:
        out /= 2
    if config.layout is DENSE:
        return assert_correct(out, *lhs, *rhs)
    assert not out[inputs.row_groups < 0].any()
    return assert_grouped_correct(out, lhs, rhs, inputs.row_groups)


def main() -> None:
    # Read by torch at the first allocation. Not set on import, which must not change whoever imports this.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    for title in sys.argv[1:] or CASES:
        case = CASES[title]
        product = f"{'+'.join(map(str, case.sizes))} x {case.n} x {case.k}"
        print(f"{title}: {case.config.name}, {product}: worst tile {run(case):.1e}", flush=True)


if __name__ == "__main__":
    main()
