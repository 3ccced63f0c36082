"""Fuzzes the cache of kernels: forged, corrupt and odd entries, directories and file systems.

    python tests/fuzz/cache_entries.py --count 1000

Each case keeps a kernel, lets somebody have at the directory, and asks for it again: it gets what was kept,
or nothing, within seconds and without an exception; nothing is written or removed elsewhere; and where the
directory is sound a kernel can be kept there again. What would be got is what would be executed. As root, it
plays a user, root and a stranger; else there is no stranger.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import campaign

from cute_gemm.runtime import cache
from cute_gemm.runtime.sharing import share

KEY, OTHER_KEY = '{"kernel": "a"}', '{"kernel": "b"}'
RIGHT, EVIL = b"what was compiled" * 99, b"what a stranger wants to run"
USER, STRANGER = 54321, 54322
SECONDS = 5.0
IS_ROOT = os.geteuid() == 0

Random = random.Random


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Files are made, and rights are those, of another user; only root can act so."""
    if not IS_ROOT:
        yield
        return
    before = os.geteuid()
    os.seteuid(0)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.seteuid(before)


def forged(key: str = KEY) -> bytes:
    """An entry that says of itself that it is right."""
    return cache._entry(key, EVIL)


def path_of(directory: Path, key: str = KEY) -> Path:
    return directory / cache._name(key)


# What is done to an entry of the user's own. None of it makes a stranger's code the user's.


def flip_a_bit(path: Path, draw: Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draw: Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def lengthen(path: Path, draw: Random) -> None:
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randint(1, 9999)))


def fill_with_anything(path: Path, draw: Random) -> None:
    path.write_bytes(draw.randbytes(draw.choice([0, 1, 100, 10**6])))


def overwrite_a_piece(path: Path, draw: Random) -> None:
    content = path.read_bytes()
    at = draw.randrange(len(content))
    path.write_bytes(content[:at] + draw.randbytes(draw.randint(1, 80)) + content[at:][draw.randint(0, 80) :])


def take_another_kernels(path: Path, draw: Random) -> None:
    path.write_bytes(forged(OTHER_KEY))


def change_the_header(path: Path, draw: Random) -> None:
    lines = path.read_bytes().split(b"\n", 3)
    lines[draw.randrange(3)] = draw.choice([b"", b"null", b"[" * 99999, b"\xff\xfe", lines[1] * 2])
    path.write_bytes(b"\n".join(lines))


def make_sparse(path: Path, draw: Random) -> None:
    os.truncate(path, draw.choice([2**26 + 1, 2**36, 2**42]))


def instead(make: Callable[[Path, Random], None]) -> Callable[[Path, Random], None]:
    def replace(path: Path, draw: Random) -> None:
        path.unlink()
        make(path, draw)

    replace.__name__ = make.__name__
    return replace


def a_pipe(path: Path, draw: Random) -> None:
    os.mkfifo(path)


def a_socket(path: Path, draw: Random) -> None:
    # Names of sockets are short.
    with socket.socket(socket.AF_UNIX) as end, tempfile.TemporaryDirectory() as near:
        link = Path(near) / "d"
        link.symlink_to(path.parent)
        end.bind(str(link / "s"))
        (path.parent / "s").rename(path)


def a_folder(path: Path, draw: Random) -> None:
    path.mkdir()
    (path / "within").touch()


