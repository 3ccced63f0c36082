"""Kernels that were compiled elsewhere, from folders with a manifest: no compiler and no DSL are needed.

Folders are those that a process names, those of the environment, and those that are installed as wheels.

A pack is used if it fits: it is of the same sources of this package, and the machine's CPU, driver and the
DSL's runtime library are what it asks for. Folders and files are judged as those of the disk cache are
(:mod:`.trust`), a file by its SHA-256 too, before anything of it is mapped. What does not fit is refused with
the reason, and kernels are then found on disk or compiled. docs/packs.md is for users.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..storage import read_regular, reason
from . import dsl_library, host_level, linked
from .cache_limits import MOST_BYTES_OF_A_KERNEL
from .pack_errors import PackError
from .sources import own_digests
from .trust import UntrustedError, open_directory, require_own

if TYPE_CHECKING:
    from .pack_manifest import Manifest, PackedKernel

logger = logging.getLogger(__name__)

VARIABLE = "CUTE_GEMM_PACKS"
"""Environment variable: folders of packs, separated as in ``PATH``. Set to nothing, there are none, not even
those that are installed."""

_given: dict[Path, None] = {}
_seen: dict[Path, _Seen] = {}
_warned: set[tuple[Path, str]] = set()
_guard = threading.Lock()


class Pack(NamedTuple):
    """A pack that fits.

    Args:
        directory: where it is.
        manifest: what it says.
    """

    directory: Path
    manifest: Manifest

    def read(self, kernel: PackedKernel) -> bytes:
        """The library of one of its kernels.

        Raises:
            PackError: the file is missing or damaged, or others could have written it.
        """
        content = _read(self.directory, kernel.file, MOST_BYTES_OF_A_KERNEL)
        if hashlib.sha256(content).hexdigest() != kernel.sha256:
            raise PackError(f"{self.directory / kernel.file} is damaged, or another kernel's")
        return content


class _Seen(NamedTuple):
    """A folder as it was when it was looked at, and its pack, or why it is not used."""

    state: Hashable
    pack: Pack | None
    refusal: str = ""


class PackInfo(NamedTuple):
    """What there is of a pack.

    Args:
        directory: where it is.
        kernels: how many it has.
        refusal: why it is not used; empty if it is.
    """

    directory: Path
    kernels: int
    refusal: str


def use(directory: Path) -> Pack:
    """Has calls of this process take their kernels from a pack first.

    Args:
        directory: an absolute path.

    Raises:
        PackError: it is not used.
    """
    state = _state(directory)
    pack = _opened(directory)
    _seen[directory] = _Seen(state, pack)
    _given[directory] = None
    return pack


def identity(kernel: str, sources: str) -> str:
    """By what packs know kernels.

    Args:
        kernel: the ``repr`` of the compiler's key.
        sources: the digest of what it is made of.
    """
    return hashlib.sha256(json.dumps([kernel, sources]).encode()).hexdigest()


def sources_digest() -> str:
    """Of what of this package shapes kernels."""
    return hashlib.sha256("".join(own_digests()).encode()).hexdigest()


def load(wanted: str, label: str) -> Callable[..., None] | None:
    """The kernel of an :func:`identity` from the first pack that has it; None where none does, or can.

    Args:
        wanted: the identity.
        label: the kernel's name in what is logged.
    """
    for pack, kernel in _with(wanted):
        try:
            made = linked.load(pack.read(kernel), kernel.function)
        except (PackError, ImportError, OSError, AttributeError) as error:
            _warn_once(pack.directory, f"did not use {label} of the pack {pack.directory}: {error}")
            continue
        logger.debug("loaded %s from the pack %s", label, pack.directory)
        return made
    return None


def has(wanted: str) -> bool:
    """Whether a pack has the kernel of an :func:`identity`, whole; it is not mapped."""
    for pack, kernel in _with(wanted):
        try:
            pack.read(kernel)
        except PackError as error:
            _warn_once(pack.directory, f"did not use {kernel.name} of the pack {pack.directory}: {error}")
        else:
            return True
    return False


def are_used() -> bool:
    """Whether there are any from which calls may take kernels."""
    return any(True for _ in _used())


def infos() -> list[PackInfo]:
    """Of all packs that calls of this process would look in."""
    looked = [(each, _look(each)) for each in _places()]
    return [
        PackInfo(each, len(of.pack.manifest.kernels) if of.pack else 0, of.refusal) for each, of in looked
    ]


def _used() -> Iterator[Pack]:
    for directory, what in _places().items():
        pack = _current(directory, what)
        if pack is not None:
            yield pack


def _places() -> dict[Path, str]:
    """Folders that were given, then those of the environment, then installed ones; and what to call them."""
    from . import installed_packs

    places = {each: f"the pack {each}" for each in _given}
    said = os.environ.get(VARIABLE)
    for each in _named(said or ""):
        places.setdefault(each, f"the pack {each}, which {VARIABLE} names,")
    # Set to nothing, it switches them off.
    for each in installed_packs.directories() if said != "" else ():
        places.setdefault(each, f"the installed pack {each}")
    return places


def _with(wanted: str) -> Iterator[tuple[Pack, PackedKernel]]:
    """Packs that have a kernel, as their manifests say."""
    for pack in _used():
        kernel = pack.manifest.kernels.get(wanted)
        if kernel is not None:
            yield pack, kernel


@functools.lru_cache(1)
def _named(packs: str) -> tuple[Path, ...]:
    found = []
    for each in filter(None, packs.split(os.pathsep)):
        try:
            found.append(Path(each).expanduser().absolute())
        # `~nobody` is a RuntimeError.
        except (RuntimeError, OSError) as error:
            _warn_once(Path(each), f"the pack {each}, which {VARIABLE} names, is not used: {error}")
    return tuple(found)


def _current(directory: Path, what: str) -> Pack | None:
    """The pack that is there now; None, warned of, if it is not used."""
    before, now = _seen.get(directory), _look(directory)
    if now is not before and now.pack is None:
        again = "It is looked at again when its folder changes"
        _warn_once(directory, f"{what} is not used: {now.refusal}. {again}")
    elif now is not before and before is not None and before.pack is None:
        logger.info("%s is used now", what)
    return now.pack


def _look(directory: Path) -> _Seen:
    """What is there now. It is read where it has changed."""
    state, seen = _state(directory), _seen.get(directory)
    if seen is None or seen.state != state:
        try:
            seen = _Seen(state, _opened(directory))
        except (PackError, ImportError) as error:
            seen = _Seen(state, None, str(error))
        _seen[directory] = seen
    return seen


def _state(directory: Path) -> Hashable:
    """It changes where the folder or its manifest does, and where rights above do."""
    from .pack_manifest import FILE

    changed = [_status(each, lambda found: found.st_ctime_ns) for each in (directory, directory / FILE)]
    # What else is put into folders above is nothing to us.
    rights = [_status(each, lambda found: (found.st_mode, found.st_uid)) for each in directory.parents]
    return tuple(changed), tuple(rights)


def _status(path: Path, part: Callable[[os.stat_result], Hashable]) -> Hashable:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, part(found)


def _opened(directory: Path) -> Pack:
    from .pack_manifest import FILE, MOST_BYTES, parse

    content = _read(directory, FILE, MOST_BYTES)
    pack = Pack(directory, parse(content.decode(errors="replace")))
    why = _why_unfit(pack.manifest)
    if why:
        raise PackError(why)
    return pack


def _why_unfit(made: Manifest) -> str:
    """Why kernels of a manifest would not run here, or would be others than are compiled here."""
    if made.sources != sources_digest():
        return "it was made of other sources of cute_gemm than are installed here: make it anew"
    if made.system != platform.system():
        return f"it is for {made.system}, and this is {platform.system()}"
    if why := host_level.why_unfit(made.cpu):
        return why
    driver = dsl_library.driver_version()
    if driver and driver < made.least_driver:
        return (
            f"it was compiled by CUDA {made.cuda} and wants a driver for CUDA {made.least_driver // 1000} or "
            f"later, and this machine's is for {driver // 1000}.{driver % 1000 // 10}"
        )
    try:
        version = dsl_library.version()
    except dsl_library.NoLibraryError as error:
        return str(error)
    if _numbers(version) < _numbers(made.least_runtime):
        return (
            f"it calls what the runtime library of the CuTe DSL has from {made.least_runtime} on, and "
            f"{version} is installed: make it with the oldest DSL that it is for"
        )
    return ""


def _read(directory: Path, name: str, most: int) -> bytes:
    try:
        descriptor = open_directory(directory)
        try:
            content, found = read_regular(name, most, descriptor)
        finally:
            os.close(descriptor)
        require_own(found, directory / name)
    except UntrustedError as error:
        raise PackError(str(error)) from error
    except OSError as error:
        where = "" if error.filename == str(directory) else f"{directory / name}: "
        raise PackError(f"{where}{error.strerror if where else reason(error)}") from error
    return content


def _numbers(version: str) -> tuple[int, ...]:
    """``4.8.1`` as numbers; what is no number ends them."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _warn_once(directory: Path, message: str) -> None:
    with _guard:
        is_new = (directory, message) not in _warned
        _warned.add((directory, message))
    if is_new:
        logger.warning(message)
