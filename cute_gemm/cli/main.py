"""The entry point: registers the commands, runs the one that is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cute_gemm import __version__
from cute_gemm.measure.errors import CommandError

from . import bench, demo, info, inspect, share, tune

_COMMANDS = demo, bench, tune, inspect, info, share


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit status: 0; 1 after a mistake that was reported in one line, or when `bench` found something
        wrong or slower, or `tune` could not tune something; 130 after an interrupt. Arguments that do not
        parse leave through argparse with status 2.
    """
    args = _parser().parse_args(argv)
    try:
        return args.command(args) or 0
    except CommandError as error:
        print(f"cute-gemm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cute-gemm", description="FP8 GEMM with fine-grained scaling for Hopper GPUs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.register(commands)
    return parser
