"""Which directories are believed: all set-ups in which somebody else's code could come to run are refused."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_places import OTHER, SOMEBODY, needs_root

from cute_gemm.runtime import trust
from cute_gemm.runtime.trust import UntrustedError, open_directory


def is_opened(path: Path, make: bool = False) -> bool:
    """Whether a directory is believed; what was opened is the one of that path."""
    try:
        descriptor = open_directory(path, make)
    except UntrustedError:
        return False
    try:
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
    return True


def owned(path: Path, mode: int, uid: int | None = None) -> Path:
    path.mkdir()
    path.chmod(mode)
    if uid is not None:
        os.chown(path, uid, -1)
    return path


def test_ones_own_directory_is_believed(tmp_path: Path) -> None:
    assert is_opened(owned(tmp_path / "own", 0o755))
    assert is_opened(owned(tmp_path / "read-only", 0o555))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777, 0o2775])
def test_others_may_not_write_in_it(tmp_path: Path, mode: int) -> None:
    path = owned(tmp_path / "own", mode)
    with pytest.raises(UntrustedError, match=f"may write to {path}; mend it by: chmod go-w {path}$"):
        open_directory(path)


def test_what_is_missing_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    with pytest.raises(FileNotFoundError):
        open_directory(path)
    old = os.umask(0)
    try:
        assert is_opened(path, make=True)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
        0o700
    ] * 3


def test_above_it_a_sticky_directory_may_be_written_by_anyone(tmp_path: Path) -> None:
    above = owned(tmp_path / "above", 0o1777)
    assert is_opened(above / "own", make=True)
    above.chmod(0o777)
    with pytest.raises(
        UntrustedError, match=f"below {above}, where anyone may rename .*: chmod o-w {above}$"
    ):
        open_directory(above / "own")
    assert not is_opened(above / "new", make=True)
    assert not (above / "new").exists()
    above.chmod(0o775)
    assert is_opened(above / "own")


def test_above_a_link_too(tmp_path: Path) -> None:
    above = owned(tmp_path / "above", 0o777)
    owned(above / "own", 0o700)
    (tmp_path / "link").symlink_to(above / "own")
    assert not is_opened(tmp_path / "link")
    above.chmod(0o755)
    assert is_opened(tmp_path / "link")


def test_links_of_ones_own_are_followed_as_the_kernel_does(tmp_path: Path) -> None:
    owned(tmp_path / "own", 0o700)
    owned(tmp_path / "beside", 0o700)
    for name, target in (
        ("relative", "own"),
        ("absolute", tmp_path / "own"),
        ("up", "beside/../own/."),
        ("twice", "up"),
        ("beside/out", "../twice"),
    ):
        (tmp_path / name).symlink_to(target)
        assert is_opened(tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        open_directory(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to("nothing")
    assert is_opened(tmp_path / "dangling", make=True)
    assert (tmp_path / "nothing").is_dir()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=str(tmp_path / "file")):
        open_directory(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        open_directory(tmp_path / "file" / "below", make=True)


FOREIGN: dict[str, Callable[[Path], Path]] = {
    "a directory of somebody else": lambda at: owned(at / "named", 0o755, OTHER),
    "one that its group may write": lambda at: owned(at / "named", 0o775, OTHER),
}


def a_link_of_somebody_else(at: Path) -> Path:
    owned(at / "target", 0o700, SOMEBODY)
    (at / "named").symlink_to(at / "target")
    os.chown(at / "named", OTHER, -1, follow_symlinks=False)
    return at / "named"


def below_a_link_of_somebody_else(at: Path) -> Path:
    owned(a_link_of_somebody_else(at).resolve() / "below", 0o700, SOMEBODY)
    return at / "named" / "below"


FOREIGN |= {
    "a link of somebody else": a_link_of_somebody_else,
    "below a link of somebody else": below_a_link_of_somebody_else,
}


@needs_root
@pytest.mark.parametrize("me", [SOMEBODY, 0], ids=["a user", "root"])
@pytest.mark.parametrize("case", FOREIGN)
def test_what_somebody_else_owns_is_refused(
    tmp_path: Path, case: str, me: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: me)
    path = FOREIGN[case](owned(tmp_path / "at", 0o1777))
    with pytest.raises(UntrustedError, match=f"user {OTHER}"):
        open_directory(path)


@needs_root
def test_root_is_believed_and_believes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_root, of_user = owned(tmp_path / "root", 0o755, 0), owned(tmp_path / "user", 0o755, SOMEBODY)
    assert (is_opened(of_root), is_opened(of_user)) == (True, False)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert (is_opened(of_root), is_opened(of_user)) == (True, True)


def test_what_was_opened_is_judged_and_not_what_has_its_name_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is open to all is opened, and swapped for a good one before it is judged."""
    path, good = owned(tmp_path / "named", 0o777), owned(tmp_path / "good", 0o700)
    real = trust._enter

    def swaps(directory: int, name: str, *rest: Any) -> int:
        found = real(directory, name, *rest)
        if name == "named":
            path.rename(tmp_path / "gone")
            good.rename(path)
        return found

    monkeypatch.setattr(trust, "_enter", swaps)
    with pytest.raises(UntrustedError, match="anyone may write"):
        open_directory(path)


