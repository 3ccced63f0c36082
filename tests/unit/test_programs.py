"""Launching a program of one's own: what it is called with, under which rules, and what does not fit it."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stand_ins import stand_in_card

import cute_gemm
from cute_gemm import epilogue, runtime
from cute_gemm.kernels.epilogue import Identity
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags, launch_flags
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED, OFFSETS
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.recipe import WHOLE, Recipe
from cute_gemm.quantize import m_major
from cute_gemm.runtime import Program, build, builder, launch, programs, selection, semaphores
from cute_gemm.testing import make_inputs, make_masked_inputs, make_offsets_inputs

M, N, K = 70, 136, 2048
CONFIG = KernelConfig(64, 64, 4)
DRAWN = KernelConfig(64, 64, 4, dynamic_persistence=True)


class Kernel:
    """In place of a kernel: notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> None:
        self.calls.append(arguments)


class FailingKernel(Kernel):
    """Does not launch when first called."""

    def __call__(self, *arguments: Any) -> None:
        super().__call__(*arguments)
        if len(self.calls) == 1:
            raise RuntimeError("does not launch")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """All tensors are taken to be on a Hopper GPU of 132 multiprocessors."""
    kernel = Kernel()
    monkeypatch.setattr(builder, "instance", lambda of: kernel)
    monkeypatch.setattr(programs, "_require_gpu", lambda call: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    stand_in_card(monkeypatch, 132)
    monkeypatch.setattr(semaphores, "address", lambda device: 4096)
    return kernel


def test_a_program_is_launched_as_the_operation_would(kernel: Kernel) -> None:
    lhs, rhs = make_inputs(M, N, K)
    out = torch.empty(M, N, dtype=torch.bfloat16)
    version = out._version
    assert launch(Program(CONFIG, kernel, ()), lhs, rhs, out=out) is out
    assert out._version > version
    ((a, sa, b, sb, result, num_sms, flags, semaphore, status),) = kernel.calls
    for given, taken in zip((*lhs, *rhs, out), (a, sa, b, sb, result), strict=True):
        assert given.data_ptr() == taken.data_ptr()
        assert given.shape == taken.shape
    assert flags == launch_flags(GemmProblem(M, N, K), CONFIG, pdl=True)
    assert (num_sms, semaphore, status) == (132, 0, 0)


def test_the_first_launch_that_succeeds_is_not_captured(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = FailingKernel()
    monkeypatch.setattr(builder, "instance", lambda of: failing)
    monkeypatch.setattr(selection, "_launched", set())
    capturing = [False]
    monkeypatch.setattr(selection, "_is_capturing", lambda: capturing[0])
    program = Program(CONFIG, failing, ())
    operands = make_inputs(M, N, K)
    with pytest.raises(RuntimeError, match="does not launch"):
        launch(program, *operands)
    capturing[0] = True
    with pytest.raises(RuntimeError, match=r"with FailingKernel, which was not called on .* before"):
        launch(program, *operands)
    assert len(failing.calls) == 1
    capturing[0] = False
    launch(program, *operands)
    capturing[0] = True
    launch(program, *operands)
    with pytest.raises(RuntimeError, match="before the capture"):
        launch(CONFIG, *operands)


def test_a_result_is_allocated_in_the_configurations_type(kernel: Kernel) -> None:
    lhs, rhs = make_inputs(M, N, K)
    result = launch(KernelConfig(64, 64, 4, out_dtype="float32"), lhs, rhs)
    assert (result.shape, result.dtype) == ((M, N), torch.float32)


def test_options_may_be_said(kernel: Kernel) -> None:
    lhs, rhs = make_inputs(4 * M, 8 * N, K)
    launch(DRAWN, lhs, rhs, num_sms=7, flags=LaunchFlags.EVICT_FIRST_B)
    launch(DRAWN, lhs, rhs, num_sms=7, flags=LaunchFlags.PDL)
    with cute_gemm.config(num_sms=9, pdl=True):
        launch(DRAWN, lhs, rhs)
    options = [call[5:9] for call in kernel.calls]
    assert options[0] == (7, LaunchFlags.EVICT_FIRST_B, 4096, 0)
    assert options[1] == (7, LaunchFlags.PDL, 4096, 0)
    assert options[2][0] == 9
    assert options[2][1] & LaunchFlags.PDL


def test_groupings_and_further_tensors_come_behind(kernel: Kernel) -> None:
    bias = torch.zeros(N)
    offsets = make_offsets_inputs([30, 40], N, K)
    for grouping in ((offsets.index,), (offsets.index, 16)):
        launch(KernelConfig(64, 64, 4, layout=OFFSETS), offsets.lhs, offsets.rhs, *grouping, tensors=(bias,))
    masked = make_masked_inputs([3, 5], 8, N, K)
    launch(KernelConfig(64, 64, 4, layout=MASKED), masked.lhs, masked.rhs, masked.index, 4)
    behind = [call[9:] for call in kernel.calls]
    assert [len(each) for each in behind] == [3, 3, 1]
    assert [behind[0][1], behind[1][1]] == [1, 16]
    assert behind[0][2] is bias
    assert behind[2][0].data_ptr() == masked.index.data_ptr()


def test_the_operations_rules_hold(kernel: Kernel) -> None:
    (a, sa), rhs = make_inputs(M, N, K)
    with pytest.raises(TypeError, match="sa"):
        launch(CONFIG, (a, sa.double()), rhs)
    offsets = make_offsets_inputs([30, 40], N, K)
    config = KernelConfig(64, 64, 4, layout=OFFSETS)
    with pytest.raises(ValueError, match="offsets"):
        launch(config, offsets.lhs, offsets.rhs, offsets.index + 1000, validate=True)
    assert not kernel.calls


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CONFIG, {"out": torch.empty(M, N)}, "writes bfloat16, but out is torch.float32"),
        (KernelConfig(8, 64, 4), {}, "at most 8 rows, but a has 70"),
        (KernelConfig(64, 64, 4, tma_scales=True), {}, "loads sa by TMA"),
        (KernelConfig(64, 64, 4, splits=32), {}, "K must be at least 3969, got 2048"),
    ],
    ids=["type", "rows", "scales", "splits"],
)
def test_what_does_not_fit_the_kernel_is_refused(
    kernel: Kernel, config: KernelConfig, change: dict[str, Any], message: str
) -> None:
    lhs, rhs = make_inputs(M, N, K)
    with pytest.raises(ValueError, match=message):
        launch(config, lhs, rhs, **change)
    assert not kernel.calls


