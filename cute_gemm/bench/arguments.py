"""The arguments of `cute-gemm bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..measure.arguments import number_from, shape_of_any
from ..measure.records import ALL_REGIMES, GRADIENTS, GROUPED, QUANTIZERS
from .peers.registry import NAMES
from .suite import SUITES

OPS = *GROUPED, *QUANTIZERS, *GRADIENTS

DEFAULT_OUT = Path("bench-results")
DEFAULT_THRESHOLD = 2.0

MEASURING = "suite", "regime", "shapes", "ops", "peers", "resume"
"""Arguments that say what is measured. Those that are not given are None or False."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser, for `command.run`."""
    instead = parser.add_mutually_exclusive_group()
    parser.add_argument(
        "--suite",
        choices=(*SUITES, "all"),
        help="dense or grouped products, what quantises their operands, layers of experts, or products that"
        " make gradients of weights (default: all)",
    )
    parser.add_argument(
        "--regime",
        choices=(*ALL_REGIMES, "all"),
        help="cold L2, a chain of calls in a CUDA graph, or calls at the power limit (default: all)",
    )
    parser.add_argument(
        "--shapes",
        type=shape_of_any,
        nargs="+",
        metavar="SHAPE",
        help="only these: MxNxK such as 64x2112x7168, or 4x8192x6144x7168 for 4 groups of about 8192 rows, or"
        " MxK such as 4096x7168 to quantise, or TxExAxCxKxI such as 128x32x256x8x7168x2048 for 128 tokens,"
        " 32 experts here of 256, 8 for each token, K and I of a layer; with --suite gradients MxNxK, or"
        " 4x4096x7168x8192 for 4 groups of about 8192 columns (default: those that peers' figures are of, and"
        " of models)",
    )
    parser.add_argument(
        "--ops",
        choices=OPS,
        nargs="+",
        metavar="NAME",
        help=f"of the grouped ones, of those that quantise and of gradients only these, of {', '.join(OPS)}",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        metavar="NAME,...",
        help=f"of {', '.join(NAMES)}; or none (default: all that are installed)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where lines, tables and plots go; files of what is measured are replaced"
        f" (default: {DEFAULT_OUT})",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep what files in --out have, and measure only what they lack; device and versions must be the"
        " same",
    )
    instead.add_argument(
        "--plot", type=Path, metavar="DIR", help="measure nothing: make tables and plots of results"
    )
    instead.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing: print what got slower between results (files or directories)",
    )
    parser.add_argument(
        "--threshold",
        type=number_from(0, "percent, a number"),
        metavar="PERCENT",
        help=f"with --compare: by how much a time may grow (default: {DEFAULT_THRESHOLD:g})",
    )


def _peers(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"want some of {','.join(NAMES)}, or none; got {name!r}")
    return names
