"""A and B, and their scales: each rule beside what is said where it is broken.

TMA reads the matrices, in which K is contiguous. Scales are read with ordinary loads, so both orders, padding
and broadcast strides of 0 are fine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan.limits import K_MULTIPLE, MAX_EXTENT, MAX_SCALE_SPAN, N_MULTIPLE, ceil_div
from ..plan.recipe import FP8_1D1D, FP8_1D2D, Recipe
from . import ambient, memory, sizes, words


@dataclass(frozen=True)
class Role:
    """What one of the two operands of a product is.

    Args:
        name: of the argument; its scales have an s before it.
        dtype: of its elements.
        rows_per_scale: rows that share a scale.
        row_multiple: what the number of its rows is a multiple of.
        recipe: of the product.
    """

    name: str
    dtype: torch.dtype
    rows_per_scale: int
    row_multiple: int
    recipe: Recipe

    def quantize_call(self, source: str) -> str:
        """The statement that makes it and its scales from ``source``."""
        return words.quantize_call(self.name, source, self.recipe)


@functools.cache
def roles(recipe: Recipe) -> tuple[Role, Role]:
    """Those of A and of B."""
    return (
        Role("a", getattr(torch, recipe.a_dtype), recipe.scale_m, 1, recipe),
        Role("b", getattr(torch, recipe.b_dtype), recipe.scale_n, N_MULTIPLE, recipe),
    )


def recipe_of(rhs: object) -> Recipe:
    """That of a dense product by ``rhs``, the pair of B and its scales, whatever that is.

    Each row of B has scales where there are as many rows of them: B has at least eight rows, and so fewer
    blocks of 128.
    """
    if not isinstance(rhs, (tuple, list)) or len(rhs) != 2:
        return FP8_1D2D
    b, sb = rhs
    try:
        (n, _), (rows, _) = b.shape, sb.shape
    # What has no shape, or one of other dimensions, is refused later, in words.
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return FP8_1D2D
    is_of_rows = not sizes.known(n == 0) and sizes.known(n == rows)
    return FP8_1D1D if is_of_rows else FP8_1D2D


_SCALE_DTYPE = torch.float32
_BYTES = (torch.uint8, torch.int8)


def require_operand(
    role: Role, pair: object, rank: int, depth: int | None = None, *, has_memory: bool = True
) -> tuple[Tensor, Tensor]:
    """A matrix ``[rows, K]``, or one of each group ``[groups, rows, K]``, and its scales.

    Args:
        role: which operand it is.
        pair: the argument: a matrix and its scales, fp32 ``[..., ceil(rows / role.rows_per_scale), ceil(K /
            role.recipe.scale_k)]``.
        rank: 2 for one matrix, 3 for one of each group.
        depth: the K wanted, None where any is.
        has_memory: whether the tensors are there; else their memory is not judged, nor sizes not known yet.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: a shape or layout that cannot be used.
    """
    q, s = unpack(role, pair)
    require_matrix(role, q, rank, depth, has_memory=has_memory)
    require_scale_kind(role, s, ceil_div(q.shape[-1], role.recipe.scale_k), has_memory=has_memory)
    _require_scale_shape(role, s, q)
    if has_memory:
        require_scale_memory(role, s)
    return q, s


def require_matrix(
    role: Role, q: Tensor, rank: int, depth: int | None = None, *, has_memory: bool = True
) -> None:
    """The matrices alone, as of :func:`require_operand`.

    Raises:
        TypeError, ValueError: as there.
    """
    name = role.name
    memory.require_own_memory(name, q, has_memory)
    _require_dtype(role, q)
    memory.require_strided(name, q, has_memory)
    _require_rank(name, q, rank)
    if depth is not None:
        _require_depth(name, q, depth)
    _require_extents(name, q)
    _require_k_multiple(name, q)
    _require_row_multiple(role, q)
    if has_memory:
        memory.require_tma(name, q)


def require_scale_kind(role: Role, s: Tensor, columns: int, *, has_memory: bool = True) -> None:
    """Scales are a dense tensor of FP32, of whatever shape; so many columns are wanted.

    Raises:
        TypeError, ValueError: they are not.
    """
    name = f"s{role.name}"
    memory.require_own_memory(name, s, has_memory)
    _require_scale_dtype(name, s, columns)
    memory.require_strided(name, s, has_memory)


def require_scale_memory(role: Role, s: Tensor) -> None:
    """Scales, if there are some, lie where kernels can load them.

    Raises:
        ValueError: they do not.
    """
    if not s.numel():
        return
    name = f"s{role.name}"
    memory.require_address(name, s, _SCALE_DTYPE.itemsize)
    ambient.require_no_negation(name, s)
    _require_scale_span(name, s)


def unpack(role: Role, pair: object) -> tuple[Tensor, Tensor]:
    """A tuple of two. A list or a named tuple will do.

    Raises:
        TypeError, ValueError: it is none.
    """
    name = role.name
    if isinstance(pair, (tuple, list)):
        if len(pair) == 2:
            return pair[0], pair[1]
        raise ValueError(f"the pair ({name}, s{name}) has {len(pair)} items; wanted a tensor and its scales")
    was = f"one tensor, {words.sketch(pair)}" if isinstance(pair, Tensor) else words.kind(pair)
    raise TypeError(
        f"the pair ({name}, s{name}) is {was}; wanted a tuple of a tensor and its scales: "
        f"pass `({name}, s{name})`, as `{role.quantize_call('x')}` makes them"
    )


def _require_dtype(role: Role, q: Tensor) -> None:
    """It has the dtype of the recipe."""
    if q.dtype is role.dtype:
        return
    name = role.name
    if q.dtype in _BYTES:
        fix = f"if these are the bytes of e4m3 values, `{name}.view({role.dtype})`"
    elif q.dtype is torch.float8_e4m3fnuz:
        fix = f"`{name}.to({role.dtype})` keeps the values, except for the very smallest"
    elif q.dtype.is_floating_point and q.dtype.itemsize > 1:
        source = f"{name}.float()" if q.dtype is torch.float64 else name
        fix = f"`{role.quantize_call(source)}`"
    else:
        fix = f"quantise the original values, `{role.quantize_call('x')}`"
    raise TypeError(f"{name} has dtype {q.dtype}; wanted {role.dtype}: {fix}")


def _require_rank(name: str, q: Tensor, rank: int) -> None:
    """It is a matrix, or one for each group."""
    if q.dim() == rank:
        return
    fix = ""
    if q.dim() > rank:
        fix = f": `{name}.flatten(0, {-rank})` joins the leading dimensions, and so for its scales"
    elif q.dim() == rank - 1:
        fix = f": `{name}[None]` is a single {'row' if rank == 2 else 'group'}"
    raise ValueError(
        f"{name} has {q.dim()} dimensions, shape {tuple(q.shape)}; wanted {rank}, "
        f"{words.symbolic_shape(name, rank)}{fix}"
    )


def _require_depth(name: str, q: Tensor, k: int) -> None:
    """Its K is that of A."""
    if not sizes.known(q.shape[-1] != k):
        return
    fix = ""
    if sizes.known(q.shape[-2] == k):
        call = f"{name}.t()" if q.dim() == 2 else f"{name}.transpose(1, 2)"
        call += "" if q.stride(-2) == 1 else ".contiguous()"
        shape, scales = (words.symbolic_shape(each, q.dim()) for each in (name, f"s{name}"))
        fix = f": if it is stored as {shape.replace('N, K', 'K, N')}, pass `{call}`, with scales {scales}"
    wanted = words.symbolic_shape(name, q.dim()).replace("K", str(k))
    raise ValueError(
        f"{name} has shape {tuple(q.shape)}, so K = {q.shape[-1]}, but a has K = {k}; wanted {wanted}{fix}"
    )


def _require_extents(name: str, q: Tensor) -> None:
    """Its rows and columns have 32-bit indices."""
    if not any(sizes.known(extent > MAX_EXTENT) for extent in q.shape[-2:]):
        return
    raise ValueError(
        f"{name} has shape {tuple(q.shape)}; wanted no dimension above {MAX_EXTENT}: multiply it in parts, "
        f"such as `{name}[: 2**30]`"
    )


def _require_k_multiple(name: str, q: Tensor) -> None:
    """TMA can express its K."""
    k = q.shape[-1]
    if not sizes.known(k % K_MULTIPLE != 0):
        return
    raise ValueError(
        f"{name} has shape {tuple(q.shape)}, so K = {k}; wanted a multiple of {K_MULTIPLE}: pad both "
        f"operands with zeros before quantising, `torch.nn.functional.pad(x, (0, {-k % K_MULTIPLE}))`"
    )


def _require_row_multiple(role: Role, q: Tensor) -> None:
    """TMA can express the rows of D: N, the rows of B, are its columns."""
    n = q.shape[-2]
    if not sizes.known(n % role.row_multiple != 0):
        return
    raise ValueError(
        f"{role.name} has shape {tuple(q.shape)}, so N = {n}; wanted a multiple of {role.row_multiple}: add "
        f"rows of zeros before quantising, `torch.nn.functional.pad(w, (0, 0, 0, {-n % role.row_multiple}))`,"
        f" and take `[..., :{n}]` of the result"
    )


def _require_scale_dtype(name: str, s: Tensor, k_blocks: int) -> None:
    """They are FP32. Others may be exponents alone: bytes, or four of them along K in an int32."""
    if s.dtype is _SCALE_DTYPE:
        return
    fix = f"`{name}{'.real' if s.dtype.is_complex else ''}.to({_SCALE_DTYPE})`"
    if s.dtype in _BYTES:
        fix = f"if these are packed exponents, `{name}.view(torch.float8_e8m0fnu).to({_SCALE_DTYPE})`"
    elif s.dtype is torch.int32 and s.dim():
        # A dimension of its own for the bytes: a view asks that they lie one behind the other.
        bytes_of_all = f"{name}[..., None].view(torch.float8_e8m0fnu).flatten(-2)"
        fix = f"if these are packed exponents, `{bytes_of_all}[..., :{k_blocks}].to({_SCALE_DTYPE})`"
    raise TypeError(f"{name} has dtype {s.dtype}; wanted {_SCALE_DTYPE}: {fix}")


def _require_scale_shape(role: Role, s: Tensor, q: Tensor) -> None:
    """There is one for each block of the operand ``q``: of this granularity, order and tensor."""
    *groups, rows, k = q.shape
    wanted = (*groups, ceil_div(rows, role.rows_per_scale), ceil_div(k, role.recipe.scale_k))
    shape, rank = tuple(s.shape), len(wanted)
    if not sizes.differ(shape, wanted):
        return
    name = f"s{role.name}"
    if not sizes.differ(shape, (*groups, wanted[-1], wanted[-2])):
        call = f"{name}.t()" if rank == 2 else f"{name}.transpose(1, 2)"
        fix = f"it looks transposed, `{call}` will do as it is"
    elif sizes.known(s.numel() == 1):
        fix = f"one scale for all is `{name}.reshape{(1,) * rank}.expand{wanted}`"
    elif not all(sizes.differ(shape, each) for each in (wanted[:-1], (*wanted[:-1], 1))):
        fix = f"one scale per row is `{name}.reshape{(*wanted[:-1], 1)}.expand{wanted}`"
    else:
        fix = f"`{role.quantize_call('x')}` makes both"
    said = words.symbolic_shape(name, rank, role.recipe)
    raise ValueError(f"{name} has shape {shape}; wanted {said} = {wanted}: {fix}")


def _require_scale_span(name: str, s: Tensor) -> None:
    """32-bit offsets reach all of them."""
    last = sum(step * (count - 1) for step, count in zip(s.stride(), s.shape, strict=True))
    if last <= MAX_SCALE_SPAN:
        return
    raise ValueError(
        f"{name} has strides {s.stride()} for shape {tuple(s.shape)}, so its last element is {last} elements "
        f"behind its first; wanted at most {MAX_SCALE_SPAN}: `{name}.contiguous()`"
    )
