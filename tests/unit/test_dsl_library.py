"""Which of the DSL's runtime libraries is taken, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cute_gemm.runtime import dsl_library


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of `sys.path`; the DSL is not imported, and the machine's driver is for CUDA 13.1."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "cutlass", raising=False)
    monkeypatch.setattr(dsl_library, "driver_version", lambda: 13010)
    dsl_library.flavour.cache_clear()
    monkeypatch.setattr(dsl_library, "flavour", dsl_library.flavour.__wrapped__)
    return tmp_path


def install(site: Path, flavour: int, has_library: bool = True) -> Path:
    info = site / f"nvidia_cutlass_dsl_libs_cu{flavour}-4.8.{flavour}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: nvidia-cutlass-dsl-libs-cu{flavour}\nVersion: 4.8.{flavour}\n")
    library = site / f"nvidia_cutlass_dsl/cu{flavour}/lib" / dsl_library.NAME
    library.parent.mkdir(parents=True)
    if has_library:
        library.touch()
    return library


def test_the_one_that_is_installed_is_taken_whatever_the_driver_is(site: Path) -> None:
    library = install(site, 12)
    assert (dsl_library.path(), dsl_library.version()) == (library, "4.8.12")


@pytest.mark.parametrize(("driver", "flavour"), [(13010, 13), (12090, 12), (0, 13)])
def test_of_both_the_newest_for_the_driver_is_taken(
    site: Path, monkeypatch: pytest.MonkeyPatch, driver: int, flavour: int
) -> None:
    libraries = {flavour: install(site, flavour) for flavour in (12, 13)}
    monkeypatch.setattr(dsl_library, "driver_version", lambda: driver)
    assert dsl_library.path() == libraries[flavour]


def test_a_dsl_that_is_imported_has_chosen(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = [install(site, flavour) for flavour in (12, 13)]
    monkeypatch.setitem(sys.modules, "cutlass", SimpleNamespace(CUDA_VERSION=SimpleNamespace(major=12)))
    assert dsl_library.path() == libraries[0]


def test_what_is_missing_or_too_new_is_said(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dsl_library.NoLibraryError, match="the CuTe DSL is not installed"):
        dsl_library.path()
    install(site, 13, has_library=False)
    with pytest.raises(dsl_library.NoLibraryError, match="the CuTe DSL is not installed"):
        dsl_library.path()
    install(site, 12)
    assert dsl_library.flavour() == 12
    (site / "nvidia_cutlass_dsl/cu13/lib" / dsl_library.NAME).touch()
    monkeypatch.setattr(dsl_library, "driver_version", lambda: 11080)
    with pytest.raises(dsl_library.NoLibraryError, match="for CUDA 11, older than"):
        dsl_library.path()


def test_where_it_lies_elsewhere_the_dsl_is_asked(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for which CUDA it is, and of which version."""
    library = site / "elsewhere" / dsl_library.NAME
    libraries = [str(library)]
    (site / "cutlass" / "cute").mkdir(parents=True)
    (site / "cutlass" / "__init__.py").write_text("class CUDA_VERSION:\n    major = 14\n")
    (site / "cutlass" / "cute" / "__init__.py").touch()
    (site / "cutlass" / "cute" / "runtime.py").write_text(
        f"def find_runtime_libraries(*, enable_tvm_ffi):\n    return {libraries}\n"
    )
    for name in [each for each in sys.modules if each.startswith("cutlass")]:
        monkeypatch.delitem(sys.modules, name)
    try:
        assert dsl_library.flavour() == 14
        with pytest.raises(dsl_library.NoLibraryError, match="cu14 is not installed"):
            dsl_library.version()
        with pytest.raises(dsl_library.NoLibraryError, match=f"installed without its {dsl_library.NAME}"):
            dsl_library.path()
        library.parent.mkdir()
        library.touch()
        assert dsl_library.path() == library
        info = site / "nvidia_cutlass_dsl-4.9.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: nvidia-cutlass-dsl\nVersion: 4.9.0\n")
        assert dsl_library.version() == "4.9.0"
    finally:
        for name in [each for each in sys.modules if each.startswith("cutlass")]:
            del sys.modules[name]
