"""From a configuration to what the DSL compiles: a kernel object, and symbolic arguments."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..plan.buildable import why_unbuildable
from ..plan.config import KernelConfig
from ..plan.layouts import Layout, resolve
from ..plan.limits import QUANTIZED, SCALE_BYTES, SCALE_STRIDE_MULTIPLE, TMA_ALIGNMENT
from . import compiler
from .sources import Sources, is_of_user, read

if TYPE_CHECKING:
    from .applied import Applicable

_instances: weakref.WeakKeyDictionary[Program, Callable[..., None]] = weakref.WeakKeyDictionary()
"""Of programs that were asked for: a call of one that is warm walks nothing."""
compiler.memories.append(_instances)


@dataclass(frozen=True, eq=False)
class Program:
    """What is compiled into one kernel instance. Two are the same only if they are one object.

    Args:
        config: what it was built for.
        kernel: a ``@cute.jit`` callable, such as :class:`cute_gemm.kernels.gemm_fp8_1d2d.Fp8Gemm1D2D`.
        arguments: symbolic ones, which say what is known of a call's when it is compiled.
    """

    config: KernelConfig
    kernel: Callable[..., Any]
    arguments: tuple[Any, ...]

    @functools.cached_property
    def sources(self) -> Sources:
        """What it is made of, as it was when first asked for."""
        return read(self.kernel, self.arguments)


def build(
    config: KernelConfig,
    *,
    kernel: Callable[..., Any] | None = None,
    scheduler: Any = None,
    store: Any = None,
    epilogue: Applicable | None = None,
    tensors: tuple[Any, ...] = (),
    **parts: Any,
) -> Program:
    """The kernel and symbolic arguments of a configuration: extents and strides arrive with a call.

    Whatever is not given is this package's own. What is given may be of a file, a package or a notebook's
    cell (docs/kernels.md).

    Args:
        config: tiles, stages, cluster, layout and types.
        kernel: called with ``(config, scheduler, store, **parts)``, returns a ``@cute.jit`` callable that
            takes the arguments of :class:`cute_gemm.kernels.gemm_fp8_1d2d.Fp8Gemm1D2D`; a subclass of that.
        scheduler: a class as :class:`cute_gemm.schedulers.base.TileScheduler` describes.
        store: where sums go; an object like :class:`cute_gemm.kernels.epilogue.TmaStore`, or a class with
            ``of(config, dtype)`` that returns one.
        epilogue: one of :mod:`cute_gemm.epilogue`, in place of a ``value``; of its operands, what they are
            and of which types. ``launch`` takes it, or another that differs in the operands only.
        tensors: what of a call comes behind all else, for parts that take more: symbolic arguments, made with
            ``cutlass.cute.runtime.make_fake_tensor``.
        parts: other parts of the kernel, by the names that it takes them under: ``value``, ``mainloop``,
            ``scaling``.

    Raises:
        ImportError: the DSL is missing.
        TypeError: the kernel takes no such part; or there is an epilogue beside a value, or beside tensors.
        ValueError: no kernel can be built for the configuration; the message says why, and what would do.
            Or its results are not of the form that the epilogue makes.
    """
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_stream

    from ..kernels.gemm_fp8_1d2d import DTYPES, Fp8Gemm1D2D
    from ..kernels.gemm_fp8_k_grouped import Fp8GemmKGrouped

    # Of parts that are not known here, the compiler sees what they take.
    is_known = store is None and kernel is None and parts.get("scaling") is None
    why = why_unbuildable(config) if is_known else ""
    if why:
        raise ValueError(f"{config.name} cannot be built: {why}")
    if epilogue is not None:
        if tensors or parts.get("value") is not None:
            raise TypeError("epilogue comes with a value and tensors of its own; wanted it, or them, alone")
        from . import applied

        applied.require_form(config, epilogue)
        tensors = applied.symbols(config, epilogue.applied.operands)
        parts = parts | {"value": applied.value(config, epilogue.applied)}
    out_dtype = {
        "bfloat16": cutlass.BFloat16,
        "float32": cutlass.Float32,
        QUANTIZED: cutlass.Float8E4M3FN,
    }[config.out_dtype]
    if scheduler is None:
        scheduler = resolve(config.layout.scheduler(config))
    if store is None:
        store = resolve(config.layout.store(config))
    if isinstance(store, type):
        store = store.of(config, out_dtype)  # type: ignore[attr-defined]
    if kernel is None:
        kernel = Fp8GemmKGrouped if config.layout.has_result_per_group else Fp8Gemm1D2D
    made = kernel(config, scheduler, store, **parts)
    # A value may make fewer columns of the sums than B has rows.
    out_columns = getattr(parts.get("value"), "out_columns", int)
    m, n, k, k_blocks, n_blocks, groups = (cute.sym_int32() for _ in range(6))
    groups_of_a = (groups,) if config.layout.has_matrix_per_group else ()
    groups_of_b = (groups,) if config.layout.is_grouped else ()
    groups_of_d = (groups,) if config.layout.has_result_per_group else groups_of_a
    scales_of_a = _tma_scales if config.tma_scales else _scales
    scales_of_b = _tma_scales if config.scales_columns else _scales
    operands = (
        _matrix(DTYPES[config.recipe.a_dtype], *groups_of_a, m, k),
        scales_of_a(*groups_of_a, m, k_blocks),
        _matrix(DTYPES[config.recipe.b_dtype], *groups_of_b, n, k),
        scales_of_b(*groups_of_b, n if config.scales_columns else n_blocks, k_blocks),
        _matrix(out_dtype, *groups_of_d, m, n if out_columns(128) == 128 else cute.sym_int32()),
    )
    # num_sms, flags, semaphore and status of Fp8Gemm1D2D.__call__.
    launch = cutlass.Int32(0), cutlass.Int32(0), cutlass.Int64(0), cutlass.Int64(0)
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    grouping = _grouping(config.layout, m, groups)
    return Program(config, made, (*operands, *launch, stream, *grouping, *tensors))


def instance(of: Program | KernelConfig) -> Callable[..., None]:
    """The kernel of a program or a configuration: from this process, from disk, or compiled now.

    Returns:
        What is to be called as ``(a, sa, b, sb, out, *launch options, *grouping, *tensors)``, or, of a
        program made by hand, with its arguments less the stream; see
        :func:`cute_gemm.runtime.compiler.instance`.

    Raises:
        ImportError, RuntimeError, NotCompiledError, ValueError: as
            :func:`cute_gemm.runtime.compiler.instance`.

    Warns:
        KernelWarning: it was compiled now, and spills.
    """
    if isinstance(of, KernelConfig):
        return compiler.instance(*_request(of), _remedy(of))
    found = _instances.get(of)
    if found is None:
        found = _instances[of] = compiler.instance(*_request(of), _remedy(of))
    return found


def _remedy(of: Program | KernelConfig) -> str:
    """What makes a kernel without a call, in words."""
    if isinstance(of, KernelConfig):
        return f"`cute-gemm warmup --kernel {of.name}` makes it"
    return "`cute-gemm warmup --kernel WHERE` makes it, WHERE being the program, such as file.py:name"


def is_kept(of: Program | KernelConfig) -> bool:
    """Whether it is in a pack or on disk, as `compiler.is_kept`."""
    key, make, _, made_of = _request(of)
    return compiler.is_kept(key, make, made_of)


def _request(of: Program | KernelConfig) -> tuple[Hashable, compiler.Build, str, Sources | None]:
    """What the compiler is asked for: key, how to build, label, and sources."""
    if isinstance(of, KernelConfig):
        return ("Fp8Gemm1D2D", of), lambda: _to_compile(of), of.name, None
    key = "program", of.config, of.sources.digest
    return key, lambda: (of.kernel, of.arguments), label(of), of.sources


def cubin(of: Program | KernelConfig) -> bytes:
    """The GPU code of the kernel of a program or a configuration, compiled anew; needs no GPU.

    Raises:
        ImportError, RuntimeError, ValueError: as :func:`cute_gemm.runtime.compiler.compile_to_cubin`.
    """
    if isinstance(of, KernelConfig):
        return compiler.compile_to_cubin(lambda: _to_compile(of), of.name)
    # Before it is traced, which may leave something in it.
    _ = of.sources
    return compiler.compile_to_cubin(lambda: (of.kernel, of.arguments), label(of))


def label(of: Program | KernelConfig) -> str:
    """The name of a program or a configuration in what is logged, with the parts that are a user's own."""
    if isinstance(of, KernelConfig):
        return of.name
    parts = (of.kernel, *getattr(of.kernel, "__dict__", {}).values())
    kinds = (part if isinstance(part, type) else type(part) for part in parts)
    names = dict.fromkeys(kind.__name__ for kind in kinds if is_of_user(kind))
    return f"{of.config.name} with {', '.join(names)}" if names else of.config.name


