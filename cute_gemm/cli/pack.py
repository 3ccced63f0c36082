"""`cute-gemm pack`: compiled kernels in a folder, for machines that are not to compile any."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cute_gemm import __version__
from cute_gemm.measure.console import say
from cute_gemm.measure.errors import CommandError

from . import warmup


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("pack", help="write kernels to a folder, which loads without a compiler")
    parser.add_argument("folder", type=Path, help="made if it is not there; else empty, or a pack to replace")
    warmup.add_arguments(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    from cute_gemm.runtime import compiler, pack_writer, packs
    from cute_gemm.warming import kernels, work

    if not args.folder.name:
        raise CommandError(f"{str(args.folder)!r} names no folder of its own")
    needed = warmup.needed_by(args)
    # Of packs that are there nothing is taken: all is on disk then.
    with compiler.noting() as noted:
        missing, kept = work.sort(needed)
        warmup.make(missing, kept, args.jobs)
        for each in needed:
            kernels.load(each)
    # Not by their number: two names may be of one kernel.
    if noted.objections:
        label, why = next(iter(noted.objections.items()))
        raise CommandError(f"{label} is not to be kept for other processes: {why}")
    directory = args.folder.absolute()
    try:
        size = pack_writer.write(directory, noted, __version__)
    except packs.PackError as error:
        raise CommandError(str(error)) from error
    say(f"{len(noted)} kernels, {size / 2**20:.1f} MiB: {directory}")
    say(f"processes take them with {packs.VARIABLE}={directory}, or cute_gemm.load_pack")
