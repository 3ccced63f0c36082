"""Compiled calls on a GPU: the bits of eager ones, by the kernels that those take, and in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from tensors import bits
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode

import cute_gemm
from cute_gemm import testing
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.runtime import launcher

N, K = 264, 400


class Case(NamedTuple):
    """An operation, its operands, and the rows that it writes."""

    call: Callable[..., Tensor]
    a: Tensor
    sa: Tensor
    rows: Tensor


def dense(m: int = 133) -> Case:
    (a, sa), rhs = testing.make_inputs(m, N, K, device="cuda")

    def call(a: Tensor, sa: Tensor, out: Tensor | None = None, **options: object) -> Tensor:
        return cute_gemm.fp8_gemm_nt((a, sa), rhs, out, **options)

    return Case(call, a, sa, torch.ones(m, dtype=torch.bool, device="cuda"))


def grouped(layout: str, inputs: testing.GroupedInputs, **count: int) -> Case:
    operation = getattr(cute_gemm, f"m_grouped_fp8_gemm_nt_{layout}")

    def call(a: Tensor, sa: Tensor, out: Tensor | None = None, **options: object) -> Tensor:
        return operation((a, sa), inputs.rhs, inputs.index, out=out, **count, **options)

    return Case(call, *inputs.lhs, inputs.row_groups >= 0)


CASES: dict[str, Callable[[], Case]] = {
    "dense": dense,
    "contiguous": lambda: grouped(
        "contiguous", testing.make_contiguous_inputs([3, 0, 130], N, K, device="cuda")
    ),
    "offsets": lambda: grouped(
        "offsets", testing.make_offsets_inputs([3, 0, 130], N, K, device="cuda", alignment=2), alignment=2
    ),
    "masked": lambda: grouped(
        "masked", testing.make_masked_inputs([3, 0, 130], 140, N, K, device="cuda"), expected_rows=50
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    launcher.forget()
    yield
    torch._dynamo.reset()


def assert_same(found: Tensor, wanted: Tensor, rows: Tensor) -> None:
    assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)
    assert torch.equal(bits(found[rows]), bits(wanted[rows]))


def test_every_layout_has_a_case() -> None:
    assert CASES.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_call_gives_the_bits_of_an_eager_one(case: Case, backend: str, is_warm: bool) -> None:
    wanted = case.call(case.a, case.sa)
    wanted_wide = case.call(case.a, case.sa, out_dtype=torch.float32)
    if not is_warm:
        launcher.forget()

    def caller(a: Tensor, sa: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = case.call(a, sa, out_dtype=torch.float32)
        return case.call(a, sa), wide * 2, case.call(a, sa, out)

    run = torch.compile(caller, backend=backend, fullgraph=True)
    for _ in range(2):
        out = torch.full_like(wanted, torch.nan)
        made, doubled, returned = run(case.a, case.sa, out)
        assert returned is out
        assert_same(made, wanted, case.rows)
        assert_same(out, wanted, case.rows)
        assert_same(doubled, wanted_wide * 2, case.rows)
        assert out[~case.rows].isnan().all()


def test_inductor_hands_m_major_scales_to_the_kernels_that_take_them(case: Case) -> None:
    def caller(a: Tensor, sa: Tensor) -> Tensor:
        return case.call(a, cute_gemm.m_major(sa * 2.0))

    wanted = caller(case.a, case.sa)
    keys = set(launcher._launches)
    launcher.forget()
    found = torch.compile(caller, fullgraph=True)(case.a, case.sa)
    assert_same(found, wanted, case.rows)
    assert set(launcher._launches) == keys


def test_compiled_calls_replay_in_a_graph(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    launch = launcher.launch

    def counted(*arguments: object, **named: object) -> Tensor | None:
        # Arguments that were kept would keep memory of the graph's.
        calls.append(None)
        return launch(*arguments, **named)

    monkeypatch.setattr(launcher, "launch", counted)

    def caller(a: Tensor, sa: Tensor) -> Tensor:
        return torch.relu(case.call(a, sa * 0.5)) + 1.0

    run = torch.compile(caller, mode="reduce-overhead", fullgraph=True)
    launched = []
    for step in range(6):
        sa = case.sa * (1 + step)
        torch.compiler.cudagraph_mark_step_begin()
        found = run(case.a, sa).clone()
        launched.append(len(calls))
        assert_same(found, caller(case.a, sa), case.rows)
        calls.clear()
    # Warm-up and capture call; replays do not.
    assert launched[0]
    assert launched[-3:] == [0, 0, 0]


def test_settings_inside_and_around_reach_the_launch(case: Case) -> None:
    def caller(a: Tensor, sa: Tensor) -> tuple[Tensor, Tensor]:
        with cute_gemm.config(num_sms=40):
            inside = case.call(a, sa)
        return inside, case.call(a, sa)

    wanted = caller(case.a, case.sa)
    run = torch.compile(caller, backend="eager", fullgraph=True)
    for scope in ({}, {"pdl": True}, {"num_sms": 30, "batch_invariant": True}):
        with cute_gemm.config(**scope):
            launcher.forget()
            caller(case.a, case.sa)
            keys = set(launcher._launches)
            launcher.forget()
            found = run(case.a, case.sa)
            assert set(launcher._launches) == keys
        if not scope:
            for x, y in zip(found, wanted, strict=True):
                assert_same(x, y, case.rows)


def test_a_new_m_compiles_nothing_anew() -> None:
    counter = CompileCounterWithBackend("inductor")
    (_, _), rhs = testing.make_inputs(1, N, K, device="cuda")

    def caller(a: Tensor, sa: Tensor) -> Tensor:
        return cute_gemm.fp8_gemm_nt((a, sa), rhs) * 2

    run = torch.compile(caller, backend=counter, fullgraph=True, dynamic=True)
    for m in (133, 7, 64, 4096, 2):
        (a, sa), _ = testing.make_inputs(m, 8, K, device="cuda")
        assert torch.equal(bits(run(a, sa)), bits(caller(a, sa)))
    assert counter.frame_count == 1


def test_a_gradient_is_refused_where_code_is_compiled(case: Case) -> None:
    run = torch.compile(case.call, backend="eager")
    with pytest.raises(ValueError, match=r"^sa requires a gradient"):
        run(case.a, case.sa.clone().requires_grad_())


def test_fake_tensors_launch_nothing() -> None:
    (a, sa), (b, sb) = testing.make_inputs(133, N, K, device="cuda")
    cute_gemm.fp8_gemm_nt((a, sa), (b, sb))
    allocated = torch.cuda.memory_allocated()
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in (a, sa, b, sb)]
        result = cute_gemm.fp8_gemm_nt((fakes[0], fakes[1]), (fakes[2], fakes[3]))
    assert (result.shape, result.dtype, result.device) == ((133, N), torch.bfloat16, a.device)
    assert torch.cuda.memory_allocated() == allocated
