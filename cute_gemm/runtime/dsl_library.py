"""The CuTe DSL's runtime library, which loads and launches what kernels' host code asks it to.

It is found without the DSL, which takes long to import, by what is installed. Where it does not lie as in the
DSL's wheels, the DSL is imported and asked.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

NAME = "libcute_dsl_runtime.so"
LEAST_VERSION = "4.6.2"
"""Of the DSL: from there on it has all that kernels call."""

_LATER = {b"CuteDSLRT_TVMFFISetRaisedCudaError": "4.7.0"}
"""What some kernels call, and from which version on it is there."""

_FLAVOURS = 13, 12
"""Major versions of CUDA that the DSL comes for, the newest first."""


class NoLibraryError(ImportError):
    """There is no runtime library to be had: the message says why."""


def distribution(flavour: int) -> str:
    """The distribution that has the library, and the compiler, of a flavour."""
    return f"nvidia-cutlass-dsl-libs-cu{flavour}"


@functools.cache
def flavour() -> int:
    """The major version of CUDA that the DSL takes, of those that it is installed for.

    Raises:
        NoLibraryError: it is not installed, or for none that the machine's driver supports.
    """
    loaded = getattr(sys.modules.get("cutlass"), "CUDA_VERSION", None)
    installed = [each for each in _FLAVOURS if _path(each) is not None] if loaded is None else []
    if not installed:
        return int((loaded or _dsl().CUDA_VERSION).major)
    if len(installed) == 1:
        return installed[0]
    driver = driver_version()
    fitting = [each for each in installed if not driver or each <= driver // 1000]
    if not fitting:
        raise NoLibraryError(f"the machine's driver is for CUDA {driver // 1000}, older than the CuTe DSL's")
    return fitting[0]


def path() -> Path:
    """Where the library is.

    Raises:
        NoLibraryError: as :func:`flavour`.
    """
    found = _path(flavour())
    if found is None:
        said = _dsl().cute.runtime.find_runtime_libraries(enable_tvm_ffi=False)
        found = next((Path(each) for each in said if Path(each).is_file()), None)
    if found is None:
        raise NoLibraryError(f"the CuTe DSL is installed without its {NAME}")
    return found


def version() -> str:
    """The version of the DSL that the library is of.

    Raises:
        NoLibraryError: as :func:`flavour`.
    """
    # All its distributions are of one version.
    for name in (distribution(flavour()), "nvidia-cutlass-dsl"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise NoLibraryError(f"{distribution(flavour())} is not installed")


def least_version(library: bytes) -> str:
    """The version of the DSL from which the runtime library has all that a kernel's library calls."""
    return max((version for name, version in _LATER.items() if name in library), default=LEAST_VERSION)


@functools.cache
def driver_version() -> int:
    """The CUDA version that the machine's driver is for, such as 12090; 0 where there is no driver."""
    number = ctypes.c_int()
    try:
        asked = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return 0
    return 0 if asked else number.value


def _dsl() -> Any:
    """The DSL, which takes long to import.

    Raises:
        NoLibraryError: it cannot be.
    """
    try:
        import cutlass
        import cutlass.cute.runtime
    # What it loads may be missing, too.
    except (ImportError, OSError) as error:
        raise NoLibraryError(
            f"the CuTe DSL is not installed, whose runtime library kernels need: {error}"
        ) from error
    return cutlass


def _path(flavour: int) -> Path | None:
    try:
        found = metadata.distribution(distribution(flavour))
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(found.locate_file(f"nvidia_cutlass_dsl/cu{flavour}/lib/{NAME}")))
    return path if path.is_file() else None
