"""What is asked of the memory of any tensor that kernels read or write.

The limits are those of TMA tensor maps (CUDA driver API, `cuTensorMapEncodeTiled`): addresses and the strides
of rows and of matrices are multiples of 16 bytes, neither overlap (so a stride of 0, as `expand` makes it, is
out), and these strides are below 2^40 bytes.

Each function holds one rule: its condition, and what is said where it is broken. Those with a public name are
used for several arguments.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..plan.limits import STRIDE_END, TMA_ALIGNMENT
from . import ambient, words

OWNING_TYPES = frozenset({Tensor, torch.nn.Parameter})
"""The exact types whose tensors own the memory they describe. A subclass may: :func:`require_own_memory`."""

_STRIDE_END = f"2^{STRIDE_END.bit_length() - 1}"


def require_tensor(name: str, x: object) -> Tensor:
    """It is a tensor, and has a shape.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is a parameter of a lazy module that did not run yet.
    """
    if not isinstance(x, Tensor):
        fix = ": the result's dtype is `out_dtype=`" if isinstance(x, torch.dtype) else ""
        raise TypeError(f"{name} is {words.kind(x)}; wanted a torch.Tensor{fix}")
    if isinstance(x, (UninitializedParameter, UninitializedBuffer)):
        raise ValueError(
            f"{name} is {words.kind(x)}, which has no shape and no elements yet; wanted them: call the lazy "
            f"module that it belongs to once, or its `materialize`"
        )
    return x


def require_own_memory(name: str, x: object, has_memory: bool = True) -> Tensor:
    """It is a tensor, and no subclass that may stand for memory elsewhere, unless it is to have none.

    Raises:
        TypeError: it is not.
        ValueError: it has no shape yet.
    """
    x = require_tensor(name, x)
    if not has_memory:
        return x
    if type(x) not in OWNING_TYPES and type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(
            f"{name} is {words.kind(x)}, a tensor subclass that need not own the memory it describes; wanted "
            f"a plain torch.Tensor: pass the one inside, such as `{name}.to_local()` of a DTensor"
        )
    return x


def require_dense(name: str, x: Tensor) -> None:
    """Strides explain its memory: it is neither nested, sparse nor opaque.

    Raises:
        ValueError: it is.
    """
    if x.is_nested:
        was, fix = "is nested", f"one call for each of `{name}.unbind()`"
    elif x.layout is not torch.strided:
        was, fix = f"has layout {x.layout}", words.remake(name, x, "to_dense")
    else:
        return
    raise ValueError(f"{name} {was}, and has no memory that strides describe; wanted a dense tensor: {fix}")


def require_strided(name: str, x: Tensor, has_memory: bool = True) -> None:
    """As :func:`require_dense`; and it has an address, so no transform wraps it, unless it is to have none.

    Raises:
        ValueError: it has not.
    """
    require_dense(name, x)
    if not has_memory:
        return
    try:
        x.data_ptr()
    except RuntimeError as error:
        # A transform that differentiates wraps tensors, too: then this is what to say.
        ambient.require_no_gradient(**{name: x})
        raise ValueError(
            f"{name} is inside a transform such as vmap, and has no memory that strides describe; wanted a "
            "dense tensor: one call per item"
        ) from error


def require_memory(name: str, x: Tensor) -> None:
    """There are bytes behind a tensor that has elements.

    Raises:
        ValueError: there are none.
    """
    if not x.data_ptr():
        raise ValueError(
            f"{name}, {words.sketch(x)}, has no memory behind it; wanted its elements: its storage was freed "
            "or not yet made"
        )


def require_address(name: str, x: Tensor, alignment: int) -> None:
    """It begins at a multiple of ``alignment`` bytes, and not at the null pointer.

    Raises:
        ValueError: it does not.
    """
    if x.is_meta:
        require_known_device(name, x)
    require_memory(name, x)
    address = x.data_ptr()
    if address % alignment:
        raise ValueError(
            f"{name} starts at address {address:#x}, {address % alignment} bytes off; wanted a multiple of "
            f"{alignment}: {words.remake(name, x, 'clone')}"
        )


def require_tma(name: str, x: Tensor) -> None:
    """TMA can read or write it, a matrix ``[rows, columns]`` or one of each group; anything, if it is empty.

    Raises:
        ValueError: its rows are not contiguous, or its address or strides are none that a tensor map holds.
    """
    if not x.numel():
        return
    _require_contiguous_rows(name, x)
    require_address(name, x, TMA_ALIGNMENT)
    _require_row_stride(name, x)
    _require_group_stride(name, x)


def require_one_device(**tensors: Tensor) -> None:
    """All are on one device; the remedy moves one that is not where most are.

    Raises:
        ValueError: they are not.
    """
    devices = [x.device for x in tensors.values()]
    # Before they are counted, which Dynamo does not trace.
    if all(device == devices[0] for device in devices):
        return
    ((common, _),) = Counter(devices).most_common(1)
    for name, x in tensors.items():
        # It has nothing that could be moved.
        if x.is_meta:
            require_known_device(name, x)
    odd = next(name for name, x in tensors.items() if x.device != common)
    places = ", ".join(f"{name} on {x.device}" for name, x in tensors.items())
    call = f"torch.empty_like(out, device={str(common)!r})" if odd == "out" else f"{odd}.to({str(common)!r})"
    raise ValueError(f"{odd} is on {tensors[odd].device}; wanted one device, not {places}: `{call}`")


def require_known_device(name: str, x: Tensor) -> None:
    """There is a kernel for its device, or memory that the reference can read.

    Raises:
        ValueError: there is not.
    """
    if x.is_cuda or x.is_cpu:
        return
    there = "cuda" if torch.cuda.is_available() else "cpu"
    call = f"torch.empty_like({name}, device='{there}')" if x.is_meta else f"{name}.to('{there}')"
    raise ValueError(
        f"{name} is on device {str(x.device)!r}; wanted 'cuda' (a Hopper GPU) or 'cpu' (the reference in "
        f"plain torch): `{call}`"
    )


def require_disjoint(name: str, x: Tensor, out: Tensor, result: str = "out") -> None:
    """``out``, a result of the name that is given, shares no byte with an input.

    Their ranges of addresses may meet where both are views into one larger buffer, say columns [0, N) and
    [N, 2N) of it.

    Raises:
        ValueError: a shared byte cannot be ruled out.
    """
    if not x.numel() or not out.numel():
        return
    distance = out.data_ptr() - x.data_ptr()
    if not -_span(out) < distance < _span(x):
        return
    for (x_period, x_width), (period, width) in itertools.product(_bands(x), _bands(out)):
        # Seen modulo a common divisor of both periods, all bands of a tensor fall on the same place.
        common = gcd(x_period, period)
        if common and x_width <= distance % common <= common - width:
            return
    raise ValueError(
        f"{result} lies in the memory of {name}: {result} has {words.place(out)}, {name} has "
        f"{words.place(x)}, and a shared byte cannot be ruled out; wanted memory of its own: "
        + words.allocate(out.shape, out.dtype, out.device).replace("`out`", f"`{result}`")
    )


@dataclass(frozen=True)
class _Matrices:
    """How matrices lie in memory, of which there may be one; widths and steps in bytes."""

    groups: int
    rows: int
    width: int
    group_step: int
    row_step: int

    @classmethod
    def of(cls, x: Tensor) -> _Matrices:
        size = x.element_size()
        *groups, rows, columns = x.shape
        *group_steps, row_step, _ = (size * step for step in x.stride())
        return cls(groups[0] if groups else 1, rows, size * columns, sum(group_steps), row_step)


def _require_contiguous_rows(name: str, x: Tensor) -> None:
    if x.stride(-1) == 1:
        return
    dimension = "N" if name.startswith("out") else "K"
    raise ValueError(
        f"{name} has strides {x.stride()} for shape {tuple(x.shape)}; wanted {dimension} contiguous, stride "
        f"1 in the last dimension: {words.remake(name, x, 'contiguous')}"
    )


def _require_row_stride(name: str, x: Tensor) -> None:
    """Rows lie one behind the other, at a distance that a tensor map holds; any, if there is one row."""
    at = _Matrices.of(x)
    if at.rows == 1:
        return
    if at.row_step < at.width:
        wanted = f"at least the {at.width} of a row, so that rows do not overlap"
    elif at.row_step % TMA_ALIGNMENT:
        wanted = f"a multiple of {TMA_ALIGNMENT}"
    elif at.row_step >= STRIDE_END:
        wanted = f"less than {_STRIDE_END}"
    else:
        return
    raise ValueError(
        f"{name} has strides {x.stride()} for shape {tuple(x.shape)}, so its rows are {at.row_step} bytes "
        f"apart; wanted {wanted}: {words.remake(name, x, 'contiguous')}"
    )


def _require_group_stride(name: str, x: Tensor) -> None:
    """Matrices do not lie in one another, at a distance that a tensor map holds; any, if there is one.

    Either each lies behind the one before, or they interleave, as `transpose(0, 1)` of `[rows, groups, K]`
    does.
    """
    at = _Matrices.of(x)
    if at.groups == 1:
        return
    one = at.width + at.row_step * (at.rows - 1)
    first_rows = at.width + at.group_step * (at.groups - 1)
    if at.group_step % TMA_ALIGNMENT:
        wanted = f"a multiple of {TMA_ALIGNMENT}"
    elif at.group_step >= STRIDE_END:
        wanted = f"less than {_STRIDE_END}"
    elif at.group_step < at.width or (at.group_step < one and at.row_step < first_rows):
        wanted = f"at least {one}, so that they do not overlap"
        if at.rows > 1 and at.group_step >= at.width:
            wanted += f"; or rows at least {first_rows} apart, not {at.row_step}, to interleave"
    else:
        return
    raise ValueError(
        f"{name} has strides {x.stride()} for shape {tuple(x.shape)}, so its matrices are {at.group_step} "
        f"bytes apart; wanted {wanted}: {words.remake(name, x, 'contiguous')}"
    )


def _span(x: Tensor) -> int:
    """Bytes from the first element to behind the last, of a tensor that has some."""
    steps = (step * (count - 1) for step, count in zip(x.stride(), x.shape, strict=True))
    return x.element_size() * (1 + sum(steps))


def _bands(x: Tensor) -> Iterator[tuple[int, int]]:
    """Ways to see the memory of a tensor as equal bands, the first at its start: their period, bytes of one.

    From one band to another is a multiple of the period, which is 0 for a single band. Bands may hold more
    than the tensor, but never less.
    """
    size = x.element_size()
    # What has one element along a dimension takes no step along it, whatever its stride says.
    steps = sorted((step * size, count) for step, count in zip(x.stride(), x.shape, strict=True) if count > 1)
    for inner in range(len(steps) + 1):
        # The inner dimensions make a band, with its gaps; the others lead from band to band.
        width = size + sum(step * (count - 1) for step, count in steps[:inner])
        yield gcd(*(step for step, _ in steps[inner:])), width
