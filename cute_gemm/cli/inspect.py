"""`cute-gemm inspect`: what a kernel is compiled to: of a shape, a configuration, or one's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cute_gemm.measure.arguments import positive
from cute_gemm.measure.console import PlainTable, wide_console
from cute_gemm.measure.errors import CommandError
from cute_gemm.plan.card import CARDS, H100, Card
from cute_gemm.plan.problem import GemmProblem, why_impossible

from . import shapes
from .status_line import status_line

if TYPE_CHECKING:
    from cute_gemm.plan.config import KernelConfig
    from cute_gemm.plan.cost_model import Choice
    from cute_gemm.runtime import KernelStats, Program

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


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser(
        "inspect", help="show the kernel of a shape, a configuration or a program; needs no GPU"
    )
    shapes.add_arguments(parser)
    parser.add_argument(
        "--m-major",
        action="store_true",
        help="with scales of A that are M-major, on 16 bytes: TMA can load them",
    )
    parser.add_argument(
        "--card",
        choices=CARDS,
        metavar="NAME",
        help=f"what would be chosen on this card: {', '.join(CARDS)} (default: the one here, or an H100)",
    )
    parser.add_argument(
        "--num-sms", type=positive, metavar="N", help="as of cute_gemm.config (default: all of the card)"
    )
    parser.add_argument("--config", metavar="NAME", help="in place of a shape: a candidate's name")
    parser.add_argument(
        "--kernel",
        metavar="WHERE",
        help="in place of a shape: a program, or a function that returns one, as module:name or file.py:name",
    )
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    extents = args.m, args.n, args.k
    given = [args.config is not None, args.kernel is not None, any(extents)]
    if sum(given) != 1 or (any(extents) and not all(extents)):
        raise CommandError("want a shape, by --m, --n and --k, or --config, or --kernel")
    if not any(extents) and (args.card or args.num_sms):
        raise CommandError("--card and --num-sms go with a shape")
    try:
        _show(_chosen(args) if any(extents) else _named(args))
    except CommandError:
        raise
    # A ValueError says by name what a configuration asks for that there is not.
    except (RuntimeError, ValueError) as error:
        raise CommandError(str(error)) from error
    # What compiles a kernel of the user's raises whatever it raises.
    except Exception as error:
        if not args.kernel:
            raise
        raise CommandError(f"{args.kernel} cannot be compiled: {type(error).__name__}: {error}") from error


def _named(args: argparse.Namespace) -> Program | KernelConfig:
    from cute_gemm.runtime.lookup import find_config, find_program

    return find_program(args.kernel) if args.config is None else find_config(args.config)


def _chosen(args: argparse.Namespace) -> KernelConfig:
    """What is chosen for a shape, after a table of what else was there."""
    from cute_gemm.plan import candidates, cost_model, tuned
    from cute_gemm.runtime import selection

    if why := why_impossible(args.n, args.k):
        raise CommandError(why)
    card = _card(args.card)
    num_sms = card.sms if args.num_sms is None else args.num_sms
    if num_sms > card.sms:
        raise CommandError(f"--num-sms is {num_sms}, but {card.name} has {card.sms}")
    problem = GemmProblem(args.m, args.n, args.k, args.out_dtype, num_sms, card=card)
    choices = [
        replace(choice, config=candidates.as_run(problem, choice.config, args.m_major))
        for choice in cost_model.rank(problem)
    ]
    chosen = selection.select(problem, args.m_major)
    verdict = "chosen" if tuned.choice(problem) is None else "chosen, as measured"
    wide_console().print(_rivals_table(problem, choices, chosen, verdict))
    return chosen


def _card(name: str | None) -> Card:
    """The card of a name; without one that of this machine, or an H100."""
    from cute_gemm.runtime import hardware

    if name is not None:
        return CARDS[name]
    return hardware.card() if hardware.is_hopper() else H100


def _show(of: Program | KernelConfig) -> None:
    from cute_gemm.runtime.builder import label
    from cute_gemm.runtime.lookup import examine, shared_bytes

    with status_line(f"compiling {label(of)} ..."):
        stats = examine(of)
    console = wide_console()
    console.print(_resources_table(label(of), shared_bytes(of), stats))
    console.print(_instructions_table(stats))


def _rivals_table(
    problem: GemmProblem, choices: Sequence[Choice], chosen: KernelConfig, verdict: str
) -> PlainTable:
    on = f"{problem.num_sms} SMs of {problem.card.name}"
    title = f"{shapes.extents_text(problem)}, {problem.out_dtype} out, {on}"
    table = PlainTable(title=title, title_justify="left")
    table.add_column("configuration", no_wrap=True)
    table.add_column("predicted us", justify="right")
    table.add_column("vs. best", justify="right")
    for name in ("waves", "tiles us", "memory us", "factor"):
        table.add_column(name, justify="right")
    best = choices[0].cost_us
    for rank, choice in enumerate(choices):
        is_chosen = choice.config == chosen
        if rank < _RIVALS or is_chosen:
            name = f"{choice.config.name} ({verdict})" if is_chosen else choice.config.name
            table.add_row(
                name,
                f"{choice.cost_us:.1f}",
                f"{choice.cost_us / best - 1:+.1%}",
                f"{choice.waves}",
                f"{choice.tiles_us:.1f}",
                f"{choice.dram_us:.1f}",
                f"{choice.factor:.2f}",
            )
    table.caption = (
        f"{len(choices)} configurations compared. Tiles and memory work at the same time: predicted is a "
        "little more than the longer of both, and the launch, times a factor that was fitted to measurements"
    )
    return table


def _resources_table(name: str, shared: int, stats: KernelStats) -> PlainTable:
    table = PlainTable(title=f"Compiled kernel {name}", title_justify="left", show_header=False)
    table.add_row("registers per thread at launch", str(stats.registers))
    table.add_row("shared memory per block", f"{shared:,} bytes")
    table.add_row("of it static", f"{stats.shared_bytes:,} bytes")
    table.add_row("stack per thread", f"{stats.stack_bytes} bytes")
    table.add_row("spill loads / stores", f"{stats.local_loads} / {stats.local_stores}")
    return table


def _instructions_table(stats: KernelStats) -> PlainTable:
    loop = stats.main_loop
    table = PlainTable(title=f"{stats.opcodes.total():,} instructions", title_justify="left")
    table.add_column("opcode")
    table.add_column("count", justify="right")
    table.add_column("in the main loop", justify="right")
    table.add_column("what it is")
    for opcode, meaning in _TELLING.items():
        in_loop = str(loop.count(opcode)) if loop else "-"
        table.add_row(opcode, str(stats.count(opcode)), in_loop, meaning)
    return table
