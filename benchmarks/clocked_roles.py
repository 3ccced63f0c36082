"""What each role of a CTA does when, by the clock of its SM: the records of docs/pictures/over_time.svg.

    python benchmarks/clocked_roles.py --out benchmarks/experiments/roles_over_time.jsonl

On a Hopper GPU it runs the kernel of clocked_kernel.py, holds its result to that of the kernel without
marks, times both with a cold L2, and writes what the first CTA did in one more launch, a line for each role
and tile:

    role, tile      whose it is; tiles count from the CTA's first
    events          [kind, k-block or null, begin, end], in cycles of the SM since the first mark
    us, unmarked_us medians of the kernel with marks, and of the one without, in turns

On any other machine both kernels are compiled, and what they were compiled to is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from clocked_kernel import (
    ASKED,
    BEGUN,
    FOUND,
    GOT,
    LEFT,
    MULTIPLIED,
    ROLES,
    SHAPE,
    TMA,
    clocked,
)
from torch import Tensor

from cute_gemm import settings
from cute_gemm.measure import cold, origin
from cute_gemm.measure.records import Row, write_rows
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import Program, examine, launch, lookup
from cute_gemm.runtime.hardware import is_hopper
from cute_gemm.testing.rungs import operands, tell

CONFIG = "256x128_c2x1_s4_r8_dyn_l2p256_bf16"
PRODUCT = 4096, 4096, 7168
"""M, N and K, which has whole groups of four k-blocks: no stage is skipped."""

WAIT, ISSUE, MULTIPLY, PROMOTE, TAKE, STORE = "wait", "issue", "multiply", "promote", "take", "store"
"""Of a k-block: waiting for its stage; TMA's copies; WGMMAs, from issue to end; promotion. Of a tile: waiting
for the next one; value and store."""

Event = list[Any]
"""Kind, k-block or None, begin, end."""


def events_of(marks: Tensor, role: int, tile: int, config: KernelConfig, k_blocks: int) -> list[Event]:
    """What a role did for a tile, in order, but for a store whose end is not marked: that of the last tile.

    Args:
        marks: what :func:`cycles` returns.
        role: which of :data:`ROLES`.
        tile: the CTA's.
        config: the kernel's.
        k_blocks: of a tile, which skips no stage.
    """
    stages, tiles = marks[0, role].tolist(), marks[1, role].tolist()
    first = tile * k_blocks
    found: list[Event] = []
    for k, stage in enumerate(stages[first : first + k_blocks]):
        found.append([WAIT, k, stage[ASKED], stage[GOT]])
        if role == TMA:
            end = tiles[tile][LEFT] if k == k_blocks - 1 else stages[first + k + 1][ASKED]
            found.append([ISSUE, k, stage[GOT], end])
        else:
            ends = stage[MULTIPLIED : MULTIPLIED + 2 * config.fragments]
            for number, (begin, end) in enumerate(pairwise([stage[GOT], *ends])):
                found.append([PROMOTE if number % 2 else MULTIPLY, k, begin, end])
    found.append([TAKE, None, tiles[tile][LEFT], tiles[tile][FOUND]])
    if role != TMA and tiles[tile + 1][BEGUN] > tiles[tile][FOUND]:
        found.append([STORE, None, tiles[tile][FOUND], tiles[tile + 1][BEGUN]])
    return found


def cycles(marks: Tensor) -> Tensor:
    """Cycles since the first mark, in int64, of 32 bits of the clock, which may begin anew; 0 is no mark."""
    start = marks[0, TMA, 0, ASKED]
    since = (marks - start).long()  # wraps as the clock does
    first = since[marks != 0].min()
    return torch.where(marks != 0, since - first, 0)


def rows_of(marks: Tensor, config: KernelConfig, k_blocks: int, count: int) -> list[Row]:
    """Of each role and of the CTA's first ``count`` tiles, or as many as it had: role, tile and events."""
    had = int((marks[1, TMA, :, LEFT] != 0).sum())
    since = cycles(marks)
    return [
        {"role": name, "tile": tile, "events": events_of(since, role, tile, config, k_blocks)}
        for tile in range(min(count, had))
        for role, name in enumerate(ROLES)
    ]


def record(program: Program, count: int) -> list[Row]:
    """Runs, checks and times the kernel on the current device; the rows of its first CTA's tiles.

    Raises:
        AssertionError: the result is not that of the kernel without marks.
    """
    device = torch.device("cuda")
    lhs, rhs = operands(PRODUCT, True, device)
    marks = torch.zeros(SHAPE, dtype=torch.int32, device=device)
    out = torch.empty(PRODUCT[:2], dtype=torch.bfloat16, device=device)
    plain_out = torch.empty_like(out)

    def marked() -> None:
        launch(program, lhs, rhs, out=out, tensors=(marks,))

    def plain() -> None:
        launch(program.config, lhs, rhs, out=plain_out)

    # By dependent launch a kernel would start while L2 is flushed, and its wait would count.
    with settings.config(pdl=False):
        us, unmarked_us = (times.median_us for times in cold.time_cold_together([marked, plain]))
        assert torch.equal(out, plain_out), "the kernel with marks computes something else"
        marks.zero_()
        cold.flush_buffer().fill_(0)
        marked()
        torch.cuda.synchronize()
    of_all = {
        "shape": list(PRODUCT),
        "config": program.config.name,
        "clock": "cycles of the SM",
        "us": round(us, 2),
        "unmarked_us": round(unmarked_us, 2),
    } | origin.describe_origin()
    k_blocks = PRODUCT[2] // program.config.block_k
    return [of_all | row for row in rows_of(marks.cpu(), program.config, k_blocks, count)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the file to write, as JSON lines")
    parser.add_argument("--tiles", type=int, default=2, help="tiles of the CTA that are written")
    options = parser.parse_args(arguments)
    config = lookup.find_config(CONFIG)
    program = clocked(config)
    for title, of in ("without marks", config), ("with marks", program):
        tell(f"{config.name} {title}", examine(of), lookup.shared_bytes(of))
    if not is_hopper():
        print("There is no Hopper GPU here: it was compiled, and not run.")
        return
    rows = record(program, options.tiles)
    print(f"{rows[0]['us']} us with marks, {rows[0]['unmarked_us']} without")
    for row in rows:
        spent: dict[str, int] = {}
        for kind, _, begin, end in row["events"]:
            spent[kind] = spent.get(kind, 0) + end - begin
        told = ", ".join(f"{kind} {sum_of}" for kind, sum_of in spent.items())
        print(f"tile {row['tile']}, {row['role']}, cycles: {told}")
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    main()
