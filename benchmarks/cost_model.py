"""How good the cost model's choices are, against timings of all candidates. No GPU needed.

    python benchmarks/cost_model.py

Prints for each run and shape the configuration that is chosen, the time it took, the fastest candidate's, and
the regret: the ratio of both. Where the choice was not measured, the best ranked one that was stands in.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from cute_gemm.measure.records import DENSE, read_rows, shape_of
from cute_gemm.measure.shapes import Shape, shape_text
from cute_gemm.measure.work import problem_of
from cute_gemm.plan import cost_model
from cute_gemm.plan.config import KernelConfig

CANDIDATES = Path(__file__).parent / "candidates"

Tile = tuple[int, ...]
"""BLOCK_M, BLOCK_N and the cluster's three extents: what tells candidates apart."""


@dataclass(frozen=True)
class Pick:
    """What the cost model chose for one shape, and what it took in one run."""

    run: str
    shape: Shape
    config: KernelConfig
    is_stand_in: bool
    us: float
    best_us: float

    @property
    def regret(self) -> float:
        return self.us / self.best_us


def tile_of(config: KernelConfig) -> Tile:
    return config.block_m, config.block_n, config.cluster_m, config.cluster_n, config.splits


def timings() -> dict[tuple[str, str, Shape], dict[Tile, float]]:
    """Microseconds of each candidate, by run, operation and shape: times of two runs do not compare."""
    times: dict[tuple[str, str, Shape], dict[Tile, float]] = defaultdict(dict)
    for path in sorted(CANDIDATES.glob("*.jsonl")):
        for row in read_rows(path):
            extents = row["block_m"], row["block_n"], row["cluster_m"], row["cluster_n"], row.get("splits", 1)
            times[path.stem, row.get("op", DENSE), shape_of(row)][extents] = row["us"]
    return times


def picks() -> list[Pick]:
    """The cost model's choice for every shape of every run."""
    found = []
    for (run, op, shape), times in timings().items():
        ranked = cost_model.rank(problem_of(op, shape))
        config = next(choice.config for choice in ranked if tile_of(choice.config) in times)
        is_stand_in = config != ranked[0].config
        found.append(Pick(run, shape, config, is_stand_in, times[tile_of(config)], min(times.values())))
    return found


def main() -> None:
    chosen = picks()
    for run in sorted({pick.run for pick in chosen}):
        regrets = []
        for pick in chosen:
            if pick.run == run:
                shape = shape_text(pick.shape)
                times = f"{pick.us:7.1f} us, best {pick.best_us:7.1f}, regret {pick.regret:.3f}"
                stand_in = "  (stand-in)" if pick.is_stand_in else ""
                print(f"{shape:>18}  {pick.config.name:33} {times}{stand_in}")
                regrets.append(pick.regret)
        mean = statistics.mean(regrets)
        print(f"{run}, {len(regrets)} shapes: mean regret {mean:.3f}, largest {max(regrets):.3f}\n")


if __name__ == "__main__":
    main()
