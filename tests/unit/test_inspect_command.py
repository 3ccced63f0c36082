"""`cute-gemm inspect` of a configuration and of a kernel of one's own: what it finds, and what it refuses."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cute_gemm import cli
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import InspectionError, Program, lookup
from cute_gemm.runtime.inspection import KernelStats
from cute_gemm.runtime.lookup import find_config, find_program

Run = Callable[..., tuple[int, str, str]]

FILE = """
from beside import CONFIG

from cute_gemm.runtime import build

kernels = {}


def program():
    return build(CONFIG)


class Place:
    config = CONFIG


nothing = 7
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file, and one that lies beside it."""
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "beside.py").write_text(
        "from cute_gemm.plan.config import KernelConfig\nCONFIG = KernelConfig(64, 64, 4)\n"
    )
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_a_configuration_is_found_by_its_name() -> None:
    for config in candidates.every_config()[::97]:
        assert find_config(config.name) is config or find_config(config.name) == config
    with pytest.raises(InspectionError, match="no candidate is named 7x7"):
        find_config("7x7")


def test_a_program_is_found_by_where_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_program(f"{file}:program")
    assert isinstance(found, Program)
    assert find_program(f"{file}:Place.config") == KernelConfig(64, 64, 4) == found.config
    monkeypatch.syspath_prepend(file.parent)
    assert isinstance(find_program("mine:program"), Program)


def test_a_file_is_executed_once_as_long_as_it_is_what_it_was(file: Path) -> None:
    """Of a warm-up, for which each kernel has its epilogue looked for."""
    beside = file.with_name("counted.py")
    beside.write_text("times = []\n")
    file.write_text(f"import counted\ncounted.times.append(1)\n{FILE}")
    find_program(f"{file}:Place.config")
    path = [*sys.path]
    assert isinstance(find_program(f"{file}:program"), Program)
    counted = sys.modules["counted"]
    assert counted.times == [1]
    assert sys.path == path
    file.write_text(f"{file.read_text()}# Edited\n")
    find_program(f"{file}:Place.config")
    assert counted.times == [1, 1]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("program", "want module:attribute or file.py:attribute"),
        ("{file}:other", "mine.py has no other"),
        ("{file}:nothing", "is of type int; want a Program"),
        ("nowhere.py:program", "cannot import nowhere.py"),
        ("no_such_module_at_all:program", "cannot import no_such_module_at_all"),
    ],
)
def test_what_is_no_program_is_refused(file: Path, where: str, message: str) -> None:
    with pytest.raises(InspectionError, match=message):
        find_program(where.format(file=file))


@pytest.mark.parametrize("option", ["--config", "--kernel"])
def test_tables_of_what_is_named(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    examined: list[Any] = []

    def examine(of: Any) -> KernelStats:
        examined.append(of)
        return KernelStats("k", 168, 1024, 48, (), ())

    monkeypatch.setattr(lookup, "examine", examine)
    config = KernelConfig(64, 64, 4)
    monkeypatch.setattr(lookup, "find_config", {"mine": config}.__getitem__)
    status, out, err = run("inspect", option, "mine" if option == "--config" else f"{file}:program")
    assert status == 0, err
    assert "Compiled kernel 64x64_c1x1_s4_bf16" in out
    assert f"{config.smem_bytes:,} bytes" in out
    assert "48 bytes" in out
    assert [getattr(each, "config", each) for each in examined] == [config]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--m", 8],
        ["--config", "a", "--kernel", "b:c"],
        ["--m", 8, "--n", 8, "--k", 16, "--config", "a"],
    ],
    ids=str,
)
def test_one_thing_is_inspected_at_a_time(run: Run, arguments: list[Any]) -> None:
    status, _, err = run("inspect", *arguments)
    assert status == 1
    assert "want a shape, by --m, --n and --k, or --config, or --kernel" in err


def test_what_is_not_found_is_said_in_a_line(run: Run) -> None:
    for arguments in (["--config", "7x7"], ["--config", ""], ["--kernel", ""]):
        status, _, err = run("inspect", *arguments)
        assert (status, err.count("\n")) == (1, 1)
        assert "unexpected" not in err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "cannot import {file}: ZeroDivisionError"),
        ("import sys; sys.exit(7)", "cannot import {file}: SystemExit: 7"),
        ("def f(:", "cannot import {file}: SyntaxError"),
        ("def program(): raise KeyError(1)", "cannot call {file}:program: KeyError: 1"),
        (
            "class A:\n    @property\n    def b(self): 1 / 0\nprogram = A()",
            "{file}:program.b cannot be compiled",
        ),
    ],
)
def test_code_of_an_author_that_raises(run: Run, tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    status, _, err = run("inspect", "--kernel", f"{file}:{'program.b' if 'A()' in code else 'program'}")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith(f"cute-gemm: {message.format(file=file)}")
