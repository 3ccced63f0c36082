"""An epilogue as text, tensors and numbers: what ops of torch's dispatcher take.

    bias_silu(b) | quantize_1x128()    add_bias(per_column) | silu() | quantize_1x128()
    swiglu(7.0, turn=128)              clamped_swiglu[128](number)

A stage is its function's name, as :func:`.functions.name_of` says it, the turn of what makes one column of
two, and the kinds of its operands. Tensors and numbers follow in the order of their kinds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..plan.quantizer import INTERLEAVE
from . import functions
from .chain import TURNS, Epilogue, QuantizingEpilogue, Stage
from .operands import KINDS, LIKE_OUT, NUMBER, Operand

BEFORE = "before"
"""The kind of what the result held before."""

_BY_EIGHT, _BY_BLOCK = (f"[{turn}]" for turn in TURNS)
_QUANTIZING = "quantize_1x128"
_POWER_OF_TWO, _M_MAJOR = "power_of_two_scales", "m_major_scales"
_STAGE = re.compile(r"(\w+(?:@[0-9a-f]+)?)(?:\[(\d+)\])?\(([\w, ]*)\)")


def spell(
    epilogue: Epilogue, name: Callable[[functions.Function, int], str] = functions.name_in_graphs
) -> tuple[str, list[Tensor], list[float]]:
    """The text, tensors and numbers of an epilogue. Dynamo traces it.

    Args:
        epilogue: as said.
        name: gives a function's name; Dynamo must not look inside.

    Raises:
        TypeError: a function refers to what it may not.
    """
    parts: list[str] = []
    tensors: list[Tensor] = []
    numbers: list[float] = []
    for stage in epilogue.stages:
        kinds: list[str] = []
        for operand in stage.operands:
            if operand.value is None:
                kinds.append(BEFORE)
                continue
            kinds.append(operand.kind)
            if operand.kind == NUMBER:
                numbers.append(operand.value)
            else:
                tensors.append(operand.value)
        takes, turn = 1, ""
        # Dynamo may have symbols for the numbers of a stage: compared they are known.
        if stage.takes != 1:
            takes, turn = 2, _BY_EIGHT if stage.turn == INTERLEAVE else _BY_BLOCK
        parts.append(f"{name(stage.function, takes)}{turn}({', '.join(kinds)})")
    if isinstance(epilogue, QuantizingEpilogue):
        flags: list[str] = []
        if epilogue.has_power_of_two_scales:
            flags.append(_POWER_OF_TWO)
        if epilogue.has_m_major_scales:
            flags.append(_M_MAJOR)
        parts.append(f"{_QUANTIZING}({', '.join(flags)})")
    return " | ".join(parts), tensors, numbers


def read(text: str, tensors: Sequence[Tensor], numbers: Sequence[float]) -> Epilogue:
    """The epilogue that :func:`spell` gave these of.

    Raises:
        ValueError: the text is of no epilogue, or has other operands than are given.
        RuntimeError: a function is not in this process.
    """
    parsed = _parse(text)
    kinds = [kind for each in parsed.stages for kind in each.kinds]
    wanted = sum(kind not in (NUMBER, BEFORE) for kind in kinds), kinds.count(NUMBER)
    if wanted != (len(tensors), len(numbers)):
        raise ValueError(
            f"the epilogue {text!r} was given {len(tensors)} tensors and {len(numbers)} numbers; wanted "
            f"{wanted[0]} and {wanted[1]}"
        )
    of_tensors, of_numbers = iter(tensors), iter(numbers)

    def operand(kind: str) -> Operand:
        if kind == BEFORE:
            return Operand(LIKE_OUT, None)
        return Operand(kind, next(of_numbers if kind == NUMBER else of_tensors))

    stages = tuple(
        Stage(functions.find(each.name, each.takes), tuple(map(operand, each.kinds)), each.takes, each.turn)
        for each in parsed.stages
    )
    if parsed.flags is None:
        return Epilogue(stages)
    return QuantizingEpilogue(stages, _POWER_OF_TWO in parsed.flags, _M_MAJOR in parsed.flags)


@dataclass(frozen=True)
class _Stage:
    name: str
    takes: int
    turn: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class _Spelled:
    """What a text says; flags are None where nothing is quantised."""

    stages: tuple[_Stage, ...]
    flags: tuple[str, ...] | None


@functools.lru_cache(1024)
def _parse(text: str) -> _Spelled:
    """What a text says.

    Raises:
        ValueError: it is of no epilogue.
    """
    stages: list[_Stage] = []
    flags: tuple[str, ...] | None = None
    for part in text.split(" | ") if text else ():
        found = _STAGE.fullmatch(part)
        words = tuple(found[3].split(", ")) if found and found[3] else ()
        if found is None or flags is not None:
            raise ValueError(_no_epilogue(text))
        if found[1] == _QUANTIZING:
            flags = words
            if found[2] or not {*words} <= {_POWER_OF_TWO, _M_MAJOR}:
                raise ValueError(_no_epilogue(text))
            continue
        takes, turn = (1, TURNS[0]) if found[2] is None else (2, int(found[2]))
        if turn not in TURNS or not {*words} <= {*KINDS, BEFORE}:
            raise ValueError(_no_epilogue(text))
        stages.append(_Stage(found[1], takes, turn, words))
    if sum(each.takes > 1 for each in stages) > 1:
        raise ValueError(_no_epilogue(text))
    return _Spelled(tuple(stages), flags)


def _no_epilogue(text: str) -> str:
    return (
        f"epilogue is {text!r}; wanted text such as 'add_bias(per_column) | silu()', as torch.compile puts "
        "it into a graph for `epilogue.bias_silu(bias)`"
    )
