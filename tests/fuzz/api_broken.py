"""Fuzzed calls that break exactly one rule: each is refused in words, and nothing has changed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import torch
from api_products import INDEX, OPERATIONS, call
from api_values import E4M3, bytes_of, scales
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import cute_gemm
from cute_gemm.testing import make_contiguous_inputs, make_inputs, make_masked_inputs, make_offsets_inputs

Change = Callable[[random.Random, Tensor], Any]
Rules = dict[str, tuple[type[Exception], Change]]

_ODD_OBJECTS = (1.5, "a", [1], torch.bfloat16, object())


def _strided(x: Tensor, row_stride: int, offset: int = 0) -> Tensor:
    """The last two dimensions with rows that far apart, in elements."""
    *groups, rows, columns = x.shape
    strides = [row_stride, 1] if not groups else [rows * row_stride + columns + 16, row_stride, 1]
    room = offset + sum(step * count for step, count in zip(strides, x.shape, strict=True))
    view = x.new_zeros(room).as_strided(x.shape, strides, offset)
    return view.copy_(x)


def _freed(draw: random.Random, x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _fake(draw: random.Random, x: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


def _misaligned_words(draw: random.Random, x: Tensor) -> Tensor:
    """Two bytes behind an aligned address; torch itself makes no such tensor, and none on a GPU."""
    raw = x.contiguous().view(torch.uint8).flatten().tolist()
    return torch.frombuffer(bytearray(2) + bytearray(raw), dtype=x.dtype, offset=2).view(x.shape)


_OF_ANY: Rules = {
    "meta": (ValueError, lambda draw, x: x.to("meta")),
    "fake": (TypeError, _fake),
    "freed": (ValueError, _freed),
    "uninitialised": (
        ValueError,
        lambda draw, x: torch.nn.UninitializedParameter(requires_grad=False, dtype=x.dtype),
    ),
    "one more dimension": (ValueError, lambda draw, x: x[None]),
    "one dimension less": (ValueError, lambda draw, x: x[0]),
}

_OF_FLOATS: Rules = {
    "wants a gradient": (ValueError, lambda draw, x: x.clone().requires_grad_()),
    "tangent": (
        ValueError,
        lambda draw, x: torch.autograd.forward_ad.make_dual(x.clone(), torch.zeros_like(x)),
    ),
}

_OF_MATRICES: Rules = {
    "rows not a multiple of 16 bytes apart": (
        ValueError,
        lambda draw, x: _strided(x, x.shape[-1] + draw.choice((1, 2, 3))),
    ),
    "rows that overlap": (ValueError, lambda draw, x: x[..., :1, :].expand(x.shape)),
    "columns first": (ValueError, lambda draw, x: x.mT.contiguous().mT),
    "every other column": (ValueError, lambda draw, x: x.new_zeros(*x.shape, 2)[..., 0].copy_(x)),
    "misaligned": (ValueError, lambda draw, x: _strided(x, x.shape[-1], draw.choice((1, 2, 3)))),
}

_OF_OPERANDS: Rules = {
    "dtype": (
        TypeError,
        lambda draw, x: x.to(
            draw.choice(
                (torch.float32, torch.float64, torch.bfloat16, torch.half, torch.float8_e5m2, torch.int32)
            )
        ),
    ),
    "bytes": (TypeError, lambda draw, x: x.view(draw.choice((torch.uint8, torch.int8)))),
    "K not a multiple of 16": (ValueError, lambda draw, x: x[..., : -draw.choice((1, 8, 15))]),
}

_OF_B: Rules = {
    "another K": (ValueError, lambda draw, x: x[..., :-16].contiguous()),
    "N not a multiple of 8": (ValueError, lambda draw, x: x[..., : -draw.choice((1, 4, 7)), :]),
    "[K, N]": (ValueError, lambda draw, x: x.mT),
}


def _packed(draw: random.Random, s: Tensor) -> Tensor:
    """Four exponents along K in an int32, in either order."""
    padded = torch.nn.functional.pad(s, (0, -s.shape[-1] % 4), value=1.0)
    words = padded.to(torch.float8_e8m0fnu).contiguous().view(torch.int32)
    return words if draw.random() < 0.5 else words.mT.contiguous().mT


_OF_SCALES: Rules = {
    "dtype": (TypeError, lambda draw, s: s.to(draw.choice((torch.float64, torch.bfloat16, torch.int64)))),
    "exponents": (TypeError, lambda draw, s: s.to(torch.float8_e8m0fnu)),
    "packed exponents": (TypeError, _packed),
    "one column more": (ValueError, lambda draw, s: torch.cat([s, s[..., :1]], -1)),
    "one row more": (ValueError, lambda draw, s: torch.cat([s, s[..., :1, :]], -2)),
    "one number": (ValueError, lambda draw, s: s.flatten()[0]),
    "negated": (ValueError, lambda draw, s: torch.complex(s, -s).conj().imag),
    "sparse": (ValueError, lambda draw, s: s.to_sparse()),
    "nested": (ValueError, lambda draw, s: torch.nested.nested_tensor([s, s])),
}

_OF_RESULTS: Rules = {
    "dtype": (TypeError, lambda draw, x: x.to(draw.choice((torch.half, torch.float64, torch.int32)))),
    "one row more": (ValueError, lambda draw, x: torch.cat([x, x[..., :1, :]], -2)),
    "one column less": (ValueError, lambda draw, x: x[..., :-1]),
    "sparse": (ValueError, lambda draw, x: x.to_sparse()),
}

_OF_INDICES: Rules = {
    "dtype": (
        TypeError,
        lambda draw, x: x.to(draw.choice((torch.int64, torch.float32, torch.int16, torch.bool))),
    ),
    "one more": (ValueError, lambda draw, x: torch.cat([x, x[:1]])),
    "one less": (ValueError, lambda draw, x: x[:-1]),
    "every other": (ValueError, lambda draw, x: x.repeat_interleave(2)[::2]),
    "expanded": (ValueError, lambda draw, x: x[:1].expand(x.shape)),
}

_ON_A_CPU: Rules = {"misaligned words": (ValueError, _misaligned_words)}


def _rules(name: str, layout: str, on_gpu: bool) -> Rules:
    """What can be broken of an argument."""
    objects = _ODD_OBJECTS if name == "out" else (None, *_ODD_OBJECTS)
    rules = {**_OF_ANY, "no tensor": (TypeError, lambda draw, x: draw.choice(objects))}
    if name in ("a", "b"):
        rules |= _OF_FLOATS | _OF_MATRICES | _OF_OPERANDS | (_OF_B if name == "b" else {})
    elif name in ("sa", "sb"):
        rules |= _OF_FLOATS | _OF_SCALES | ({} if on_gpu else _ON_A_CPU)
    elif name == "out":
        rules |= _OF_FLOATS | _OF_MATRICES | _OF_RESULTS
    else:
        rules |= _OF_INDICES | ({} if on_gpu else _ON_A_CPU)
    return rules


_COUNTS = {"expected_rows": None, "alignment": 1024}


def _given(draw: random.Random, layout: str, device: torch.device) -> dict[str, Any]:
    """A call that is in order, of at least two rows and groups, with a result."""
    seed, n, k = draw.randrange(100), draw.choice((16, 136)), draw.choice((48, 144))
    sizes = draw.choice(((3, 2), (9, 0, 5)))
    if layout == "dense":
        lhs, rhs = make_inputs(5, n, k, seed=seed, device=device)
        given: dict[str, Any] = {}
        shape: tuple[int, ...] = (5, n)
    else:
        if layout == "masked":
            inputs = make_masked_inputs(sizes, 10, n, k, seed=seed, device=device)
            given = {"expected_rows": 4}
        elif layout == "offsets":
            inputs, given = make_offsets_inputs(sizes, n, k, seed=seed, device=device), {"alignment": 1}
        else:
            inputs, given = make_contiguous_inputs(sizes, n, k, seed=seed, device=device), {}
        lhs, rhs, shape = inputs.lhs, inputs.rhs, (*inputs.row_groups.shape, n)
        given[INDEX[layout]] = inputs.index
    dtype = draw.choice((torch.bfloat16, torch.float32))
    out = torch.full(shape, 7.0, dtype=dtype, device=device)
    return {"a": lhs[0], "sa": lhs[1], "b": rhs[0], "sb": rhs[1], **given, "out": out}


Broken = tuple[str, type[Exception], dict[str, Any], str]
"""The argument that the message is to name, the error, the call, and what is wrong with it."""


def _break(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    tensors = [name for name, x in given.items() if isinstance(x, Tensor)]
    others = ["pair", "overlap", "out_dtype", "contradiction"]
    others += ["groups", "count", "validate", "fill", "invalid index"]
    what = draw.choice((*tensors, *tensors, *(others[:4] if layout == "dense" else others)))
    if what in tensors:
        rules = _rules(what, layout, given["a"].is_cuda)
        which = draw.choice(sorted(rules))
        error, change = rules[which]
        return what, error, {**given, what: change(draw, given[what])}, which
    return _OTHERS[what](draw, layout, given)


def _overlap(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    """`out` and an input share a byte, or more."""
    name = draw.choice([name for name in ("a", "sa", "b", "sb", INDEX.get(layout, "a"))])
    x, out = given[name].contiguous(), given["out"]
    room, size = x.nbytes, out.nbytes
    buffer = torch.zeros(room + size + 64, dtype=torch.uint8, device=out.device)
    # From the first byte of the one to the last of the other.
    last = (room - 1) // 16 * 16
    at, out_at = (0, draw.randrange(0, last + 1, 16)) if draw.random() < 0.5 else ((size - 1) // 16 * 16, 0)
    moved = buffer[at : at + room].view(x.dtype).view(x.shape)
    new_out = buffer[out_at : out_at + size].view(out.dtype).view(out.shape)
    moved.copy_(x)
    return "out", ValueError, {**given, name: moved, "out": new_out}, f"in the memory of {name}"


def _out_dtype(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    value = draw.choice((torch.half, torch.float64, torch.int8, "bfloat16", None, []))
    return "out_dtype", TypeError, {**given, "out": None, "out_dtype": value}, "none that is stored"


def _contradiction(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    given = {**given, "out": given["out"].bfloat16(), "out_dtype": torch.float32}
    return "out_dtype", TypeError, given, "another than that of out"


def _groups(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    count = draw.choice((0, 1023))
    a, k = given["a"], 16
    rows = (count, 2) if layout == "masked" else a.shape[:1]
    device = a.device
    given = dict(given)
    given["a"] = bytes_of(draw, *rows, k).bitwise_and_(0x3F).to(device).view(E4M3)
    given["sa"] = torch.ones(*rows, 1, device=device)
    given["b"] = torch.zeros(count, 8, k, dtype=torch.uint8, device=device).view(E4M3)
    given["sb"] = scales(draw, count, 1, 1).to(device)
    given["out"] = torch.zeros(*rows, 8, dtype=torch.bfloat16, device=device)
    if layout != "contiguous":
        given[INDEX[layout]] = torch.zeros(count, dtype=torch.int32, device=device)
    return "b", ValueError, given, f"{count} groups"


def _count(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    name = next((name for name in _COUNTS if name in given), None)
    if name is None:
        return _validate(draw, layout, given)
    wrong = [None, 2.0, "4", True, torch.tensor(4), torch.ones(2, dtype=torch.int32)]
    if draw.random() < 0.5:
        return name, TypeError, {**given, name: draw.choice(wrong)}, "no int"
    out_of_range = [0, -1, -(2**40)] + ([1025, 2**40] if _COUNTS[name] else [])
    return name, ValueError, {**given, name: draw.choice(out_of_range)}, "out of range"


def _validate(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    value = draw.choice((None, 1, 0, "no", torch.ones(2), torch.tensor(True)))
    return "validate", TypeError, {**given, "validate": value}, "no bool"


def _fill(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    if draw.random() < 0.5:
        value = draw.choice((False, 0.0, "0", torch.zeros(()), torch.zeros(2)))
        return "fill", TypeError, {**given, "fill": value}, "no int"
    return "fill", ValueError, {**given, "fill": draw.choice((1, -1, 2**40))}, "not zero"


def _invalid_index(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    """Numbers that only `validate` looks at."""
    name = INDEX[layout]
    index = given[name].clone()
    index[draw.randrange(len(index))] = draw.choice((2**31 - 1, 10**6, -2, -(2**31)))
    return name, ValueError, {**given, name: index, "validate": True}, "invalid"


def _pair(draw: random.Random, layout: str, given: dict[str, Any]) -> Broken:
    name = draw.choice(("a", "b"))
    q, s = given[name], given[f"s{name}"]
    pair, error = draw.choice(
        ((q, TypeError), (None, TypeError), ((q, s, s), ValueError), ([q], ValueError), ({q, s}, TypeError))
    )
    return f"the pair ({name}, s{name})", error, {**given, "pairs": {name: pair}}, "no pair"


_OTHERS: dict[str, Callable[[random.Random, str, dict[str, Any]], Broken]] = {
    "pair": _pair,
    "overlap": _overlap,
    "out_dtype": _out_dtype,
    "contradiction": _contradiction,
    "groups": _groups,
    "count": _count,
    "validate": _validate,
    "fill": _fill,
    "invalid index": _invalid_index,
}


def _call(layout: str, given: dict[str, Any]) -> Tensor:
    pairs = given.get("pairs", {})
    if not pairs:
        return call(layout, given)
    others = {name: x for name, x in given.items() if name not in ("a", "sa", "b", "sb", "pairs")}
    lhs, rhs = (pairs.get(name, (given[name], given[f"s{name}"])) for name in ("a", "b"))
    return OPERATIONS[layout](lhs, rhs, **others)


def refusal(action: Callable[[], Any], argument: str, error: type[Exception], what: str) -> str:
    """The message of a call that is refused for an argument, in one line."""
    try:
        action()
    except Exception as refused:
        said = str(refused)
        if type(refused) is not error or not re.match(rf"{re.escape(argument)}\W", said) or "\n" in said:
            raise AssertionError(f"{argument}, {what}: {type(refused).__name__}: {said}") from refused
        return said
    raise AssertionError(f"{argument}, {what}: not refused")


def memory(given: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of all bytes behind ordinary tensors, also of what a view does not show."""
    found = {}
    for name, x in given.items():
        ordinary = type(x) is Tensor and x.layout is torch.strided and not (x.is_meta or x.is_nested)
        if ordinary and x.untyped_storage().nbytes():
            found[name] = torch.empty(0, dtype=torch.uint8, device=x.device).set_(x.untyped_storage()).clone()
    return found


