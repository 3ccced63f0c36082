"""What a function of an epilogue is given beside the sum: numbers by where an element of D is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import Call, ambient, memory, sizes, words

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

PER_COLUMN, PER_GROUP_COLUMN, PER_ROW, LIKE_OUT = "per_column", "per_group_column", "per_row", "like_out"
SCALAR, NUMBER = "scalar", "number"
KINDS = PER_COLUMN, PER_GROUP_COLUMN, PER_ROW, LIKE_OUT, SCALAR, NUMBER


@dataclass(frozen=True, eq=False)
class Operand:
    """A number for each element of D.

    Args:
        kind: how it follows from the element's place, by the names of this module.
        value: a tensor; of ``NUMBER`` a float; None for what the result held before.
    """

    kind: str
    value: Any

    @property
    def is_like_out(self) -> bool:
        """Whether it has D's shape, so that it may be the result."""
        return self.kind == LIKE_OUT

    def check(self, call: Call, name: str, values: tuple[int, ...], has_memory: bool = True) -> None:
        """Sees to it that it fits a call, for values of a shape.

        Args:
            call, name, values: as said.
            has_memory: whether tensors are there; else their memory is not judged, nor sizes not known yet.

        Raises:
            TypeError, ValueError: it does not.
        """
        if self.kind == NUMBER:
            return
        if self.value is None:
            _require_before(call, name, values)
            return
        x = memory.require_own_memory(name, self.value, has_memory)
        if x.dtype not in DTYPES:
            raise TypeError(
                f"{name} has dtype {x.dtype}; wanted {', '.join(map(str, DTYPES))}: `{name}.float()`"
            )
        memory.require_strided(name, x, has_memory)
        ambient.require_no_derivatives(**{name: x})
        if self.kind == PER_GROUP_COLUMN and not call.layout.is_grouped:
            raise ValueError(
                f"{name} has a number for each column of each group, but there are no groups; wanted "
                f"`epilogue.per_column({name}.flatten())`"
            )
        wanted = self.shape(call, values)
        if sizes.differ(x.shape, wanted):
            raise ValueError(f"{name} has shape {tuple(x.shape)}; wanted {wanted}, as it is {self.kind}")
        memory.require_one_device(a=call.a, **{name: x})
        if has_memory:
            self._check_memory(call, name, x)

    def _check_memory(self, call: Call, name: str, x: Tensor) -> None:
        """Kernels can read it where it is, and nothing of it is written before."""
        ambient.require_no_negation(name, x)
        if x.numel():
            memory.require_memory(name, x)
        if x.numel() and x.stride(-1) != 1 and x.shape[-1] > 1:
            raise ValueError(
                f"{name} has strides {x.stride()}; wanted 1 in the last dimension: `{name}.contiguous()`"
            )
        if self.kind == LIKE_OUT:
            _require_pairs(name, x)
        for result, out in call.written.items():
            if not (self.kind == LIKE_OUT and _is_same(x, out)):
                memory.require_disjoint(name, x, out, result)

    def shape(self, call: Call, values: tuple[int, ...]) -> tuple[int, ...]:
        """That of the tensor, for a call and values of a shape."""
        *rows, n = values
        if self.kind == PER_COLUMN:
            return (n,)
        if self.kind == PER_GROUP_COLUMN:
            return (call.b.shape[0], n)
        if self.kind == PER_ROW:
            return tuple(rows)
        return (1,) if self.kind == SCALAR else values

    def along(self, sums: Tensor, out: Tensor | None, row_groups: Tensor | None) -> Any:
        """For the reference: FP32 numbers that broadcast with D.

        Args:
            sums: what is computed with.
            out: the result, as it was before.
            row_groups: of each row; None where there are no groups.
        """
        if self.kind == NUMBER:
            return torch.tensor(self.value, dtype=torch.float32, device=sums.device)
        given = out if self.value is None else self.value
        assert given is not None, "checked"
        value = given.float()
        if self.kind == PER_ROW:
            return value[..., None]
        if self.kind == PER_GROUP_COLUMN and row_groups is not None:
            return value[row_groups.clamp(min=0).long()]
        return value


