"""`cute-gemm pack`: compiled kernels in a folder, for machines that are not to compile any."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cute_gemm import __version__
from cute_gemm.measure.console import say
from cute_gemm.measure.errors import CommandError

from . import warmup

if TYPE_CHECKING:
    from cute_gemm.runtime.compiler import Noted
    from cute_gemm.runtime.pack_wheel import Distribution


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("pack", help="write kernels to a folder, which loads without a compiler")
    parser.add_argument(
        "folder",
        type=Path,
        help="made if it is not there; else empty, or a pack to replace; of a wheel, where it is put",
    )
    parser.add_argument(
        "--wheel",
        metavar="NAME[==VERSION]",
        help="write a wheel; processes take its kernels where it is installed (VERSION: this package's)",
    )
    warmup.add_arguments(parser)
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    from cute_gemm.runtime import compiler, pack_wheel
    from cute_gemm.runtime.pack_errors import PackError
    from cute_gemm.warming import kernels, work

    if not args.folder.name and args.wheel is None:
        raise CommandError(f"{str(args.folder)!r} names no folder of its own")
    try:
        wheel = pack_wheel.named(args.wheel, __version__) if args.wheel is not None else None
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
        _write(args.folder.absolute(), noted, wheel)
    except PackError as error:
        raise CommandError(str(error)) from error


def _write(directory: Path, kernels: Mapping[str, Noted], wheel: Distribution | None) -> None:
    from cute_gemm.runtime import pack_wheel, pack_writer, packs

    if wheel is None:
        size, path = pack_writer.write(directory, kernels, __version__), directory
        taken = f"with {packs.VARIABLE}={path}, or cute_gemm.load_pack"
    else:
        files = pack_writer.contents(kernels, __version__)
        path = pack_wheel.write(directory, files, wheel, __version__)
        size, taken = path.stat().st_size, f"where it is installed: pip install {path}"
    say(f"{len(kernels)} kernels, {size / 2**20:.1f} MiB: {path}")
    say(f"processes take them {taken}")
