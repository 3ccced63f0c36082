"""Compiled calls with an epilogue on a GPU: the bits of eager ones, by the same kernels; in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tensors import bits
from test_library import CASES, Case, N
from torch import Tensor

import cute_gemm
from cute_gemm import epilogue, moe, testing
from cute_gemm.runtime import epilogued, launcher

COLUMNS = N // 32 * 32
"""As many as an epilogue that opens a gate and quantises takes."""


@epilogue.function
def leaky(x: Any, weight: Any) -> Any:
    return epilogue.where(x > 0, x, 0.25 * x) * weight


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    launcher.forget()
    yield
    torch._dynamo.reset()


def plain(case: Case) -> Callable[..., tuple[Tensor, ...]]:
    """A caller that adds a bias, and adds to what a result held."""
    bias = torch.randn(N, device="cuda")

    def call(a: Tensor, sa: Tensor, out: Tensor) -> tuple[Tensor, ...]:
        made = case.call(a, sa, epilogue=epilogue.bias_silu(bias).then(leaky(2.0)), out_dtype=torch.float32)
        case.call(a, sa, out, epilogue=epilogue.alpha(0.5).then(epilogue.accumulate()))
        return made * 2, out

    return call


def assert_same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], rows: Tensor) -> None:
    for x, y in zip(found, wanted, strict=True):
        assert (x.shape, x.stride(), x.dtype, x.device) == (y.shape, y.stride(), y.dtype, y.device)
        assert torch.equal(bits(x[rows]), bits(y[rows]))


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_call_gives_the_bits_of_an_eager_one(case: Case, backend: str, is_warm: bool) -> None:
    call = plain(case)
    shape = (*case.a.shape[:-1], N)
    first = torch.randn(shape, device="cuda").bfloat16()
    wanted = call(case.a, case.sa, first.clone())
    if not is_warm:
        launcher.forget()
    run = torch.compile(call, backend=backend, fullgraph=True)
    for _ in range(2):
        assert_same(run(case.a, case.sa, first.clone()), wanted, case.rows)


@pytest.mark.parametrize("layout", ["dense", "offsets"])
def test_a_compiled_call_takes_the_fast_path_of_an_eager_one(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[layout]()
    call = plain(case)
    out = torch.zeros(*case.a.shape[:-1], N, dtype=torch.bfloat16, device="cuda")
    run = torch.compile(call, backend="eager", fullgraph=True)
    for _ in range(2):
        run(case.a, case.sa, out)
    monkeypatch.setattr(epilogued, "launch", None)
    run(case.a, case.sa, out)


@pytest.mark.parametrize("m_major_scales", [False, True])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_pair_has_the_bits_of_an_eager_one(backend: str, m_major_scales: bool) -> None:
    (a, sa), rhs = testing.make_inputs(133, COLUMNS, 400, device="cuda")

    def call(a: Tensor, sa: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        quantized = epilogue.quantize_1x128(m_major_scales=m_major_scales)
        made = cute_gemm.fp8_gemm_nt((a, sa), rhs, epilogue=epilogue.swiglu(2.0).then(quantized))
        given = cute_gemm.fp8_gemm_nt((a, sa), rhs, (q, None), epilogue=epilogue.relu().then(quantized))
        return *made, *given

    def room() -> Tensor:
        return torch.zeros(133, COLUMNS, device="cuda").to(torch.float8_e4m3fn)

    rows = torch.ones(133, dtype=torch.bool, device="cuda")
    run = torch.compile(call, backend=backend, fullgraph=True)
    assert_same(run(a, sa, room()), call(a, sa, room()), rows)


def test_a_layer_is_one_graph_for_any_number_of_tokens_and_replays() -> None:
    experts, middle, k, n = 4, 256, 512, 384
    both = (torch.randn(experts, middle, k, device="cuda").bfloat16() for _ in range(2))
    gate_up = cute_gemm.quantize_128x128(cute_gemm.interleave_gate_up(*both))
    down = cute_gemm.quantize_128x128(torch.randn(experts, n, middle, device="cuda").bfloat16())
    shared = tuple((q[0], s[0]) for q, s in (gate_up, down))

    def layer(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return moe.expert_layer(x, gate_up, down, ids, weights, shared=shared)

    def tokens(count: int) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.randint(-1, experts, (count, 2), dtype=torch.int32, device="cuda")
        x = torch.randn(count, k, device="cuda").bfloat16()
        return x, ids, torch.rand(count, 2, device="cuda")

    run = torch.compile(layer, fullgraph=True, dynamic=True)
    for count in (64, 3, 500):
        given = tokens(count)
        with torch._dynamo.config.patch(error_on_recompile=count != 64):
            assert torch.equal(run(*given), layer(*given))
    torch._dynamo.reset()
    replayed = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for _ in range(5):
        given = tokens(64)
        torch.compiler.cudagraph_mark_step_begin()
        assert torch.equal(replayed(*given).clone(), layer(*given))
