"""The public operations: what each promises, and the way from tensors to a result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .contract import grouping as checks_grouped
from .contract import product as checks
from .plan.problem import CONTIGUOUS_ALIGNMENT
from .runtime import hardware, quick


def fp8_gemm_nt(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`D = A @ B.T` of FP8 matrices with fine-grained scales, accumulated in FP32.

    `D[m, n]` is the sum over k of `a[m, k] * sa[m, k // 128] * b[n, k] * sb[n // 128, k // 128]`. Tensor
    cores sum 128 products along K; each such part is then scaled and added up in FP32 (DeepSeek-V3 technical
    report, arXiv:2412.19437, section 3.3).

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[M, K]`; `sa` its scales, torch.float32
            `[M, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: the pair `(b, sb)`. `b` is B, torch.float8_e4m3fn `[N, K]`; `sb` its scales, torch.float32
            `[ceil(N / 128), ceil(K / 128)]`. :func:`cute_gemm.quantize_128x128` makes both.
        out: where to write D, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it. It may be a view
            into a buffer that holds inputs too, as long as it shares no element with them.
        out_dtype: torch.bfloat16 or torch.float32, the type of an allocated result. A given `out` decides by
            its own dtype; torch.float32 beside an `out` of bfloat16 is an error, as the result would be
            rounded.

    M is any size, N a multiple of 8, K a multiple of 16 (a last k-block may be partial). With K = 0 the
    result is zero; with M = 0 or N = 0 there is nothing to do. Dimensions are at most 2^31 - 1024.

    The last dimension of a, b and out is contiguous (stride 1). Rows may be further apart: the row stride is
    a multiple of 16 bytes, at least the length of a row (so rows that `expand` repeats are refused) and below
    2^40 bytes; it does not matter for a single row. a, b and out start at a multiple of 16 bytes. Scales may
    have any strides: row-major, column-major, padded and broadcast (stride 0) ones are read in place. Those
    of A that are M-major, at an address and with strides that are multiples of 16 bytes, as
    `quantize.m_major` makes them, may take another kernel, which loads them by TMA and gives the same bits.

    All tensors are on one device. On a Hopper GPU the call launches on the current stream of that device, be
    it the current device or not, and returns without waiting. A call that needs a kernel which no call before
    it did compiles that in seconds, or finds it on disk; sizes are arguments of a kernel, so few are needed.
    A kernel's first call in a process must not be within the capture of a CUDA graph: make the same call,
    with scales laid out alike, once before. On the CPU the same rules hold, and :mod:`cute_gemm.reference`
    computes the result in plain torch.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError: an argument is no tensor (or no pair of them), or has a dtype other than the above.
        ValueError: a shape, stride, address, device or overlap outside the above; a gradient is wanted, which
            this operation does not compute; or :func:`cute_gemm.config` asks for more multiprocessors than
            the device has.
        RuntimeError: the tensors are on a GPU other than Hopper; or a CUDA graph is being captured, and this
            kernel was not called before on this device.

    When it raises one of these, `out` is as it was.
    """
    launched = quick.fp8_gemm_nt(lhs, rhs, out, out_dtype)
    if launched is not None:
        return launched
    a, sa, b, sb, m, n, k, device, _, _ = checks.product(lhs, 2, rhs, 2, out, out_dtype)
    if m == 0 or n == 0 or k == 0:
        return torch.zeros((m, n), dtype=out_dtype, device=device) if out is None else _fill(out, 0)
    if a.is_cpu:
        product = reference.fp8_gemm_nt(a, sa, b, sb, out_dtype if out is None else out.dtype)
        return product if out is None else _fill(out, product)

    index = a.get_device()
    launch = _launcher("fp8_gemm_nt", index)
    # 0.3 us less than `a.new_empty`.
    result = torch.empty_strided((m, n), (n, 1), dtype=out_dtype, device=device) if out is None else out
    if m == 1:
        launch(_for_tma(a), sa, b, sb, _for_tma(result), m, n, k, index)
    else:
        launch(a, sa, b, sb, result, m, n, k, index)
    if out is not None:
        # Autograd would not notice otherwise that something it saved has changed.
        torch.autograd.graph.increment_version(out)
    return result