def assert_same_memory(given: dict[str, Any], before: dict[str, Tensor], what: str) -> None:
    """Nothing was written."""
    for name, now in memory(given).items():
        assert torch.equal(now, before[name]), f"{name} was written to, though the call was refused: {what}"


def try_advice(message: str, argument: str, given: dict[str, Any]) -> dict[str, Any] | None:
    """The call after the first piece of code in a message was run, as a reader would run it; None if none."""
    codes = re.findall(r"(?<!such as )`([^`]+)`", message)
    code = next((code for code in codes if "(" in code or "[" in code), None)
    if code is None or code.startswith(("torch.no_grad", "with ")):
        return None
    x = torch.ones(2, 48)
    names = {"torch": torch, "cute_gemm": cute_gemm, "x": x, "w": x, **given}
    if argument.startswith("the pair"):
        return None
    if " = " in code:
        exec(code, names)
    else:
        made = "out" if code.startswith("torch.empty((") else argument
        names[made] = eval(code, names)
    return {name: names[name] for name in given}


def assert_advice_helps(action: Callable[[], Any], message: str) -> None:
    """The call that a message advised is in order, or at least not refused in the same words."""
    try:
        action()
    except (TypeError, ValueError) as again:
        if str(again) == message:
            raise AssertionError(f"what this advises is refused in the same words: {message}") from again


def draw_broken(draw: random.Random, device: torch.device) -> None:
    """A call that breaks one rule: refused in words that help, and nothing has changed."""
    layout = draw.choice(("dense", *INDEX))
    with torch.autograd.forward_ad.dual_level():
        argument, error, given, what = _break(draw, layout, _given(draw, layout, device))
        before = memory(given)
        message = refusal(lambda: _call(layout, given), argument, error, what)
        assert_same_memory(given, before, what)
        mended = try_advice(message, argument, given)
        if mended is None:
            return
        assert_advice_helps(lambda: _call(layout, mended), message)
