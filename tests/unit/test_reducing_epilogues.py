"""Epilogues that reduce over columns, on the CPU: SwiGLU, quantising, what fits a call, and who has what."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from levels import cases
from torch import Tensor
from torch.nn import functional

from cute_gemm import (
    dequantize_1x128,
    epilogue,
    fp8_gemm_nt,
    interleave_gate_up,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
    m_major,
    quantize_1x128,
    swiglu_quantize_1x128,
)
from cute_gemm.reference import dequantized_product
from cute_gemm.testing import (
    GroupedInputs,
    make_contiguous_inputs,
    make_inputs,
    make_masked_inputs,
    make_offsets_inputs,
)

M, N, K = 70, 544, 272
LHS, RHS = make_inputs(M, N, K)
SUMS = fp8_gemm_nt(LHS, RHS, out_dtype=torch.float32)
EXACT = dequantized_product(*LHS, *RHS)
DRAW = torch.Generator().manual_seed(11)
QUANTIZE = epilogue.quantize_1x128()


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=DRAW).to(dtype)


def in_turns(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = x.unflatten(-1, (-1, 2, 8)).unbind(-2)
    return gate.flatten(-2), up.flatten(-2)


def swiglu(x: Tensor, limit: float | None = None) -> Tensor:
    gate, up = in_turns(x)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return functional.silu(gate) * up


def bits(x: Tensor) -> Tensor:
    return x.view(torch.uint8)


BIAS, WEIGHTS, HALF_BIAS, OTHER = normal(N), normal(M), normal(N // 2), normal(M, N // 2).half()


@epilogue.gated
def linear_unit(gate: Any, up: Any, alpha: Any) -> Any:
    return epilogue.maximum(gate, 0.0) * (up + alpha)


CASES: dict[str, tuple[epilogue.Epilogue, Callable[[Tensor], Tensor]]] = {
    "swiglu": (epilogue.swiglu(), swiglu),
    "limit": (epilogue.swiglu(0.75), lambda x: swiglu(x, 0.75)),
    "behind a bias": (epilogue.bias(BIAS) | epilogue.swiglu(), lambda x: swiglu(x + BIAS)),
    "before others": (
        epilogue.swiglu()
        | epilogue.bias(HALF_BIAS)
        | epilogue.row_weights(WEIGHTS)
        | epilogue.residual(OTHER),
        lambda x: (swiglu(x) + HALF_BIAS) * WEIGHTS[:, None] + OTHER.float(),
    ),
    "one's own": (linear_unit(0.5), lambda x: torch.relu(in_turns(x)[0]) * (in_turns(x)[1] + 0.5)),
    "nothing": (epilogue.Epilogue(), lambda x: x),
    "silu": (epilogue.silu(), functional.silu),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_right(name: str) -> None:
    made, wanted = CASES[name]
    got = fp8_gemm_nt(LHS, RHS, out_dtype=torch.float32, epilogue=made)
    exact = wanted(EXACT)
    torch.testing.assert_close(got, wanted(SUMS), rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(got.double(), exact.double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(fp8_gemm_nt(LHS, RHS, epilogue=made), got.bfloat16())


@pytest.mark.parametrize("power_of_two", cases([False, True], usual=[False]))
@pytest.mark.parametrize("name", CASES)
def test_the_fp32_value_is_quantised(name: str, power_of_two: bool) -> None:
    """Bit for bit as it would be by itself, not rounded to bf16 before."""
    made, wanted = CASES[name]
    quantize = epilogue.quantize_1x128(power_of_two_scales=power_of_two)
    q, s = fp8_gemm_nt(LHS, RHS, epilogue=made | quantize)
    values = fp8_gemm_nt(LHS, RHS, out_dtype=torch.float32, epilogue=made)
    want_q, want_s = quantize_1x128(values, power_of_two_scales=power_of_two)
    assert torch.equal(bits(q), bits(want_q))
    assert torch.equal(s, want_s)
    assert s.shape == (M, -(-values.shape[-1] // 128))
    assert q.is_contiguous()
    rounded = quantize_1x128(values.bfloat16(), power_of_two_scales=power_of_two)[0]
    assert not torch.equal(bits(q), bits(rounded))
    # Half an ulp of e4m3, and of its smallest numbers.
    error = (dequantize_1x128(q, s).double() - wanted(EXACT).double()).abs()
    step = s.repeat_interleave(128, -1)[:, : q.shape[-1]]
    assert (error <= 2**-4 * wanted(EXACT).abs() + 2**-10 * step + 1e-4).all()


def test_it_is_what_the_quantiser_makes() -> None:
    q, s = fp8_gemm_nt(LHS, RHS, epilogue=epilogue.swiglu() | QUANTIZE)
    want_q, want_s = swiglu_quantize_1x128(SUMS, interleaved=True)
    torch.testing.assert_close(s, want_s, rtol=1e-6, atol=0)
    assert (bits(q) != bits(want_q)).float().mean() < 1e-3


def test_blocks_of_zeros_and_of_nan() -> None:
    (a, sa), rhs = LHS, RHS
    a, sa = a.clone(), sa.clone()
    bits(a)[3] = 0
    sa[5] = torch.nan
    sa[6] = torch.inf
    q, s = fp8_gemm_nt((a, sa), rhs, epilogue=QUANTIZE)
    assert (s[3] == 1).all()
    assert (bits(q)[3] & 0x7F == 0).all()
    assert s[5:7].isnan().all()
    assert (bits(q)[5:7] == 0x7F).all()
    assert s[[0, 4, 7]].isfinite().all()


def test_results_may_be_given() -> None:
    made = epilogue.swiglu() | QUANTIZE
    want_q, want_s = fp8_gemm_nt(LHS, RHS, epilogue=made)
    q = torch.zeros(M, N, dtype=want_q.dtype)[:, : N // 2]
    for s in (torch.zeros_like(want_s), m_major(want_s).zero_(), torch.zeros(M, 9)[:, ::3]):
        version = q._version, s._version
        given = fp8_gemm_nt(LHS, RHS, (q, s), epilogue=made)
        assert given[0] is q
        assert given[1] is s
        assert torch.equal(bits(q), bits(want_q))
        assert torch.equal(s, want_s)
        assert q._version > version[0]
        assert s._version > version[1]
    for out in ((q, None), (None, want_s)):
        made_q, made_s = fp8_gemm_nt(LHS, RHS, out, epilogue=made)
        assert torch.equal(bits(made_q), bits(want_q))
        assert torch.equal(made_s, want_s)
    _, s = fp8_gemm_nt(LHS, RHS, epilogue=epilogue.swiglu() | epilogue.quantize_1x128(m_major_scales=True))
    assert s.stride() == (1, 72)
    assert torch.equal(s, want_s)


def test_out_of_half_the_columns_is_added_to() -> None:
    out = OTHER.bfloat16()
    assert fp8_gemm_nt(LHS, RHS, out, epilogue=epilogue.swiglu() | epilogue.accumulate(2.0)) is out
    torch.testing.assert_close(out, (swiglu(SUMS) + 2 * OTHER.bfloat16().float()).bfloat16())


def test_nothing_to_sum_and_nothing_to_store() -> None:
    made = epilogue.bias(BIAS) | epilogue.swiglu() | QUANTIZE
    for m, k in ((0, K), (3, 0)):
        q, s = fp8_gemm_nt(*make_inputs(m, N, k), epilogue=made)
        assert q.shape == (m, N // 2)
        assert s.shape == (m, 3)
    want_q, want_s = quantize_1x128(swiglu(BIAS.expand(3, N)))
    torch.testing.assert_close(s, want_s)
    torch.testing.assert_close(dequantize_1x128(q, s), dequantize_1x128(want_q, want_s), rtol=0.07, atol=1e-3)


SIZES = (5, 0, 20)
GROUPED: dict[str, tuple[Callable[..., Any], GroupedInputs, tuple[Any, ...]]] = {
    "contiguous": (m_grouped_fp8_gemm_nt_contiguous, make_contiguous_inputs(SIZES, N, K), ()),
    "offsets": (m_grouped_fp8_gemm_nt_offsets, make_offsets_inputs(SIZES, N, K, alignment=16), ()),
    "masked": (m_grouped_fp8_gemm_nt_masked, make_masked_inputs(SIZES, 24, N, K), (8,)),
}


@pytest.mark.parametrize("made", [QUANTIZE, epilogue.swiglu() | QUANTIZE], ids=["plain", "swiglu"])
@pytest.mark.parametrize("name", GROUPED)
def test_rows_of_no_group_stay(name: str, made: epilogue.QuantizingEpilogue) -> None:
    operation, given, count = GROUPED[name]
    options = {"alignment": 16} if name == "offsets" else {}
    arguments = given.lhs, given.rhs, given.index, *count
    values = operation(
        *arguments, out_dtype=torch.float32, epilogue=epilogue.Epilogue(made.stages), **options
    )
    want_q, want_s = quantize_1x128(values)
    q, s = bits(want_q).clone().fill_(0x55).view(want_q.dtype), torch.full_like(want_s, 7.0)
    assert operation(*arguments, (q, s), epilogue=made, **options)[0] is q
    is_written = given.row_groups >= 0
    assert int(is_written.sum()) == sum(SIZES) < is_written.numel()
    assert torch.equal(bits(q)[is_written], bits(want_q)[is_written])
    assert torch.equal(s[is_written], want_s[is_written])
    assert (bits(q)[~is_written] == 0x55).all()
    assert (s[~is_written] == 7).all()


def test_a_compiled_caller_gets_the_same_bits() -> None:
    made = epilogue.swiglu() | QUANTIZE

    def caller() -> tuple[Tensor, Tensor]:
        q, s = fp8_gemm_nt(LHS, RHS, epilogue=made)
        return q, s * 2

    def composing_caller() -> tuple[Tensor, Tensor]:
        q, s = fp8_gemm_nt(LHS, RHS, epilogue=epilogue.swiglu(7.0) | epilogue.quantize_1x128())
        return q, s * 2

    for each in (caller, composing_caller):
        (q, s), (want_q, want_s) = torch.compile(each, backend="eager")(), each()
        torch._dynamo.reset()
        assert torch.equal(bits(q), bits(want_q))
        assert torch.equal(s, want_s)


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


STATES: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("state", STATES)
def test_what_is_set_around_a_call_changes_nothing(state: str) -> None:
    made = epilogue.bias(BIAS) | epilogue.swiglu(1.5) | epilogue.row_weights(WEIGHTS) | QUANTIZE
    want_q, want_s = fp8_gemm_nt(LHS, RHS, epilogue=made)
    with STATES[state]():
        q, s = fp8_gemm_nt(LHS, RHS, epilogue=made)
        both = interleave_gate_up(BIAS[:8], BIAS[8:16], dim=-1)
    assert torch.equal(bits(q), bits(want_q))
    assert torch.equal(s, want_s)
    assert torch.equal(both, BIAS[:16])


# What fits a call

Q = torch.empty(M, N // 2, dtype=torch.float8_e4m3fn)
S = torch.empty(M, 3)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (Q, TypeError, r"out is one tensor, .* wanted a pair of e4m3 and its scales, `out=\(q, s\)`"),
        ((Q, S, S), TypeError, "out is a builtins.tuple.*wanted a pair"),
        ((Q.float(), S), TypeError, r"out\[0\] has dtype torch.float32; wanted torch.float8_e4m3fn"),
        ((Q, S.double()), TypeError, r"out\[1\] has dtype torch.float64; wanted torch.float32"),
        ((Q[:, :-16], S), ValueError, r"out\[0\] has shape \(70, 256\); wanted \(70, 272\)"),
        ((Q, S[:, :2]), ValueError, r"out\[1\] has shape \(70, 2\); wanted \(70, 3\)"),
        ((Q, S[:1].expand(M, 3)), ValueError, r"out\[1\] has strides \(0, 1\), so elements may share memory"),
        ((Q.T.contiguous().T, S), ValueError, r"out\[0\] has strides .* wanted N contiguous"),
        (
            (torch.empty(M, 280, dtype=Q.dtype)[:, :272], S),
            ValueError,
            r"out\[0\] has strides .* multiple of 16",
        ),
        ((Q, torch.nn.Parameter(S)), ValueError, r"out\[1\] requires a gradient"),
        (
            (Q, torch.zeros(M, 3, dtype=torch.complex64).conj().imag),
            ValueError,
            r"out\[1\] is part of a conjugated complex tensor",
        ),
    ],
)
def test_results_that_do_not_fit_are_named(out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fp8_gemm_nt(LHS, RHS, out, epilogue=epilogue.swiglu() | QUANTIZE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fp8_gemm_nt(LHS, RHS, epilogue=QUANTIZE, out_dtype=torch.float32),
            TypeError,
            "out_dtype is torch.float32, but the epilogue quantises",
        ),
        (
            lambda: fp8_gemm_nt(LHS, (RHS[0][:536], RHS[1]), epilogue=epilogue.swiglu()),
            ValueError,
            "b has 536 rows; wanted a multiple of 16",
        ),
        (
            lambda: fp8_gemm_nt(LHS, (RHS[0][:536], RHS[1]), epilogue=QUANTIZE),
            ValueError,
            "b has 536 rows; wanted a multiple of 16: the columns of a quantised result",
        ),
        (
            lambda: fp8_gemm_nt(LHS, (RHS[0][:528], RHS[1]), epilogue=epilogue.swiglu() | QUANTIZE),
            ValueError,
            "b has 528 rows; wanted a multiple of 32",
        ),
        (
            lambda: fp8_gemm_nt(LHS, RHS, torch.empty(M, N), epilogue=epilogue.swiglu()),
            ValueError,
            r"out has shape \(70, 544\); wanted .* \(70, 272\)",
        ),
        (
            lambda: fp8_gemm_nt(LHS, RHS, epilogue=epilogue.bias(HALF_BIAS) | epilogue.swiglu()),
            ValueError,
            r"bias has shape \(272,\); wanted \(544,\)",
        ),
        (
            lambda: fp8_gemm_nt(LHS, RHS, epilogue=epilogue.swiglu() | epilogue.bias(BIAS)),
            ValueError,
            r"bias has shape \(544,\); wanted \(272,\)",
        ),
        (
            lambda: fp8_gemm_nt(
                LHS, RHS, (Q, S), epilogue=epilogue.swiglu() | epilogue.accumulate() | QUANTIZE
            ),
            ValueError,
            "residual is what out held before, but out is quantised",
        ),
        (
            lambda: fp8_gemm_nt(
                LHS, RHS, OTHER.bfloat16(), epilogue=epilogue.accumulate() | epilogue.swiglu()
            ),
            ValueError,
            "wanted it behind what makes one column of two",
        ),
        (
            lambda: fp8_gemm_nt(
                LHS,
                RHS,
                (Q, S),
                epilogue=epilogue.swiglu() | epilogue.row_weights(S.flatten()[:M]) | QUANTIZE,
            ),
            ValueError,
            r"out\[1\] lies in the memory of row_weights",
        ),
        (
            lambda: fp8_gemm_nt(
                (LHS[0], LHS[1][:, :3]), RHS, (Q, LHS[1][:, :3]), epilogue=epilogue.swiglu() | QUANTIZE
            ),
            ValueError,
            r"out\[1\] lies in the memory of sa",
        ),
        (
            lambda: fp8_gemm_nt(LHS, (RHS[0][:512], RHS[1][:4]), epilogue=epilogue.swiglu(turn=128)),
            ValueError,
            "128 columns of a gate and of what it opens for alternate, which takes tiles",
        ),
        (
            lambda: fp8_gemm_nt(LHS, RHS, epilogue=epilogue.swiglu(turn=128) | QUANTIZE),
            ValueError,
            "b has 544 rows; wanted a multiple of 256: 128 columns",
        ),
        (lambda: epilogue.swiglu(turn=16), ValueError, "turn is 16; wanted 8 or 128"),
        (lambda: QUANTIZE | epilogue.relu(), TypeError, "nothing follows quantize_1x128"),
        (
            lambda: epilogue.swiglu() | linear_unit(1.0),
            ValueError,
            "swiglu and linear_unit both make one column",
        ),
        (lambda: epilogue.swiglu("7"), TypeError, "limit is a builtins.str; wanted a number"),
        (lambda: epilogue.swiglu(0.0), ValueError, "limit is 0.0; wanted a number above 0"),
        (lambda: epilogue.quantize_1x128(m_major_scales=1), TypeError, "m_major_scales is a builtins.int"),
        (lambda: epilogue.gated(lambda x: x), TypeError, "is no function of two sums and of operands"),
        (lambda: linear_unit(), TypeError, "linear_unit was given 0 operands; wanted operands alpha"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_kernel_is_told_by_what_shapes_it() -> None:
    made = epilogue.swiglu()
    assert (made | QUANTIZE).key == (epilogue.swiglu() | epilogue.quantize_1x128(m_major_scales=True)).key
    assert (made | QUANTIZE).key != made.key
    assert (made | QUANTIZE).key != (made | epilogue.quantize_1x128(power_of_two_scales=True)).key
    assert epilogue.swiglu(7.0).key == epilogue.swiglu(8.0).key != made.key

    def both(x: Any, y: Any) -> Any:
        return x + y

    assert epilogue.gated(both)().key != epilogue.function(both)(1.0).key
