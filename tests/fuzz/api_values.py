"""What fuzzed tensors hold and how they lie in memory: all of it drawn from one ``random.Random``."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
NAN_CODE = 0x7F
LARGEST_CODE = 0x7E
WIDTH = 128
"""Elements along K that share a scale."""

_QUANTILES = torch.erfinv((torch.arange(256) * 2 + 1) / 256 - 1) * 2**0.5


def _table(deviation: float) -> Tensor:
    """256 normal numbers of that deviation, as codes: bytes drawn evenly choose among them."""
    return (_QUANTILES * deviation).to(E4M3).view(torch.uint8)


_NORMAL, _SMALL = _table(150), _table(0.6)


def chance(draw: random.Random, probability: float) -> bool:
    return draw.random() < probability


def bytes_of(draw: random.Random, *shape: int) -> Tensor:
    """uint8, evenly drawn."""
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(draw.randbytes(count)), dtype=torch.uint8).view(shape)


KINDS = ("normal", "normal", "any", "outliers", "zero blocks", "tiny", "positive", "zero")
"""What operands hold."""

WELL_CONDITIONED = {"normal", "zero blocks", "zero"}
"""Kinds of which a tensor core errs no more than the limits on whole tiles allow for."""


def codes(draw: random.Random, kind: str, *shape: int) -> Tensor:
    """e4m3 values ``[..., K]``, none of them NaN, as bytes."""
    raw = bytes_of(draw, *shape)
    if kind == "normal":
        return _NORMAL[raw.long()]
    if kind == "any":
        return raw.masked_fill_((raw & NAN_CODE) == NAN_CODE, 0)
    if kind == "outliers":
        found = _SMALL[raw.long()]
        for start in range(0, shape[-1], WIDTH):
            found[..., start + draw.randrange(min(WIDTH, shape[-1] - start))] = LARGEST_CODE
        return found
    if kind == "zero blocks":
        found = _NORMAL[raw.long()]
        for start in range(0, shape[-1], WIDTH):
            found[..., start : start + WIDTH] *= bytes_of(draw, *shape[:-1], 1) % 2
        return found
    if kind == "tiny":
        return raw & 0x87
    if kind == "positive":
        return raw % NAN_CODE
    return torch.zeros_like(raw)


def scales(draw: random.Random, *shape: int) -> Tensor:
    """fp32 scales: near one, powers of two, or over 2**-20 to 2**20; seldom negative, or zero."""
    kind = draw.choice(("near one", "powers of two", "wide", "wide"))
    exponents, mantissas = bytes_of(draw, *shape).int(), bytes_of(draw, *shape).int() << 15
    exponents = exponents % 3 - 1 if kind == "near one" else exponents % 41 - 20
    if kind == "powers of two":
        mantissas.zero_()
    found = ((exponents + 127 << 23) | mantissas).view(torch.float32)
    if chance(draw, 0.1):
        found *= (bytes_of(draw, *shape) % 8).float().sub_(1).sign()
    return found


def repeated_scales(draw: random.Random, *shape: int) -> Tensor:
    """As :func:`scales`, now and then one for a whole dimension, by a stride of 0."""
    if chance(draw, 0.9):
        return scales(draw, *shape)
    one = list(shape)
    one[draw.randrange(len(one))] = 1
    return scales(draw, *one).expand(shape)


@dataclass
class Placed:
    """A tensor as a view into a buffer of bytes or words, what lies between its elements included."""

    buffer: Tensor
    dtype: torch.dtype
    shape: Sequence[int]
    strides: Sequence[int]
    offset: int

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The view, and the buffer it looks at."""
        buffer = self.buffer.to(device, copy=True)
        view = buffer.view(self.dtype).as_strided(self.shape, self.strides, self.offset)
        return view, buffer


def _place(
    x: Tensor, dtype: torch.dtype, fill: int, strides: Sequence[int], offset: int, tail: int
) -> Placed:
    last = sum(step * max(count - 1, 0) for step, count in zip(strides, x.shape, strict=True))
    buffer = torch.full((offset + last + 1 + tail,), fill, dtype=x.dtype)
    buffer.as_strided(x.shape, strides, offset).copy_(x)
    return Placed(buffer, dtype, x.shape, strides, offset)


def matrices(draw: random.Random, x: Tensor) -> Placed:
    """Codes ``[rows, K]`` or ``[groups, rows, K]`` as TMA takes them, amid NaNs."""
    *groups, rows, k = x.shape
    step, plain = 16, chance(draw, 0.4)
    row = k + (0 if plain else step * draw.randrange(4))
    if not groups:
        strides = [row, 1]
    elif groups[0] > 1 and rows > 1 and chance(draw, 0.3):
        # Rows of all matrices in turn.
        strides = [row, row * groups[0] + step * draw.randrange(3), 1]
    else:
        strides = [row * rows + (0 if plain else step * draw.randrange(3)), row, 1]
    if rows == 1 and not groups and chance(draw, 0.5):
        strides[0] = draw.choice((0, 1, 3, k + 1))
    offset = 0 if plain else step * draw.randrange(4)
    return _place(x, E4M3, NAN_CODE, strides, offset, step * draw.randrange(2))


def anyhow(draw: random.Random, s: Tensor) -> Placed:
    """Scales in any order of their dimensions, with gaps of NaN; M-major ones at times as TMA takes them."""
    repeats = [step == 0 and count > 1 for step, count in zip(s.stride(), s.shape, strict=True)]
    bits = s[tuple(slice(1) if each else slice(None) for each in repeats)].view(torch.int32)
    nan = torch.full((), torch.nan).view(torch.int32).item()
    for_tma = chance(draw, 0.3)
    order = list(range(s.dim()))
    if for_tma:
        order[-2:] = order[-1], order[-2]
    elif chance(draw, 0.5):
        draw.shuffle(order)
    gaps = not for_tma and chance(draw, 0.5)
    strides, room = [0] * s.dim(), 1
    for axis in reversed(order):
        strides[axis] = room + (draw.randrange(3) if gaps else 0)
        room = strides[axis] * max(bits.shape[axis], 1)
        if for_tma:
            room = -(-room // 4) * 4
    offset = 4 * draw.randrange(3) if for_tma else draw.randrange(5)
    placed = _place(bits, torch.float32, nan, strides, offset, draw.randrange(5))
    placed.shape = s.shape
    placed.strides = [0 if each else step for step, each in zip(strides, repeats, strict=True)]
    return placed


def vector(draw: random.Random, x: Tensor) -> Placed:
    """An int32 vector amid numbers that must not be read."""
    return _place(x, torch.int32, 0x7FFFFFF, [1], draw.randrange(5), draw.randrange(5))
