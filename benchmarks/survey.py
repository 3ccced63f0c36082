"""Times candidates of the cost model at random problems on a Hopper GPU, as many as time allows.

    python benchmarks/survey.py --seconds 560 --seed 1 --out survey.jsonl
    python benchmarks/survey.py --again --peers deep_gemm --seed 2 --ops dense --count 200 --out judge.jsonl
    python benchmarks/survey.py --routed --seconds 120 --seed 3 --out routed.jsonl
    python benchmarks/survey.py --dry-run --seed 1 --count 40       # what would be timed; needs no GPU

Single calls with a cold L2, and layers in a CUDA graph with and without dependent launch; M-major scales,
bf16 out, operands of standard normal values. All candidates that sum k-blocks in one order must give the same
bits, and those must be right: a wrong result ends the survey. With --again what a call launches, the fastest
candidates and peers are timed once more, in samples that did not select them: choices are judged by them.

`survey_file.read_measured` reads what was written; benchmarks/surveys/README.md says what is in a line.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from drawn_shapes import Draw, draw_routed, draw_shapes
from operand_pool import OperandPool
from peer_warmup import call_peers
from survey_file import Measured, SurveyFile
from survey_plans import Plan, batches, plan_of
from survey_trials import judged, measure, note

from cute_gemm.bench.peers.registry import PEERS, split_available
from cute_gemm.measure import arguments
from cute_gemm.measure.device import compile_kernels, require_hopper
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.origin import describe_origin
from cute_gemm.measure.records import CONTIGUOUS, DENSE, MASKED, OFFSETS
from cute_gemm.measure.statistics import percentile
from cute_gemm.plan.card import H100, Card
from cute_gemm.runtime import hardware

OPS = {"dense": DENSE, "contiguous": CONTIGUOUS, "offsets": OFFSETS, "masked": MASKED}
# Of the registry those that compute the same, each by kernels that it does not first have to try out.
PEER_NAMES = ("deep_gemm",)
# More than ten minutes are enough for: their kernels are compiled before any is timed.
MOST_SHAPES = 4000


class Budget:
    """Seconds that are left, and whether another batch fits into them, if it takes as long as the slowest."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._slowest = 0.0

    @property
    def left(self) -> float:
        return self._end - self._clock()

    def rations(self, items: Iterator[list[Plan]]) -> Iterator[list[Plan]]:
        """Items one after the other, until there is no time for another."""
        while self.left > 1.1 * self._slowest and (item := next(items, None)) is not None:
            left = self.left
            yield item
            self._slowest = max(self._slowest, left - self.left)


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=arguments.number_from(1.0), default=560.0, help="from start to end")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=[*OPS])
    parser.add_argument(
        "--routed", action="store_true", help="instead: offsets of few tokens, each of which chose experts"
    )
    parser.add_argument("--count", type=arguments.positive, help="so many problems at most")
    parser.add_argument("--within", type=arguments.number_from(1.0), default=1.4, help="as cute-gemm tune")
    parser.add_argument(
        "--num-sms", choices=["all", "random"], default="all", help="random: fewer for a third of all"
    )
    parser.add_argument("--again", action="store_true", help="time the chosen and the best once more")
    parser.add_argument(
        "--peers", nargs="+", choices=PEER_NAMES, default=[], help="beside them; needs --count"
    )
    parser.add_argument("--dry-run", action="store_true", help="list problems and numbers of candidates")
    parser.add_argument("--out", type=Path, help="the JSON lines to write, a new file")
    options = parser.parse_args(argv)
    if options.peers and not (options.again and options.count):
        parser.error("--peers goes with --again, and with --count, as peers may compile for each problem")
    if options.peers and options.num_sms != "all":
        parser.error("--peers take all multiprocessors: leave out --num-sms")
    if not options.dry_run and options.out is None:
        parser.error("name a new file by --out")
    if "deep_gemm" in options.peers:
        options.peers.append("deep_gemm_pdl")
    return options


def draws_of(options: argparse.Namespace, card: Card) -> list[Draw]:
    if options.routed:
        return list(itertools.islice(draw_routed(options.seed), options.count or MOST_SHAPES))
    ops = {OPS[name] for name in options.ops}
    device_sms = card.sms if options.num_sms == "random" else None
    return list(itertools.islice(draw_shapes(options.seed, ops, device_sms), options.count or MOST_SHAPES))


def run(options: argparse.Namespace, budget: Budget) -> int:
    """What the arguments ask for; gives the exit status.

    Raises:
        CommandError: it cannot be done.
    """
    if options.dry_run:
        list_plans(options)
        return 0
    require_hopper("survey.py", "--dry-run works without one")
    card = hardware.card()
    plans = [plan_of(draw, card, options.within, options.seed) for draw in draws_of(options, card)]
    names = list(dict.fromkeys(options.peers))
    peers, reasons = split_available(names, PEERS)
    for reason in reasons:
        note(reason)
    more = {name: version for peer in peers for name, version in peer.versions().items()}
    header = {**describe_origin(more), "card": asdict(card), "seed": options.seed}
    with new_file(options.out) as stream:
        compile_kernels(kernel for plan in plans for kernel in plan.kernels)
        if peers:
            call_peers([peer.name for peer in peers], [plan.draw for plan in plans])
        print(f"compiled, {budget.left:.0f} s left", flush=True)
        pool = OperandPool.make()
        file = SurveyFile(stream, header)
        rows: list[Measured] = []
        for batch in budget.rations(batches(plans)):
            for row in measure(pool, batch, options.again, peers):
                file.add(row)
                rows.append(row)
            if not rows:
                raise CommandError("nothing of the first batch could be timed")
            print(f"{len(rows)} problems done, {budget.left:.0f} s left", flush=True)
    summarise(rows)
    return 0


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A file to write to, which is gone again if nothing was written.

    Raises:
        CommandError: it cannot be made, or is there already.
    """
    try:
        stream = path.open("x", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot make {path}: {error.strerror}; name a new file by --out") from error
    try:
        with stream:
            yield stream
    finally:
        if not path.stat().st_size:
            path.unlink()


def list_plans(options: argparse.Namespace) -> None:
    """Print what would be timed on an H100."""
    plans = [plan_of(draw, H100, options.within, options.seed) for draw in draws_of(options, H100)]
    for plan in plans:
        print(f"{plan.draw.title}: {len(plan.configs)} candidates, {plan.us / 1e3:.0f} ms")
    kernels = {kernel for plan in plans for kernel in plan.kernels}
    count, seconds = len(list(batches(plans))), sum(plan.us for plan in plans) / 1e6
    print(
        f"{len(plans)} problems in {count} batches, {len(kernels)} kernels, about {seconds:.0f} s on the GPU"
    )


def summarise(rows: Sequence[Measured]) -> None:
    """Print how many problems were timed of each operation, and how good the choices are."""
    counts = Counter(row.draw.op for row in rows)
    print(", ".join(f"{op}: {count}" for op, count in sorted(counts.items())) or "no time for any problem")
    for regime, ratios in judged(rows).items():
        late = percentile(ratios, 0.95)
        print(f"{regime}: chosen / best: mean {statistics.mean(ratios):.4f}, 95th percentile {late:.4f}")


def main(argv: Sequence[str] | None = None) -> int:
    options = options_of(argv)
    budget = Budget(options.seconds)
    try:
        return run(options, budget)
    except CommandError as error:
        note(str(error))
    except AssertionError as error:
        note(f"WRONG {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
