"""The kernel whose roles write the clock is the library's, but for the clock, and nothing of it spills."""

import importlib
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from cute_gemm import runtime
from cute_gemm.runtime import cache, lookup

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
clocked_kernel, clocked_roles = map(importlib.import_module, ("clocked_kernel", "clocked_roles"))

pytestmark = pytest.mark.thorough

WORK = "QGMMA", "FFMA", "SHFL", "LDG", "WARPGROUP"


def test_its_main_loop_does_what_it_does_without_marks() -> None:
    config = lookup.find_config(clocked_roles.CONFIG)
    plain, marked = runtime.examine(config), runtime.examine(clocked_kernel.clocked(config))
    assert (marked.stack_bytes, marked.local_loads, marked.local_stores) == (0, 0, 0)
    assert marked.registers == plain.registers
    own, other = marked.main_loop, plain.main_loop
    assert own is not None
    assert other is not None
    assert {each: own.count(each) for each in WORK} == {each: other.count(each) for each in WORK}
    # Of each k-block: the wait begins and ends, and of each fragment WGMMAs and promotion end.
    marks = config.stages * (2 + 2 * config.fragments)
    assert (own.count("CS2R.32"), own.count("STG")) == (marks, marks)
    assert (other.count("CS2R.32"), other.count("STG")) == (0, 0)


def test_between_two_marks_is_what_they_are_said_to_enclose() -> None:
    """The compiler has moved no WGMMA, wait or FFMA of a promotion over a mark."""
    config = lookup.find_config(clocked_roles.CONFIG)
    stats = runtime.examine(clocked_kernel.clocked(config))
    loop = stats.main_loop
    assert loop is not None
    code = stats.code[loop.start // 16 : loop.end // 16]
    places = [i for i, opcode in enumerate(code) if opcode.startswith("CS2R.32")]
    parts = [code[begin:end] for begin, end in pairwise(places)]
    counts = [
        tuple(sum(opcode.split(".")[0] == name for opcode in part) for name in ("QGMMA", "FFMA"))
        for part in parts
    ]
    # From the wait on: two fragments, then the way to the next wait.
    k_block = [(0, 0), (4, 0), (0, 64), (4, 0), (0, 64), (0, 0)]
    assert counts == (k_block * config.stages)[:-1]


def test_without_a_gpu_it_is_compiled_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(clocked_roles, "is_hopper", lambda: False)
    clocked_roles.main(["--out", str(tmp_path / "rows.jsonl")])
    out = capsys.readouterr().out
    assert out.count("no spills") == 2
    assert out.endswith("There is no Hopper GPU here: it was compiled, and not run.\n")
    assert not (tmp_path / "rows.jsonl").exists()
