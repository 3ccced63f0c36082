"""The result, which TMA writes: each rule beside what is said where it is broken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan.limits import OUT_BYTES, TMA_ALIGNMENT
from ..plan.quantizer import INTERLEAVE
from . import ambient, memory, options, quantizing, sizes, words

_DEFAULT = torch.bfloat16
_PIECE = TMA_ALIGNMENT  # columns of e4m3 that take as many bytes
_DTYPES = tuple(getattr(torch, name) for name in OUT_BYTES)


@dataclass(frozen=True)
class ResultForm:
    """What an epilogue makes of a result, beside its type.

    Args:
        narrowing: how many columns of sums make one of the result: 1, or 2, a gate's and what it opens for.
        is_quantized: whether it is e4m3, with a scale for each row and 128 columns.
        turn: columns of a gate, and of what it opens for, that alternate.
    """

    narrowing: int = 1
    is_quantized: bool = False
    turn: int = INTERLEAVE

    @property
    def names(self) -> tuple[str, ...]:
        """Of the results, in messages."""
        return ("out[0]", "out[1]") if self.is_quantized else ("out",)


PLAIN = ResultForm()


def require_columns(form: ResultForm, n: int) -> None:
    """The columns of sums make whole ones of the result, whose rows TMA can express.

    Raises:
        ValueError: they do not.
    """
    gated = form.narrowing > 1
    if form.turn > INTERLEAVE and not form.is_quantized:
        raise ValueError(
            f"{form.turn} columns of a gate and of what it opens for alternate, which takes tiles that only "
            "what is quantised has; wanted `... | epilogue.quantize_1x128()`, or turns of 8"
        )
    multiple = form.narrowing * max(form.turn, _PIECE if form.is_quantized else INTERLEAVE)
    if not sizes.known(n % multiple != 0):
        return
    why = f"{form.turn} columns of a gate and as many of what it opens for alternate"
    if form.is_quantized and form.turn < _PIECE:
        halves = f", made of {form.narrowing} columns each," if gated else ""
        why = f"the columns of a quantised result{halves} are a multiple of {_PIECE}"
    raise ValueError(
        f"b has {n} rows; wanted a multiple of {multiple}: {why}. Add rows of zeros before quantising, "
        f"{'to gate and up alike, ' if gated else ''}`torch.nn.functional.pad(w, (0, 0, 0, rows))`"
    )


def require_quantized(
    out: object,
    out_dtype: object,
    shape: tuple[int, ...],
    read: dict[str, Tensor],
    *,
    has_memory: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """A pair for what is quantised, of which either may be None: e4m3, and scales of any strides.

    Args:
        out, out_dtype: the arguments.
        shape: of the e4m3 wanted.
        read: the operands, by name.
        has_memory: whether it is there; else its memory is not judged, nor sizes not known yet.

    Returns:
        Both.

    Raises:
        TypeError: it is no pair of them, or another dtype is asked for.
        ValueError: a shape or memory that cannot be written.
    """
    if out_dtype is not _DEFAULT and out_dtype is not quantizing.E4M3:
        raise TypeError(f"out_dtype is {out_dtype!r}, but the epilogue quantises to e4m3; wanted none")
    if out is None:
        return None, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        was = f"one tensor, {words.sketch(out)}" if isinstance(out, Tensor) else words.kind(out)
        raise TypeError(
            f"out is {was}, but the epilogue quantises; wanted a pair of e4m3 and its scales, `out=(q, s)`"
        )
    q, s = out
    scale_shape = (*shape[:-1], quantizing.scale_blocks(shape[-1]))
    for name, each, wanted, dtype in (
        ("out[0]", q, shape, quantizing.E4M3),
        ("out[1]", s, scale_shape, quantizing.SCALE_DTYPE),
    ):
        quantizing.require_result(name, each, wanted, dtype, read, has_memory)
        if each is not None:
            read = read | {name: each}
    if not has_memory:
        return q, s
    if q is not None:
        memory.require_tma("out[0]", q)
    if s is not None and s.numel():
        memory.require_address("out[1]", s, quantizing.SCALE_DTYPE.itemsize)
        ambient.require_no_negation("out[1]", s)
    return q, s


def require_result(
    out: Tensor, out_dtype: torch.dtype, shape: tuple[int, ...], *, has_memory: bool = True
) -> None:
    """A given matrix, or one of each group: bf16 or fp32, rows contiguous.

    Args:
        out: the argument.
        out_dtype: bf16, the default, or what ``out`` has.
        shape: the one wanted, ``[M, N]`` or ``[G, capacity, N]``.
        has_memory: whether it is there; else its memory is not judged, nor sizes not known yet.

    Raises:
        TypeError: it is no tensor, or its dtype is not one that kernels store, or not ``out_dtype``.
        ValueError: its shape or its memory is not what TMA can write.
    """
    memory.require_own_memory("out", out, has_memory)
    _require_dtype(out, shape)
    _require_agreement(out, out_dtype)
    memory.require_strided("out", out, has_memory)
    _require_shape(out, shape)
    if has_memory:
        memory.require_tma("out", out)


def require_accumulate(accumulate: object, out: Tensor | None, has_memory: bool) -> None:
    """There is an FP32 result to add to, if sums are to be added to one.

    Raises:
        TypeError: `accumulate` is no bool, or `out` is no tensor or has another dtype.
        ValueError: there is no `out`.
    """
    options.require_flag("accumulate", accumulate)
    if not accumulate:
        return
    if out is None:
        raise ValueError(
            "accumulate is True, but there is no out; wanted `out`, which the product is added to"
        )
    memory.require_own_memory("out", out, has_memory)
    if out.dtype is not torch.float32:
        raise TypeError(
            f"accumulate is True, and out has dtype {out.dtype}; wanted torch.float32, or "
            "`epilogue=cute_gemm.epilogue.accumulate()`, which adds before it rounds"
        )


def require_no_epilogue(accumulate: object) -> None:
    """Sums are not to be added to the result beside what an epilogue makes of them.

    Raises:
        TypeError: `accumulate` is no bool.
        ValueError: it is True.
    """
    options.require_flag("accumulate", accumulate)
    if accumulate:
        raise ValueError(
            "accumulate is True beside an epilogue; wanted it as the epilogue's last part, "
            "`epilogue | cute_gemm.epilogue.accumulate()`"
        )


def require_out_dtype(out_dtype: object) -> None:
    """The dtype of a result that is to be allocated.

    Raises:
        TypeError: it is not one that kernels store.
    """
    if not agree(None, out_dtype):
        raise TypeError(
            f"out_dtype is {out_dtype!r}; wanted {' or '.join(f'`{dtype}`' for dtype in _DTYPES)}"
        )


def agree(out: Tensor | None, out_dtype: object) -> bool:
    """Whether `out` and `out_dtype` ask for the same thing; without `out`, for one that kernels store."""
    if out is None:
        return any(out_dtype is dtype for dtype in _DTYPES)
    return out_dtype is _DEFAULT or out_dtype is out.dtype


def _require_dtype(out: Tensor, shape: tuple[int, ...]) -> None:
    """Kernels store it."""
    if out.dtype in _DTYPES:
        return
    fix = words.allocate(shape, _DEFAULT, out.device)
    if out.dtype is torch.int32 and out.dim() == 1:
        fix = f"an index of groups comes before `out`, unlike in DeepGEMM; for a result {fix}"
    raise TypeError(f"out has dtype {out.dtype}; wanted {' or '.join(map(str, _DTYPES))}: {fix}")


def _require_agreement(out: Tensor, out_dtype: torch.dtype) -> None:
    """`out` and `out_dtype` ask for the same thing."""
    if agree(out, out_dtype):
        return
    raise TypeError(
        f"out_dtype is {out_dtype!r}, but out has dtype {out.dtype}; wanted the same, or no `out_dtype`, as "
        f"a given `out` decides: {words.allocate(out.shape, torch.float32, out.device)}"
    )


def _require_shape(out: Tensor, shape: tuple[int, ...]) -> None:
    """It has the size of the product."""
    if not sizes.differ(out.shape, shape):
        return
    fix = words.allocate(shape, out.dtype, out.device)
    wanted = f"{words.symbolic_shape('out', len(shape))} = {shape}"
    raise ValueError(f"out has shape {tuple(out.shape)}; wanted {wanted}: {fix}")
