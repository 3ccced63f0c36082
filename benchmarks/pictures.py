"""The README's two pictures, from the same comparisons as its means.

A picture keeps the numbers that it shows in a text field of its file. Pixels differ from one matplotlib to
the next, so whether a picture is up to date is a question of these numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from cute_gemm.bench.comparison import Comparison, by_rows
from cute_gemm.bench.plot_style import STYLE

SPEED, LIMIT = "speed.png", "limit.png"

_KEY = "cute_gemm data"
_BLUE, _ORANGE, _GREEN, _PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # of Okabe and Ito
_LOOK = {
    "dense": (_BLUE, "o"),
    "contiguous": (_ORANGE, "s"),
    "offsets": (_GREEN, "D"),
    "masked": (_PINK, "^"),
}

Data = dict[str, Any]
"""What a picture shows, in types that JSON keeps: of each card, by its name, what is in its panel."""


def data_of(cards: Mapping[str, Mapping[str, Sequence[Comparison]]]) -> dict[str, Data]:
    """What each picture shows of each card, by the name of its file.

    Args:
        cards: by the name of a card, cold comparisons by the title of the operation; none is empty.
    """
    speed = {
        device: {
            title: {
                label: [round(each.ratio, 4) for each in members] for label, members in by_rows(found).items()
            }
            for title, found in comparisons.items()
        }
        for device, comparisons in cards.items()
    }
    limit = {
        device: {
            title: points for title, found in comparisons.items() if (points := _points_below_limit(found))
        }
        for device, comparisons in cards.items()
    }
    data = {SPEED: speed, LIMIT: {device: found for device, found in limit.items() if found}}
    return {name: shown for name, shown in data.items() if shown}


def _points_below_limit(comparisons: Sequence[Comparison]) -> list[list[float]]:
    """The limit in microseconds, our time and DeepGEMM's, where the data sheet of the card is known."""
    return [
        [each.row["limit_us"], round(each.us, 3), round(each.deepgemm_us, 3)]
        for each in comparisons
        if each.row.get("limit_us")
    ]


def is_up_to_date(path: Path, data: Any) -> bool:
    """Whether the picture in a file shows ``data``."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            kept = getattr(image, "text", {}).get(_KEY)
    except OSError:
        return False
    return kept is not None and json.loads(kept) == data


def write(path: Path, data: Data) -> None:
    """Draws ``data`` of one of the README's pictures and keeps it in the file."""
    keep(path, data, lambda data: _panels(data, _DRAW[path.name]))


def keep(path: Path, data: Any, figure_of: Callable[[Any], Any]) -> None:
    """Writes the figure that is made of ``data``, in the look of all, and keeps that in the file."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        metadata = {_KEY: json.dumps(data, separators=(",", ":")), "Software": None}
        path.parent.mkdir(exist_ok=True)
        figure_of(data).savefig(path, dpi=130, metadata=metadata)


def _panels(data: Data, draw: Callable[[Any, str, Data], None]) -> Any:
    """A figure with a panel for each card."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6 * len(data)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(data), squeeze=False)[:, 0]
    for axes, (device, shown) in zip(panels, data.items(), strict=True):
        draw(axes, device, shown)
    return figure


def _speed(axes: Any, device: str, shown: Data) -> None:
    """Speed relative to DeepGEMM: a mark for each shape, a bar for the geometric mean."""
    place, places, labels = 0.0, [], []
    for title, classes in shown.items():
        colour, marker = _LOOK[title]
        for label, ratios in classes.items():
            spread = [place + 0.4 * ((i + 0.5) / len(ratios) - 0.5) for i in range(len(ratios))]
            axes.scatter(spread, ratios, s=16, marker=marker, facecolors="none", edgecolors=colour)
            mean = geometric_mean(ratios)
            axes.hlines(mean, place - 0.35, place + 0.35, color=colour, linewidth=2.5)
            places.append(place)
            rows = label.replace(" = ", "\n").replace(" x ", "\nx ")
            labels.append(f"{rows}\n\n{mean:.2f}")
            place += 1.25
        axes.scatter([], [], marker=marker, facecolors="none", edgecolors=colour, label=title)
        place += 0.5
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(places, labels, fontsize=7.5)
    axes.set_ylabel("time of DeepGEMM / time of cute_gemm")
    axes.grid(visible=True, axis="y")
    axes.legend(loc="upper right", fontsize=8)
    axes.set_title(
        f"Speed relative to DeepGEMM, cold L2 ({device}).\n"
        "Above 1: faster. A mark is a shape; a bar, and the number at the bottom, the geometric mean.",
        loc="left",
        fontsize=9,
    )


def _limit(axes: Any, device: str, shown: Data) -> None:
    """Share of the data sheet's limit over that limit: filled ours, a thin line to DeepGEMM's."""
    for title, points in shown.items():
        colour, marker = _LOOK[title]
        limits = [limit for limit, _, _ in points]
        ours = [100 * limit / us for limit, us, _ in points]
        theirs = [100 * limit / us for limit, _, us in points]
        axes.vlines(limits, theirs, ours, color=colour, linewidth=0.6)
        axes.scatter(
            limits, theirs, s=18, marker=marker, facecolors="white", edgecolors=colour, linewidths=0.8
        )
        axes.scatter(limits, ours, s=18, marker=marker, color=colour, label=title)
    axes.scatter([], [], s=18, facecolors="white", edgecolors="black", label="hollow: DeepGEMM")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_ylim(0, 100)
    axes.set_xlabel("limit by the data sheet in us: the longer of FLOP / peak and bytes / bandwidth")
    axes.set_ylabel("share of the limit in %")
    axes.grid(visible=True)
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title(f"How near to the limit, cold L2 ({device})", loc="left", fontsize=9)


_DRAW = {SPEED: _speed, LIMIT: _limit}
