"""For which CPUs host code is, and which run it."""

from __future__ import annotations

import io
import platform
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.runtime import host_level


@pytest.fixture(params=list(host_level.LEVELS))
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> host_level.HostLevel:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return host_level.LEVELS[request.param]


def says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Has the file that describes CPUs say that."""

    def opens(path: Path, *_: Any) -> io.StringIO:
        return io.StringIO(text)

    monkeypatch.setattr(Path, "open", opens)


def test_a_cpu_is_judged_by_what_linux_says(
    level: host_level.HostLevel, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = "Features" if level.cpu == "generic" else "flags"
    says(
        monkeypatch, f"processor : 0\n{field}\t\t: fpu {' '.join(level.flags)} avx\nprocessor : 1\n{field}: x"
    )
    assert host_level.why_unfit(level.name) == ""
    less, *others = sorted(level.flags)
    says(monkeypatch, f"{field}\t\t: fpu {' '.join(others)} avx\n")
    assert host_level.why_unfit(level.name) == f"this CPU lacks {less} of {level.name}"


def test_a_level_of_another_machine_is_refused(level: host_level.HostLevel) -> None:
    other = next(each for each in host_level.LEVELS.values() if each is not level)
    found = f"it is for {other.name}, and this CPU is {platform.machine()}"
    assert host_level.why_unfit(other.name) == found


def test_where_nothing_is_said_nothing_is_held_against_a_cpu(
    level: host_level.HostLevel, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, "")
    assert host_level.why_unfit(level.name) == ""


def test_this_machine_runs_what_it_compiles() -> None:
    here = host_level.here()
    assert here is not None
    assert host_level.why_unfit(here.name) == ""


def test_a_machine_of_no_level_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert host_level.here() is None
    assert "this CPU is riscv64" in host_level.why_unfit("x86-64-v2")
