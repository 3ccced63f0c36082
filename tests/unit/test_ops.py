"""What `fp8_gemm_nt` returns on valid calls, and which way calls take from tensors to a kernel."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from stand_ins import stand_in_card

import cute_gemm
from cute_gemm import fp8_gemm_nt, reference
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, LAYOUTS, Layout, resolve
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import hardware, launcher, selection
from cute_gemm.runtime.selection import Launch
from cute_gemm.testing import (
    GroupedInputs,
    assert_grouped_correct,
    make_contiguous_inputs,
    make_masked_inputs,
    make_offsets_inputs,
    poisoned_rows,
)

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
    if m and n:
        # Zeros are written, not computed.
        monkeypatch.setattr(torch.Tensor, "double", None)
    else:
        monkeypatch.setattr(reference, "fp8_gemm_nt", None)
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


class Seen(NamedTuple):
    """What a kernel was launched with."""

    layout: Layout
    device: int
    strides: list[tuple[int, ...]]  # of all tensors
    numbers: list[int]  # what it is given of the grouping


class Kernels:
    """Stands where kernels do: notes each launch, and computes in FP64."""

    def __init__(self) -> None:
        self.launches: list[Seen] = []
        self.device = 0
        self.computes = True

    def choose(self, problem: GemmProblem, tma_scales: bool, device: int) -> KernelConfig:
        return KernelConfig(64, 64, 4, layout=problem.layout)

    def prepare(self, problem: GemmProblem, config: KernelConfig, pdl: bool, has_epilogue: bool) -> Launch:
        return Launch(functools.partial(self.launch, problem.layout, problem.groups), 132, 0, False)

    def launch(self, layout: Layout, groups: int, *arguments: torch.Tensor | int) -> None:
        a, sa, b, sb, out, *options_and_grouping = arguments
        options, grouping = options_and_grouping[:4], options_and_grouping[4:]
        assert options == [132, 0, 0, 0]
        tensors = [x for x in (a, sa, b, sb, out, *grouping) if isinstance(x, torch.Tensor)]
        numbers = [x for x in grouping if isinstance(x, int)]
        self.launches.append(Seen(layout, self.device, [x.stride() for x in tensors], numbers))
        if not self.computes:
            return
        if layout.index is None:
            out.copy_(product(a, sa, b, sb))
            return
        index, count = (*grouping, 1)[:2]
        rows = resolve(layout.row_groups)(index, count, a.shape[-2], groups)
        for group in range(groups):
            mine = (rows == group).nonzero(as_tuple=True)
            values = product(reference.take_rows(a, mine), sa[mine], b[group], sb[group])
            out[mine] = values.to(out.dtype)

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        before, self.device = self.device, device
        yield
        self.device = before


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """Two Hopper GPUs, of which 0 is current."""
    kernels = Kernels()
    monkeypatch.setattr(selection, "choose", kernels.choose)
    monkeypatch.setattr(selection, "prepare", kernels.prepare)
    monkeypatch.setattr(hardware, "is_hopper", lambda index: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: kernels.device)
    monkeypatch.setattr(torch.cuda, "device", kernels.on)
    stand_in_card(monkeypatch, 132)
    launcher.forget()
    launcher.require_hopper.cache_clear()
    yield kernels
    launcher.forget()
    launcher.require_hopper.cache_clear()


def on_gpu(x: torch.Tensor, index: int = 0) -> torch.Tensor:
    """A tensor that says it is on a GPU."""

    class OnGpu(torch.Tensor):
        is_cuda, is_cpu = True, False

        def get_device(self) -> int:
            return index

    return x.as_subclass(OnGpu)


@pytest.mark.parametrize("give_out", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_the_launch_is_on_the_device_of_the_tensors(kernels: Kernels, index: int, give_out: bool) -> None:
    a, sa, b, sb = operands(4, 8, 32)
    out = torch.empty(4, 8) if give_out else None
    result = fp8_gemm_nt((on_gpu(a, index), sa), (b, sb), out, out_dtype=torch.float32)
    strides = [(32, 1), (1, 1), (32, 1), (1, 1), (8, 1)]
    assert kernels.launches == [Seen(DENSE, index, strides, [])]
    assert kernels.device == 0
    assert result is out or not give_out
    assert torch.equal(result, product(a, sa, b, sb).float())


def test_a_single_row_is_launched_with_strides_that_tma_accepts(kernels: Kernels) -> None:
    a, sa, b, sb = operands(1, 8, 32)
    out = torch.empty(1, 8).as_strided((1, 8), (3, 1))
    assert fp8_gemm_nt((on_gpu(a.as_strided((1, 32), (0, 1))), sa), (b, sb), out) is out
    assert [kernels.launches[0].strides[i] for i in (0, 2, 4)] == [(32, 1), (32, 1), (8, 1)]
    assert torch.equal(out, product(a, sa, b, sb).float())


def test_autograd_notices_what_a_kernel_wrote(kernels: Kernels) -> None:
    a, sa, b, sb = operands(4, 8, 16)
    out = torch.ones(4, 8)
    version = out._version
    kernels.computes = False
    fp8_gemm_nt((on_gpu(a), sa), (b, sb), out)
    assert out._version > version


@pytest.mark.parametrize(("m", "n", "k"), [(0, 8, 128), (4, 0, 128), (4, 8, 0)])
def test_nothing_to_multiply_launches_nothing(kernels: Kernels, m: int, n: int, k: int) -> None:
    a, sa, b, sb = operands(m, n, k)
    assert not fp8_gemm_nt((on_gpu(a), sa), (b, sb)).any()
    assert not kernels.launches


def test_other_gpus_are_named(monkeypatch: pytest.MonkeyPatch, kernels: Kernels) -> None:
    monkeypatch.setattr(hardware, "is_hopper", lambda index: False)
    monkeypatch.setattr(hardware, "describe", lambda index: f"an A100 with the number {index}")
    a, sa, b, sb = operands(4, 8, 32)
    out = torch.full((4, 8), 7.0)
    with pytest.raises(RuntimeError) as info:
        fp8_gemm_nt((on_gpu(a, 1), sa), (b, sb), out)
    assert "wanted a Hopper GPU, compute capability 9.0" in str(info.value)
    assert str(info.value).startswith("the tensors are on cuda:1, which is an A100 with the number 1; ")
    assert (out == 7.0).all()
    assert not kernels.launches


def test_a_device_is_asked_once(monkeypatch: pytest.MonkeyPatch, kernels: Kernels) -> None:
    asked = []
    monkeypatch.setattr(hardware, "is_hopper", lambda index: asked.append(index) or True)
    a, sa, b, sb = operands(4, 8, 32)
    for index in (0, 1, 0, 1):
        fp8_gemm_nt((on_gpu(a, index), sa), (b, sb))
    assert asked == [0, 1]
    assert [launch.device for launch in kernels.launches] == [0, 1, 0, 1]


def grouped_call(
    operation: str, inputs: GroupedInputs, index: int, out: torch.Tensor | None = None
) -> torch.Tensor:
    """A call on GPU `index`, with a number of 2 where the operation takes one."""
    number = {"offsets": {"alignment": 2}, "masked": {"expected_rows": 2}}.get(operation, {})
    (a, sa), call = inputs.lhs, getattr(cute_gemm, f"m_grouped_fp8_gemm_nt_{operation}")
    return call((on_gpu(a, index), sa), inputs.rhs, inputs.index, out=out, **number)


GROUPED = {
    "contiguous": (lambda n, k: make_contiguous_inputs([3, 130], n, k, m=390), []),
    "offsets": (lambda n, k: make_offsets_inputs([3, 130], n, k, alignment=2), [2]),
    "masked": (lambda n, k: make_masked_inputs([3, 130], 150, n, k), []),
}
every_grouped = pytest.mark.parametrize("operation", GROUPED)


@every_grouped
@pytest.mark.parametrize("index", [0, 1])
def test_a_grouped_launch_is_on_the_device_of_the_tensors(
    kernels: Kernels, operation: str, index: int
) -> None:
    make, numbers = GROUPED[operation]
    inputs = make(24, 144)
    out, check = poisoned_rows(inputs.row_groups >= 0, 24, torch.bfloat16)
    assert grouped_call(operation, inputs, index, out) is out
    check()
    assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)
    (launch,) = kernels.launches
    assert (launch.layout, launch.device) == (LAYOUTS[operation], index)
    assert launch.numbers == numbers
    assert launch.strides == [x.stride() for x in (*inputs.lhs, *inputs.rhs, out, inputs.index)]
    assert kernels.device == 0
    allocated = grouped_call(operation, inputs, index)
    assert allocated.dtype is torch.bfloat16
    assert allocated.is_contiguous()
    assert_grouped_correct(allocated, inputs.lhs, inputs.rhs, inputs.row_groups)


@every_grouped
def test_autograd_notices_what_a_grouped_kernel_wrote(kernels: Kernels, operation: str) -> None:
    inputs = GROUPED[operation][0](24, 144)
    out = torch.ones(*inputs.row_groups.shape, 24)
    version = out._version
    kernels.computes = False
    grouped_call(operation, inputs, 0, out)
    assert out._version > version


@every_grouped
@pytest.mark.parametrize(("n", "k"), [(0, 144), (24, 0)])
def test_grouped_without_n_or_k_launches_nothing(kernels: Kernels, operation: str, n: int, k: int) -> None:
    inputs = GROUPED[operation][0](n, k)
    out, check = poisoned_rows(inputs.row_groups >= 0, n, torch.bfloat16)
    assert grouped_call(operation, inputs, 0, out) is out
    check()
    assert not out[inputs.row_groups >= 0].any()
    assert not kernels.launches


@every_grouped
def test_grouped_without_rows_launches_nothing(kernels: Kernels, operation: str) -> None:
    inputs = {
        "contiguous": make_contiguous_inputs([0, 0], 8, 16),
        "offsets": make_offsets_inputs([0, 0], 8, 16),
        "masked": make_masked_inputs([0, 0], 0, 8, 16),
    }[operation]
    assert grouped_call(operation, inputs, 0).shape == (*inputs.row_groups.shape, 8)
    assert not kernels.launches


def misleading(x: torch.Tensor) -> torch.Tensor:
    """The same tensor, where the strides of extents of 1 are nonsense."""
    strides = [3 if count == 1 else step for count, step in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


def first_row(inputs: GroupedInputs) -> GroupedInputs:
    a, sa = inputs.lhs
    return GroupedInputs((a[:1], sa[:1]), inputs.rhs, inputs.index[:1], inputs.row_groups[:1])


@pytest.mark.parametrize(
    ("operation", "inputs", "strides"),
    [
        ("contiguous", first_row(make_contiguous_inputs([1, 0], 8, 16)), {"a": (16, 1), "index": (1,)}),
        ("offsets", make_offsets_inputs([5], 8, 16), {"b": (16, 16, 1), "index": (1,)}),
        ("masked", make_masked_inputs([1, 1], 1, 8, 16), {"a": (16, 16, 1), "out": (8, 8, 1)}),
        ("masked", make_masked_inputs([5], 7, 8, 16), {"a": (16, 16, 1), "out": (8, 8, 1), "index": (1,)}),
    ],
    ids=["one row", "one group", "one row each", "one matrix"],
)
def test_extents_of_one_are_launched_with_strides_that_tma_accepts(
    kernels: Kernels, operation: str, inputs: GroupedInputs, strides: dict[str, tuple[int, ...]]
) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    odd = GroupedInputs((misleading(a), sa), (misleading(b), sb), misleading(inputs.index), inputs.row_groups)
    out = misleading(torch.empty(*inputs.row_groups.shape, 8))
    grouped_call(operation, odd, 0, out)
    names = ("a", "sa", "b", "sb", "out", "index")
    launched = dict(zip(names, kernels.launches[0].strides, strict=True))
    assert {name: launched[name] for name in strides} == strides
    assert_grouped_correct(out, (a, sa), (b, sb), inputs.row_groups)


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
    operations = {"fp8_gemm_nt", *(f"m_grouped_fp8_gemm_nt_{layout}" for layout in GROUPED)}
    others = {"contiguous_alignment", "quantize_1x128", "dequantize_128x128", "m_major", "__version__"}
    assert operations | others <= set(cute_gemm.__all__)
