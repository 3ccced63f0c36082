"""DeepGEMM's names on a GPU: kernels of cute_gemm's operations, under what was set for the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import groups
import pytest
import torch
from deep_gemm_process import forget_settings
from tensors import DTYPES, bits
from torch import Tensor

import cute_gemm
from cute_gemm.compat import deep_gemm
from cute_gemm.measure import cold
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED, OFFSETS
from cute_gemm.runtime import launcher
from cute_gemm.testing import assert_correct, make_inputs, poisoned, poisoned_rows

M, N, K = 130, 264, 1040
SIZES = [100, 0, 129, 300, 64, 7]
SMS = 17


@pytest.fixture(autouse=True)
def nothing_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture
def launched_on() -> Iterator[set[int]]:
    """The multiprocessors of kernels that a test has launched."""
    launcher.forget()
    found: set[int] = set()
    yield found
    found |= {launch.num_sms for launch in launcher._launches.values()}
    assert found == {SMS}


# Products


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("m", [1, M, 4096])
def test_a_product(m: int, dtype: torch.dtype) -> None:
    (a, sa), (b, sb) = make_inputs(m, N, K, device="cuda")
    out, check = poisoned(m, N, dtype, "cuda")
    for scales in (sa, deep_gemm.get_mn_major_tma_aligned_tensor(sa)):
        deep_gemm.fp8_gemm_nt((a, scales), (b, sb), out)
        groups.wait()
        check()
        assert_correct(out, a, sa, b, sb)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_product_is_added_to_c(dtype: torch.dtype) -> None:
    a, b = make_inputs(M, N, K, device="cuda")
    sums = cute_gemm.fp8_gemm_nt(a, b, out_dtype=torch.float32)
    c = torch.randn(M, N, device="cuda").to(dtype)
    wanted = (sums + c).to(dtype)
    d = torch.full_like(c, torch.nan)
    deep_gemm.fp8_gemm_nt(a, b, d, c)
    assert deep_gemm.calc_diff(d, wanted) < 1e-5
    deep_gemm.fp8_gemm_nt(a, b, c, c)
    assert torch.equal(c, d)


@pytest.mark.parametrize("rows", [None, 1024 + 77])
def test_every_row_of_contiguous_groups_is_written(rows: int | None) -> None:
    """Zeros in padding, which holds NaN, and in the tail, which ends anywhere."""
    problem = groups.Problem.make(SIZES, N, K)
    inputs = problem.arranged(CONTIGUOUS, rows=rows)
    every_row = torch.ones_like(inputs.row_groups, dtype=torch.bool)
    out, check = poisoned_rows(every_row, N, torch.bfloat16)
    deep_gemm.m_grouped_fp8_gemm_nt_contiguous(inputs.lhs, inputs.rhs, out, inputs.index)
    groups.wait()
    check()
    problem.assert_equals(out, inputs)
    assert not bits(out)[inputs.row_groups < 0].any()


@pytest.mark.parametrize("alignment", [128, 32])
def test_the_psum_layout(alignment: int) -> None:
    problem = groups.Problem.make(SIZES, N, K)
    inputs = problem.arranged(OFFSETS, alignment=alignment)
    out, check = poisoned_rows(inputs.row_groups >= 0, N, torch.bfloat16)
    deep_gemm.set_mk_alignment_for_contiguous_layout(alignment)
    deep_gemm.m_grouped_fp8_gemm_nt_contiguous(
        inputs.lhs, inputs.rhs, out, inputs.index, use_psum_layout=True
    )
    groups.wait()
    check()
    problem.assert_equals(out, inputs)


def test_masked_rows() -> None:
    problem = groups.Problem.make(SIZES, N, K)
    inputs = problem.arranged(MASKED)
    out, check = poisoned_rows(inputs.row_groups >= 0, N, torch.bfloat16)
    deep_gemm.m_grouped_fp8_gemm_nt_masked(inputs.lhs, inputs.rhs, out, inputs.index, 100)
    groups.wait()
    check()
    problem.assert_equals(out, inputs)


def test_a_product_is_captured() -> None:
    a, b = make_inputs(M, N, K, device="cuda")
    d = torch.full((M, N), torch.nan, dtype=torch.bfloat16, device="cuda")
    deep_gemm.set_batch_invariant(True)
    deep_gemm.fp8_gemm_nt(a, b, d)
    wanted = d.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        deep_gemm.fp8_gemm_nt(a, b, d)
    d.fill_(torch.nan)
    graph.replay()
    groups.wait()
    assert torch.equal(d, wanted)


# Settings


@pytest.mark.usefixtures("launched_on")
@pytest.mark.parametrize("is_set_by_another_thread", [False, True])
def test_multiprocessors_are_limited_in_all_threads(is_set_by_another_thread: bool) -> None:
    a, b = make_inputs(M, N, K, device="cuda")
    d = torch.empty(M, N, dtype=torch.bfloat16, device="cuda")

    def in_a_thread(function: Callable[..., Any], *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        thread.join(60)

    first, second = (deep_gemm.set_num_sms, SMS), (deep_gemm.fp8_gemm_nt, a, b, d)
    if is_set_by_another_thread:
        in_a_thread(*first)
        second[0](*second[1:])
    else:
        first[0](*first[1:])
        in_a_thread(*second)
    groups.wait()
    assert_correct(d, *a, *b)


def test_all_multiprocessors_are_the_device_s() -> None:
    count = torch.cuda.get_device_properties().multi_processor_count
    assert deep_gemm.get_num_sms() == count
    with pytest.raises(ValueError, match=f"num_sms is {count + 1}"):
        deep_gemm.set_num_sms(count + 1)
    assert deep_gemm.get_num_sms() == count


def test_rows_have_the_same_bits_where_that_is_set() -> None:
    """Few rows of a long K are summed in parts, where it is not."""
    deep_gemm.set_batch_invariant(True)
    (a, sa), b = make_inputs(4096, 512, 7168, device="cuda")
    whole, few = (torch.empty(m, 512, dtype=torch.bfloat16, device="cuda") for m in (4096, 3))
    deep_gemm.fp8_gemm_nt((a, sa), b, whole)
    deep_gemm.fp8_gemm_nt((a[:3], sa[:3]), b, few)
    assert torch.equal(few, whole[:3])


# What is beside products


@pytest.mark.parametrize("source", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("k", [1040, 1000])
def test_products_by_cublaslt(source: torch.dtype, dtype: torch.dtype, k: int) -> None:
    a, b = (torch.randn(rows, k, device="cuda").to(source) for rows in (M, 256))
    exact = a.double() @ b.double().mT
    c = torch.randn(M, 256, device="cuda").to(dtype)
    for wanted, added in ((exact, None), (exact + c, c)):
        d = torch.full((M, 256), torch.nan, dtype=dtype, device="cuda")
        deep_gemm.cublaslt_gemm_nt(a, b, d, added)
        assert deep_gemm.calc_diff(d, wanted) < (1e-5 if dtype is torch.bfloat16 else 6e-7)


@pytest.mark.parametrize("shape", [(4097, 57), (2, 4096, 56)], ids=str)
def test_layouts_are_those_of_the_cpu(shape: tuple[int, ...]) -> None:
    s = torch.exp2(torch.randint(-20, 20, shape).float())
    for function in (
        deep_gemm.get_mn_major_tma_aligned_tensor,
        deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor,
    ):
        there, here = function(s.cuda()), function(s)
        assert torch.equal(there.cpu(), here)
        assert there.stride() == here.stride()


def test_kernels_of_products_have_the_name_that_tests_look_for() -> None:
    a, b = make_inputs(4096, N, K, device="cuda")
    d = torch.empty(4096, N, dtype=torch.bfloat16, device="cuda")

    def call() -> None:
        deep_gemm.fp8_gemm_nt(a, b, d)

    call()
    names = {event.name for event in cold.device_events(call, 3)}
    assert len(names) == 1
    assert "gemm_" in names.pop()
    seconds, none = deep_gemm.testing.bench_kineto(call, ("gemm_", "reduce"), num_tests=5)
    assert 1e-6 < seconds < 1e-3
    assert none == 0
    assert 1e-6 < deep_gemm.testing.bench(call) < 1e-3


def test_a_call_of_no_such_kernel_has_the_time_of_all() -> None:
    s: Tensor = torch.ones(4096, 56, device="cuda")
    pack = deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor
    assert 1e-6 < deep_gemm.testing.bench_kineto(lambda: pack(s), "pack_fp32_into_ue8m0", num_tests=5) < 1e-3


FORK = """
import os, sys
import torch
sys.path.insert(0, sys.argv[1])
import deep_gemm
deep_gemm.set_num_sms(100)
deep_gemm.set_pdl(True)
deep_gemm.set_mk_alignment_for_contiguous_layout(128)
child = os.fork()
if not child:
    torch.cuda.set_device(0)
    a = deep_gemm.per_token_cast_to_fp8(torch.ones(4, 128, device="cuda"), use_ue8m0=False)
    b = deep_gemm.per_block_cast_to_fp8(torch.ones(128, 128, device="cuda"), use_ue8m0=False)
    d = torch.empty(4, 128, dtype=torch.bfloat16, device="cuda")
    deep_gemm.fp8_gemm_nt(a, b, d)
    os._exit(0 if bool((d == 128).all()) else 1)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


