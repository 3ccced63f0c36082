"""Random problems, as models have them: the same for the same seed, one after the other without end."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from cute_gemm.measure.records import CONTIGUOUS, DENSE, MASKED, OFFSETS, Row
from cute_gemm.measure.shapes import Shape, shape_text
from cute_gemm.measure.work import layout_of, padded_rows
from cute_gemm.plan.card import Card
from cute_gemm.plan.layouts import Layout
from cute_gemm.plan.limits import CONTIGUOUS_ALIGNMENT, H100_SMS, ceil_div
from cute_gemm.plan.problem import GemmProblem

# Operations alternate: seven of ten are dense.
_TURNS = DENSE, DENSE, CONTIGUOUS, DENSE, DENSE, OFFSETS, DENSE, DENSE, MASKED, DENSE

MOST_FLOPS = 4e12
"""Of one call: 4 ms at 1000 TFLOP/s."""

MOST_DENSE_WEIGHTS = 256 << 20
MOST_BYTES = 1 << 30
"""Of A, of all matrices B, and of the result."""

MOST_ROWS = 65536
"""Of all groups together, padding included where they lie in one matrix."""

_MOST_US = 4000.0
_FLOPS_PER_SM_US = 1e9 / H100_SMS
_BYTES_PER_SM_US = 100e3

KINDS = "even", "spread", "skewed", "empty"
"""How rows are shared out among groups: the same for all; 0.7 to 1.3 times the mean; a few groups with most
of them; and spread, with groups that have none."""


@dataclass(frozen=True)
class Draw:
    """One problem.

    Args:
        op: as in `records`.
        n, k: columns of the result, depth of the product.
        sizes: rows of each group; of a dense problem M alone.
        num_sms: multiprocessors that kernels are given; None for all of the device.
    """

    op: str
    n: int
    k: int
    sizes: tuple[int, ...]
    num_sms: int | None = None

    @property
    def layout(self) -> Layout:
        return layout_of(self.op)

    @property
    def groups(self) -> int:
        return len(self.sizes)

    @property
    def expected_rows(self) -> int:
        """Of a group, as a caller says who knows the mean."""
        return max(1, round(sum(self.sizes) / self.groups))

    @property
    def rows(self) -> int:
        """Of A, or of each of its matrices: the largest group's, rounded up to 128."""
        if self.layout.has_matrix_per_group:
            return ceil_div(max(self.sizes), CONTIGUOUS_ALIGNMENT) * CONTIGUOUS_ALIGNMENT
        return padded_rows(self.layout, self.sizes)

    @property
    def matrices(self) -> tuple[int, ...]:
        """The extent of A and of the result in front of their rows, if they have one."""
        return (self.groups,) if self.layout.has_matrix_per_group else ()

    @property
    def all_rows(self) -> int:
        """Of all matrices A."""
        return self.rows * (self.groups if self.matrices else 1)

    @property
    def bytes_of_b(self) -> int:
        """Of all groups."""
        return self.groups * self.n * self.k

    @property
    def shape(self) -> Shape:
        """As in `records.KEYS`."""
        if not self.layout.is_grouped:
            return self.rows, self.n, self.k
        return self.groups, self.expected_rows, self.n, self.k

    @property
    def title(self) -> str:
        sms = "" if self.num_sms is None else f" on {self.num_sms} SMs"
        return f"{self.op} {shape_text(self.shape)}{sms}"

    def problem(self, card: Card) -> GemmProblem:
        """What a call asks for on a card, as far as the host knows it."""
        m = self.layout.rows(self.rows, self.groups, self.expected_rows)
        sms = card.sms if self.num_sms is None else self.num_sms
        layout, groups = self.layout, self.groups
        return GemmProblem(m, self.n, self.k, num_sms=sms, layout=layout, groups=groups, card=card)

    def key(self) -> Row:
        """What a row keeps of it; sizes that repeat as ``[size, count]``."""
        row: Row = {"op": self.op, "n": self.n, "k": self.k}
        if self.layout.is_grouped:
            runs = [(size, len(list(run))) for size, run in itertools.groupby(self.sizes)]
            row["sizes"] = [size if count == 1 else [size, count] for size, count in runs]
        else:
            row["m"] = self.rows
        return row if self.num_sms is None else row | {"num_sms": self.num_sms}

    @staticmethod
    def of_row(row: Row) -> Draw:
        """What :meth:`key` was made of."""
        runs = [each if isinstance(each, list) else [each, 1] for each in row.get("sizes", [row.get("m")])]
        sizes = tuple(size for size, count in runs for _ in range(count))
        return Draw(row["op"], row["n"], row["k"], sizes, row.get("num_sms"))


