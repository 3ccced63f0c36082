"""Reading compiled kernels: resources, instruction counts, loops, and what happens without the tools."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from cute_gemm.runtime import inspection
from cute_gemm.runtime.inspection import InspectionError, KernelStats, Loop, read_cubin

# Compiled in a process of its own: the DSL reads its environment at import, and may be imported here already.
COMPILE = """
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.runtime import make_fake_compact_tensor

from cute_gemm.dsl import SmemAllocator

@cute.kernel
def power(x: cute.Tensor, steps: Int32):
    tid, _, _ = cute.arch.thread_idx()
    smem = SmemAllocator()
    shared = smem.allocate_tensor(Float32, cute.make_layout(64))
    shared[tid] = x[tid]
    cute.arch.sync_threads()
    value = shared[63 - tid]
    for _ in cutlass.range(steps, unroll=1):
        value = value * value + Float32(1.5)
    x[tid] = value

@cute.jit
def host(x: cute.Tensor, steps: Int32):
    power(x, steps).launch(grid=(1, 1, 1), block=(64, 1, 1))

x = make_fake_compact_tensor(Float32, (cute.sym_int(),))
cute.compile(host, x, Int32(1))
"""


ORDER = "LDG", "STS", "BAR", "LDS", "STG"


@pytest.fixture(scope="module")
def cubin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubin")
    script = folder / "power.py"
    script.write_text(COMPILE)
    environment = os.environ | {"CUTE_DSL_ARCH": "sm_90a", "CUTE_DSL_KEEP": "cubin"}
    subprocess.run([sys.executable, script], check=True, cwd=folder, env=environment, timeout=300)
    (image,) = folder.glob("*.cubin")
    return image.read_bytes()


@pytest.fixture(scope="module")
def stats(cubin):
    return read_cubin(cubin)


def test_resources(stats):
    assert "power" in stats.name
    assert 4 <= stats.registers <= 32
    assert stats.stack_bytes == 0
    assert (stats.local_loads, stats.local_stores) == (0, 0)


def test_instruction_counts(stats):
    # One load from and one store to global memory, and the same of shared memory.
    assert stats.count("LDG") == stats.count("STG") == stats.count("LDS") == stats.count("STS") == 1
    assert stats.instructions["LDG"] == 1
    assert stats.instructions.total() == stats.opcodes.total() > 10
    assert Counter(stats.code) == stats.opcodes
    places = [next(i for i, opcode in enumerate(stats.code) if opcode.startswith(name)) for name in ORDER]
    assert places == sorted(places)


def test_loop(stats):
    # The exit's trap branches to itself and is no loop.
    (loop,) = stats.loops
    assert loop.count("FFMA") == 1
    assert loop.count("LDG", "STG", "LDS", "STS") == 0
    assert 0 < loop.start < loop.end
    assert stats.main_loop is None


def test_opcodes_match_by_whole_components():
    counts = Counter({"LDG.E": 3, "LDGSTS.E": 5, "LDG": 7, "WARPGROUP.DEPBAR.LE": 2, "WARPGROUP.ARRIVE": 1})
    stats = KernelStats("k", 8, 0, 0, tuple(counts.elements()), ())
    assert stats.count("LDG") == 10
    assert stats.count("WARPGROUP.DEPBAR") == 2
    assert stats.count("WARPGROUP") == 3
    assert stats.count("LDG", "LDGSTS") == 15
    assert stats.instructions["WARPGROUP"] == 3


def test_main_loop_is_dense_in_tensor_work_and_has_most_of_it():
    persistent = Loop(0, 900, Counter({"QGMMA.64x128x32": 12}))
    steady = Loop(100, 500, Counter({"QGMMA.64x128x32": 8}))
    last_block = Loop(600, 790, Counter({"QGMMA.64x128x32": 4}))
    spin = Loop(200, 220, Counter({"SYNCS": 1}))
    stats = KernelStats("k", 168, 0, 0, (), (spin, steady, last_block, persistent))
    assert stats.main_loop is steady


def test_not_a_cubin():
    with pytest.raises(InspectionError, match="could not read the cubin"):
        read_cubin(b"not an ELF file")


def test_missing_tool_names_the_package(monkeypatch):
    monkeypatch.setattr(inspection.metadata, "distributions", lambda name: [])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InspectionError, match="pip install nvidia-cuda-cuobjdump"):
        read_cubin(b"")


@pytest.mark.parametrize("record", [None, "nvidia/bin/cuobjdump,,\n"], ids=["no list", "a file gone"])
def test_the_rest_of_a_wheel_does_not_hide_the_wheel(monkeypatch, tmp_path, record):
    rest = tmp_path / "nvidia_cuda_cuobjdump-13.0.dist-info"
    rest.mkdir()
    if record:
        (rest / "RECORD").write_text(record)
    found = inspection._find_tool("cuobjdump")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert inspection._find_tool("cuobjdump") == found


def test_tool_on_path_serves_without_the_wheel(monkeypatch, tmp_path, cubin):
    for tool in ("cuobjdump", "nvdisasm"):
        (tmp_path / tool).symlink_to(inspection._find_tool(tool))
    monkeypatch.setattr(inspection.metadata, "distributions", lambda name: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "power" in read_cubin(cubin).name