def test_a_child_that_is_forked_after_the_import_uses_the_gpu() -> None:
    drop_in = Path(__file__).parents[2] / "drop_in"
    done = subprocess.run([sys.executable, "-c", FORK, str(drop_in)], check=False, timeout=300)
    assert done.returncode == 0


# Gradients of weights


@pytest.mark.parametrize("added", ["nothing", "the result", "another"])
def test_a_product_by_scales_of_rows(added: str) -> None:
    a, b = (cute_gemm.quantize_1x128(torch.randn(rows, K, device="cuda")) for rows in (M, N))
    d, check = poisoned(M, N, torch.float32, "cuda")
    c = None if added == "nothing" else torch.randn(M, N, device="cuda")
    if added == "the result":
        d.copy_(c)
    deep_gemm.fp8_gemm_nt(a, b, d, d if added == "the result" else c, recipe=(1, 1, 128))
    groups.wait()
    check()
    wanted = cute_gemm.fp8_gemm_nt(a, b, out_dtype=torch.float32)
    assert torch.equal(d, wanted if c is None else wanted + c)


@pytest.mark.parametrize("m", [M, 128])
@pytest.mark.parametrize("operands", ["nt", "tn"])
def test_groups_along_k(operands: str, m: int) -> None:
    """Scales of 130 rows are copied, for TMA to load them; those of 128 are loaded as they are."""
    ks = [256, 0, 384, 128]
    x, y = (torch.randn(sum(ks), rows, device="cuda") for rows in (m, N))
    tokens = [deep_gemm.per_channel_cast_to_fp8(each, use_ue8m0=False) for each in (x, y)]
    given = tokens
    if operands == "nt":
        given = [
            (torch.cat([part.t().flatten() for part in q.view(torch.uint8).split(ks)]).view(q.dtype), s.t())
            for q, s in tokens
        ]
    layout = torch.tensor(ks, dtype=torch.int32, device="cuda")
    d = torch.full((len(ks), m, N), 3.0, device="cuda")
    getattr(deep_gemm, f"k_grouped_fp8_gemm_{operands}_contiguous")(*given, d, ks, layout, d)
    groups.wait()
    wanted = torch.stack([left.t() @ right for left, right in zip(x.split(ks), y.split(ks), strict=True)])
    assert (d[1] == 3).all()
    assert deep_gemm.calc_diff(d - 3, wanted) < 1e-3
