"""Paths to what is in memory: of loaders that take no bytes, and where no disk need have room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """A path to anonymous memory with this content, for this process."""
    descriptor = os.memfd_create("cute_gemm")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
