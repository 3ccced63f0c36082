"""What is compiled and when, with a stand-in for the compiler; tests/compile has the real one."""

import io
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.plan.limits import SMEM_CAPACITY, STATIC_SMEM
from cute_gemm.runtime import cache, compiler, host_level, inspection, sources


class StandIn:
    """In place of the DSL: an image is the label's bytes; linking it gives a function that returns them."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.linked: list[bytes] = []
        self.unlinkable: list[bytes] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.compiling = threading.Event()

    def compile(self, build: compiler.Build, label: str) -> bytes:
        self.compiling.set()
        assert self.go_on.wait(10)
        self.compiled.append(label)
        return label.encode()

    def link(self, image: bytes) -> Callable[..., Any]:
        if image in self.unlinkable:
            self.unlinkable.remove(image)
            raise RuntimeError("undefined symbol")
        self.linked.append(image)
        return lambda: image


@pytest.fixture
def dsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(compiler, "_compile", stand_in.compile)
    monkeypatch.setattr(compiler, "_link", stand_in.link)
    monkeypatch.setattr(compiler, "_surroundings", lambda: {"dsl": "4.8.1"})
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    new_process(monkeypatch)
    return stand_in


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_loaded", {})
    sources._first_digest.cache_clear()


def build() -> Any:
    raise AssertionError("the stand-in builds nothing")


def test_a_kernel_is_compiled_once_then_found_in_the_process_then_on_disk(
    dsl: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiler.instance(("k", 1), build, "one")
    assert first() == b"one"
    assert compiler.instance(("k", 1), build, "one") is first
    assert dsl.linked == [b"one"]
    compiler.instance(("k", 2), build, "two")
    new_process(monkeypatch)
    assert compiler.instance(("k", 1), build, "one")() == b"one"
    assert compiler.instance(("k", 2), build, "two")() == b"two"
    assert dsl.compiled == ["one", "two"]


@pytest.mark.parametrize("named", ["", "/proc/self/none"])
def test_without_a_disk_cache_everything_works(
    dsl: StandIn, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, named)
    assert compiler.instance("k", build, "one")() == b"one"
    new_process(monkeypatch)
    assert compiler.instance("k", build, "one")() == b"one"
    assert dsl.compiled == ["one", "one"]


class Package:
    """A package to take for this one, and a file of a user's with a function that builds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "package"
        for name in ("kernels", "schedulers"):
            (self.folder / name).mkdir(parents=True)
        for name in (*sources.OWN_PARTS[2:], "kernels/core.py", "schedulers/dense.py", "ops.py"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(f"# {name}")
        monkeypatch.setattr(sources, "PACKAGE", self.folder)
        self.caller = folder / "caller.py"
        self.caller.write_text("def build(): return 1\n")

    def build(self) -> compiler.Build:
        """The function, as a new process imports it."""
        scope: dict[str, Any] = {}
        exec(compile(self.caller.read_text(), self.caller, "exec"), scope)
        return scope["build"]


@pytest.mark.parametrize("what", ["dsl version", "kernel source", "other source", "build source"])
def test_a_change_of_what_shapes_the_code_compiles_anew(
    dsl: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    package = Package(tmp_path, monkeypatch)

    def again() -> int:
        new_process(monkeypatch)
        compiler.instance("k", package.build(), "one")
        return len(dsl.compiled)

    assert again() == 1
    assert again() == 1
    if what == "dsl version":
        monkeypatch.setattr(compiler, "_surroundings", lambda: {"dsl": "4.8.2"})
    elif what == "kernel source":
        (package.folder / "kernels" / "core.py").write_text("# new")
    elif what == "build source":
        package.caller.write_text("def build(): return 2\n")
    else:
        (package.folder / "ops.py").write_text("# new")
        assert again() == 1
        return
    assert again() == 2
    assert again() == 2


CHANGES: dict[str, Callable[[Package], object]] = {
    "a kernel": lambda package: (package.folder / "kernels" / "core.py").write_text("# new"),
    "a new file": lambda package: (package.folder / "schedulers" / "grouped.py").write_text("# new"),
    "a part": lambda package: (package.folder / "runtime" / "builder.py").write_text("# new"),
    "a part gone": lambda package: (package.folder / "runtime" / "builder.py").unlink(),
    "the caller": lambda package: package.caller.write_text("def build(): return 2\n"),
    "the caller gone": lambda package: package.caller.unlink(),
}


@pytest.mark.parametrize("moment", ["before a compile", "during a compile"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_compiled_after_a_change_under_the_process_is_not_stored(
    dsl: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
    moment: str,
) -> None:
    package = Package(tmp_path, monkeypatch)
    build = package.build()
    compiler.instance("before", build, "before")
    assert cache.cache_info().kernels == 1

    def compiles(build: compiler.Build, label: str) -> bytes:
        CHANGES[change](package)
        return dsl.compile(build, label)

    if moment == "before a compile":
        CHANGES[change](package)
        if change == "the caller gone":
            # No file, no word about it: what is left is the code in memory, which cannot change.
            compiler.instance("k", build, "one")
            assert cache.cache_info().kernels == 2
            return
    else:
        monkeypatch.setattr(compiler, "_compile", compiles)
    assert compiler.instance("k", build, "one")() == b"one"
    assert cache.cache_info().kernels == 1
    assert "did not keep one on disk" in caplog.text


def test_sources_are_those_of_when_the_package_was_imported(tmp_path: Path) -> None:
    """A whole package: an upgrade between the import of it and the first kernel."""
    shutil.copytree(sources.PACKAGE, tmp_path / "cute_gemm", ignore=shutil.ignore_patterns("__pycache__"))
    own = {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}",
        cache.DIRECTORY_VARIABLE: str(tmp_path / "cache"),
    }
    ran = subprocess.run(
        [sys.executable, "-c", UPGRADE], env=os.environ | own, cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["0", "kept"]


UPGRADE = """
from pathlib import Path
from cute_gemm.runtime import builder, cache, compiler, sources
from cute_gemm.plan.config import KernelConfig

assert sources.PACKAGE == Path("cute_gemm").absolute()
compiler._compile = lambda build, label: b"image"
compiler._link = lambda image: None
compiler._surroundings = lambda: {}
kernel = Path("cute_gemm/kernels/gemm_fp8_1d2d.py")
source = kernel.read_text()
kernel.write_text(source + "# new")
builder.instance(KernelConfig(64, 64, 4))
print(cache.cache_info().kernels, "kept")
"""


def test_a_stored_object_that_cannot_be_linked_is_compiled_anew(
    dsl: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.instance("k", build, "one")
    new_process(monkeypatch)
    dsl.unlinkable = [b"one"]
    assert compiler.instance("k", build, "one")() == b"one"
    assert dsl.compiled == ["one", "one"]
    assert "undefined symbol" in caplog.text
    new_process(monkeypatch)
    compiler.instance("k", build, "one")
    assert dsl.compiled == ["one", "one"]


def test_a_stored_kernel_for_which_something_is_missing_is_not_thrown_away(
    dsl: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the DSL's runtime library; other processes may have it."""
    compiler.instance("k", build, "one")

    def link(image: bytes) -> Any:
        raise ImportError("no runtime library")

    def compiles(build: compiler.Build, label: str) -> bytes:
        raise ImportError("no DSL")

    with monkeypatch.context() as patch:
        new_process(patch)
        patch.setattr(compiler, "_link", link)
        patch.setattr(compiler, "_compile", compiles)
        with pytest.raises(ImportError, match="no DSL"):
            compiler.instance("k", build, "one")
    assert "did not use the stored one: no runtime library" in caplog.text
    new_process(monkeypatch)
    assert compiler.instance("k", build, "one")() == b"one"
    assert dsl.compiled == ["one"]


def test_a_fresh_object_that_cannot_be_linked_is_an_error(dsl: StandIn) -> None:
    dsl.unlinkable = [b"one"]
    with pytest.raises(RuntimeError, match="undefined symbol"):
        compiler.instance("k", build, "one")


def test_a_failed_compile_can_be_tried_again(dsl: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(build: compiler.Build, label: str) -> bytes:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_compile", fails)
        with pytest.raises(RuntimeError, match="no memory"):
            compiler.instance("k", build, "one")
    assert compiler.instance("k", build, "one")() == b"one"


def test_threads_that_want_the_same_kernel_compile_it_once(dsl: StandIn) -> None:
    dsl.go_on.clear()
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda: got.append(compiler.instance("k", build, "one"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    dsl.go_on.set()
    for thread in threads:
        thread.join(10)
    assert dsl.compiled == ["one"]
    assert len(got) == 4
    assert len(set(map(id, got))) == 1


def test_a_compile_does_not_hold_up_who_wants_a_kernel_that_is_there(
    dsl: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.instance("on disk", build, "on disk")
    new_process(monkeypatch)
    compiler.instance("loaded", build, "loaded")
    dsl.compiling.clear()
    dsl.go_on.clear()
    slow = threading.Thread(target=compiler.instance, args=("slow", build, "slow"))
    slow.start()
    assert dsl.compiling.wait(10)
    try:
        other = threading.Thread(
            target=lambda: [compiler.instance(key, build, key) for key in ("loaded", "on disk")], daemon=True
        )
        other.start()
        other.join(5)
        assert not other.is_alive()
        assert slow.is_alive()
    finally:
        dsl.go_on.set()
        slow.join(10)


def test_a_key_that_differs_between_processes_is_refused(dsl: StandIn) -> None:
    with pytest.raises(ValueError, match=r"the same in every process, got .*object at 0x"):
        compiler.instance((object(), 1), build, "one")


def test_key_says_what_the_object_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTE_DSL_OPT_LEVEL", "1")
    # Of 4.6 and 4.7, once they are imported.
    monkeypatch.setenv("CUTE_DSL_LIBS", "/some/where")
    compiler._surroundings.cache_clear()
    try:
        text = compiler._key_text(("kernel", 128), sources.read(build))
    finally:
        compiler._surroundings.cache_clear()
    settings = '"settings": {"CUTE_DSL_OPT_LEVEL": "1"}'
    host = f"{platform.machine()} {host_level.here().name}"
    for part in (
        host,
        '"compiler": "cu1',
        "('kernel', 128)",
        "sm_90a",
        '"nvidia-cutlass-dsl": "4.',
        "libs-base",
        settings,
    ):
        assert part in text


@pytest.mark.parametrize(
    ("installed", "error", "message"),
    [
        ({}, ImportError, "pip install nvidia-cutlass-dsl"),
        (
            {"nvidia-cutlass-dsl": "4.8.1", "nvidia-cutlass-dsl-libs-cu13": "4.7.0"},
            RuntimeError,
            r"different versions \(nvidia-cutlass-dsl 4.8.1, nvidia-cutlass-dsl-libs-cu13 4.7.0\)",
        ),
    ],
)
def test_a_missing_or_mixed_dsl_is_named(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(compiler, "versions", lambda pattern: installed)
    compiler._dsl.cache_clear()
    with pytest.raises(error, match=message):
        compiler._dsl()


def test_an_older_dsl_behind_the_one_that_is_imported_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "nvidia_cutlass_dsl-4.7.0.dist-info"
    older.mkdir()
    (older / "METADATA").write_text("Name: nvidia-cutlass-dsl\nVersion: 4.7.0\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    compiler._dsl.cache_clear()
    assert compiler._dsl().compile


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "handlers", "lines"),
    [(Terminal(), [], 1), (io.StringIO(), [], 0), (Terminal(), [logging.NullHandler()], 0)],
    ids=["terminal", "no terminal", "logging set up"],
)
def test_a_terminal_is_told_of_a_compile_unless_logging_is_set_up(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, handlers: list[logging.Handler], lines: int
) -> None:
    logger = logging.Logger("alone")
    logger.handlers = handlers
    monkeypatch.setattr(compiler, "logger", logger)
    monkeypatch.setattr(sys, "stderr", stream)
    compiler._announce("compiling x for sm_90a")
    assert stream.getvalue().count("compiling x for sm_90a") == lines


def test_an_object_without_gpu_code_has_no_cubin(monkeypatch: pytest.MonkeyPatch) -> None:
    host_only = b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little") + bytes(100)
    assert compiler._cubin(host_only + host_only) is None
    monkeypatch.setattr(compiler, "_compile", lambda build, label: host_only)
    with pytest.raises(ValueError, match="one has no GPU code"):
        compiler.compile_to_cubin(build, "one")


# What is said of a kernel that was compiled


class Storage:
    def __init__(self, size: int) -> None:
        self.size = size

    def size_in_bytes(self) -> int:
        return self.size


class Kernel:
    def __init__(self, size: int) -> None:
        self.Storage = Storage(size)


def test_a_kernel_that_asks_for_too_much_shared_memory_is_refused_by_name() -> None:
    most = SMEM_CAPACITY - STATIC_SMEM
    compiler._check_shared_memory(Kernel(most), "mine")
    compiler._check_shared_memory(object(), "a kernel that does not say")
    with pytest.raises(ValueError, match=f"mine takes {SMEM_CAPACITY + 16} bytes of shared memory"):
        compiler._check_shared_memory(Kernel(most + 16), "mine")


@pytest.mark.parametrize(("stack", "local"), [(0, 0), (96, 0), (0, 32)])
def test_a_kernel_that_spills_is_named(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, stack: int, local: int
) -> None:
    monkeypatch.setattr(compiler, "_cubin", lambda image: b"cubin")
    found = inspection.Resources("k", 168, 1024, stack, local)
    monkeypatch.setattr(inspection, "read_resources", lambda cubin: found)
    compiler._warn_of_spills(b"image", "mine")
    said = [str(each.message) for each in recwarn if each.category is compiler.KernelWarning]
    if stack or local:
        assert len(said) == 1
        assert said[0].startswith(f"mine keeps {stack + local} bytes per thread in local memory, with 168")
    else:
        assert not said


def test_without_the_tool_nothing_is_said_of_spills(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def missing(cubin: bytes) -> None:
        raise inspection.InspectionError("cuobjdump was not found")

    monkeypatch.setattr(compiler, "_cubin", lambda image: b"cubin")
    monkeypatch.setattr(inspection, "read_resources", missing)
    compiler._warn_of_spills(b"image", "mine")
    assert not recwarn.list
