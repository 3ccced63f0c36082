"""Parts of a user's own, in files and cells, through public names: compiled, found, compiled anew."""

import importlib
import linecache
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import cases

from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import Program, build, builder, cache, compiler, cubin, examine, instance
from cute_gemm.testing import Extents, Rows, assert_each_tile_once, make_inputs, walk

CONFIG = KernelConfig(64, 64, 4)

SCHEDULER = """
from dataclasses import dataclass, replace

import cutlass.cute as cute
from cutlass import Int32

from cute_gemm.schedulers.dense import DenseScheduler


@dataclass(frozen=True)
class Backwards(DenseScheduler):
    \"\"\"The tiles of a dense schedule, from the last to the first.\"\"\"

    @cute.jit
    def work(self, index: Int32, rank_m: Int32, rank_n: Int32):
        total = self.bands.m_tiles * self.bands.n_tiles
        tile = DenseScheduler.work(self, total - 1 - index % total, rank_m, rank_n)
        return replace(tile, index=index, is_valid=index < total)
"""
STORE = """
from dataclasses import dataclass

import cutlass.cute as cute

import meetings
from cute_gemm.kernels.epilogue import TmaStore


@dataclass(frozen=True)
class MeetingStore(TmaStore):
    \"\"\"Has the threads of a warpgroup meet before it stores.\"\"\"

    @cute.jit
    def __call__(self, *arguments):
        meetings.meet()
        TmaStore.__call__(self, *arguments)
"""
MEETINGS = """
import cutlass.cute as cute

NUMBER = 12


def meet():
    cute.arch.barrier(barrier_id=NUMBER, number_of_threads=128)
"""
FILES = {"mine/__init__.py": "", "mine/order.py": SCHEDULER, "mine_store.py": STORE, "meetings.py": MEETINGS}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> Iterator[Path]:
    """A user's files, which can be imported, and an empty cache."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG, logger="cute_gemm")
    new_process(monkeypatch)
    yield tmp_path
    new_process(monkeypatch)


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine", "mine.order", "mine_store", "meetings"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    linecache.clearcache()
    monkeypatch.setattr(compiler, "_loaded", {})
    builder._instances.clear()


def meeting() -> Program:
    return build(CONFIG, store=importlib.import_module("mine_store").MeetingStore)


def backwards() -> Program:
    return build(CONFIG, scheduler=importlib.import_module("mine.order").Backwards)


def happened(caplog: pytest.LogCaptureFixture) -> str:
    """What was done for a kernel, since this was last asked."""
    text = caplog.text
    caplog.clear()
    return "compiled" if "compiling" in text else "loaded" if "loaded" in text else "nothing"


def test_a_users_scheduler_runs_in_this_packages_kernel(folder: Path) -> None:
    program = backwards()
    found = examine(program)
    assert found.count("QGMMA") > 0
    assert (found.stack_bytes, found.local_loads) == (0, 0)
    assert found.code != examine(CONFIG).code
    schedule = walk(program.kernel.scheduler, Extents(200, 136, num_sms=7))
    assert schedule.tiles[0].row == 192
    assert_each_tile_once(schedule, [Rows(0, 0, 0, 200)])


def test_a_users_store_and_what_it_imports_is_in_the_code(folder: Path) -> None:
    assert examine(meeting()).count("BAR") == examine(CONFIG).count("BAR") + 1


def test_a_program_is_compiled_once_and_found_by_the_next_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = meeting()
    first = instance(program)
    assert happened(caplog) == "compiled"
    assert instance(program) is first
    # Another object that is made of the same, after the DSL has rewritten functions of the first.
    assert instance(meeting()) is first
    assert happened(caplog) == "nothing"
    # So are the functions of another kernel with the same part.
    instance(build(KernelConfig(64, 64, 5), store=importlib.import_module("mine_store").MeetingStore))
    assert cache.cache_info().kernels == 2
    new_process(monkeypatch)
    caplog.clear()
    cubin(program := meeting())
    assert happened(caplog) == "compiled"
    instance(program)
    assert happened(caplog) == "loaded"
    assert cache.cache_info().kernels == 2
    own = {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}", "PYTHONHASHSEED": "7"}
    script = folder / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, script], env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "loaded 64x64_c1x1_s4_bf16 with MeetingStore from" in ran.stderr
    assert "compiling" not in ran.stderr


SCRIPT = """
import logging
import mine_store
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import build, instance

logging.basicConfig(format="%(message)s")
logging.getLogger("cute_gemm").setLevel(logging.DEBUG)
instance(build(KernelConfig(64, 64, 4), store=mine_store.MeetingStore))
"""

EDITS = {
    "a store in a second file": ("mine_store.py", "meetings.meet()", "meetings.meet(); meetings.meet()"),
    "a helper two imports away": ("meetings.py", "=NUMBER,", "=NUMBER + 1,"),
    "a constant two imports away": ("meetings.py", "NUMBER = 12", "NUMBER = 13"),
}


@pytest.mark.parametrize("edit", cases(EDITS, usual=["a constant two imports away"]))
def test_what_is_edited_is_compiled_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, edit: str
) -> None:
    instance(meeting())
    name, old, new = EDITS[edit]
    (folder / name).write_text(FILES[name].replace(old, new))
    new_process(monkeypatch)
    caplog.clear()
    instance(meeting())
    assert happened(caplog) == "compiled"
    assert cache.cache_info().kernels == 2


def test_a_file_edited_after_its_import_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = meeting()
    (folder / "meetings.py").write_text(MEETINGS.replace("=NUMBER,", "=7,"))
    instance(program)
    assert cache.cache_info().kernels == 0
    assert caplog.text.count("did not keep 64x64_c1x1_s4_bf16 with MeetingStore on disk") == 1
    assert "meetings.py is not what this process imported: meet differs" in caplog.text


CELL = """
from dataclasses import dataclass

