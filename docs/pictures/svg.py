"""A few shapes of SVG, in tones that are legible on light and on dark pages; no background."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

GREY = "#7d8590"
BLUE, ORANGE, GREEN, PINK = COLOURS = "#2f81c7", "#d1782c", "#3a9d6e", "#b5659a"

Point = tuple[float, float]


class Drawing:
    """A picture of ``width`` x ``height`` units; ``title`` is what a screen reader says."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        self._title = title
        self._shapes: list[str] = []

    def box(
        self,
        at: Point,
        size: Point,
        fill: str = "none",
        opacity: float = 0.3,
        edge: str = GREY,
        edge_width: float = 1,
    ) -> None:
        """A rectangle whose upper left corner is ``at``."""
        filled = f'fill="{fill}"' + (f' fill-opacity="{opacity:g}"' if fill != "none" else "")
        place = f'x="{at[0]:g}" y="{at[1]:g}" width="{size[0]:g}" height="{size[1]:g}"'
        self._shapes.append(f'<rect {place} {filled} stroke="{edge}" stroke-width="{edge_width:g}"/>')

    def text(
        self, at: Point, words: object, size: float = 11, anchor: str = "middle", colour: str = GREY
    ) -> None:
        """Words whose baseline is at ``at``; ``anchor`` is start, middle or end."""
        place = f'x="{at[0]:g}" y="{at[1]:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"'
        self._shapes.append(f"<text {place}>{escape(str(words), quote=False)}</text>")

    def line(
        self, points: Sequence[Point], colour: str = GREY, width: float = 1, arrow: bool = False
    ) -> None:
        """Points joined by straight lines; with ``arrow`` the last has a head."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
        )
        if arrow:
            self._head(points[-2], points[-1], colour)

    def _head(self, start: Point, end: Point, colour: str) -> None:
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = (dx * dx + dy * dy) ** 0.5
        x, y = 6 * dx / length, 6 * dy / length
        corners = end, (end[0] - x - y / 2, end[1] - y + x / 2), (end[0] - x + y / 2, end[1] - y - x / 2)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        self._shapes.append(f'<polygon points="{path}" fill="{colour}"/>')

    def __str__(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {self._size} role="img" font-family="sans-serif">'
        return "\n".join(
            [head, f"<title>{escape(self._title, quote=False)}</title>", *self._shapes, "</svg>\n"]
        )
