"""From a problem to a launched kernel: GemmProblem -> KernelConfig -> compiled instance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import settings
from ..contract.product import tma_can_load
from ..plan import heuristics, tuned
from ..plan.problem import GemmProblem, KernelConfig, LaunchFlags
from . import compiler as jit
from . import quick
from . import semaphores as counters

_OUT_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}

_launched: set[tuple[KernelConfig, int]] = set()
"""Kernels, by configuration and device, that have been launched, so CUDA has loaded them."""


def fp8_gemm_nt(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, m: int, n: int, k: int, device: int
) -> None:
    """Computes ``out = A @ B.T`` with scales on the current stream of the tensors' device.

    The tensors are checked and not empty; see :func:`cute_gemm.fp8_gemm_nt` for what they must be. Their
    device is the current one. Its index and the extents are given, as whoever checked tensors knows them:
    asking again takes half a microsecond.

    Raises:
        RuntimeError: the stream is being captured into a CUDA graph, and the kernel has not been launched on
            this device before.
    """
    asked = _asked(m, n, k, sa, out.dtype, device)
    launch, options = _choose("dense", 1, *asked)
    launch(a, sa, b, sb, out, *_on_stream(options, device))
    quick.remember(asked, launch, *options)


def m_grouped_fp8_gemm_nt_contiguous(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, group_index: Tensor
) -> None:
    """As :func:`fp8_gemm_nt`, for :func:`cute_gemm.m_grouped_fp8_gemm_nt_contiguous`."""
    groups, n, k = b.shape
    launch, options = _launcher("contiguous", groups, a.shape[0], n, k, sa, out.dtype, a.get_device())
    launch(a, sa, b, sb, out, *options, group_index)


def m_grouped_fp8_gemm_nt_offsets(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, offsets: Tensor, alignment: int
) -> None:
    """As :func:`fp8_gemm_nt`, for :func:`cute_gemm.m_grouped_fp8_gemm_nt_offsets`."""
    groups, n, k = b.shape
    launch, options = _launcher("offsets", groups, a.shape[0], n, k, sa, out.dtype, a.get_device())
    launch(a, sa, b, sb, out, *options, offsets, alignment)


def m_grouped_fp8_gemm_nt_masked(
    a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, valid_rows: Tensor, expected_rows: int
) -> None:
    """As :func:`fp8_gemm_nt`, for :func:`cute_gemm.m_grouped_fp8_gemm_nt_masked`."""
    groups, n, k = b.shape
    rows = groups * min(expected_rows, a.shape[1])
    launch, options = _launcher("masked", groups, rows, n, k, sa, out.dtype, a.get_device())
    launch(a, sa, b, sb, out, *options, valid_rows)


def select(problem: GemmProblem, tma_scales: bool = False) -> KernelConfig:
    """The configuration that runs ``problem`` on the current CUDA device.

    It is what was measured to be best (:mod:`cute_gemm.plan.tuned`), or predicted to be where nothing was, as it
    runs this problem (:func:`heuristics.as_run`).
    """
    return heuristics.as_run(problem, tuned.choice(problem) or heuristics.best(problem), tma_scales)


def instance(config: KernelConfig) -> Callable[..., None]:
    """The kernel of ``config``, to be called as ``(a, sa, b, sb, out, *launch_options(...), *grouping)``."""
    # With all that kernels derive from a configuration: `problem` is imported with the package, long before
    # its source is read for the key, so the source alone need not be what is in use.
    derived = [name for name, member in vars(KernelConfig).items() if isinstance(member, property)]
    values = tuple((name, getattr(config, name)) for name in derived)
    return jit.instance(("Fp8Gemm1D2D", config, values), lambda: _fp8_1d2d(config), config.name)


def launch_options(problem: GemmProblem, config: KernelConfig, device: int) -> tuple[int, int, int, int]:
    """How to launch ``config`` for ``problem`` on the current stream of CUDA device ``device``.

    Returns:
        The multiprocessors to run on, :class:`LaunchFlags`, the address of a counter, or 0, and a 0 where
        :mod:`cute_gemm.runtime.quick` has an address.
    """
    return _on_stream(_options(problem, config), device)


def _on_stream(options: tuple[int, int, bool], device: int) -> tuple[int, int, int, int]:
    """The :func:`launch_options` that ``options`` make on the current stream."""
    num_sms, hints, draws = options
    return num_sms, hints, counters.address(device) if draws else 0, 0


def _options(problem: GemmProblem, config: KernelConfig, pdl: bool = False) -> tuple[int, int, bool]:
    """What :func:`launch_options` returns, less the stream: whether a counter is of use.

    Kernels that draw let none start before they have ended, so those by dependent launch take even turns.
    """
    hints = heuristics.l2_hints(problem, config)
    draws = heuristics.dynamic_persistence(problem, config) and not pdl
    return problem.num_sms, int(hints | LaunchFlags.PDL if pdl else hints), draws


def forget() -> None:
    """Has the next call of each shape choose its kernel anew, as in a new process."""
    _choose.cache_clear()
    quick.forget()


def cubin(config: KernelConfig) -> bytes:
    """The GPU code of the kernel of ``config``, for inspection; needs no GPU."""
    return jit.compile_to_cubin(lambda: _fp8_1d2d(config), config.name)


def _launcher(
    layout: str, groups: int, m: int, n: int, k: int, sa: Tensor, out_dtype: torch.dtype, device: int
) -> tuple[Callable[..., None], tuple[int, int, int, int]]:
    """What to launch for a shape under the settings in force, and its :func:`launch_options`."""
    launch, options = _choose(layout, groups, *_asked(m, n, k, sa, out_dtype, device))
    return launch, _on_stream(options, device)


def _asked(
    m: int, n: int, k: int, sa: Tensor, out_dtype: torch.dtype, device: int
) -> tuple[int, int, int, bool, torch.dtype, int, int | None, bool, bool]:
    """What a choice depends on, but for layout and groups: of a dense product the key of `quick.remember`."""
    now = settings.current()
    # By fields: a hash of the dataclass takes 0.1 us, more than the settings add to a warm call (0.06 us).
    return m, n, k, tma_can_load(sa), out_dtype, device, now.num_sms, now.batch_invariant, now.pdl


@functools.lru_cache(maxsize=65536)
def _choose(
    layout: str,
    groups: int,
    m: int,
    n: int,
    k: int,
    tma_scales: bool,
    out_dtype: torch.dtype,
    device: int,
    most_sms: int | None,
    batch_invariant: bool,
    pdl: bool,
) -> tuple[Callable[..., None], tuple[int, int, bool]]:
    """As :func:`_launcher`, for given settings, but for the counter: remembered, so whoever asks launches.

    Raises:
        RuntimeError: as :func:`fp8_gemm_nt`.
        ValueError: the device has fewer than ``most_sms`` multiprocessors.
    """
    there = torch.cuda.get_device_properties(device).multi_processor_count
    if most_sms is not None and most_sms > there:
        raise ValueError(
            f"config(num_sms={most_sms}) is in force, but cuda:{device} has {there} multiprocessors; want at "
            "most that, or None for all"
        )
    num_sms = there if most_sms is None else most_sms
    problem = GemmProblem(m, n, k, _OUT_NAMES[out_dtype], num_sms, layout, groups, batch_invariant)
    config = select(problem, tma_scales)
    if (config, device) not in _launched and _is_capturing():
        rows = f"{groups} x {m // groups} expected rows" if layout == "masked" else f"M = {m}"
        product = f"{rows}, N = {n}, K = {k}" + ("" if layout == "dense" else f", {groups} groups")
        raise RuntimeError(
            f"{product} needs the kernel {config.name}, which was not called on cuda:{device} before and "
            "cannot be loaded while a CUDA graph is captured; make the same call, scales laid out alike, "
            "once before the capture"
        )
    launch = instance(config)
    _launched.add((config, device))
    return launch, _options(problem, config, pdl)


def _is_capturing() -> bool:
    # A torch without CUDA raises when asked.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _fp8_1d2d(config: KernelConfig) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The kernel and symbolic arguments to compile it for: all extents and strides arrive with a call."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

    from ..kernels.epilogue import StoreD, StoreRows, StoreSum
    from ..kernels.gemm_fp8_1d2d import Fp8Gemm1D2D
    from ..schedulers.dense import DenseScheduler
    from ..schedulers.m_grouped_contiguous import MGroupedContiguousScheduler
    from ..schedulers.m_grouped_masked import MGroupedMaskedScheduler
    from ..schedulers.m_grouped_offsets import MGroupedOffsetsScheduler
    from ..schedulers.split_k import SplitKScheduler

    m, n, k, k_blocks, n_blocks, groups = (cute.sym_int32() for _ in range(6))

    def matrix(dtype: Any, *shape: Any) -> Any:
        strides = (cute.sym_int64(divisibility=16 * 8 // dtype.width) for _ in shape[1:])
        return make_fake_tensor(dtype, shape, (*strides, 1), assumed_align=16)

    def scales(*shape: Any) -> Any:
        strides = tuple(cute.sym_int64() for _ in shape)
        return make_fake_tensor(cutlass.Float32, shape, strides, assumed_align=4)

    def tma_scales(*shape: Any) -> Any:
        *matrices, along_k = (cute.sym_int64(divisibility=4) for _ in shape[1:])
        return make_fake_tensor(cutlass.Float32, shape, (*matrices, 1, along_k), assumed_align=16)

    def sizes(extent: Any) -> Any:
        return make_fake_tensor(cutlass.Int32, (extent,), (1,), assumed_align=4)

    # The scheduler, the leading extents of A and D, those of B, and what says which rows are whose.
    scheduler, m_groups, n_groups, grouping = {
        "dense": (DenseScheduler, (), (), ()),
        "contiguous": (MGroupedContiguousScheduler, (), (groups,), (sizes(m),)),
        "offsets": (MGroupedOffsetsScheduler, (), (groups,), (sizes(groups), cutlass.Int32(1))),
        "masked": (MGroupedMaskedScheduler, (groups,), (groups,), (sizes(groups),)),
    }[config.layout]
    out_dtype = {"bfloat16": cutlass.BFloat16, "float32": cutlass.Float32}[config.out_dtype]
    if config.splits > 1:
        scheduler = SplitKScheduler
        store: Any = StoreSum(config.block_n, config.splits, config.math_warpgroups, out_dtype)
    else:
        Store = StoreD if config.layout == "dense" else StoreRows
        store = Store(config.epi_n, config.epi_stages, config.math_warpgroups, out_dtype)
    operands = (
        matrix(cutlass.Float8E4M3FN, *m_groups, m, k),
        (tma_scales if config.tma_scales else scales)(*m_groups, m, k_blocks),
        matrix(cutlass.Float8E4M3FN, *n_groups, n, k),
        scales(*n_groups, n_blocks, k_blocks),
        matrix(out_dtype, *m_groups, m, n),
    )
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    kernel = Fp8Gemm1D2D(config, scheduler, store)
    options = cutlass.Int32(0), cutlass.Int32(0), cutlass.Int64(0), cutlass.Int64(0)
    return kernel, (*operands, *options, stream, *grouping)
