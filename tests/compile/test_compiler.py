"""The real compiler: GPU code without a GPU, and host-only kernels, which run here."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cuda.bindings.driver import CUstream
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

from cute_gemm.runtime import cache, compiler

HOST = cute.AddressSpace.generic


class Scale:
    """One thread per row: out = a * sa, the row's scale per 128 columns."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @cute.jit
    def __call__(self, a: cute.Tensor, sa: cute.Tensor, out: cute.Tensor, stream: CUstream):
        grid = [cute.ceil_div(a.shape[0], self.threads), 1, 1]
        self.kernel(a, sa, out).launch(grid=grid, block=[self.threads, 1, 1], stream=stream)

    @cute.kernel
    def kernel(self, a: cute.Tensor, sa: cute.Tensor, out: cute.Tensor):
        thread, _, _ = cute.arch.thread_idx()
        block, _, _ = cute.arch.block_idx()
        row = block * self.threads + thread
        if row < a.shape[0]:
            for column in range(a.shape[1]):
                scaled = a[row, column].to(cutlass.Float32) * sa[row, column // 128]
                out[row, column] = scaled.to(cutlass.BFloat16)


class Describe:
    """Runs on the host: writes down what it was handed."""

    def __init__(self, mark: int) -> None:
        self.mark = mark

    @cute.jit
    def __call__(self, a: cute.Tensor, sa: cute.Tensor, out: cute.Tensor):
        out[0, 0] = cutlass.Float32(self.mark)
        out[0, 1] = cutlass.Float32(a.shape[0])
        out[0, 2] = cutlass.Float32(a.stride[0])
        out[0, 3] = cutlass.Float32(sa.stride[0])
        out[0, 4] = cutlass.Float32(sa.stride[1])
        out[0, 5] = sa[0, 1]


def operands(out_type: Any, memspace: cute.AddressSpace) -> tuple[Any, ...]:
    m, k, strides = cute.sym_int32(), cute.sym_int32(divisibility=16), [cute.sym_int64() for _ in range(2)]
    row = cute.sym_int64(divisibility=16)
    return (
        make_fake_tensor(cutlass.Float8E4M3FN, (m, k), (row, 1), assumed_align=16, memspace=memspace),
        make_fake_tensor(
            cutlass.Float32, (m, cute.sym_int32()), tuple(strides), assumed_align=4, memspace=memspace
        ),
        make_fake_tensor(
            out_type, (m, k), (cute.sym_int64(divisibility=8), 1), assumed_align=16, memspace=memspace
        ),
    )


def build_scale() -> Any:
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    return Scale(128), (*operands(cutlass.BFloat16, cute.AddressSpace.gmem), stream)


def build_describe(mark: int = 1) -> Any:
    return Describe(mark), operands(cutlass.Float32, HOST)


def tensors(m: int = 4, k: int = 256) -> list[torch.Tensor]:
    a = torch.ones(m, k).to(torch.float8_e4m3fn)
    return [a, torch.arange(4.0 * m).reshape(m, 4), torch.zeros(m, k)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and a process that has loaded nothing yet."""
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "_loaded", {})
    return tmp_path / "cache"


def test_cubin_is_for_hopper_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.environ.copy()
    cubin = compiler.compile_to_cubin(build_scale)
    assert cubin.startswith(b"\x7fELF")
    # The compilers of CUDA 12 and 13 have the architecture in different bytes of the ELF flags.
    assert 90 in (cubin[48], cubin[49])
    assert b"kernel_cutlass_kernel" in cubin
    assert not list(tmp_path.iterdir())
    assert os.environ == before


@pytest.mark.usefixtures("folder")
def test_a_setting_to_compile_nothing_is_named() -> None:
    """The DSL reads its settings once in a process."""
    program = "import test_compiler as t; t.compiler.instance(('scale', 128), t.build_scale, 'scale')"
    failed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env={**os.environ, "CUTE_DSL_DRYRUN": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: the CuTe DSL made nothing of scale, as CUTE_DSL_DRYRUN asks it to")


def test_cubin_is_whole(tmp_path: Path) -> None:
    kept = f"--enable-tvm-ffi --gpu-arch sm_90a --keep-cubin --dump-dir {tmp_path}"
    kernel, arguments = build_scale()
    cute.compile(kernel, *arguments, options=kept)
    (file,) = tmp_path.glob("*.cubin")
    assert compiler.compile_to_cubin(build_scale) == file.read_bytes()


def test_a_gpu_kernel_is_linked_here_and_refuses_cpu_tensors(folder: Path) -> None:
    kernel = compiler.instance(("scale", 128), build_scale, "scale")
    a, sa, out = tensors()
    with pytest.raises(ValueError, match="expected device_type=cuda"):
        kernel(a, sa, out.bfloat16())
    assert cache.cache_info().kernels == 1


@pytest.fixture(scope="module")
def describe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        return compiler.instance(("describe", 1), build_describe, "describe")


Change = Callable[[list[torch.Tensor]], list[torch.Tensor]]

SEEN: dict[str, tuple[Change, list[float]]] = {
    "as declared": (lambda t: t, [1, 4, 256, 4, 1, 1]),
    "a view with an offset": (
        lambda t: [torch.ones(8, 512).to(torch.float8_e4m3fn)[2:6, 256:], *t[1:]],
        [1, 4, 512, 4, 1, 1],
    ),
    "M-major scales": (lambda t: [t[0], t[1].T.contiguous().T, t[2]], [1, 4, 256, 1, 4, 1]),
    "scales off by 4 bytes": (
        lambda t: [t[0], torch.arange(17.0)[1:].view(4, 4), t[2]],
        [1, 4, 256, 4, 1, 2],
    ),
    "one scale for all": (lambda t: [t[0], torch.full((1, 1), 7.0).expand(4, 4), t[2]], [1, 4, 256, 0, 0, 7]),
    # One row's stride may be anything, and comes as it is: it must not end up in a tensor map.
    "one row, odd stride": (
        lambda t: [t[0][:1].as_strided((1, 256), (7, 1)), t[1][:1], t[2][:1]],
        [1, 1, 7, 4, 1, 1],
    ),
    "parameters": (lambda t: [t[0], torch.nn.Parameter(t[1]), t[2]], [1, 4, 256, 4, 1, 1]),
}


@pytest.mark.parametrize("case", SEEN)
def test_tensors_arrive_as_they_are(describe: Callable[..., None], case: str) -> None:
    change, expected = SEEN[case]
    arguments = change(tensors())
    describe(*arguments)
    assert arguments[2][0, :6].tolist() == expected


REFUSED: dict[str, tuple[Change, type[Exception], str]] = {
    "e5m2": (lambda t: [t[0].view(torch.float8_e5m2), *t[1:]], ValueError, "expected dtype=float8_e4m3fn"),
    "bytes": (lambda t: [t[0].view(torch.uint8), *t[1:]], ValueError, "expected dtype=float8_e4m3fn"),
    "double scales": (lambda t: [t[0], t[1].double(), t[2]], ValueError, "expected dtype=float32"),
    "rank": (lambda t: [t[0], t[1][0], t[2]], ValueError, "expected ndim=2"),
    "rows": (lambda t: [t[0][:3], *t[1:]], ValueError, r"sa.shape\[0\].*expected to match a.shape\[0\]"),
    "K": (lambda t: tensors(k=264), ValueError, r"a.shape\[1\].*divisible by 16"),
    "alignment": (
        lambda t: [torch.ones(4, 512).to(torch.float8_e4m3fn)[:, 8:264], *t[1:]],
        ValueError,
        "expected data alignment=16",
    ),
    "row stride": (
        lambda t: [torch.ones(4, 264).to(torch.float8_e4m3fn)[:, :256], *t[1:]],
        ValueError,
        r"a.strides\[0\].*divisible by 16",
    ),
    "two arguments": (lambda t: t[:2], TypeError, "Expects 3 parameters"),
    "None": (lambda t: [None, *t[1:]], TypeError, "Mismatched type on argument #0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mismatch_raises_and_touches_nothing(describe: Callable[..., None], case: str) -> None:
    change, error, message = REFUSED[case]
    arguments = change(tensors())
    with pytest.raises(error, match=message):
        describe(*arguments)
    assert not arguments[-1].any() or len(arguments) == 2


def test_kernels_of_one_entry_name_do_not_mix(folder: Path) -> None:
    kernels = [
        compiler.instance(("describe", mark), lambda mark=mark: build_describe(mark), "describe")
        for mark in (5, 6)
    ]
    for kernel, mark in zip(kernels, (5, 6), strict=True):
        a, sa, out = tensors()
        kernel(a, sa, out)
        assert out[0, 0] == mark


def test_a_damaged_file_is_compiled_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cute_gemm")
    compiler.instance("d", build_describe, "describe")
    (file,) = folder.glob("*.kernel")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    monkeypatch.setattr(compiler, "_loaded", {})
    a, sa, out = tensors()
    compiler.instance("d", build_describe, "describe")(a, sa, out)
    assert out[0, 0] == 1
    assert caplog.text.count("compiling describe for sm_90a") == 2
    assert len(file.read_bytes()) == len(whole)


def test_threads_compile_different_kernels(folder: Path) -> None:
    before = sys.stdout, sys.stderr
    outputs = {mark: tensors() for mark in (2, 3, 4)}

    def work(mark: int) -> None:
        compiler.instance(("t", mark), lambda: build_describe(mark), f"describe {mark}")(*outputs[mark])

    threads = [threading.Thread(target=work, args=(mark,)) for mark in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [int(out[0, 0]) for _, _, out in outputs.values()] == [2, 3, 4]
    # What two compiles at once do to a process: see compiler._compiler.
    assert (sys.stdout, sys.stderr) == before


# Across processes

SCRIPT = """
import logging, sys
import cutlass, cutlass.cute as cute, torch, tvm_ffi
from cutlass.cute.runtime import make_fake_tensor
from cute_gemm.runtime import compiler, sources

class Add:
    def __init__(self, addend):
        self.addend = addend

    @cute.jit
    def __call__(self, x: cute.Tensor):
        x[0] = x[0] + cutlass.Float32(self.addend)

def build():
    generic = cute.AddressSpace.generic
    x = make_fake_tensor(cutlass.Float32, (cute.sym_int32(),), (1,), memspace=generic)
    return Add(ADDEND), (x,)

logging.basicConfig(format="%(message)s")
logging.getLogger("cute_gemm").setLevel(logging.DEBUG)
x = torch.zeros(1)
compiler._key_text("all imported", sources.read(build))
print("ready", flush=True)
sys.stdin.readline()
compiler.instance(("add", "float32"), build, "add")(x)
print("result", x.item())
logging.warning("CUDA errors: %s", tvm_ffi.core.ERROR_NAME_TO_TYPE.get("CUDADialectError"))
"""


def start(tmp_path: Path, addend: float = 2) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("ADDEND", str(addend)))
    tmp_path.joinpath("here").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, script],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path / "here",
        # Neither a compiler nor a linker is to be found.
        env=os.environ | {"PATH": "/nonexistent"},
    )


def finish(*processes: subprocess.Popen[str]) -> tuple[list[float], str]:
    """Let them look for the kernel all at once; what they computed, and what they logged."""
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    results, logs = [], ""
    for process in processes:
        out, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        results.append(float(out.removeprefix("result ")))
        logs += log
    return results, logs


def test_the_next_process_does_not_compile_and_a_new_source_does(folder: Path, tmp_path: Path) -> None:
    result, log = finish(start(tmp_path))
    assert result == [2]
    assert "compiling add for sm_90a" in log
    assert "compiled add in" in log
    result, log = finish(start(tmp_path))
    assert result == [2]
    assert "loaded add from" in log
    assert "compil" not in log
    assert "CUDA errors: <class" in log
    result, log = finish(start(tmp_path, addend=3))
    assert result == [3]
    assert "compiling add for sm_90a" in log
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.thorough
def test_processes_that_race_compile_once(folder: Path, tmp_path: Path) -> None:
    results, logs = finish(start(tmp_path), start(tmp_path))
    assert results == [2, 2]
    assert logs.count("compiling add for sm_90a") == 1
    assert logs.count("loaded add from") == 1
    assert cache.cache_info().kernels == 1


def test_what_killed_writers_left_is_removed_after_a_kernel_is_compiled(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    left = folder / f".{0:064x}.kernel.{0:016x}.tmp"
    left.touch()
    os.utime(left, (0, 0))
    finish(start(tmp_path))
    assert cache.cache_info().kernels == 1
    assert not left.exists()


def test_the_dsls_own_cache_is_left_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it is in the directory for temporary files, below a name that anyone can make first."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    result, log = finish(start(tmp_path))
    assert result == [2]
    assert "compiling add" in log
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


def test_a_process_without_a_cache_directory_compiles(folder: Path, tmp_path: Path) -> None:
    folder.write_text("a file where the directory should be")
    result, log = finish(start(tmp_path))
    assert result == [2]
    assert log.count("kernels on disk are not used: Not a directory: ") == 1
