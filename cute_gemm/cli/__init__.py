"""The command line: `cute-gemm demo`, `bench`, `tune`, `inspect` and `info`.

torch and the DSL take seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cute_gemm import __version__
from cute_gemm.measure.arguments import positive
from cute_gemm.measure.console import wide_console

if TYPE_CHECKING:
    import torch

    from cute_gemm.cli.demo import Result, Skipped
    from cute_gemm.plan.config import KernelConfig
    from cute_gemm.plan.cost_model import Choice
    from cute_gemm.plan.problem import GemmProblem
    from cute_gemm.runtime.inspection import KernelStats

CPU_SHAPES = [(1, 576, 7168), (64, 2112, 7168), (333, 4096, 1040)]
"""What `demo` runs by default on a machine without a Hopper GPU: a second or two in all."""

GPU_SHAPES = [*CPU_SHAPES, (128, 7168, 16384), (4096, 4096, 7168), (4096, 7168, 16384)]
"""What `demo` runs by default on a Hopper GPU."""

# Opcode roots, or opcodes, that tell whether a GEMM kernel came out as intended.
_TELLING = {
    "QGMMA": "FP8 tensor-core multiplication",
    "FFMA": "promotion to FP32",
    "FMUL": "product of the two scales",
    "UTMALDG": "TMA load",
    "UTMASTG": "TMA store",
    "SYNCS": "mbarrier operations",
    "WARPGROUP.ARRIVE": "fences before tensor-core work",
    "WARPGROUP.DEPBAR": "waits for tensor-core work",
    "LDG": "loads from global memory",
    "LDS": "loads from shared memory",
    "STS": "stores to shared memory",
    "STSM": "matrix stores to shared memory",
    "LDL": "spills read back",
    "STL": "spills",
}
_RIVALS = 8
_TABLE_WIDTH = 130


class UsageError(Exception):
    """A mistake in what the user asked for; the message is all that is printed."""


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
    except UsageError as error:
        print(f"cute-gemm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from cute_gemm.bench.arguments import add_arguments as add_bench_arguments
    from cute_gemm.tune.arguments import add_arguments as add_tune_arguments

    parser = argparse.ArgumentParser(
        prog="cute-gemm", description="FP8 GEMM with fine-grained scaling for Hopper GPUs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="quantise, multiply, check and, on a Hopper GPU, time")
    _add_shape(demo)
    demo.add_argument("--weights", type=Path, metavar="FILE", help="run a safetensors file's 2-D weights")
    demo.add_argument(
        "--tokens",
        type=positive,
        nargs="+",
        metavar="M",
        help="with --weights: rows of the random activations (default: 128)",
    )
    demo.set_defaults(command=_demo)

    bench = commands.add_parser("bench", help="time the operations and peers on a Hopper GPU")
    add_bench_arguments(bench)
    bench.set_defaults(command=_bench)

    tune = commands.add_parser("tune", help="time candidates on a Hopper GPU and keep the best for dispatch")
    add_tune_arguments(tune)
    tune.set_defaults(command=_tune)

    inspect = commands.add_parser("inspect", help="show the kernel chosen for a shape; needs no GPU")
    _add_shape(inspect, required=True)
    inspect.add_argument(
        "--m-major",
        action="store_true",
        help="with scales of A that are M-major, on 16 bytes: TMA can load them",
    )
    inspect.set_defaults(command=_inspect)

    info = commands.add_parser("info", help="show versions, GPU and cache")
    info.set_defaults(command=_info)
    return parser


def _add_shape(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    meanings = {"--m": "rows of A and D", "--n": "rows of B, columns of D", "--k": "columns of A and B"}
    for name, meaning in meanings.items():
        parser.add_argument(name, type=positive, required=required, help=meaning)
    parser.add_argument("--out-dtype", choices=("bfloat16", "float32"), default="bfloat16", help="type of D")


# demo


def _demo(args: argparse.Namespace) -> None:
    import torch

    from cute_gemm.cli import demo

    shape = [args.m, args.n, args.k]
    if args.weights and any(shape):
        raise UsageError("--weights brings its own shapes; use --tokens for the rows of the activations")
    if args.tokens and not args.weights:
        raise UsageError("--tokens goes with --weights; use --m for the rows of random operands")
    if any(shape) and not all(shape):
        raise UsageError("--m, --n and --k go together")

    device, where = _device()
    out_dtype = getattr(torch, args.out_dtype)
    skipped: list[Skipped] = []
    try:
        if args.weights:
            weights, skipped = demo.find_weights(args.weights)
            results = demo.run_weights(weights, args.tokens or [128], device, out_dtype)
        else:
            default = GPU_SHAPES if device.type == "cuda" else CPU_SHAPES
            shapes = [tuple(shape)] if any(shape) else default
            results = demo.run_shapes(shapes, device, out_dtype)
        with _progress("multiplying ...") as update:
            done = []
            for result in results:
                done.append(result)
                update(f"{result.label}: {_shape(result.problem)} done")
    except demo.DemoError as error:
        raise UsageError(str(error)) from error
    console = wide_console(_TABLE_WIDTH)
    console.print(where)
    console.print(_results_table(done, device))
    for reason in dict.fromkeys(result.untimed for result in done if result.untimed):
        console.print(f"not timed: {reason}", markup=False, soft_wrap=True)
    for weight in skipped:
        console.print(f"skipped {weight.name}: {weight.reason}", markup=False)
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


def _results_table(results: Sequence[Result], device: torch.device) -> Table:
    on_gpu = device.type == "cuda"
    table = Table()
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
            cells += [f"{result.us:.1f}", f"{result.tflops:.0f}", f"{result.share_of_limit:.0%}"]
        elif on_gpu:
            cells += ["-"] * 3
        table.add_row(result.label, _shape(result.problem), result.config, *cells)
    return table


# bench


def _bench(args: argparse.Namespace) -> int:
    from cute_gemm.bench import BenchError, command

    try:
        return command.run(args)
    except BenchError as error:
        raise UsageError(str(error)) from error


# tune


def _tune(args: argparse.Namespace) -> int:
    from cute_gemm.tune import TuneError, command

    try:
        return command.run(args)
    except TuneError as error:
        raise UsageError(str(error)) from error


# inspect


def _inspect(args: argparse.Namespace) -> None:
    from cute_gemm.plan import candidates, cost_model
    from cute_gemm.plan.problem import GemmProblem
    from cute_gemm.runtime import builder, selection
    from cute_gemm.runtime.inspection import InspectionError, read_cubin

    if args.n % 8 or args.k % 16:
        raise UsageError(f"N must be a multiple of 8 and K of 16, got N = {args.n}, K = {args.k}")
    problem = GemmProblem(args.m, args.n, args.k, args.out_dtype)
    choices = [
        replace(choice, config=candidates.as_run(problem, choice.config, args.m_major))
        for choice in cost_model.rank(problem)
    ]
    chosen = selection.select(problem, args.m_major)
    console = wide_console(_TABLE_WIDTH)
    console.print(_rivals_table(problem, choices, chosen))
    try:
        with _progress(f"compiling {chosen.name} ..."):
            stats = read_cubin(builder.cubin(chosen))
    except InspectionError as error:
        raise UsageError(str(error)) from error
    console.print(_resources_table(chosen, stats))
    console.print(_instructions_table(stats))


def _rivals_table(problem: GemmProblem, choices: Sequence[Choice], chosen: KernelConfig) -> Table:
    title = f"{_shape(problem)}, {problem.out_dtype} out, {problem.num_sms} SMs"
    table = Table(title=title, title_justify="left")
    table.add_column("configuration", no_wrap=True)
    table.add_column("predicted us", justify="right")
    table.add_column("vs. best", justify="right")
    best = choices[0].cost_us
    for rank, choice in enumerate(choices):
        is_chosen = choice.config == chosen
        if rank < _RIVALS or is_chosen:
            name = f"{choice.config.name} (chosen)" if is_chosen else choice.config.name
            table.add_row(name, f"{choice.cost_us:.1f}", f"{choice.cost_us / best - 1:+.1%}")
    table.caption = f"{len(choices)} configurations compared"
    return table


def _resources_table(config: KernelConfig, stats: KernelStats) -> Table:
    table = Table(title=f"Compiled kernel {config.name}", title_justify="left", show_header=False)
    table.add_row("registers per thread at launch", str(stats.registers))
    table.add_row("shared memory per block", f"{config.smem_bytes:,} bytes")
    table.add_row("of it static", f"{stats.shared_bytes:,} bytes")
    table.add_row("stack per thread", f"{stats.stack_bytes} bytes")
    table.add_row("spill loads / stores", f"{stats.local_loads} / {stats.local_stores}")
    return table


def _instructions_table(stats: KernelStats) -> Table:
    loop = stats.main_loop
    table = Table(title=f"{stats.opcodes.total():,} instructions", title_justify="left")
    table.add_column("opcode")
    table.add_column("count", justify="right")
    table.add_column("in the main loop", justify="right")
    table.add_column("what it is")
    for opcode, meaning in _TELLING.items():
        in_loop = str(loop.count(opcode)) if loop else "-"
        table.add_row(opcode, str(stats.count(opcode)), in_loop, meaning)
    return table


# info


def _info(args: argparse.Namespace) -> None:
    import torch

    from cute_gemm.plan.tuned import files
    from cute_gemm.runtime.cache import cache_info
    from cute_gemm.runtime.hardware import is_hopper

    table = Table(show_header=False)
    table.add_row("cute_gemm", __version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.machine()}")
    for name, version in _related_distributions():
        table.add_row(name, version)
    table.add_row("CUDA of torch", torch.version.cuda or "none (CPU build)")
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        verdict = "Hopper" if is_hopper(index) else "not Hopper, the kernels do not run on it"
        table.add_row(f"GPU {index}", f"{found.name}, {found.multi_processor_count} SMs, {verdict}")
    if not torch.cuda.device_count():
        table.add_row("GPU", "none; calls run the reference in plain torch")
    cache = cache_info()
    table.add_row("cache", str(cache.directory or "switched off"))
    table.add_row("kernels in it", f"{cache.kernels}, {cache.size / 2**20:.1f} MiB")
    if cache.refusal:
        table.add_row("not used, because", cache.refusal)
    table.add_row("tuned choices", str(files.user_directory() or "those of the package only"))
    wide_console(_TABLE_WIDTH).print(table)


def _related_distributions() -> list[tuple[str, str]]:
    names = {"torch", "apache-tvm-ffi", "cuda-python"}
    found = {
        name: distribution.version
        for distribution in metadata.distributions()
        if (name := distribution.metadata["Name"].lower()) in names or name.startswith("nvidia-cutlass-dsl")
    }
    return sorted(found.items())


# shared


def _shape(problem: GemmProblem) -> str:
    return f"{problem.m} x {problem.n} x {problem.k}"


class _ForwardRecords(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextmanager
def _progress(message: str) -> Iterator[Callable[[str], None]]:
    """A moving line on stderr: what the caller passes to the yielded function and what the compiler logs."""
    console = Console(stderr=True)
    logger = logging.getLogger("cute_gemm.runtime.compiler")
    level = logger.level
    with console.status(message) as status:
        # Where a line cannot move, only what takes seconds is worth one.
        handler = _ForwardRecords(status.update if console.is_terminal else console.print)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield status.update
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
