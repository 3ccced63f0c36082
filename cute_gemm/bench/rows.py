"""The rows that a benchmark writes, and what is one where it is read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..measure.choices import LayerShape
from ..measure.console import printable
from ..measure.records import (
    ALL_REGIMES,
    CHAIN,
    KEYS,
    LAYERS,
    OURS,
    PRODUCTS,
    QUANTIZERS,
    STAGES,
    Row,
    key_of,
    shape_of,
)
from ..measure.work import Work
from ..plan.data_sheets import data_sheet
from ..plan.limits import MAX_EXTENT, MAX_GROUPS

# In microseconds: 0.001 is the least that is written, and ten days are more than anybody waits.
_LEAST_US, _MOST_US = 1e-3, 1e12
_MOST_SHARE = _MOST_RATE = 1e9
_MOST_BYTES = 1e18
_LONGEST = 200


def measurement(
    work: Work,
    peer: str,
    us: float,
    *,
    median: float | None,
    spread: float | None,
    rounds: int,
    timer: str,
    regime: str,
    scale_layout: str | None,
    config: str | None,
    error_worst_tile: float | None,
    origin: Row,
) -> Row:
    """One line of a results file.

    Args:
        work: what was computed.
        peer: who computed it.
        us: mean over the rounds, in microseconds, as are `median` and `limit_us`.
        median, spread: over the rounds; the spread is longest less shortest, as a share of the median.
        rounds: how many there were.
        timer: what measured: see `timers`.
        regime: of `records.ALL_REGIMES`.
        scale_layout, config: None for peers to which they do not apply.
        error_worst_tile: of the result that the last timed call left.
        origin: ``versions``, ``device`` and ``date``.

    Returns:
        The row. Of a product it has ``tflops``, of a quantiser ``bytes``, of an expert layer both.
        ``limit_us`` and ``share_of_limit`` are in it where the data sheet of the device is known, and says
        what limits: in a chain a quantiser reads from L2. Of a layer ``bytes_us`` says how long its bytes
        take by themselves.
    """
    is_quantizer, is_layer = work.op in QUANTIZERS, work.op in LAYERS
    amount: Row = {}
    if is_quantizer or is_layer:
        amount["bytes"] = work.bytes_moved
    if not is_quantizer:
        amount["tflops"] = round(work.flops / us * 1e-6, 1)
    row: Row = {
        "op": work.op,
        **key_of(work.op, work.shape),
        "peer": peer,
        "us": round(us, 3),
        **amount,
        "gb_per_s": round(work.bytes_moved / us * 1e-3, 1),
        "median": None if median is None else round(median, 3),
        "spread": None if spread is None else round(spread, 4),
        "rounds": rounds,
        "timer": timer,
        "regime": regime,
        "config": config,
        "scale_layout": scale_layout,
        "error_worst_tile": None if error_worst_tile is None else float(f"{error_worst_tile:.3e}"),
    }
    sheet = data_sheet(origin["device"])
    if sheet and not (is_quantizer and regime == CHAIN):
        limit = sheet.limit_us(work)
        row |= {"limit_us": round(limit, 3), "share_of_limit": round(limit / us, 4)}
        if is_layer:
            row["bytes_us"] = round(work.bytes_moved / sheet.bytes * 1e6, 3)
    return row | origin


def objection(row: Any) -> str:
    """Why something is no row, in words; empty if it is one: of what `measurement` writes, all that is read.

    A time or a spread that no clock gives would make whatever is compared with it look right.
    """
    if not isinstance(row, dict):
        return "it is no object"
    op = row.get("op")
    if not isinstance(op, str) or op not in KEYS:
        return "op is none of a benchmark's"
    rules = _RULES | _RULES_OF[op] | dict.fromkeys(KEYS[op], _EXTENT)
    if missing := [key for key in rules if key not in row and key not in _OPTIONAL]:
        return f"it lacks {', '.join(missing)}"
    for key, (is_right, wanted) in rules.items():
        if key in row and not is_right(row[key]):
            return f"{key} is not {wanted}"
    if op in LAYERS and (why := LayerShape(*shape_of(row)).why_impossible):
        return f"no device has such a layer: {why}"
    if row.get("groups", 1) > MAX_GROUPS:
        return f"groups are more than {MAX_GROUPS}"
    return "ours is marked as wrong" if "wrong" in row and row["peer"] == OURS else ""


def escaped(row: Row) -> Row:
    """A row as it may be printed: its texts as `printable` makes them."""
    return {key: _escaped(value) for key, value in row.items()}


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(key): _escaped(each) for key, each in value.items()}
    return printable(value) if isinstance(value, str) else value


_Rule = tuple[Callable[[Any], bool], str]


def _number(least: float, most: float) -> Callable[[Any], bool]:
    # Not NaN, which no comparison holds for, and not a bool, which is an int.
    return lambda value: type(value) in (int, float) and least <= value <= most


def _or_null(rule: _Rule) -> _Rule:
    is_right, wanted = rule
    return lambda value: value is None or is_right(value), f"{wanted}, or null"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(each) for pair in value.items() for each in pair)


_EXTENT: _Rule = (lambda value: type(value) is int and 1 <= value <= MAX_EXTENT), "a whole number from 1 on"
_TIME: _Rule = _number(_LEAST_US, _MOST_US), "a time in microseconds"
_SHARE: _Rule = _number(0, _MOST_SHARE), "a share"


def _are_stages(value: Any) -> bool:
    is_time, _ = _TIME
    return isinstance(value, dict) and all(name in STAGES and is_time(us) for name, us in value.items())


_TEXT: _Rule = _is_text, f"a text of at most {_LONGEST} characters"
_RULES: dict[str, _Rule] = {
    "peer": _TEXT,
    "us": _TIME,
    "median": _or_null(_TIME),
    "spread": _or_null(_SHARE),
    "timer": _TEXT,
    "regime": ((lambda value: value in ALL_REGIMES), f"{', '.join(ALL_REGIMES[:-1])} or {ALL_REGIMES[-1]}"),
    "config": _or_null(_TEXT),
    "scale_layout": _or_null(_TEXT),
    "device": _TEXT,
    "date": _TEXT,
    "versions": (_are_versions, "an object of texts"),
}
_RATE: _Rule = _number(0, _MOST_RATE), "a rate"
_OF_PRODUCTS: dict[str, _Rule] = {"tflops": _RATE}
_OF_QUANTIZERS: dict[str, _Rule] = {
    "bytes": (_number(1, _MOST_BYTES), "a number of bytes"),
    "gb_per_s": _RATE,
    "copy_share": (_number(0, _MOST_SHARE), "a share"),
    "over_empty_us": (_number(-_MOST_US, _MOST_US), "microseconds"),
    "host_us": _TIME,
    "host_mm_us": _TIME,
}
_OF_LAYERS: dict[str, _Rule] = {
    "tflops": _RATE,
    "bytes": _OF_QUANTIZERS["bytes"],
    "bytes_us": _TIME,
    "stages": (_are_stages, "an object of times of stages"),
}
_RULES_OF = (
    dict.fromkeys(PRODUCTS, _OF_PRODUCTS)
    | dict.fromkeys(QUANTIZERS, _OF_QUANTIZERS)
    | dict.fromkeys(LAYERS, _OF_LAYERS)
)
_OPTIONAL = "median", "timer", "copy_share", "over_empty_us", "host_us", "host_mm_us", "bytes_us", "stages"
