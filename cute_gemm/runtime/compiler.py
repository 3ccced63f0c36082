"""From a kernel object to a callable: the only place that calls the DSL's compiler.

A kernel is looked for in this process, in packs (:mod:`cute_gemm.runtime.packs`), then on disk
(:mod:`cute_gemm.runtime.cache`), then compiled. What is compiled is an object file, of which
:mod:`cute_gemm.runtime.linker` makes a library that the system's loader maps: a fresh kernel and one from
disk take the same way, the DSL is only imported to compile, no toolchain is needed, and a machine without a
GPU compiles for Hopper as well as any other. Where that linker does not know an object, as of other CPUs than
x86-64, or the DSL has no runtime library, it is kept as it is, and the DSL links it into each process.

What is stored is keyed by everything that shapes its code: the caller's key; the sources and values that the
kernel is made of, wherever they are (:mod:`cute_gemm.runtime.sources`), as this process imports them (where
they change under it, nothing is stored); the versions of the DSL, the CUDA version of its compiler, its
``CUTE_DSL_*`` settings; and the level of CPUs that host code is for (:mod:`cute_gemm.runtime.host_level`). It
does not depend on the torch it was made under. To get the files that ``CUTE_DSL_KEEP`` asks for, switch the
disk cache off: a kernel found there is not compiled.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import platform
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..plan.limits import SMEM_CAPACITY, STATIC_SMEM
from . import cache, dsl_library, host_level, jit, linked, packs
from .distributions import versions
from .memory_files import memory_file
from .sources import Sources, own_digests, own_parts_changed, read

logger = logging.getLogger(__name__)

ARCH = "sm_90a"
"""What kernels are compiled for: Hopper, with the instructions that only it has (WGMMA)."""

_OPTIONS = f"--enable-tvm-ffi --gpu-arch {ARCH}"
_ENTRY = "launch"
SYMBOL = f"__tvm_ffi_{_ENTRY}"
"""The function of a kernel's library."""

_DSL = "nvidia-cutlass-dsl"
_DSL_PARTS = f"{_DSL}*"
_TVM_FFI = "apache-tvm-ffi"
_ALWAYS = "the same call makes it where it may compile, in a process of the same cache"

Build = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
"""A plain function that returns what ``cute.compile`` takes: a ``@cute.jit`` callable and its arguments."""

_loaded: dict[Hashable, Callable[..., None]] = {}
_key_locks: dict[Hashable, threading.Lock] = {}
_key_locks_guard = threading.Lock()
# The DSL redirects sys.stdout and sys.stderr while it compiles: two threads at it lose them for good.
_compiler = threading.Lock()


class Noted(NamedTuple):
    """A kernel that was noted: its name, and its library, or its object where it has none."""

    label: str
    image: bytes


