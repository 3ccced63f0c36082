"""What `fp8_gemm_nt` returns on valid calls, and which way a call takes from tensors to a kernel."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import cute_gemm
from cute_gemm import fp8_gemm_nt, hardware, ops

E4M3 = torch.float8_e4m3fn


def operands(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(m + n + k)
    values = [torch.randint(-8, 9, (rows, k), generator=generator).to(E4M3) for rows in (m, n)]
    scales = [
        2.0 ** torch.randint(-3, 4, (rows, -(-k // 128)), generator=generator) for rows in (m, -(-n // 128))
    ]
    return values[0], scales[0], values[1], scales[1]


def product(a: torch.Tensor, sa: torch.Tensor, b: torch.Tensor, sb: torch.Tensor) -> torch.Tensor:
    """The dequantised product, from the definition: exact here, with small integers and powers of two."""
    (m, k), n = a.shape, b.shape[0]
    column = torch.arange(k) // 128
    wide_a = a.double() * sa.double()[:, column]
    wide_b = b.double() * sb.double()[torch.arange(n) // 128][:, column]
    assert wide_a.shape == (m, k)
    return wide_a @ wide_b.t()


def roomy(x: torch.Tensor, extra: int) -> torch.Tensor:
    """The same matrix with `extra` elements between its rows, NaN there where the dtype has one."""
    rows, columns = x.shape
    room = torch.full((rows, columns + extra), float("nan")).to(x.dtype)
    room[:, :columns] = x
    return room[:, :columns]


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(0, 9),
    n=st.sampled_from([0, 8, 24, 128, 136, 264]),
    k=st.sampled_from([0, 16, 112, 128, 144, 384]),
    room=st.tuples(*[st.sampled_from([0, 16, 128])] * 3),
    m_major=st.booleans(),
    n_major=st.booleans(),
    out_dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    give_out=st.booleans(),
)
def test_valid_calls_give_the_dequantised_product(
    m: int,
    n: int,
    k: int,
    room: tuple[int, int, int],
    m_major: bool,
    n_major: bool,
    out_dtype: torch.dtype,
    give_out: bool,
) -> None:
    a, sa, b, sb = operands(m, n, k)
    expected = product(a, sa, b, sb).to(out_dtype)
    a, b = roomy(a, room[0]), roomy(b, room[1])
    sa = sa.t().contiguous().t() if m_major else sa
    sb = sb.t().contiguous().t() if n_major else sb
    if give_out:
        out = roomy(torch.full((m, n), torch.nan, dtype=out_dtype), room[2])
        assert fp8_gemm_nt((a, sa), (b, sb), out) is out
        gap = out.as_strided((m, room[2]), (n + room[2], 1), n)
        assert gap.isnan().all()
    else:
        out = fp8_gemm_nt((a, sa), (b, sb), out_dtype=out_dtype)
        assert out.is_contiguous()
    assert out.dtype is out_dtype
    assert out.shape == (m, n)
    assert torch.equal(out, expected)


def test_the_result_is_bf16_unless_asked_otherwise() -> None:
    a, sa, b, sb = operands(4, 8, 16)
    assert fp8_gemm_nt((a, sa), (b, sb)).dtype is torch.bfloat16
    assert fp8_gemm_nt((a, sa), (b, sb), out_dtype=torch.float32).dtype is torch.float32


def test_a_given_out_decides_the_dtype() -> None:
    a, sa, b, sb = operands(4, 8, 16)
    out = torch.empty(4, 8)
    for out_dtype in (torch.bfloat16, torch.float32):
        assert fp8_gemm_nt((a, sa), (b, sb), out, out_dtype=out_dtype) is out
        assert out.dtype is torch.float32


@pytest.mark.parametrize(("m", "n", "k"), [(0, 8, 128), (4, 0, 128), (4, 8, 0), (0, 0, 0)])
def test_nothing_to_multiply(monkeypatch: pytest.MonkeyPatch, m: int, n: int, k: int) -> None:
    # A kernel could not even be launched: no call goes further.
    monkeypatch.setattr(ops.reference, "fp8_gemm_nt", None)
    a, sa, b, sb = operands(m, n, k)
    result = fp8_gemm_nt((a, sa), (b, sb))
    assert result.shape == (m, n)
    assert result.dtype is torch.bfloat16
    assert not result.any()
    out = torch.full((m, n), torch.nan)
    assert fp8_gemm_nt((a, sa), (b, sb), out) is out
    assert not out.any()


def test_an_empty_out_inside_an_input_is_no_overlap() -> None:
    _, _, b, sb = operands(0, 8, 128)
    out = b.view(torch.uint8)[:, :16].view(torch.bfloat16)[:0]
    assert fp8_gemm_nt((b[:0], torch.empty(0, 1)), (b, sb), out) is out


def test_scales_may_be_broadcast() -> None:
    a, _, b, _ = operands(4, 136, 256)
    sa, sb = torch.tensor(0.5), torch.tensor([[2.0], [4.0]])
    result = fp8_gemm_nt((a, sa.expand(4, 2)), (b, sb.expand(2, 2)), out_dtype=torch.float32)
    assert torch.equal(result, product(a, sa.expand(4, 2), b, sb.expand(2, 2)).float())


@pytest.mark.parametrize("row_stride", [0, 1, 16, 40])
def test_a_single_row_may_have_any_stride(row_stride: int) -> None:
    a, sa, b, sb = operands(1, 8, 32)
    expected = product(a, sa, b, sb).bfloat16()
    out = torch.empty(1, 8, dtype=torch.bfloat16).as_strided((1, 8), (row_stride, 1))
    fp8_gemm_nt((a.as_strided((1, 32), (row_stride, 1)), sa), (b, sb), out)
    assert torch.equal(out, expected)


def test_a_square_of_one_operand_reads_the_same_memory_twice() -> None:
    a, sa, _, sb = operands(8, 8, 128)
    assert torch.equal(fp8_gemm_nt((a, sa), (a, sb)), product(a, sa, a, sb).bfloat16())


def test_out_from_inference_mode_is_written_as_a_kernel_would() -> None:
    a, sa, b, sb = operands(4, 8, 16)
    with torch.inference_mode():
        out = torch.zeros(4, 8)
    fp8_gemm_nt((a, sa), (b, sb), out)
    assert torch.equal(out, product(a, sa, b, sb).float())


@pytest.mark.parametrize("k", [0, 16])
def test_autograd_notices_a_new_value_in_out(k: int) -> None:
    a, sa, b, sb = operands(4, 8, k)
    out = torch.ones(4, 8)
    loss = (torch.ones(4, 8, requires_grad=True) * out).sum()
    fp8_gemm_nt((a, sa), (b, sb), out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Kernels(ModuleType):
    """Stands where the module with the kernels does, and notes on which device and strides it is called."""

    def __init__(self) -> None:
        super().__init__("dispatch")
        self.calls: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []
        self.device = 0

    def fp8_gemm_nt(self, *arguments: torch.Tensor) -> None:
        a, sa, b, sb, out = arguments
        self.calls.append((self.device, a.stride(), out.stride()))
        out.copy_(product(a, sa, b, sb))

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        before, self.device = self.device, device
        yield
        self.device = before


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """Two Hopper GPUs, of which 0 is current."""
    kernels = Kernels()
    monkeypatch.setattr(cute_gemm, "dispatch", kernels, raising=False)
    monkeypatch.setattr(hardware, "is_hopper", lambda index: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: kernels.device)
    monkeypatch.setattr(torch.cuda, "device", kernels.on)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ops._kernels.cache_clear()
    ops._has_one_device.cache_clear()
    yield kernels
    ops._kernels.cache_clear()
    ops._has_one_device.cache_clear()


@pytest.mark.parametrize("index", [0, 1])
def test_the_launch_is_on_the_device_of_the_tensors(kernels: Kernels, index: int) -> None:
    a, sa, b, sb = operands(4, 8, 32)
    out = torch.empty(4, 8)
    ops._launch(index, a, sa, b, sb, out)
    assert kernels.calls == [(index, (32, 1), (8, 1))]
    assert kernels.device == 0
    assert torch.equal(out, product(a, sa, b, sb).float())


def test_a_single_row_is_launched_with_strides_that_tma_accepts(kernels: Kernels) -> None:
    a, sa, b, sb = operands(1, 8, 32)
    out = torch.empty(1, 8).as_strided((1, 8), (3, 1))
    ops._launch(0, a.as_strided((1, 32), (0, 1)), sa, b, sb, out)
    assert kernels.calls == [(0, (32, 1), (8, 1))]
    assert torch.equal(out, product(a, sa, b, sb).float())


def test_other_gpus_are_named(monkeypatch: pytest.MonkeyPatch, kernels: Kernels) -> None:
    monkeypatch.setattr(hardware, "is_hopper", lambda index: False)
    monkeypatch.setattr(hardware, "describe", lambda index: f"an A100 with the number {index}")
    a, sa, b, sb = operands(4, 8, 32)
    out = torch.full((4, 8), 7.0)
    with pytest.raises(RuntimeError) as info:
        ops._launch(1, a, sa, b, sb, out)
    assert "wanted a Hopper GPU, compute capability 9.0" in str(info.value)
    assert str(info.value).startswith("the tensors are on cuda:1, which is an A100 with the number 1; ")
    assert (out == 7.0).all()
    assert not kernels.calls


def test_a_device_is_asked_once(monkeypatch: pytest.MonkeyPatch, kernels: Kernels) -> None:
    asked = []
    monkeypatch.setattr(hardware, "is_hopper", lambda index: asked.append(index) or True)
    a, sa, b, sb = operands(4, 8, 32)
    for index in (0, 1, 0, 1):
        ops._launch(index, a, sa, b, sb, torch.empty(4, 8))
    assert asked == [0, 1]


def test_the_import_and_the_cpu_need_no_dsl() -> None:
    program = """
import sys, torch, cute_gemm
a, sa = cute_gemm.quantize_1x128(torch.ones(4, 128))
b, sb = cute_gemm.quantize_128x128(torch.ones(8, 128))
assert (cute_gemm.fp8_gemm_nt((a, sa), (b, sb)) == 128).all()
print([name for name in sys.modules if name.split(".")[0] in ("cutlass", "tvm_ffi")])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_all_public_names_are_there() -> None:
    assert all(getattr(cute_gemm, name).__doc__ for name in cute_gemm.__all__)
    assert {"fp8_gemm_nt", "quantize_1x128", "dequantize_128x128", "__version__"} <= set(cute_gemm.__all__)
