"""Which distribution counts, where several have one name or one is damaged."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from cute_gemm.runtime import distributions


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two, ``first`` and ``second``, that are all of `sys.path`."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder) for folder in folders])
    return tmp_path


def install(folder: Path, name: str, version: str, content: bytes | None = None) -> None:
    """Metadata as pip leaves it, or ``content`` in its place."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: 0, as the text says.\n"
    (info / "METADATA").write_bytes(text.encode() if content is None else content)


def test_names_are_normalised_sorted_and_chosen_by_pattern(site: Path) -> None:
    for name, version in {
        "b_dsl.Libs": "2.0",
        "b-dsl": "1.0",
        "A": "3.0",
        "c": "4.0",
        "c-b-dsl": "5.0",
    }.items():
        install(site / "first", name, version)
    found = distributions.versions("b-dsl*", "a", "missing")
    assert list(found.items()) == [("a", "3.0"), ("b-dsl", "1.0"), ("b-dsl-libs", "2.0")]
    assert distributions.versions() == {}


@pytest.mark.parametrize(("first", "second"), [("4.8.1", "4.7.0"), ("4.7.0", "4.8.1")])
def test_of_two_with_one_name_the_first_on_the_path_counts(site: Path, first: str, second: str) -> None:
    install(site / "first", "dsl", first)
    install(site / "second", "dsl", second)
    assert distributions.versions("dsl") == {"dsl": first}


@pytest.mark.parametrize("damaged", [b"", b"\xff\xfe", b"Version: 4.7.0\n", b"Name: dsl\n", b"Name: other\n"])
def test_what_has_no_readable_metadata_does_not_count(site: Path, damaged: bytes) -> None:
    install(site / "first", "dsl", "4.7.0", damaged)
    install(site / "second", "dsl", "4.8.1")
    (site / "first" / "empty-1.0.dist-info").mkdir()
    (site / "first" / "folder-1.0.dist-info" / "METADATA").mkdir(parents=True)
    (site / "first" / "a_file-1.0.dist-info").touch()
    assert distributions.versions("*") == {"dsl": "4.8.1"}


def test_what_pip_could_not_remove_does_not_count(site: Path) -> None:
    """It is renamed, ``~sl-4.7.0.dist-info``, and its metadata has the name it had."""
    for name in ("dsl", "gone"):
        install(site / "first", f"~{name[1:]}", "4.7.0", f"Name: {name}\nVersion: 4.7.0\n".encode())
    install(site / "second", "dsl", "4.8.1")
    assert distributions.versions("*") == {"dsl": "4.8.1"}


def test_metadata_is_read_of_what_is_asked_for_alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of what is installed would take longer than to load a kernel."""
    for name in ("dsl", "dsl-libs", "other"):
        install(site / "first", name, "4.8.1")
    install(site / "second", "dsl-core", "4.8.1", b"Name: another\nVersion: 1.0\n")
    real, asked = metadata.distributions, []
    monkeypatch.setattr(
        metadata, "distributions", lambda **named: asked.append(named.get("name")) or real(**named)
    )
    assert distributions.versions("dsl*") == {"dsl": "4.8.1", "dsl-libs": "4.8.1"}
    assert asked == ["dsl", "dsl-core", "dsl-libs"]