import cutlass.cute as cute

from cute_gemm.kernels.epilogue import TmaStore
from cute_gemm.kernels.gemm_fp8_1d2d import Fp8Gemm1D2D

NUMBER = 12

class MyKernel(Fp8Gemm1D2D):
    pass

@dataclass(frozen=True)
class MyStore(TmaStore):
    @cute.jit
    def __call__(self, *arguments):
        cute.arch.barrier(barrier_id=NUMBER, number_of_threads=128)
        TmaStore.__call__(self, *arguments)
"""


def run_cell(text: str, number: int) -> Program:
    """As a notebook does: no file, but source for whoever asks linecache."""
    name = f"/nowhere/ipykernel_{os.getpid()}/{number}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), scope)
    return build(CONFIG, kernel=scope["MyKernel"], store=scope["MyStore"])


@pytest.mark.thorough
def test_a_cell_of_a_notebook(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_cell(CELL, 1)
    instance(first)
    assert happened(caplog) == "compiled"
    assert examine(first).count("BAR") == examine(CONFIG).count("BAR") + 1
    # Run again, it is the same; edited, another.
    caplog.clear()
    instance(run_cell(CELL, 2))
    assert happened(caplog) == "nothing"
    instance(run_cell(CELL.replace("NUMBER = 12", "NUMBER = 13"), 3))
    assert happened(caplog) == "compiled"
    instance(run_cell(CELL.replace("cute.arch.barrier", "cute.arch.sync_threads(); cute.arch.barrier"), 4))
    assert happened(caplog) == "compiled"
    assert cache.cache_info().kernels == 3
    new_process(monkeypatch)
    instance(run_cell(CELL, 5))
    assert happened(caplog) == "loaded"


PRODUCTS = """
from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32

from cute_gemm.kernels.epilogue import Identity


@dataclass(frozen=True)
class Products(Identity):
    \"\"\"Eight columns times the next eight.\"\"\"

    unit: ClassVar[int] = 16

    def out_columns(self, n):
        return n // 2

    @cute.jit
    def __call__(self, sums, place, operands, fetched):
        out = cute.make_rmem_tensor(cute.size(sums) // 2, Float32)
        for eights in cutlass.range_constexpr(cute.size(sums) // 8):
            for i in cutlass.range_constexpr(4):
                out[4 * eights + i] = sums[8 * eights + i] * sums[8 * eights + 4 + i]
        return out
"""


def test_a_value_may_make_fewer_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "products.py").write_text(PRODUCTS)
    products = importlib.import_module("products")
    program = build(KernelConfig(64, 128, 4), value=products.Products())
    found = examine(program)
    # One product for each two sums, stored by half as many chunks as there are sums.
    assert found.count("FMUL") >= 64 * 64 // 128
    assert (found.count("UTMASTG"), found.stack_bytes) == (1, 0)
    lhs, rhs = make_inputs(70, 256, 256)
    with pytest.raises(ValueError, match=r"mB: Tensor\(\[n3, .* mD: Tensor\(\[n0, n5\]"):
        instance(program)(*lhs, *rhs, torch.empty(70, 128, dtype=torch.bfloat16), 132, 0, 0, 0)


def test_a_kernel_that_spills_is_named(folder: Path) -> None:
    config = KernelConfig(256, 192, 3)
    with pytest.warns(compiler.KernelWarning, match=f"{config.name} keeps .* in local memory, with 168"):
        cubin(config)


def test_shared_memory_that_is_not_there_is_refused_before_compiling(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = KernelConfig(256, 128, 5)
    with pytest.raises(ValueError, match=f"cannot be built: it takes {config.smem_bytes} bytes"):
        build(config)
    with pytest.raises(ValueError, match=f"{config.name} cannot be built: it takes .* bytes"):
        instance(config)
    # Of a part that is not known, when it has been compiled.
    program = build(config, store=importlib.import_module("mine_store").MeetingStore)
    with pytest.raises(ValueError, match=f"{config.name} with MeetingStore takes .* bytes of shared"):
        cubin(program)


def test_symbols_that_are_shared_differ_from_symbols_that_are_not() -> None:
    """M of A is that of D; were it another, the kernel's host code would not compare them."""
    from cutlass import Float32, cute
    from cutlass.cute.runtime import make_fake_tensor

    def digest(*extents: Any, align: int = 16) -> str:
        tensors = tuple(make_fake_tensor(Float32, (each,), (1,), assumed_align=align) for each in extents)
        return Program(CONFIG, build, tensors).sources.digest

    m, n, k = (cute.sym_int32() for _ in range(3))
    assert digest(m, n) == digest(n, k)
    assert digest(m, m) != digest(m, n)
    assert digest(m, n, align=4) != digest(m, n)
    assert digest(cute.sym_int32(divisibility=8), n) != digest(m, n)
