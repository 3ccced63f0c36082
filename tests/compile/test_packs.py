"""A pack of real kernels, in a process that has neither the DSL nor a cache."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cute_gemm.cli import main
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.quantizer import RowQuantizer
from cute_gemm.runtime import builder, cache, compiler, packs, quantizer_builder, selection

M, N, K = 70, 136, 144

# Not by `find_spec`: asked for pip, setuptools' finder gives up `distutils`, which Inductor wants of it.
HAS_PIP = any(importlib.metadata.distributions(name="pip"))

PROCESS = f"""
import sys
import torch
sys.modules["cutlass"] = None
import cute_gemm
from cute_gemm.cli import main
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.quantizer import RowQuantizer
from cute_gemm.runtime import builder, quantizer_builder, selection

def refuses(kernel, *arguments):
    try:
        kernel(*arguments)
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)

a, sa = cute_gemm.quantize_1x128(torch.randn({M}, {K}))
b, sb = cute_gemm.quantize_128x128(torch.randn({N}, {K}))
out = torch.empty({M}, {N}, dtype=torch.bfloat16)
product = builder.instance(selection.select(GemmProblem({M}, {N}, {K})))
refuses(product, a, sa, b, sb, out, 132, 0, 0, 0)
refuses(product, a)
refuses(quantizer_builder.instance(RowQuantizer("bfloat16")), out, a, sa, 0, 0)
try:
    builder.instance(selection.select(GemmProblem({M}, {N}, {K}, "float32")))
except ImportError as error:
    print("not in the pack:", error)
"""


FIRST_KERNEL = f"""
import sys
import torch

before = set(sys.modules)
import cute_gemm
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import builder, selection

builder.instance(selection.select(GemmProblem({M}, {N}, {K})))
print(*set(sys.modules) - before)
"""

NOT_FOR_A_KERNEL = (
    *("cuda", "cutlass", "platformdirs", "rich", "safetensors"),
    *("cute_gemm.dsl", "cute_gemm.kernels", "cute_gemm.schedulers", "cute_gemm.nn", "cute_gemm.plan.models"),
    *(f"cute_gemm.runtime.{name}" for name in ("elf", "inspection", "linker", "lookup", "pack_writer")),
    *("cute_gemm.cli", "cute_gemm.measure", "cute_gemm.testing", "cute_gemm.warming.needs"),
)
"""What a kernel that is there can do without."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.DIRECTORY_VARIABLE, str(folder / "cache"))
        patch.setattr(compiler, "_loaded", {})
        product, quantizer = selection.select(GemmProblem(M, N, K)), RowQuantizer("bfloat16")
        # Here, and not in processes of the command's own.
        builder.instance(product)
        quantizer_builder.instance(quantizer)
        kernels = "--kernel", product.name, quantizer.name
        assert main(["pack", str(folder / "pack"), *kernels]) == 0
        assert main(["pack", str(folder / "dist"), "--wheel", "acme", *kernels]) == 0
    return folder / "pack"


def run(pack: Path) -> subprocess.CompletedProcess[str]:
    return run_in({packs.VARIABLE: str(pack)})


def run_in(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    own = {**environment, cache.DIRECTORY_VARIABLE: ""}
    return subprocess.run(
        [sys.executable, "-c", PROCESS], env=os.environ | own, capture_output=True, text=True, timeout=120
    )


def test_kernels_are_callable_without_the_dsl(pack: Path) -> None:
    check(run(pack))


def test_a_first_kernel_imports_little(pack: Path) -> None:
    own = {packs.VARIABLE: str(pack), cache.DIRECTORY_VARIABLE: ""}
    command = [sys.executable, "-c", FIRST_KERNEL]
    ran = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    imported = set(ran.stdout.split())
    assert "tvm_ffi" in imported
    assert imported & set(NOT_FOR_A_KERNEL) == set()


def check(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stderr
    cpu, few, quantizer, other = ran.stdout.splitlines()
    assert cpu.startswith("ValueError")
    assert cpu.endswith("expected device_type=cuda")
    assert few.startswith("TypeError Expects 9 parameters")
    assert quantizer.endswith("expected device_type=cuda")
    assert other.startswith("not in the pack:")


def test_warmup_makes_nothing_that_a_pack_has(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pack is written of it all the same, when it is on disk too."""
    names = [each.name for each in packs._opened(pack).manifest.kernels.values()]
    monkeypatch.setenv(packs.VARIABLE, str(pack))
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
    assert main(["warmup", "--kernel", *names]) == 0
    assert "0 kernels made in 0 s, 2 were there" in capsys.readouterr().out
    assert main(["pack", str(tmp_path / "pack"), "--kernel", *names]) == 1
    assert "kernels are kept nowhere" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.skipif(not HAS_PIP, reason="needs pip")
def test_a_wheel_is_installed_and_found(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheel,) = (pack.parent / "dist").iterdir()
    target = tmp_path / "site"
    pip = sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", target, wheel
    subprocess.run(pip, check=True, capture_output=True, timeout=120, umask=0o022)
    (library, *_) = target.glob("cute_gemm_packs/acme/*.so")
    assert library.read_bytes() == (pack / library.name).read_bytes()
    path = os.pathsep.join([str(target), os.environ["PYTHONPATH"]])
    monkeypatch.delenv(packs.VARIABLE, raising=False)
    check(run_in({"PYTHONPATH": path}))
    # It took them from nowhere else.
    assert run_in({"PYTHONPATH": path, packs.VARIABLE: ""}).returncode != 0


def test_where_a_kernel_is_damaged_the_dsl_is_wanted(pack: Path) -> None:
    """So the process above took it from nowhere else."""
    for file in pack.glob("*.so"):
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    ran = run(pack)
    assert ran.returncode != 0
    assert "is damaged, or another kernel's" in ran.stderr
    assert "No module named 'cutlass" in ran.stderr
