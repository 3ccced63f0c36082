"""Rungs of the ladder compile without spills, to the instructions that their texts are about.

With `--exhaustive` all of them, else some.
"""

import ast
import functools
import re
from importlib import metadata
from pathlib import Path

import pytest
from modules import load

from cute_gemm.runtime.inspection import KernelStats, read_cubin
from cute_gemm.testing import rungs

RUNGS = sorted((Path(__file__).parents[2] / "examples" / "ladder").glob("*.py"))
FEW = "01_hello", "03_swizzle", "04_wgmma"

LOADED, PROMOTED = {"UTMALDG": 2, "QGMMA": 4}, {"QGMMA": 4, "FFMA": 64}
REALLOCATED = PROMOTED | {"USETMAXREG": 2}
STORED = REALLOCATED | {"STSM": 8, "UTMASTG": 1}
SHARED = STORED | {"UTMALDG.2D.MULTICAST": 1}
ABOUT = {
    "01_hello": {"LDG": 8, "FFMA": 4, "STG": 4},
    "02_tma": {"UTMALDG": 1, "UTMASTG": 1, "SYNCS.ARRIVE": 1, "SYNCS.PHASECHK": 1},
    "03_swizzle": {"UTMALDG": 1, "LDS.128": 16},
    "04_wgmma": LOADED | {"STG": 32},
    "05_k_loop": LOADED,
    "06_promotion": PROMOTED,
    "07_ring": PROMOTED | {"UTMALDG": 2},
    "08_warp_specialization": REALLOCATED,
    "09_two_warpgroups": REALLOCATED,
    "10_epilogue": STORED,
    "11_persistence": STORED,
    "12_cluster": SHARED,
    "13_scales": SHARED | {"UTMALDG": 3},
    "14_split_k": LOADED | {"FFMA": 32, "UCGABAR_ARV": 1},
    "15_big_tile": SHARED | {"QGMMA": 32, "FFMA": 512},
    "16_library": SHARED | {"UTMALDG": 3, "QGMMA": 32, "FFMA": 512},
    "17_two_scales": REALLOCATED
    | {"UTMALDG": 4, "UTMALDG.2D.MULTICAST": 2, "QGMMA": 32, "FMUL": 512, "FFMA": 512, "LDS.64": 128},
}
"""How many instructions of a kind there are at least."""

COUNTED_OF, INSTRUCTION_BYTES = "4.8.1", 16

NONE_OF = {
    "01_hello": ("LDS", "STS", "BAR"),
    "02_tma": ("LDG", "STG", "LDS", "STS"),
    "03_swizzle": ("LDG", "STS"),
    "04_wgmma": ("LDG", "LDS", "STS", "FFMA", "FADD"),
    "17_two_scales": ("LDL", "STL", "LDG", "STSM"),
}
"""What the text says that there is none of."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        all_of = metafunc.config.getoption("exhaustive")
        paths = [path for path in RUNGS if all_of or path.stem in FEW]
        metafunc.parametrize("path", paths, ids=[path.stem for path in paths])


@functools.cache
def stats_of(path: Path) -> list[KernelStats]:
    """Of the rung's kernel, and of those beside it."""
    rung = load(path).RUNG
    return [read_cubin(each.cubin()) for each in (rung, *rung.beside)]


def test_all_rungs_say_what_they_are_about() -> None:
    assert [path.stem for path in RUNGS if path.stem not in ABOUT] == []


def test_a_rung_compiles_to_what_its_text_is_about(path: Path) -> None:
    for stats in stats_of(path):
        assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
        found = {opcode: stats.count(opcode) for opcode in ABOUT[path.stem]}
        assert {opcode: n for opcode, n in found.items() if n < ABOUT[path.stem][opcode]} == {}
        assert stats.count(*NONE_OF.get(path.stem, ("LDL", "STL"))) == 0


def test_as_many_instructions_are_in_the_loop_as_the_text_says(path: Path) -> None:
    """As the DSL compiled it that they were counted of: another may make fewer or more."""
    told = re.search(r"(\d+) instructions", ast.get_docstring(ast.parse(path.read_text())) or "")
    if told is None or metadata.version("nvidia-cutlass-dsl") != COUNTED_OF:
        pytest.skip("counts nothing, or of another DSL")
    loop = next(each for each in stats_of(path)[0].loops if each.count("QGMMA"))
    assert int(told[1]) == (loop.end - loop.start) // INSTRUCTION_BYTES + 1


def test_its_command_compiles_it_where_there_is_no_gpu(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rungs, "is_hopper", lambda: False)
    rungs.climb(load(path).RUNG, [])
    assert "no spills" in (told := capsys.readouterr().out)
    assert told.endswith("There is no Hopper GPU here: it was compiled, and not run.\n")
