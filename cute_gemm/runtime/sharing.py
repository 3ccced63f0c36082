"""Fills the directory of compiled kernels that other users only read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import cache
from .trust import open_directory


class Shared(NamedTuple):
    """What came of sharing.

    Attributes:
        copied: kernels that were copied.
        there: kernels that the directory had already.
    """

    copied: int
    there: int


def share(directory: Path) -> Shared:
    """Copies the kernels of the disk cache to a directory that everybody may read and this user may write.

    Other users' processes believe it only if it is root's (docs/trust.md).

    Args:
        directory: an absolute path; made if it was not there, but not what is above it.

    Raises:
        OSError: it cannot be written, or others may write there; or there is no disk cache to copy from.
    """
    with suppress(FileExistsError):
        directory.mkdir(0o755)
    descriptor = open_directory(directory)
    try:
        # Whatever the umask was.
        os.fchmod(descriptor, 0o755)
        with cache.opened() as kernels:
            if kernels.own is None:
                raise OSError("there is no disk cache to copy from")
            return _copy(kernels.own, cache.KernelStore(directory, descriptor))
    finally:
        os.close(descriptor)


def _copy(own: cache.KernelStore, shared: cache.KernelStore) -> Shared:
    copied = there = 0
    for key in own.every_key():
        payload = own.load(key)
        if payload is None:
            # Another process has removed it meanwhile.
            continue
        if shared.load(key) == payload:
            there += 1
            continue
        shared.store(key, payload, 0o644)
        if shared.load(key) != payload:
            raise OSError(f"{shared.directory} cannot be written")
        copied += 1
    return Shared(copied, there)
