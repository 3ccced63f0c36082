"""How all pictures of figures look."""

from typing import Any

# The colours of Okabe and Ito, which the colour-blind tell apart; markers say the same again.
BLACK, BLUE, ORANGE, GREEN, PINK, RED = (
    "#000000",
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
)
SKY, GREY = "#56B4E9", "#999999"

STYLE: Any = {
    "font.size": 9,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # A device may be called whatever its driver says.
    "text.parse_math": False,
    # The same rows give the same file.
    "svg.hashsalt": "cute_gemm",
}
"""What all pictures of figures have in common, as matplotlib takes it."""


def devices(rows: Any) -> str:
    """The devices that rows are of."""
    return ", ".join(sorted({row["device"] for row in rows}))
