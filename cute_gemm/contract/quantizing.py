"""What is quantised, and where to: each rule beside what is said where it is broken."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.limits import ceil_div
from ..plan.quantizer import BLOCK, SOURCE_BYTES
from . import ambient, memory, options, sizes, words
from .memory import OWNING_TYPES

E4M3 = torch.float8_e4m3fn
SCALE_DTYPE = torch.float32
SOURCE_DTYPES = tuple(getattr(torch, name) for name in SOURCE_BYTES)


def require_source(name: str, x: Tensor, dimensions: int, wanted: str) -> None:
    """A tensor to quantise.

    Args:
        name, x: the argument.
        dimensions: how many it has at least.
        wanted: what to say where it has fewer.

    Raises:
        TypeError: it is no tensor, or not of one of the dtypes that are quantised.
        ValueError: it has too few dimensions, or no values in memory; or a derivative is wanted.
    """
    memory.require_tensor(name, x)
    if x.dtype not in SOURCE_DTYPES:
        fix = f": `{name}.to(torch.float32)`" if x.dtype is torch.float64 else ""
        raise TypeError(f"{name} has dtype {x.dtype}; wanted {one_of(SOURCE_DTYPES)}{fix}")
    require_values(**{name: x})
    if x.dim() < dimensions:
        was = f"has shape {tuple(x.shape)}" if x.dim() else "has no dimension"
        raise ValueError(f"{name} {was}; wanted {wanted}")


def require_flags(**flags: object) -> None:
    """Each is True or False.

    Raises:
        TypeError: one is not.
    """
    for name, value in flags.items():
        options.require_flag(name, value)


def require_result(
    name: str,
    result: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    read: dict[str, Tensor],
    has_memory: bool = True,
) -> None:
    """Where to write, if it is given: of that shape and dtype, where nothing of ``read`` lies.

    Args:
        name, result: the argument.
        shape, dtype: the ones wanted.
        read: what is read, by name; it is on the device that is wanted.
        has_memory: whether it is there; else its memory is not judged, nor sizes not known yet.

    Raises:
        TypeError: it is no tensor, or of another dtype.
        ValueError: its shape, device or memory is another.
    """
    if result is None:
        return
    memory.require_own_memory(name, result, has_memory)
    device = next(iter(read.values())).device
    if result.dtype is not dtype:
        raise TypeError(
            f"{name} has dtype {result.dtype}; wanted {dtype}: {_allocate(name, shape, dtype, device)}"
        )
    if sizes.differ(result.shape, shape):
        wanted = f"wanted {tuple(shape)}: {_allocate(name, shape, dtype, device)}"
        raise ValueError(f"{name} has shape {tuple(result.shape)}; {wanted}")
    if result.device != device:
        wanted = f"wanted {device}: {_allocate(name, shape, dtype, device)}"
        raise ValueError(f"{name} is on {result.device}; {wanted}")
    if not has_memory:
        return
    require_values(**{name: result})
    if _may_overlap_itself(result):
        wanted = f"wanted memory of its own for each: {_allocate(name, shape, dtype, device)}"
        raise ValueError(f"{name} has strides {result.stride()}, so elements may share memory; {wanted}")
    for other, x in read.items():
        memory.require_disjoint(other, x, result, name)


def require_results(
    given: dict[str, Tensor | None],
    shapes: tuple[tuple[int, ...], ...],
    read: dict[str, Tensor],
    has_memory: bool = True,
) -> None:
    """All results of a call by name, e4m3 and scales in turn, as :func:`require_result` says, and apart."""
    for number, ((name, result), shape) in enumerate(zip(given.items(), shapes, strict=True)):
        require_result(name, result, shape, SCALE_DTYPE if number % 2 else E4M3, read, has_memory)
        read = read if result is None else read | {name: result}


def require_values(**tensors: Tensor) -> None:
    """Each has its values in memory, and no derivative is lost, be it wanted or tracked by a wrapper.

    Raises:
        ValueError: one has not, or it would be.
    """
    # Dynamo traces what follows these rules, and of transforms and tangents what torch does with them. In the
    # backward of a torch.autograd.Function it does not look at a tensor's layout.
    if torch.compiler.is_compiling():
        ambient.require_no_gradient(**tensors)
        return
    for name, x in tensors.items():
        memory.require_dense(name, x)
    ambient.require_no_gradient(**tensors)
    for name, x in tensors.items():
        if type(x) in OWNING_TYPES:
            ambient.require_no_transform(name, x)
            if x.numel() and (x.is_cpu or x.is_cuda):
                memory.require_memory(name, x)
    ambient.require_no_tangent(**tensors)


def require_scales(s: Tensor) -> None:
    """A tensor of scales.

    Raises:
        TypeError: it is none.
    """
    memory.require_tensor("s", s)
    if s.dtype is not SCALE_DTYPE:
        real = "s.real" if s.dtype.is_complex else "s"
        raise TypeError(f"s has dtype {s.dtype}; wanted {SCALE_DTYPE}: `{real}.to({SCALE_DTYPE})`")


def scale_blocks(length: int) -> int:
    """Scales that cover ``length`` elements along K, or of the rows of a weight; the last may cover fewer."""
    return ceil_div(length, BLOCK)


def one_of(dtypes: tuple[torch.dtype, ...]) -> str:
    """How a choice of dtypes is spelled."""
    return f"{', '.join(map(str, dtypes[:-1]))} or {dtypes[-1]}"


def _allocate(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> str:
    return words.allocate(shape, dtype, device).replace("`out`", f"`{name}`")


def _may_overlap_itself(x: Tensor) -> bool:
    """Whether two elements may share memory; not where each dimension steps over all that lie within it."""
    if 0 in x.shape:
        return False
    reach = 1
    for step, count in sorted(zip(x.stride(), x.shape, strict=True)):
        if count > 1:
            if step < reach:
                return True
            reach += step * (count - 1)
    return False
