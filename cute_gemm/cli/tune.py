"""`cute-gemm tune`: the arguments and the work are in :mod:`cute_gemm.tune`."""

from __future__ import annotations

import argparse
from typing import Any


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    from cute_gemm.tune.arguments import add_arguments

    parser = commands.add_parser("tune", help="time candidates on a Hopper GPU and keep the best")
    add_arguments(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from cute_gemm.tune import command

    return command.run(args)
