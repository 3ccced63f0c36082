"""Packs of compiled kernels, as users ask for them; :mod:`cute_gemm.runtime.packs` finds kernels there."""

from __future__ import annotations

import os
from pathlib import Path

from .runtime import packs


def load_pack(path: str | os.PathLike[str]) -> int:
    """Has calls of this process take their kernels from a pack, where it has them.

    A pack is a folder that ``cute-gemm pack`` has written: docs/packs.md. Its kernels come before those on
    disk, and calls that need others compile them as ever. The environment variable ``CUTE_GEMM_PACKS`` does
    the same for all processes, and only warns where a pack does not fit; so do wheels that `cute-gemm pack
    --wheel` has written, where they are installed. Loading one twice does nothing more.

    Args:
        path: the folder.

    Returns:
        How many kernels it has.

    Raises:
        RuntimeError: it is not used: it was made of other sources of this package, for another CPU, for a
            later driver or a later runtime library of the CuTe DSL; it is damaged; or others than root and
            this user can have written it. The message says which.
    """
    return len(packs.use(Path(path).expanduser().absolute()).manifest.kernels)
