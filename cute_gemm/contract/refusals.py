"""What is said about a call that breaks a rule of :mod:`cute_gemm.contract.product` or `checks_grouped`.

Each message names the argument, what it was, what is wanted and, where there is one, the call that makes it
right. Nothing here runs on an ordinary valid call. Functions return the exception to raise; `unpack` and
`require_own_memory` look closer first, and raise only if they must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ..plan.limits import STRIDE_END

_QUANTISE = {
    "a": "a, sa = cute_gemm.quantize_1x128({})",
    "b": "b, sb = cute_gemm.quantize_128x128({})",
}
_SHAPES = {
    ("a", 2): "[M, K]",
    ("b", 2): "[N, K]",
    ("out", 2): "[M, N]",
    ("sa", 2): "[M, ceil(K / 128)]",
    ("sb", 2): "[ceil(N / 128), ceil(K / 128)]",
    ("a", 3): "[G, capacity, K]",
    ("b", 3): "[G, N, K]",
    ("out", 3): "[G, capacity, N]",
    ("sa", 3): "[G, capacity, ceil(K / 128)]",
    ("sb", 3): "[G, ceil(N / 128), ceil(K / 128)]",
}


def unpack(name: str, pair: object) -> tuple[Tensor, Tensor]:
    """Takes a pair that is not exactly a tuple: a list or a named tuple will do, anything else is refused."""
    if isinstance(pair, (tuple, list)):
        if len(pair) == 2:
            return pair[0], pair[1]
        raise ValueError(f"the pair ({name}, s{name}) has {len(pair)} items; wanted a tensor and its scales")
    was = f"one tensor, {_sketch(pair)}" if isinstance(pair, Tensor) else _kind(pair)
    raise TypeError(
        f"the pair ({name}, s{name}) is {was}; wanted a tuple of a tensor and its scales: "
        f"pass `({name}, s{name})`, as `{_QUANTISE[name].format('x')}` makes them"
    )


def require_own_memory(name: str, x: object) -> None:
    """Refuses what is no tensor, and tensor subclasses that may stand for memory elsewhere."""
    if not isinstance(x, Tensor):
        hint = ": the result's dtype is `out_dtype=`" if isinstance(x, torch.dtype) else ""
        raise TypeError(f"{name} is {_kind(x)}; wanted a torch.Tensor{hint}")
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(
            f"{name} is {_kind(x)}, a tensor subclass that need not own the memory it describes; wanted a "
            f"plain torch.Tensor: pass the one inside, such as `{name}.to_local()` of a DTensor"
        )


def operand_dtype(name: str, q: Tensor) -> TypeError:
    """A or B that is not e4m3."""
    if q.dtype in (torch.uint8, torch.int8):
        fix = f"if these are the bytes of e4m3 values, `{name}.view(torch.float8_e4m3fn)`"
    elif q.dtype is torch.float8_e4m3fnuz:
        fix = f"`{name}.to(torch.float8_e4m3fn)` keeps the values, except for the very smallest"
    elif q.dtype.is_floating_point and q.dtype.itemsize > 1:
        fix = f"`{_QUANTISE[name].format(name)}`"
    else:
        fix = f"quantise the original values, `{_QUANTISE[name].format('x')}`"
    return TypeError(f"{name} has dtype {q.dtype}; wanted torch.float8_e4m3fn: {fix}")


def result_dtype(out: Tensor, shape: tuple[int, ...]) -> TypeError:
    """A result that kernels do not store."""
    fix = _allocate(shape, torch.bfloat16, out.device)
    if out.dtype is torch.int32 and out.dim() == 1:
        fix = f"an index of groups comes before `out`, unlike in DeepGEMM; for a result {fix}"
    return TypeError(f"out has dtype {out.dtype}; wanted torch.bfloat16 or torch.float32: {fix}")


def not_strided(name: str, x: Tensor) -> ValueError:
    """Sparse, nested, opaque and vmapped tensors: no address, or none that strides would explain."""
    if x.layout is not torch.strided:
        was, fix = f"has layout {x.layout}", f"`{name}.to_dense()`"
    else:
        was, fix = "is nested, or inside a transform such as vmap", "one call per item"
    return ValueError(f"{name} {was}, and has no memory that strides describe; wanted a dense tensor: {fix}")


def dimensions(name: str, q: Tensor, rank: int) -> ValueError:
    """An operand that is no matrix, or not one for each group."""
    fix = ""
    if q.dim() > rank:
        fix = f": `{name}.flatten(0, {-rank})` joins the leading dimensions, and so for its scales"
    elif q.dim() == rank - 1:
        what = "row" if rank == 2 else "group"
        fix = f": `{name}[None]` is a single {what}"
    was = f"{q.dim()} dimensions, shape {tuple(q.shape)}"
    return ValueError(f"{name} has {was}; wanted {rank}, {_SHAPES[name, rank]}{fix}")


def depth(name: str, q: Tensor, k: int) -> ValueError:
    """An operand whose K is not that of A."""
    fix = ""
    if q.shape[-2] == k:
        call = f"{name}.t()" if q.dim() == 2 else f"{name}.transpose(1, 2)"
        call += "" if q.stride(-2) == 1 else ".contiguous()"
        shape, scales = (_SHAPES[each, q.dim()] for each in ("b", "sb"))
        fix = f": if it is stored as {shape.replace('N, K', 'K, N')}, pass `{call}`, with scales {scales}"
    wanted = _SHAPES[name, q.dim()].replace("K", str(k))
    return ValueError(
        f"{name} has shape {tuple(q.shape)}, so K = {q.shape[-1]}, but a has K = {k}; wanted {wanted}{fix}"
    )


def result_shape(out: Tensor, shape: tuple[int, ...]) -> ValueError:
    """A result of another size than the product."""
    fix = _allocate(shape, out.dtype, out.device)
    wanted = f"{_SHAPES['out', len(shape)]} = {shape}"
    return ValueError(f"out has shape {tuple(out.shape)}; wanted {wanted}: {fix}")


def too_large(name: str, q: Tensor, limit: int) -> ValueError:
    """A dimension beyond 32-bit indices."""
    return ValueError(
        f"{name} has shape {tuple(q.shape)}; wanted no dimension above {limit}: multiply it in parts, such "
        f"as `{name}[: 2**30]`"
    )


def row_length(name: str, q: Tensor) -> ValueError:
    """A K that TMA cannot express."""
    k = q.shape[-1]
    return ValueError(
        f"{name} has shape {tuple(q.shape)}, so K = {k}; wanted a multiple of 16: pad both operands with "
        f"zeros before quantising, `torch.nn.functional.pad(x, (0, {-k % 16}))`"
    )


def result_columns(name: str, q: Tensor) -> ValueError:
    """An N that TMA cannot express."""
    n = q.shape[-2]
    return ValueError(
        f"{name} has shape {tuple(q.shape)}, so N = {n}; wanted a multiple of 8: add rows of zeros before "
        f"quantising, `torch.nn.functional.pad(w, (0, 0, 0, {-n % 8}))`, and take `[..., :{n}]` of the result"
    )


def address(name: str, x: Tensor, alignment: int) -> ValueError:
    """An address that a kernel cannot load from or store to, the null pointer among them."""
    if x.is_meta:
        return unknown_device(name, x)
    if not x.data_ptr():
        return ValueError(
            f"{name}, {_sketch(x)}, has no memory behind it; wanted its elements: its storage was freed or "
            "not yet made"
        )
    return ValueError(
        f"{name} starts at address {x.data_ptr():#x}, {x.data_ptr() % alignment} bytes off; wanted a "
        f"multiple of {alignment}: {_remake(name, x, 'clone')}"
    )


def not_contiguous(name: str, x: Tensor) -> ValueError:
    """A matrix whose rows are not contiguous."""
    dim = "N" if name == "out" else "K"
    return ValueError(
        f"{name} has strides {x.stride()} for shape {tuple(x.shape)}; wanted {dim} contiguous, stride 1 in "
        f"the last dimension: {_remake(name, x, 'contiguous')}"
    )


def row_stride(name: str, x: Tensor, step: int, width: int) -> ValueError:
    """A distance between rows that TMA cannot express, or rows that lie in one another."""
    if step < width:
        wanted = f"at least the {width} of a row, so that rows do not overlap"
    elif step % 16:
        wanted = "a multiple of 16"
    else:
        wanted = "less than 2^40"
    return ValueError(
        f"{name} has strides {x.stride()} for shape {tuple(x.shape)}, so its rows are {step} bytes apart; "
        f"wanted {wanted}: {_remake(name, x, 'contiguous')}"
    )


def group_stride(name: str, x: Tensor, group_step: int, step: int, width: int) -> ValueError:
    """A distance between matrices that TMA cannot express, or matrices that lie in one another."""
    groups, rows, _ = x.shape
    if group_step % 16:
        wanted = "a multiple of 16"
    elif group_step >= STRIDE_END:
        wanted = "less than 2^40"
    else:
        wanted = f"at least {width + step * (rows - 1)}, so that they do not overlap"
        if rows > 1 and group_step >= width:
            apart = width + group_step * (groups - 1)
            wanted += f"; or rows at least {apart} apart, not {step}, to interleave"
    return ValueError(
        f"{name} has strides {x.stride()} for shape {tuple(x.shape)}, so its matrices are {group_step} bytes "
        f"apart; wanted {wanted}: {_remake(name, x, 'contiguous')}"
    )


def group_count(b: Tensor, limit: int) -> ValueError:
    """More groups than a kernel's table holds, or none."""
    fix = ": one call for each part of them" if len(b) else ""
    return ValueError(f"b has shape {tuple(b.shape)}, so G = {len(b)}; wanted 1 to {limit} groups{fix}")


