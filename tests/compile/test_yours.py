"""The tutorials of examples/yours: what they are compiled to, as files and as cells of a notebook.

Kernels of most are compiled, and one runs to its end as a cell; with `--exhaustive` all.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
from levels import cases
from tutorials import NAMES, load, run_cell

from cute_gemm import runtime
from cute_gemm.kernels.gemm_fp8_1d2d import Fp8Gemm1D2D
from cute_gemm.runtime import KernelStats, Program, cache
from cute_gemm.testing import programs

FEW = ("02_scheduler",)
MANY_KERNELS = "03_mainloop"
ARITHMETIC = "FFMA", "FMUL", "FADD", "FFMA2"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        all_of = metafunc.config.getoption("exhaustive")
        metafunc.parametrize("cell", NAMES if all_of else [name for name in NAMES if name in FEW])


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(programs, "is_hopper", lambda: False)
    monkeypatch.setattr("sys.argv", ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"])


def test_a_cell_runs_to_its_end(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope = run_cell(cell)
    out = capsys.readouterr().out
    for program in {trial.program for trial in scope["TUTORIAL"].trials}:
        titles = [trial.title for trial in scope["TUTORIAL"].trials if trial.program is program]
        assert f"{titles[0]} for sm_90a: 168 registers, " in out
    assert out.count("no spills") == len({trial.program for trial in scope["TUTORIAL"].trials})
    assert out.endswith("There is no Hopper GPU here: all of it was compiled, and not run.\n")


@functools.cache
def stats_of(name: str) -> dict[str, KernelStats]:
    """What each kernel is compiled to, by its first trial's title."""
    found: dict[Program, str] = {}
    for trial in load(name).TUTORIAL.trials:
        found.setdefault(trial.program, trial.title)
    return {title: runtime.examine(program) for program, title in found.items()}


def loops(stats: KernelStats) -> set[tuple[int, int]]:
    """WGMMAs and FP32 operations of loops over k-blocks."""
    found = [each for each in stats.loops if each.count("QGMMA") and not each.count("UTMASTG", "STG")]
    return {(each.count("QGMMA"), each.count(*ARITHMETIC)) for each in found}


@pytest.mark.parametrize("name", cases(NAMES, usual={*NAMES} - {MANY_KERNELS, "02_scheduler"}))
def test_nothing_spills_and_what_is_compared_has_the_same_tile(name: str) -> None:
    configs = {trial.program.config for trial in load(name).TUTORIAL.trials}
    assert len({(each.block_m, each.block_n, each.stages, each.cluster_size) for each in configs}) == 1
    for stats in stats_of(name).values():
        assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)


def test_the_function_is_applied_to_each_element_and_not_in_the_main_loop() -> None:
    plain, own = stats_of("01_epilogue").values()
    # Of 64 x 128 sums a thread has 64.
    assert (plain.count("MUFU.TANH"), own.count("MUFU.TANH")) == (0, 64)
    assert loops(own) == loops(plain)


def test_the_main_loop_of_another_scheduler_is_the_same() -> None:
    plain, own = stats_of("02_scheduler").values()
    assert loops(own) == loops(plain)


@pytest.mark.thorough
def test_promotion_is_where_the_mainloop_has_it() -> None:
    library, every_256, every_512, once = stats_of(MANY_KERNELS).values()
    # A k-block is 4 WGMMAs; to promote 64 elements takes as many operations, and scales take a few.
    assert any(wgmma == 16 and 256 <= others < 270 for wgmma, others in loops(library))
    for stats, promoted in ((every_256, True), (every_512, True), (once, False)):
        found = loops(stats)
        assert any(wgmma == 4 and others < 8 for wgmma, others in found)
        assert any(wgmma == 8 and 64 <= others < 72 for wgmma, others in found) == promoted
        # The compiler has put no waits of its own between WGMMAs.
        assert stats.count("WARPGROUP.DEPBAR") == stats.count("QGMMA") // 4


def test_scales_are_out_of_the_main_loop() -> None:
    library, own = (stats.main_loop for stats in stats_of("04_scaling").values())
    assert library is not None
    assert own is not None
    assert (library.count("FFMA"), library.count("FADD")) == (256, 0)
    assert (own.count("FFMA", "FMUL"), own.count("FADD")) == (0, 256)
    assert library.count("SHFL") > own.count("SHFL") == 0
    assert library.count("LDG") > own.count("LDG") == 0


def test_tutorials_change_no_part_of_the_package() -> None:
    def attributes() -> dict[str, Any]:
        return dict(vars(Fp8Gemm1D2D))

    before = attributes()
    for name in NAMES:
        load(name)
    assert attributes() == before
