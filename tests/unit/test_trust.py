"""Which directories are believed: all set-ups in which somebody else's code could come to run are refused."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cute_gemm.runtime import trust
from cute_gemm.runtime.trust import UntrustedError, open_directory

SOMEBODY, OTHER = 54321, 54322
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")


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


def test_a_directory_that_is_swapped_after_it_was_opened_is_the_one_that_was_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever swaps it between the look at its name and its opening gains nothing: what is open is judged."""
    path, evil = owned(tmp_path / "own", 0o700), owned(tmp_path / "evil", 0o777)
    real = trust._enter

    def swaps(directory: int, name: str, make: bool) -> int:
        if name == "own":
            path.rename(tmp_path / "gone")
            evil.rename(path)
        return real(directory, name, make)

    monkeypatch.setattr(trust, "_enter", swaps)
    with pytest.raises(UntrustedError, match="anyone may write"):
        open_directory(path)


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