def _to_compile(config: KernelConfig) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    program = build(config)
    return program.kernel, program.arguments


def _matrix(dtype: Any, *shape: Any) -> Any:
    """Rows that TMA reads or writes: contiguous, on 16 bytes."""
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = (cute.sym_int64(divisibility=TMA_ALIGNMENT * 8 // dtype.width) for _ in shape[1:])
    return make_fake_tensor(dtype, shape, (*strides, 1), assumed_align=TMA_ALIGNMENT)


def _scales(*shape: Any) -> Any:
    """Scales of any strides."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = tuple(cute.sym_int64() for _ in shape)
    return make_fake_tensor(cutlass.Float32, shape, strides, assumed_align=SCALE_BYTES)


def _tma_scales(*shape: Any) -> Any:
    """M-major scales that TMA reads."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    *matrices, along_k = (cute.sym_int64(divisibility=SCALE_STRIDE_MULTIPLE) for _ in shape[1:])
    strides = (*matrices, 1, along_k)
    return make_fake_tensor(cutlass.Float32, shape, strides, assumed_align=TMA_ALIGNMENT)


def _grouping(layout: Layout, m: Any, groups: Any) -> tuple[Any, ...]:
    """What says which rows are whose."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    if layout.index is None:
        return ()
    extent = {"M": m, "G": groups, "G + 1": cute.sym_int32()}[layout.index.axis]
    index = make_fake_tensor(cutlass.Int32, (extent,), (1,), assumed_align=4)
    if layout.gives_count_to_kernel:
        return index, cutlass.Int32(1)
    return (index,)
