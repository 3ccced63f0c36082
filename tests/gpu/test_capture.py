"""The first call of a kernel must not be captured: in processes of their own, which have loaded none."""

import subprocess
import sys
from pathlib import Path

import pytest
from groups import GROUPED, every_layout

from cute_gemm.plan.layouts import DENSE, Layout

DENSE_CALLS = """
import torch
from cute_gemm import fp8_gemm_nt
from cute_gemm.testing import assert_correct, make_inputs


def make(k):
    return make_inputs(129, 264, k, device="cuda")


def new_out(operands):
    return torch.full((129, 264), 7.0, dtype=torch.bfloat16, device="cuda")


def call(operands, out):
    fp8_gemm_nt(*operands, out)


def check(operands, out):
    (a, sa), (b, sb) = operands
    assert_correct(out, a, sa, b, sb)
"""

GROUPED_CALLS = """
import torch
import groups

LAYOUT = groups.LAYOUTS["{layout}"]


def make(k):
    problem = groups.Problem.make([129, 0, 7, 300], 264, k)
    return problem, problem.arranged(LAYOUT)


def new_out(operands):
    return torch.full((*operands[1].row_groups.shape, 264), 7.0, dtype=torch.bfloat16, device="cuda")


def call(operands, out, **options):
    groups.call(LAYOUT, operands[1], out, **options)


def check(operands, out):
    problem, inputs = operands
    problem.assert_equals(out, inputs)
"""

FIRST_CALL = """
operands = make(1040)
out = new_out(operands)
graph = torch.cuda.CUDAGraph()
try:
    with torch.cuda.graph(graph):
        call(operands, out)
except RuntimeError as error:
    print(error)
torch.cuda.synchronize()
assert (out == 7).all()

call(operands, out)
check(operands, out)

# Another shape of the same kernel.
operands = make(1056)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    call(operands, out)
out.fill_(7.0)
graph.replay()
check(operands, out)
print("replayed")
"""

VALIDATE = """
operands = make(1040)
out = new_out(operands)
call(operands, out, validate=True)
check(operands, out)
out.fill_(7.0)
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        call(operands, out, validate=True)
except RuntimeError as error:
    print(error)
torch.cuda.synchronize()
assert (out == 7).all()
call(operands, out, validate=True)
check(operands, out)
"""


def lines(script: str, cwd: Path) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=cwd, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def setting(layout: Layout) -> str:
    return GROUPED_CALLS.format(layout=layout.name) if layout.is_grouped else DENSE_CALLS


REFUSED = {
    "dense": "M = 129, N = 264, K = 1040",
    "contiguous": "M = 773, N = 264, K = 1040, 4 groups",
    "offsets": "M = 441, N = 264, K = 1040, 4 groups",
    "masked": "4 x 100 expected rows, N = 264, K = 1040, 4 groups",
}


@pytest.mark.parametrize("layout", [DENSE, *GROUPED], ids=lambda layout: layout.name)
def test_a_first_call_in_a_capture_is_refused_and_everything_works_afterwards(
    layout: Layout, request: pytest.FixtureRequest
) -> None:
    refusal, last = lines(setting(layout) + FIRST_CALL, cwd=request.path.parent)
    assert refusal.startswith(f"{REFUSED[layout.name]} needs the kernel ")
    assert refusal.endswith("make the same call, scales laid out alike, once before the capture")
    assert last == "replayed"


@every_layout
def test_validating_in_a_capture_is_refused(layout: Layout, request: pytest.FixtureRequest) -> None:
    (refusal,) = lines(setting(layout) + VALIDATE, cwd=request.path.parent)
    assert "has no values while a CUDA graph is being captured" in refusal
