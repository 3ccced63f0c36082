"""What DeepGEMM has beside products: layouts of scales, casts, timers, comparisons, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from deep_gemm_process import forget_settings
from torch import Tensor

import cute_gemm
from cute_gemm.compat import deep_gemm
from cute_gemm.compat.deep_gemm import testing, utils
from cute_gemm.measure import clocks, cold

NAN = float("nan")


@pytest.fixture(autouse=True)
def nothing_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


# Layouts


@pytest.mark.parametrize(
    ("size", "element_size", "aligned"), [(1, 4, 4), (4, 4, 4), (5, 4, 8), (17, 1, 32), (9, 2, 16)]
)
def test_sizes_take_a_multiple_of_16_bytes(size: int, element_size: int, aligned: int) -> None:
    assert utils.get_tma_aligned_size(size, element_size) == aligned
    with pytest.raises(ValueError, match="element_size is 3"):
        utils.get_tma_aligned_size(size, 3)


@pytest.mark.parametrize("shape", [(5, 3), (4, 1), (1, 3), (2, 5, 3), (1, 4, 2)], ids=str)
@pytest.mark.parametrize("is_transposed", [False, True])
def test_scales_become_m_major(shape: tuple[int, ...], is_transposed: bool) -> None:
    s = torch.randn(shape)
    s = s.mT.contiguous().mT if is_transposed else s
    made = deep_gemm.get_mn_major_tma_aligned_tensor(s)
    *groups, rows, columns = shape
    padded = -(-rows // 4) * 4
    assert torch.equal(made, s)
    assert made.stride() == (*(columns * padded for _ in groups), 1, padded)
    assert deep_gemm.get_mn_major_tma_aligned_tensor(made) is made
    assert torch.equal(deep_gemm.get_col_major_tma_aligned_tensor(s), s)


def packed(s: Tensor) -> Tensor:
    """Exponents of powers of two, one after the other, four in a word, by Python's numbers."""
    rows = [
        [int(x).bit_length() + 126 if x >= 1 else 127 - (int(1 / x).bit_length() - 1) for x in row]
        for row in s.tolist()
    ]
    words = [[int.from_bytes(bytes(row[i : i + 4]), "little") for i in range(0, len(row), 4)] for row in rows]
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)