def test_scales_that_tma_can_load_fit(kernel: Kernel) -> None:
    (a, sa), rhs = make_inputs(M, N, K)
    launch(KernelConfig(64, 64, 4, tma_scales=True), (a, m_major(sa)), rhs)
    assert len(kernel.calls) == 1


ROWS = Recipe("rows", "float8_e4m3fn", "float8_e4m3fn", scale_m=1, scale_n=1, scale_k=WHOLE, promote_k=128)
"""A scale for each row of A and of B."""

HALVES = replace(ROWS, name="halves", scale_m=2, scale_n=WHOLE, scale_k=64)
"""One for two rows of A, and one for all rows of B, each for 64 columns."""


def test_scales_are_those_of_the_recipe(kernel: Kernel) -> None:
    (a, sa), (b, sb) = make_inputs(M, N, K)
    launch(replace(CONFIG, recipe=ROWS), (a, torch.ones(M, 1)), (b, torch.ones(N, 1)))
    launch(replace(CONFIG, recipe=HALVES), (a, torch.ones(M // 2, K // 64)), (b, torch.ones(1, K // 64)))
    launch(CONFIG, (a, sa), (b, sb))
    assert [call[1].shape[0] for call in kernel.calls] == [M, M // 2, M]


@pytest.mark.parametrize(
    ("recipe", "of_a", "of_b", "message"),
    [
        (ROWS, (M, 16), (N, 1), r"sa has shape \(70, 16\); wanted \[M, 1\] = \(70, 1\): .*quantize_rows"),
        (ROWS, (M, 1), (2, 16), r"sb has shape \(2, 16\); wanted \[N, 1\] = \(136, 1\)"),
        (ROWS, (M,), (N, 1), r"sa has shape \(70,\); wanted .*sa.reshape\(70, 1\).expand\(70, 1\)"),
        (HALVES, (M, 32), (1, 32), r"wanted \[ceil\(M / 2\), ceil\(K / 64\)\] = \(35, 32\)"),
        (HALVES, (35, 32), (2, 32), r"wanted \[1, ceil\(K / 64\)\] = \(1, 32\)"),
    ],
)
def test_scales_of_another_recipe_are_refused(
    kernel: Kernel, recipe: Recipe, of_a: tuple[int, ...], of_b: tuple[int, ...], message: str
) -> None:
    (a, _), (b, _) = make_inputs(M, N, K)
    with pytest.raises(ValueError, match=message):
        launch(replace(CONFIG, recipe=recipe), (a, torch.ones(of_a)), (b, torch.ones(of_b)))
    assert not kernel.calls


def test_an_epilogue_brings_its_operands(kernel: Kernel) -> None:
    lhs, rhs = make_inputs(M, N, K)
    bias, out = torch.zeros(N), torch.zeros(M, N, dtype=torch.bfloat16)
    program = build(CONFIG, epilogue=epilogue.bias(bias) | epilogue.alpha(2.0) | epilogue.accumulate())
    given = epilogue.bias(torch.ones(N)) | epilogue.alpha(3.0) | epilogue.accumulate()
    assert launch(program, lhs, rhs, out=out, epilogue=given) is out
    ((*_, its_bias, alpha, before, beta),) = kernel.calls
    assert its_bias is given.operands[0].value
    assert (alpha, before.data_ptr(), beta) == (3.0, out.data_ptr(), 1.0)
    # Checked as the operation does.
    with pytest.raises(ValueError, match="no out is given"):
        launch(program, lhs, rhs, epilogue=given)
    wrong = epilogue.bias(torch.ones(8)) | epilogue.alpha(3.0) | epilogue.accumulate()
    with pytest.raises(ValueError, match=r"bias has shape \(8,\)"):
        launch(program, lhs, rhs, out=out, epilogue=wrong)
    assert len(kernel.calls) == 1


def test_an_epilogue_may_make_fewer_columns(kernel: Kernel) -> None:
    lhs, rhs = make_inputs(M, N + 8, K)
    program = build(replace(CONFIG, narrowing=2, epi_n=32), epilogue=epilogue.swiglu())
    out = torch.empty(M, N // 2 + 4, dtype=torch.bfloat16)
    assert launch(program, lhs, rhs, out=out, epilogue=epilogue.swiglu()) is out
    assert launch(program, lhs, rhs, epilogue=epilogue.swiglu()).shape == out.shape
    with pytest.raises(ValueError, match="out has shape"):
        launch(program, lhs, rhs, out=torch.empty(M, N, dtype=torch.bfloat16), epilogue=epilogue.swiglu())


def test_an_epilogue_that_a_program_was_not_built_for_is_refused(kernel: Kernel) -> None:
    operands = make_inputs(M, N, K)
    bias = torch.zeros(N)
    program = build(CONFIG, epilogue=epilogue.bias(bias))
    for of, wrong in (
        (program, epilogue.relu()),
        (program, epilogue.row_weights(torch.zeros(M))),
        (program, epilogue.bias(bias) | epilogue.relu()),
        (CONFIG, epilogue.bias(bias)),
    ):
        with pytest.raises(ValueError, match=r"was built for another value; wanted `build\(config, epilogue"):
            launch(of, *operands, epilogue=wrong)
    with pytest.raises(TypeError, match="epilogue and tensors are both given"):
        launch(program, *operands, epilogue=epilogue.bias(bias), tensors=(bias,))
    with pytest.raises(ValueError, match=r"quantises; wanted out_dtype='float8_e4m3fn'"):
        launch(program, *operands, epilogue=epilogue.bias(bias) | epilogue.quantize_1x128())
    quantizing = epilogue.quantize_1x128()
    config = KernelConfig(64, 128, 4, epi_n=128, epi_stages=1, out_dtype="float8_e4m3fn")
    with pytest.raises(ValueError, match="writes scales beside the result"):
        launch(build(config, epilogue=quantizing), *operands, epilogue=quantizing)
    assert not kernel.calls


def test_an_epilogue_that_no_program_can_be_built_for_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted narrowing=2 in the configuration"):
        build(CONFIG, epilogue=epilogue.swiglu())
    with pytest.raises(ValueError, match="does not quantise; wanted out_dtype='bfloat16' or 'float32'"):
        build(
            KernelConfig(64, 128, 4, epi_n=128, epi_stages=1, out_dtype="float8_e4m3fn"),
            epilogue=epilogue.relu(),
        )
    for more in ({"value": Identity()}, {"tensors": (None,)}):
        with pytest.raises(TypeError, match="epilogue comes with a value and tensors of its own"):
            build(CONFIG, epilogue=epilogue.relu(), **more)


def test_a_value_may_make_fewer_columns(kernel: Kernel) -> None:
    """As one does that multiplies the columns by each other in pairs."""
    value = SimpleNamespace(out_columns=lambda n: n // 2)
    program = Program(CONFIG, SimpleNamespace(value=value), ())  # type: ignore[arg-type]
    lhs, rhs = make_inputs(M, N, K)
    assert launch(program, lhs, rhs).shape == (M, N // 2)
    out = torch.empty(M, N // 2, dtype=torch.bfloat16)
    assert launch(program, lhs, rhs, out=out) is out
    for wrong in (torch.empty(M, N, dtype=torch.bfloat16), out.float(), out.t().contiguous().t()):
        with pytest.raises(ValueError, match="out must be contiguous"):
            launch(program, lhs, rhs, out=wrong)
    assert len(kernel.calls) == 2


def test_columns_that_a_value_takes_together_are_all_there(kernel: Kernel) -> None:
    value = SimpleNamespace(out_columns=lambda n: n // 2, unit=16)
    program = Program(CONFIG, SimpleNamespace(value=value), ())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns 16 at a time, but b has 24 rows"):
        launch(program, *make_inputs(M, 24, K))
    assert not kernel.calls


def test_an_empty_product_launches_nothing_and_one_without_depth_is_refused(kernel: Kernel) -> None:
    (a, sa), rhs = make_inputs(M, N, K)
    assert launch(CONFIG, (a[:0], sa[:0]), rhs).shape == (0, N)
    lhs, rhs = make_inputs(M, N, 0)
    with pytest.raises(ValueError, match="K is 0"):
        launch(CONFIG, lhs, rhs)
    assert not kernel.calls


@pytest.mark.parametrize(
    ("layout", "count", "wanted"),
    [
        (OFFSETS, 0, "offsets and alignment"),
        (MASKED, 1, "valid_rows and expected_rows"),
        (CONTIGUOUS, 2, "group_index"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_grouping_that_is_not_whole_is_refused(
    kernel: Kernel, layout: Any, count: int, wanted: str
) -> None:
    lhs, rhs = make_inputs(M, N, K)
    with pytest.raises(TypeError, match=f"takes {wanted} behind its operands, got {count}"):
        launch(KernelConfig(64, 64, 4, layout=layout), lhs, rhs, *[torch.zeros(1)] * count)


def test_cpu_tensors_are_refused() -> None:
    lhs, rhs = make_inputs(M, N, K)
    with pytest.raises(ValueError, match="on the CPU"):
        launch(CONFIG, lhs, rhs)


def test_the_public_names_are_there_and_cost_nothing_before_they_are_used() -> None:
    assert set(runtime.__all__) <= set(dir(runtime))
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        runtime.nothing  # noqa: B018
    program = "import sys, cute_gemm.runtime as r; r.build, r.Program, r.examine; "
    program += "sys.exit('cutlass' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
