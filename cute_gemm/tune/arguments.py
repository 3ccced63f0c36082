"""The arguments of `cute-gemm tune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..measure.arguments import number_from, positive, shape
from ..measure.records import ALL_REGIMES, CHAIN, COLD
from ..plan.layouts import LAYOUTS
from ..plan.limits import OUT_BYTES

DEFAULT_REGIMES = COLD, CHAIN
DEFAULT_M = 1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096
# In the timings under benchmarks/candidates, the fastest was within this at 128 of 133 shapes, of 10.5
# candidates on average.
DEFAULT_WITHIN = 1.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser, for `command.run`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--shapes",
        type=shape,
        nargs="+",
        metavar="[Gx]MxNxK",
        help="such as 64x7168x2048, or grouped 32x20x4096x7168 for 32 groups of about 20 rows",
    )
    what.add_argument(
        "--model",
        type=Path,
        metavar="PATH",
        help="a HuggingFace config.json: the layers of a Llama-, Qwen- or DeepSeek-like model",
    )
    parser.add_argument(
        "--m",
        type=positive,
        nargs="+",
        metavar="M",
        help=f"with --model: rows of A, or of each group (default: {' '.join(map(str, DEFAULT_M))})",
    )
    parser.add_argument(
        "--op",
        choices=LAYOUTS,
        default="dense",
        help="one product, or which grouped operation (default: %(default)s)",
    )
    parser.add_argument(
        "--out-dtype", choices=tuple(OUT_BYTES), default="bfloat16", help="type of D (default: %(default)s)"
    )
    parser.add_argument(
        "--num-sms", type=positive, metavar="N", help="as of cute_gemm.config (default: all of the device)"
    )
    parser.add_argument(
        "--regime",
        nargs="+",
        choices=ALL_REGIMES,
        default=DEFAULT_REGIMES,
        help="a cold L2, a CUDA graph of layers, the power limit; of several the geometric mean counts "
        f"(default: {' '.join(DEFAULT_REGIMES)})",
    )
    parser.add_argument(
        "--within",
        type=number_from(1),
        default=DEFAULT_WITHIN,
        metavar="FACTOR",
        help="time what is predicted to take at most so many times the least (default: %(default)g)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="what to merge into (default: the user's file for the device)",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be timed; needs no GPU")
