"""`cute-gemm demo`: quantise, multiply, check and, on a Hopper GPU, time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cute_gemm.measure.arguments import positive
from cute_gemm.measure.console import PlainTable, printable, wide_console
from cute_gemm.measure.errors import CommandError

from . import shapes
from .status_line import status_line

if TYPE_CHECKING:
    import torch

    from .products import Result
    from .weights import Skipped

CPU_SHAPES = [(1, 576, 7168), (64, 2112, 7168), (333, 4096, 1040)]
"""What `demo` runs by default on a machine without a Hopper GPU: a second or two in all."""

GPU_SHAPES = [*CPU_SHAPES, (128, 7168, 16384), (4096, 4096, 7168), (4096, 7168, 16384)]
"""What `demo` runs by default on a Hopper GPU."""


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("demo", help="quantise, multiply, check and, on a Hopper GPU, time")
    shapes.add_arguments(parser)
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="run the matrices of a safetensors file or folder"
    )
    parser.add_argument(
        "--tokens",
        type=positive,
        nargs="+",
        metavar="M",
        help="with --weights: rows of the random activations (default: 128)",
    )
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    import torch

    from . import products, weights

    shape = [args.m, args.n, args.k]
    if args.weights and any(shape):
        raise CommandError("--weights brings its own shapes; use --tokens for the rows of the activations")
    if args.tokens and not args.weights:
        raise CommandError("--tokens goes with --weights; use --m for the rows of random operands")
    if any(shape) and not all(shape):
        raise CommandError("--m, --n and --k go together")

    device, where = _device()
    out_dtype = getattr(torch, args.out_dtype)
    skipped: list[Skipped] = []
    if args.weights:
        tokens = args.tokens or [128]
        found, skipped = weights.find(args.weights)
        skipped += [
            weights.Skipped(each.name, reason)
            for each in found
            if (reason := products.why_too_large(max(tokens), each.n, each.k, device))
        ]
        unfit = {each.name for each in skipped}
        results = products.run_weights(
            [each for each in found if each.name not in unfit], tokens, device, out_dtype
        )
    else:
        default = GPU_SHAPES if device.type == "cuda" else CPU_SHAPES
        results = products.run_shapes([tuple(shape)] if any(shape) else default, device, out_dtype)
    with status_line("multiplying ...") as update:
        done = []
        for result in results:
            done.append(result)
            update(f"{result.label}: {shapes.extents_text(result.problem)} done")
    console = wide_console()
    if done:
        console.print(printable(where), soft_wrap=True)
        console.print(_results_table(done, device))
    for reason in dict.fromkeys(result.untimed for result in done if result.untimed):
        console.print(f"not timed: {printable(reason)}", soft_wrap=True)
    for weight in skipped:
        console.print(printable(f"skipped {weight.name}: {weight.reason}"), soft_wrap=True)
    if not done:
        raise CommandError(f"nothing of {args.weights} can be run")
    console.print(
        "Errors: 1 - 2<x,y>/(<x,x>+<y,y>) of the worst 128x128 tile, against the product of the dequantised\n"
        "operands (the kernel's own error) and of the operands before quantisation (what FP8 costs).",
        style="dim",
        soft_wrap=True,
    )


def _device() -> tuple[torch.device, str]:
    """The current GPU if it is a Hopper one, else the CPU; and a sentence that says so."""
    import torch

    from cute_gemm.runtime import hardware

    if not torch.cuda.is_available():
        return torch.device("cpu"), "No GPU here: this is the reference in plain torch."
    if not hardware.is_hopper():
        found = hardware.describe()
        return torch.device("cpu"), f"{found} is not a Hopper GPU: this is the reference, on the CPU."
    return torch.device("cuda", torch.cuda.current_device()), f"On {torch.cuda.get_device_name()}:"


def _results_table(results: Sequence[Result], device: torch.device) -> PlainTable:
    on_gpu = device.type == "cuda"
    table = PlainTable()
    table.add_column("operand B", overflow="fold")
    table.add_column("M x N x K", justify="right", no_wrap=True)
    table.add_column("configuration" if on_gpu else "configuration\non Hopper", no_wrap=True)
    columns = ["error vs\ndequantised", "error vs\nunquantised"]
    if on_gpu:
        columns += ["us", "TFLOP/s", "of the\nlimit"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        cells = [f"{result.error_dequantised:.2e}", f"{result.error_unquantised:.2e}"]
        if result.us is not None:
            share = result.share_of_limit
            cells += [f"{result.us:.1f}", f"{result.tflops:.0f}", "-" if share is None else f"{share:.0%}"]
        elif on_gpu:
            cells += ["-"] * 3
        table.add_row(result.label, shapes.extents_text(result.problem), result.config, *cells)
    return table