def m_grouped_fp8_gemm_nt_contiguous(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    group_index: Tensor,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    validate: bool = False,
) -> Tensor:
    """Products of rows of A, in groups that lie one behind the other, with their groups' matrices of B.

    Row m of the result is row m of A times `B[group_index[m]].T`, computed as :func:`fp8_gemm_nt` does it.
    This is the layout of mixture-of-experts layers in training and prefill, the tokens of each expert and
    then padding, as DeepGEMM's function of this name takes it (https://github.com/deepseek-ai/DeepGEMM),
    where `out` comes before `group_index`. For groups without padding there is
    :func:`m_grouped_fp8_gemm_nt_offsets`.

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[M, K]`; `sa` its scales, torch.float32
            `[M, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: the pair `(b, sb)`. `b` is B, torch.float8_e4m3fn `[G, N, K]`, 1 <= G <= 1022; `sb` its scales,
            torch.float32 `[G, ceil(N / 128), ceil(K / 128)]`. :func:`cute_gemm.quantize_128x128` makes both.
        group_index: torch.int32 `[M]`, contiguous: the group of each row, from 0 to G - 1, or -1 for padding.
            Each block of 128 rows, from a multiple of :func:`contiguous_alignment`, holds rows of one group,
            then padding. Groups may take any number of blocks, or none, and come in any order.
        out: where to write, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it.
        out_dtype: as for :func:`fp8_gemm_nt`.
        validate: read `group_index` and raise a ValueError where it breaks the rules above. The host waits
            for the device, so it is for finding errors; and it cannot be done in the capture of a CUDA graph.

    Rows of padding are not written: a given `out` keeps what it has there, an allocated one holds anything. M
    need not be a multiple of 128. A block of padding alone is skipped for the price of a look at it. Where
    multiprocessors take even turns, as in a CUDA graph, by dependent launch, or with a short K, such blocks
    at a regular distance, as with slots of 256 rows half empty, may leave most of the work to some of them.
    For such data there are :func:`m_grouped_fp8_gemm_nt_offsets` with an `alignment`, and
    :func:`m_grouped_fp8_gemm_nt_masked`.

    Without `validate` nothing on the host depends on `group_index`, and no value in it leads to a read or a
    write out of bounds. All negative numbers are padding, and so is a block that starts with a number of G or
    above. Of a block that mixes groups, or has rows behind padding, it is not specified which rows are
    written and which of the block's groups they are multiplied with; other blocks are not affected.

    Sizes, layouts, devices, the overlap of `out` with what is read, compilation and gradients: as for
    :func:`fp8_gemm_nt`. Of B, also the distance between matrices is a multiple of 16 bytes and below 2^40
    bytes, and matrices do not overlap; they may interleave, as `transpose(0, 1)` of `[N, G, K]` does. With
    K = 0 rows that would be written become zero.

    A call may be captured into a CUDA graph once the kernel was called before, and allocates nothing if `out`
    is given and K is not 0. A replay reads `group_index` anew: it may have changed in place. It must not
    change while the kernel runs, which could then wait for ever.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`fp8_gemm_nt`; ValueError also for what `validate`
            finds, RuntimeError also for `validate` in the capture of a CUDA graph.

    When it raises one of these, `out` is as it was.
    """
    a, sa, b, sb, shape = checks_grouped.m_grouped(
        lhs, 2, rhs, "group_index", group_index, "M", out, out_dtype
    )
    if validate:
        checks_grouped.group_index_values(group_index, len(b))
    operation = "m_grouped_fp8_gemm_nt_contiguous"
    return _m_grouped(operation, a, sa, b, sb, shape, out, out_dtype, group_index)


def contiguous_alignment() -> int:
    """What each group's first row is a multiple of in :func:`m_grouped_fp8_gemm_nt_contiguous`: 128."""
    return CONTIGUOUS_ALIGNMENT