def a_link(path: Path, draw: Random) -> None:
    """To a right-looking kernel, itself, nothing, or what never ends."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.write_bytes(forged())
    path.symlink_to(draw.choice(["elsewhere", path.name, "nothing", "/dev/zero", "/dev/stdin", "/"]))


def open_to_others(path: Path, draw: Random) -> None:
    path.write_bytes(forged())
    path.chmod(draw.choice([0o666, 0o620, 0o602, 0o777, 0o660]))


OF_ENTRIES: list[Callable[[Path, Random], None]] = [
    *(flip_a_bit, cut, lengthen, fill_with_anything, overwrite_a_piece, take_another_kernels),
    *(change_the_header, make_sparse, open_to_others),
    *map(instead, (a_pipe, a_socket, a_folder, a_link)),
]


# What a stranger can do to a directory or beside it, with a right-looking kernel in the end.


def was_open_once(directory: Path, draw: Random) -> Path:
    """It is right now, but a stranger has put a kernel there meanwhile."""
    mode = directory.stat().st_mode
    directory.chmod(0o777)
    with acting_as(STRANGER):
        path_of(directory).unlink()
        path_of(directory).write_bytes(forged())
        path_of(directory).chmod(draw.choice([0o644, 0o600, 0o666]))
    directory.chmod(mode)
    return directory


def is_open(directory: Path, draw: Random) -> Path:
    directory.chmod(draw.choice([0o777, 0o1777, 0o770, 0o775, 0o2775, 0o757]))
    path_of(directory).write_bytes(forged())
    return directory


def is_below_an_open_one(directory: Path, draw: Random) -> Path:
    above = directory.parent / "above"
    above.mkdir()
    above.chmod(0o777)
    directory.rename(above / "named")
    path_of(above / "named").write_bytes(forged())
    return above / "named"


def is_a_strangers(directory: Path, draw: Random) -> Path:
    path = directory.parent / "strangers"
    with acting_as(STRANGER):
        path.mkdir(draw.choice([0o755, 0o775, 0o700, 0o777]))
        path_of(path).write_bytes(forged())
    return path


def is_a_strangers_link(directory: Path, draw: Random) -> Path:
    path = is_a_strangers(directory, draw)
    with acting_as(STRANGER):
        (directory.parent / "link").symlink_to(path if draw.random() < 0.5 else directory)
    path_of(directory).write_bytes(forged())
    return directory.parent / "link"


REFUSED = [is_open, is_below_an_open_one]
REFUSED_IF_ROOT = [is_a_strangers, is_a_strangers_link]
SOUND_IF_ROOT = [was_open_once]


# What a file system can say


def failing(name: str, numbers: tuple[int, ...], draw: Random) -> mock._patch[object]:
    module = fcntl if name == "flock" else os
    real, number, share = getattr(module, name), draw.choice(numbers), draw.choice([0.3, 1.0])

    def fails(*arguments: object, **options: object) -> object:
        if draw.random() < share:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return mock.patch.object(module, name, fails)


FAILURES: dict[str, tuple[int, ...]] = {
    "flock": (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM, errno.EIO, errno.EINTR),
    "fsync": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS),
    "replace": (errno.EACCES, errno.EROFS, errno.ESTALE, errno.ENOSPC),
    "unlink": (errno.EACCES, errno.EROFS, errno.EBUSY),
    "open": (errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG),
    "stat": (errno.EACCES, errno.EIO, errno.ESTALE),
    "scandir": (errno.EACCES, errno.EIO),
    "utime": (errno.EACCES, errno.EROFS),
    "fchmod": (errno.EPERM, errno.EOPNOTSUPP),
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EROFS),
}


# One case


def case(draw: Random) -> None:
    me = draw.choice([USER, 0]) if IS_ROOT else os.geteuid()
    base = Path(tempfile.mkdtemp(prefix="cute_gemm-fuzz-"))
    base.chmod(0o1777)
    try:
        with acting_as(me), mock.patch.object(cache.logger, "disabled", True):
            one_case(base, draw)
    finally:
        shutil.rmtree(base)


def one_case(base: Path, draw: Random) -> None:
    directory, outside = base / "named", base / "outside"
    outside.write_bytes(b"untouched")
    with named(directory):
        keep(KEY, RIGHT)
    assert path_of(directory).exists()
    what, is_sound = draw.choice(["an entry", "a directory", "a file system"]), True
    failures = ExitStack()
    if what == "an entry":
        draw.choice(OF_ENTRIES)(path_of(directory), draw)
    elif what == "a directory":
        change = draw.choice(REFUSED + (REFUSED_IF_ROOT + SOUND_IF_ROOT) * IS_ROOT)
        directory, is_sound = change(directory, draw), change in SOUND_IF_ROOT
    before = contents(base)
    if what == "a file system":
        for name in draw.sample(sorted(FAILURES), draw.randint(1, 3)):
            failures.enter_context(failing(name, FAILURES[name], draw))
    started = time.monotonic()
    with failures, named(directory, draw.choice([cache.DIRECTORY_VARIABLE, cache.SHARED_VARIABLE])):
        for _ in range(2):
            assert load(KEY) in (None, RIGHT), f"a stranger's code would be run: {what}"
            keep(KEY, RIGHT)
        cache.cache_info()
        cache.shared_cache_info()
    assert time.monotonic() - started < SECONDS, "it takes too long"
    assert is_sound or contents(base) == before, "a directory that is refused was changed"
    copy(directory, base / "copies")
    with named(directory):
        keep(KEY, RIGHT)
        wanted = RIGHT if is_sound and not path_of(directory).is_dir() else None
        assert load(KEY) == wanted, "nothing can be kept there any more" if wanted else "it is believed"
    assert outside.read_bytes() == b"untouched"


def copy(directory: Path, target: Path) -> None:
    """As `cute-gemm share` does; what others then read is right."""
    with named(directory):
        try:
            share(target)
        except OSError:
            return
    with named(target, cache.SHARED_VARIABLE):
        assert load(KEY) in (None, RIGHT), "a stranger's code would be shared"


@contextmanager
def named(directory: Path, variable: str = cache.DIRECTORY_VARIABLE) -> Iterator[None]:
    """A directory as one's own, or as the one that is only read."""
    others = {cache.DIRECTORY_VARIABLE: "", cache.SHARED_VARIABLE: ""}
    with mock.patch.dict(os.environ, others | {variable: str(directory)}):
        yield


def load(key: str) -> bytes | None:
    with cache.opened() as kernels:
        found = kernels.load(key)
        return found[0] if found else None


def keep(key: str, payload: bytes) -> None:
    """As the compiler keeps a kernel."""
    with cache.opened() as kernels, kernels.exclusive(key):
        if kernels.own:
            kernels.own.store(key, payload)
            kernels.own.prune()


def contents(base: Path) -> dict[str, tuple[int, int, int]]:
    """All that is there, and when and what it last was."""
    return {
        str(path): (found.st_mode, found.st_size, found.st_mtime_ns)
        for path in sorted(base.rglob("*"))
        for found in [path.lstat()]
    }


if __name__ == "__main__":
    sys.exit(campaign.main(case))