class Notes(dict[str, Noted]):
    """Kernels by :func:`.packs.identity`.

    Attributes:
        objections: of those that must not be kept for other processes, by their names: why.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objections: dict[str, str] = {}


_noted: Notes | None = None

memories: list[MutableMapping[Any, Callable[..., None]]] = []
"""What other modules remember of kernels that :func:`instance` gave; :func:`noting` empties it meanwhile."""


class KernelWarning(UserWarning):
    """A kernel was compiled that will be slow: it spills registers, or indexes local memory."""


def instance(
    key: Hashable, build: Build, label: str, sources: Sources | None = None, remedy: str = ""
) -> Callable[..., None]:
    """The kernel for ``key``, ready to be called with tensors: from this process, from disk, or compiled now.

    Thread-safe: a kernel is made once, and threads that want another one, made already, do not wait for it.
    The first call of what is returned loads the kernel onto the GPUs, so it must not be within a CUDA
    graph's capture.

    Args:
        key: what tells this kernel from others (kernel class, configuration, types). Its ``repr`` is kept on
            disk and compared between processes: it must say all that ``key`` does and name no address.
        build: called only if the kernel has to be compiled. All that it refers to counts as a source.
        label: the kernel's name in what is logged.
        sources: what the kernel is made of; None to find out from ``build``.
        remedy: what makes it, in words, where calls are not to compile; empty for what always does.

    Returns:
        A TVM FFI function that takes the arguments of ``build`` by position, less the stream: it uses the
        current one of the tensors' device. It checks types, device, ranks, alignment and declared
        divisibility, and raises ValueError or TypeError before launching anything.

    Raises:
        ImportError: the DSL is missing.
        RuntimeError: the DSL's distributions are of different versions; or its settings have it compile
            nothing.
        NotCompiledError: the kernel has to be compiled, and calls are not to (:mod:`.jit`).
        ValueError: ``repr(key)`` changes from process to process; or the kernel takes more shared memory than
            there is.

    Warns:
        KernelWarning: the kernel, compiled now, spills registers or has a stack.
    """
    found = _loaded.get(key)
    if found is not None:
        return found
    with _key_locks_guard:
        key_lock = _key_locks.setdefault(key, threading.Lock())
    with key_lock:
        if key not in _loaded:
            made_of = read(build) if sources is None else sources
            identity = packs.identity(_text(key), made_of.digest)
            packed = packs.load(identity, label) if _noted is None else None
            _loaded[key] = packed or _load_or_compile(_key_text(key, made_of), made_of, build, label, remedy)
        return _loaded[key]


@contextmanager
def noting() -> Iterator[Notes]:
    """Notes what :func:`instance` gives meanwhile: of no pack, of one thread."""
    global _noted
    before, forgotten = _noted, [(each, dict(each)) for each in (_loaded, *memories)]
    _noted = Notes()
    # They are loaded anew, from disk or compiled.
    for memory, _ in forgotten:
        memory.clear()
    try:
        yield _noted
    finally:
        _noted = before
        for memory, kernels in forgotten:
            memory.update(kernels)


def compile_to_cubin(build: Build, label: str = "a kernel") -> bytes:
    """The GPU code of a kernel, compiled anew: an ELF image for ``cuobjdump`` and ``nvdisasm``. Needs no GPU.

    Raises:
        ImportError, RuntimeError: as :func:`instance`.
        ValueError: what ``build`` returns launches no kernel, or takes more shared memory than there is.

    Warns:
        KernelWarning: as :func:`instance`.
    """
    cubin = _cubin(_compile(build, label))
    if cubin is None:
        raise ValueError(f"{label} has no GPU code: nothing launches a kernel")
    return cubin


def is_kept(key: Hashable, build: Build, sources: Sources | None = None) -> bool:
    """Whether a kernel is in a pack or on disk: :func:`instance` with these arguments compiles nothing then.

    Within :func:`noting`, whether it is on disk.

    Raises:
        ImportError, RuntimeError, ValueError: as :func:`instance`.
    """
    made_of = read(build) if sources is None else sources
    if _noted is None and packs.has(packs.identity(_text(key), made_of.digest)):
        return True
    with cache.opened() as kernels:
        return kernels.load(_key_text(key, made_of)) is not None


def _load_or_compile(
    key: str, sources: Sources, build: Build, label: str, remedy: str
) -> Callable[..., None]:
    jit.require_understood()
    with cache.opened() as kernels:
        found = _from_disk(kernels, key, label)
        if found is not None:
            return found
        jit.require_allowed(label, remedy or _ALWAYS)
        with kernels.exclusive(key):
            # Another process may have compiled it while this one waited for the lock.
            found = _from_disk(kernels, key, label)
            if found is not None:
                return found
            image = _compile(build, label)
            _keep(kernels, key, image, sources, label)
    if _noted is not None:
        # Of sources that change meanwhile nothing is to be had for other processes.
        objection = sources.objection()
        if objection:
            _noted.objections[label] = objection
        else:
            _note(key, label, image)
    return _link(image)


def _note(key: str, label: str, image: bytes) -> None:
    if _noted is not None:
        parts = json.loads(key)
        _noted[packs.identity(parts["kernel"], parts["sources"])] = Noted(label, image)


def _keep(kernels: cache.Kernels, key: str, image: bytes, sources: Sources, label: str) -> None:
    """Stores a fresh object, unless what it was compiled from is not what its key says."""
    if kernels.own is None:
        return
    objection = sources.objection()
    if not objection and own_parts_changed():
        objection = "sources of cute_gemm changed since this process imported it"
    if objection:
        logger.warning("did not keep %s on disk: %s", label, objection)
    else:
        kernels.own.store(key, image)
        kernels.own.prune()


def _from_disk(kernels: cache.Kernels, key: str, label: str) -> Callable[..., None] | None:
    found = kernels.load(key)
    if found is None:
        return None
    image, store = found
    try:
        kernel = _link(image)
    except ImportError as error:
        # What it calls is not there; others may have it.
        logger.warning("did not use the stored %s: %s", label, error)
        return None
    except Exception as error:
        logger.warning("threw away the stored %s, which cannot be linked: %s", label, error)
        store.discard(key)
        return None
    logger.debug("loaded %s from %s", label, store.directory)
    _note(key, label, image)
    return kernel


def _compile(build: Build, label: str) -> bytes:
    """The library of a kernel: host code that checks, launches and raises, with the cubin in its data.

    Or its object, of which there can be no library.
    """
    from . import linker, operand_reuse

    cute = _dsl()
    with _compiler:
        _announce(f"compiling {label} for {ARCH}")
        started = time.perf_counter()
        kernel, arguments = build()
        compiled = cute.compile(kernel, *arguments, options=_OPTIONS)
        if compiled is None:
            raise RuntimeError(
                f"the CuTe DSL made nothing of {label}, as CUTE_DSL_DRYRUN asks it to; want it unset"
            )
        _check_shared_memory(kernel, label)
        host_level.restrict(compiled.ir_module)
        with memory_file(b"") as path:
            compiled.export_to_c(path, function_name=_ENTRY)
            image = Path(path).read_bytes()
    image = operand_reuse.with_longer_runs(image)
    logger.info("compiled %s in %.1f s", label, time.perf_counter() - started)
    _warn_of_spills(image, label)
    try:
        # What libraries ask for by name. Without, the DSL may still have it in itself.
        dsl_library.path()
        return linker.link(image, SYMBOL)
    except (linker.LinkError, dsl_library.NoLibraryError) as error:
        logger.debug("%s stays an object, which the DSL links: %s", label, error)
        return image


def _check_shared_memory(kernel: Any, label: str) -> None:
    """Raises where a kernel that says what its ``Storage`` is asks for more than there is.

    CUDA would refuse each launch.
    """
    size_in_bytes = getattr(getattr(kernel, "Storage", None), "size_in_bytes", None)
    if size_in_bytes is None:
        return
    size = STATIC_SMEM + size_in_bytes()
    if size > SMEM_CAPACITY:
        raise ValueError(
            f"{label} takes {size} bytes of shared memory; there are {SMEM_CAPACITY} for a CTA. Fewer stages "
            "or a smaller tile take less"
        )


def _warn_of_spills(image: bytes, label: str) -> None:
    """Says so where threads of a kernel have local memory. It takes 5 ms; without the tool it is left out."""
    from . import inspection

    cubin = _cubin(image)
    if cubin is None:
        return
    try:
        found = inspection.read_resources(cubin)
    # Such as a full directory for temporary files.
    except (inspection.InspectionError, OSError) as error:
        logger.debug("did not look for spills of %s: %s", label, error)
        return
    if found.stack_bytes or found.local_bytes:
        warnings.warn(
            f"{label} keeps {found.stack_bytes + found.local_bytes} bytes per thread in local memory, with "
            f"{found.registers} registers: it spills registers, or indexes an array by what is only known at "
            "run time. A smaller tile, fewer accumulators or constexpr loops avoid that",
            KernelWarning,
            stacklevel=2,
        )


def _link(image: bytes) -> Callable[..., None]:
    if linked.is_library(image):
        return linked.load(image, SYMBOL)
    with memory_file(image) as path:
        module = _dsl().runtime.load_module(path, enable_tvm_ffi=True)
    return getattr(module, _ENTRY)


def _announce(message: str) -> None:
    """Log what will take seconds; where nobody has set up logging but there is a terminal, say it there."""
    logger.info(message)
    if not logger.hasHandlers() and sys.stderr is not None and sys.stderr.isatty():
        print(f"cute_gemm: {message}, which takes seconds", file=sys.stderr, flush=True)


def _cubin(image: bytes) -> bytes | None:
    from . import cubins

    place = cubins.find(image)
    return None if place is None else image[place]


# What decides whether a stored object may be used


def _key_text(key: Hashable, sources: Sources) -> str:
    """All that shapes the object made for ``key``, as text that is equal in every process where it is."""
    parts = {"kernel": _text(key), "package": own_digests(), "sources": sources.digest, **_surroundings()}
    return json.dumps(parts, sort_keys=True)


def _text(key: Hashable) -> str:
    text = repr(key)
    if " at 0x" in text:
        raise ValueError(f"the repr of a kernel's key must be the same in every process, got {text}")
    return text


# Now: Python reads the kernels at the first compile. What is unchanged after that is what it read.
own_digests()


@functools.cache
def _surroundings() -> dict[str, Any]:
    level, found = host_level.here(), versions(_DSL_PARTS, _TVM_FFI)
    tvm_ffi = found.pop(_TVM_FFI, "")
    _require_whole(found)
    return {
        "options": _OPTIONS,
        "dsl": found,
        # With the cu12 and cu13 flavours both installed, the DSL picks one by the machine's driver.
        "compiler": f"cu{dsl_library.flavour()}",
        "tvm_ffi": tvm_ffi,
        "settings": dsl_settings(),
        "host": f"{platform.system()} {platform.machine()} {level.name if level else platform.processor()}",
    }


def dsl_settings() -> dict[str, str]:
    """The DSL's environment variables, less what some versions set when they are imported: a path."""
    names = [name for name in os.environ if name.startswith("CUTE_DSL_") and name != "CUTE_DSL_LIBS"]
    return {name: os.environ[name] for name in sorted(names)}


def _require_whole(found: dict[str, str]) -> None:
    """Raises ImportError or RuntimeError where the DSL's parts are none, or of different versions."""
    if not found:
        raise ImportError(f"GPU kernels need the CuTe DSL, which is not installed: pip install {_DSL}")
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in found.items())
        raise RuntimeError(
            f"the parts of the CuTe DSL are of different versions ({listed}); uninstall all of them, "
            f"then: pip install {_DSL}"
        )


@functools.cache
def _dsl() -> Any:
    """``cutlass.cute``, which takes a good part of a second to import."""
    _require_whole(versions(_DSL_PARTS))
    import cutlass.cute as cute

    # Gives CUDA's errors their class and text.
    importlib.import_module("cutlass.cutlass_dsl.tvm_ffi_provider")
    return cute
