"""Packs of kernels: which are used, and why others are not. Their libraries are stand-ins."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_places import SOMEBODY, needs_root

import cute_gemm
from cute_gemm import storage
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import (
    builder,
    cache,
    compiler,
    dsl_library,
    host_level,
    installed_packs,
    linked,
    pack_manifest,
    pack_writer,
    packs,
    sources,
)
from cute_gemm.runtime.pack_errors import PackError

LIBRARY = b"\x7fELF" + bytes(12) + b"\x03\x00"


def image(label: str) -> bytes:
    return LIBRARY + label.encode()


def build() -> Any:
    raise AssertionError("the stand-in builds nothing")


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled, by a stand-in for the DSL; functions return their library's name."""
    done: list[str] = []

    def compiles(_: compiler.Build, label: str) -> bytes:
        done.append(label)
        return image(label)

    def loads(content: bytes, function: str) -> Callable[[], tuple[str, str]]:
        if content.endswith(b"unfit"):
            raise OSError("undefined symbol: that of tomorrow")
        return lambda: (content.removeprefix(LIBRARY).decode(), function)

    monkeypatch.setattr(compiler, "_compile", compiles)
    monkeypatch.setattr(compiler, "_surroundings", lambda: {"dsl": "4.8.1"})
    monkeypatch.setattr(linked, "load", loads)
    monkeypatch.setattr(dsl_library, "version", lambda: "4.8.1")
    monkeypatch.setattr(dsl_library, "driver_version", lambda: 13010)
    monkeypatch.setattr(dsl_library, "flavour", lambda: 12)
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(packs.VARIABLE, raising=False)
    new_process(monkeypatch)
    return done


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has no kernels on disk."""
    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(packs, "_given", {})
    monkeypatch.setattr(packs, "_seen", {})
    monkeypatch.setattr(packs, "_warned", set())
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
    packs._named.cache_clear()


@pytest.fixture
def pack(compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack of the kernels "one" and "two"; nothing is in the process or on disk."""
    directory = tmp_path / "pack"
    write(directory, "one", "two")
    compiled.clear()
    new_process(monkeypatch)
    return directory


def write(directory: Path, *labels: str) -> int:
    with compiler.noting() as noted:
        for label in labels:
            compiler.instance(label, build, label)
    return pack_writer.write(directory, noted, cute_gemm.__version__)


def ask(label: str) -> Any:
    return compiler.instance(label, build, label)()


