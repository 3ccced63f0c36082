"""Pictures of measured rows, as PNG and SVG: roofline, speed relative to each peer, TFLOP/s over M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from ..measure.records import (
    BLOCKWISE,
    COMPILED,
    CONTIGUOUS,
    COPY,
    DEEPGEMM,
    DENSE,
    DENSE_ADDED,
    DENSE_BF16,
    DENSE_FP32,
    FAST,
    K_GROUPED_ADDED,
    K_GROUPED_BF16,
    K_GROUPED_FP32,
    LAYERS,
    MASKED,
    OFFSETS,
    OURS,
    QUANTIZERS,
    TORCH,
    TRITON,
    Row,
)
from ..measure.shapes import Shape
from ..measure.statistics import geometric_mean
from ..measure.work import Work
from ..plan.data_sheets import DataSheet, data_sheet
from . import part_plots
from .part_plots import PEERS_OF_LAYERS
from .plot_style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, STYLE, devices
from .published import peer_times
from .results import ours_with, peers_beside, right_times
from .tables import OPS, REGIMES, dimension_names, titles_of

_OPS_LOOK = {
    DENSE: (BLUE, "o"),
    CONTIGUOUS: (ORANGE, "s"),
    OFFSETS: (GREEN, "D"),
    MASKED: (PINK, "^"),
    DENSE_ADDED: (RED, "v"),
    DENSE_FP32: (RED, "<"),
    DENSE_BF16: (RED, ">"),
    K_GROUPED_ADDED: (BLACK, "p"),
    K_GROUPED_FP32: (BLACK, "h"),
    K_GROUPED_BF16: (BLACK, "8"),
}
_LOOK = {
    OURS: (BLUE, "o"),
    DEEPGEMM: (RED, "s"),
    BLOCKWISE: (GREEN, "D"),
    FAST: (BLACK, "^"),
    TRITON: (ORANGE, "v"),
}
_PEERS = tuple(_LOOK)
_PEERS_OF_QUANTIZERS = COPY, TRITON, COMPILED, TORCH
_FORMATS: dict[str, dict[str, Any]] = {"png": {"dpi": 160}, "svg": {"metadata": {"Date": None}}}

_Times = Mapping[Shape, float]
"""Microseconds at each shape."""


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw all pictures that ``rows`` have something for.

    Args:
        rows: of any operations and regimes.
        directory: where the files go; it is made if need be.

    Returns:
        The files.

    Raises:
        CommandError: two rows measured the same thing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _figures(rows):
            for suffix, options in _FORMATS.items():
                files.append(directory / f"{name}.{suffix}")
                figure.savefig(files[-1], bbox_inches="tight", **options)
    return files


def _figures(rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    for regime in REGIMES:
        ours = {op: found for op in OPS if (found := ours_with(rows, op, regime))}
        if ours:
            yield f"roofline_{regime}", _roofline(ours, regime)
        others = {op: found for op in (*QUANTIZERS, *LAYERS) if (found := ours_with(rows, op, regime))}
        for op, found in (ours | others).items():
            if peers := _peer_times(rows, op, regime):
                yield f"speedup_{op}_{regime}", _speedups(found, peers, op, regime)
            if any("stages" in row for row in found.values()):
                yield f"stages_{op}_{regime}", part_plots.stages(rows, op, regime)
        if part_plots.has_quantizers(rows, regime):
            yield f"quantizers_{regime}", part_plots.quantizers(rows, regime)
        if (dense := ours.get(DENSE)) and len({m for m, _, _ in dense}) > 1:
            yield f"tflops_over_m_{regime}", _over_m(dense, _peer_times(rows, DENSE, regime), regime)


def _peer_times(rows: Sequence[Row], op: str, regime: str) -> dict[str, _Times]:
    """Times of each peer at shapes of ours, of this run or else published, by their label."""
    shapes = ours_with(rows, op, regime).keys()
    beside = peers_beside(rows, op, regime)
    published = peer_times(regime, op)
    found: dict[str, _Times] = {}
    peers = _PEERS_OF_QUANTIZERS if op in QUANTIZERS else PEERS_OF_LAYERS if op in LAYERS else _PEERS
    for peer in peers:
        if peer in beside:
            times, label = right_times(beside[peer]), peer
        else:
            times, label = published.get(peer, {}), f"{peer}, reference"
        if times.keys() & shapes:
            found[label] = times
    return found


def _look(label: str) -> dict[str, Any]:
    colour, marker = _LOOK[label.removesuffix(", reference")]
    style = "--" if label.endswith(", reference") else "-"
    return {"color": colour, "marker": marker, "linestyle": style, "label": label}


# Roofline


def _roofline(ours: Mapping[str, Mapping[Shape, Row]], regime: str) -> Figure:
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    axes.grid(visible=True, which="major")
    for op, rows in ours.items():
        colour, marker = _OPS_LOOK[op]
        intensity = [Work.of_row(row).intensity for row in rows.values()]
        rates = [Work.of_row(row).flops / row["us"] * 1e-6 for row in rows.values()]
        axes.scatter(
            intensity, rates, s=26, marker=marker, facecolors="none", edgecolors=colour, label=OPS[op]
        )
    devices = {row["device"] for rows in ours.values() for row in rows.values()}
    for device in sorted(devices):
        if sheet := data_sheet(device):
            _roof(axes, sheet, device)
    axes.set_xlabel("arithmetic intensity in FLOP per byte")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"Roofline: cute_gemm, {REGIMES[regime]}", loc="left")
    axes.legend(loc="lower right")
    return figure


def _roof(axes: Axes, sheet: DataSheet, device: str) -> None:
    low, high = axes.get_xlim()
    ridge = sheet.flops / sheet.bytes
    left, right = min(low, ridge / 10), max(high, ridge * 10)
    corners = np.array([left, ridge, right])
    axes.plot(corners, np.minimum(corners * sheet.bytes, sheet.flops) / 1e12, color=BLACK, linewidth=1.2)
    axes.set_xlim(left, right)
    text = f"{device}: {sheet.flops / 1e12:.0f} TFLOP/s, {sheet.bytes / 1e12:.2f} TB/s"
    axes.annotate(text, (right, sheet.flops / 1e12), xytext=(0, 4), textcoords="offset points", ha="right")


# Speed relative to peers


def _speedups(ours: Mapping[Shape, Row], peers: Mapping[str, _Times], op: str, regime: str) -> Figure:
    shapes = list(ours)
    figure = Figure(figsize=(2.2 + 2.3 * len(peers), 1.6 + 0.19 * len(shapes)), layout="constrained")
    panels = figure.subplots(1, len(peers), sharex=True, sharey=True, squeeze=False)[0]
    ratios = {
        peer: {shape: times[shape] / ours[shape]["us"] for shape in shapes if shape in times}
        for peer, times in peers.items()
    }
    everything = [1.0, *(ratio for found in ratios.values() for ratio in found.values())]
    for axes, (peer, found) in zip(panels, ratios.items(), strict=True):
        places = [shapes.index(shape) for shape in found]
        values = np.array(list(found.values()))
        colours = [BLUE if value >= 1 else ORANGE for value in values]
        axes.barh(places, values - 1, left=1, height=0.72, color=colours)
        axes.axvline(1, color=BLACK, linewidth=0.8)
        for place, value in zip(places, values, strict=True):
            to_right = value >= 1
            axes.annotate(
                f"{value:.2f}",
                (value, place),
                xytext=(2 if to_right else -2, 0),
                textcoords="offset points",
                ha="left" if to_right else "right",
                va="center",
                fontsize=6.5,
            )
        mean = geometric_mean(list(found.values()))
        name = peer.replace(" tensorwise", "\ntensorwise").replace(" blockwise", "\nblockwise")
        axes.set_title(f"{name}\ngeometric mean {mean:.3f}", fontsize=8.5)
        axes.grid(visible=True, axis="x")
    axes = panels[0]
    axes.set_yticks(range(len(shapes)), [" x ".join(map(str, shape)) for shape in shapes])
    axes.set_ylim(len(shapes) - 0.4, -0.6)
    low, high = min(everything), max(everything)
    margin = 0.18 * max(high - low, 0.1)
    axes.set_xlim(low - margin, high + margin)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylabel(" x ".join(dimension_names(op)))
    operation, how = titles_of(op, regime)
    title = f"{operation}\n{how} ({devices(ours.values())})"
    figure.suptitle(f"Speed of cute_gemm relative to peers (above 1: faster)\n{title}", fontsize=10)
    figure.supxlabel("time of the peer / time of cute_gemm", fontsize=9)
    return figure


# TFLOP/s over M


def _over_m(ours: Mapping[Shape, Row], peers: Mapping[str, _Times], regime: str) -> Figure:
    weights = [weight for weight in dict.fromkeys(shape[1:] for shape in ours) if len(_at(ours, weight)) > 1]
    columns = min(4, len(weights) + 1)
    lines = -(-(len(weights) + 1) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.6 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    times = {OURS: {shape: row["us"] for shape, row in ours.items()}, **peers}
    for weight, axes in zip(weights, panels, strict=False):
        n, k = weight
        for label, found in times.items():
            here = _at(found, weight)
            rates = [Work.of(DENSE, (m, n, k)).flops / here[m] * 1e-6 for m in sorted(here)]
            axes.plot(sorted(here), rates, markersize=4, linewidth=1.2, **_look(label))
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_title(f"N = {n}, K = {k}", fontsize=9)
        axes.grid(visible=True)
        axes.set_xticks(ticks := sorted(_at(ours, weight)), [str(m) for m in ticks], rotation=45)
        axes.minorticks_off()
    handles, labels = panels[0].get_legend_handles_labels()
    for axes in list(panels)[len(weights) :]:
        axes.axis("off")
    figure.axes[len(weights)].legend(handles, labels, loc="center")
    figure.supxlabel("M", fontsize=9)
    figure.supylabel("TFLOP/s", fontsize=9)
    figure.suptitle(f"Dense products over M, {REGIMES[regime]} ({devices(ours.values())})", fontsize=10)
    return figure


def _at(found: Mapping[Shape, Any], weight: Shape) -> dict[int, Any]:
    """What was found at an (N, K), by M."""
    return {shape[0]: value for shape, value in found.items() if shape[1:] == weight}
