"""Writes packs: libraries of kernels in a folder, and the manifest that makes them one (:mod:`.packs`)."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..storage import TEMPORARY, read_regular, replace_file_in
from . import compiler, dsl_library, host_level, linked
from .distributions import versions
from .pack_errors import PackError
from .pack_manifest import FILE, MOST_BYTES, Manifest, PackedKernel, parse
from .packs import sources_digest
from .sources import own_parts_changed
from .trust import UntrustedError, open_directory

_MODE = 0o644
_KERNEL = re.compile(r"[0-9A-Za-z_+-]+-[0-9a-f]{12}\.so")
"""What this module calls a file of a kernel."""


def write(directory: Path, kernels: Mapping[str, compiler.Noted], version: str) -> int:
    """Writes a pack of kernels, in place of one that may be there.

    The manifest comes last: until it is there, what was a pack before stays one, and what was none is none.

    Args:
        directory: an absolute path; made if it is not there; else empty, or a pack.
        kernels: by :func:`.packs.identity`, as :func:`.compiler.noting` gives them.
        version: of this package.

    Returns:
        The bytes of its files.

    Raises:
        PackError: the folder has something else in it, or others could fill it; or as :func:`contents`.
        OSError: it cannot be written.
    """
    files = contents(kernels, version)
    try:
        descriptor = open_directory(directory, make=True, mode=0o755)
    except UntrustedError as error:
        raise PackError(str(error)) from error
    try:
        # The old pack is whole until the new manifest is there: files are named by their content.
        old = _files_of_a_pack(descriptor, directory)
        for name, content in files.items():
            replace_file_in(descriptor, name, content, _MODE)
        for name in old - files.keys():
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    return sum(map(len, files.values()))


def contents(kernels: Mapping[str, compiler.Noted], version: str) -> dict[str, bytes]:
    """The files of a pack, the manifest last; their names tell their contents.

    Args:
        kernels, version: as of :func:`write`.

    Raises:
        PackError: a kernel is no library, as none is for this CPU; or the sources of this package have
            changed since this process imported them.
    """
    level = host_level.here()
    objects = [each.label for each in kernels.values() if not linked.is_library(each.image)]
    if level is None or objects:
        raise PackError(f"on {platform.machine()} there are no packs: kernels cannot be linked")
    if own_parts_changed():
        raise PackError("sources of cute_gemm changed since this process imported it: start anew")
    files, packed = {}, {}
    for key, each in sorted(kernels.items(), key=lambda item: item[1].label):
        digest = hashlib.sha256(each.image).hexdigest()
        name = f"{re.sub(r'[^0-9A-Za-z_+-]+', '_', each.label)}-{digest[:12]}.so"
        files[name] = each.image
        packed[key] = PackedKernel(each.label, name, compiler.SYMBOL, digest)
    return {**files, FILE: _manifest(version, level.name, kernels, packed).text().encode()}


def _manifest(
    version: str, cpu: str, kernels: Mapping[str, compiler.Noted], packed: dict[str, PackedKernel]
) -> Manifest:
    flavour = dsl_library.flavour()
    made_with = versions("nvidia-cutlass-dsl*", "apache-tvm-ffi") | {"python": platform.python_version()}
    least = max(
        (dsl_library.least_version(each.image) for each in kernels.values()),
        default=dsl_library.LEAST_VERSION,
    )
    return Manifest(
        version,
        sources_digest(),
        platform.system(),
        cpu,
        flavour,
        # GPU code runs under every driver for the same major version of CUDA, or a later one.
        1000 * flavour,
        least,
        made_with,
        compiler.dsl_settings(),
        packed,
    )


def _files_of_a_pack(descriptor: int, directory: Path) -> set[str]:
    """The files of the pack that is there, but for its manifest, and what a writer left that was killed.

    Raises:
        PackError: something is there that is no pack.
    """
    every = os.listdir(descriptor)
    own = {each for each in every if _is_own(each)}
    if FILE in every:
        try:
            content, _ = read_regular(FILE, MOST_BYTES, descriptor)
            return own | {each.file for each in parse(content.decode(errors="replace")).kernels.values()}
        except (OSError, PackError) as error:
            raise PackError(f"{directory} is neither empty nor a pack, and is left as it is") from error
    if len(own) < len(every):
        raise PackError(f"{directory} is neither empty nor a pack, and is left as it is")
    return own


def _is_own(name: str) -> bool:
    """Whether a file is called as this module calls those of kernels, or what it has not finished."""
    if name.startswith(".") and name.endswith(TEMPORARY):
        # As :func:`.storage.replace_file_in` calls it.
        name = name[1 : -len(TEMPORARY)].rpartition(".")[0]
        return name == FILE or bool(_KERNEL.fullmatch(name))
    return bool(_KERNEL.fullmatch(name))
