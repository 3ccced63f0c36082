"""Pictures of what time is made of: stages of an expert layer, and what a quantiser takes over the least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..measure.records import (
    BF16,
    CHAIN,
    COLD,
    OURS,
    QUANTIZERS,
    STAGES,
    UNFUSED,
    UNFUSED_DEEPGEMM,
    UNFUSED_MASKED,
    Row,
)
from ..measure.shapes import Shape
from .plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, devices
from .results import ours_with, peers_beside
from .tables import QUANTIZER_REGIMES, QUANTIZER_TITLES, dimension_names, titles_of

PEERS_OF_LAYERS = UNFUSED, UNFUSED_DEEPGEMM, UNFUSED_MASKED, BF16
_STAGE_COLOURS = dict(zip(STAGES, (GREY, GREEN, BLUE, PINK, ORANGE, RED), strict=True))
_COLOURS = BLUE, SKY, ORANGE, RED, GREEN, PINK, BLACK, GREY
_LOOKS = dict(zip(QUANTIZERS, zip(_COLOURS, "osD^vP<>", strict=True), strict=True))
_OVER_THE_LEAST = {
    COLD: ("copy_share", "speed / speed of a copy of as many bytes"),
    CHAIN: ("over_empty_us", "us over an empty kernel"),
}
"""What is shown of quantisers in a regime: what rows have, and in words."""


def stages(rows: Sequence[Row], op: str, regime: str) -> Figure:
    """For each model, bars of stages of ours and of peers, over the time of our layer.

    Raises:
        CommandError: two rows measured the same thing.
    """
    beside, ours = peers_beside(rows, op, regime), ours_with(rows, op, regime)
    everyone = {OURS: ours, **{peer: beside[peer] for peer in PEERS_OF_LAYERS if peer in beside}}
    models = list(dict.fromkeys(shape[1:] for shape in ours))
    bars = [
        [
            (shape, peer)
            for shape in ours
            if shape[1:] == model
            for peer, own in everyone.items()
            if shape in own
        ]
        for model in models
    ]
    height = 1.4 + 0.17 * sum(map(len, bars)) + 0.4 * len(models)
    figure = Figure(figsize=(8.5, height), layout="constrained", facecolor="white")
    panels = figure.subplots(
        len(models), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [*map(len, bars)]}
    )[:, 0]
    for axes, model, of_model in zip(panels, models, bars, strict=True):
        for place, (shape, peer) in enumerate(of_model):
            _bar(axes, place, everyone[peer][shape], ours[shape]["us"])
        axes.set_yticks(
            range(len(of_model)),
            [f"{_tokens(shape[0])}, {peer}" for shape, peer in of_model],
            fontsize=6.5,
        )
        axes.set_ylim(len(of_model) - 0.4, -0.6)
        axes.grid(visible=True, axis="x")
        names = dimension_names(op)[1:]
        axes.set_title(
            ", ".join(f"{name} {size}" for name, size in zip(names, model, strict=True)), fontsize=8.5
        )
    for name, colour in _STAGE_COLOURS.items():
        panels[0].barh(0, 0, color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=len(STAGES))
    label = "time of each stage by itself, over that of our layer; black: the layer as a whole"
    # One of the figure would be beneath the legend.
    panels[-1].set_xlabel(label, fontsize=8)
    operation, how = titles_of(op, regime)
    figure.suptitle(f"{operation}, stage by stage\n{how} ({devices(ours.values())})", fontsize=10)
    return figure


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"


def _bar(axes: Axes, place: int, row: Row, our_us: float) -> None:
    left, timed = 0.0, row.get("stages", {})
    for name in (name for name in STAGES if name in timed):
        width = timed[name] / our_us
        axes.barh(place, width, left=left, height=0.72, color=_STAGE_COLOURS[name])
        left += width
    whole = row["us"] / our_us
    axes.plot([whole, whole], [place - 0.4, place + 0.4], color=BLACK, linewidth=1.6)


def has_quantizers(rows: Sequence[Row], regime: str) -> bool:
    """Whether `quantizers` has something to show."""
    return regime in _OVER_THE_LEAST and bool(_over_the_least(rows, regime))


def quantizers(rows: Sequence[Row], regime: str) -> Figure:
    """For each K a curve over M of each form: cold, of its speed; in a chain, of what it takes.

    Both are over the least: a copy of as many bytes, and an empty kernel.

    Raises:
        CommandError: two rows measured the same thing.
    """
    found = _over_the_least(rows, regime)
    _, label = _OVER_THE_LEAST[regime]
    shapes = {shape for own in found.values() for shape in own}
    sizes = sorted({k for _, k in shapes}, reverse=True)
    columns = min(3, len(sizes))
    lines = -(-len(sizes) // columns)
    figure = Figure(figsize=(3.0 * columns + 0.8, 2.6 * lines + 1.3), layout="constrained", facecolor="white")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for axes in list(panels)[len(sizes) :]:
        axes.axis("off")
    for k, axes in zip(sizes, figure.axes, strict=False):
        for op, own in found.items():
            here = sorted((m, value) for (m, other), value in own.items() if other == k)
            colour, marker = _LOOKS[op]
            name = QUANTIZER_TITLES[op].removeprefix("Quantising ")
            m, values = zip(*here, strict=True) if here else ((), ())
            axes.plot(m, values, color=colour, marker=marker, markersize=4, linewidth=1.1, label=name)
        axes.set_xscale("log", base=2)
        ticks = sorted({m for m, other in shapes if other == k})
        axes.set_xticks(ticks, [str(m) for m in ticks], fontsize=8)
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(f"K = {k}", fontsize=9)
        axes.grid(visible=True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7.5)
    figure.supylabel(label, fontsize=9)
    for axes in figure.axes[: len(sizes)]:
        axes.set_xlabel("M", fontsize=8)
    everything = [row for op in found for row in ours_with(rows, op, regime).values()]
    figure.suptitle(f"Quantising bf16\n{QUANTIZER_REGIMES[regime]} ({devices(everything)})", fontsize=10)
    return figure


def _over_the_least(rows: Sequence[Row], regime: str) -> dict[str, dict[Shape, Any]]:
    """What is shown of each form, by its shape; no form is empty."""
    key, _ = _OVER_THE_LEAST[regime]
    found = {
        op: {shape: row[key] for shape, row in ours_with(rows, op, regime).items() if key in row}
        for op in QUANTIZERS
    }
    return {op: own for op, own in found.items() if own}
