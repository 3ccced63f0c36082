"""What `cute-gemm bench` does, behind its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..measure.console import failed, say, wide_console
from ..measure.device import compile_kernels, require_hopper
from ..measure.errors import CommandError
from ..measure.expert_layers import fused_program
from ..measure.files import require_writable
from ..measure.origin import describe_origin
from ..measure.progress import track
from ..measure.records import ALL_REGIMES, Row
from ..measure.shapes import Shape
from ..measure.statistics import geometric_mean
from ..measure.timers import Sustained, timers_of
from ..runtime import hardware
from . import changes, layer_summary, shares, tables
from .arguments import DEFAULT_OUT, DEFAULT_THRESHOLD, MEASURING, OPS
from .comparison import compare, speeds_without_padding, text_table
from .peers import GradientPeer, LayerPeer, Peer, QuantizerPeer
from .peers.registry import GRADIENTS, LAYERS, NAMES, PEERS, QUANTIZERS, split_available
from .results import read_results
from .resume import Rest, rest_of
from .run import Bench, fused_kernels_of, kernels_of, run_trials
from .suite import GRADIENT, LAYER, PRODUCT, QUANTIZER, SUITES, Trial, plan

_AnyPeer = Peer | QuantizerPeer | LayerPeer | GradientPeer

_REGISTRIES: dict[str, Mapping[str, _AnyPeer]] = {
    PRODUCT: PEERS,
    QUANTIZER: QUANTIZERS,
    LAYER: LAYERS,
    GRADIENT: GRADIENTS,
}

TABLES = "tables.md"
_TABLE_WIDTH = 140


def run(args: argparse.Namespace) -> int:
    """What the arguments of `arguments.add_arguments` ask for.

    Returns:
        The exit status: 1 if something failed, was wrong, or got slower, else 0.

    Raises:
        CommandError: it cannot be done.
    """
    _require_fitting(args)
    if args.plot:
        draw(args.plot, args.out or (args.plot.parent if args.plot.is_file() else args.plot))
        return 0
    if args.compare:
        old, new = args.compare
        threshold = DEFAULT_THRESHOLD if args.threshold is None else args.threshold
        return compare_runs(old, new, threshold / 100)
    failures = measure(
        SUITES if args.suite in (None, "all") else (args.suite,),
        ALL_REGIMES if args.regime in (None, "all") else (args.regime,),
        OPS if args.ops is None else args.ops,
        args.shapes,
        NAMES if args.peers is None else args.peers,
        args.out or DEFAULT_OUT,
        args.resume,
    )
    return failed(failures)


def _require_fitting(args: argparse.Namespace) -> None:
    """What has no effect was meant to have one.

    Raises:
        CommandError: options do not go together.
    """
    given = [name for name in MEASURING if getattr(args, name) not in (None, False)]
    instead = "--plot" if args.plot else "--compare" if args.compare else None
    if instead and given:
        raise CommandError(f"--{given[0]} says what is measured, and {instead} measures nothing")
    if args.compare and args.out:
        raise CommandError("--compare writes nothing, so --out does not go with it")
    if args.threshold is not None and not args.compare:
        raise CommandError("--threshold goes with --compare")


def measure(
    suites: Sequence[str],
    regimes: Sequence[str],
    ops: Sequence[str],
    shapes: Sequence[Shape] | None,
    peer_names: Sequence[str],
    out: Path,
    is_resumed: bool = False,
) -> list[str]:
    """Time what is asked for, print how it went, and write JSON lines, tables and plots.

    Args:
        suites, regimes, ops, shapes: as for `suite.plan`.
        peer_names: of `peers.registry.NAMES`.
        out: the directory that is written to.
        is_resumed: whether what is in it is kept, and only the rest measured.

    Returns:
        What failed, a line each.

    Raises:
        CommandError: there is no Hopper GPU, or nothing to measure, or ``out`` cannot be written to, or has
            what cannot be gone on with.
    """
    trials = plan(suites, regimes, ops, shapes)
    require_hopper("bench", "--plot and --compare work without one, on results")
    require_writable(out)
    kinds = {trial.kind for trial in trials}
    peers, missing = split_available(peer_names if PRODUCT in kinds else (), PEERS)
    quantizers, missing_quantizers = split_available(peer_names if QUANTIZER in kinds else (), QUANTIZERS)
    layers, missing_layers = split_available(peer_names if LAYER in kinds else (), LAYERS)
    gradients, missing_gradients = split_available(peer_names if GRADIENT in kinds else (), GRADIENTS)
    timers, replaced = timers_of(regimes, Sustained())
    idle = [] if peer_names == NAMES else _idle(trials, peer_names)
    absent = *missing, *missing_quantizers, *missing_layers, *missing_gradients
    for note in dict.fromkeys((*absent, *idle, *replaced)):
        say(note)
    card = hardware.card()
    named: list[_AnyPeer] = [*peers, *quantizers, *layers, *gradients]
    versions = {name: version for peer in named for name, version in peer.versions().items()}
    origin = describe_origin(versions)
    rest = rest_of(trials, out, origin) if is_resumed else Rest(trials)
    if is_resumed:
        say(f"{len(trials) - len(rest.trials)} of {len(trials)} trials are in {out}; the others follow")
    compile_kernels(kernel for trial in rest.trials for kernel in kernels_of(trial, card))
    if fused := [kernel for trial in rest.trials for kernel in fused_kernels_of(trial, card)]:
        compile_kernels(fused, fused_program)
    bench = Bench(timers, peers, origin, card, quantizers=quantizers, layers=layers, gradients=gradients)
    rows, failures = run_trials(bench, track(rest.trials, "measuring"), out, rest.kept)
    _print_comparisons(rows)
    if rows:
        write_pictures(rows, out)
    return failures


def _idle(trials: Sequence[Trial], names: Sequence[str]) -> list[str]:
    """A line for each name of a peer that has no part in any trial."""
    busy = {
        name
        for kind, regime in {(trial.kind, trial.regime) for trial in trials}
        for name, peer in _REGISTRIES[kind].items()
        if regime in peer.regimes
    }
    return [
        f"{name} is not timed: it has no part in what is measured (docs/benchmarking.md says which has)"
        for name in names
        if name not in busy
    ]


def draw(source: Path, out: Path) -> None:
    """Make tables and plots again from the JSON lines in a file or directory; needs no GPU.

    Raises:
        CommandError: there are none.
    """
    write_pictures(read_results(source), out)


def compare_runs(old: Path, new: Path, threshold: float) -> int:
    """Print what got slower from one run to another.

    Args:
        old, new: files or directories of JSON lines.
        threshold: the share by which a time may grow.

    Returns:
        1 if one grew by more than that and by more than the spread of both runs, else 0.

    Raises:
        CommandError: there are no such lines, or none that compare.
    """
    before, after = read_results(old), read_results(new)
    found = changes.compare(before, after)
    wide_console(_TABLE_WIDTH).print(changes.table(found, threshold))
    say(changes.summary(before, after, found, threshold))
    return 1 if any(each.is_regression(threshold) for each in found) else 0


def write_pictures(rows: Sequence[Row], out: Path) -> None:
    """Write the Markdown tables and, if matplotlib is installed, the plots; say where they are.

    Raises:
        CommandError: the directory cannot be written to.
        OSError: a file in it cannot.
    """
    require_writable(out)
    (out / TABLES).write_text(tables.render(rows), encoding="utf-8")
    say(f"tables: {out / TABLES}")
    try:
        from . import plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("plots were left out, as matplotlib is not installed: pip install 'cute-gemm[bench]', then")
        say(f"cute-gemm bench --plot {out}")
        return
    if files := plots.draw(rows, out):
        say(f"plots: {', '.join(file.name for file in files if file.suffix == '.png')} (and .svg)")


def _print_comparisons(rows: Sequence[Row]) -> None:
    for regime in tables.REGIMES:
        for op in tables.OPS:
            if compared := compare(rows, regime, op):
                say(f"\n{text_table(compared, f'{regime} {op}')}")
        if speeds := speeds_without_padding(rows, regime):
            mean, least = geometric_mean(speeds), min(speeds)
            print(f"\n{regime} offsets, relative to contiguous: {mean:.3f}, least {least:.3f}")
    for text in filter(None, (shares.summary(rows), layer_summary.summary(rows))):
        say(f"\n{text}")
