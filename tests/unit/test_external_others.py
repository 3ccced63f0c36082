"""What runs others' code on the drop-in: stubs, a CPU that poses as a GPU, and what is said of each check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXTERNAL = Path(__file__).parents[1] / "external"
ROOT = EXTERNAL.parents[1]

TESTS = """
import kernels
import pytest
import torch

deep_gemm = kernels.get_kernel("kernels-community/deep-gemm", version=2)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a CUDA device")

def test_product():
    assert torch.cuda.get_device_capability() == (9, 0)
    x, w = torch.randn(70, 256, device="cuda"), torch.randn(128, 256).cuda()
    assert x.is_cuda and w.is_cuda
    a = deep_gemm.per_token_cast_to_fp8(x, use_ue8m0=False)
    b = deep_gemm.per_block_cast_to_fp8(w, use_ue8m0=False)
    d = torch.empty(70, 128, device="cuda", dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt(a, b, d)
    assert deep_gemm.calc_diff(d, x @ w.T) < 1e-3

def test_of_bf16():
    deep_gemm.einsum("bhr,hdr->bhd")

def test_that_fails():
    raise NotImplementedError("something else")

@pytest.mark.skip(reason="it is")
def test_that_is_skipped():
    pass
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXTERNAL / "run_others.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def run_here(program: str) -> str:
    """What a program prints that finds what the checks are made of."""
    paths = os.pathsep.join(map(str, (EXTERNAL / "others", ROOT / "drop_in", ROOT)))
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-c", program]
    return subprocess.check_output(command, env=environment, text=True, timeout=300)


def test_without_a_checkout_it_skips(tmp_path: Path) -> None:
    done = run()
    assert (done.returncode, done.stdout) == (0, "skipped: no checkout is named\n")
    for project in ("deep-gemm", "kernels-community", "sglang", "torchao", "transformers", "vllm"):
        done = run(f"--{project}", tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"skipped: {tmp_path} has no " in done.stdout


@pytest.mark.thorough
def test_others_tests_run_on_the_drop_in(tmp_path: Path) -> None:
    tests = tmp_path / "deep-gemm" / "tests" / "test_kernels_ci.py"
    tests.parent.mkdir(parents=True)
    tests.write_text(TESTS)
    done = run("--kernels-community", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "1 failed, 1 not there yet, 1 passed, 1 skipped\n" in done.stdout
    for said in (
        "  passed: test_product\n",
        "  not there yet: test_of_bf16: deep_gemm.einsum: cute_gemm has no einsum yet\n",
        "  failed: test_that_fails: something else\n",
        "== kernels_community failed\n",
    ):
        assert said in done.stdout
    tests.write_text(TESTS.replace("raise NotImplementedError", "str"))
    assert run("--kernels-community", tmp_path).returncode == 0


@pytest.mark.thorough
def test_a_fork_after_the_import_is_watched(tmp_path: Path) -> None:
    test = tmp_path / "tests" / "test_lazy_init.py"
    test.parent.mkdir()
    text = """
import sys
import torch.multiprocessing as mp
import deep_gemm

def main(rank):
    raise SystemExit(rank)

processes = [mp.Process(target=main, args=(each * {status},)) for each in range(int(sys.argv[2]))]
for each in processes:
    each.start()
for each in processes:
    each.join()
"""
    test.write_text(text.format(status=0))
    assert run("--deep-gemm", tmp_path).returncode == 0
    # Of several processes, those after the first fail.
    test.write_text(text.format(status=3).replace("each * 3", "3"))
    done = run("--deep-gemm", tmp_path)
    assert done.returncode == 1
    assert "processes ended with [3" in done.stdout


def test_some_modules_are_real_and_their_neighbours_are_stubs(tmp_path: Path) -> None:
    package = tmp_path / "ours"
    (package / "part").mkdir(parents=True)
    (package / "part" / "real.py").write_text(
        "from ours import never, part\n"
        "from ours.settings import COUNT, other\n"
        "from . import late\n"
        "from .late import VALUE\n"
        "class Derived(never.Base):\n"
        "    def __init__(self, x: never.Kind | None): self.x = x\n"
        "@other\n"
        "def same(): return 7\n"
    )
    (package / "part" / "late.py").write_text("VALUE = 5\n")
    said = run_here(f"""
from pathlib import Path
from neighbours import Neighbours
Neighbours(Path({str(package)!r}), {{"part.real", "part.late", "gone"}}, {{"settings": {{"COUNT": 3}}}})
from ours.part import real
import ours.gone
print(real.COUNT, real.VALUE, real.late.VALUE, real.Derived(4).x, real.same())
print(ours.gone.anything.at_all, hasattr(ours.gone, "__path__"), hasattr(ours.gone, "__wrapped__"))
""")
    assert said.splitlines()[0] == "3 5 5 4 7"
    assert said.splitlines()[1].endswith("True False")


@pytest.mark.thorough
def test_a_comparison_can_fail() -> None:
    said = run_here("""
import posing
posing.pose()
import torch, products
a = products.exact_rows(*products.quantised_rows(torch.randn(128, 256)))
b = products.exact_blocks(*products.weights(128, 256))
exact = a @ b.T
print(products.compare(exact.bfloat16(), exact, products.ROUNDED))
for wrong in (exact.roll(1, 0), exact * torch.nan):
    try:
        products.compare(wrong, exact, products.REQUANTISED)
    except AssertionError as error:
        print(error)
""")
    right, off, nan = said.splitlines()
    assert right.startswith("the worst tile is off by 1.")
    assert off.endswith("above 4.0e-03")
    assert nan == "not all is finite"


@pytest.mark.thorough
def test_layers_of_experts_are_what_is_said() -> None:
    said = run_here("""
import torch, products
x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
up = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [1.0, 0.0]]], dtype=torch.float64)
down = torch.tensor([[[1.0], [1.0]], [[3.0], [0.0]]], dtype=torch.float64)
ids, shares = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.5, 2.0], [1.0, 9.0]])
made = products.experts_product(x, ids, shares, up, down)
silu = torch.nn.functional.silu(torch.tensor([1.0, 4.0, 8.0], dtype=torch.float64))
first, second, third = silu[0] * 2 * 0.5, silu[1] * 1 * 2, silu[2] * 3
wanted = torch.stack([torch.stack([first + 3 * second, first]), torch.stack([3 * third, 0 * third])])
print(torch.allclose(made, wanted))
""")
    assert said == "True\n"
