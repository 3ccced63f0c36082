"""The first call of a kernel must not be captured: in a process of its own, which has loaded none."""

import subprocess
import sys

SCRIPT = """
import torch
from cute_gemm import dispatch, fp8_gemm_nt
from cute_gemm.problem import GemmProblem
from cute_gemm.testing import assert_correct, make_inputs

FIRST, SECOND = (129, 264, 1040), (129, 264, 1056)
num_sms = torch.cuda.get_device_properties(0).multi_processor_count
first, second = (dispatch.select(GemmProblem(*shape, num_sms=num_sms)) for shape in (FIRST, SECOND))
assert first == second, "want two shapes of one kernel"

operands = make_inputs(*FIRST, device="cuda")
out = torch.full((129, 264), 7.0, dtype=torch.bfloat16, device="cuda")
graph = torch.cuda.CUDAGraph()
try:
    with torch.cuda.graph(graph):
        fp8_gemm_nt(*operands, out)
except RuntimeError as error:
    print(error)
torch.cuda.synchronize()
assert (out == 7).all()

(a, sa), (b, sb) = operands
assert_correct(fp8_gemm_nt(*operands, out), a, sa, b, sb)

operands = make_inputs(*SECOND, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    fp8_gemm_nt(*operands, out)
out.zero_()
graph.replay()
(a, sa), (b, sb) = operands
assert_correct(out, a, sa, b, sb)
print("replayed")
"""


def test_a_first_call_in_a_capture_is_refused_and_everything_works_afterwards() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    refusal, last = ran.stdout.splitlines()
    assert refusal.startswith("M = 129, N = 264, K = 1040 needs the kernel ")
    assert refusal.endswith("make the same call once before the capture")
    assert last == "replayed"
