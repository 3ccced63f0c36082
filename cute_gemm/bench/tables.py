"""Markdown tables of measured rows: ours, the limit, peers beside us, and published figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..measure.records import (
    BLOCKS,
    BOTH_WAYS,
    CHAIN,
    COLD,
    CONTIGUOUS,
    DENSE,
    DENSE_ADDED,
    DENSE_BF16,
    DENSE_FP32,
    EXPERT_LAYER,
    GATHERED,
    INTERLEAVED,
    K_GROUPED_ADDED,
    K_GROUPED_BF16,
    K_GROUPED_FP32,
    KEYS,
    LAYERS,
    M_MAJOR,
    MASKED,
    NORMED,
    OFFSETS,
    OURS,
    QUANTIZERS,
    ROW_MAJOR,
    ROWS,
    STAGES,
    SUMMED,
    SUSTAINED,
    SWIGLU,
    Row,
    main_layout,
)
from ..measure.shapes import Shape
from ..measure.statistics import geometric_mean
from ..measure.work import Work
from ..plan.data_sheets import data_sheet
from .published import peer_times
from .results import ours_with, peers_beside, right_times

REGIMES = {
    COLD: "cold L2, one call at a time",
    CHAIN: "chain of layers in a CUDA graph, each with weights of its own",
    SUSTAINED: "sustained, at the power limit",
}
QUANTIZER_REGIMES = REGIMES | {CHAIN: "chain of calls in a CUDA graph, operands in L2"}
OPS = {
    DENSE: "Dense",
    CONTIGUOUS: "Grouped, contiguous",
    OFFSETS: "Grouped, offsets",
    MASKED: "Grouped, masked",
    DENSE_ADDED: "Gradient of weights, added to FP32",
    DENSE_FP32: "Gradient of weights, FP32",
    DENSE_BF16: "Gradient of weights, bf16",
    K_GROUPED_ADDED: "Gradients of experts' weights, added to FP32",
    K_GROUPED_FP32: "Gradients of experts' weights, FP32",
    K_GROUPED_BF16: "Gradients of experts' weights, bf16",
}
QUANTIZER_TITLES = {
    ROWS: "Quantising 1x128",
    GATHERED: "Quantising 1x128, rows through an index",
    SWIGLU: "Quantising 1x128, SwiGLU of halves",
    INTERLEAVED: "Quantising 1x128, SwiGLU of interleaved columns",
    NORMED: "Quantising 1x128, RMSNorm",
    SUMMED: "Quantising 1x128, RMSNorm of a sum with the residual",
    BOTH_WAYS: "Quantising 1x128 both ways",
    BLOCKS: "Quantising 128x128",
}
LAYER_TITLES = {EXPERT_LAYER: "Expert layer"}
TITLES = OPS | LAYER_TITLES | {OFFSETS: "Grouped, offsets (peers: the same rows, padded)"}
"""The same where peers stand beside ours."""

_LEGEND = """\
Times are in microseconds, means over rounds in which all took turns; the spread is the longest round less
the shortest, as a share of the median. The limit is the larger of the times that FLOP and bytes take at the
peaks of the card's data sheet. Behind a peer's time stands how many times as fast ours is. "Reference" is
what the peer took on one H200 in another run. A result marked **wrong** was beyond the limit on errors. Ours
are with M-major scales of A, as DeepGEMM takes them, unless a column says that they are row-major; those that
make gradients of weights with M-major scales of both operands.

Quantisers move bytes: beside them stands the share of the speed of a copy of as many; with few rows what
they take over a kernel that does nothing, and their host time beside that of a small `torch.mm` to a given
result. Their scales are row-major, unless a column says that they are M-major.

