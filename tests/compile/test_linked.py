"""A real kernel on the way of a call: compiled, stored, linked and called, as far as no GPU is needed."""

from pathlib import Path

import pytest
import torch

from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import builder, cache, compiler, selection
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