def draw_shapes(seed: int, ops: Collection[str] = _TURNS, device_sms: int | None = None) -> Iterator[Draw]:
    """Problems without end; which those of one operation are does not depend on what else is in ``ops``.

    Args:
        seed: of the draws.
        ops: the operations that are wanted, at least one.
        device_sms: if it is given, a third of the problems are for as many multiprocessors as are drawn, up
            to this.
    """
    for index in itertools.count():
        op = _TURNS[index % len(_TURNS)]
        if op not in ops:
            continue
        rng = random.Random(f"{seed}, {index}")
        found = _dense(rng) if op == DENSE else _grouped(op, rng)
        if device_sms is not None and rng.random() < 1 / 3:
            sms = rng.randint(least_sms(found, device_sms), device_sms)
            found = Draw(found.op, found.n, found.k, found.sizes, sms)
        yield found


def draw_routed(seed: int) -> Iterator[Draw]:
    """Problems without end of few tokens, each of which has chosen experts: many groups have no rows.

    Of some, the experts here are an eighth of all.
    """
    for index in itertools.count():
        rng = random.Random(f"{seed}, routed, {index}")
        tokens, experts = round(2 ** rng.uniform(0, 9)), round(2 ** rng.uniform(3, 8))
        everyone = range(experts * rng.choice([1, 8]))
        choices = min(rng.choice([1, 2, 4, 8]), len(everyone))
        chosen = Counter(expert for _ in range(tokens) for expert in rng.sample(everyone, choices))
        sizes = tuple(chosen[expert] for expert in range(experts))
        found = Draw(OFFSETS, *_n_and_k(rng), sizes)
        if any(sizes) and is_in_bounds(found):
            yield found


def flops_of(draw: Draw) -> int:
    """Multiplications and additions, padding included."""
    rows = draw.rows if not draw.matrices else sum(draw.sizes)
    return 2 * rows * draw.n * draw.k


def least_sms(draw: Draw, device_sms: int) -> int:
    """As few multiprocessors of a device as compute a problem in about the longest time of a call."""
    moved = draw.bytes_of_b + draw.all_rows * (draw.k + 2 * draw.n)
    slowest = max(flops_of(draw) / _FLOPS_PER_SM_US, moved / _BYTES_PER_SM_US)
    return min(max(1, round(slowest / _MOST_US + 0.5)), device_sms)


def _dense(rng: random.Random) -> Draw:
    exponent = rng.uniform(0, 8) if rng.random() < 0.5 else rng.uniform(8, 14)
    m = round(2**exponent)
    if rng.random() < 0.5:
        unit = rng.choice([each for each in (8, 16, 64, 128) if each <= m] or [1])
        m = unit * round(m / unit)
    while True:
        n, k = _n_and_k(rng)
        if n * k <= MOST_DENSE_WEIGHTS and 2 * m * n * k <= MOST_FLOPS:
            return Draw(DENSE, n, k, (m,))


def _grouped(op: str, rng: random.Random) -> Draw:
    while True:
        groups, mean = round(2 ** rng.uniform(0, 8)), round(2 ** rng.uniform(0, 12))
        sizes = draw_sizes(rng, groups, mean, rng.choice(KINDS))
        if sum(sizes) > MOST_ROWS:
            continue
        found = Draw(op, *_n_and_k(rng), sizes)
        if is_in_bounds(found):
            return found


def is_in_bounds(draw: Draw) -> bool:
    """Whether operands fit what the pool of a survey has for them, and a call takes no longer than it may."""
    if not draw.matrices and draw.rows > MOST_ROWS:
        return False
    largest = max(draw.all_rows * draw.k, 2 * draw.all_rows * draw.n, draw.bytes_of_b)
    return largest <= MOST_BYTES and flops_of(draw) <= MOST_FLOPS


def _n_and_k(rng: random.Random) -> tuple[int, int]:
    unit = 128 if rng.random() < 0.8 else 64
    return _extent(rng, 256, 32768, 64), _extent(rng, 256, 18432, unit)


def _extent(rng: random.Random, least: int, most: int, unit: int) -> int:
    """A multiple of ``unit``, uniform by logarithms."""
    return unit * round(least * (most / least) ** rng.random() / unit)


def draw_sizes(rng: random.Random, groups: int, mean: int, kind: str) -> tuple[int, ...]:
    """Rows of groups by one of :data:`KINDS`, ``mean`` of each on average; at least one has some."""
    if kind == "even" or groups == 1:
        return (mean,) * groups
    if kind == "skewed":
        weights = [rng.lognormvariate(0, 1.2) for _ in range(groups)]
        return _shared_out(groups * mean, weights)
    sizes = [max(1, round(mean * rng.uniform(0.7, 1.3))) for _ in range(groups)]
    if kind == "empty":
        for group in rng.sample(range(groups), rng.randint(1, groups - 1)):
            sizes[group] = 0
    return tuple(sizes)


def _shared_out(rows: int, weights: Sequence[float]) -> tuple[int, ...]:
    """``rows`` in proportion to weights."""
    shares = list(itertools.accumulate(weights, initial=0.0))
    ends = [round(rows * share / shares[-1]) for share in shares]
    return tuple(end - start for start, end in itertools.pairwise(ends))
