"""Products whose B has scales of each row: what they are, and where scales are while a kernel needs them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cute_gemm import epilogue, fp8_gemm_nt, m_major, quantize_1x128, quantize_128x128
from cute_gemm.kernels.scaling.scaling_1d1d import ROUNDS, ScaleSlots
from cute_gemm.plan import candidates, cost_model
from cute_gemm.plan.buildable import why_unbuildable
from cute_gemm.plan.limits import SMEM_CAPACITY
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.recipe import FP8_1D1D
from cute_gemm.reference import dequantized_product, product_scale
from cute_gemm.runtime import lookup
from cute_gemm.testing import INPUT_KINDS, assert_close_per_tile, make_inputs

CONFIGS = candidates.every_row_scaled_config()
Operand = tuple[Tensor, Tensor]


@pytest.fixture
def operands() -> tuple[Operand, Operand]:
    return make_inputs(130, 272, 400, recipe=FP8_1D1D)


def product(lhs: Operand, rhs: Operand) -> Tensor:
    return dequantized_product(*lhs, *rhs)


@pytest.mark.parametrize("kind", INPUT_KINDS)
@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
def test_it_is_the_product_of_the_dequantised_operands(kind: str, out_dtype: torch.dtype) -> None:
    lhs, rhs = make_inputs(130, 272, 400, kind, recipe=FP8_1D1D)
    assert rhs[1].shape == (272, 4)
    out = fp8_gemm_nt(lhs, rhs, out_dtype=out_dtype)
    assert_close_per_tile(out, product(lhs, rhs), product_scale(*lhs, *rhs))


def test_scales_of_one_value_in_a_block_are_those_of_the_block() -> None:
    lhs, (b, sb) = make_inputs(65, 264, 384)
    of_rows = sb.repeat_interleave(128, 0)[:264]
    assert torch.equal(fp8_gemm_nt(lhs, (b, of_rows)), fp8_gemm_nt(lhs, (b, sb)))


def test_scales_may_have_any_strides(operands: tuple[Operand, Operand]) -> None:
    (a, sa), (b, sb) = operands
    out = fp8_gemm_nt((a, sa), (b, sb))
    assert torch.equal(fp8_gemm_nt((a, m_major(sa)), (b, m_major(sb))), out)


@pytest.mark.parametrize("of_rows", [True, False])
def test_it_is_added_to_what_out_holds(of_rows: bool) -> None:
    x, w = torch.randn(130, 272), torch.randn(144, 272)
    lhs, rhs = quantize_1x128(x), (quantize_1x128 if of_rows else quantize_128x128)(w)
    before = torch.randn(130, 144)
    out = before.clone()
    assert fp8_gemm_nt(lhs, rhs, out, accumulate=True) is out
    assert torch.equal(out, before + fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32))


def test_nothing_is_added_where_k_is_0() -> None:
    lhs, rhs = make_inputs(5, 16, 0, recipe=FP8_1D1D)
    out = torch.ones(5, 16)
    fp8_gemm_nt(lhs, rhs, out, accumulate=True)
    assert (out == 1).all()
    assert not fp8_gemm_nt(lhs, rhs).any()


def test_what_is_refused(operands: tuple[Operand, Operand]) -> None:
    with pytest.raises(ValueError, match="accumulate is True, but there is no out; wanted `out`"):
        fp8_gemm_nt(*operands, accumulate=True)
    with pytest.raises(TypeError, match=r"accumulate is a builtins\.int; wanted a bool"):
        fp8_gemm_nt(*operands, accumulate=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"out is a builtins\.str"):
        fp8_gemm_nt(*operands, "x", accumulate=True)  # type: ignore[call-overload]
    out = torch.ones(130, 272, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r"out has dtype torch.bfloat16; wanted torch.float32, or .*epilogue"):
        fp8_gemm_nt(*operands, out, accumulate=True)
    half = epilogue.alpha(0.5)
    with pytest.raises(ValueError, match=r"sb has shape \(272, 4\); wanted \[ceil\(N / 128\), ceil"):
        fp8_gemm_nt(*operands, epilogue=half)
    with pytest.raises(ValueError, match="accumulate is True beside an epilogue"):
        fp8_gemm_nt(*operands, out.float(), epilogue=half, accumulate=True)
    lhs, (b, sb) = operands
    with pytest.raises(ValueError, match=r"sb has shape \(271, 4\); wanted \[ceil\(N / 128\)"):
        fp8_gemm_nt(lhs, (b, sb[:-1]))
    with pytest.raises(ValueError, match=r"sb has shape \(272, 3\); wanted \[N, ceil\(K / 128\)\].*1x128"):
        fp8_gemm_nt(lhs, (b, sb[:, :-1]))
    assert (out == 1).all()


@pytest.mark.parametrize("accumulate", [False, True])
def test_it_is_one_op_in_compiled_code(operands: tuple[Operand, Operand], accumulate: bool) -> None:
    def call(lhs: Operand, rhs: Operand, out: Tensor) -> Tensor:
        return fp8_gemm_nt(lhs, rhs, out, accumulate=accumulate)

    traced = torch.compile(call, fullgraph=True, backend="aot_eager")
    here, there = torch.ones(130, 272), torch.ones(130, 272)
    call(*operands, here)
    traced(*operands, there)
    assert torch.equal(here, there)
    assert here.mean() != 1


def test_the_op_adds_by_blocks_of_b_as_the_operation_does() -> None:
    lhs, rhs = make_inputs(130, 272, 400)
    out, wanted = torch.ones(130, 272), torch.ones(130, 272)
    torch.ops.cute_gemm.fp8_gemm_nt_out(*lhs, *rhs, out, accumulate=True)
    assert torch.equal(out, fp8_gemm_nt(lhs, rhs, wanted, accumulate=True))
    assert candidates.all_configs("float32", accumulates=True) == ()


def test_configurations_are_built_and_found() -> None:
    assert {why_unbuildable(config) for config in CONFIGS} == {""}
    assert len({config.name for config in CONFIGS}) == len(CONFIGS)
    assert all(config.stages >= 4 - config.loads_out for config in CONFIGS)
    assert all(config.smem_bytes <= SMEM_CAPACITY for config in CONFIGS)
    assert all(lookup.find_config(config.name) is config for config in CONFIGS[::5])


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("m", [1, 64, 4096])
def test_what_is_chosen_computes_the_problem(m: int, accumulate: bool) -> None:
    problem = GemmProblem(m, 4096, 2048, "float32", recipe=FP8_1D1D, accumulate=accumulate)
    best = cost_model.best(problem)
    assert best.recipe is FP8_1D1D
    assert best.accumulates == accumulate
    assert best in CONFIGS
    assert problem.out_bytes == m * 4096 * 4 * (1 + accumulate)


def test_a_short_k_has_d_loaded_and_a_long_one_has_l2_add() -> None:
    """But for few rows, of which no tile comes with D loaded (docs/performance.md, 91)."""

    def loads_out(m: int, k: int) -> set[bool]:
        problem = GemmProblem(m, 4096, k, "float32", recipe=FP8_1D1D, accumulate=True)
        return {choice.config.loads_out for choice in cost_model.rank(problem) if choice.config.block_m > 64}

    assert loads_out(65, 16) == loads_out(32768, 1024) == {True}
    assert loads_out(65, 1025) == loads_out(32768, 7168) == {False}
    assert loads_out(64, 128) == set()


@pytest.mark.parametrize("stages", [2, 3, 4, 7])
def test_a_slot_of_scales_is_filled_again_only_when_its_sums_are_promoted(stages: int) -> None:
    """By the order of a warpgroup: it gives stage k back, then promotes k, then gives k + 1 back."""
    slots = ScaleSlots(128, stages)
    number = ROUNDS * stages

    def slot(k: int, filling: bool) -> int:
        # A consumer's first phase is 0, a producer's 1 (pipeline.make_pipeline_state).
        phase = k // stages % 2
        state = SimpleNamespace(index=k % stages, phase=phase ^ filling)
        return slots.of(state, filling)

    for k in range(3 * number):
        assert slot(k, filling=True) == slot(k, filling=False)
        # Block k + stages + i is filled at the earliest when stage k + i was given back.
        later = range(k + 1, k + 2 * number)
        clobbering = min(other for other in later if slot(other, True) == slot(k, False))
        given_back = clobbering - stages
        assert given_back > k
