"""Epilogues on the CPU: what becomes of a product, what a function may do, and the same in the DSL."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from calls import arguments, every_layout
from cutlass import Float32
from cutlass.cute import runtime as dsl
from torch import Tensor
from torch.nn import functional

from cute_gemm import epilogue, fp8_gemm_nt
from cute_gemm.kernels.epilogue.function_value import FunctionValue
from cute_gemm.plan.layouts import DENSE, Layout, resolve
from cute_gemm.testing import make_inputs

M, N, K = 70, 144, 272
LHS, RHS = make_inputs(M, N, K)
DRAW = torch.Generator().manual_seed(7)
SUMS = fp8_gemm_nt(LHS, RHS, out_dtype=torch.float32)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=DRAW).to(dtype)


BIAS, WEIGHTS, OTHER = normal(N), normal(M), normal(M, N, dtype=torch.bfloat16)
SLOPE = 0.25


@epilogue.function
def leaky(x: Any, shift: Any) -> Any:
    y = x - shift
    return epilogue.where(y > 0, y, SLOPE * y)


def half(x: Any) -> Any:
    return x / 2


@epilogue.function
def many(x: Any) -> Any:
    return epilogue.clamp(epilogue.sqrt(epilogue.exp(half(x))), 0.5, 2.0) - epilogue.rsqrt(1 + x * x)


CASES: dict[str, tuple[epilogue.Epilogue, Callable[[Tensor], Tensor]]] = {
    "bias": (epilogue.bias(BIAS), lambda x: x + BIAS),
    "alpha": (epilogue.alpha(0.3), lambda x: 0.3 * x),
    "alpha on the device": (epilogue.alpha(BIAS[:1]), lambda x: x * BIAS[0]),
    "residual": (epilogue.residual(OTHER, -0.5), lambda x: x - 0.5 * OTHER.float()),
    "relu": (epilogue.relu(), torch.relu),
    "silu": (epilogue.silu(), functional.silu),
    "gelu": (epilogue.gelu(), functional.gelu),
    "gelu by tanh": (epilogue.gelu("tanh"), lambda x: functional.gelu(x, approximate="tanh")),
    "row weights": (epilogue.row_weights(WEIGHTS), lambda x: x * WEIGHTS[:, None]),
    "bias_relu": (epilogue.bias_relu(BIAS), lambda x: torch.relu(x + BIAS)),
    "bias_gelu": (epilogue.bias_gelu(BIAS.half()), lambda x: functional.gelu(x + BIAS.half().float())),
    "bias_silu": (
        epilogue.bias_silu(BIAS.bfloat16()),
        lambda x: functional.silu(x + BIAS.bfloat16().float()),
    ),
    "one's own": (
        leaky(epilogue.per_column(BIAS)),
        lambda x: functional.leaky_relu(x - BIAS, SLOPE),
    ),
    "a chain": (
        epilogue.alpha(2.0)
        | epilogue.bias_silu(BIAS)
        | epilogue.residual(OTHER)
        | epilogue.row_weights(WEIGHTS),
        lambda x: (functional.silu(2 * x + BIAS) + OTHER.float()) * WEIGHTS[:, None],
    ),
    "many": (many(), lambda x: (x / 2).exp().sqrt().clamp(0.5, 2) - (1 + x * x).rsqrt()),
    "nothing": (epilogue.Epilogue(), lambda x: x),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("made", "wanted"), CASES.values(), ids=CASES)
def test_a_dense_product(
    made: epilogue.Epilogue, wanted: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    got = fp8_gemm_nt(LHS, RHS, out_dtype=dtype, epilogue=made)
    assert got.dtype is dtype
    torch.testing.assert_close(
        got, wanted(SUMS).to(dtype), rtol=2e-6 if dtype is torch.float32 else 2**-7, atol=1e-5
    )


def test_it_is_added_to_what_was_there() -> None:
    out = OTHER.clone()
    assert fp8_gemm_nt(LHS, RHS, out, epilogue=epilogue.alpha(0.5) | epilogue.accumulate(2.0)) is out
    torch.testing.assert_close(out, (0.5 * SUMS + 2 * OTHER.float()).bfloat16())
    again = OTHER.clone()
    fp8_gemm_nt(LHS, RHS, again, epilogue=epilogue.alpha(0.5) | epilogue.residual(again, 2.0))
    assert torch.equal(again, out)


@every_layout
def test_rows_of_groups_have_what_is_theirs_and_others_stay(layout: Layout) -> None:
    if layout is DENSE:
        return
    given = arguments(layout)
    out = torch.full_like(given.new_out(), 5.0)
    plain = given.run(torch.full_like(out, 5.0), out_dtype=out.dtype)
    *rows, n = out.shape
    groups = given.b.shape[0]
    bias, weights = normal(groups, n), normal(*rows)
    given.run(out, epilogue=epilogue.bias(bias) | epilogue.row_weights(weights))
    index, *count = given.grouping
    row_groups = resolve(layout.row_groups)(index, count[0] if count else 0, rows[-1], groups)
    is_written = (row_groups >= 0)[..., None]
    wanted = (plain.float() + bias[row_groups.clamp(min=0).long()]) * weights[..., None]
    torch.testing.assert_close(
        out.float(), torch.where(is_written, wanted, torch.tensor(5.0)), rtol=2**-7, atol=2**-6
    )


# What fits a call


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: epilogue.bias(normal(N - 1)),
            ValueError,
            r"bias has shape \(143,\); wanted \(144,\)",
        ),
        (
            lambda: epilogue.bias(normal(2, N)),
            ValueError,
            "bias has a number for each column of each group, but",
        ),
        (
            lambda: epilogue.bias(BIAS.double()),
            TypeError,
            r"bias has dtype torch.float64; .*`bias.float",
        ),
        (
            lambda: epilogue.bias(normal(2 * N)[::2]),
            ValueError,
            r"bias has strides \(2,\); wanted 1",
        ),
        (
            lambda: epilogue.row_weights(normal(N)),
            ValueError,
            r"row_weights has shape \(144,\); wanted",
        ),
        (
            lambda: epilogue.residual(normal(M, N + 1)[:, 1:]),
            ValueError,
            "wanted even strides",
        ),
        (lambda: epilogue.residual(OTHER.T), ValueError, r"residual has shape \(144, 70\)"),
        (lambda: epilogue.accumulate(), ValueError, "residual is what out held before, but no"),
        (lambda: epilogue.bias(torch.nn.Parameter(BIAS)), ValueError, "bias requires a gradient"),
        (lambda: torch.relu, TypeError, "epilogue is a builtins.builtin_function_or_method; wanted one of"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fp8_gemm_nt(LHS, RHS, epilogue=call())


def test_an_operand_that_overlaps_out_elsewhere_is_refused() -> None:
    both = torch.zeros(M + 1, N)
    out = both[1:]
    with pytest.raises(ValueError, match="out lies in the memory of residual"):
        fp8_gemm_nt(LHS, RHS, out, epilogue=epilogue.residual(both[:-1]))
    with pytest.raises(ValueError, match="out lies in the memory of bias"):
        fp8_gemm_nt(LHS, RHS, out, epilogue=epilogue.bias(out[3]))
    square = torch.zeros(N, N)
    given = make_inputs(N, N, K)
    with pytest.raises(ValueError, match="no groups"):
        fp8_gemm_nt(*given, square, epilogue=epilogue.bias(square))


def test_a_pending_negation_and_memory_that_is_gone_are_refused() -> None:
    negative = torch.tensor([1 + 2j]).conj().imag
    with pytest.raises(ValueError, match="alpha is part of a conjugated complex tensor"):
        fp8_gemm_nt(LHS, RHS, epilogue=epilogue.alpha(negative))
    freed = BIAS.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"bias, .* has no memory behind it"):
        fp8_gemm_nt(LHS, RHS, epilogue=epilogue.bias(freed))


# What a function may do


def test_what_cannot_be_expressed_is_refused_in_words() -> None:
    table = normal(4)
    kinds: list[int] = []

    def an_if(x: Any) -> Any:
        return x if x > 0 else -x

    def pythons(x: Any) -> Any:
        return max(x, 0.0)

    def of_math(x: Any) -> Any:
        return math.exp(x)

    def of_torch(x: Any) -> Any:
        return torch.relu(x)

    def a_power(x: Any) -> Any:
        return x**2

    def an_index(x: Any) -> Any:
        return x[0]

    def nothing(x: Any) -> None:
        pass

    def a_tensor(x: Any) -> Any:
        return x * table.sum()

    def a_list(x: Any) -> Any:
        return x * len(kinds)

    def used_tensor(x: Any) -> Any:
        return x * len(table)

    def in_place(x: Any) -> Any:
        x *= 2.0
        return x

    def a_comparison(x: Any) -> Any:
        return x > 0

    def no_condition(x: Any) -> Any:
        return epilogue.where(x, 1.0, 0.0)

    def of_a_module(x: Any) -> Any:
        return x * dsl.__name__.count("x")

    def of_an_object(x: Any) -> Any:
        return x * layer.in_features

    layer = torch.nn.Linear(2, 2)

    for function, words in (
        (an_if, "an_if cannot be an epilogue: it asks whether a value holds.*`epilogue.where"),
        (pythons, "it asks whether a value holds"),
        (of_math, "it makes a Python number of a value"),
        (of_torch, "of_torch cannot be an epilogue: relu"),
        (a_power, "unsupported operand"),
        (an_index, "not subscriptable"),
        (nothing, "it returns NoneType; wanted a number"),
        (a_tensor, "a_tensor cannot be an epilogue: it computes with Tensor"),
        (used_tensor, "used_tensor refers to table, a torch.Tensor; wanted it as an operand, such as"),
        (a_list, "a_list refers to kinds, a builtins.list; wanted a number"),
        (in_place, "it changes a value in place"),
        (a_comparison, "it returns a comparison; wanted a number"),
        (no_condition, "`where` is given a number; wanted a comparison"),
        (of_a_module, "of_a_module refers to dsl, a builtins.module; wanted a number"),
        (of_an_object, "of_an_object refers to layer, a torch.nn"),
        (torch.relu, "is no plain function"),
        (functools.partial(half), "is no plain function"),
        (lambda: 0, "is no function of a sum"),
        (lambda *x: 0, "is no function of a sum"),
        (lambda x, *, y: 0, "is no function of a sum"),
    ):
        with pytest.raises(TypeError, match=words):
            epilogue.function(function)


def test_what_is_given_to_it_is_checked() -> None:
    with pytest.raises(TypeError, match="leaky was given 0 operands; wanted operands shift"):
        leaky()
    with pytest.raises(TypeError, match="many was given 1 operands; wanted no operand"):
        many(3)
    with pytest.raises(TypeError, match=r"leaky was given a tensor; wanted .*`epilogue.per_column"):
        leaky(BIAS)
    with pytest.raises(TypeError, match=r"leaky was given a builtins.str"):
        leaky("1")
    with pytest.raises(ValueError, match="approximate is 'fast'"):
        epilogue.gelu("fast")
    with pytest.raises(TypeError):
        epilogue.relu() | torch.relu  # type: ignore[operator]


def made_with(factor: float) -> epilogue.Epilogue:
    @epilogue.function
    def scaled(x: Any) -> Any:
        return factor * x

    return scaled()


def test_a_kernel_is_told_by_code_and_by_what_it_closes_over() -> None:
    assert made_with(2.0).key == made_with(2.0).key
    assert made_with(2.0).key != made_with(3.0).key
    assert epilogue.alpha(2.0).key == epilogue.alpha(3.0).key
    assert epilogue.alpha(2.0).key != epilogue.alpha(BIAS[:1]).key
    assert epilogue.bias(BIAS).key == epilogue.bias(BIAS.clone()).key != epilogue.bias(BIAS.half()).key
    assert (epilogue.relu() | epilogue.silu()).key != (epilogue.silu() | epilogue.relu()).key
    assert epilogue.accumulate().key != epilogue.residual(OTHER).key


def test_all_that_shapes_the_code_is_in_its_key() -> None:
    def made(factor: Any, **more: Any) -> Any:
        pair = (factor, 1.0)

        def helper(y: Any, *, k: Any = factor) -> Any:
            return y * k

        @epilogue.function
        def of_helper(x: Any) -> Any:
            return helper(x)

        @epilogue.function
        def nested(x: Any) -> Any:
            return (lambda y: y * SLOPE)(x)

        @epilogue.function
        def of_tuple(x: Any) -> Any:
            return x * pair[0] + pair[1]

        return of_helper().key, nested().key, of_tuple().key

    one, two = made(1.0), made(2.0)
    assert one[0] != two[0]
    assert one[1] == two[1]
    assert one[2] != two[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "SLOPE", 0.5)
        assert made(1.0)[1] != one[1]
    assert made(0.0)[0] != made(-0.0)[0]


def test_numbers_may_be_operands_of_any_function() -> None:
    @epilogue.function
    def of_numbers(x: Any, a: Any, b: Any) -> Any:
        y = x * epilogue.exp(a) + epilogue.maximum(a, b) * epilogue.sqrt(4.0)
        return epilogue.where(a > 0, y, -y) + epilogue.where(SLOPE > 0, 1.0, 0.0)

    @epilogue.function
    def constant(x: Any) -> Any:
        return 1.5

    @epilogue.function
    def sign(x: Any) -> Any:
        return epilogue.where(x > 0, 1, 0)

    want = SUMS * math.exp(0.5) + 2 * 2.0 + 1
    got = fp8_gemm_nt(LHS, RHS, out_dtype=torch.float32, epilogue=of_numbers(0.5, 2.0))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-5)
    assert (fp8_gemm_nt(LHS, RHS, epilogue=constant()) == 1.5).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_default_dtype", lambda: torch.float64)
        got = fp8_gemm_nt(LHS, RHS, out_dtype=torch.float32, epilogue=sign())
    assert torch.equal(got, (SUMS > 0).float())


def test_an_operand_is_left_as_it_was() -> None:
    before = BIAS.clone()
    fp8_gemm_nt(LHS, RHS, epilogue=epilogue.bias(BIAS) | epilogue.relu() | epilogue.residual(OTHER))
    assert torch.equal(BIAS, before)


def test_a_global_number_counts() -> None:
    before = leaky(1.0).key
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "SLOPE", 0.5)
        assert leaky(1.0).key != before
    assert leaky(1.0).key == before


# In the DSL


class OnTheHost:
    """Applies what a kernel applies, to numbers of the CPU's."""

    def __init__(self, made: epilogue.Epilogue) -> None:
        self.value = FunctionValue(made.applied.stages)

    @cute.jit
    def __call__(self, sums: cute.Tensor, results: cute.Tensor, operand: Float32):
        for i in range(sums.shape[0]):
            results[i] = self.value.applied(sums[i], [operand] * self.value.tensors)


# Approximations are PTX's, which no CPU has.
@pytest.mark.parametrize("name", ["alpha", "relu", "bias", "one's own"])
def test_the_dsl_computes_the_same(name: str) -> None:
    made, _ = CASES[name]
    x = torch.cat([torch.linspace(-9, 9, 4001), torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])])
    vector = dsl.make_fake_tensor(
        Float32, (cute.sym_int32(),), (1,), memspace=cute.AddressSpace.generic, assumed_align=4
    )
    compute = cute.compile(OnTheHost(made), vector, vector, cutlass.Float32(0), options="--enable-tvm-ffi")
    found, operand = torch.empty_like(x), 0.3
    compute(x, found, operand)
    for stage in made.stages:
        x = stage.function(x, *(torch.tensor(operand) for _ in stage.operands))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6, equal_nan=True)
