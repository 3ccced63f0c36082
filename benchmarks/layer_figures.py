"""What docs/results.md says of expert layers: times, what their bytes take, speed relative to peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cute_gemm.bench.results import ours_with, peers_beside, right_times
from cute_gemm.bench.tables import dimension_names, titles_of
from cute_gemm.measure.records import CHAIN, COLD, EXPERT_LAYER, Row
from cute_gemm.measure.statistics import geometric_mean


def sections(rows: Sequence[Row], origin: Callable[[Sequence[Row]], str]) -> Iterator[str]:
    """Markdown for the expert layers among the rows of one card.

    Args:
        rows: of any operations and regimes.
        origin: device, date and versions in words.
    """
    for regime in (COLD, CHAIN):
        if ours := ours_with(rows, EXPERT_LAYER, regime):
            title = ": ".join(titles_of(EXPERT_LAYER, regime))
            yield f"**{title}** ({origin([*ours.values()])}):"
            yield _table(rows, regime)


def _table(rows: Sequence[Row], regime: str) -> str:
    ours = ours_with(rows, EXPERT_LAYER, regime)
    times = {
        peer: {shape: us for shape, us in right_times(found).items() if shape in ours}
        for peer, found in peers_beside(rows, EXPERT_LAYER, regime).items()
    }
    times = {peer: found for peer, found in times.items() if found}
    names = dimension_names(EXPERT_LAYER)
    columns = [*names, "us", "us of its bytes", *(f"speed / {peer}" for peer in times)]
    lines = [f"| {' | '.join(columns)} |", "|" + "--:|" * len(columns)]
    for shape, row in ours.items():
        cells = [*map(str, shape), f"{row['us']:.1f}", f"{row['bytes_us']:.1f}" if "bytes_us" in row else ""]
        cells += [f"{found[shape] / row['us']:.2f}" if shape in found else "" for found in times.values()]
        lines.append(f"| {' | '.join(cells)} |")
    if times:
        ratios = [[us / ours[shape]["us"] for shape, us in found.items()] for found in times.values()]
        means = [f"{geometric_mean(each):.3f}" for each in ratios]
        lines.append(f"| {' | '.join(['geometric mean', *[''] * (len(names) + 1), *means])} |")
    return "\n".join(lines)
