"""`cute-gemm share`: compiled kernels for other users, in a directory that they only read."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cute_gemm.measure.console import say
from cute_gemm.measure.errors import CommandError


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser(
        "share", help="copy the kernels of your cache to a directory that other users read"
    )
    parser.add_argument(
        "directory", type=Path, help="made if it is not there; run as root, so that others trust it"
    )
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    from cute_gemm.runtime.cache import SHARED_VARIABLE
    from cute_gemm.runtime.sharing import share
    from cute_gemm.storage import reason

    if not args.directory.name:
        raise CommandError(f"{str(args.directory)!r} names no directory of its own")
    try:
        directory = args.directory.absolute()
        found = share(directory)
    except OSError as error:
        raise CommandError(reason(error)) from error
    say(f"copied {found.copied} kernels to {directory}; {found.there} were there")
    if os.geteuid():
        say("other users do not trust it, as it is not root's: run this command as root")
    say(f"they use it with {SHARED_VARIABLE}={directory}")