def group_mismatch(a: Tensor, b: Tensor) -> ValueError:
    """Matrices of A without one of B, or the other way round."""
    return ValueError(
        f"a has shape {tuple(a.shape)}, so G = {len(a)}, but b has shape {tuple(b.shape)}; wanted one matrix "
        f"for each of the {len(b)} groups"
    )


def scale_dtype(name: str, s: Tensor) -> TypeError:
    """Scales that are not fp32."""
    fix = f"`{name}.to(torch.float32)`"
    if s.dtype in (torch.int32, torch.uint8, torch.int8):
        fix = f"if these are packed exponents, `{name}.view(torch.float8_e8m0fnu).to(torch.float32)`"
    return TypeError(f"{name} has dtype {s.dtype}; wanted torch.float32: {fix}")


def scale_shape(name: str, s: Tensor, wanted: tuple[int, ...]) -> ValueError:
    """Scales of another granularity, another order, or another tensor."""
    shape, rank = tuple(s.shape), len(wanted)
    if shape == (*wanted[:-2], wanted[-1], wanted[-2]):
        call = f"{name}.t()" if rank == 2 else f"{name}.transpose(1, 2)"
        fix = f"it looks transposed, `{call}` will do as it is"
    elif s.numel() == 1:
        fix = f"one scale for all is `{name}.reshape{(1,) * rank}.expand{wanted}`"
    elif shape in (wanted[:-1], (*wanted[:-1], 1)):
        fix = f"one scale per row is `{name}.reshape{(*wanted[:-1], 1)}.expand{wanted}`"
    else:
        fix = f"`{_QUANTISE[name[1:]].format('x')}` makes both"
    return ValueError(f"{name} has shape {shape}; wanted {_SHAPES[name, rank]} = {wanted}: {fix}")


