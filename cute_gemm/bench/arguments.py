"""The arguments of `cute-gemm bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..measure.arguments import number_from, shape
from ..measure.records import ALL_REGIMES, GROUPED
from .peers.registry import PEERS
from .suite import SUITES

DEFAULT_OUT = Path("bench-results")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser, for `command.run`."""
    instead = parser.add_mutually_exclusive_group()
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="all")
    parser.add_argument("--regime", choices=(*ALL_REGIMES, "all"), default="all")
    parser.add_argument(
        "--shapes",
        type=shape,
        nargs="+",
        metavar="[Gx]MxNxK",
        help="only these, such as 64x2112x7168, or 4x8192x6144x7168 for 4 groups of about 8192 rows"
        " (default: those that peers' figures are of)",
    )
    parser.add_argument("--ops", choices=GROUPED, nargs="+", default=GROUPED, help="grouped ones: only these")
    parser.add_argument(
        "--peers",
        type=_peers,
        default=tuple(PEERS),
        metavar="NAME,...",
        help=f"of {', '.join(PEERS)}; or none (default: all that are installed)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where lines, tables and plots go (default: {DEFAULT_OUT})",
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
        default=2.0,
        metavar="PERCENT",
        help="with --compare: by how much a time may grow (default: %(default)g)",
    )


def _peers(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"want some of {','.join(PEERS)}, or none; got {name!r}")
    return names