def per_column(value: Tensor) -> Operand:
    """A number for each column of D, such as a bias.

    Args:
        value: fp32, bf16 or fp16 ``[N]``, N that of what is computed with: half of B's rows behind
            :func:`cute_gemm.epilogue.swiglu`.
    """
    return Operand(PER_COLUMN, value)


def per_group_column(value: Tensor) -> Operand:
    """A number for each column of each group, such as the biases of experts.

    Args:
        value: fp32, bf16 or fp16 ``[G, N]``, N as of :func:`per_column`. A dense product refuses it.
    """
    return Operand(PER_GROUP_COLUMN, value)


def per_row(value: Tensor) -> Operand:
    """A number for each row of D, such as weights of routing.

    Args:
        value: fp32, bf16 or fp16 ``[M]``, or ``[G, capacity]`` of the masked layout.
    """
    return Operand(PER_ROW, value)


def like_out(value: Tensor) -> Operand:
    """A number for each element of D, such as a residual.

    Args:
        value: fp32, bf16 or fp16, of D's shape. Strides but the last are even, and it begins at a multiple of
            two elements. It may be ``out`` itself, but not overlap it otherwise.
    """
    return Operand(LIKE_OUT, value)


def scalar(value: Tensor | float) -> Operand:
    """One number for all.

    Args:
        value: a float, which is passed to the kernel; or fp32, bf16 or fp16 ``[1]`` on the device of A, which
            the host does not wait for.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, Tensor):
        return Operand(SCALAR, value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"a scalar is {words.kind(value)}; wanted a float, or a tensor `[1]`")
    return Operand(NUMBER, float(value))


def before() -> Operand:
    """For each element of D what ``out`` held there before.

    The call needs an ``out``, and raises a ValueError where there is none, where it is quantised, or where it
    has other columns than what is computed with.
    """
    return Operand(LIKE_OUT, None)


def of_argument(value: Any, function: Callable[..., Any]) -> Operand:
    """What was given to a function's factory.

    Raises:
        TypeError: it is nothing of the kind.
    """
    if isinstance(value, Operand):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return scalar(value)
    said = "a tensor" if isinstance(value, Tensor) else words.kind(value)
    raise TypeError(
        f"{function.__name__} was given {said}; wanted a number, or a tensor with what it has a number for: "
        "`epilogue.per_column(t)`, `per_group_column`, `per_row`, `like_out` or `scalar`"
    )


def _require_before(call: Call, name: str, values: tuple[int, ...]) -> None:
    """There is a result that held something, of as many columns."""
    if call.form.is_quantized:
        raise ValueError(
            f"{name} is what out held before, but out is quantised; wanted `epilogue.like_out(t)` of a tensor"
        )
    if call.out is None:
        raise ValueError(f"{name} is what out held before, but no out is given; wanted `out=`")
    if sizes.differ(values, call.shape):
        raise ValueError(
            f"{name} is what out held before, {call.shape}, but it is for values of shape {values}; wanted "
            "it behind what makes one column of two"
        )


def _require_pairs(name: str, x: Tensor) -> None:
    """Kernels read two columns at once."""
    size = 2 * x.element_size()
    steps = [step for step, count in zip(x.stride()[:-1], x.shape[:-1], strict=True) if count > 1]
    if x.numel() and (x.data_ptr() % size or any(step % 2 for step in steps)):
        raise ValueError(
            f"{name} has strides {x.stride()} from address {x.data_ptr():#x}; wanted even strides and an "
            f"address that is a multiple of {size}: `{name}.contiguous()`"
        )


def _is_same(x: Tensor, out: Tensor) -> bool:
    """Whether each element of both is at the same place."""
    places = zip(x.shape, x.stride(), out.stride(), strict=True)
    is_alike = x.dtype is out.dtype and x.shape == out.shape
    return is_alike and x.data_ptr() == out.data_ptr() and all(a == b for n, a, b in places if n > 1)
