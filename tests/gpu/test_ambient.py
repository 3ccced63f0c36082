"""What is set around a call changes no bit that a kernel writes, by either path; derivatives are refused."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from restoring import restored
from torch import Tensor
from torch.autograd import forward_ad

import cute_gemm
from cute_gemm import testing
from cute_gemm.runtime import launcher

DEVICE = "cuda"
N, K = 264, 400
Tensors = dict[str, Tensor]


def grouped(
    operation: str, inputs: testing.GroupedInputs, *count: int
) -> tuple[Callable[..., Tensor], Tensors]:
    rows = inputs.row_groups >= 0
    product = getattr(cute_gemm, f"m_grouped_fp8_gemm_nt_{operation}")
    named = {"alignment": count[0]} if operation == "offsets" else {}

    def call(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor | None = None) -> Tensor:
        positional = () if named else count
        return product((a, sa), (b, sb), inputs.index, *positional, out=out, **named)[rows]

    return call, dict(zip(("a", "sa", "b", "sb"), (*inputs.lhs, *inputs.rhs), strict=True))


def dense() -> tuple[Callable[..., Tensor], Tensors]:
    (a, sa), (b, sb) = testing.make_inputs(133, N, K, device=DEVICE)

    def call(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor | None = None) -> Tensor:
        return cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out)

    return call, {"a": a, "sa": sa, "b": b, "sb": sb}


CASES: dict[str, Callable[[], tuple[Callable[..., Tensor], Tensors]]] = {
    "dense": dense,
    "contiguous": lambda: grouped(
        "contiguous", testing.make_contiguous_inputs([3, 0, 130], N, K, device=DEVICE)
    ),
    "offsets": lambda: grouped(
        "offsets", testing.make_offsets_inputs([3, 0, 130], N, K, device=DEVICE, alignment=2), 2
    ),
    "masked": lambda: grouped(
        "masked", testing.make_masked_inputs([3, 0, 130], 140, N, K, device=DEVICE), 50
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], Tensors]:
    return request.param()


def tf32(value: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = value


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast fp16": lambda: torch.autocast(DEVICE, torch.float16),
    "autocast bf16": lambda: torch.autocast(DEVICE, torch.bfloat16),
    "default dtype fp64": lambda: restored(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default device": lambda: restored(lambda: None, torch.set_default_device, "meta"),
    "precision medium": lambda: restored(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "TF32": lambda: restored(lambda: torch.backends.cuda.matmul.allow_tf32, tf32, True),
    "deterministic": lambda: restored(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "forward-mode AD": forward_ad.dual_level,
}


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_changes_no_bit(
    case: tuple[Callable[..., Tensor], Tensors],
    state: Callable[[], AbstractContextManager[Any]],
    is_warm: bool,
) -> None:
    call, tensors = case
    wanted = call(**tensors)
    if not is_warm:
        launcher.forget()
    with state():
        found = call(**tensors)
    assert (found.dtype, found.device) == (torch.bfloat16, wanted.device)
    assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))


def total(x: Tensor) -> Tensor:
    return x.float().sum()


@pytest.mark.parametrize("name", ["sa", "sb"])
def test_derivatives_are_refused_though_a_kernel_was_launched_before(
    case: tuple[Callable[..., Tensor], Tensors], name: str
) -> None:
    call, tensors = case
    call(**tensors)
    x = tensors[name]
    with pytest.raises(ValueError, match=f"^{name} requires a gradient"):
        call(**tensors | {name: x.clone().requires_grad_()})
    with forward_ad.dual_level(), pytest.raises(ValueError, match=f"^{name} carries a tangent"):
        call(**tensors | {name: forward_ad.make_dual(x, x.clone())})
    with pytest.raises(ValueError, match=f"^{name} .* a transform "):
        torch.func.vmap(lambda s: total(call(**tensors | {name: s})))(x[None])
    with pytest.raises(ValueError, match=f"^{name} requires a gradient"):
        torch.func.grad(lambda s: total(call(**tensors | {name: s})))(x)


def test_a_compiled_caller_gets_the_same_bits(case: tuple[Callable[..., Tensor], Tensors]) -> None:
    call, tensors = case
    wanted = call(**tensors)
    torch._dynamo.reset()
    found = torch.compile(lambda tensors: call(**tensors), backend="eager")(tensors)
    assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))
