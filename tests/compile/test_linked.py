"""A real kernel on the way of a call: compiled, stored, linked and called, as far as no GPU is needed."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import builder, cache, compiler, elf, host_level, linker, selection
from cute_gemm.testing import make_inputs

M, N, K = 70, 136, 144


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_a_kernel_is_stored_linked_and_refuses_cpu_tensors(
    out_dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path))
    config = selection.select(GemmProblem(M, N, K, str(out_dtype).removeprefix("torch.")))
    (a, sa), (b, sb) = make_inputs(M, N, K)
    out = torch.full((M, N), 7, dtype=out_dtype)

    def refuses() -> None:
        monkeypatch.setattr(compiler, "_loaded", {})
        kernel = builder.instance(config)
        arguments = rf"{config.out_dtype}\), num_sms: .*, flags: .*, semaphore: .*, status: .*"
        with pytest.raises(ValueError, match=arguments + "expected device_type=cuda"):
            kernel(a, sa, b, sb, out, 132, 0, 0, 0)
        assert (out == 7).all()

    refuses()
    assert cache.cache_info().kernels == 1
    # The next process finds it on disk.
    monkeypatch.setattr(compiler, "_compile", None)
    refuses()


IN_A_NEW_PROCESS = """
import sys
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import builder, compiler, selection
from cute_gemm.testing import make_inputs

compiler._compile = None
kernel = builder.instance(selection.select(GemmProblem(M, N, K)))
(a, sa), (b, sb) = make_inputs(M, N, K)
try:
    kernel(a, sa, b, sb, a.new_empty(M, N, dtype=__import__("torch").bfloat16), 132, 0, 0, 0)
except ValueError as error:
    print(error)
print("DSL imported:", "cutlass" in sys.modules)
"""


def test_a_kernel_from_disk_needs_no_dsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compiler, "_loaded", {})
    builder.instance(selection.select(GemmProblem(M, N, K)))
    script = f"M, N, K = {M}, {N}, {K}\n{IN_A_NEW_PROCESS}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "expected device_type=cuda" in ran.stdout
    assert "DSL imported: False" in ran.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for an instruction of x86-64")
@pytest.mark.parametrize("is_restricted", [True, False])
def test_host_code_is_not_for_the_cpu_that_compiles_it(
    is_restricted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a CPU with AVX clear its registers where it calls a function, if it may use them."""
    if not is_restricted:
        if " avx " not in Path("/proc/cpuinfo").read_text():
            pytest.skip("the machine has no AVX")
        monkeypatch.setattr(host_level, "restrict", lambda module: None)
    monkeypatch.setattr(linker, "link", lambda image, function: image)
    config = selection.select(GemmProblem(M, N, K))
    image = compiler._compile(lambda: builder._to_compile(config), "a kernel")
    sections, _ = elf.read_object(image)
    code = b"".join(bytes(each.content) for each in sections if each.flags & elf.EXECUTE)
    assert (b"\xc5\xf8\x77" in code) is not is_restricted
