"""`cute-gemm warmup`: kernels compiled before a server needs them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cute_gemm.measure.arguments import positive
from cute_gemm.measure.console import say
from cute_gemm.measure.errors import CommandError
from cute_gemm.plan.card import CARDS
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.plan.limits import MAX_EXTENT, OUT_BYTES
from cute_gemm.plan.quantizer import SOURCE_BYTES

from . import output

if TYPE_CHECKING:
    from cute_gemm.warming.kernels import Kernel

DEFAULT_MAX_M = 8192
# Of a process that has a core of a server for itself: 3 s for a product, 1 s for what quantises.
_SECONDS_A_KERNEL = 3.0
_SECONDS_TO_START = 5.0


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("warmup", help="compile the kernels that calls will need; needs no GPU")
    add_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="list kernels, which are there, and what needs them"
    )
    parser.set_defaults(command=_run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add to a parser what says which kernels, and how they are compiled."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="PATH",
        help="a HuggingFace config.json: the layers of a Llama-, Qwen- or DeepSeek-like model",
    )
    parser.add_argument(
        "--nk",
        type=_shape,
        nargs="+",
        default=[],
        metavar="[G,]N,K",
        help="shapes of B, such as 7168,2048, or 256,4096,7168 of 256 groups",
    )
    parser.add_argument(
        "--kernel",
        nargs="+",
        default=[],
        metavar="NAME",
        help="kernels by name; or programs, or functions that return one, as module:name or file.py:name",
    )
    parser.add_argument(
        "--max-m",
        type=positive,
        default=DEFAULT_MAX_M,
        metavar="M",
        help="the most rows of A; of masked, that are expected of a group; with --model, tokens "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--op",
        choices=(*LAYOUTS, "moe", "gradients"),
        nargs="+",
        help="which operations; moe is the expert layers and MLPs of cute_gemm.moe, of a model; "
        "gradients those of weights, over up to M tokens (default: all but these two)",
    )
    parser.add_argument(
        "--out-dtype", choices=tuple(OUT_BYTES), default="bfloat16", help="type of D (default: %(default)s)"
    )
    parser.add_argument(
        "--epilogue",
        metavar="WHERE",
        help="with --nk: the epilogue, or a function that returns one, as module:name or file.py:name",
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(SOURCE_BYTES),
        default="bfloat16",
        help="type of what is quantised (default: %(default)s)",
    )
    parser.add_argument("--power-of-two-scales", action="store_true", help="as of what quantises")
    parser.add_argument("--no-quantizers", action="store_true", help="products alone")
    parser.add_argument(
        "--num-sms", type=positive, metavar="N", help="as of cute_gemm.config (default: all of the card)"
    )
    parser.add_argument("--batch-invariant", action="store_true", help="as of cute_gemm.config")
    parser.add_argument(
        "--card", choices=CARDS, metavar="NAME", help=f"{', '.join(CARDS)} (default: the one here)"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="processes that compile, of about 1 GB each (default: one a core)",
    )


def _run(args: argparse.Namespace) -> None:
    from cute_gemm.warming import work

    needed = needed_by(args)
    missing, kept = work.sort(needed)
    if args.dry_run:
        there = _there()
        for kernel, uses in needed.items():
            state = "to be made" if kernel in missing else there
            say(f"{kernel.name}: {state}: {'; '.join(uses)}")
        say(f"{len(needed)} kernels, {len(kept)} of them {there}{_estimate(missing, args.jobs)}")
        return
    make(missing, kept, args.jobs)


def needed_by(args: argparse.Namespace) -> dict[Kernel, list[str]]:
    """Kernels that the arguments ask for, and what needs each.

    Raises:
        CommandError: there is no such thing.
    """
    if not args.model and not args.nk and not args.kernel:
        raise CommandError("want --model, --nk or --kernel, which say what kernels are for")
    if args.epilogue and (args.model or not args.nk):
        raise CommandError("--epilogue goes with --nk alone; the layers of a model have those of --op moe")
    from cute_gemm import settings
    from cute_gemm.measure.models import read_model
    from cute_gemm.runtime.inspection import InspectionError
    from cute_gemm.warming import work
    from cute_gemm.warming.needs import needs

    try:
        needed: dict[Kernel, list[str]] = {_named(name): ["asked for"] for name in args.kernel}
        if not args.model and not args.nk:
            return needed
        layers, per_token = work.layers_of_shapes(args.nk), None
        if args.model:
            model = read_model(args.model, "--nk")
            for each in model.left_out:
                output.report(f"left out: {each}")
            layers, per_token = [*layers, *model.layers], model.experts_per_token
        with settings.config(num_sms=args.num_sms, batch_invariant=args.batch_invariant):
            calls = work.calls_of(
                max_m=args.max_m,
                ops=args.op,
                cards=work.cards_named(args.card),
                out_dtype=args.out_dtype,
                dtype=args.dtype,
                power_of_two_scales=args.power_of_two_scales,
                has_quantizers=not args.no_quantizers,
                epilogue=args.epilogue,
                experts_per_token=per_token,
            )
        found = needs(layers, calls)
    except CommandError:
        raise
    except (InspectionError, RuntimeError, ValueError) as error:
        raise CommandError(str(error)) from error
    if not found and not needed:
        raise CommandError("no such call takes a kernel: --op names operations that the shapes are not for")
    return needed | found


def _named(name: str) -> Kernel:
    from cute_gemm.runtime import lookup
    from cute_gemm.warming.kernels import Written

    if ":" not in name:
        return lookup.find_kernel(name)
    # Raises where there is no such program, before anything else looks for it.
    lookup.find_program(name)
    return Written(name)


def make(missing: Sequence[Kernel], kept: Sequence[Kernel], jobs: int | None) -> None:
    """Compiles what is missing and keeps it on disk, with a progress bar, and says what was there.

    Raises:
        CommandError: it could not be done.
    """
    from cute_gemm.measure.progress import track_as_made
    from cute_gemm.runtime.warmup import KilledWorker
    from cute_gemm.storage import cache_dir
    from cute_gemm.warming import work

    directory = cache_dir()
    if directory is None and missing:
        raise CommandError(
            "kernels are kept nowhere, as CUTE_GEMM_CACHE_DIR is empty; name a directory by it"
        )
    if missing:
        say(f"{len(missing) + len(kept)} kernels, {len(kept)} of them {_there()}{_estimate(missing, jobs)}")
    started = time.perf_counter()
    try:
        for _ in track_as_made(work.make(missing, jobs), len(missing), "compiling"):
            pass
    except KilledWorker as error:
        raise CommandError(str(error)) from error
    lost, _ = work.sort(missing)
    if lost:
        raise CommandError(
            f"{len(lost)} kernels were made and not kept in {directory}; `cute-gemm info` says why"
        )
    seconds = time.perf_counter() - started
    where = f": {directory}" if directory else ""
    say(f"{len(missing)} kernels made in {seconds:.0f} s, {len(kept)} were there{where}")


def _there() -> str:
    """Where kernels are found that need not be made."""
    from cute_gemm.runtime import packs

    return "in a pack or on disk" if packs.are_used() else "on disk"


def _estimate(missing: Sequence[Kernel], jobs: int | None) -> str:
    """What it will take, as the end of a line; empty where nothing will be made."""
    from cute_gemm.runtime.warmup import workers_for

    if not missing:
        return ""
    workers = workers_for(len(missing), jobs)
    seconds = _SECONDS_TO_START + _SECONDS_A_KERNEL * len(missing) / workers
    return f"; the others take about {seconds:.0f} s with {workers} process{'es' if workers > 1 else ''}"


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    is_known = all(part.isdecimal() and len(part) < 20 and 1 <= int(part) <= MAX_EXTENT for part in parts)
    if len(parts) not in (2, 3) or not is_known:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise argparse.ArgumentTypeError(f"want N,K or G,N,K, numbers from 1 on; got {shown!r}")
    return tuple(map(int, parts))
