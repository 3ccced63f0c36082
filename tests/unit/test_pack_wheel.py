"""Wheels of packs, as files. tests/compile/test_packs.py installs one."""

from __future__ import annotations

import base64
import csv
import hashlib
import platform
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from cute_gemm.runtime import pack_wheel
from cute_gemm.runtime.pack_errors import PackError

FILES = {"one-0.so": b"\x7fELF one", "manifest.json": b"{}"}
INFO = "acme_kernels-2.1.dist-info"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return pack_wheel.write(tmp_path / "dist", FILES, pack_wheel.named("acme.kernels==2.1", "0.1.0"), "0.1.0")


def test_files_are_where_processes_look_and_are_recorded(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
        assert {each.external_attr >> 16 for each in archive.infolist()} == {0o100644}
    inside = {name.removeprefix("cute_gemm_packs/acme_kernels/") for name in content}
    assert inside == {*FILES, f"{INFO}/METADATA", f"{INFO}/WHEEL", f"{INFO}/RECORD"}
    recorded = {row[0]: row[1:] for row in csv.reader(content[f"{INFO}/RECORD"].decode().splitlines())}
    assert recorded.keys() == content.keys()
    assert recorded.pop(f"{INFO}/RECORD") == ["", ""]
    for name, (digest, size) in recorded.items():
        assert int(size) == len(content[name])
        algorithm, _, encoded = digest.partition("=")
        assert base64.urlsafe_b64decode(encoded + "=") == hashlib.new(algorithm, content[name]).digest()


def test_its_name_and_metadata_agree(wheel: Path) -> None:
    tag = f"py3-none-linux_{platform.machine()}"
    assert wheel.name == f"acme_kernels-2.1-{tag}.whl"
    with zipfile.ZipFile(wheel) as archive:
        metadata, form = (
            Parser().parsestr(archive.read(f"{INFO}/{name}").decode()) for name in ("METADATA", "WHEEL")
        )
    assert (metadata["Name"], metadata["Version"]) == ("acme-kernels", "2.1")
    assert metadata["Requires-Dist"] == "cute-gemm==0.1.0"
    assert (form["Wheel-Version"], form["Root-Is-Purelib"], form["Tag"]) == ("1.0", "false", tag)


def test_equal_packs_are_equal_wheels(wheel: Path) -> None:
    before = wheel.read_bytes()
    pack_wheel.write(wheel.parent, FILES, pack_wheel.named("Acme--Kernels==2.1", "0.1.0"), "0.1.0")
    assert [each.read_bytes() for each in wheel.parent.iterdir()] == [before]


@pytest.mark.parametrize("version", ["1", "0.1.0", "1.0rc1", "2.0.post1", "1.0.dev3", "1.0+cu12.h200"])
def test_versions(version: str) -> None:
    assert pack_wheel.named("a", version) == ("a", version)
    assert pack_wheel.named(f"a==1{version}", "0.1.0") == ("a", f"1{version}")


@pytest.mark.parametrize("version", ["", "v1", "1.", "1.0-1", "1 0", "1.0+", "1.0/2"])
def test_what_are_no_versions(version: str) -> None:
    with pytest.raises(PackError, match="cannot be called"):
        pack_wheel.named(f"a==_{version}", "0.1.0")
    with pytest.raises(PackError, match="cannot be called"):
        pack_wheel.named("a", version)