def pending_negation(name: str, s: Tensor) -> ValueError:
    """Scales whose sign is a flag that kernels do not see."""
    return ValueError(
        f"{name} is part of a conjugated complex tensor, a view with a pending negation; wanted its values "
        f"in memory: `{name}.resolve_neg()`"
    )


def scale_span(name: str, s: Tensor, last: int, limit: int) -> ValueError:
    """Scales spread over more memory than 32-bit offsets reach."""
    return ValueError(
        f"{name} has strides {s.stride()} for shape {tuple(s.shape)}, so its last element is {last} elements "
        f"behind its first; wanted at most {limit}: `{name}.contiguous()`"
    )


def index_dtype(name: str, index: Tensor) -> TypeError:
    """An index of another type than kernels read."""
    return TypeError(f"{name} has dtype {index.dtype}; wanted torch.int32: `{name}.to(torch.int32)`")


def index_shape(name: str, index: Tensor, axis: str, length: int) -> ValueError:
    """An index with more or fewer elements than there are rows or groups."""
    what = {"M": "rows of a", "G": "matrices of b"}[axis]
    fix = ""
    if name == "offsets" and index.shape == (length + 1,):
        fix = ": if they begin with a 0, where the first group starts, `offsets[1:]`"
    return ValueError(
        f"{name} has shape {tuple(index.shape)}; wanted [{axis}] = ({length},), one for each of the {what}"
        f"{fix}"
    )


def index_stride(name: str, index: Tensor) -> ValueError:
    """An index with gaps."""
    return ValueError(
        f"{name} has stride {index.stride(0)}; wanted its elements one behind the other: "
        f"`{name}.contiguous()`"
    )


def no_count(name: str, value: object) -> TypeError:
    """A number that is no int, and may be on a device."""
    fix = ""
    if name == "expected_rows" and isinstance(value, Tensor) and value.dim():
        fix = "; an index of groups comes before it, and `out` behind it, unlike in DeepGEMM"
    elif isinstance(value, Tensor):
        fix = f": `int({name})`, which waits for the device if it is there"
    return TypeError(f"{name} is {_kind(value)}; wanted an int that the host knows{fix}")


def count_range(name: str, value: int, limit: int | None) -> ValueError:
    """A number out of range."""
    return ValueError(f"{name} is {value}; wanted at least 1{f' and at most {limit}' if limit else ''}")


def unknown_group(row: int, group: int, groups: int) -> ValueError:
    """A row of a group that is not there."""
    return ValueError(
        f"group_index holds {group} at row {row}; wanted one of the {groups} groups, 0 to {groups - 1}, or "
        "-1 for padding"
    )