def powers_of_two(*shape: int) -> Tensor:
    return torch.ldexp(torch.ones(shape), torch.randint(-20, 20, shape))


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (4, 4), (6, 9), (1, 1)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_packed_exponents_are_m_major(rows: int, columns: int, is_transposed: bool) -> None:
    s = powers_of_two(2, rows, columns)
    s = s.mT.contiguous().mT if is_transposed else s
    padded, words = -(-rows // 4) * 4, -(-columns // 4)
    of_groups = deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor(s)
    assert (of_groups.dtype, of_groups.stride()) == (torch.int32, (words * padded, 1, padded))
    for group in range(2):
        one = deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor(s[group], None)
        assert one.stride() == (1, padded)
        assert torch.equal(one, packed(s[group]))
        assert torch.equal(of_groups[group], one)
    # Four exponents of all ones make a word that is a NaN.
    assert deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor(torch.full((1, 4), NAN)).item() == -1
    with pytest.raises(TypeError, match=r"wanted torch\.float32"):
        deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor(s.half())


@pytest.mark.parametrize("gran_k", [32, 128])
@pytest.mark.parametrize("counts", [[5, 0, 4, 1], [0, 0], [8]], ids=str)
def test_packed_exponents_of_groups_along_k(counts: list[int], gran_k: int) -> None:
    m, ks = 8, [count * gran_k for count in counts]
    s = powers_of_two(sum(counts), m)
    layout = torch.tensor(ks, dtype=torch.int32)
    made = deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(s, layout, ks, gran_k, gran_k)
    wanted = [packed(each.T).T for each in s.split(counts) if len(each)]
    assert torch.equal(made, torch.cat(wanted) if wanted else torch.empty(0, m, dtype=torch.int32))
    assert made.is_contiguous()
    # As vLLM calls it.
    again = deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(s, layout, ks, gran_k)
    assert torch.equal(again, made)
    with pytest.raises(ValueError, match="by ks_cpu and gran_k"):
        deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(s, layout, [*ks, 1], gran_k, gran_k)
    for given in ({"ks_cpu": ks, "use_psum_layout": True}, {"ks_cpu": None}):
        with pytest.raises(NotImplementedError, match="use_psum_layout=True"):
            deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(
                s, layout, gran_k=gran_k, k_alignment=gran_k, **given
            )


@pytest.mark.parametrize("groups", [None, 2])
def test_scales_in_the_layout_of_products(groups: int | None) -> None:
    transform = deep_gemm.transform_sf_into_required_layout
    assert deep_gemm.utils.layout.transform_sf_into_required_layout is transform
    several = () if groups is None else (groups,)
    sfa, sfb = torch.randn(*several, 130, 3), torch.randn(*several, 2, 3)
    for given in (
        {"recipe": (1, 128, 128), "is_sfa": True, "disable_ue8m0_cast": True},
        {"recipe": (1, 128)},
    ):
        made = transform(sfa, mn=130, k=272, num_groups=groups, **given)
        assert torch.equal(made, sfa)
        assert made.stride()[-2:] == (1, 132)
    assert transform(sfb, 136, 272, (1, 128, 128), groups, False) is sfb
    assert transform(sfb, 136, 272, (128, 128), groups) is sfb
    refused: list[tuple[Any, type[Exception], str]] = [
        ((sfa, 130, 272, (1, 128, 128), groups), ValueError, "wanted a bool beside a recipe of three"),
        ((sfa, 130, 272, (1, 128), groups, True), ValueError, "wanted a bool beside a recipe of three"),
        ((sfa, 130, 272, (1, 32), groups), ValueError, "says scales for"),
        ((sfa, 131, 272, (1, 128), groups), ValueError, "sf has shape"),
        ((sfa, 130, 272, (1, 128), 5), ValueError, "sf has shape"),
        ((sfa.int(), 130, 272, (1, 128), groups), TypeError, "sf has dtype"),
    ]
    for arguments, error, words in refused:
        with pytest.raises(error, match=words):
            transform(*arguments)


# Casts


def test_arithmetic() -> None:
    assert [deep_gemm.ceil_div(x, 4) for x in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [deep_gemm.align(x, 4) for x in (0, 1, 4, 5)] == [0, 4, 4, 8]
    given = torch.tensor([1.0, 1.0001, -3.0, 0.0, 2.0**-130, 2.0**127, float("inf")])
    wanted = torch.tensor([1.0, 2.0, 4.0, 2.0**-126, 2.0**-126, 2.0**127, 2.0**127])
    assert torch.equal(deep_gemm.ceil_to_ue8m0(given), wanted)


def test_exponents_are_packed_and_unpacked() -> None:
    s = powers_of_two(3, 8)
    words = deep_gemm.pack_ue8m0_to_int(s)
    assert torch.equal(words, packed(s))
    assert torch.equal(deep_gemm.unpack_ue8m0_from_int(words), s)
    with pytest.raises(ValueError, match="wanted a multiple of 4"):
        deep_gemm.pack_ue8m0_to_int(s[:, :3])
    for bad in (3.0, -2.0):
        with pytest.raises(ValueError, match="others than powers of two"):
            deep_gemm.pack_ue8m0_to_int(torch.full((1, 4), bad))


@pytest.mark.parametrize("use_ue8m0", [False, True])
@pytest.mark.parametrize("gran_k", [32, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_casts_keep_what_e4m3_holds(dtype: torch.dtype, gran_k: int, use_ue8m0: bool) -> None:
    x = (torch.randn(256, 200) * torch.logspace(-4, 4, 200)).to(dtype)

    def spread(s: Tensor, rows: int, columns: int) -> Tensor:
        return s.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: x.shape[0], : x.shape[1]]

    for cast, rows, columns, shape in (
        (deep_gemm.per_token_cast_to_fp8, 1, gran_k, (256, -(-200 // gran_k))),
        (deep_gemm.per_channel_cast_to_fp8, gran_k, 1, (256 // gran_k, 200)),
        (deep_gemm.per_block_cast_to_fp8, gran_k, gran_k, (256 // gran_k, -(-200 // gran_k))),
    ):
        q, s = cast(x, use_ue8m0, gran_k)
        assert (q.shape, q.dtype, q.is_contiguous(), s.shape) == (x.shape, torch.float8_e4m3fn, True, shape)
        scales = spread(s, rows, columns)
        error = (q.float() * scales - x.float()).abs()
        assert (error <= x.float().abs() / 16 + scales * 2**-10).all()
        assert int(q.float().abs().max()) in ((448,) if not use_ue8m0 else range(224, 449))
        if use_ue8m0:
            assert torch.equal(deep_gemm.ceil_to_ue8m0(s), s)
        given = deep_gemm.per_custom_dims_cast_to_fp8(x[:, :gran_k], (0,), use_ue8m0)
        first = deep_gemm.per_token_cast_to_fp8(x[:, :gran_k].contiguous(), use_ue8m0, gran_k)
        assert torch.equal(given[0].float(), first[0].float())
        assert torch.equal(given[1], first[1][:, 0])


def test_casts_by_128_are_the_quantisers() -> None:
    x = torch.randn(70, 300, dtype=torch.bfloat16)
    x[3] = 0
    for ours, theirs in (
        (cute_gemm.quantize_1x128, deep_gemm.per_token_cast_to_fp8),
        (cute_gemm.quantize_128x128, deep_gemm.per_block_cast_to_fp8),
    ):
        for wanted, made in zip(ours(x, power_of_two_scales=True), theirs(x, use_ue8m0=True), strict=True):
            assert torch.equal(wanted.float(), made.float())
    q, words = deep_gemm.per_token_cast_to_fp8(x[:, :256].repeat(1, 2), True, use_packed_ue8m0=True)
    assert (q.shape, words.shape, words.dtype) == ((70, 512), (70, 1), torch.int32)
    with pytest.raises(ValueError, match="wanted a multiple of gran_k = 128"):
        deep_gemm.per_channel_cast_to_fp8(x, False)
    with pytest.raises(ValueError, match="wanted two dimensions"):
        deep_gemm.per_token_cast_to_fp8(x[None], False)
    with pytest.raises(TypeError, match="x has dtype"):
        deep_gemm.per_block_cast_to_fp8(x.double(), False)


# Comparisons


def test_the_difference_of_results() -> None:
    x = torch.randn(200, 300)
    assert deep_gemm.calc_diff(x, x).abs() < 1e-15
    assert deep_gemm.calc_diff(x, -x) == 2
    assert deep_gemm.calc_diff(0 * x, 0 * x) == 0
    assert abs(deep_gemm.calc_diff(x, 1.01 * x) - 0.5 * 0.01**2) < 1e-6
    assert deep_gemm.calc_diff(x, torch.where(x == x[3, 4], NAN, x)).isnan()


def test_bytes_are_counted() -> None:
    x = torch.zeros(3, 4, dtype=torch.bfloat16)
    assert testing.count_bytes(x, (x.float(), [x, None]), None) == 24 + 48 + 24


def test_bits_are_compared() -> None:
    x = torch.tensor([[1.0, NAN], [0.0, 3.0]])
    testing.assert_bitwise_equal(x, x.clone())
    testing.assert_bitwise_equal(x, x.mT.contiguous().mT)
    with pytest.raises(
        AssertionError, match=r"1 of 16 bytes differ \(zero\), first in the element at \(1, 0\): 0.0 and -0.0"
    ):
        testing.assert_bitwise_equal(x, torch.tensor([[1.0, NAN], [-0.0, 3.0]]), "zero")
    for other in (x.double(), x[0]):
        with pytest.raises(AssertionError, match="not alike"):
            testing.assert_bitwise_equal(x, other)


# What tests ask


def test_tests_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    ran = []
    for condition in (True, False):

        @testing.test_filter(lambda condition=condition: condition)
        def sample(x: int) -> None:
            ran.append(x)

        sample(7)
    assert ran == [7]
    assert capsys.readouterr().out.startswith("sample: left out")


def test_variables_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "1")
    seen = []

    def look(is_to_fail: bool) -> None:
        seen.append(os.environ.get("SOME_VARIABLE"))
        if is_to_fail:
            raise RuntimeError

    testing.ignore_env("SOME_VARIABLE", lambda: False)(look)(False)
    hides = testing.ignore_env("SOME_VARIABLE", lambda: True)(look)
    hides(False)
    with pytest.raises(RuntimeError):
        hides(is_to_fail=True)
    assert seen == ["1", None, None]
    assert os.environ["SOME_VARIABLE"] == "1"


def test_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    assert testing.get_arch_major() == 9


# Timers


@pytest.fixture
def profiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels, by name, that calls of `profiled.append` launch: each takes as many microseconds as its name
    has letters."""
    launched: list[str] = []

    class Buffer:
        def fill_(self, value: int) -> None:
            launched.append("flush")

    def device_events(fn: Any, repeats: int) -> list[cold.DeviceEvent]:
        launched.clear()
        for _ in range(repeats):
            fn()
        return [cold.DeviceEvent(name, 0.0, len(name)) for name in launched]

    monkeypatch.setattr(clocks, "require_cuda", lambda function: None)
    monkeypatch.setattr(cold, "flush_buffer", Buffer)
    monkeypatch.setattr(cold, "device_events", device_events)
    return launched


def test_kernels_are_timed_by_name(profiled: list[str]) -> None:
    def call() -> None:
        profiled.extend(["my_gemm_a", "my_gemm_b2", "other"])

    assert testing.bench_kineto(call, "gemm_") == pytest.approx(19e-6)
    assert testing.bench_kineto(call, ("gemm_", "reduce"), 2, flush_l2=False) == pytest.approx((19e-6, 0))
    barriers = []
    assert testing.bench_kineto(call, "other", 3, barrier=lambda: barriers.append(1)) == pytest.approx(5e-6)
    assert barriers


def test_other_names_are_those_of_all_kernels(profiled: list[str]) -> None:
    """Tests that divide by the time of a kernel which has another name here get that of the call."""

    def call() -> None:
        profiled.extend(["a", "bc"])

    assert testing.bench_kineto(call, "gemm_") == pytest.approx(3e-6)
    assert testing.bench_kineto(call, ("nvjet", "reduce")) == pytest.approx((3e-6, 0))


def test_other_profilers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DG_USE_NVIDIA_TOOLS", "1")
    assert testing.bench_kineto(lambda: None, "gemm_") == 1
    assert testing.bench_kineto(lambda: None, ("a", "b")) == (1, 1)
    with pytest.raises(NotImplementedError, match="trace_path"):
        testing.bench_kineto(lambda: None, "gemm_", trace_path="trace.json")


def test_calls_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(clocks, "require_cuda", lambda function: None)
    monkeypatch.setattr(clocks, "synchronize", lambda: None)
    monkeypatch.setattr(clocks, "elapsed_us", lambda fn, count: float(count))
    assert testing.bench(lambda: calls.append(1), 3, 20) == pytest.approx(20e-6)
    assert len(calls) == 3


@pytest.mark.parametrize("timer", [lambda: testing.bench(len), lambda: testing.bench_kineto(len, "gemm_")])
def test_timers_need_a_device(timer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        timer()


# Processes

GATHER = """
import sys
import torch
import torch.distributed as distributed
from cute_gemm.compat.deep_gemm import uneven_all_gather

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", world_size=2, rank=rank)
for dim in (0, 1):
    own = torch.full((2, 3), float(rank)).narrow(dim, 0, 1 + rank)
    gathered = uneven_all_gather(own, dim)
    wanted = [torch.full((2, 3), float(each)).narrow(dim, 0, 1 + each) for each in range(2)]
    assert torch.equal(gathered, torch.cat(wanted, dim)), gathered
distributed.destroy_process_group()
"""


def test_tensors_of_several_processes_are_joined(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", GATHER, str(rank), str(tmp_path / "store")] for rank in range(2)]
    processes = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
