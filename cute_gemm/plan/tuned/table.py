"""What a file of tuned choices says, and for which problems it holds. Pure Python: no torch, no files."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from ..candidates import all_configs, is_candidate
from ..config import KernelConfig
from ..layouts import LAYOUTS
from ..limits import OUT_BYTES
from ..problem import GemmProblem

FORMAT = 2
_SHORT = 200


class TunedError(ValueError):
    """Text, or a file, that is none of tuned choices; the message says why."""


class DamagedError(TunedError):
    """Text that no version has written, for any device."""


@dataclass(frozen=True)
class Entry:
    """One line of a file: the problem that was measured, and what was best.

    Args:
        layout, out_dtype, num_sms, groups, n, k, m: as in `GemmProblem`; ``m`` is of all groups together.
        config: the name of the best configuration.
        cold_us, chain_us, sustained_us: its times in microseconds, None where they were not measured.
    """

    layout: str
    out_dtype: str
    num_sms: int
    groups: int
    n: int
    k: int
    m: int
    config: str
    cold_us: float | None = None
    chain_us: float | None = None
    sustained_us: float | None = None

    @staticmethod
    def of(problem: GemmProblem, config: KernelConfig, **us: float) -> Entry:
        """What to write where ``config`` was best for ``problem``; ``us`` are its times."""
        return Entry(
            layout=problem.layout.name,
            out_dtype=problem.out_dtype,
            num_sms=problem.num_sms,
            groups=problem.groups,
            n=problem.n,
            k=problem.k,
            m=problem.m,
            config=config.name,
            **us,
        )

    @property
    def series(self) -> tuple[str | int, ...]:
        """What entries share that differ in ``m`` only."""
        return self.layout, self.out_dtype, self.num_sms, self.groups, self.n, self.k

    @property
    def key(self) -> tuple[Any, ...]:
        """What a file has one entry of, and is sorted by."""
        return *self.series, self.m

    @property
    def kernel_config(self) -> KernelConfig | None:
        """The configuration of that name; None if there is none (any more) of this type and layout."""
        return _configs(self.out_dtype, self.layout).get(self.config)


class Table:
    """Entries, to be asked for problems."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Those whose configuration does not exist never answer."""
        self._entries: dict[tuple[str | int, ...], list[Entry]] = {}
        for entry in sorted(entries, key=lambda entry: entry.key):
            self._entries.setdefault(entry.series, []).append(entry)
        self._found: dict[tuple[str | int, ...], tuple[list[int], list[KernelConfig]]] = {}

    def choice(self, problem: GemmProblem) -> KernelConfig | None:
        """What was best for ``problem``, or for less and for more rows alike; None if that is not known.

        None also where that does not suit ``problem``, such as one that is batch invariant.
        """
        rows, configs = self._known(problem)
        above = bisect.bisect_left(rows, problem.m)
        if above == len(rows):
            return None
        config = configs[above]
        if rows[above] != problem.m and (above == 0 or configs[above - 1] != config):
            return None
        return config if is_candidate(problem, config) else None

    def rows(self, problem: GemmProblem) -> list[int]:
        """The M that entries have, of problems that differ from ``problem`` in M alone, ascending."""
        return self._known(problem)[0]

    def _known(self, problem: GemmProblem) -> tuple[list[int], list[KernelConfig]]:
        """The M of its series, ascending, and what was best. Configurations of others are not looked for."""
        series = _series(problem)
        if series not in self._entries:
            return [], []
        if series not in self._found:
            known = [(each.m, each.kernel_config) for each in self._entries[series]]
            exist = [(m, config) for m, config in known if config is not None]
            self._found[series] = [m for m, _ in exist], [config for _, config in exist]
        return self._found[series]


def render(device_name: str, entries: Iterable[Entry]) -> str:
    """The text of a file: sorted, a line for each entry."""
    lines = [
        json.dumps({name: value for name, value in asdict(entry).items() if value is not None})
        for entry in sorted(entries, key=lambda entry: entry.key)
    ]
    head = f'{{\n"format": {FORMAT},\n"device": {json.dumps(device_name)},\n"entries": [\n'
    return head + ",\n".join(lines) + "\n]\n}\n"


def parse(text: str, device_name: str) -> list[Entry]:
    """The entries of a file for devices of a name, also those whose configuration does not exist.

    Raises:
        DamagedError: it is no such text.
        TunedError: it is of another format or for another device.
    """
    try:
        content = json.loads(text)
        found, device, rows = content["format"], content["device"], content["entries"]
    # Of text that is nested a thousand deep the parser says RecursionError.
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"these are no tuned choices: {type(error).__name__}: {error}") from error
    if found != FORMAT:
        raise TunedError(f"it is of format {_short(found)}; this version reads and writes format {FORMAT}")
    if device != device_name:
        raise TunedError(f"it is for {_short(device)}, not for {device_name!r}")
    if not isinstance(rows, list):
        raise DamagedError("its entries are no list")
    return [_entry(row) for row in rows]


def _entry(row: Any) -> Entry:
    try:
        entry = Entry(**row)
    except TypeError as error:
        raise DamagedError(f"it has an entry with other keys, {_short(row)}: {error}") from error
    is_valid = (
        entry.layout in tuple(LAYOUTS)
        and entry.out_dtype in tuple(OUT_BYTES)
        and all(map(_is_extent, (entry.num_sms, entry.groups, entry.n, entry.k, entry.m)))
        and type(entry.config) is str
        and all(map(_is_time, (entry.cold_us, entry.chain_us, entry.sustained_us)))
    )
    if not is_valid:
        raise DamagedError(f"it has an entry with values that cannot be, {_short(row)}")
    return entry


def _short(value: Any) -> str:
    """For a message, what a file says: in one line, and of no length."""
    text = json.dumps(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


def _is_extent(value: Any) -> bool:
    # A truth is an int to isinstance.
    return type(value) is int and value > 0


def _is_time(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < math.inf)


def _series(of: GemmProblem) -> tuple[str | int, ...]:
    return of.layout.name, of.out_dtype, of.num_sms, of.groups, of.n, of.k


@cache
def _configs(out_dtype: str, layout: str) -> dict[str, KernelConfig]:
    return {config.name: config for config in all_configs(out_dtype, LAYOUTS[layout])}
