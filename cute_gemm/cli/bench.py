"""`cute-gemm bench`: the arguments and the work are in :mod:`cute_gemm.bench`."""

from __future__ import annotations

import argparse
from typing import Any


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    from cute_gemm.bench.arguments import add_arguments

    parser = commands.add_parser("bench", help="time the operations and peers on a Hopper GPU")
    add_arguments(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from cute_gemm.bench import command

    return command.run(args)
