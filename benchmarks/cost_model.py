"""How good the cost model's choices are, against timings of all candidates. No GPU needed.

    python benchmarks/cost_model.py

Prints for each shape the configuration that is chosen, the time it took, the fastest candidate's, and the
regret: the ratio of both. Where the choice was not measured, the best ranked one that was stands in.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

import records
from records import Shape

from cute_gemm import heuristics
from cute_gemm.problem import GemmProblem, KernelConfig

Tile = tuple[int, int, int, int]
"""BLOCK_M, BLOCK_N and the cluster's two extents: what tells candidates apart."""


@dataclass(frozen=True)
class Pick:
    """What the cost model chose for one shape, and what it took."""

    shape: Shape
    config: KernelConfig
    is_stand_in: bool
    us: float
    best_us: float

    @property
    def regret(self) -> float:
        return self.us / self.best_us


def tile_of(config: KernelConfig) -> Tile:
    return config.block_m, config.block_n, config.cluster_m, config.cluster_n


def timings() -> dict[Shape, dict[Tile, float]]:
    """Microseconds of each candidate at each shape."""
    times: dict[Shape, dict[Tile, float]] = defaultdict(dict)
    for row in records.read_rows(records.BENCHMARKS / "candidates" / "h200.jsonl"):
        tile = row["block_m"], row["block_n"], row["cluster_m"], row["cluster_n"]
        times[records.shape_of(row)][tile] = row["us"]
    return times


def picks() -> list[Pick]:
    """The cost model's choice for every shape that was measured."""
    found = []
    for shape, times in timings().items():
        ranked = heuristics.rank(GemmProblem(*shape))
        config = next(choice.config for choice in ranked if tile_of(choice.config) in times)
        is_stand_in = config != ranked[0].config
        found.append(Pick(shape, config, is_stand_in, times[tile_of(config)], min(times.values())))
    return found


def main() -> None:
    chosen = picks()
    for pick in chosen:
        shape = "x".join(map(str, pick.shape))
        times = f"{pick.us:7.1f} us, best {pick.best_us:7.1f}, regret {pick.regret:.3f}"
        print(f"{shape:>18}  {pick.config.name:24} {times}{'  (stand-in)' if pick.is_stand_in else ''}")
    regrets = [pick.regret for pick in chosen]
    print(f"{len(chosen)} shapes: mean regret {statistics.mean(regrets):.3f}, largest {max(regrets):.3f}")


if __name__ == "__main__":
    main()