def broken_block(row: int, before: int, here: int, height: int) -> ValueError:
    """A block of rows that is not one group followed by padding."""
    start = row // height * height
    return ValueError(
        f"group_index holds {before} at row {row - 1} and {here} at row {row}, within the block of rows "
        f"{start}:{start + height}; wanted rows of one group in a block of {height}, followed by padding "
        f"(-1) only: start each group at a multiple of cute_gemm.contiguous_alignment(), or call "
        "m_grouped_fp8_gemm_nt_offsets, which takes groups of any size"
    )


def misplaced_end(group: int, end: int, before: int, start: int, alignment: int, m: int) -> ValueError:
    """The end of a group beyond the last row, or before its start."""
    if end > m:
        wanted = f"at most {m}, the rows of a"
    elif end < before:
        wanted = f"at least {before}, the end before it" if group else "at least 0"
    else:
        wanted = (
            f"at least {start}, the group's start (the end before it, {before}, rounded up to a multiple of "
            f"alignment = {alignment}), or {before} for an empty group"
        )
    return ValueError(f"offsets holds {end} for group {group}; wanted {wanted}")


def too_many_rows(group: int, count: int, capacity: int) -> ValueError:
    """More valid rows than there are, or fewer than none."""
    return ValueError(
        f"valid_rows holds {count} for group {group}; wanted 0 to {capacity}, the rows of each matrix of a"
    )


def validating_in_capture(name: str) -> RuntimeError:
    """A look at what a capture does not compute."""
    return RuntimeError(
        f"validate=True reads {name}, which has no values while a CUDA graph is being captured; wanted "
        "validate=False there, or a call before the capture"
    )


def mixed_devices(**tensors: Tensor) -> ValueError:
    """Tensors on several devices; the fix moves one that is not where most are."""
    common = Counter(x.device for x in tensors.values()).most_common(1)[0][0]
    odd = next(name for name, x in tensors.items() if x.device != common)
    places = ", ".join(f"{name} on {x.device}" for name, x in tensors.items())
    call = f"torch.empty_like(out, device={str(common)!r})" if odd == "out" else f"{odd}.to({str(common)!r})"
    return ValueError(f"{odd} is on {tensors[odd].device}; wanted one device, not {places}: `{call}`")


def unknown_device(name: str, x: Tensor) -> ValueError:
    """A device with neither a kernel nor memory that the reference could read."""
    call = f"torch.empty_like({name}, device='cuda')" if x.is_meta else f"{name}.to('cuda')"
    return ValueError(
        f"{name} is on device {str(x.device)!r}; wanted 'cuda' (a Hopper GPU) or 'cpu' (the reference in "
        f"plain torch): `{call}`"
    )


def gradient(**tensors: Tensor) -> ValueError:
    """A gradient that would be lost without a word."""
    name = next(name for name, x in tensors.items() if x.requires_grad)
    return ValueError(
        f"{name} requires a gradient, which this operation does not compute; wanted `{name}.detach()`, or a "
        "call under `torch.no_grad()` or inside a torch.autograd.Function"
    )


def unknown_out_dtype(out_dtype: object) -> TypeError:
    """A result type that kernels do not store."""
    return TypeError(f"out_dtype is {out_dtype!r}; wanted `torch.bfloat16` or `torch.float32`")


def contradicting_out_dtype(out: Tensor, out_dtype: object) -> TypeError:
    """`out` and `out_dtype` that ask for different things."""
    return TypeError(
        f"out_dtype is {out_dtype!r}, but out has dtype {out.dtype}; wanted the same, or no `out_dtype`, as "
        f"a given `out` decides: {_allocate(out.shape, torch.float32, out.device)}"
    )


def overlap(name: str, x: Tensor, out: Tensor) -> ValueError:
    """A result that would be written over what is still read."""
    return ValueError(
        f"out lies in the memory of {name}: out has {_place(out)}, {name} has {_place(x)}, and a shared byte "
        f"cannot be ruled out; wanted memory of its own: {_allocate(out.shape, out.dtype, out.device)}"
    )


def _remake(name: str, x: Tensor, method: str) -> str:
    """How to get a usable tensor: a copy of an input, but fresh memory for a result."""
    return _allocate(x.shape, x.dtype, x.device) if name == "out" else f"`{name}.{method}()`"


def _allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> str:
    call = f"torch.empty({tuple(shape)}, dtype={dtype}, device={str(device)!r})"
    return f"`{call}`, or leave `out` away"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"


def _sketch(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"


def _place(x: Tensor) -> str:
    size = f"{x.element_size()}-byte elements"
    return f"address {x.data_ptr():#x}, shape {tuple(x.shape)}, strides {x.stride()} of {size}"