def m_grouped_fp8_gemm_nt_offsets(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    offsets: Tensor,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    alignment: int = 1,
    validate: bool = False,
) -> Tensor:
    """Products of rows of A, in groups of any size, with their groups' matrices of B.

    Rows `start[g]` to `offsets[g] - 1` of the result are those rows of A times `B[g].T`, computed as
    :func:`fp8_gemm_nt` does it, where `start[0]` is 0 and `start[g]` is `offsets[g - 1]`, rounded up to a
    multiple of `alignment`. It is the layout of tokens sorted by expert, as they are: no padding, no copy.
    With an alignment of 1, `offsets` is the `offs` of `torch._grouped_mm`.

    Args:
        lhs, rhs: as for :func:`m_grouped_fp8_gemm_nt_contiguous`.
        offsets: torch.int32 `[G]`, contiguous: the row behind each group's last; `sizes.cumsum(0)`, in int32,
            for groups one directly behind the other. A group whose end is that of the one before is empty.
        out: where to write, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it.
        out_dtype: as for :func:`fp8_gemm_nt`.
        alignment: what each group's first row is a multiple of, 1 to 1024.
        validate: read `offsets` and raise a ValueError where an end is below the one before it, inside the
            padding that follows that, or beyond M. The host waits for the device, so it is for finding
            errors; and it cannot be done in the capture of a CUDA graph.

    Rows of no group, which are those between the groups and behind the last, are not written: a given `out`
    keeps what it has there, an allocated one holds anything. What they hold in A does not matter.

    Without `validate` nothing on the host depends on `offsets`, and no value in it leads to a read or a write
    out of bounds. Ends are clamped to 0..M, and a group that ends at its start or before is empty. Where ends
    decrease, rows may belong to several groups: each of their elements is of the result of any of those (and
    groups behind the first 2^30 tiles, which take many such overlaps, are left out).

    Everything else, as the layout of B, what may be captured into a CUDA graph and what is raised, is as for
    :func:`m_grouped_fp8_gemm_nt_contiguous`.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`m_grouped_fp8_gemm_nt_contiguous`; TypeError also for
            an `alignment` that is no int, ValueError also for one outside of 1 to 1024.

    When it raises one of these, `out` is as it was.
    """
    checks_grouped.count("alignment", alignment, checks_grouped.MAX_ALIGNMENT)
    a, sa, b, sb, shape = checks_grouped.m_grouped(lhs, 2, rhs, "offsets", offsets, "G", out, out_dtype)
    if validate:
        checks_grouped.offsets_values(offsets, alignment, len(a))
    operation = "m_grouped_fp8_gemm_nt_offsets"
    return _m_grouped(operation, a, sa, b, sb, shape, out, out_dtype, offsets, alignment)


def m_grouped_fp8_gemm_nt_masked(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    valid_rows: Tensor,
    expected_rows: int,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    validate: bool = False,
) -> Tensor:
    """Products of G matrices of the same size, of which only the first rows count.

    Rows 0 to `valid_rows[g] - 1` of matrix g of the result are those rows of matrix g of A times `B[g].T`,
    computed as :func:`fp8_gemm_nt` does it. It is the layout of decoding under CUDA graphs, room for
    `capacity` tokens of each expert and their number known to the device alone, as DeepGEMM's function of
    this name takes it (https://github.com/deepseek-ai/DeepGEMM), where `out` comes before `valid_rows`.

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[G, capacity, K]`; `sa` its scales,
            torch.float32 `[G, capacity, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: as for :func:`m_grouped_fp8_gemm_nt_contiguous`.
        valid_rows: torch.int32 `[G]`, contiguous: the number of valid rows of each matrix, 0 to capacity.
        expected_rows: about how many valid rows a matrix has, a positive int. It helps to choose a kernel,
            and nothing else: results are right for all `valid_rows`.
        out: where to write, torch.bfloat16 or torch.float32 `[G, capacity, N]`; None allocates it.
        out_dtype: as for :func:`fp8_gemm_nt`.
        validate: read `valid_rows` and raise a ValueError where it is below 0 or above the capacity. The host
            waits for the device, so it is for finding errors; and it cannot be done in the capture of a CUDA
            graph.

    Rows beyond the valid ones are not written: a given `out` keeps what it has there, an allocated one holds
    anything. What they hold in A does not matter.

    Without `validate` nothing on the host depends on `valid_rows`, and no value in it leads to a read or a
    write out of bounds: it is clamped to 0..capacity.

    A and `out` may have gaps between matrices and between rows, or interleaved matrices, as B may. Everything
    else, as what may be captured into a CUDA graph and what is raised, is as for
    :func:`m_grouped_fp8_gemm_nt_contiguous`.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`m_grouped_fp8_gemm_nt_contiguous`; TypeError also for
            `expected_rows` that is no int, ValueError also for one below 1.

    When it raises one of these, `out` is as it was.
    """
    checks_grouped.count("expected_rows", expected_rows)
    a, sa, b, sb, shape = checks_grouped.m_grouped(lhs, 3, rhs, "valid_rows", valid_rows, "G", out, out_dtype)
    if validate:
        checks_grouped.valid_rows_values(valid_rows, a.shape[1])
    operation = "m_grouped_fp8_gemm_nt_masked"
    return _m_grouped(operation, a, sa, b, sb, shape, out, out_dtype, valid_rows, expected_rows)