def test_a_link_that_comes_after_the_look_at_its_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, elsewhere = owned(tmp_path / "named", 0o700), owned(tmp_path / "elsewhere", 0o700)
    real = trust._link

    def swaps(directory: int, name: str, at: Path) -> Path | None:
        found = real(directory, name, at)
        if name == "named":
            path.rename(tmp_path / "gone")
            path.symlink_to(elsewhere)
        return found

    monkeypatch.setattr(trust, "_link", swaps)
    with pytest.raises(NotADirectoryError):
        open_directory(path)


def test_two_processes_may_make_it_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mkdir

    def comes_second(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        real(*arguments, **options)

    monkeypatch.setattr(os, "mkdir", comes_second)
    assert is_opened(tmp_path / "new", make=True)


@needs_root
def test_root_makes_nothing_in_a_users_directory(tmp_path: Path) -> None:
    """With the home of the user who called it: the user could not use it afterwards."""
    home = owned(tmp_path / "home", 0o755, SOMEBODY)
    with pytest.raises(UntrustedError, match=f"{home} belongs to user {SOMEBODY}, in whose directories root"):
        open_directory(home / ".cache" / "cute_gemm", make=True)
    assert not list(home.iterdir())


@pytest.mark.parametrize("me", [65534, 1000])
def test_nobody_in_particular_is_not_believed(
    me: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace without some users, the files of those have one number, which may be one's own."""
    files = {"/proc/self/uid_map": "0 100000 65536\n", "/proc/sys/kernel/overflowuid": "65534\n"}
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *rest: files.get(str(path)) or real(path, *rest))
    monkeypatch.setattr(os, "geteuid", lambda: me)
    found = os.stat_result((0o40700, 1, 1, 1, 65534, 65534, 0, 0, 0, 0))
    with pytest.raises(UntrustedError, match="65534"):
        trust.require_own(found, tmp_path)
    files["/proc/self/uid_map"] = "0 0 4294967295\n"
    if me == 65534:
        trust.require_own(found, tmp_path)


def test_who_cannot_mend_it_is_not_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    found = os.stat_result((0o40777, 1, 1, 1, 0, 0, 0, 0, 0, 0))
    with pytest.raises(UntrustedError, match=f"anyone may write to {tmp_path}$"):
        trust.require_own(found, tmp_path)


def test_a_directory_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuses(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if path == "." and not flags & os.O_PATH:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(PermissionError, match=f"'{owned(tmp_path / 'own', 0o300)}'"):
        open_directory(tmp_path / "own")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    owned(tmp_path / "own", 0o700)
    owned(tmp_path / "open", 0o777)
    (tmp_path / "link").symlink_to("own")
    (tmp_path / "loop").symlink_to("loop")
    before = count()
    for name in ("own", "open", "link", "loop", "none", "open/below"):
        try:
            os.close(open_directory(tmp_path / name))
        except OSError:
            continue
    assert count() == before
