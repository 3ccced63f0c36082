"""Calls that break a rule: what they must not do, what they must say, and tensors that are hard to take.

A call is a dictionary of its arguments by the names that the documentation gives them.
"""

import mmap
import re
from typing import Any

import pytest
import torch
from torch.nn.parameter import is_lazy

import cute_gemm

MAP_NORESERVE = 0x4000  # Linux; the mmap module has it by name from Python 3.13

OPERATIONS = {
    "group_index": cute_gemm.m_grouped_fp8_gemm_nt_contiguous,
    "offsets": cute_gemm.m_grouped_fp8_gemm_nt_offsets,
    "valid_rows": cute_gemm.m_grouped_fp8_gemm_nt_masked,
}
"""Grouped operations by the argument that no other has."""


def call(given: dict[str, Any]) -> torch.Tensor:
    operation = next((OPERATIONS[name] for name in given if name in OPERATIONS), cute_gemm.fp8_gemm_nt)
    pairs = {"a", "sa", "b", "sb"}
    others = {name: x for name, x in given.items() if name not in pairs}
    return operation((given["a"], given["sa"]), (given["b"], given["sb"]), **others)


def memory(given: dict[str, Any]) -> dict[str, Any]:
    """All bytes of all storages, also those that a tensor does not cover."""
    tensors = {name: x for name, x in given.items() if isinstance(x, torch.Tensor) and not is_lazy(x)}
    tensors = {name: x for name, x in tensors.items() if not x.is_nested}
    dense = {name: x for name, x in tensors.items() if x.is_cpu and x.layout is torch.strided}
    storages = [(name, x.untyped_storage()) for name, x in dense.items()]
    views = {name: torch.empty(0, dtype=torch.uint8).set_(s) for name, s in storages if s.size() < 2**16}
    return {name: view.numpy().tobytes() for name, view in views.items()}


def refused(given: dict[str, Any], error: type[Exception], argument: str) -> str:
    """The message of a call that is refused for the argument, and that has written nowhere."""
    before = memory(given)
    with pytest.raises(error) as info:
        call(given)
    message = str(info.value)
    assert memory(given) == before
    assert type(info.value) is error
    assert message.startswith(f"{argument} "), message
    assert "wanted" in message
    return message


def mended(given: dict[str, Any], argument: str, message: str) -> dict[str, Any]:
    """The call after the first piece of code in the message was run, as a reader would run it."""
    code = next(code for code in re.findall(r"`([^`]+)`", message) if "(" in code or "[" in code)
    names = {"torch": torch, "cute_gemm": cute_gemm, **given}
    if " = " in code:
        exec(code, names)
    else:
        names[argument] = eval(code, names)
    return {name: names[name] for name in given}


def strided(x: torch.Tensor, row_stride: int, offset: int = 0) -> torch.Tensor:
    """The matrix with its rows further apart or misplaced, in elements."""
    rows, columns = x.shape
    buffer = torch.zeros(offset + rows * max(row_stride, columns) + columns, dtype=x.dtype)
    view = buffer.as_strided((rows, columns), (row_stride, 1), offset)
    return view.copy_(x)


def transposed_memory(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous().t()


def negated(x: torch.Tensor) -> torch.Tensor:
    return torch.complex(x, -x).conj().imag


def byte_shifted(x: torch.Tensor) -> torch.Tensor:
    """The same values two bytes behind an aligned address; torch itself makes no such fp32 tensor."""
    raw = bytearray(2) + bytearray(x.contiguous().view(torch.uint8).flatten().tolist())
    return torch.frombuffer(raw, dtype=x.dtype, offset=2).view(x.shape)


def far_apart(x: torch.Tensor, row_stride: int) -> torch.Tensor:
    """Rows that many elements apart, in address space that takes no memory until it is written."""
    size = ((len(x) - 1) * row_stride + x.shape[1]) * x.element_size()
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return torch.frombuffer(pages, dtype=x.dtype).as_strided(x.shape, (row_stride, 1))