def edit(pack: Path, **changes: Any) -> None:
    """Says other things in a manifest; None leaves a field out."""
    path = pack / pack_manifest.FILE
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_kernels_of_a_pack_are_taken_and_others_compiled(
    pack: Path, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert cute_gemm.load_pack(pack) == 2
    assert ask("one") == ("one", compiler.SYMBOL)
    assert ask("three")[0] == "three"
    assert compiled == ["three"]
    assert not caplog.records


def test_a_pack_comes_before_the_disk(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    cute_gemm.load_pack(pack)

    def opened() -> None:
        raise AssertionError("looks on disk")

    monkeypatch.setattr(cache, "opened", opened)
    assert ask("two")[0] == "two"


def test_the_environment_names_packs(
    pack: Path,
    compiled: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those that fit are used; of others there is one warning."""
    missing = tmp_path / "missing"
    monkeypatch.setenv(packs.VARIABLE, f"{missing}{os.pathsep}{os.pathsep}{pack}")
    assert [ask(label)[0] for label in ("one", "two", "three")] == ["one", "two", "three"]
    assert compiled == ["three"]
    assert caplog.messages == [
        f"the pack {missing}, which CUTE_GEMM_PACKS names, is not used: No such file or directory: "
        f"{missing}. It is looked at again when its folder changes"
    ]


def test_other_sources_have_other_kernels(
    pack: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own: those of this package are compared as a whole."""
    cute_gemm.load_pack(pack)
    changed = dataclasses.replace(sources.read(build), digest="of other sources")
    assert compiler.instance("one", build, "one", changed)()[0] == "one"
    assert compiled == ["one"]


REFUSED = {
    "other sources of cute_gemm than are installed here": {"sources": "0" * 64},
    "it is for Plan 9, and this is Linux": {"system": "Plan 9"},
    "it is for riscv64, and this CPU is": {"cpu": "riscv64"},
    "it was compiled by CUDA 14 and wants a driver for CUDA 14 or later, and this machine's is for 13.1": {
        "cuda": 14,
        "least_driver": 14000,
    },
    "has from 4.10.0 on, and 4.8.1 is installed: make it with the oldest DSL": {"least_runtime": "4.10.0"},
    "manifest.json is not of what this version reads, 'cute_gemm pack, format 1'": {"format": "format 2"},
    "manifest.json is damaged: it lists no kernels": {"kernels": []},
    "manifest.json is damaged: a kernel is 'one'": {"kernels": {"0": "one"}},
    "manifest.json is damaged: it lacks, or has beside what is known: cuda": {"cuda": None},
    "it lacks, or has beside what is known: more": {"more": 1},
    "manifest.json is damaged: cuda of it is True": {"cuda": True},
    "manifest.json is damaged: made_with of it is {'dsl': 4}": {"made_with": {"dsl": 4}},
    "manifest.json is damaged: cpu of it is {}": {"cpu": {}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_pack_that_does_not_fit_is_refused_with_the_reason(
    pack: Path,
    compiled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    message: str,
) -> None:
    edit(pack, **REFUSED[message])
    with pytest.raises(PackError) as refused:
        cute_gemm.load_pack(pack)
    assert message in str(refused.value)
    monkeypatch.setenv(packs.VARIABLE, str(pack))
    assert [ask("one")[0], ask("two")[0]] == ["one", "two"]
    assert compiled == ["one", "two"]
    assert len(caplog.messages) == 1
    assert message in caplog.text


def test_a_pack_of_sources_that_have_changed_is_refused(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "own_digests", lambda: ["of", "another", "version"])
    with pytest.raises(PackError, match="other sources of cute_gemm"):
        cute_gemm.load_pack(pack)


def test_a_machine_without_a_driver_or_with_no_dsl_is_told_apart(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsl_library, "driver_version", lambda: 0)
    assert cute_gemm.load_pack(pack) == 2

    def missing() -> str:
        raise dsl_library.NoLibraryError("the CuTe DSL is not installed")

    monkeypatch.setattr(dsl_library, "version", missing)
    with pytest.raises(PackError, match="the CuTe DSL is not installed"):
        cute_gemm.load_pack(pack)


def test_versions_are_compared_as_numbers(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(pack, least_runtime="4.9.0")
    monkeypatch.setattr(dsl_library, "version", lambda: "4.10.0.dev1")
    assert cute_gemm.load_pack(pack) == 2


@pytest.mark.parametrize("file", ["../one.so", "/one.so", ".so", "one", "a/one.so"])
def test_a_manifest_names_files_of_its_folder_alone(pack: Path, file: str) -> None:
    kernel = {"name": "one", "file": file, "function": "f", "sha256": "0" * 64}
    edit(pack, kernels={"0": kernel})
    with pytest.raises(PackError, match="file or SHA-256 of one are not what such are"):
        cute_gemm.load_pack(pack)


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_manifest_that_is_cut_off_is_damaged(pack: Path, length: int) -> None:
    path = pack / pack_manifest.FILE
    path.write_text(path.read_text()[:length])
    with pytest.raises(PackError, match=r"manifest\.json is damaged"):
        cute_gemm.load_pack(pack)
    path.write_text("[" * 100_000)
    with pytest.raises(PackError, match=r"manifest\.json is damaged"):
        cute_gemm.load_pack(pack)
    path.unlink()
    with pytest.raises(PackError, match=r"manifest\.json: No such file"):
        cute_gemm.load_pack(pack)


def the_file(pack: Path, label: str) -> Path:
    (found,) = pack.glob(f"{label}-*.so")
    return found


DAMAGE: dict[str, Callable[[Path], object]] = {
    "is damaged, or another kernel's": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "No such file or directory": lambda path: path.unlink(),
    "anyone may write to": lambda path: path.chmod(0o666),
    "Too many levels of symbolic links": lambda path: (
        path.rename(path.with_suffix("")),
        path.symlink_to(path.with_suffix("")),
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_kernel_that_is_damaged_is_compiled(
    pack: Path, compiled: list[str], caplog: pytest.LogCaptureFixture, message: str
) -> None:
    cute_gemm.load_pack(pack)
    DAMAGE[message](the_file(pack, "one"))
    assert [ask("one")[0], ask("two")[0]] == ["one", "two"]
    assert compiled == ["one"]
    assert len(caplog.messages) == 1
    assert f"did not use one of the pack {pack}: " in caplog.text
    assert message in caplog.text


def test_a_library_that_cannot_be_mapped_is_compiled(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with compiler.noting() as noted:
        compiler.instance("one", build, "one")
    broken = {key: compiler.Noted("one", image("unfit")) for key in noted}
    pack_writer.write(tmp_path / "pack", broken, "0.1.0")
    new_process(monkeypatch)
    cute_gemm.load_pack(tmp_path / "pack")
    assert ask("one")[0] == "one"
    assert compiled == ["one", "one"]
    assert "undefined symbol: that of tomorrow" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_fill_is_refused(pack: Path, mode: int) -> None:
    pack.chmod(mode)
    with pytest.raises(PackError, match="may write to"):
        cute_gemm.load_pack(pack)


@needs_root
def test_another_users_pack_is_refused(pack: Path) -> None:
    os.chown(pack, SOMEBODY, SOMEBODY)
    with pytest.raises(PackError, match="belongs to"):
        cute_gemm.load_pack(pack)


# Installed ones


@pytest.fixture
def installed(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pack, as its wheel's files lie."""
    place = tmp_path / "site"
    found = place / installed_packs.NAMESPACE / "acme_kernels"
    found.parent.mkdir(parents=True)
    pack.rename(found)
    monkeypatch.syspath_prepend(place)
    return found


def test_what_is_installed_is_found(installed: Path, compiled: list[str]) -> None:
    (installed.parent / "~cme_kernels").mkdir()
    assert packs.are_used()
    assert packs.infos() == [packs.PackInfo(installed, 2, "")]
    assert [ask(label)[0] for label in ("one", "three")] == ["one", "three"]
    assert compiled == ["three"]


def test_what_the_environment_names_comes_before_what_is_installed(
    installed: Path, compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set to nothing, it switches all of them off."""
    in_the_environment(tmp_path / "missing", monkeypatch)
    first, second = packs.infos()
    assert (first.directory, first.kernels) == (tmp_path / "missing", 0)
    assert first.refusal.startswith("No such file")
    assert second.directory == installed
    monkeypatch.setenv(packs.VARIABLE, "")
    assert packs.infos() == []
    assert ask("one")[0] == "one"
    assert compiled == ["one"]


def test_an_installed_pack_is_judged_as_others_are(
    installed: Path, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    installed.chmod(0o775)
    assert ask("one")[0] == "one"
    assert compiled == ["one"]
    assert f"the installed pack {installed} is not used: its group may write to {installed}" in caplog.text


def test_nothing_is_installed_in_the_current_directory(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = installed.parents[1]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", ["", "."])
    assert installed_packs.directories() == ()
    monkeypatch.setattr(sys, "path", [str(place / "none"), str(installed / pack_manifest.FILE), str(place)])
    assert installed_packs.directories() == (installed,)


# What changes while a process runs


def in_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packs.VARIABLE, str(directory))


MENDED: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "is there": (
        lambda pack: pack.rename(pack.with_name("else")),
        lambda pack: pack.with_name("else").rename(pack),
    ),
    "has rights": (lambda pack: pack.chmod(0o777), lambda pack: pack.chmod(0o755)),
    "lies where it is safe": (lambda pack: pack.parent.chmod(0o777), lambda pack: pack.parent.chmod(0o755)),
    "has a manifest with rights": (
        lambda pack: (pack / pack_manifest.FILE).chmod(0o666),
        lambda pack: (pack / pack_manifest.FILE).chmod(0o644),
    ),
    "is written in place": (
        lambda pack: edit(pack, system="Plan 9"),
        lambda pack: edit(pack, system="Linux"),
    ),
}


@pytest.mark.parametrize("how", MENDED)
def test_a_pack_that_was_refused_is_looked_at_again_when_it_changes(
    pack: Path,
    compiled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    spoil, mend = MENDED[how]
    spoil(pack)
    in_the_environment(pack, monkeypatch)
    assert ask("one")[0] == "one"
    assert compiled == ["one"]
    assert caplog.messages[0].endswith("It is looked at again when its folder changes")
    mend(pack)
    with caplog.at_level(logging.INFO, "cute_gemm"):
        assert ask("two")[0] == "two"
    assert compiled == ["one"]
    assert caplog.messages[1:] == [f"the pack {pack}, which CUTE_GEMM_PACKS names, is used now"]


def test_what_does_not_change_is_read_once(
    pack: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it fits or not."""
    opened: list[Path] = []

    def opens(directory: Path) -> packs.Pack:
        opened.append(directory)
        return opening(directory)

    opening = packs._opened
    monkeypatch.setattr(packs, "_opened", opens)
    missing = pack.with_name("missing")
    monkeypatch.setenv(packs.VARIABLE, f"{missing}{os.pathsep}{pack}")
    assert [ask(label)[0] for label in ("one", "two", "three")] == ["one", "two", "three"]
    assert opened == [missing, pack]
    monkeypatch.setenv(packs.VARIABLE, str(pack))
    assert ask("four")[0] == "four"
    assert opened == [missing, pack]


@pytest.mark.parametrize("use", [lambda pack, _: cute_gemm.load_pack(pack), in_the_environment])
def test_a_pack_that_is_written_anew_is_the_new_one(
    pack: Path,
    compiled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    use: Any,
) -> None:
    use(pack, monkeypatch)
    assert ask("one")[0] == "one"
    write(pack, "two", "three")
    compiled.clear()
    monkeypatch.setattr(compiler, "_loaded", {})
    assert [ask(label)[0] for label in ("two", "three", "one")] == ["two", "three", "one"]
    assert compiled == ["one"]
    assert not caplog.messages
    edit(pack, system="Plan 9")
    assert ask("four")[0] == "four"
    assert "it is for Plan 9" in caplog.text


# What is there already


def test_what_a_pack_has_need_not_be_made(pack: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unless all is to be on disk, as where a pack is written."""
    assert not packs.are_used()
    assert not compiler.is_kept("one", build)
    cute_gemm.load_pack(pack)
    assert packs.are_used()
    assert [compiler.is_kept(each, build) for each in ("one", "two", "three")] == [True, True, False]
    with compiler.noting():
        assert not compiler.is_kept("one", build)
    changed = dataclasses.replace(sources.read(build), digest="of other sources")
    assert not compiler.is_kept("one", build, changed)
    the_file(pack, "one").unlink()
    assert [compiler.is_kept(each, build) for each in ("one", "two")] == [False, True]
    assert f"did not use one of the pack {pack}: " in caplog.text


# Writing


def test_a_pack_is_written_in_place_of_another(pack: Path, compiled: list[str]) -> None:
    two = the_file(pack, "two")
    size = write(pack, "two", "three")
    assert sorted(path.name for path in pack.iterdir()) == sorted(
        [pack_manifest.FILE, two.name, the_file(pack, "three").name]
    )
    assert size == sum(path.stat().st_size for path in pack.iterdir())
    assert cute_gemm.load_pack(pack) == 2


@pytest.mark.parametrize("name", ["two", pack_manifest.FILE])
def test_a_pack_whose_writer_is_killed_stays_what_it_was(
    pack: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = pack_writer.replace_file_in

    def killed(directory: int, file: str, content: bytes, mode: int) -> None:
        if file.startswith(name):
            # What is not finished stays, as it does of a process that is killed.
            leftover = os.open(f".{file}.0{storage.TEMPORARY}", os.O_WRONLY | os.O_CREAT, dir_fd=directory)
            os.close(leftover)
            raise KeyboardInterrupt
        replace(directory, file, content, mode)

    monkeypatch.setattr(pack_writer, "replace_file_in", killed)
    with pytest.raises(KeyboardInterrupt):
        write(pack, "one", "two", "three")
    assert cute_gemm.load_pack(pack) == 2
    assert ask("two")[0] == "two"
    # In a new folder there is no pack yet, and the next writer finishes it.
    with pytest.raises(KeyboardInterrupt):
        write(pack.parent / "new", "one", "two")
    monkeypatch.setattr(pack_writer, "replace_file_in", replace)
    for directory, labels in ((pack, ("one", "three")), (pack.parent / "new", ("one", "two"))):
        write(directory, *labels)
        files = {pack_manifest.FILE, *(the_file(directory, each).name for each in labels)}
        assert {path.name for path in directory.iterdir()} == files


@pytest.mark.parametrize("named", ["~nobody_of_this_name/pack", "/nowhere"])
def test_what_the_environment_names_in_vain_breaks_no_call(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, named: str
) -> None:
    monkeypatch.setenv(packs.VARIABLE, named)
    assert ask("one")[0] == "one"
    assert "is not used" in caplog.text


def test_whatever_the_umask_is_others_cannot_write(compiled: list[str], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "pack", "one")
    finally:
        os.umask(before)
    assert cute_gemm.load_pack(tmp_path / "pack") == 1


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_nothing_is_written_where_others_can(pack: Path, compiled: list[str], mode: int) -> None:
    """A pack there would not be read."""
    before = sorted(pack.iterdir())
    pack.chmod(mode)
    with pytest.raises(PackError, match=f"may write to {pack}; mend it by: chmod go-w"):
        write(pack, "three")
    assert sorted(pack.iterdir()) == before
    pack.chmod(0o755)
    pack.parent.chmod(mode | 0o002)
    with pytest.raises(PackError, match=f"it is below {pack.parent}, where anyone may rename"):
        write(pack.parent / "new", "three")
    assert not (pack.parent / "new").exists()


@needs_root
def test_root_writes_nothing_into_another_users_folder(pack: Path, compiled: list[str]) -> None:
    os.chown(pack, SOMEBODY, SOMEBODY)
    for directory in (pack, pack / "new"):
        with pytest.raises(PackError, match="belongs to"):
            write(directory, "three")
    assert not (pack / "new").exists()


def test_what_is_no_pack_is_left_alone(compiled: list[str], tmp_path: Path) -> None:
    note = tmp_path / "folder" / "note"
    note.parent.mkdir()
    note.touch()
    with pytest.raises(PackError, match="is neither empty nor a pack"):
        write(note.parent, "one")
    assert list(note.parent.iterdir()) == [note]


def test_objects_are_not_packed(compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackError, match="there are no packs"):
        pack_writer.write(
            tmp_path / "pack", {"0": compiler.Noted("one", b"\x7fELF object".ljust(20))}, "0.1.0"
        )
    monkeypatch.setattr(host_level, "here", lambda: None)
    with pytest.raises(PackError, match="there are no packs"):
        write(tmp_path / "pack", "one")


def test_what_changes_while_it_is_compiled_is_not_packed(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = dataclasses.replace(sources.read(build), files={str(tmp_path / "gone.py"): "0"})
    with compiler.noting() as noted:
        compiler.instance("mine", build, "mine", changed)
    assert not noted
    assert "gone.py cannot be read any more" in noted.objections["mine"]
    monkeypatch.setattr(pack_writer, "own_parts_changed", lambda: True)
    with pytest.raises(PackError, match="sources of cute_gemm changed"):
        write(tmp_path / "pack", "one")
    assert not (tmp_path / "pack").exists()


def test_the_runtime_that_it_wants_is_what_its_kernels_call(compiled: list[str], tmp_path: Path) -> None:
    kernels = {"0": compiler.Noted("one", image("one"))}
    pack_writer.write(tmp_path / "pack", kernels, "0.1.0")
    assert read(tmp_path / "pack").least_runtime == "4.6.2"
    kernels["1"] = compiler.Noted("two", image("CuteDSLRT_TVMFFISetRaisedCudaError"))
    pack_writer.write(tmp_path / "pack", kernels, "0.1.0")
    assert read(tmp_path / "pack").least_runtime == "4.7.0"


def read(pack: Path) -> pack_manifest.Manifest:
    return pack_manifest.parse((pack / pack_manifest.FILE).read_text())


def test_noting_takes_no_kernel_of_a_pack_and_leaves_the_process_as_it_was(
    pack: Path, compiled: list[str], tmp_path: Path
) -> None:
    cute_gemm.load_pack(pack)
    before = compiler.instance("one", build, "one")
    write(tmp_path / "other", "one")
    assert compiled == ["one"]
    assert compiler.instance("one", build, "one") is before


def test_noting_notes_programs_that_the_process_has_had(pack: Path) -> None:
    program = builder.Program(KernelConfig(64, 64, 4), build, ())
    before = builder.instance(program)
    with compiler.noting() as noted:
        builder.instance(program)
    assert [each.label for each in noted.values()] == [builder.label(program)]
    assert builder.instance(program) is before


def test_what_is_loaded_is_logged(pack: Path, caplog: pytest.LogCaptureFixture) -> None:
    cute_gemm.load_pack(pack)
    with caplog.at_level(logging.DEBUG, "cute_gemm"):
        ask("one")
    assert f"loaded one from the pack {pack}" in caplog.text
