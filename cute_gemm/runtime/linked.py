"""Maps kernels that are linked (:mod:`.linker`), and makes them callable: the DSL is not imported."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
from collections.abc import Callable

from . import dsl_library
from .memory_files import memory_file

_SHARED = 3
_serial = itertools.count(1)


def is_library(image: bytes) -> bool:
    """Whether it is a library, and not an object."""
    return image[:4] == b"\x7fELF" and image[16:18] == bytes([_SHARED, 0])


def load(image: bytes, function: str) -> Callable[..., None]:
    """A function of a library as a function of Python. It stays mapped as long as the process lives.

    Args:
        image: the library, which the caller has found to be what it should be: it is native code.
        function: its symbol, of a function that TVM FFI calls.

    Raises:
        ImportError: the DSL's runtime library is missing, or TVM FFI.
        OSError: it cannot be mapped, or takes something from the libraries that theirs lack.
        AttributeError: it has no such function.
    """
    _get_ready()
    import tvm_ffi

    with memory_file(image) as path:
        library = ctypes.CDLL(_as_new(path))
    address = ctypes.cast(library[function], ctypes.c_void_p).value
    made: Callable[..., None] = tvm_ffi.Function.__from_extern_c__(address, keep_alive_object=library)
    return made


def _as_new(path: str) -> str:
    """The same path written as never before: of one that it knows the loader gives what it has mapped.

    Descriptors of files that were closed come again.
    """
    digits = f"{next(_serial):b}".replace("0", "/").replace("1", "/./")
    return path.replace("/fd/", f"/{digits}/fd/")


@functools.cache
def _get_ready() -> ctypes.CDLL:
    """Loads what libraries of kernels ask for by name."""
    import tvm_ffi

    # The DSL's own class has more to say; it is registered where the DSL is imported.
    if CUDADialectError.__name__ not in tvm_ffi.core.ERROR_NAME_TO_TYPE:
        tvm_ffi.register_error(CUDADialectError)
    return ctypes.CDLL(os.fspath(dsl_library.path()))


class CUDADialectError(Exception):
    """CUDA has refused what a kernel's host code asked for.

    It has the name that the DSL's runtime library gives to it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message + _name_in(message))


def _name_in(message: str) -> str:
    """The name of the number in a message, in parentheses; empty if there is none."""
    found = re.search(r"CUDA Error Code: (\d+)", message)
    try:
        from cuda.bindings.runtime import cudaError_t

        return f" ({cudaError_t(int(found[1])).name})" if found else ""
    except (ImportError, ValueError):
        return ""