Of an expert layer the bytes are those that must move: weights of experts that a token has chosen, tokens and
result, each once. A stage is timed by itself, cold with what it reads in DRAM: together they take longer than
the layer, whose kernels find in L2 what the one before has left."""


_LAYOUT_NAMES = {ROW_MAJOR: "row-major", M_MAJOR: "M-major"}
_BESIDE = {
    "copy_share": "of a copy",
    "over_empty_us": "us over an empty kernel",
    "host_us": "host us",
    "host_mm_us": "host us of `torch.mm`",
    "bytes_us": "us of its bytes",
}
"""What a row of a quantiser or of a layer may have, and what heads its column."""

# A bar that ends no cell.
_BAR = "\\|"


def render(rows: Sequence[Row]) -> str:
    """A Markdown document with a table for each operation and regime in ``rows``.

    Raises:
        CommandError: two rows measured the same thing.
    """
    sections = [
        part
        for op in (*OPS, *QUANTIZERS, *LAYERS)
        for regime in REGIMES
        for part in (_section(rows, op, regime), _stages(rows, op, regime))
    ]
    return "\n\n".join(["# Benchmark", _LEGEND, *filter(None, sections)]) + "\n"


def dimension_names(op: str) -> list[str]:
    """What heads the columns of a shape."""
    names = {"expected_m": "rows of each", "expected_k": "columns of each", "all_experts": "of", "inner": "I"}
    return [names.get(key, key.upper() if len(key) == 1 else key) for key in KEYS[op]]


def titles_of(op: str, regime: str) -> tuple[str, str]:
    """An operation, beside peers, and a regime in words."""
    if op in QUANTIZERS:
        return QUANTIZER_TITLES[op], QUANTIZER_REGIMES[regime]
    return TITLES[op], REGIMES[regime]


def _section(rows: Sequence[Row], op: str, regime: str) -> str:
    ours = ours_with(rows, op, regime)
    other_layout = {ROW_MAJOR: M_MAJOR, M_MAJOR: ROW_MAJOR}[main_layout(op)]
    others = ours_with(rows, op, regime, other_layout)
    if not ours:
        return ""
    measured = peers_beside(rows, op, regime)
    reference = {peer: times for peer, times in peer_times(regime, op).items() if times.keys() & ours.keys()}
    reads_from_l2 = op in QUANTIZERS and regime == CHAIN
    has_limit = not reads_from_l2 and any(data_sheet(row["device"]) for row in ours.values())
    beside = [key for key in _BESIDE if any(key in row for row in ours.values())]
    header = [
        *dimension_names(op),
        "kernel",
        "us",
        "spread",
        *([f"{_LAYOUT_NAMES[other_layout]} us"] if others else []),
        "GB/s" if op in QUANTIZERS else "TFLOP/s",
        *(["limit us", "of it"] if has_limit else []),
        *(_BESIDE[key] for key in beside),
        *measured,
        *(f"{peer}, reference" for peer in reference),
    ]
    lines = [
        f"## {': '.join(titles_of(op, regime))}",
        "",
        _origins(ours.values()),
        "",
        _line(header),
        "|" + "".join("---|" if name == "kernel" else "--:|" for name in header),
    ]
    for shape, row in ours.items():
        cells = [*map(str, shape), f"`{row['config']}`", f"{row['us']:.2f}", _share(row["spread"])]
        if others:
            cells.append(f"{others[shape]['us']:.2f}" if shape in others else "")
        cells.append(f"{row['gb_per_s' if op in QUANTIZERS else 'tflops']:.0f}")
        if has_limit:
            cells += _limit(row)
        cells += [f"{row[key]:.2f}" if key in row else "" for key in beside]
        cells += [_measured(row, found.get(shape)) for found in measured.values()]
        cells += [_time(row, times.get(shape)) for times in reference.values()]
        lines.append(_line(cells))
    return "\n".join([*lines, *_means(ours, measured, reference)])


def _stages(rows: Sequence[Row], op: str, regime: str) -> str:
    """A table of the time of each stage, of ours and of peers; empty if none was timed."""
    everyone = {OURS: ours_with(rows, op, regime), **peers_beside(rows, op, regime)}
    found = {
        peer: of_peer for peer, of_peer in everyone.items() if any("stages" in r for r in of_peer.values())
    }
    if not found:
        return ""
    header = [*dimension_names(op), "whose", "us", *STAGES]
    lines = [
        f"### {titles_of(op, regime)[0]}, stage by stage: {titles_of(op, regime)[1]}",
        "",
        _line(header),
        "|" + "".join("---|" if name == "whose" else "--:|" for name in header),
    ]
    for shape in dict.fromkeys(shape for of_peer in found.values() for shape in of_peer):
        for peer, row in ((peer, of_peer[shape]) for peer, of_peer in found.items() if shape in of_peer):
            times = row.get("stages", {})
            each = [f"{times[name]:.2f}" if name in times else "" for name in STAGES]
            lines.append(_line([*map(str, shape), peer, f"{row['us']:.2f}", *each]))
    return "\n".join(lines)


def _limit(row: Row) -> list[str]:
    sheet = data_sheet(row["device"])
    if sheet is None:
        return ["", ""]
    limit = sheet.limit_us(Work.of_row(row))
    return [f"{limit:.2f}", f"{limit / row['us']:.0%}"]


def _measured(ours: Row, peer: Row | None) -> str:
    if peer is None:
        return ""
    return f"{'**wrong** ' if 'wrong' in peer else ''}{_time(ours, peer['us'])}"


def _time(ours: Row, us: float | None) -> str:
    return "" if us is None else f"{us:.2f} ({us / ours['us']:.2f}x)"


def _means(
    ours: Mapping[Shape, Row],
    measured: Mapping[str, Mapping[Shape, Row]],
    reference: Mapping[str, Mapping[Shape, float]],
) -> Iterable[str]:
    """How many times as fast as each peer we are, over the shapes at which both were timed."""
    times = {peer: right_times(found) for peer, found in measured.items()}
    times |= {f"{peer}, reference": dict(found) for peer, found in reference.items()}
    ratios = {
        peer: [us / ours[shape]["us"] for shape, us in found.items() if shape in ours]
        for peer, found in times.items()
    }
    means = {peer: found for peer, found in ratios.items() if found}
    if means:
        yield ""
        yield _line(["speed relative to", "shapes", "geometric mean", "least", "greatest"])
        yield "|---|--:|--:|--:|--:|"
    for peer, found in means.items():
        numbers = (geometric_mean(found), min(found), max(found))
        yield _line([peer, str(len(found)), *(f"{number:.3f}" for number in numbers)])


def _origins(rows: Iterable[Row]) -> str:
    """Device, date, timer and versions: one line unless runs were mixed."""
    found: dict[str, None] = {}
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        timer = f", timed by {row['timer']}" if "timer" in row else ""
        found[f"{row['device']}, {row['date']}{timer} ({versions})"] = None
    return "; ".join(found)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"