def _m_grouped(
    operation: str,
    a: Tensor,
    sa: Tensor,
    b: Tensor,
    sb: Tensor,
    shape: tuple[int, ...],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor,
    *numbers: int,
) -> Tensor:
    """Runs a checked grouped operation, the function of that name in `dispatch` or `reference`."""
    result = a.new_empty(shape, dtype=out_dtype) if out is None else out
    if 0 in shape:
        return result
    if a.is_cpu or a.shape[-1] == 0:
        # As a kernel does, it writes also outside of the inference_mode that `out` was made under.
        with torch.inference_mode():
            getattr(reference, operation)(a, sa, b, sb, result, index, *numbers)
        return result
    launch = _launcher(operation, a.get_device())
    if 1 in shape or len(b) == 1:
        launch(_for_tma(a), sa, _for_tma(b), sb, _for_tma(result), _for_tma(index), *numbers)
    else:
        launch(a, sa, b, sb, result, index, *numbers)
    if out is not None:
        torch.autograd.graph.increment_version(out)
    return result


def _fill(out: Tensor, value: Tensor | int) -> Tensor:
    """Writes into `out` as a kernel does: also outside of the inference_mode that `out` was made under."""
    with torch.inference_mode():
        out[:] = value
    return out


@functools.cache
def _launcher(operation: str, index: int) -> Callable[..., None]:
    """What launches the kernels of an operation on CUDA device `index`: the function of `dispatch`, guarded.

    Raises:
        RuntimeError: see :func:`_kernels`. Only success is remembered.
    """
    launch: Callable[..., None] = getattr(_kernels(index), operation)
    # The guard costs microseconds and asking for the current device one: with one device neither is needed.
    if torch.cuda.device_count() == 1:
        return launch

    def guarded(*arguments: Tensor | int) -> None:
        if index == torch.cuda.current_device():
            launch(*arguments)
        else:
            with torch.cuda.device(index):
                launch(*arguments)

    return guarded


def _kernels(index: int) -> ModuleType:
    """The module that launches kernels, for CUDA device `index`; the first call takes seconds to import it.

    Raises:
        RuntimeError: that device cannot run them.
    """
    if not hardware.is_hopper(index):
        raise RuntimeError(
            f"the tensors are on cuda:{index}, which is {hardware.describe(index)}; wanted a Hopper GPU, "
            "compute capability 9.0, such as H100, H200 or H20. The same call with CPU tensors (`a.cpu()`, "
            "...) runs in plain torch"
        )
    from .runtime import dispatch

    return dispatch


def _for_tma(x: Tensor) -> Tensor:
    """The same memory with strides that a tensor map can hold: torch lets those of extents of 1 be any."""
    width = x.shape[-1]
    strides = [width if count == 1 else step for count, step in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)
